package manifest

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// Nanos is a time in nanoseconds since the Unix epoch, or a span of them. In
// JSON it is a decimal string, which survives readers that hold numbers as
// floating point.
type Nanos int64

// MarshalText writes the decimal.
func (n Nanos) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(n), 10), nil }

// UnmarshalText reads what MarshalText writes, and nothing else.
func (n *Nanos) UnmarshalText(b []byte) error {
	v, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil || strconv.FormatInt(v, 10) != string(b) {
		return fmt.Errorf("time %.40q: want nanoseconds in decimal", b)
	}
	*n = Nanos(v)
	return nil
}

// Time is n as a point in time, in UTC.
func (n Nanos) Time() time.Time { return time.Unix(0, int64(n)).UTC() }

// The first and the last time that Nanos can hold, of the years 1677 and 2262.
const (
	MinNanos Nanos = math.MinInt64
	MaxNanos Nanos = math.MaxInt64
)

// NanosOf is the reverse of Time. A time before MinNanos or after MaxNanos becomes
// the nearer of the two.
func NanosOf(t time.Time) Nanos {
	switch {
	case t.Before(MinNanos.Time()):
		return MinNanos
	case t.After(MaxNanos.Time()):
		return MaxNanos
	}
	return Nanos(t.UnixNano())
}

// Add is n + d. It stops at the ends of what Nanos can hold instead of wrapping.
func (n Nanos) Add(d Nanos) Nanos {
	switch {
	case d > 0 && n > math.MaxInt64-d:
		return MaxNanos
	case d < 0 && n < math.MinInt64-d:
		return MinNanos
	}
	return n + d
}

// Window is an interval of the creator's time by the node's clock. An offset that
// is within its own error says nothing, and is left alone.
func (c Clock) Window(w Interval) Interval {
	ahead := c.ahead()
	return Interval{From: w.From.Add(ahead), To: w.To.Add(ahead)}
}

// Hub is the reverse of Window: an interval of the node's time by the creator's
// clock.
func (c Clock) Hub(i Interval) Interval {
	ahead := c.ahead()
	if ahead == math.MinInt64 { // which has no opposite
		ahead++
	}
	return Interval{From: i.From.Add(-ahead), To: i.To.Add(-ahead)}
}

func (c Clock) ahead() Nanos {
	if c.Offset <= c.Error && c.Offset.Add(c.Error) >= 0 {
		return 0
	}
	return c.Offset
}
