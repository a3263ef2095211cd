package manifest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
)

// TestDark finds when not one of the interfaces that were named could be
// recorded.
func TestDark(t *testing.T) {
	capture := func(from, to Nanos, names ...string) Capture {
		return Capture{From: from, To: to, Selection: Selection{Interfaces: names}}
	}
	gap := func(name, reason string, from, to Nanos) Gap {
		return Gap{Stream: chunker.Packets, Reason: reason, Interface: name, From: from, To: to}
	}
	const gone, down = GapInterfaceGone, GapInterfaceDown
	for _, tt := range []struct {
		name    string
		capture []Capture
		gaps    []Gap
		dark    []Interval
		rest    []Interval // of 0 to 100 without coverage: unexplained
	}{
		{"all interfaces", []Capture{capture(0, 100)}, []Gap{gap("a", gone, 0, 100)}, nil, []Interval{{0, 100}}},
		{"the only one", []Capture{capture(0, 100, "a")}, []Gap{gap("a", gone, 10, 20), gap("a", down, 20, 30)}, []Interval{{10, 30}}, []Interval{{0, 10}, {30, 100}}},
		{"one of two", []Capture{capture(0, 100, "a", "b")}, []Gap{gap("a", gone, 0, 100)}, nil, []Interval{{0, 100}}},
		{"both, for a while", []Capture{capture(0, 100, "a", "b")}, []Gap{gap("a", gone, 0, 50), gap("b", down, 40, 60)}, []Interval{{40, 50}}, []Interval{{0, 40}, {50, 100}}},
		{"before other settings", []Capture{capture(0, 50, "a"), capture(50, 100)}, []Gap{gap("a", gone, 0, 100)}, []Interval{{0, 50}}, []Interval{{50, 100}}},
		{"another reason", []Capture{capture(0, 100, "a")}, []Gap{gap("a", GapKernelDrop, 0, 100)}, nil, []Interval{{0, 100}}},
		{"nobody says what was to be recorded", nil, []Gap{gap("a", gone, 0, 100)}, nil, nil},
	} {
		if d := cmp.Diff(tt.dark, Dark(tt.capture, tt.gaps)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
		n := Node{Capture: tt.capture, Gaps: tt.gaps}
		if d := cmp.Diff(tt.rest, n.Unexplained(Interval{0, 100})); d != "" {
			t.Errorf("%s: unexplained (-want +got):\n%s", tt.name, d)
		}
	}
}

func TestIntervals(t *testing.T) {
	a := []Interval{{0, 10}, {20, 30}, {40, 50}}
	for _, tt := range []struct {
		name       string
		b          []Interval
		both, only []Interval // in a and b; in a alone
	}{
		{"nothing", nil, nil, a},
		{"all", []Interval{{0, 50}}, a, nil},
		{"the same", a, a, nil},
		{"between", []Interval{{10, 20}, {30, 40}}, nil, a},
		{"parts", []Interval{{5, 25}, {28, 29}, {49, 60}}, []Interval{{5, 10}, {20, 25}, {28, 29}, {49, 50}}, []Interval{{0, 5}, {25, 28}, {29, 30}, {40, 49}}},
		{"many in one", []Interval{{1, 2}, {3, 4}}, []Interval{{1, 2}, {3, 4}}, []Interval{{0, 1}, {2, 3}, {4, 10}, {20, 30}, {40, 50}}},
	} {
		if d := cmp.Diff(tt.both, Intersect(a, tt.b)); d != "" {
			t.Errorf("%s: in both (-want +got):\n%s", tt.name, d)
		}
		if d := cmp.Diff(tt.only, Subtract(a, tt.b)); d != "" {
			t.Errorf("%s: in the first alone (-want +got):\n%s", tt.name, d)
		}
	}
	if d := cmp.Diff([]Interval{{0, 7}, {8, 9}}, Union([]Interval{{8, 9}, {3, 5}, {0, 4}, {6, 6}, {5, 7}})); d != "" {
		t.Errorf("union (-want +got):\n%s", d)
	}
}

// TestFit makes any selection one that a manifest holds, and says what is lost.
func TestFit(t *testing.T) {
	whole := Selection{
		Interfaces: []string{"eth0"}, Excluded: []string{"x", "x"}, Filter: strings.Repeat("a", MaxExpression),
		Targets: &Targets{Regex: "a|b", Namespaces: []string{"n"}},
	}
	if d := cmp.Diff(whole, whole.Fit()); d != "" {
		t.Errorf("what fits is changed:\n%s", d)
	}
	many := make([]string, MaxSelected+1)
	for i := range many {
		many[i] = strings.Repeat("n", i+1)
	}
	for name, s := range map[string]Selection{
		"many interfaces": {Interfaces: many},
		"long texts":      {Excluded: []string{strings.Repeat("ä", MaxText)}},
		"unprintable":     {Targets: &Targets{Regex: "a\tb"}},
		"a long filter":   {Filter: strings.Repeat("ä", MaxExpression)},
		"many namespaces": {Targets: &Targets{Excluded: many}},
	} {
		got := s.Fit()
		if !got.Abridged {
			t.Errorf("%s: it does not say that it is abridged", name)
		}
		if err := CheckCaptures([]Capture{{From: 1, To: 2, Selection: got}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got.Equal(s) || !got.Equal(got.Fit()) {
			t.Errorf("%s: it is not told apart", name)
		}
	}
	twice := Selection{Interfaces: []string{"a", "a", ""}}.Fit()
	if d := cmp.Diff(Selection{Interfaces: []string{"a"}}, twice); d != "" {
		t.Errorf("named twice:\n%s", d)
	}
}

func TestCheckCaptures(t *testing.T) {
	ok := Capture{From: 1, To: 2}
	change := func(f func(*Capture)) []Capture {
		c := ok
		f(&c)
		return []Capture{c}
	}
	many := make([]Capture, MaxCaptures+1)
	for i := range many {
		many[i] = ok
	}
	for name, list := range map[string][]Capture{
		"empty":              {{From: 2, To: 2}},
		"out of order":       {{From: 2, To: 3}, {From: 1, To: 2}},
		"too many":           many,
		"an interface twice": change(func(c *Capture) { c.Interfaces = []string{"a", "a"} }),
		"no name":            change(func(c *Capture) { c.Interfaces = []string{""} }),
		"unprintable":        change(func(c *Capture) { c.Excluded = []string{"\x1b"} }),
		"a long filter":      change(func(c *Capture) { c.Filter = strings.Repeat("x", MaxExpression+1) }),
		"unprintable regex":  change(func(c *Capture) { c.Targets = &Targets{Regex: "\n"} }),
		"many namespaces":    change(func(c *Capture) { c.Targets = &Targets{Namespaces: make([]string, MaxSelected+1)} }),
	} {
		if CheckCaptures(list) == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
	if err := CheckCaptures([]Capture{{From: 1, To: 5}, {From: 2, To: 3}}); err != nil {
		t.Errorf("captures that overlap, as after a clock was set back: %v", err)
	}
	n := Node{Name: "n", Status: Unreachable, Capture: []Capture{ok}}
	if n.Validate() == nil {
		t.Error("a node that did not answer says what it records")
	}
}
