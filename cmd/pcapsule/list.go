package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"pcapsule/archive"
	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store"
)

func listCommand() *cli.Command {
	return &cli.Command{
		Name: "list", Aliases: []string{"ls"},
		Usage:     "list snapshots",
		UsageText: "pcapsule snapshot list [-o json] [--store LOCATION]",
		Description: `A snapshot whose signer you do not trust is marked so; pcap, events and download
refuse it. See ` + "`pcapsule key trust`" + `. SIZE and PACKETS are those of whole chunks; of
a recording, the first and the last of a node may reach beyond the window, and
an export has fewer packets then (` + "`pcapsule snapshot show`" + ` tells about how many).

   pcapsule snapshot list
   pcapsule snapshot list --store s3://forensics/pcapsule
   pcapsule snapshot list --store /mnt/usb/archive -o json`,
		Flags:  flags([]cli.Flag{outputFlag()}, trustFlags(), targetFlags()),
		Action: list,
	}
}

func list(c *cli.Context) error {
	if c.NArg() > 0 {
		return usagef("list takes no argument, not %q: `pcapsule snapshot show` shows one", c.Args().First())
	}
	snaps, strays, err := listSnapshots(c)
	if err != nil {
		return err
	}
	if wantsJSON(c) {
		if snaps == nil {
			snaps = []api.Snapshot{}
		}
		err = writeJSON(c.App.Writer, snaps)
	} else if len(snaps) == 0 && len(strays) > 0 {
		fmt.Fprintln(c.App.ErrWriter, "no snapshots that can be listed")
	} else if len(snaps) == 0 {
		fmt.Fprintln(c.App.ErrWriter, "no snapshots yet: make one with `pcapsule snapshot create NAME --last 5m`")
	} else {
		err = writeSnapshots(c.App.Writer, snaps...)
	}
	if err != nil {
		return err
	}
	const few = 5
	for _, s := range strays[:min(few, len(strays))] {
		fmt.Fprintf(c.App.ErrWriter, "pcapsule: not in the list: %s\n", oneLine(s.Error()))
	}
	if more := len(strays) - few; more > 0 {
		fmt.Fprintf(c.App.ErrWriter, "pcapsule: not in the list: %d more of the kind: `pcapsule verify` names them all\n", more)
	}
	for _, s := range snaps {
		if s.Status == api.Damaged {
			why := "it is damaged"
			if len(s.Reasons) > 0 {
				why = oneLine(strings.TrimPrefix(s.Reasons[0], "snapshot "+s.ID+": "))
			}
			return &codeError{exitVerification, fmt.Errorf("snapshot %s: %s: `pcapsule verify` says all that is wrong", s.ID, why)}
		}
	}
	if len(strays) > 0 {
		return &codeError{code: exitVerification}
	}
	return nil
}

// listSnapshots are those of a store or a hub, also in the making. strays says what
// else is in the store that may be a snapshot; a hub logs that.
func listSnapshots(c *cli.Context) (snaps []api.Snapshot, strays []error, err error) {
	if !hasStore(c) {
		client, err := openHub(c)
		if err != nil {
			return nil, nil, err
		}
		snaps, err := client.Snapshots(c.Context)
		client.markAll(snaps)
		return snaps, nil, err
	}
	a, err := openArchive(c, c.String("store"))
	if err != nil {
		return nil, nil, err
	}
	// Sessions first: one that ends in between is then in the list twice, not missing.
	sessions, err := a.UnderWay(c.Context)
	if store.AsObstacle(err) != nil {
		fmt.Fprintf(c.App.ErrWriter, "pcapsule: warning: sessions under way are not in the list: %s\n", oneLine(err.Error()))
	} else if err != nil {
		return nil, nil, err
	}
	for _, t := range sessions {
		snaps = append(snaps, underWay(t))
	}
	all, strays, err := a.ListAll(c.Context)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range all {
		snaps = slices.DeleteFunc(snaps, func(v api.Snapshot) bool { return v.ID == s.ID })
		v := api.Snapshot{ID: s.ID, Nodes: []string{}}
		if s.Manifest != nil {
			v = api.Of(s.Manifest)
		}
		if s.Err != nil {
			v.Status, v.Reasons = api.Damaged, []string{s.Err.Error()}
		}
		mark(&v, s)
		snaps = append(snaps, v)
	}
	slices.SortStableFunc(snaps, func(a, b api.Snapshot) int { return strings.Compare(a.ID, b.ID) })
	return snaps, strays, nil
}

