package manifest

import (
	"cmp"
	"slices"
)

// Union puts intervals in order and joins those that touch.
func Union(in []Interval) []Interval {
	in = slices.SortedFunc(slices.Values(in), func(a, b Interval) int { return cmp.Compare(a.From, b.From) })
	out := in[:0]
	for _, i := range in {
		switch {
		case i.From >= i.To:
		case len(out) > 0 && i.From <= out[len(out)-1].To:
			out[len(out)-1].To = max(out[len(out)-1].To, i.To)
		default:
			out = append(out, i)
		}
	}
	return out
}

// Intersect is what two unions have in common.
func Intersect(a, b []Interval) []Interval {
	var out []Interval
	for len(a) > 0 && len(b) > 0 {
		if i := (Interval{From: max(a[0].From, b[0].From), To: min(a[0].To, b[0].To)}); i.From < i.To {
			out = append(out, i)
		}
		if a[0].To < b[0].To {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}

// Subtract is what union a has and union b has not.
func Subtract(a, b []Interval) []Interval {
	var out []Interval
	for _, x := range a {
		for len(b) > 0 && b[0].To <= x.From {
			b = b[1:]
		}
		for _, y := range b {
			if y.From >= x.To {
				break
			}
			if x.From < y.From {
				out = append(out, Interval{From: x.From, To: y.From})
			}
			x.From = max(x.From, y.To)
		}
		if x.From < x.To {
			out = append(out, x)
		}
	}
	return out
}
