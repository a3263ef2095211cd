package api

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"pcapsule/manifest"
)

// union merges intervals that overlap or touch, and sorts them.
func union(at []manifest.Interval) (merged []manifest.Interval) {
	at = slices.Clone(at)
	slices.SortFunc(at, func(a, b manifest.Interval) int { return cmp.Compare(a.From, b.From) })
	for _, i := range at {
		if n := len(merged); n > 0 && i.From <= merged[n-1].To {
			merged[n-1].To = max(merged[n-1].To, i.To)
			continue
		}
		merged = append(merged, i)
	}
	return merged
}

// A spell is a time that has gaps, from the first to the end of the last.
type spell struct {
	manifest.Interval
	gaps    int
	between time.Duration // the gaps: what was recorded
}

func (t *spell) add(gap manifest.Interval) {
	t.between += gap.From.Time().Sub(t.To.Time())
	t.To = gap.To
	t.gaps++
}

// whole is how much a spell may have between its gaps and still count as one gap.
const whole = time.Millisecond

// String tells the time in whole seconds, and how much of it the gaps are, unless
// they are about all of it. Points in time have no length to tell.
func (t spell) String() string {
	span := Span(t.Interval)
	from, to := outward(t.Interval)
	missing := t.To.Time().Sub(t.From.Time()) - t.between
	switch {
	case missing == 0:
	case t.between >= whole:
		span += fmt.Sprintf(" in parts (%d gaps, %s in all)", t.gaps, length(missing))
	case missing <= to.Sub(from)/2:
		span += fmt.Sprintf(" in part (%s)", length(missing))
	}
	return span
}

// length is a length of time as people read it, never rounded to nothing.
func length(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return "less than 1 ms"
	case d < 100*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}

// Span is an interval as people read it, in UTC and whole seconds, rounded
// outwards.
func Span(i manifest.Interval) string {
	from, to := outward(i)
	if from.Format(time.DateOnly) == to.Format(time.DateOnly) {
		return from.Format(time.DateTime) + "–" + to.Format(time.TimeOnly) + " UTC"
	}
	return from.Format(time.DateTime) + "–" + to.Format(time.DateTime) + " UTC"
}

// outward rounds an interval outwards to whole seconds.
func outward(i manifest.Interval) (from, to time.Time) {
	from, to = i.From.Time().Truncate(time.Second), i.To.Time()
	if t := to.Truncate(time.Second); !t.Equal(to) {
		to = t.Add(time.Second)
	}
	return from, to
}
