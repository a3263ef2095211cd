package manifest

import (
	"testing"

	"github.com/google/go-cmp/cmp"
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