// underWay is what a list says of a session.
func underWay(t archive.Attempt) api.Snapshot {
	return api.UnderWay(t.ID, t.Name, t.Who(), t.Created, t.Deadline, t.Dead())
}

func showCommand() *cli.Command {
	return &cli.Command{
		Name:      "show",
		Usage:     "show one snapshot: its nodes, interfaces and gaps",
		UsageText: "pcapsule snapshot show REF [-o json]",
		Description: `REF is a snapshot's name or id. With -o json it prints the signed manifest, and
beside its members signer, signer_key, trusted and, where it is not, distrust.

   pcapsule snapshot show outage
   pcapsule snapshot show outage --store outage.tar -o json`,
		Flags:        flags([]cli.Flag{outputFlag()}, trustFlags(), targetFlags()),
		BashComplete: completeSnapshots,
		Action:       show,
	}
}

func show(c *cli.Context) error {
	ref, err := argument(c, "snapshot")
	if err != nil {
		return err
	}
	snap, _, err := openSnapshot(c, ref)
	if err != nil {
		return err
	}
	if snap == nil {
		return nil // still being made; openSnapshot printed it
	}
	shown := api.Of(snap.Manifest)
	mark(&shown, snap)
	if wantsJSON(c) {
		return writeJSON(c.App.Writer, shownManifest{
			snap.Manifest, shown.Signer, shown.SignerKey, shown.SignerOf, shown.Trusted, shown.Distrust,
		})
	}
	return writeManifest(c, snap.Manifest, shown, packetsText(c.Context, snap, shown.Records))
}

// shownManifest is a manifest, and whose signature it has.
type shownManifest struct {
	*manifest.Manifest
	Signer    string `json:"signer"`
	SignerKey string `json:"signer_key"`
	SignerOf  string `json:"signer_of,omitempty"`
	Trusted   *bool  `json:"trusted"`
	Distrust  string `json:"distrust,omitempty"`
}

// signedBy says for people whose signature a snapshot has.
func signedBy(c *cli.Context, s api.Snapshot) string {
	switch {
	case s.Trusted == nil:
		return "-"
	case *s.Trusted && s.SignerOf != "":
		return s.Signer + ", the key of " + s.SignerOf
	case *s.Trusted:
		return s.Signer + ", which you trust"
	}
	way := ""
	if key, err := manifest.ParsePublicKey(s.SignerKey); err == nil {
		way = "; " + wayToTrust(c, key, s.Distrust)
	}
	return s.Signer + ", NOT TRUSTED: " + s.Distrust + way
}

func writeManifest(c *cli.Context, m *manifest.Manifest, shown api.Snapshot, packets string) error {
	w := c.App.Writer
	field := func(k, v string) { fmt.Fprintf(w, "%-10s %s\n", k+":", oneLine(v)) }
	field("name", m.Name)
	field("id", m.ID)
	field("status", m.Status)
	for _, r := range m.Reasons {
		field("missing", r)
	}
	field("signed by", signedBy(c, shown))
	for _, w := range shown.Warnings {
		field("note", w)
	}
	field("window", exact(m.Window.From.Time())+" to "+exact(m.Window.To.Time()))
	field("created", stamp(m.Created.Time())+" by "+m.Creator.Name+" "+m.Creator.Version)
	field("packets", packets)
	field("drops", humanize.Comma(int64(shown.Drops)))
	field("size", fmt.Sprintf("%s in %s (%s before compression)", size(m.Totals.Size), count(m.Totals.Chunks, "chunk"), size(m.Totals.RawSize)))
	fmt.Fprintln(w)
	rows := [][]string{{"NODE", "STATUS", "PACKETS (WHOLE CHUNKS)", "SIZE", "CLOCK", "KERNEL", "INTERFACES"}}
	for _, n := range m.Nodes {
		var t manifest.Totals
		for _, s := range n.Streams {
			if s.Stream == chunker.Packets {
				t.Records += s.Records
			}
			t.Size += s.Size
		}
		var ifs []string
		for _, i := range n.Interfaces {
			ifs = append(ifs, i.Name)
		}
		rows = append(rows, []string{
			n.Name, n.Status, humanize.Comma(int64(t.Records)), size(t.Size),
			fmt.Sprintf("%+.3f ms ± %.3f ms", float64(n.Clock.Offset)/1e6, float64(n.Clock.Error)/1e6),
			n.Versions.Kernel, strings.Join(ifs, ","),
		})
	}
	if err := writeTable(w, rows...); err != nil {
		return err
	}
	if err := writeOrigins(w, m); err != nil {
		return err
	}
	if err := writeCluster(w, m); err != nil {
		return err
	}
	if err := writeSelections(w, m); err != nil {
		return err
	}
	rows = [][]string{{"GAP", "NODE", "FROM", "TO", "COUNT", "DETAIL"}}
	for _, n := range m.Nodes {
		rows = append(rows, gapRows(n.Name, n.Gaps)...)
	}
	rows = append(rows, gapRows("(cluster)", m.Gaps)...)
	if len(rows) == 1 {
		fmt.Fprintln(w, "\nno gaps: nothing of the window is missing")
		return nil
	}
	fmt.Fprintln(w)
	return writeTable(w, rows...)
}

