//go:build linux

package agent

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/agent/ring"
	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
)

// turns is a clusterSource of made-up events: it has its turn when a test says so.
type turns struct {
	t    *testing.T
	ring *ring.Ring

	mu     sync.Mutex
	leads  bool
	cutter *chunker.Cutter
	cuts   int
	times  []int64 // of all events
	hang   bool    // in Cut
}

func newTurns(t *testing.T, r *ring.Ring) *turns {
	c := &turns{t: t, ring: r}
	c.cutter = chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Kubernetes, TargetSize: 1 << 20, MaxAge: time.Hour}, r)
	return c
}

func (c *turns) Run(ctx context.Context) {
	<-ctx.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut()
}

// lead begins a turn, or ends one.
func (c *turns) lead(leads bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if leads {
		c.ring.Begin(chunker.Kubernetes, time.Now().UnixNano())
	} else {
		c.cut()
	}
	c.leads = leads
}

func (c *turns) event() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now().UnixNano()
	if err := c.cutter.Event(now, fmt.Appendf(nil, `{"ts":"%d","op":"alive"}`, now)); err != nil {
		c.t.Error(err)
	}
	for range 2 { // the second brings out what the first saw
		if err := c.cutter.Tick(now); err != nil {
			c.t.Error(err)
		}
	}
	c.times = append(c.times, now)
}

func (c *turns) cut() {
	if !c.leads {
		return
	}
	if err := c.cutter.Cut(); err != nil {
		c.t.Error(err)
	}
	c.ring.Flushed(chunker.Kubernetes, time.Now().UnixNano())
}

func (c *turns) Cut(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	c.cuts++
	c.cut()
	return nil
}

func (c *turns) Stepped(int64, int64) {}

// startInCluster runs an agent that is one of a cluster.
func startInCluster(t *testing.T, h *testHub, dir string) (*running, *turns) {
	t.Helper()
	var c *turns
	a := startAgent(t, h, dir, func(cfg *Config) {
		cfg.cluster = func(r *ring.Ring) clusterSource { c = newTurns(t, r); return c }
	})
	return a, c
}

// events are the times of the events that a part holds.
func (h *testHub) events(p api.CompleteRequest) []int64 {
	if p.Kubernetes == nil || p.Kubernetes.Stream == nil {
		return nil
	}
	return h.packets(manifest.Node{Streams: []manifest.Stream{*p.Kubernetes.Stream}})
}

func TestClusterStream(t *testing.T) {
	h := newTestHub(t)
	a, c := startInCluster(t, h, t.TempDir())
	began := time.Now()

	// Another node records: this one says so, of the whole window.
	sent := a.feed(t, began, 100, time.Microsecond, 100)
	h.ask("other", began, time.Now())
	p := h.awaitPart("other")
	if p.Kubernetes == nil || p.Kubernetes.Stream != nil || len(p.Kubernetes.Coverage) > 0 || len(p.Kubernetes.Gaps) != 1 ||
		p.Kubernetes.Gaps[0].Reason != manifest.GapNotRunning || p.Kubernetes.Gaps[0].Stream != chunker.Kubernetes {
		t.Errorf("a node that did not record hands in %+v", p.Kubernetes)
	}
	if poll := h.awaitPoll("it has polled", func(api.PollRequest) bool { return true }); slices.Contains(poll.Streams, chunker.Kubernetes) {
		t.Errorf("it says that it holds %v", poll.Streams)
	}

	// Its turn: both streams are cut, and the account is of its turn.
	c.lead(true)
	turn := time.Now()
	c.event()
	c.event()
	h.awaitPoll("it says that it records", func(p api.PollRequest) bool { return slices.Contains(p.Streams, chunker.Kubernetes) })
	to := time.Now()
	h.ask("both", began, to)
	p = h.awaitPart("both")
	if d := cmp.Diff(sent, h.packets(p.Node)); d != "" {
		t.Errorf("packets (-want +got):\n%s", d)
	}
	if d := cmp.Diff(c.times, h.events(p)); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	if k := p.Kubernetes; len(k.Coverage) != 1 || k.Coverage[0].From > manifest.NanosOf(turn) || k.Coverage[0].To != manifest.NanosOf(to) || len(k.Gaps) != 1 {
		t.Errorf("account of a turn from %d to %d: %+v", turn.UnixNano(), to.UnixNano(), k)
	}
	if len(p.Node.Streams) != 1 || len(p.Node.Gaps) > 0 {
		t.Errorf("the node: %+v", p.Node)
	}

	// The same window again: nothing is cut, nothing is sent.
	h.uploads()
	cuts := c.cuts
	h.ask("again", began, to)
	again := h.awaitPart("again")
	if d := cmp.Diff(p.Kubernetes, again.Kubernetes); d != "" {
		t.Errorf("again (-first +second):\n%s", d)
	}
	if puts := h.uploads(); len(puts) > 0 || c.cuts != cuts {
		t.Errorf("uploads %v, %d cuts", puts, c.cuts-cuts)
	}
}

