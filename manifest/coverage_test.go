package manifest

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
)

func TestUncovered(t *testing.T) {
	window := Interval{10, 20}
	for _, tt := range []struct {
		name          string
		covered, want []Interval
	}{
		{"nothing", nil, []Interval{{10, 20}}},
		{"all", []Interval{{10, 20}}, nil},
		{"more", []Interval{{0, 30}}, nil},
		{"the middle", []Interval{{12, 15}}, []Interval{{10, 12}, {15, 20}}},
		{"both ends", []Interval{{5, 12}, {18, 25}}, []Interval{{12, 18}}},
		{"side by side", []Interval{{10, 12}, {12, 20}}, nil},
		{"any order", []Interval{{15, 16}, {12, 18}, {11, 13}}, []Interval{{10, 11}, {18, 20}}},
		{"before", []Interval{{1, 2}}, []Interval{{10, 20}}},
		{"after", []Interval{{25, 30}}, []Interval{{10, 20}}},
	} {
		if d := cmp.Diff(tt.want, Uncovered(window, tt.covered)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

func TestUnexplainedOfTheCluster(t *testing.T) {
	gap := func(reason string, from, to Nanos) Gap {
		return Gap{Stream: chunker.Kubernetes, Reason: reason, From: from, To: to}
	}
	for _, tt := range []struct {
		name string
		m    Manifest
		want []Interval
	}{
		{"no cluster", Manifest{}, nil},
		{"a stream and no account", Manifest{Streams: []Stream{{Stream: chunker.Kubernetes}}}, []Interval{{10, 20}}},
		{"all", Manifest{Coverage: []Interval{{10, 20}}}, nil},
		{"a hand-over", Manifest{Coverage: []Interval{{10, 12}, {15, 20}}, Gaps: []Gap{gap(GapNotRunning, 12, 15)}}, nil},
		{"a hand-over that nobody explains", Manifest{Coverage: []Interval{{10, 12}, {15, 20}}, Gaps: []Gap{gap(GapNotRunning, 13, 15)}}, []Interval{{12, 13}}},
		{"nobody recorded", Manifest{Gaps: []Gap{gap(GapNotRunning, 10, 20)}}, nil},
		{"a gap of something later", Manifest{Gaps: []Gap{{Stream: "audit", Reason: GapEvicted, From: 10, To: 20}}}, []Interval{{10, 20}}},
	} {
		tt.m.Window = Interval{10, 20}
		if d := cmp.Diff(tt.want, tt.m.Unexplained()); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

func TestClock(t *testing.T) {
	w := Interval{1000, 2000}
	for _, tt := range []struct {
		name  string
		clock Clock
		want  Interval // by the node's clock
	}{
		{"the same", Clock{}, w},
		{"ahead", Clock{Offset: 300, Error: 5}, Interval{1300, 2300}},
		{"behind", Clock{Offset: -300, Error: 5}, Interval{700, 1700}},
		{"within the error", Clock{Offset: 300, Error: 300}, w},
		{"within the error, behind", Clock{Offset: -300, Error: 300}, w},
	} {
		got := tt.clock.Window(w)
		if got != tt.want {
			t.Errorf("%s: the window is %v, want %v", tt.name, got, tt.want)
		}
		if back := tt.clock.Hub(got); back != w {
			t.Errorf("%s: back it is %v, want %v", tt.name, back, w)
		}
	}
	// Sums stop at the ends instead of wrapping.
	for _, offset := range []Nanos{math.MinInt64, math.MaxInt64} {
		for _, i := range []Interval{(Clock{Offset: offset}).Window(w), (Clock{Offset: offset}).Hub(w)} {
			if i.From > i.To {
				t.Errorf("offset %d: %v", offset, i)
			}
		}
	}
}
