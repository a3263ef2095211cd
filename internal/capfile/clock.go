package capfile

import (
	"math"
	"math/bits"
)

// clock is what the packet times of an interface mean.
type clock struct {
	resolution byte  // as if_tsresol: 10^-n seconds a tick, or 2^-n with the top bit set
	offset     int64 // seconds to add
}

// nanoseconds is the time of ticks, since the Unix epoch, and whether it is one
// that pcapsule can keep: from 1970 to 2262.
func (c clock) nanoseconds(ticks uint64) (int64, bool) {
	ns, ok := scaleTicks(ticks, c.resolution)
	if !ok || ns > math.MaxInt64 {
		return 0, false
	}
	const maxSeconds = math.MaxInt64 / 1_000_000_000
	if c.offset > maxSeconds || c.offset < -maxSeconds {
		return 0, false
	}
	t := int64(ns) + c.offset*1e9
	if t < 0 || c.offset > 0 && t < int64(ns) {
		return 0, false
	}
	return t, true
}

// scaleTicks is ticks in nanoseconds, and whether they fit.
func scaleTicks(ticks uint64, resolution byte) (uint64, bool) {
	n := resolution & 0x7f
	if resolution&0x80 != 0 { // 2^-n seconds
		if n > 63 {
			return 0, true
		}
		hi, lo := bits.Mul64(ticks, 1e9)
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