// TestClusterStreamOnly: a node that the snapshot is not of hands in the stream of
// the cluster, owes nothing else, and pins nothing else.
func TestClusterStreamOnly(t *testing.T) {
	h := newTestHub(t)
	a, c := startInCluster(t, h, t.TempDir())
	c.lead(true)
	began := time.Now()
	a.feed(t, began, 1000, time.Microsecond, 1000)
	c.event()
	if err := a.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.ask("s", began, time.Now(), chunker.Kubernetes)
	p := h.awaitPart("s")
	if d := cmp.Diff(c.times, h.events(p)); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	n := p.Node
	if n.Status != manifest.Completed || len(n.Streams)+len(n.Coverage)+len(n.Gaps)+len(n.Interfaces) > 0 || n.Versions.Agent == "" {
		t.Errorf("the node: %+v", n)
	}
	if puts := h.uploads(); len(puts) != 2 { // a chunk and its inventory
		t.Errorf("uploads: %v", puts)
	}
	poll := h.awaitPoll("it is pinned", func(p api.PollRequest) bool { return len(p.Pins) == 1 })
	if poll.Ring.Pinned == 0 || poll.Ring.Pinned > 8192 {
		t.Errorf("%d bytes are pinned for a chunk of one event", poll.Ring.Pinned)
	}

	// A window that it has nothing of.
	h.ask("before", began.Add(-time.Hour), began.Add(-time.Minute), chunker.Kubernetes)
	p = h.awaitPart("before")
	if k := p.Kubernetes; k == nil || k.Stream != nil || len(k.Coverage) > 0 || len(k.Gaps) != 1 {
		t.Errorf("of a time before it began it hands in %+v", k)
	}
}

// TestNoCluster: nothing is said of a cluster where there is none.
func TestNoCluster(t *testing.T) {
	h := newTestHub(t)
	a := startAgent(t, h, t.TempDir(), nil)
	began := time.Now()
	a.feed(t, began, 10, time.Microsecond, 100)
	h.ask("s", began, time.Now())
	if p := h.awaitPart("s"); p.Kubernetes != nil {
		t.Errorf("%+v", p.Kubernetes)
	}
	poll := h.awaitPoll("there is a chunk", func(p api.PollRequest) bool { return p.Ring.Chunks > 0 })
	if d := cmp.Diff([]string{chunker.Packets}, poll.Streams); d != "" {
		t.Errorf("streams (-want +got):\n%s", d)
	}
}

// TestRecordedBefore: what an agent recorded before it was started without a
// cluster is still handed in.
func TestRecordedBefore(t *testing.T) {
	h := newTestHub(t)
	dir := t.TempDir()
	a, c := startInCluster(t, h, dir)
	began := time.Now()
	c.lead(true)
	c.event()
	a.stop(t)
	to := time.Now()
	startAgent(t, h, dir, nil)
	h.awaitPoll("it says what it holds", func(p api.PollRequest) bool { return slices.Contains(p.Streams, chunker.Kubernetes) })
	h.ask("s", began, to)
	p := h.awaitPart("s")
	if d := cmp.Diff(c.times, h.events(p)); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
}

// TestClocksMinutesApart has a hub whose clock is minutes ahead or behind. The
// window is the hub's, what comes of it is by the node's clock, and what lies
// outside is left out.
func TestClocksMinutesApart(t *testing.T) {
	// Exchanges over loopback tell the offset to within less, or say by how much
	// they may be wrong, on a busy machine too.
	const margin = 50 * time.Millisecond
	for _, ahead := range []time.Duration{5 * time.Minute, -5 * time.Minute} {
		t.Run(ahead.String(), func(t *testing.T) {
			h := newTestHub(t)
			h.ahead = ahead
			a, c := startInCluster(t, h, t.TempDir())
			c.lead(true)
			h.awaitPoll("the clock is known", func(p api.PollRequest) bool { return p.Clock.Offset != 0 })
			cut := func() {
				t.Helper()
				if err := a.Cut(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := c.Cut(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			early := time.Now()
			a.feed(t, early, 10, time.Microsecond, 100)
			c.event()
			cut()
			// By a clock that is off, the window would hold nothing of this.
			time.Sleep(time.Until(early.Add(4 * margin)))
			from := time.Now()
			sent := a.feed(t, from, 10, time.Microsecond, 100)
			c.event()
			cut()
			to := time.Now()
			time.Sleep(time.Until(to.Add(4 * margin)))
			late := a.feed(t, time.Now(), 10, time.Microsecond, 100)
			c.event()

			h.ask("s", from.Add(ahead-margin), to.Add(ahead+margin))
			p := h.awaitPart("s")
			fault := time.Duration(p.Node.Clock.Error)
			if off := time.Duration(p.Node.Clock.Offset) + ahead; max(off, -off) > fault+time.Millisecond {
				t.Fatalf("the clock is %+v", p.Node.Clock)
			}
			packets, events := h.packets(p.Node), h.events(p)
			for _, at := range append(sent, c.times[1]) {
				if !slices.Contains(packets, at) && !slices.Contains(events, at) {
					t.Errorf("%d is missing", at)
				}
			}
			if fault < margin && (slices.Contains(packets, late[9]) || slices.Contains(events, c.times[2]) || slices.Contains(events, c.times[0])) {
				t.Errorf("chunks outside the window came along: its packets are %v, its events %v", packets, events)
			}
			window := p.Node.Clock.Window(manifest.Interval{From: manifest.NanosOf(from.Add(ahead - margin)), To: manifest.NanosOf(to.Add(ahead + margin))})
			for what, covered := range map[string][]manifest.Interval{"packets": p.Node.Coverage, "events": p.Kubernetes.Coverage} {
				if len(covered) != 1 || covered[0] != window {
					t.Errorf("coverage of %s is %v, want the window %v", what, covered, window)
				}
			}
		})
	}
}
