package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// A Capture is what a node was told to record during a time, and so what it left
// out on purpose.
type Capture struct {
	From Nanos `json:"from"`
	To   Nanos `json:"to"`
	Selection
}

// A Selection says what is recorded, and what is left out.
type Selection struct {
	Interfaces []string `json:"interfaces,omitempty"` // that were named; all when none was
	Targets    *Targets `json:"targets,omitempty"`    // in a cluster: of which pods
	Excluded   []string `json:"excluded,omitempty"`   // for people: what is never recorded
	Filter     string   `json:"filter,omitempty"`     // expression that packets had to match
	Abridged   bool     `json:"abridged,omitempty"`   // not all of it fits
}

// Targets say of which pods of a cluster packets are recorded: of those that match
// all of it.
type Targets struct {
	Regex      string   `json:"regex,omitempty"` // found in a pod's name
	Namespaces []string `json:"namespaces,omitempty"`
	Excluded   []string `json:"excluded_namespaces,omitempty"`
}

// Bounds of what a node says of its captures.
const (
	MaxCaptures   = 64   // of one node
	MaxSelected   = 1024 // texts in each list of a Selection
	MaxExpression = 4096 // bytes of a regular expression or filter
)

// Fit makes a selection one that a manifest can hold: texts as Clean makes them,
// lists cut to their bounds. Abridged tells whether anything was lost.
func (s Selection) Fit() Selection {
	list := func(in []string, distinct bool) (out []string) {
		for _, text := range in {
			clean := Clean(text)
			s.Abridged = s.Abridged || clean != text
			if clean == "" || distinct && slices.Contains(out, clean) {
				continue
			}
			if len(out) == MaxSelected {
				s.Abridged = true
				break
			}
			out = append(out, clean)
		}
		return out
	}
	expression := func(in string) string {
		out := cleanTo(in, MaxExpression)
		s.Abridged = s.Abridged || out != in
		return out
	}
	s.Interfaces, s.Excluded, s.Filter = list(s.Interfaces, true), list(s.Excluded, false), expression(s.Filter)
	if s.Targets != nil {
		s.Targets = &Targets{
			Regex: expression(s.Targets.Regex), Namespaces: list(s.Targets.Namespaces, true), Excluded: list(s.Targets.Excluded, true),
		}
	}
	return s
}

// Equal tells whether both select the same.
func (s Selection) Equal(o Selection) bool {
	same := slices.Equal(s.Interfaces, o.Interfaces) && slices.Equal(s.Excluded, o.Excluded) &&
		s.Filter == o.Filter && s.Abridged == o.Abridged && (s.Targets == nil) == (o.Targets == nil)
	if !same || s.Targets == nil {
		return same
	}
	return s.Targets.Regex == o.Targets.Regex && slices.Equal(s.Targets.Namespaces, o.Targets.Namespaces) &&
		slices.Equal(s.Targets.Excluded, o.Targets.Excluded)
}

// ClipCaptures returns what of list applied in a window, in order.
func ClipCaptures(list []Capture, window Interval) (in []Capture) {
	for _, c := range list {
		c.From, c.To = max(c.From, window.From), min(c.To, window.To)
		if c.From < c.To {
			in = append(in, c)
		}
	}
	slices.SortStableFunc(in, func(a, b Capture) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To)) })
	return in
}

// Dark returns the times, in order, in which interfaces were named and not one of
// them could be recorded, as the gaps of each tell.
func Dark(list []Capture, gaps []Gap) []Interval {
	of := map[string][]Interval{} // when an interface could not be recorded
	for _, g := range gaps {
		if g.ofInterface() {
			of[g.Interface] = append(of[g.Interface], Interval{From: g.From, To: g.To})
		}
	}
	var dark []Interval
	for _, c := range list {
		in := []Interval{{From: c.From, To: c.To}}
		for _, name := range c.Interfaces {
			in = Intersect(in, Union(of[name]))
		}
		if len(c.Interfaces) > 0 {
			dark = append(dark, in...)
		}
	}
	return Union(dark)
}

// ofInterface tells whether the gap is of one interface that was named, and the
// others went on.
func (g Gap) ofInterface() bool {
	return g.Reason == GapInterfaceGone || g.Reason == GapInterfaceDown
}

// CheckCaptures tells whether list is what a manifest may hold of a node.
func CheckCaptures(list []Capture) error {
	if len(list) > MaxCaptures {
		return fmt.Errorf("%d captures, at most %d", len(list), MaxCaptures)
	}
	for i, c := range list {
		if c.From >= c.To {
			return fmt.Errorf("capture from %d to %d is empty", c.From, c.To)
		}
		if i > 0 && list[i-1].From > c.From {
			return fmt.Errorf("capture from %d is out of order", c.From)
		}
		if err := c.validate(); err != nil {
			return fmt.Errorf("capture from %d: %w", c.From, err)
		}
	}
	return nil
}

func (s Selection) validate() error {
	lists := [][]string{s.Interfaces, s.Excluded}
	expressions := []string{s.Filter}
	distinct := [][]string{s.Interfaces}
	if t := s.Targets; t != nil {
		lists = append(lists, t.Namespaces, t.Excluded)
		distinct = append(distinct, t.Namespaces, t.Excluded)
		expressions = append(expressions, t.Regex)
	}
	for _, list := range lists {
		if len(list) > MaxSelected {
			return fmt.Errorf("%d texts in a list, at most %d", len(list), MaxSelected)
		}
		if err := checkTexts("text", list); err != nil {
			return err
		}
		if slices.Contains(list, "") {
			return errors.New("a text is empty")
		}
	}
	for _, list := range distinct {
		seen := map[string]bool{}
		for _, name := range list {
			if seen[name] {
				return fmt.Errorf("%q is named twice", name)
			}
			seen[name] = true
		}
	}
	for _, e := range expressions {
		if err := checkTextTo("expression", e, MaxExpression); err != nil {
			return err
		}
	}
	return nil
}
