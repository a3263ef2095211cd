package agent

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/agent/packets"
	"pcapsule/agent/ring"
	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
)

const second = int64(time.Second)

// watched are interfaces with a ring of their own, whose packets are recorded
// from second 1000 on.
func watched(t *testing.T, names ...string) (*interfaces, *ring.Ring, *bytes.Buffer) {
	t.Helper()
	clock := time.Unix(1000, 0)
	now := func() time.Time { return clock }
	r, err := ring.Open(t.TempDir(), ring.Options{Limit: 64 << 20, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	r.Begin(chunker.Packets, 1000*second)
	r.Capturing(manifest.Selection{Interfaces: names}, 1000*second)
	var log bytes.Buffer
	return newInterfaces(r, slog.New(slog.NewTextHandler(&log, nil)), newWarnings(), now), r, &log
}

func named(name string, state packets.NamedState, devices ...int) packets.Named {
	n := packets.Named{Name: name, State: state, Devices: devices}
	for range devices {
		n.As = append(n.As, name)
	}
	return n
}

// account is what the ledger has of seconds 1000 to 1100: gaps as "reason
// interface from-to", and what is covered.
func account(r *ring.Ring) (gaps, covered []string) {
	r.Flushed(chunker.Packets, 1100*second)
	l := r.Ledger(chunker.Packets, 1000*second, 1100*second)
	for _, g := range l.Gaps {
		gaps = append(gaps, fmt.Sprintf("%s %s %g-%g", g.Reason, g.Interface, float64(g.From)/1e9, float64(g.To)/1e9))
	}
	for _, c := range l.Coverage {
		covered = append(covered, fmt.Sprintf("%g-%g", float64(c.From)/1e9, float64(c.To)/1e9))
	}
	return gaps, covered
}

// TestInterfacesAccount has a gap for each time in which a named interface could
// not be recorded, and covers what others could.
func TestInterfacesAccount(t *testing.T) {
	const up, down, gone = packets.NamedUp, packets.NamedDown, packets.NamedGone
	all := []string{"1000-1100"}
	for _, tt := range []struct {
		name    string
		names   []string
		steps   func(s *interfaces, tell func(at float64, list ...packets.Named))
		gaps    []string
		covered []string
		warns   int
	}{
		{"nothing happens", []string{"a"}, func(_ *interfaces, tell func(float64, ...packets.Named)) {
			tell(1000, named("a", up, 1))
		}, nil, all, 0},
		{"gone", []string{"a"}, func(s *interfaces, tell func(float64, ...packets.Named)) {
			tell(1000, named("a", up, 1))
			tell(1010, named("a", gone))
			s.noteAll(1100 * second)
		}, []string{"interface-gone a 1010-1100"}, []string{"1000-1010"}, 1},
		{"gone and back", []string{"a"}, func(_ *interfaces, tell func(float64, ...packets.Named)) {
			tell(1000, named("a", up, 1))
			tell(1010, named("a", gone))
			tell(1020, named("a", up, 2))
		}, []string{"interface-gone a 1010-1020"}, []string{"1000-1010", "1020-1100"}, 0},
		{"one of two is gone", []string{"a", "b"}, func(_ *interfaces, tell func(float64, ...packets.Named)) {
			tell(1000, named("a", up, 1), named("b", up, 2))
			tell(1010, named("a", gone), named("b", up, 2))
			tell(1020, named("a", up, 3), named("b", up, 2))
		}, []string{"interface-gone a 1010-1020"}, all, 0},
		{"both are away for a while", []string{"a", "b"}, func(s *interfaces, tell func(float64, ...packets.Named)) {
			tell(1000, named("a", up, 1), named("b", up, 2))
			tell(1010, named("a", gone), named("b", up, 2))
			tell(1020, named("a", gone), named("b", down, 2))
			tell(1030, named("a", gone), named("b", up, 2))
			s.noteAll(1040 * second)
			s.noteAll(1100 * second)
		}, []string{"interface-gone a 1010-1100", "interface-down b 1020-1030"}, []string{"1000-1020", "1030-1100"}, 1},
		{"down from the start", []string{"a"}, func(_ *interfaces, tell func(float64, ...packets.Named)) {
			tell(1000, named("a", down, 1))
			tell(1010, named("a", up, 1))
		}, []string{"interface-down a 1000-1010"}, []string{"1010-1100"}, 0},
		{"set down as it is removed", []string{"a"}, func(s *interfaces, tell func(float64, ...packets.Named)) {
			tell(1000, named("a", up, 1))
			tell(1010, named("a", down, 1))
			tell(1010.1, named("a", gone))
			s.noteAll(1100 * second)
		}, []string{"interface-gone a 1010-1100"}, []string{"1000-1010"}, 1},
		{"down, and removed later", []string{"a"}, func(s *interfaces, tell func(float64, ...packets.Named)) {
			tell(1000, named("a", up, 1))
			tell(1010, named("a", down, 1))
			s.noteAll(1011 * second)
			tell(1020, named("a", gone))
			s.noteAll(1100 * second)
		}, []string{"interface-down a 1010-1020", "interface-gone a 1020-1100"}, []string{"1000-1010"}, 1},
		{"replaced unseen", []string{"a"}, func(_ *interfaces, tell func(float64, ...packets.Named)) {
			tell(1000, named("a", up, 1))
			tell(1010, named("a", up, 2))
		}, []string{"interface-gone a 1009.9-1010"}, []string{"1000-1009.9", "1010-1100"}, 0},
		{"renamed", []string{"a"}, func(_ *interfaces, tell func(float64, ...packets.Named)) {
			tell(1000, named("a", up, 1))
			tell(1010, packets.Named{Name: "a", Devices: []int{1}, As: []string{"x"}})
		}, nil, all, 1},
		{"renamed, and another has its name", []string{"a"}, func(_ *interfaces, tell func(float64, ...packets.Named)) {
			tell(1000, named("a", up, 1))
			tell(1010, packets.Named{Name: "a", Devices: []int{1, 2}, As: []string{"x", "a"}})
		}, nil, all, 1},
		{"flaps", []string{"a"}, func(_ *interfaces, tell func(float64, ...packets.Named)) {
			for i := range 100 {
				tell(1010+float64(i)/10, named("a", down, 1))
				tell(1010.05+float64(i)/10, named("a", up, 1))
			}
		}, []string{"interface-down a 1010-1019.95"}, []string{"1000-1010", "1019.95-1100"}, 0},
		{"the clock is set back", []string{"a"}, func(s *interfaces, tell func(float64, ...packets.Named)) {
			tell(1000, named("a", up, 1))
			tell(1050, named("a", gone))
			s.stepped(1060*second, 0) // as far as gaps go
			tell(1070, named("a", up, 2))
		}, []string{"interface-gone a 1050-1070"}, []string{"1000-1050", "1070-1100"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, r, log := watched(t, tt.names...)
			tt.steps(s, func(at float64, list ...packets.Named) { s.changed(int64(math.Round(at*1e3))*1e6, list) })
			gaps, covered := account(r)
			if d := cmp.Diff(tt.gaps, gaps); d != "" {
				t.Errorf("gaps (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tt.covered, covered); d != "" {
				t.Errorf("coverage (-want +got):\n%s", d)
			}
			if list := s.warn.now(); len(list) != tt.warns {
				t.Errorf("warns %q, want %d warnings", list, tt.warns)
			}
			lines := strings.Count(log.String(), "\n")
			if changes := len(gaps) > 0 || tt.warns > 0; changes != (lines > 0) || lines > maxSaid+1 {
				t.Errorf("%d lines in the log:\n%s", lines, log)
			}
		})
	}
}

// TestInterfaceGone makes a snapshot while an interface is gone, and tells the
// hub at once.
func TestInterfaceGone(t *testing.T) {
	h := newTestHub(t)
	dir := t.TempDir()
	a := startAgent(t, h, dir, func(c *Config) { c.Interfaces = []string{"eth0"} })
	h.awaitPoll("nothing is wrong", func(p api.PollRequest) bool { return len(p.Warnings) == 0 })
	from := time.Now()
	a.feeder.cfg.OnNamed(from.UnixNano(), []packets.Named{named("eth0", packets.NamedGone)})
	h.awaitPoll("it warns", func(p api.PollRequest) bool {
		return len(p.Warnings) == 1 && strings.Contains(p.Warnings[0], "interface eth0 is gone")
	})
	to := time.Now()
	h.ask("s1", from, to)
	n := h.await("s1")
	if len(n.Coverage) > 0 || len(n.Streams) > 0 {
		t.Errorf("of an interface that is gone it covers %v", n.Coverage)
	}
	want := []manifest.Gap{{Stream: chunker.Packets, Reason: manifest.GapInterfaceGone, Interface: "eth0", From: manifest.NanosOf(from), To: manifest.NanosOf(to)}}
	if d := cmp.Diff(want, n.Gaps); d != "" {
		t.Errorf("gaps (-want +got):\n%s", d)
	}
	if len(n.Capture) != 1 || !cmp.Equal(n.Capture[0].Interfaces, []string{"eth0"}) || len(n.Capture[0].Excluded) == 0 || n.Capture[0].Targets != nil {
		t.Errorf("what was to be recorded: %+v", n.Capture)
	}
	if rest := n.Unexplained(n.Clock.Window(manifest.Interval{From: manifest.NanosOf(from), To: manifest.NanosOf(to)})); len(rest) > 0 {
		t.Errorf("%v is not accounted for", rest)
	}
	a.stop(t)

	// With other flags, what was before still says what applied then.
	again := time.Now()
	b := startAgent(t, h, dir, nil)
	b.feed(t, time.Now(), 100, time.Microsecond, 100)
	to = time.Now()
	h.ask("s2", from, to)
	n = h.await("s2")
	if len(n.Capture) != 2 || len(n.Capture[0].Interfaces) != 1 || len(n.Capture[1].Interfaces) != 0 || n.Capture[1].From < manifest.NanosOf(again) {
		t.Errorf("after a start with other flags: %+v", n.Capture)
	}
}

// TestInterfaceGoneAtDeath leaves no time that looks recorded, whenever the agent
// dies: the ledger knows of a gap before it knows of the time after.
func TestInterfaceGoneAtDeath(t *testing.T) {
	s, r, _ := watched(t, "a")
	now := time.Unix(1100, 0)
	rec := newRecorder(r, Config{}, chunker.Header{}, func() time.Time { return now })
	rec.flushes = s.noteAll
	c := rec.consumer(0)
	s.changed(1000*second, []packets.Named{named("a", packets.NamedUp, 1)})
	for at := int64(1001); at < 1100; at++ {
		if at == 1010 {
			s.changed(at*second, []packets.Named{named("a", packets.NamedGone)})
		}
		if err := c.Tick(at * second); err != nil {
			t.Fatal(err)
		}
		l := r.Ledger(chunker.Packets, 1000*second, 1100*second)
		for _, i := range l.Coverage {
			if i.To > manifest.Nanos(1010*second) {
				t.Fatalf("at %d it covers %d to %d, and the interface went at 1010", at, i.From/1e9, i.To/1e9)
			}
		}
	}
}

// TestSayLeft logs how an interface ends that changes all the time.
func TestSayLeft(t *testing.T) {
	s, _, log := watched(t, "a")
	clock := time.Unix(1000, 0)
	s.now = func() time.Time { return clock }
	for i := range int64(50) {
		s.changed((1000+i)*second, []packets.Named{named("a", packets.NamedUp, 1)})
		s.changed((1000+i)*second+second/2, []packets.Named{named("a", packets.NamedDown, 1)})
	}
	s.changed(1060*second, []packets.Named{named("a", packets.NamedGone)})
	s.sayLeft()
	if strings.Contains(log.String(), "gone") {
		t.Errorf("it is logged without end:\n%s", log)
	}
	clock = clock.Add(saidIn + time.Second)
	s.sayLeft()
	s.sayLeft()
	if n := strings.Count(log.String(), "interface a is gone"); n != 1 {
		t.Errorf("that it is gone is logged %d times:\n%s", n, log)
	}
}
