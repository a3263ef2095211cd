package ring

import (
	"cmp"
	"slices"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

// coalesce is how close gaps of one kind are to be kept as one.
const coalesce = manifest.Nanos(time.Second)

// crowdedDetail is what is said of what went before the ring had its size.
const crowdedDetail = "its disk was full: free some space there"

// Begin says that the capture of stream starts at at.
func (r *Ring) Begin(stream string, at int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.begin(stream, manifest.Nanos(at))
	r.changed()
}

// Flushed says that everything of stream until through is in the ring, and would
// survive this process. It is cheap, and meant to be called at each tick.
func (r *Ring) Flushed(stream string, through int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.extend(stream, manifest.Nanos(through))
	r.changed()
}

// Step says that the node's clock was set: it jumped by delta nanoseconds and is
// now at. The times between, skipped or lived through twice, become a gap.
func (r *Ring) Step(stream string, at, delta int64) {
	from, to := manifest.Nanos(at-delta), manifest.Nanos(at)
	g := Gap{Stream: stream, Reason: manifest.GapClockStep, From: min(from, to), To: max(from, to), Detail: "forward", Count: uint64(delta)}
	if delta < 0 {
		g.Detail, g.Count = "backward", uint64(-delta)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.step(stream, from, to)
	r.state.addGap(g)
	r.changed()
}

// AddGap notes a gap. One like the last, with little time between, extends it.
func (r *Ring) AddGap(g Gap) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.addGap(g)
	r.changed()
}

// Capturing says what is recorded of packets from at on. The same as before goes
// on, also over restarts.
func (r *Ring) Capturing(what manifest.Selection, at int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.capturing(what, manifest.Nanos(at))
	r.changed()
}

// Saw notes that packets of an interface were recorded between from and to.
func (r *Ring) Saw(i chunker.Interface, from, to int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.saw(i, manifest.Nanos(from), manifest.Nanos(to))
	r.dirty = true
}

// Interfaces lists those of which packets may have been recorded between from
// and to, in the order of manifests.
func (r *Ring) Interfaces(from, to int64) []chunker.Interface {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []chunker.Interface
	for _, s := range r.state.Interfaces {
		if int64(s.From) <= to && int64(s.To) >= from {
			out = append(out, s.Interface)
		}
	}
	slices.SortFunc(out, manifest.CompareInterfaces)
	return out
}

// A Ledger says for a window what was recorded, and why what was not was not.
type Ledger struct {
	// Coverage are the times, in order, when capture ran and from which nothing
	// was evicted. Gaps within them, by drops and the like, tell what is missing.
	Coverage []manifest.Interval
	Gaps     []Gap // in order of From
	// Capture is what was to be recorded, and when, in order of From.
	Capture []manifest.Capture
}

// Ledger tells what the ring has of stream in a window.
func (r *Ring) Ledger(stream string, from, to int64) Ledger {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.ledger(stream, manifest.Interval{From: manifest.Nanos(from), To: manifest.Nanos(to)}, r.state.Evicted[stream])
}

// addGap appends a gap, or extends a like one.
func (s *state) addGap(g Gap) {
	g.To = max(g.To, g.From+1)
	if g.Reason != manifest.GapClockStep { // whose count is no number of records
		for i := len(s.Gaps) - 1; i >= max(0, len(s.Gaps)-16); i-- {
			if o := &s.Gaps[i]; alike(*o, g) && g.From <= o.To+coalesce && o.From <= g.To+coalesce {
				join(o, g)
				return
			}
		}
	}
	s.Gaps = append(s.Gaps, g)
	s.bound()
}

func alike(a, b Gap) bool {
	return a.Stream == b.Stream && a.Reason == b.Reason && a.Interface == b.Interface && a.Detail == b.Detail
}

// join makes a one gap of a and b.
func join(a *Gap, b Gap) {
	a.From, a.To, a.Count = min(a.From, b.From), max(a.To, b.To), a.Count+b.Count
}

// mergeOldest makes n gaps fewer where it can, by joining the oldest of a kind
// whatever lies between. Clock steps go first: they explain and count no loss.
func mergeOldest(gaps []Gap, n int) []Gap {
	out := gaps[:0]
	for i, g := range gaps {
		if n > 0 {
			if g.Reason == manifest.GapClockStep && i < len(gaps)/2 {
				n--
				continue
			}
			if j := slices.IndexFunc(out, func(o Gap) bool { return alike(o, g) }); j >= 0 {
				join(&out[j], g)
				n--
				continue
			}
		}
		out = append(out, g)
	}
	return out
}

// ledger answers for a window, where evicted is the stream's watermark.
func (s *state) ledger(stream string, window manifest.Interval, evicted manifest.Nanos) Ledger {
	var ran, steps, lost []manifest.Interval
	for _, r := range s.Runs {
		if r.Stream == stream {
			ran = append(ran, manifest.Interval{From: r.From, To: r.To})
		}
	}
	var l Ledger
	for _, g := range s.Gaps {
		if g.Stream != stream || g.To <= window.From || g.From >= window.To {
			continue
		}
		if g.Reason == manifest.GapClockStep {
			steps = append(steps, manifest.Interval{From: g.From, To: g.To})
		} else { // counts stay those of the whole gap
			g.From, g.To = max(g.From, window.From), min(g.To, window.To)
		}
		if g.Reason == manifest.GapWatchLost { // of that time nothing is known, whether the recorder ran or not
			lost = append(lost, manifest.Interval{From: g.From, To: g.To})
		}
		l.Gaps = append(l.Gaps, g)
	}
	all := []manifest.Interval{window}
	gone := []manifest.Interval{}
	if evicted > 0 {
		gone = append(gone, manifest.Interval{From: min(window.From, evicted), To: evicted + 1})
	}
	recorded := manifest.Subtract(manifest.Intersect(manifest.Union(ran), all), manifest.Union(lost))
	dark := []manifest.Interval{}
	if stream == chunker.Packets {
		l.Capture = manifest.ClipCaptures(s.Captures, window)
		dark = manifest.Dark(l.Capture, l.Gaps)
	}
	l.Coverage = manifest.Subtract(manifest.Subtract(recorded, gone), dark)
	for _, i := range manifest.Intersect(recorded, gone) {
		g := Gap{Stream: stream, Reason: manifest.GapEvicted, From: i.From, To: i.To}
		if s.Crowded[stream] >= i.To-1 {
			g.Detail = crowdedDetail
		}
		l.Gaps = append(l.Gaps, g)
	}
	for _, i := range manifest.Subtract(manifest.Subtract(all, recorded), manifest.Union(append(steps, lost...))) {
		l.Gaps = append(l.Gaps, Gap{Stream: stream, Reason: manifest.GapNotRunning, From: i.From, To: i.To})
	}
	slices.SortStableFunc(l.Gaps, func(a, b Gap) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Reason, b.Reason))
	})
	return l
}
