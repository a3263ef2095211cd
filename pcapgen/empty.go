package pcapgen

import (
	"fmt"
	"slices"
	"strings"

	"pcapsule/manifest"
)

// empty says why an export has no packets: where it looked, and for what.
func (p *plan) empty(m *manifest.Manifest, req *Request) string {
	span := fmt.Sprintf("from %s to %s", clock(p.from), clock(p.to))
	if p.from == p.to {
		asked := ""
		if req.Range.From != nil {
			asked += " from " + clock(int64(*req.Range.From))
		}
		if req.Range.To != nil {
			asked += " to " + clock(int64(*req.Range.To))
		}
		return fmt.Sprintf("what was asked for,%s, is outside of the snapshot's window, which is from %s to %s",
			asked, clock(int64(m.Window.From)), clock(int64(m.Window.To)))
	}
	var names []string
	for _, n := range p.nodes {
		names = append(names, n.name)
	}
	of := "node " + enumerate(names, 5)
	if len(names) != 1 {
		of = "nodes " + enumerate(names, 5)
	}
	recorded := p.recorded(m)
	first, end := int64(recorded.From), int64(recorded.To)
	if first == end {
		return fmt.Sprintf("the snapshot holds no packets of %s", of)
	}
	if end <= p.from || first >= p.to {
		return fmt.Sprintf("the packets of %s are from %s to %s, and none is %s", of, clock(first), clock(end), span)
	}
	var filters []string
	if len(req.Interfaces) > 0 {
		filters = append(filters, "interface "+enumerate(req.Interfaces, 5))
	}
	filters = append(filters, req.only()...)
	if len(filters) == 0 {
		return fmt.Sprintf("%s recorded no packet %s", of, span)
	}
	return fmt.Sprintf("no packet of %s, %s, is of %s", of, span, strings.Join(filters, ", "))
}

// recorded is from the first packet of the chosen nodes to after the last, in the
// hub's time; empty when there is none.
func (p *plan) recorded(m *manifest.Manifest) (all manifest.Interval) {
	for _, n := range p.nodes {
		if n.recorded == (manifest.Interval{}) {
			continue
		}
		at := m.Nodes[slices.IndexFunc(m.Nodes, func(mn manifest.Node) bool { return mn.Name == n.name })].Clock.Hub(n.recorded)
		if all == (manifest.Interval{}) {
			all = at
		}
		all.From, all.To = min(all.From, at.From), max(all.To, at.To)
	}
	return all
}
