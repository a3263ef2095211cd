//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
)

// An aim is what was wanted of pcapsule, and what it did.
type aim struct {
	what     string
	measured float64
	wanted   float64
	most     bool // wanted is the most that is allowed, and not the least
}

func atLeast(what string, measured, wanted float64) aim { return aim{what, measured, wanted, false} }
func atMost(what string, measured, wanted float64) aim  { return aim{what, measured, wanted, true} }

func (a aim) met() bool {
	if a.most {
		return a.measured <= a.wanted
	}
	return a.measured >= a.wanted
}

// verdict says whether the aim is met, and by how much it is missed.
func (a aim) verdict() string {
	switch {
	case a.met():
		return "met"
	case a.wanted == 0:
		return "**missed**"
	}
	percent := 100 * (a.measured - a.wanted) / a.wanted
	if a.most {
		return fmt.Sprintf("**missed**: %.0f%% too much", percent)
	}
	return fmt.Sprintf("**missed**: %.0f%% too little", -percent)
}

func (a aim) bound() string {
	if a.most {
		return "at most " + number(a.wanted)
	}
	return "at least " + number(a.wanted)
}

// number has three digits, or all before the point.
func number(v float64) string {
	switch {
	case v == float64(int64(v)) || v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// A section is what one benchmark found.
type section struct {
	title   string
	intro   string
	columns []string
	rows    [][]string
	notes   []string
	aims    []aim
	load    string // before it began
	skipped string // why there is nothing
	failed  string // why there is no more
}

type report struct {
	machine  []string
	sections []section
}

func (r *report) missed() (lines []string) {
	for _, s := range r.sections {
		for _, a := range s.aims {
			if !a.met() {
				lines = append(lines, fmt.Sprintf("%s: %s, wanted %s", a.what, number(a.measured), a.bound()))
			}
		}
	}
	return lines
}

func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("# Benchmarks\n\nWritten by `make bench`. Figures are the median of several runs, in brackets the least and the greatest.\n\n")
	for _, line := range r.machine {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	b.WriteString("\n## Aims\n\n")
	var rows [][]string
	for _, s := range r.sections {
		for _, a := range s.aims {
			rows = append(rows, []string{a.what, number(a.measured), a.bound(), a.verdict()})
		}
		if why := s.skipped + s.failed; why != "" {
			rows = append(rows, []string{s.title, "", "", why})
		}
	}
	table(&b, []string{"aim", "measured", "wanted", ""}, rows)
	for _, s := range r.sections {
		fmt.Fprintf(&b, "\n## %s\n\n", s.title)
		if s.skipped != "" {
			fmt.Fprintf(&b, "Skipped: %s.\n", s.skipped)
			continue
		}
		b.WriteString(strings.TrimSpace(s.intro) + "\n\n")
		table(&b, s.columns, s.rows)
		for _, n := range s.notes {
			fmt.Fprintf(&b, "\n%s\n", n)
		}
		if s.failed != "" {
			fmt.Fprintf(&b, "\n**Failed:** %s\n", s.failed)
		}
		fmt.Fprintf(&b, "\nLoad of the machine when it began: %s.\n", s.load)
	}
	return b.String()
}

func table(b *strings.Builder, columns []string, rows [][]string) {
	line := func(cells []string) { fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | ")) }
	line(columns)
	line(slices.Repeat([]string{"---"}, len(columns)))
	for _, r := range rows {
		for i, cell := range r {
			r[i] = strings.ReplaceAll(strings.ReplaceAll(cell, "|", `\|`), "\n", " ")
		}
		line(r)
	}
}
