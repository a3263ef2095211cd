package manifest

import (
	"cmp"
	"slices"

	"pcapsule/chunker"
)

// Uncovered returns what of window none of the intervals covers, in order.
func Uncovered(window Interval, covered []Interval) []Interval {
	covered = slices.SortedFunc(slices.Values(covered), func(a, b Interval) int { return cmp.Compare(a.From, b.From) })
	var rest []Interval
	at := window.From
	for _, c := range append(covered, Interval{From: window.To, To: window.To}) {
		if from := min(c.From, window.To); from > at {
			rest = append(rest, Interval{From: at, To: from})
		}
		at = max(at, c.To)
	}
	return rest
}

// Unexplained returns the times of window, which is by the node's clock, that
// are neither in its coverage nor in a gap of its packets: what a node owes an
// account of.
func (n *Node) Unexplained(window Interval) []Interval {
	known := slices.Clone(n.Coverage)
	for _, g := range n.Gaps {
		// The kernel drops some packets while others are recorded.
		if g.Stream == chunker.Packets && g.Reason != GapKernelDrop {
			known = append(known, Interval{From: g.From, To: g.To})
		}
	}
	return Uncovered(window, known)
}

// NotImported adds the gaps of an imported node: what of window its files hold
// nothing of.
func (n *Node) NotImported(window Interval) {
	for _, rest := range n.Unexplained(window) {
		n.Gaps = append(n.Gaps, Gap{Stream: chunker.Packets, Reason: GapNotImported, From: rest.From, To: rest.To})
	}
}
