package agent

import (
	"testing"
	"time"

	"pcapsule/manifest"
)

func TestClock(t *testing.T) {
	const ms = int64(time.Millisecond)
	type exchange struct{ sent, received, replied, answered int64 }
	// at makes an exchange at a time of the node's clock, which is ahead of the
	// hub's: out and back are the delays.
	at := func(now, ahead, out, held, back int64) exchange {
		return exchange{now, now - ahead + out, now - ahead + out + held, now + out + held + back}
	}
	for _, c := range []struct {
		name      string
		exchanges []exchange
		offset    int64 // within the error that is claimed
		err       int64 // claimed at most
	}{
		{"never", nil, 0, unknownError},
		{"same", []exchange{at(1000*ms, 0, ms, 0, ms)}, 0, 2 * ms},
		{"ahead", []exchange{at(1000*ms, 500*ms, ms, 10_000*ms, ms)}, 500 * ms, 2 * ms},
		{"behind", []exchange{at(1000*ms, -500*ms, ms, 0, ms)}, -500 * ms, 2 * ms},
		{"one way slow", []exchange{at(1000*ms, 0, 40*ms, 0, 0)}, 0, 21 * ms},
		{"the quickest counts", []exchange{
			at(1000*ms, 5*ms, 40*ms, 0, 0), at(2000*ms, 5*ms, ms, 0, ms), at(3000*ms, 5*ms, 0, 0, 80*ms),
		}, 5 * ms, 2 * ms},
		{"eight of them", append([]exchange{at(1000*ms, 5*ms, 0, 0, 0)}, func() (l []exchange) {
			for i := range int64(8) {
				l = append(l, at(2000*ms+i*1000*ms, 5*ms, 20*ms, 0, 20*ms))
			}
			return l
		}()...), 5 * ms, 21 * ms},
		{"the hub's clock was set", []exchange{at(1000*ms, 0, ms, 0, ms), at(2000*ms, 900*ms, 20*ms, 0, 20*ms)}, 900 * ms, 21 * ms},
		{"set in between", []exchange{at(1000*ms, 0, ms, 0, ms), {2000 * ms, 2000 * ms, 9000 * ms, 2001 * ms}}, 0, 2 * ms},
		{"it went back", []exchange{{2000 * ms, 2000 * ms, 2001 * ms, 1000 * ms}}, 0, unknownError},
	} {
		t.Run(c.name, func(t *testing.T) {
			var k clock
			now := 1000 * ms
			for _, e := range c.exchanges {
				k.add(e.sent, e.received, e.replied, e.answered)
				now = max(now, e.answered)
			}
			got := k.at(now)
			if d := int64(got.Offset) - c.offset; max(d, -d) > int64(got.Error) {
				t.Errorf("offset is %d, want %d within %d", got.Offset, c.offset, got.Error)
			}
			if int64(got.Error) > c.err {
				t.Errorf("error is %d, want at most %d", got.Error, c.err)
			}
			k.reset()
			if got := k.at(now); got != (manifest.Clock{Error: unknownError}) {
				t.Errorf("after a reset the clock is %+v", got)
			}
		})
	}
}

func TestShift(t *testing.T) {
	w := manifest.Interval{From: 100, To: 200}
	for _, c := range []struct {
		clock manifest.Clock
		want  manifest.Interval
	}{
		{manifest.Clock{}, w},
		{manifest.Clock{Offset: 5, Error: 5}, w},
		{manifest.Clock{Offset: -5, Error: 5}, w},
		{manifest.Clock{Offset: 6, Error: 5}, manifest.Interval{From: 106, To: 206}},
		{manifest.Clock{Offset: -6, Error: 5}, manifest.Interval{From: 94, To: 194}},
	} {
		if got := c.clock.Window(w); got != c.want {
			t.Errorf("with %+v: %v, want %v", c.clock, got, c.want)
		}
	}
}
