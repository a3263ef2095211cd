package main

import (
	"fmt"
	"time"
)

// parseTime reads what people type for a point in time: RFC 3339, a date and a
// time of day in the local zone, or a time of day alone, which is the latest one
// not after now.
func parseTime(s string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04"} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"15:04:05", "15:04"} {
		if t, err := time.Parse(layout, s); err == nil {
			d := time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), now.Location())
			if d.After(now) {
				d = d.AddDate(0, 0, -1)
			}
			return d, nil
		}
	}
	return time.Time{}, fmt.Errorf("time %q: want RFC 3339 as in 2026-03-01T14:32:00Z, or 14:32 for today", s)
}