// writeOrigins shows what imported captures said of themselves and of their
// interfaces, if anything.
func writeOrigins(w io.Writer, m *manifest.Manifest) error {
	rows := [][]string{{"CAPTURED ON", "INTERFACE", "AS THE CAPTURE SAYS"}}
	for _, n := range m.Nodes {
		for _, o := range n.Origins {
			says := originSays(o)
			if says == "" && !slices.Contains(n.Interfaces, o.Interface) {
				says = "no packets"
			}
			rows = append(rows, []string{n.Name, o.Name, says})
		}
	}
	if len(rows) == 1 {
		return nil
	}
	fmt.Fprintln(w)
	return writeTable(w, rows...)
}

func originSays(o manifest.Origin) string {
	var says []string
	for _, p := range []struct{ what, text string }{
		{"filter", o.Filter}, {"application", o.Application}, {"os", o.CaptureOS}, {"machine", o.CaptureHardware}, {"comment", o.CaptureComment},
		{"interface's os", o.OS}, {"hardware", o.Hardware}, {"mac", o.MAC}, {"addresses", o.Addresses}, {"bits/s", o.Speed},
		{"interface's comment", o.Comment}, {"ticks of s", o.Resolution},
	} {
		if p.text != "" {
			says = append(says, p.what+": "+p.text)
		}
	}
	return strings.Join(says, ", ")
}

// writeCluster shows the streams of the cluster, if there are any.
func writeCluster(w io.Writer, m *manifest.Manifest) error {
	if len(m.Streams) == 0 {
		if m.Clustered() {
			_, err := fmt.Fprintln(w, "\nnothing of stream kubernetes: exports have no names of pods, and no events")
			return err
		}
		return nil
	}
	rows := [][]string{{"STREAM", "RECORDS", "SIZE", "CHUNKS", "COVERS"}}
	for _, s := range m.Streams {
		covers := "-"
		if s.Stream == chunker.Kubernetes {
			missing := manifest.Nanos(0)
			for _, i := range manifest.Uncovered(m.Window, m.Coverage) {
				missing += i.To - i.From
			}
			covers = "the window"
			if missing > 0 {
				covers = "all but " + time.Duration(missing).Round(time.Millisecond).String()
			}
		}
		rows = append(rows, []string{s.Stream, humanize.Comma(int64(s.Records)), size(s.Size), humanize.Comma(s.Chunks), covers})
	}
	fmt.Fprintln(w)
	return writeTable(w, rows...)
}

func gapRows(of string, gaps []manifest.Gap) (rows [][]string) {
	for _, g := range gaps {
		count := "-"
		if g.Count > 0 {
			count = humanize.Comma(int64(g.Count))
		}
		detail := g.Detail
		if g.Interface != "" {
			detail = strings.TrimSpace(g.Interface + " " + detail)
		}
		rows = append(rows, []string{g.Reason, of, exact(g.From.Time()), exact(g.To.Time()), count, detail})
	}
	return rows
}
