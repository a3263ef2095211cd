package chunker

import (
	"cmp"
	"slices"
)

// A held record lies, as it will stand in a chunk, at buf[off:off+n] of its
// generation.
type held struct {
	time   int64
	off, n uint32
}

// A generation is what a Cutter holds back of the records that came between two
// releases.
type generation struct {
	buf      []byte
	list     []held // in order of arrival, and of off
	sorted   bool   // list is in order of time, too
	min, max int64  // times
}

// add notes the record that was appended to buf at off.
func (g *generation) add(time int64, off int) {
	if len(g.list) == 0 {
		g.sorted, g.min, g.max = true, time, time
	} else if time >= g.max {
		g.max = time
	} else {
		g.sorted = false
		g.min = min(g.min, time)
	}
	g.list = append(g.list, held{time, uint32(off), uint32(len(g.buf) - off)})
}

func (g *generation) reset() {
	g.buf, g.list = g.buf[:0], g.list[:0]
}

// A ref is a held record of either generation.
type ref struct {
	held
	young bool
}

// refs appends all of g, as the older generation.
func (g *generation) refs(dst []ref) []ref {
	for _, h := range g.list {
		dst = append(dst, ref{h, false})
	}
	return dst
}

// take moves the records up to limit out of g, the younger generation. Their
// bytes stay in g.buf until it is reset.
func (g *generation) take(limit int64, dst []ref) []ref {
	kept := g.list[:0]
	for _, h := range g.list {
		if h.time <= limit {
			dst = append(dst, ref{h, true})
		} else {
			kept = append(kept, h)
		}
	}
	g.list = kept
	g.sorted, g.min, g.max = true, 0, 0
	for i, h := range kept {
		if i == 0 {
			g.min, g.max = h.time, h.time
		}
		g.sorted = g.sorted && h.time >= g.max
		g.min, g.max = min(g.min, h.time), max(g.max, h.time)
	}
	return dst
}

// sortRefs puts records in order of time, and of arrival where times are equal.
func sortRefs(list []ref) {
	slices.SortFunc(list, func(a, b ref) int {
		if a.time != b.time {
			return cmp.Compare(a.time, b.time)
		}
		if a.young != b.young {
			if b.young {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.off, b.off)
	})
}
