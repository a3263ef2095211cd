//go:build linux

package ring

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

// TestCapturing remembers what was to be recorded, over restarts and for as long
// as the ring holds packets of that time.
func TestCapturing(t *testing.T) {
	dir := t.TempDir()
	clock := time.Unix(0, 0)
	opt := testOptions()
	opt.Now = func() time.Time { return clock }
	all := manifest.Selection{Excluded: []string{"the hub"}}
	named := manifest.Selection{Interfaces: []string{"eth0"}}
	run := func(what manifest.Selection, from, to manifest.Nanos, then func(*Ring)) {
		t.Helper()
		clock = time.Unix(int64(to/sec), 0)
		r := open(t, dir, opt)
		r.Begin(chunker.Packets, int64(from))
		r.Capturing(what, int64(from))
		r.Flushed(chunker.Packets, int64(to))
		if then != nil {
			then(r)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	has := func(r *Ring, from, to manifest.Nanos, want ...manifest.Capture) {
		t.Helper()
		got := r.Ledger(chunker.Packets, int64(from), int64(to)).Capture
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("from %d to %d (-want +got):\n%s", from, to, d)
		}
		if err := manifest.CheckCaptures(got); err != nil {
			t.Error(err)
		}
	}
	run(all, 10*sec, 20*sec, nil)
	run(all, 30*sec, 40*sec, func(r *Ring) { // the same goes on
		has(r, 0, 100*sec, manifest.Capture{From: 10 * sec, To: 40 * sec, Selection: all})
	})
	run(named, 50*sec, 60*sec, func(r *Ring) {
		has(r, 0, 100*sec, manifest.Capture{From: 10 * sec, To: 40 * sec, Selection: all}, manifest.Capture{From: 50 * sec, To: 60 * sec, Selection: named})
		has(r, 20*sec, 30*sec, manifest.Capture{From: 20 * sec, To: 30 * sec, Selection: all})
		has(r, 45*sec, 48*sec)
		if l := r.Ledger(chunker.Kubernetes, 0, 100e9); l.Capture != nil {
			t.Errorf("another stream says %+v", l.Capture)
		}
		// The clock is set back.
		r.Step(chunker.Packets, int64(5*sec), int64(-55*sec))
		r.Flushed(chunker.Packets, int64(8*sec))
		has(r, 0, 9*sec, manifest.Capture{From: 5 * sec, To: 9 * sec, Selection: named})
		has(r, 0, 100*sec, manifest.Capture{From: 5 * sec, To: 60 * sec, Selection: named}, manifest.Capture{From: 10 * sec, To: 40 * sec, Selection: all})
		r.mu.Lock()
		r.state.Evicted = map[string]manifest.Nanos{chunker.Packets: 45 * sec}
		r.mu.Unlock()
	})
	run(all, 70*sec, 80*sec, func(r *Ring) { // the ring holds nothing of the first any more
		has(r, 0, 100*sec, manifest.Capture{From: 5 * sec, To: 60 * sec, Selection: named}, manifest.Capture{From: 70 * sec, To: 80 * sec, Selection: all})
	})
	run(named, 90*sec, 91*sec, func(r *Ring) {
		for i := range 2 * manifest.MaxCaptures {
			r.Capturing(manifest.Selection{Interfaces: []string{fmt.Sprint(i)}}, int64(100*sec)+int64(i))
		}
	})
	run(all, 1000*sec, 1001*sec, func(r *Ring) {
		l := r.Ledger(chunker.Packets, 0, int64(2000*sec))
		if n := len(l.Capture); n != manifest.MaxCaptures || !l.Capture[n-1].Equal(all) {
			t.Errorf("%d settings are remembered, want the newest %d", n, manifest.MaxCaptures)
		}
	})
}
