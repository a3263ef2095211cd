package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"pcapsule/archive"
	"pcapsule/chunker"
	"pcapsule/manifest"
)

// A captured is what some nodes were told to record, all in the same time.
type captured struct {
	manifest.Capture
	whole bool // of the window
	nodes []string
}

// captures are what the nodes of a snapshot were told to record, alike ones
// together.
func captures(m *manifest.Manifest) (list []*captured) {
	for _, n := range m.Nodes {
		w := n.Clock.Window(m.Window)
		for _, c := range n.Capture {
			next := &captured{Capture: c, whole: c.From <= w.From && c.To >= w.To}
			i := slices.IndexFunc(list, func(o *captured) bool {
				return o.Equal(c.Selection) && (o.whole && next.whole || o.From == c.From && o.To == c.To)
			})
			if i < 0 {
				list = append(list, next)
			} else {
				next = list[i]
			}
			if !slices.Contains(next.nodes, n.Name) {
				next.nodes = append(next.nodes, n.Name)
			}
		}
	}
	return list
}

// writeSelections says what was to be recorded, and what was left out on purpose.
func writeSelections(w io.Writer, m *manifest.Manifest) error {
	list := captures(m)
	if len(list) == 0 {
		return nil
	}
	rows := [][]string{{"TO BE RECORDED", "PODS", "FILTER", "FROM", "TO", "NODES"}}
	excluded := map[string][]string{} // nodes, by what is left out
	var order []string
	for _, c := range list {
		what, pods, filter, from, to := "all interfaces", "-", "-", "the window", ""
		if len(c.Interfaces) > 0 {
			what = strings.Join(firsts(c.Interfaces), ", ")
		}
		if c.Targets != nil {
			pods = podsOf(*c.Targets)
		}
		if c.Filter != "" {
			filter = c.Filter
		}
		if c.Abridged {
			what += " (abridged)"
		}
		if !c.whole {
			from, to = exact(c.From.Time()), exact(c.To.Time())
		}
		rows = append(rows, []string{what, pods, filter, from, to, strings.Join(firsts(c.nodes), ", ")})
		for _, text := range c.Excluded {
			if excluded[text] == nil {
				order = append(order, text)
			}
			for _, name := range c.nodes {
				if !slices.Contains(excluded[text], name) {
					excluded[text] = append(excluded[text], name)
				}
			}
		}
	}
	fmt.Fprintln(w)
	if err := writeTable(w, rows...); err != nil {
		return err
	}
	all := 0
	for _, n := range m.Nodes {
		if len(n.Capture) > 0 {
			all++
		}
	}
	for _, text := range order {
		of := ""
		if len(excluded[text]) < all {
			of = " (" + strings.Join(firsts(excluded[text]), ", ") + ")"
		}
		if _, err := fmt.Fprintln(w, oneLine("left out on purpose: "+text+of)); err != nil {
			return err
		}
	}
	return nil
}

// podsOf says for people which pods are targets.
func podsOf(t manifest.Targets) string {
	var parts []string
	if t.Regex != "" {
		parts = append(parts, "named "+t.Regex)
	}
	if len(t.Namespaces) > 0 {
		parts = append(parts, "in "+strings.Join(firsts(t.Namespaces), ", "))
	}
	if len(t.Excluded) > 0 {
		parts = append(parts, "not in "+strings.Join(firsts(t.Excluded), ", "))
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, ", ")
}

// firsts are the first of many names.
func firsts(names []string) []string {
	if n := len(names) - maxShown; n > 0 {
		return append(slices.Clone(names[:maxShown]), fmt.Sprintf("and %d more", n))
	}
	return names
}

// maxEstimated is of how many streams inventories are read to tell how much of
// them is in the window.
const maxEstimated = 32

// packetsText is how many packets a snapshot's chunks hold, and how many of those
// are in its window.
func packetsText(ctx context.Context, s *archive.Snapshot, records uint64) string {
	text := humanize.Comma(int64(records))
	within, known, err := estimate(ctx, s)
	switch {
	case err != nil || !known:
		return text + " in whole chunks, which may reach beyond the window"
	case within == records:
		return text
	default:
		return fmt.Sprintf("%s in whole chunks, about %s of them in the window", text, humanize.Comma(int64(within)))
	}
}

// estimate is how many packets of a snapshot lie in its window: those of chunks
// that lie in it whole, and of each other one as much as of its time does. It is
// not known of many streams, which would take long.
func estimate(ctx context.Context, s *archive.Snapshot) (records uint64, known bool, err error) {
	streams := 0
	for _, n := range s.Manifest.Nodes {
		for _, stream := range n.Streams {
			if stream.Stream != chunker.Packets {
				continue
			}
			w := n.Clock.Window(s.Manifest.Window)
			if stream.First >= w.From && stream.Last < w.To {
				records += stream.Records
				continue
			}
			if streams++; streams > maxEstimated {
				return 0, false, nil
			}
			entries, err := s.Inventory(ctx, stream)
			if err != nil {
				return 0, false, err
			}
			for _, e := range entries {
				records += inWindow(e, w)
			}
		}
	}
	return records, true, nil
}

// inWindow is how many of a chunk's packets lie in a window, if they are spread
// evenly.
func inWindow(e manifest.Entry, w manifest.Interval) uint64 {
	from, to := max(e.First, w.From), min(e.Last.Add(1), w.To)
	if from >= to {
		return 0
	}
	share := float64(to-from) / float64(e.Last.Add(1)-e.First)
	return uint64(float64(e.Records)*share + 0.5)
}
