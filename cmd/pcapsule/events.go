package main

import (
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"pcapsule/archive"
	"pcapsule/cluster"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/pcapgen"
)

func eventsCommand() *cli.Command {
	return &cli.Command{
		Name:      "events",
		Usage:     "list what happened in the Kubernetes cluster of a snapshot",
		UsageText: "pcapsule snapshot events REF [--namespace NAME]... [--pod NAMESPACE/NAME]...",
		Description: `The events that Kubernetes reported, and the lives of pods and their containers,
in order of time (the hub's; see docs/names.md). With -o json: the records
themselves, a line each, as cluster/FORMAT.md describes them.

   pcapsule snapshot events outage
   pcapsule snapshot events outage --namespace shop --from 14:32:00 --to 14:33:00
   pcapsule snapshot events outage --pod 'shop/db-*' --store outage.tar
   pcapsule snapshot events outage -o json | jq -r 'select(.event) | .event.message'`,
		Flags: flags([]cli.Flag{
			&cli.StringSliceFlag{Name: "namespace", Usage: "only what is in namespace `NAME`; may be repeated, * stands for any characters"},
			&cli.StringSliceFlag{Name: "pod", Usage: "only what is about the pod `NAMESPACE/NAME`, or NAME in any namespace; may be repeated, * stands for any characters"},
			&cli.StringFlag{Name: "from", Usage: "only from `TIME` on: RFC 3339, or 14:32 on the day of the snapshot"},
			&cli.StringFlag{Name: "to", Usage: "only before `TIME`"},
			outputFlag(),
		}, takeFlags(), targetFlags()),
		BashComplete: completeSnapshots,
		Action:       events,
	}
}

func events(c *cli.Context) error {
	ref, err := argument(c, "snapshot")
	if err != nil {
		return err
	}
	snap, src, err := openSnapshot(c, ref)
	if err != nil {
		return err
	}
	if snap == nil {
		return nil // still being made; openSnapshot printed it
	}
	if err := accept(c, snap); err != nil {
		return err
	}
	asked, err := timeRange(c, func() (manifest.Interval, error) { return snap.Manifest.Window, nil })
	if err != nil {
		return err
	}
	span := asked.Of(snap.Manifest.Window)
	from, to := int64(span.From), int64(span.To)
	about, err := aboutOf(c)
	if err != nil {
		return err
	}
	if wantsJSON(c) {
		return writeRecords(c, src, from, to, about)
	}
	t, err := pcapgen.KubernetesTable(c.Context, src, from, to)
	if err != nil {
		return err
	}
	shown, err := writeNotes(c.App.Writer, t, about)
	if err == nil && shown == 0 {
		fmt.Fprintf(c.App.ErrWriter, "pcapsule: no events from %s to %s that are about what was asked for\n", exact(span.From.Time()), exact(span.To.Time()))
	}
	return err
}

// openSnapshot finds a snapshot in a store or at a hub, to read what it holds. Of
// one that is still being made it prints the state and returns nil.
func openSnapshot(c *cli.Context, ref string) (*archive.Snapshot, pcapgen.Source, error) {
	var a *archive.Archive
	var snap *archive.Snapshot
	var err error
	if hasStore(c) {
		if a, snap, err = findStored(c, ref); err != nil {
			return nil, pcapgen.Source{}, err
		}
	} else {
		client, err := openHub(c)
		if err != nil {
			return nil, pcapgen.Source{}, err
		}
		s, err := client.Snapshot(c.Context, ref)
		if err != nil {
			return nil, pcapgen.Source{}, err
		}
		if s.Status == api.Creating || s.Status == api.Dead || s.Status == api.Failed {
			return nil, pcapgen.Source{}, printSnapshot(c, s)
		}
		a = hubArchive(client)
		if snap, err = a.Load(c.Context, s.ID); err != nil {
			return nil, pcapgen.Source{}, err
		}
	}
	return snap, pcapgen.Source{Manifest: snap.Manifest, Store: a.Store(), Inventory: snap.Inventory}, nil
}

// aboutOf tells of an object whether --namespace and --pod want it.
func aboutOf(c *cli.Context) (func(cluster.Ref) bool, error) {
	namespaces, pods := c.StringSlice("namespace"), c.StringSlice("pod")
	for _, p := range append(append([]string(nil), namespaces...), pods...) {
		if _, err := path.Match(p, ""); err != nil {
			return nil, usagef("%q is no name", p)
		}
	}
	matches := func(patterns []string, name func(pattern string) string) bool {
		for _, p := range patterns {
			if ok, _ := path.Match(p, name(p)); ok {
				return true
			}
		}
		return len(patterns) == 0
	}
	return func(r cluster.Ref) bool {
		inNamespace := matches(namespaces, func(string) string {
			if r.Kind == cluster.KindNamespace {
				return r.Name
			}
			return r.Namespace
		})
		isPod := matches(pods, func(pattern string) string {
			if strings.Contains(pattern, "/") {
				return r.Path()
			}
			return r.Name
		})
		return inNamespace && isPod && (len(pods) == 0 || r.Kind == cluster.KindPod)
	}, nil
}

// writeNotes writes a table of what happened, and tells how much that is.
func writeNotes(w io.Writer, t *cluster.Table, about func(cluster.Ref) bool) (shown int, err error) {
	rows := [][]string{{"TIME", "TYPE", "REASON", "OBJECT", "MESSAGE"}}
	notes, lost := t.Notes()
	for i := range notes {
		n := &notes[i]
		if !about(n.About) {
			continue
		}
		kind := "Normal"
		if n.Warning {
			kind = "Warning"
		}
		message := n.Message
		if n.Count > 1 {
			message += " (x" + strconv.Itoa(n.Count) + ")"
		}
		rows = append(rows, []string{
			exact(manifest.Nanos(n.Time).Time()), kind, n.Reason, strings.ToLower(n.About.Kind) + " " + n.About.Path(), message,
		})
	}
	if err := writeTable(w, rows...); err != nil {
		return 0, err
	}
	if lost > 0 {
		_, err = fmt.Fprintf(w, "and %s more: choose a part with --from and --to\n", count(lost, "event"))
	}
	return len(rows) - 1 + lost, err
}

// writeRecords writes what changed and what was reported, as it was recorded. What
// a recorder knew when it began a chunk is left out.
func writeRecords(c *cli.Context, src pcapgen.Source, from, to int64, about func(cluster.Ref) bool) error {
	var clock manifest.Clock
	seen := map[string]bool{} // events: a second recorder tells them again
	return pcapgen.KubernetesLines(c.Context, src, nil, func(at int64, line []byte) error {
		r, err := cluster.Decode(line)
		if err != nil {
			return err
		}
		of := cluster.Ref{}
		switch {
		case r.Op == cluster.OpKeyframe:
			clock = r.Keyframe.Clock
			return nil
		case r.Op == cluster.OpEvent:
			of = r.Event.About
			key := fmt.Sprint(r.Event.UID, " ", r.Event.Count, " ", int64(manifest.NanosOf(r.Event.Last)))
			if seen[key] {
				return nil
			}
			seen[key] = true
		case r.Op == cluster.OpSet || r.Op == cluster.OpGone:
			if of = r.Ref(); of.Kind == "" {
				return nil
			}
		case r.Op == cluster.OpGap && len(c.StringSlice("namespace"))+len(c.StringSlice("pod")) == 0:
		default:
			return nil
		}
		if hub := cluster.HubTime(clock, at); hub < from || hub >= to || of.Kind != "" && !about(of) {
			return nil
		}
		_, err = c.App.Writer.Write(append(line[:len(line):len(line)], '\n'))
		return err
	})
}
