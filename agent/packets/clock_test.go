//go:build linux

package packets

import (
	"sync/atomic"
	"testing"
	"time"
)

// TestStepper tells a clock that is set from one that is slewed.
func TestStepper(t *testing.T) {
	const second = int64(time.Second)
	var s stepper
	for i, tt := range []struct {
		wall, boot int64
		ok         bool
		delta      int64
	}{
		{1000 * second, 0, true, 0},
		{1001 * second, second, true, 0},
		{1002*second + 500e3, 2 * second, true, 0},            // slewed
		{1003*second + 49e6, 3 * second, true, 0},             // as far as may be
		{1004*second + 100e6, 4 * second, true, 51e6},         // set
		{1005*second + 100e6, 5 * second, true, 0},            // told once
		{900*second + 100e6, 6 * second, false, 0},            // not read at one instant
		{907*second + 100e6, 7 * second, true, -100 * second}, // back
		{9999*second + 100e6, 9099 * second, true, 0},         // the machine slept
	} {
		at, delta := s.look(func() (int64, int64, bool) { return tt.wall, tt.boot, tt.ok })
		if at != tt.wall || delta != tt.delta {
			t.Errorf("%d: stepped by %d at %d, want %d at %d", i, delta, at, tt.delta, tt.wall)
		}
	}
	var real stepper
	real.look(systemClock)
	if _, delta := real.look(systemClock); delta != 0 {
		t.Errorf("the system's clock stepped by %d", delta)
	}
}

// TestClockStep reports it while capturing.
func TestClockStep(t *testing.T) {
	namespace(t)
	var jump atomic.Int64
	type step struct{ at, delta int64 }
	steps := make(chan step, 10)
	begun := make(chan struct{}, 1000)
	beginClock(t, Config{OnClockStep: func(at, delta int64) { steps <- step{at, delta} }}, func() (int64, int64, bool) {
		wall, boot, ok := systemClock()
		select {
		case begun <- struct{}{}:
		default:
		}
		return wall + jump.Load(), boot, ok
	})
	for range 20 {
		<-begun // so that the clock was looked at before
	}
	jump.Store(-int64(time.Hour))
	s := <-steps
	if d := time.Duration(s.delta + int64(time.Hour)).Abs(); d > time.Second {
		t.Errorf("stepped by %v", time.Duration(s.delta))
	}
	if d := time.Since(time.Unix(0, s.at)) - time.Hour; d.Abs() > 10*time.Second {
		t.Errorf("stepped at %v", time.Unix(0, s.at))
	}
}
