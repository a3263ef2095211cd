package archive

import (
	"cmp"
	"math"
	"slices"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

// accountSlack is how much of a window may be unaccounted for without a note:
// what is lost in rounding where intervals meet.
const accountSlack = manifest.Nanos(time.Second)

// account checks that a node's part tells of every moment of the window whether
// its packets were recorded, and if not, why not.
func (v *verifier) account(s *Snapshot, n *manifest.Node) {
	if n.Status == manifest.Unreachable {
		return
	}
	object := manifest.ManifestPath(s.ID)
	for _, stream := range n.Streams {
		if stream.Stream == chunker.Packets && stream.Records > 0 && len(n.Coverage) == 0 {
			v.problem(s.ID, object, "node %s has %d packets, yet covers no time; %s", n.Name, stream.Records, doRebuild)
			return
		}
	}
	if left := unaccounted(s.Manifest.Window, n); left > accountSlack {
		v.note(s.ID, object, "node %s: %v of the window are neither covered nor explained by a gap",
			n.Name, time.Duration(left).Round(time.Millisecond))
	}
}

// unaccounted is how much of the window, by the node's clock, is in none of its
// intervals and in none of its packet gaps, beyond what its clock's error can
// explain at both ends.
func unaccounted(window manifest.Interval, n *manifest.Node) manifest.Nanos {
	spans := slices.Clone(n.Coverage)
	for _, g := range n.Gaps {
		if g.Stream == chunker.Packets {
			spans = append(spans, manifest.Interval{From: g.From, To: g.To})
		}
	}
	slices.SortFunc(spans, func(a, b manifest.Interval) int { return cmp.Compare(a.From, b.From) })
	window = n.Clock.Window(window)
	at, end := window.From.Add(n.Clock.Error), window.To.Add(-n.Clock.Error)
	var left manifest.Nanos
	for _, span := range spans {
		if from := min(span.From, end); from > at {
			left = left.Add(between(at, from))
		}
		at = max(at, span.To)
	}
	if end > at {
		left = left.Add(between(at, end))
	}
	return left
}

// between is the time from a to b, which is not before a.
func between(a, b manifest.Nanos) manifest.Nanos {
	if d := b - a; d >= 0 {
		return d
	}
	return math.MaxInt64
}
