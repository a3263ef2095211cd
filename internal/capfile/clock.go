package capfile

import (
	"fmt"
	"math"
	"math/bits"

	"pcapsule/internal/pcapng"
)

// clock is what the packet times of an interface mean.
type clock struct {
	resolution byte  // as if_tsresol: 10^-n seconds a tick, or 2^-n with the top bit set
	offset     int64 // seconds to add
	unknown    bool  // the interface is not described
}

// latest is the last time that pcapsule keeps: intervals end after their last
// nanosecond, and that has to be a time, too.
const latest uint64 = math.MaxInt64 - 1

// String is how long a tick is, in seconds; empty for the nanoseconds of chunks.
func (c clock) String() string {
	switch {
	case c.resolution == pcapng.Nanoseconds:
		return ""
	case c.resolution&0x80 != 0:
		return fmt.Sprintf("2^-%d", c.resolution&0x7f)
	}
	return fmt.Sprintf("10^-%d", c.resolution)
}

// nanoseconds is the time of ticks, since the Unix epoch, and whether it is one
// that pcapsule can keep: from 1970 to 2262.
func (c clock) nanoseconds(ticks uint64) (int64, bool) {
	ns, ok := scaleTicks(ticks, c.resolution)
	const maxSeconds = math.MaxInt64 / 1_000_000_000
	if !ok || c.offset > maxSeconds || c.offset < -maxSeconds {
		return 0, false
	}
	if c.offset < 0 {
		back := uint64(-c.offset) * 1e9
		if ns < back {
			return 0, false
		}
		ns -= back
	} else if ahead := uint64(c.offset) * 1e9; ns > latest-ahead {
		return 0, false
	} else {
		ns += ahead
	}
	return int64(ns), ns <= latest
}

// finer tells whether ticks are shorter than a nanosecond.
func (c clock) finer() bool {
	n := c.resolution & 0x7f
	return c.resolution&0x80 == 0 && n > 9 || c.resolution&0x80 != 0 && n > 29
}

// scaleTicks is ticks in nanoseconds, and whether they fit.
func scaleTicks(ticks uint64, resolution byte) (uint64, bool) {
	n := resolution & 0x7f
	if resolution&0x80 != 0 { // 2^-n seconds
		hi, lo := bits.Mul64(ticks, 1e9)
		if n > 63 {
			return hi >> (n - 64), true
		}
		if n > 0 && hi>>n != 0 || n == 0 && hi != 0 {
			return 0, false
		}
		return hi<<(64-n) | lo>>n, true
	}
	for ; n > 9; n-- {
		ticks /= 10
	}
	for ; n < 9; n++ {
		hi, lo := bits.Mul64(ticks, 10)
		if hi != 0 {
			return 0, false
		}
		ticks = lo
	}
	return ticks, true
}
