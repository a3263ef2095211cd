package cluster

import (
	"cmp"
	"math"
	"slices"
	"sort"
)

// A span is a time: from is in it, to is not.
type span struct{ from, to int64 }

// spanAt finds the span that a time is in. Outside of all it returns the time
// between two, and false.
func spanAt(spans []span, ns int64) (span, bool) {
	i := sort.Search(len(spans), func(i int) bool { return spans[i].to > ns })
	if i < len(spans) && spans[i].from <= ns {
		return spans[i], true
	}
	between := span{math.MinInt64, math.MaxInt64}
	if i > 0 {
		between.from = spans[i-1].to
	}
	if i < len(spans) {
		between.to = spans[i].from
	}
	return between, false
}

// A hold is a time in which an object may have had an address, and within it one
// in which it surely had.
type hold struct {
	*Object
	ports              []Port
	maybeFrom, maybeTo int64
	from, to           int64
	made, gone         int64 // when the object was seen to be made and to go; 0 when it was not
}

// A candidate has an address at a time, surely or perhaps.
type candidate struct {
	*Object
	sure  bool
	ports []Port
}

// A track is who had one address, one time after another: sets[i] from starts[i]
// until starts[i+1]. Before the first and from the last on there is nobody.
type track struct {
	starts []int64
	sets   [][]candidate
}

// maxCandidates is how many may have one address at once before nobody is said
// to: such a stream tells nothing.
const maxCandidates = 64

func (t track) at(ns int64) ([]candidate, span) {
	i := sort.Search(len(t.starts), func(i int) bool { return t.starts[i] > ns })
	s := span{math.MinInt64, math.MaxInt64}
	if i < len(t.starts) {
		s.to = t.starts[i]
	}
	if i == 0 {
		return nil, s
	}
	s.from = t.starts[i-1]
	return t.sets[i-1], s
}

// longest is who had the address longest within a time. Of those that may have
// it at once, each has it.
func (t track) longest(from, to int64) Naming {
	had := map[*Object]int64{}
	for i, set := range t.sets {
		begin, end := max(t.starts[i], from), to
		if i+1 < len(t.starts) {
			end = min(end, t.starts[i+1])
		}
		if begin >= end {
			continue
		}
		for _, c := range set {
			had[c.Object] += end - begin
		}
	}
	n := Naming{Others: len(had) > 1}
	for o, ns := range had {
		if n.Object == nil || ns > had[n.Object] || ns == had[n.Object] && o.compare(n.Object) < 0 {
			n.Object = o
		}
	}
	return n
}

// newTrack decides between holds of one address. Where they are exclusive, a node
// gives the address to one at a time.
func newTrack(holds []hold, exclusive bool) track {
	type event struct {
		at   int64
		hold int
		step int8 // may have it, surely has it, may have it, no longer
	}
	events := make([]event, 0, 4*len(holds))
	for i, h := range holds {
		if h.maybeFrom >= h.maybeTo {
			continue
		}
		events = append(events, event{h.maybeFrom, i, 0}, event{h.maybeTo, i, 3})
		if h.from < h.to {
			events = append(events, event{h.from, i, 1}, event{h.to, i, 2})
		}
	}
	slices.SortFunc(events, func(a, b event) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.step, b.step), cmp.Compare(a.hold, b.hold))
	})
	var t track
	active := map[int]bool{} // whether surely, by hold
	for i, e := range events {
		switch e.step {
		case 0, 2:
			active[e.hold] = false
		case 1:
			active[e.hold] = true
		case 3:
			delete(active, e.hold)
		}
		if i+1 < len(events) && events[i+1].at == e.at {
			continue
		}
		set := choose(holds, active, exclusive)
		if n := len(t.sets); n > 0 && slices.EqualFunc(t.sets[n-1], set, candidate.same) {
			continue
		}
		t.starts = append(t.starts, e.at)
		t.sets = append(t.sets, set)
	}
	return t
}

func (c candidate) same(d candidate) bool {
	return c.Object == d.Object && c.sure == d.sure && slices.Equal(c.ports, d.ports)
}

// choose is who has the address while these holds are active.
func choose(holds []hold, active map[int]bool, exclusive bool) []candidate {
	if len(active) == 0 || len(active) > maxCandidates {
		return nil
	}
	order := make([]int, 0, len(active))
	for i := range active {
		order = append(order, i)
	}
	node := func(i int) string {
		if exclusive {
			return holds[i].Node
		}
		return ""
	}
	// Those who surely have it first, the latest before all others.
	slices.SortFunc(order, func(a, b int) int {
		sure, from := 0, cmp.Compare(holds[a].from, holds[b].from)
		switch {
		case active[a] != active[b] && active[a]:
			sure = -1
		case active[a] != active[b]:
			sure = 1
		case active[a]:
			from = -from
		}
		return cmp.Or(cmp.Compare(node(a), node(b)), sure, from, holds[a].compare(holds[b].Object), cmp.Compare(a, b))
	})
	set := make([]candidate, 0, 1)
	taken := false // by one that surely has it on this node
	for k, i := range order {
		if k == 0 || node(i) != node(order[k-1]) {
			taken = false
		}
		if exclusive && taken {
			continue
		}
		taken = active[i]
		set = append(set, candidate{holds[i].Object, active[i], holds[i].ports})
	}
	return set
}

// joined puts times together that are less than join apart.
func joined(spans []span, join int64) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	var out []span
	for _, s := range spans {
		if n := len(out); n > 0 && s.from <= later(out[n-1].to, join) {
			out[n-1].to = max(out[n-1].to, s.to)
			continue
		}
		out = append(out, s)
	}
	return out
}

// later is t + d. It stops at the ends of time instead of wrapping.
func later(t, d int64) int64 {
	switch {
	case d > 0 && t > math.MaxInt64-d:
		return math.MaxInt64
	case d < 0 && t < math.MinInt64-d:
		return math.MinInt64
	}
	return t + d
}

// within are all who have the address at some time from one until another.
func (t track) within(from, to int64) []*Object {
	var out []*Object
	i := max(sort.Search(len(t.starts), func(i int) bool { return t.starts[i] > from })-1, 0)
	for ; i < len(t.starts) && t.starts[i] < to; i++ {
		for _, c := range t.sets[i] {
			out = append(out, c.Object)
		}
	}
	return out
}
