package pcapgen

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

// A plan is a request resolved against a snapshot: everything that is decided
// before the first byte is written.
type plan struct {
	from, to   int64 // the window in the hub's time
	nodes      []node
	interfaces []outInterface // of the output; its index is its number
	chunks     []chunk        // by begin, then node and order
	drops      uint64
	only       []string // names of a cluster by which packets were chosen
}

// A node is one that was chosen.
type node struct {
	name     string
	from, to int64 // the window by the node's own clock
	drops    uint64
	recorded manifest.Interval // from its first packet to after its last, by its own clock; empty when there is none

	// The number in the output of each of its interfaces, and notWanted for
	// those that were not chosen.
	numbers map[chunker.Interface]int32
}

const notWanted = -1

// A chunk is one to be merged. There may be a great many in a plan.
type chunk struct {
	hash        chunker.Hash
	generation  uint64 // of its key
	size        int64
	first, last int64 // as its inventory says
	rawSize     int64
	records     uint64
	drops       uint64
	begin       int64  // the merge may need its records from this time on
	node        uint32 // in the plan
	order       uint32 // in the node's inventory
}

func (c *chunk) key() string {
	return manifest.ObjectKey{
		Kind: manifest.KindChunk, Hash: c.hash, Generation: c.generation, Ext: chunker.PacketsExt,
	}.String()
}

// An outInterface is an interface of the output.
type outInterface struct {
	chunker.Interface
	node    *manifest.Node
	drops   *uint64 // of the node; nil for all but its first interface
	records uint64  // written
}

// makePlan resolves req. Its errors are the caller's fault (typed), or the
// store's.
func makePlan(ctx context.Context, src Source, req Request) (*plan, error) {
	m := src.Manifest
	if req.Range.Backwards() {
		return nil, fmt.Errorf("%w: from %s to %s", ErrWindow, clock(int64(*req.Range.From)), clock(int64(*req.Range.To)))
	}
	window := req.Range.Within(m.Window)
	p := &plan{from: int64(window.From), to: int64(window.To)}

	chosen, err := chooseNodes(m, req.Nodes)
	if err != nil {
		return nil, err
	}
	if err := p.chooseInterfaces(chosen, req.Interfaces); err != nil {
		return nil, err
	}
	if req.Format == Pcap {
		if err := p.checkLinkTypes(); err != nil {
			return nil, err
		}
	}
	for i, n := range chosen {
		if err := p.addChunks(ctx, src, n, uint32(i)); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(p.chunks, func(a, b chunk) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.node, b.node), cmp.Compare(a.order, b.order))
	})
	return p, nil
}

// chooseNodes returns the nodes of these names, or all, sorted by name.
func chooseNodes(m *manifest.Manifest, names []string) ([]*manifest.Node, error) {
	var chosen []*manifest.Node
	var known []string
	for i := range m.Nodes {
		known = append(known, m.Nodes[i].Name)
		if len(names) == 0 || slices.Contains(names, m.Nodes[i].Name) {
			chosen = append(chosen, &m.Nodes[i])
		}
	}
	slices.Sort(known)
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, &UnknownNodeError{Node: name, Known: known}
		}
	}
	slices.SortFunc(chosen, func(a, b *manifest.Node) int { return cmp.Compare(a.Name, b.Name) })
	return chosen, nil
}

// chooseInterfaces numbers the output's interfaces: those of these names on the
// chosen nodes, or all.
func (p *plan) chooseInterfaces(chosen []*manifest.Node, names []string) error {
	var known []string
	p.nodes = make([]node, len(chosen))
	for at, mn := range chosen {
		n := &p.nodes[at]
		w := mn.Clock.Window(manifest.Interval{From: manifest.Nanos(p.from), To: manifest.Nanos(p.to)})
		*n = node{name: mn.Name, from: int64(w.From), to: int64(w.To), numbers: make(map[chunker.Interface]int32)}
		drops := &n.drops
		ifs := slices.SortedFunc(slices.Values(mn.Interfaces), compareInterfaces)
		for _, i := range slices.Compact(ifs) {
			known = append(known, i.Name)
			if len(names) > 0 && !slices.Contains(names, i.Name) {
				n.numbers[i] = notWanted
				continue
			}
			n.numbers[i] = int32(len(p.interfaces))
			p.interfaces = append(p.interfaces, outInterface{Interface: i, node: mn, drops: drops})
			drops = nil
		}
	}
	slices.Sort(known)
	known = slices.Compact(known)
	for _, name := range names {
		if !slices.Contains(known, name) {
			return &UnknownInterfaceError{Interface: name, Known: known}
		}
	}
	return nil
}

func compareInterfaces(a, b chunker.Interface) int {
	return cmp.Or(
		cmp.Compare(a.Name, b.Name),
		cmp.Compare(a.LinkType, b.LinkType),
		cmp.Compare(a.Description, b.Description),
	)
}

// checkLinkTypes refuses interfaces that one classic pcap cannot hold.
func (p *plan) checkLinkTypes() error {
	var e MixedLinkTypesError
	for _, i := range p.interfaces {
		e.Interfaces = append(e.Interfaces, LinkType{Node: i.node.Name, Interface: i.Name, LinkType: i.LinkType})
	}
	slices.SortStableFunc(e.Interfaces, func(a, b LinkType) int { return cmp.Compare(a.LinkType, b.LinkType) })
	if n := len(e.Interfaces); n > 0 && e.Interfaces[0].LinkType != e.Interfaces[n-1].LinkType {
		return &e
	}
	return nil
}

// addChunks adds the chunks of a node's packets that overlap its window.
func (p *plan) addChunks(ctx context.Context, src Source, mn *manifest.Node, at uint32) error {
	n := &p.nodes[at]
	order := uint32(0)
	for _, s := range mn.Streams {
		if s.Stream != chunker.Packets {
			continue
		}
		entries, err := src.Inventory(ctx, s)
		if err != nil {
			return fmt.Errorf("read the inventory of node %s: %w", mn.Name, err)
		}
		for _, e := range entries {
			order++
			first, last := int64(e.First), int64(e.Last)
			if n.recorded == (manifest.Interval{}) {
				n.recorded.From = e.First
			}
			n.recorded.To = max(n.recorded.To, e.Last.Add(1))
			if last < n.from || first >= n.to {
				continue
			}
			k, err := manifest.ParseObjectKey(e.Key)
			if err == nil && (k.Kind != manifest.KindChunk || k.Ext != chunker.PacketsExt) {
				err = fmt.Errorf("key %q is not that of packets", e.Key)
			}
			if err != nil {
				return fmt.Errorf("read the inventory of node %s: %w", mn.Name, err)
			}
			n.drops += e.Drops
			p.drops += e.Drops
			p.chunks = append(p.chunks, chunk{
				hash: k.Hash, generation: k.Generation, size: e.Size,
				first: first, last: last, rawSize: e.RawSize, records: e.Records, drops: e.Drops, begin: max(first, n.from), node: at, order: order,
			})
		}
	}
	return nil
}

func clock(ns int64) string {
	return manifest.Nanos(ns).Time().Format("2006-01-02T15:04:05.999999999Z")
}
