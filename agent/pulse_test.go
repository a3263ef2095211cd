//go:build linux

package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"pcapsule/agent/packets"
	"pcapsule/agent/ring"
	"pcapsule/chunker"
	"pcapsule/internal/api"
)

// present is a source that has some interfaces.
type present struct {
	source
	list []packets.Interface
}

func (p *present) Interfaces() []packets.Interface { return p.list }

// An agent is ready when it records all that it was told to, and not before, nor
// when anything stands in the way; it says what.
func TestProblems(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	var clock testClock
	clock.set(start)
	rec := record(t, &clock)
	from := &present{list: []packets.Interface{{Interface: eth0}}}
	a := &agent{cfg: Config{Interfaces: []string{"eth0"}}, log: slog.New(slog.DiscardHandler), now: clock.now, ring: rec.ring, rec: rec, source: from}
	want := func(words string) {
		t.Helper()
		var texts []string
		for _, p := range a.problems() {
			if p.text != "" {
				texts = append(texts, p.text)
			}
		}
		if got := strings.Join(texts, "; "); got == "" && words != "" || !strings.Contains(got, words) || words == "" && got != "" {
			t.Errorf("problems are %q, want %q", got, words)
		}
	}
	want("capture has not begun")
	c, d := rec.consumer(0), rec.consumer(1)
	tick := func(at time.Duration, list ...packets.Consumer) {
		t.Helper()
		clock.set(start.Add(at))
		for _, c := range list {
			if err := c.Tick(clock.Load()); err != nil {
				t.Fatal(err)
			}
		}
	}
	tick(time.Second, c, d)
	tick(2*time.Second, c)
	want("capture has not begun") // one of two workers
	tick(2*time.Second, d)
	want("")

	tick(3*time.Second, c, d)
	tick(14*time.Second, c)
	want("packets wait to be written: those since 2023-11-14T22:13:21Z")
	tick(14*time.Second, d)
	tick(15*time.Second, c, d)
	want("")

	rec.lost(1, clock.Load(), clock.Load(), fmt.Errorf("create: %w", ring.ErrFull))
	want("the ring does not take packets: it is full of chunks that snapshots in the making hold")
	for s := 16; s < 27; s++ {
		tick(time.Duration(s)*time.Second, c, d)
	}
	want("")

	from.list = []packets.Interface{{Interface: chunker.Interface{Name: "eth00"}}, {Interface: eth0, Gone: true}}
	want("interface eth0 is gone")
	from.list = []packets.Interface{{Interface: chunker.Interface{Name: "renamed"}}}
	want("")
}

// The pulse says whether an agent that runs records, and for as long as it runs.
func TestPulse(t *testing.T) {
	dir := t.TempDir()
	if err := Recording(dir, time.Now()); !errors.Is(err, ErrNotRecording) {
		t.Errorf("without an agent: %v", err)
	}
	a := startAgent(t, newTestHub(t), dir, nil)
	a.feed(t, time.Now(), 10, time.Microsecond, 100)
	a.feed(t, time.Now(), 10, time.Microsecond, 100)
	for Recording(dir, time.Now()) != nil {
		if t.Context().Err() != nil {
			t.Fatal(Recording(dir, time.Now()))
		}
	}
	for _, at := range []time.Time{time.Now().Add(time.Minute), time.Now().Add(-time.Minute)} {
		if err := Recording(dir, at); !errors.Is(err, ErrNotRecording) || !strings.Contains(err.Error(), "last said a word") {
			t.Errorf("a stale pulse: %v", err)
		}
	}
	a.stop(t)
	if err := Recording(dir, time.Now()); !errors.Is(err, ring.ErrNoPulse) {
		t.Errorf("after its end: %v", err)
	}
}

// Warnings are whole: a hub takes so many bytes of each.
func TestWarningsFit(t *testing.T) {
	for _, cfg := range []Config{{}, {Kubernetes: new(rest.Config)}, {Fair: 0.5}} {
		d := depths{warnBelow: 100 * 24 * time.Hour, words: cfg.roomier()}
		now := time.Unix(1_700_000_000, 0)
		d.look(now, 1000*24*time.Hour, true)
		for _, text := range []string{d.look(now, time.Second, true), (&depths{warnBelow: 1e6 * time.Hour, words: cfg.roomier()}).look(now, 0, true)} {
			if text == "" || len(text) > api.MaxWarning {
				t.Errorf("%d bytes: %q", len(text), text)
			}
		}
	}
}

// What to do about a ring that is another's is said in the words of the place.
func TestWayOut(t *testing.T) {
	cluster := Config{Kubernetes: new(rest.Config)}
	used := &ring.InUseError{Dir: "/var/lib/pcapsule/ring", Process: 1}
	owned := &ring.OwnerError{Dir: "/var/lib/pcapsule/ring", Owner: "a/old", Asks: "b/new"}
	for _, tc := range []struct {
		cfg      Config
		err      error
		want     string
		unwanted string
	}{
		{Config{}, used, "in use by process 1: stop that one, or choose another --data-dir", "agent.ring"},
		{cluster, used, "another agent on this node has ring /var/lib/pcapsule/ring, perhaps one of another release: set agent.ring.hostPath", "process"},
		{Config{}, owned, "is that of a/old: choose another --data-dir, or make it this agent's with --take-over-ring", "agent.ring"},
		{cluster, owned, "is that of release a/old, and this is b/new: set agent.ring.hostPath", "--"},
		{cluster, owned, "agent.ring.takeOver=true", "--"},
	} {
		got := tc.cfg.wayOut(tc.err)
		if !strings.Contains(got.Error(), tc.want) || strings.Contains(got.Error(), tc.unwanted) || !errors.Is(got, tc.err) {
			t.Errorf("%v: %v", tc.err, got)
		}
	}
}
