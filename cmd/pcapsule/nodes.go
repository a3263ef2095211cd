package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"pcapsule/internal/api"
)

func nodesCommand() *cli.Command {
	return &cli.Command{
		Name:      "nodes",
		Usage:     "list the nodes that record, and what keeps them from it",
		UsageText: "pcapsule nodes [-o json]",
		Description: `Says of each node when its agent last reported, how far back its ring reaches,
which interfaces it records, and what it warns of now.

   pcapsule nodes
   pcapsule nodes -o json`,
		Flags:  flags([]cli.Flag{outputFlag()}, connectFlags()),
		Action: nodes,
	}
}

func nodes(c *cli.Context) error {
	if c.NArg() > 0 {
		return usagef("nodes takes no argument, not %q", c.Args().First())
	}
	client, err := openHub(c)
	if err != nil {
		return err
	}
	list, err := client.Nodes(c.Context)
	if err != nil {
		return err
	}
	switch {
	case wantsJSON(c):
		if list == nil {
			list = []api.Node{}
		}
		return writeJSON(c.App.Writer, list)
	case len(list) == 0:
		fmt.Fprintln(c.App.ErrWriter, "no agent has reported to this hub yet: start one with `pcapsule agent`, or use `pcapsule up`")
		return nil
	}
	return writeNodes(c.App.Writer, list, time.Now())
}

func writeNodes(w io.Writer, list []api.Node, now time.Time) error {
	rows := [][]string{{"NODE", "STATE", "LAST SEEN", "OLDEST PACKET", "RING", "DROPS", "WARNINGS", "INTERFACES"}}
	var warnings []string
	for _, n := range list {
		state := "live"
		if !n.Live {
			state = "silent"
		}
		oldest := "-"
		if !n.Ring.Oldest.IsZero() {
			oldest = fmt.Sprintf("%s (%s)", stamp(n.Ring.Oldest), roundSpan(max(0, now.Sub(n.Ring.Oldest))))
		}
		warned := "-"
		if len(n.Warnings) > 0 {
			warned = humanize.Comma(int64(len(n.Warnings)))
		}
		rows = append(rows, []string{
			n.Name, state, stamp(n.LastSeen), oldest, size(n.Ring.Used) + " of " + size(n.Ring.Limit),
			humanize.Comma(int64(n.Ring.Drops)), warned, interfaceStates(n.Interfaces),
		})
		for _, text := range n.Warnings {
			when := ""
			if !n.Live {
				when = " when it was last heard of"
			}
			warnings = append(warnings, "node "+n.Name+when+": "+text)
		}
	}
	if err := writeTable(w, rows...); err != nil {
		return err
	}
	if len(warnings) > 0 {
		fmt.Fprintln(w)
	}
	for _, text := range warnings {
		if _, err := fmt.Fprintln(w, oneLine(text)); err != nil {
			return err
		}
	}
	return nil
}

// maxShown is how many interfaces of a node a table names.
const maxShown = 8

// interfaceStates names interfaces, those first that are not up.
func interfaceStates(list []api.Interface) string {
	var names []string
	for _, wanted := range []func(string) bool{
		func(s string) bool { return s == api.InterfaceGone },
		func(s string) bool { return s == api.InterfaceDown },
		func(s string) bool { return s != api.InterfaceGone && s != api.InterfaceDown },
	} {
		for _, i := range list {
			if !wanted(i.State) {
				continue
			}
			name := i.Name
			if i.State != "" && i.State != api.InterfaceUp {
				name += " (" + i.State + ")"
			}
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "-"
	}
	if n := len(names) - maxShown; n > 0 {
		names = append(slices.Clone(names[:maxShown]), fmt.Sprintf("and %d more", n))
	}
	return strings.Join(names, ", ")
}
