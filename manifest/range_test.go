package manifest

import (
	"testing"
	"time"
)

// TestNanosOf: a time that Nanos cannot hold becomes the nearest, and none wraps.
func TestNanosOf(t *testing.T) {
	for _, tt := range []struct {
		in   time.Time
		want Nanos
	}{
		{time.Unix(0, 0), 0},
		{time.Unix(0, -1), -1},
		{MaxNanos.Time(), MaxNanos},
		{MaxNanos.Time().Add(1), MaxNanos},
		{time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), MaxNanos},
		{MinNanos.Time(), MinNanos},
		{MinNanos.Time().Add(-1), MinNanos},
		{time.Time{}, MinNanos},
	} {
		if got := NanosOf(tt.in); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.in, got, tt.want)
		}
	}
}

func TestRange(t *testing.T) {
	at := func(n Nanos) *Nanos { return &n }
	window := Interval{10, 20}
	for _, tt := range []struct {
		name      string
		r         Range
		want      Interval
		backwards bool
	}{
		{"all", Range{}, window, false},
		{"to 0", Range{To: at(0)}, Interval{10, 10}, false},
		{"from 0", Range{From: at(0)}, window, false},
		{"within", Between(12, 15), Interval{12, 15}, false},
		{"over the end", Range{From: at(15), To: at(MaxNanos)}, Interval{15, 20}, false},
		{"after", Range{From: at(MaxNanos)}, Interval{20, 20}, false},
		{"before", Range{From: at(MinNanos), To: at(-1)}, Interval{10, 10}, false},
		{"far after", Between(MaxNanos, MaxNanos), Interval{20, 20}, false},
		{"backwards", Between(15, 12), Interval{15, 15}, true},
		{"nothing", Between(0, 0), Interval{10, 10}, true},
	} {
		if got := tt.r.Within(window); got != tt.want || tt.r.Backwards() != tt.backwards {
			t.Errorf("%s: %v, backwards %v, want %v, %v", tt.name, got, tt.r.Backwards(), tt.want, tt.backwards)
		}
	}
}
