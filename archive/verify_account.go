package archive

import (
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
	// What a node could still save of the moment before it died lies in a gap, so
	// packets without coverage are right when a gap is there.
	explained := slices.ContainsFunc(n.Gaps, func(g manifest.Gap) bool { return g.Stream == chunker.Packets })
	for _, stream := range n.Streams {
		if stream.Stream == chunker.Packets && stream.Records > 0 && len(n.Coverage) == 0 && !explained {
			v.problem(s.ID, object, "node %s has %d packets, yet covers no time and says no gap; %s", n.Name, stream.Records, doRebuild)
			return
		}
	}
	if left := unaccounted(s.Manifest.Window, n); left > accountSlack {
		v.note(s.ID, object, "node %s: %v of the window are neither covered nor explained by a gap",
			n.Name, time.Duration(left).Round(time.Millisecond))
	}
}

// accountCluster is account for the stream of the cluster.
func (v *verifier) accountCluster(s *Snapshot) {
	m, object := s.Manifest, manifest.ManifestPath(s.ID)
	for _, stream := range m.Streams {
		if stream.Stream == chunker.Kubernetes && stream.Records > 0 && len(m.Coverage)+len(m.Gaps) == 0 {
			v.problem(s.ID, object, "stream %s has %d records, yet covers no time and says no gap; %s", stream.Stream, stream.Records, doRebuild)
			return
		}
	}
	// Clocks of several machines meet here, each known to within its error.
	slack := 2 * accountSlack
	for i := range m.Nodes {
		slack = max(slack, accountSlack.Add(m.Nodes[i].Clock.Error))
	}
	if left := length(m.Unexplained()); left > slack {
		v.note(s.ID, object, "stream %s: %v of the window are neither covered nor explained by a gap",
			chunker.Kubernetes, time.Duration(left).Round(time.Millisecond))
	}
}

func length(list []manifest.Interval) (sum manifest.Nanos) {
	for _, i := range list {
		sum = sum.Add(i.To.Add(-i.From))
	}
	return sum
}

// unaccounted is how much of the window, by the node's clock, the node does not
// account for, beyond what its clock's error can explain at both ends.
func unaccounted(window manifest.Interval, n *manifest.Node) manifest.Nanos {
	window = n.Clock.Window(window)
	window.From, window.To = window.From.Add(n.Clock.Error), window.To.Add(-n.Clock.Error)
	return length(n.Unexplained(window))
}
