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
	gaps := n.Gaps
	if len(n.Capture) > 0 { // a gap of one interface explains nothing of the others
		gaps = slices.DeleteFunc(slices.Clone(gaps), Gap.ofInterface)
		for _, d := range Dark(n.Capture, n.Gaps) {
			gaps = append(gaps, Gap{Stream: chunker.Packets, Reason: GapInterfaceGone, From: d.From, To: d.To})
		}
	}
	return unexplained(window, n.Coverage, gaps, chunker.Packets)
}

// Clustered tells whether the snapshot is of a Kubernetes cluster, whose stream
// then owes an account of the window.
func (m *Manifest) Clustered() bool {
	return len(m.Coverage) > 0 || len(m.Gaps) > 0 ||
		slices.ContainsFunc(m.Streams, func(s Stream) bool { return s.Stream == chunker.Kubernetes })
}

// Unexplained returns the times of the window that are neither in the coverage
// nor in a gap of the stream kubernetes. There are none outside a cluster.
func (m *Manifest) Unexplained() []Interval {
	if !m.Clustered() {
		return nil
	}
	return unexplained(m.Window, m.Coverage, m.Gaps, chunker.Kubernetes)
}

func unexplained(window Interval, coverage []Interval, gaps []Gap, stream string) []Interval {
	known := slices.Clone(coverage)
	for _, g := range gaps {
		// Some packets are dropped, or left out, while others are recorded.
		if g.Stream == stream && g.Reason != GapKernelDrop && g.Reason != GapOverShare {
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
