package manifest

import (
	"fmt"
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

// NanosOf is the reverse of Time.
func NanosOf(t time.Time) Nanos { return Nanos(t.UnixNano()) }
