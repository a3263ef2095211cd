package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"pcapsule/manifest"
)

// A moment is what people type for a point in time: RFC 3339, a date and a time of
// day in the local zone, or a time of day alone.
type moment struct {
	time.Time // of a time of day: on some day
	ofDay     bool
}

func parseMoment(s string, zone *time.Location) (moment, error) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return moment{Time: t}, nil
	}
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04"} {
		if t, err := time.ParseInLocation(layout, s, zone); err == nil {
			return moment{Time: t}, nil
		}
	}
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.Parse(layout, s); err == nil {
			return moment{t, true}, nil
		}
	}
	return moment{}, fmt.Errorf("time %q: want RFC 3339 as in 2026-03-01T14:32:00Z, or 14:32", s)
}

// on is the moment of a day.
func (m moment) on(day time.Time) time.Time {
	return time.Date(day.Year(), day.Month(), day.Day(), m.Hour(), m.Minute(), m.Second(), m.Nanosecond(), day.Location())
}

// before is the moment itself, or the latest of its time of day that is not after
// now.
func (m moment) before(now time.Time) time.Time {
	if !m.ofDay {
		return m.Time
	}
	t := m.on(now)
	if t.After(now) {
		t = m.on(now.AddDate(0, 0, -1))
	}
	return t
}

// within is the moment itself, or its time of day on the day of the window: the
// only one on which it is in the window or, where it is in none, the only one that
// there is. It returns an error when there are several.
func (m moment) within(window manifest.Interval, zone *time.Location) (time.Time, error) {
	if !m.ofDay {
		return m.Time, nil
	}
	first, last := window.From.Time().In(zone), window.To.Add(-1).Time().In(zone)
	var in []time.Time
	for day := noon(first); len(in) < 2 && !day.After(noon(last)); day = day.AddDate(0, 0, 1) {
		if t := m.on(day); !t.Before(first) && !t.After(last) {
			in = append(in, t)
		}
	}
	switch {
	case len(in) == 1:
		return in[0], nil
	case len(in) == 0 && noon(first).Equal(noon(last)):
		return m.on(first), nil
	case len(in) == 0:
		in = []time.Time{m.on(first), m.on(last)}
	}
	return time.Time{}, fmt.Errorf("the snapshot is from %s to %s: say which day, as in %s or %s",
		first.Format(time.RFC3339), last.Format(time.RFC3339), in[0].Format(time.RFC3339), in[1].Format(time.RFC3339))
}

// noon stands for a day: every day has one, and one only.
func noon(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), 12, 0, 0, 0, t.Location())
}

// timeRange reads --from and --to of a command that reads a snapshot. It calls
// window, which is the snapshot's, when a time of day stands alone, and says which
// day was taken.
func timeRange(c *cli.Context, window func() (manifest.Interval, error)) (r manifest.Range, err error) {
	now := time.Now()
	var times []time.Time
	for _, f := range []struct {
		name string
		to   **manifest.Nanos
	}{{"from", &r.From}, {"to", &r.To}} {
		if !c.IsSet(f.name) {
			continue
		}
		m, err := parseMoment(c.String(f.name), now.Location())
		if err != nil {
			return r, usagef("--%s: %v", f.name, err)
		}
		t := m.Time
		if m.ofDay {
			w, err := window()
			if err != nil {
				return r, err
			}
			if t, err = m.within(w, now.Location()); err != nil {
				return r, usagef("--%s %s: %v", f.name, c.String(f.name), err)
			}
			if !noon(t).Equal(noon(now)) {
				fmt.Fprintf(c.App.ErrWriter, "pcapsule: --%s %s is taken for %s, in the snapshot's window\n", f.name, c.String(f.name), t.Format(time.RFC3339Nano))
			}
		}
		ns := manifest.NanosOf(t)
		*f.to = &ns
		times = append(times, t)
	}
	if len(times) == 2 && !times[0].Before(times[1]) {
		return r, usagef("--to is not after --from: from %s to %s", times[0].Format(time.RFC3339Nano), times[1].Format(time.RFC3339Nano))
	}
	return r, nil
}
