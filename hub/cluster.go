package hub

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"pcapsule/archive"
	"pcapsule/chunker"
	"pcapsule/manifest"
)

// A recording is what one node handed in of the stream of the cluster, checked.
// Its times are by the node's clock.
type recording struct {
	node     string
	clock    manifest.Clock
	stream   manifest.Stream  // the zero Stream without chunks
	entries  []manifest.Entry // of its inventory
	coverage []manifest.Interval
	gaps     []manifest.Gap
}

// An account tells of a window when the stream of the cluster was recorded, by
// the hub's clock, and why not when it was not.
type account struct {
	coverage []manifest.Interval
	gaps     []manifest.Gap
}

// accountFor makes one account of those of all recorders. One agent records at a
// time, so what one did not is missing only if no other did. Of the times that
// are missing and that nobody explains, vain says whom the hub asked in vain for
// what they recorded. The same recordings make the same account, in any order.
func accountFor(window manifest.Interval, recordings []*recording, vain []string) account {
	recordings = slices.SortedFunc(slices.Values(recordings), func(a, b *recording) int { return strings.Compare(a.node, b.node) })
	var covered []manifest.Interval
	slop := manifest.Nanos(coverageSlop)
	for _, r := range recordings {
		covered = append(covered, r.recorded(window)...)
		slop = max(slop, manifest.Nanos(coverageSlop).Add(r.clock.Error))
	}
	a := account{coverage: manifest.Union(covered)}
	known := slices.Clone(a.coverage)
	for _, r := range recordings {
		for _, g := range r.gaps {
			if g.Reason == manifest.GapNotRunning {
				continue // another may have
			}
			at := clip([]manifest.Interval{r.clock.Hub(manifest.Interval{From: g.From, To: g.To})}, window)
			if lossy(g) {
				at = missing(at, a.coverage)
			}
			for _, i := range at {
				a.gaps = append(a.gaps, r.gap(g, i))
				if g.Reason != manifest.GapKernelDrop { // which explains no time
					known = append(known, i)
				}
				g.Count = 0 // it was of the whole
			}
		}
	}
	rest := manifest.Gap{Stream: chunker.Kubernetes, Reason: manifest.GapNotRunning}
	if len(vain) > 0 {
		rest.Reason = manifest.GapUnreachable
		rest.Detail = manifest.Clean("not handed in by " + shortList(vain))
	}
	for _, i := range manifest.Uncovered(window, known) {
		// Where the window begins and ends by another clock is known to within an
		// error, and a chunk is cut a moment before its coverage ends.
		atEnd := i.From == window.From || i.To == window.To
		if len(a.coverage) > 0 && atEnd && i.To-i.From <= slop {
			continue
		}
		rest.From, rest.To = i.From, i.To
		a.gaps = append(a.gaps, rest)
	}
	slices.SortStableFunc(a.gaps, func(x, y manifest.Gap) int { return cmp.Compare(x.From, y.From) })
	return a
}

// recorded is what of a window a recorder covers and no gap of its own takes
// back, by the hub's clock.
func (r *recording) recorded(window manifest.Interval) []manifest.Interval {
	var covered, lost []manifest.Interval
	for _, c := range r.coverage {
		covered = append(covered, r.clock.Hub(c))
	}
	for _, g := range r.gaps {
		if lossy(g) {
			lost = append(lost, r.clock.Hub(manifest.Interval{From: g.From, To: g.To}))
		}
	}
	return missing(clip(covered, window), manifest.Union(lost))
}

// lossy tells whether a gap says that its time was not recorded.
func lossy(g manifest.Gap) bool {
	return g.Reason != manifest.GapClockStep && g.Reason != manifest.GapKernelDrop
}

// gap is one of r's at a time of the hub's.
func (r *recording) gap(g manifest.Gap, at manifest.Interval) manifest.Gap {
	g.From, g.To = at.From, at.To
	detail := "node " + r.node
	if g.Detail != "" {
		detail += ": " + g.Detail
	}
	g.Detail = manifest.Clean(detail)
	return g
}

// missing is what of intervals none of covered covers, which is a union.
func missing(intervals, covered []manifest.Interval) (rest []manifest.Interval) {
	for _, i := range intervals {
		n, _ := slices.BinarySearchFunc(covered, i.From, func(c manifest.Interval, t manifest.Nanos) int { return cmp.Compare(c.To, t) })
		for ; n < len(covered) && covered[n].From < i.To; n++ {
			if c := covered[n]; c.From > i.From {
				rest = append(rest, manifest.Interval{From: i.From, To: c.From})
			}
			i.From = max(i.From, covered[n].To)
		}
		if i.From < i.To {
			rest = append(rest, i)
		}
	}
	return rest
}

// mergeRecordings makes one inventory of those of all recorders, nil when none
// has a chunk. A chunk that two of them name stands there once, as the first of
// them by name has it.
func mergeRecordings(recordings []*recording) []manifest.Entry {
	recordings = slices.SortedFunc(slices.Values(recordings), func(a, b *recording) int { return strings.Compare(a.node, b.node) })
	var all []manifest.Entry
	seen := map[chunker.Hash]bool{}
	for _, r := range recordings {
		for _, e := range r.entries {
			k, err := manifest.ParseObjectKey(e.Key)
			if err != nil || seen[k.Hash] { // it was checked
				continue
			}
			seen[k.Hash] = true
			all = append(all, e)
		}
	}
	return all
}

// settleRecordings takes out of the recordings what lies under the address of a
// chunk and is other bytes, where recorders name different keys of one chunk: so
// nobody's garbage takes the place of what another recorded. It is for the
// claimant of the session.
func (s *session) settleRecordings(ctx context.Context) error {
	s.mu.Lock()
	var recordings []*recording
	for _, p := range s.parts {
		if p.cluster != nil {
			recordings = append(recordings, p.cluster)
		}
	}
	s.mu.Unlock()
	hash := func(e manifest.Entry) chunker.Hash {
		k, _ := manifest.ParseObjectKey(e.Key) // it was checked
		return k.Hash
	}
	keys := map[chunker.Hash]string{}
	disputed := map[chunker.Hash]bool{}
	for _, r := range recordings {
		for _, e := range r.entries {
			h := hash(e)
			if key, ok := keys[h]; ok && key != e.Key {
				disputed[h] = true
			}
			keys[h] = e.Key
		}
	}
	for _, r := range recordings {
		var entries []manifest.Entry
		for _, e := range r.entries {
			if disputed[hash(e)] {
				ok, err := s.store.Genuine(ctx, e.Key)
				if err != nil {
					return fmt.Errorf("compare what nodes recorded of stream %s: %w", chunker.Kubernetes, err)
				}
				if !ok {
					continue
				}
			}
			entries = append(entries, e)
		}
		r.entries = entries
	}
	return nil
}

// putCluster puts the inventory of the stream of the cluster, and the stream into
// m. Of a single recorder the very inventory is there already.
func (s *session) putCluster(ctx context.Context, m *manifest.Manifest, entries []manifest.Entry) error {
	b := manifest.EncodeInventory(entries)
	stream := manifest.SumInventory(chunker.Kubernetes, entries)
	key, err := s.store.Bring(ctx, archive.Object{
		Kind: manifest.KindInventory, Hash: chunker.HashOf(b), Ext: manifest.InventoryExt, Size: int64(len(b)), SHA256: sha256.Sum256(b),
	}, bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("put the inventory of stream %s: %w", chunker.Kubernetes, err)
	}
	stream.Inventory, stream.InventorySize = key, int64(len(b))
	m.Streams = []manifest.Stream{stream}
	m.SumUp()
	return nil
}
