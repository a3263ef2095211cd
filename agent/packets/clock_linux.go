package packets

import (
	"time"

	"golang.org/x/sys/unix"
)

// maxSlew is more than the time of day can drift from the steady clock between
// two looks without being set.
const maxSlew = 50 * time.Millisecond

// A clock reads the time of day and the time since boot, at one instant. Both
// are slewed alike, and both go on while the machine sleeps, so that their
// difference changes only when the time of day is set. It reports false when it
// was interrupted between the two.
type clock func() (wall, boot int64, ok bool)

func systemClock() (wall, boot int64, ok bool) {
	var before, at, after unix.Timespec
	for range 3 {
		if unix.ClockGettime(unix.CLOCK_BOOTTIME, &before) != nil ||
			unix.ClockGettime(unix.CLOCK_REALTIME, &at) != nil ||
			unix.ClockGettime(unix.CLOCK_BOOTTIME, &after) != nil {
			return 0, 0, false
		}
		if after.Nano()-before.Nano() < int64(maxSlew)/10 {
			return at.Nano(), before.Nano(), true
		}
	}
	return at.Nano(), before.Nano(), false
}

// A stepper notices when the time of day is set.
type stepper struct {
	offset int64 // of the time of day from the time since boot
	set    bool
}

// look compares the clocks and returns by how much the time of day jumped since
// it last did.
func (s *stepper) look(c clock) (at, delta int64) {
	wall, boot, ok := c()
	if !ok {
		return wall, 0
	}
	offset := wall - boot
	delta = offset - s.offset
	known := s.set
	s.offset, s.set = offset, true
	if known && (delta > int64(maxSlew) || delta < -int64(maxSlew)) {
		return wall, delta
	}
	return wall, 0
}
