package main

import (
	"strings"
	"testing"
	"time"

	"pcapsule/manifest"
)

func TestMoments(t *testing.T) {
	zone := time.FixedZone("CET", 3600)
	now := time.Date(2026, 3, 1, 14, 50, 0, 0, zone)
	for _, tt := range []struct{ in, want string }{
		{"2026-03-01T14:32:00Z", "2026-03-01T14:32:00Z"},
		{"2026-03-01T14:32:00.123456789+02:00", "2026-03-01T12:32:00.123456789Z"},
		{"2026-03-01 14:32", "2026-03-01T13:32:00Z"},
		{"14:32", "2026-03-01T13:32:00Z"},
		{"14:32:10", "2026-03-01T13:32:10Z"},
		{"15:00", "2026-02-28T14:00:00Z"}, // not yet today
		{"1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"},
		{"9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"},
		{"yesterday", ""},
		{"", ""},
	} {
		m, err := parseMoment(tt.in, zone)
		if (err != nil) != (tt.want == "") {
			t.Errorf("%q: error %v", tt.in, err)
			continue
		}
		if got := m.before(now).UTC().Format(time.RFC3339Nano); err == nil && got != tt.want {
			t.Errorf("%q: %s, want %s", tt.in, got, tt.want)
		}
	}
}

// TestDayOfWindow: a time of day alone is that of the snapshot's day, where there
// is one such day, by the calendar of the user's zone.
func TestDayOfWindow(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, from, to, at, want string
		wrong                    []string
	}{
		{"inside", "2025-06-01T14:00:00+02:00", "2025-06-01T15:00:00+02:00", "14:32", "2025-06-01T14:32:00+02:00", nil},
		{"before it, on the same day", "2025-06-01T14:00:00+02:00", "2025-06-01T15:00:00+02:00", "09:00", "2025-06-01T09:00:00+02:00", nil},
		{"over midnight, before", "2025-06-01T23:50:00+02:00", "2025-06-02T00:10:00+02:00", "23:55", "2025-06-01T23:55:00+02:00", nil},
		{"over midnight, after", "2025-06-01T23:50:00+02:00", "2025-06-02T00:10:00+02:00", "00:05", "2025-06-02T00:05:00+02:00", nil},
		{"over midnight in UTC only", "2025-06-02T01:30:00+02:00", "2025-06-02T02:30:00+02:00", "09:00", "2025-06-02T09:00:00+02:00", nil},
		{"a day and more", "2025-06-01T14:00:00+02:00", "2025-06-02T15:00:00+02:00", "14:32", "", []string{"2025-06-01T14:32:00+02:00", "2025-06-02T14:32:00+02:00"}},
		{"outside of two days", "2025-06-01T23:50:00+02:00", "2025-06-02T00:10:00+02:00", "12:00", "", []string{"2025-06-01T12:00:00+02:00", "2025-06-02T12:00:00+02:00"}},
		{"years", "1970-01-01T01:00:00+01:00", "2262-01-01T00:00:00+01:00", "12:00", "", []string{"1970-01-01T12:00:00+01:00", "1970-01-02T12:00:00+01:00"}},
		{"the clock goes back", "2025-10-25T23:00:00+02:00", "2025-10-26T04:00:00+01:00", "03:30", "2025-10-26T03:30:00+01:00", nil},
	} {
		parse := func(s string) manifest.Nanos {
			ns, err := manifest.ParseTime(s)
			if err != nil {
				t.Fatal(err)
			}
			return ns
		}
		m, err := parseMoment(tt.at, berlin)
		if err != nil {
			t.Fatal(err)
		}
		got, err := m.within(manifest.Interval{From: parse(tt.from), To: parse(tt.to)}, berlin)
		if (err != nil) != (tt.want == "") || err == nil && got.Format(time.RFC3339) != tt.want {
			t.Errorf("%s: %s, error %v, want %s", tt.name, got.Format(time.RFC3339), err, tt.want)
		}
		for _, day := range tt.wrong {
			if !strings.Contains(err.Error(), day) {
				t.Errorf("%s: error %q does not name %s", tt.name, err, day)
			}
		}
	}
}
