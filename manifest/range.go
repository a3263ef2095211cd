package manifest

import (
	"fmt"
	"time"
)

// A Range is a part of a window that somebody asks for. It holds its From and not
// its To. A nil end is that of the window: no number stands for none.
type Range struct{ From, To *Nanos }

// Between is the Range with these ends.
func Between(from, to Nanos) Range { return Range{From: &from, To: &to} }

// Of is r with the ends of window where it has none.
func (r Range) Of(window Interval) Interval {
	if r.From != nil {
		window.From = *r.From
	}
	if r.To != nil {
		window.To = *r.To
	}
	return window
}

// Within is what r and window have in common. Where that is nothing, From and To
// are equal.
func (r Range) Within(window Interval) Interval {
	in := r.Of(window)
	in.From = min(max(in.From, window.From), window.To)
	in.To = max(min(in.To, window.To), in.From)
	return in
}

// Backwards tells whether r ends before it begins, or where: whatever the window,
// nothing is in it. At the ends of what Nanos can hold, equal ones may have been
// different times.
func (r Range) Backwards() bool {
	if r.From == nil || r.To == nil {
		return false
	}
	return *r.From > *r.To || *r.From == *r.To && *r.From != MaxNanos && *r.From != MinNanos
}

// ParseTime reads a point in time as programs write it (RFC 3339), of any year
// from 0 to 9999.
func ParseTime(s string) (Nanos, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return 0, fmt.Errorf("time %.40q: want one like 2026-11-23T14:32:00Z", s)
	}
	return NanosOf(t), nil
}
