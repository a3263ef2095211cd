package importer

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

// part uploads the inventory of the node's chunks and sums the node up.
func (n *node) part(ctx context.Context, entries []manifest.Entry) (*manifest.Node, error) {
	part := &manifest.Node{
		Name:       n.name,
		Status:     manifest.Completed,
		Versions:   manifest.Versions{Agent: n.opt.Version},
		Coverage:   []manifest.Interval{},
		Interfaces: []chunker.Interface{},
		Streams:    []manifest.Stream{},
	}
	if n.first < 0 {
		return nil, fmt.Errorf("node %s: the files hold no packet", n.name)
	}
	span := manifest.Interval{From: manifest.Nanos(n.first), To: manifest.Nanos(n.last) + 1}
	part.Coverage = append(part.Coverage, span)
	part.Interfaces = slices.SortedFunc(maps.Keys(n.interfaces), manifest.CompareInterfaces)
	entries = n.distinct(entries)
	for _, g := range n.gaps {
		g.From, g.To = span.From, span.To
		part.Gaps = append(part.Gaps, *g)
		if g.Reason == manifest.GapTruncated {
			part.Status = manifest.Partial
			reason := g.Detail
			if g.Count > 0 {
				reason = fmt.Sprintf("%s (%d lost or cut short)", g.Detail, g.Count)
			}
			part.Reasons = append(part.Reasons, manifest.Clean(reason))
		}
	}
	slices.SortFunc(part.Gaps, func(a, b manifest.Gap) int {
		return cmp.Or(cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Detail, b.Detail))
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

// distinct leaves out chunks that are there already, byte for byte: of a file
// that was given twice.
func (n *node) distinct(entries []manifest.Entry) []manifest.Entry {
	slices.SortFunc(entries, manifest.Entry.Compare)
	once := slices.CompactFunc(slices.Clone(entries), func(a, b manifest.Entry) bool { return a.Key == b.Key })
	if twice := len(entries) - len(once); twice > 0 {
		n.gap(manifest.GapSkipped, "chunks left out that held the same packets as others: was a file given twice?", uint64(twice))
	}
	return once
}

// Manifest is what a manifest says of imported nodes: their window is what their
// packets span. The caller fills in what names and dates it.
func Manifest(nodes []manifest.Node) *manifest.Manifest {
	m := &manifest.Manifest{Format: manifest.Format, Version: manifest.Version, Status: manifest.Completed, Nodes: nodes}
	for i, n := range nodes {
		for _, c := range n.Coverage {
			if i == 0 || c.From < m.Window.From {
				m.Window.From = c.From
			}
			m.Window.To = max(m.Window.To, c.To)
		}
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
