package importer

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

type gapKey struct{ iface, reason, detail string }

// add takes over what a file says beside its packets. Files of one name are told
// of together. Gaps are of the time that the file spans, and where it has no packet
// of none yet: anywhere.
func (n *node) add(f *file) {
	if f.span.packets > 0 {
		n.spans = append(n.spans, f.span)
	}
	for _, g := range f.gaps {
		if g.Reason != manifest.GapClockStep {
			g.From, g.To = anywhere.From, anywhere.To
			if f.span.packets > 0 {
				g.From, g.To = manifest.Nanos(f.span.first), manifest.Nanos(f.span.last)+1
			}
		}
		n.merge(g)
	}
}

// anywhere is the time of a gap that has none yet.
var anywhere = manifest.Interval{From: manifest.MinNanos, To: manifest.MinNanos}

func (n *node) merge(g manifest.Gap) {
	key := gapKey{g.Interface, g.Reason, g.Detail}
	had := n.gaps[key]
	switch {
	case had == nil:
		n.gaps[key] = &g
		return
	case had.To == anywhere.To:
		had.From, had.To = g.From, g.To
	case g.To != anywhere.To:
		had.From, had.To = min(had.From, g.From), max(had.To, g.To)
	}
	had.Count += g.Count
}

// part uploads the inventory of the node's chunks and sums the node up.
func (n *node) part(ctx context.Context, entries []manifest.Entry) (*manifest.Node, error) {
	part := &manifest.Node{
		Name:       n.name,
		Status:     manifest.Completed,
		Versions:   manifest.Versions{Agent: n.opt.Version},
		Coverage:   coverage(n.spans),
		Interfaces: slices.SortedFunc(maps.Keys(n.interfaces), manifest.CompareInterfaces),
		Origins:    slices.SortedFunc(maps.Keys(n.origins), manifest.CompareOrigins),
		Streams:    []manifest.Stream{},
	}
	entries = n.distinct(entries)
	for _, g := range n.gaps {
		if c := part.Coverage; len(c) > 0 && g.To == anywhere.To {
			g.From, g.To = c[0].From, c[0].From
		}
		part.Gaps = append(part.Gaps, *g)
		if g.Reason == manifest.GapTruncated || g.Reason == manifest.GapUnreadable {
			part.Status = manifest.Partial
			part.Reasons = append(part.Reasons, manifest.Clean(reason(g)))
		}
	}
	for i := range part.Coverage[:max(0, len(part.Coverage)-1)] {
		part.Gaps = append(part.Gaps, manifest.Gap{
			Stream: chunker.Packets, Reason: manifest.GapNotImported, From: part.Coverage[i].To, To: part.Coverage[i+1].From,
		})
	}
	slices.SortFunc(part.Gaps, func(a, b manifest.Gap) int {
		return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Detail, b.Detail), cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.From, b.From))
	})
	slices.Sort(part.Reasons)

	inventory := manifest.EncodeInventory(entries)
	key, err := n.opt.Upload(ctx, Object{
		Node: n.name, Kind: manifest.KindInventory, Ext: manifest.InventoryExt,
		Hash: chunker.HashOf(inventory), SHA256: sha256.Sum256(inventory),
		Size: int64(len(inventory)), Body: bytes.NewReader(inventory),
	})
	if err != nil {
		return nil, fmt.Errorf("upload the inventory of node %s: %w", n.name, err)
	}
	stream := manifest.SumInventory(chunker.Packets, entries)
	stream.Inventory, stream.InventorySize = key, int64(len(inventory))
	part.Streams = append(part.Streams, stream)
	return part, nil
}

// reason says for people why a gap makes the node's part partial.
func reason(g *manifest.Gap) string {
	switch {
	case g.Reason == manifest.GapUnreadable:
		return "not imported: " + g.Detail
	case g.Count > 0:
		return fmt.Sprintf("%s (%d lost or cut short)", g.Detail, g.Count)
	}
	return g.Detail
}

// Files of one capture are silent between the last packet of the one and the first
// of the next, no longer than within them: what is longer is a gap. Nobody calls
// less than leastGap one, and everybody more than mostGap.
const (
	leastGap = int64(time.Second)
	mostGap  = int64(time.Minute)
)

// coverage is the times of which files hold something, in order.
func coverage(spans []extent) []manifest.Interval {
	slices.SortFunc(spans, func(a, b extent) int { return cmp.Compare(a.first, b.first) })
	out := []manifest.Interval{}
	var end, silence int64
	for _, s := range spans {
		apart := min(max(leastGap, silence, s.silence), mostGap)
		if n := len(out); n > 0 && s.first-end <= apart {
			end = max(end, s.last)
			out[n-1].To = manifest.Nanos(end) + 1
		} else {
			end = s.last
			out = append(out, manifest.Interval{From: manifest.Nanos(s.first), To: manifest.Nanos(end) + 1})
		}
		silence = s.silence
	}
	return out
}

// distinct leaves out chunks that are there already, byte for byte: of a file
// that was given twice.
func (n *node) distinct(entries []manifest.Entry) []manifest.Entry {
	slices.SortFunc(entries, manifest.Entry.Compare)
	once := slices.CompactFunc(slices.Clone(entries), func(a, b manifest.Entry) bool { return a.Key == b.Key })
	if twice := len(entries) - len(once); twice > 0 {
		n.merge(manifest.Gap{
			Stream: chunker.Packets, Reason: manifest.GapSkipped, From: anywhere.From, To: anywhere.To, Count: uint64(twice),
			Detail: "chunks left out that held the same packets as others: was a file given twice?",
		})
	}
	return once
}

// window is what the packets of nodes span, and whether there are any.
func window(nodes []manifest.Node) (all manifest.Interval, any bool) {
	for _, n := range nodes {
		for _, c := range n.Coverage {
			if !any {
				all, any = c, true
			}
			all.From, all.To = min(all.From, c.From), max(all.To, c.To)
		}
	}
	return all, any
}

// settle gives nodes that hold no packet their gaps: for them, nothing of the
// whole window is there. It fails when there is no packet at all.
func settle(nodes []manifest.Node) error {
	all, any := window(nodes)
	if !any {
		var reasons []string
		for _, n := range nodes {
			for _, r := range n.Reasons {
				reasons = append(reasons, strings.TrimPrefix(r, "not imported: "))
			}
		}
		switch {
		case len(reasons) == 0:
			return errors.New("the files hold no packet")
		case len(reasons) == 1:
			return errors.New(reasons[0])
		}
		return fmt.Errorf("none of the files could be imported: %s; and %d more", reasons[0], len(reasons)-1)
	}
	for i := range nodes {
		if len(nodes[i].Coverage) > 0 {
			continue
		}
		for j := range nodes[i].Gaps {
			nodes[i].Gaps[j].From, nodes[i].Gaps[j].To = all.From, all.To
		}
	}
	return nil
}

// Manifest is what a manifest says of imported nodes: their window is what their
// packets span. The caller fills in what names and dates it.
func Manifest(nodes []manifest.Node) *manifest.Manifest {
	m := &manifest.Manifest{Format: manifest.Format, Version: manifest.Version, Status: manifest.Completed, Nodes: nodes}
	m.Window, _ = window(nodes)
	for _, n := range nodes {
		if n.Status == manifest.Partial {
			m.Status = manifest.Partial
			for _, r := range n.Reasons {
				m.Reasons = append(m.Reasons, manifest.Clean("node "+n.Name+": "+r))
			}
		}
	}
	for i := range m.Nodes {
		m.Nodes[i].NotImported(m.Window)
	}
	m.SumUp()
	return m
}
