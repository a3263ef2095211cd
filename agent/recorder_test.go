//go:build linux

package agent

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/agent/packets"
	"pcapsule/agent/ring"
	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
)

// testClock is a clock that the test sets.
type testClock struct{ atomic.Int64 }

func (c *testClock) now() time.Time { return time.Unix(0, c.Load()) }

func (c *testClock) set(t time.Time) { c.Store(t.UnixNano()) }

// record opens a recorder with a ring.
func record(t *testing.T, clock *testClock) *recorder {
	t.Helper()
	r, err := ring.Open(t.TempDir(), ring.Options{Limit: 8 << 20, PartSize: 1 << 20, Now: clock.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	r.Begin(chunker.Packets, clock.Load())
	return newRecorder(r, Config{ChunkSize: 512 << 10, ChunkAge: time.Minute}, chunker.Header{Node: "n"}, clock.now)
}

// covered is until when the ledger says that everything is in the ring.
func covered(rec *recorder, from time.Time) time.Duration {
	l := rec.ring.Ledger(chunker.Packets, from.UnixNano(), from.Add(time.Hour).UnixNano())
	if len(l.Coverage) == 0 {
		return 0
	}
	return l.Coverage[len(l.Coverage)-1].To.Time().Sub(from)
}

func TestCoverageIsThatOfTheSlowestWorker(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	var clock testClock
	clock.set(start)
	rec := record(t, &clock)
	a, b := rec.consumer(0), rec.consumer(1)
	tick := func(c interface{ Tick(int64) error }, at time.Duration) {
		t.Helper()
		clock.set(start.Add(at))
		if err := c.Tick(clock.Load()); err != nil {
			t.Fatal(err)
		}
	}
	want := func(d time.Duration) {
		t.Helper()
		if got := covered(rec, start); got != d {
			t.Errorf("covered for %s, want %s", got, d)
		}
	}
	tick(a, 1*time.Second)
	tick(a, 2*time.Second)
	want(0) // b has flushed nothing
	tick(b, 3*time.Second)
	tick(b, 4*time.Second)
	want(1*time.Second - kernelHold)
	tick(a, 5*time.Second)
	want(2*time.Second - kernelHold)
	rec.sealedUntil(start.Add(6 * time.Second).UnixNano())
	want(6 * time.Second)
	if rec.sealedThrough() != start.Add(6*time.Second).UnixNano() {
		t.Error("what was sealed is not known")
	}

	// The clock steps back: coverage begins anew, and what was sealed says
	// nothing of the times that come again.
	clock.set(start.Add(2 * time.Second))
	rec.stepped(clock.Load(), -int64(5*time.Second))
	if rec.sealedThrough() > start.UnixNano() {
		t.Error("after a step back, what is to come counts as sealed")
	}
	l := rec.ring.Ledger(chunker.Packets, start.UnixNano(), start.Add(6*time.Second).UnixNano())
	if len(l.Gaps) != 1 || l.Gaps[0].Reason != manifest.GapClockStep || l.Gaps[0].Count != uint64(5*time.Second) {
		t.Errorf("gaps are %+v", l.Gaps)
	}
}

func TestPacketsThatNoChunkHolds(t *testing.T) {
	var clock testClock
	now := time.Unix(1_700_000_000, 0)
	clock.set(now)
	rec := record(t, &clock)
	c := rec.consumer(0)
	id := c.Interface(eth0)
	for _, r := range []chunker.Record{
		{Time: now.UnixNano(), Interface: id, OrigLen: chunker.SnapLen + 1, Data: make([]byte, chunker.SnapLen+1)},
		{Time: now.UnixNano(), Interface: id, OrigLen: 1, Data: make([]byte, 2)},
		{Time: now.UnixNano(), Interface: id + 1, OrigLen: 2, Data: make([]byte, 2)},
		{Time: now.UnixNano(), Interface: id, OrigLen: 2, Data: make([]byte, 2)},
	} {
		if err := c.Add(&r); err != nil {
			t.Errorf("capture would end: %v", err)
		}
	}
	clock.set(now.Add(time.Second))
	if err := c.Tick(clock.Load()); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := rec.ring.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	list := rec.ring.Sealed()
	if len(list) != 1 || list[0].Records != 1 || list[0].Drops != 3 {
		t.Errorf("sealed %+v", list)
	}
	l := rec.ring.Ledger(chunker.Packets, 0, 1<<62)
	i := slices.IndexFunc(l.Gaps, func(g ring.Gap) bool { return g.Reason == manifest.GapDamaged })
	if i < 0 || l.Gaps[i].Count != 3 {
		t.Errorf("gaps are %+v", l.Gaps)
	}
	if d := cmp.Diff([]chunker.Interface{eth0}, rec.ring.Interfaces(0, 1<<62)); d != "" {
		t.Errorf("interfaces (-want +got):\n%s", d)
	}
}

func TestLeaveOutHub(t *testing.T) {
	for base, want := range map[string]string{
		"http://127.0.0.1:8898":  "127.0.0.1:8898",
		"http://192.0.2.1":       "192.0.2.1:80",
		"https://[2001:db8::1]/": "[2001:db8::1]:443",
	} {
		client, err := api.NewClient(base)
		if err != nil {
			t.Fatal(err)
		}
		more := netip.MustParseAddrPort("192.0.2.9:1")
		a := &agent{client: client, cfg: Config{Exclude: []netip.AddrPort{more}, Own: new(packets.Own)}, log: slog.New(slog.DiscardHandler)}
		if d := cmp.Diff([]string{more.String(), want}, texts(a.leaveOutHub(t.Context()))); d != "" {
			t.Errorf("%s (-want +got):\n%s", base, d)
		}
	}
}

func texts(list []netip.AddrPort) (out []string) {
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}
