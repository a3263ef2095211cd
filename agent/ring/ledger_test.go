package ring

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

const sec = manifest.Nanos(time.Second)

func iv(from, to manifest.Nanos) manifest.Interval { return manifest.Interval{From: from, To: to} }

func gap(reason string, from, to manifest.Nanos, count uint64) Gap {
	return Gap{Stream: chunker.Packets, Reason: reason, From: from, To: to, Count: count}
}

func TestLedger(t *testing.T) {
	runs := func(list ...manifest.Interval) (out []run) {
		for _, i := range list {
			out = append(out, run{chunker.Packets, i.From, i.To})
		}
		return out
	}
	for _, c := range []struct {
		name    string
		state   state
		evicted manifest.Nanos
		want    Ledger
	}{
		{"never ran", state{}, 0, Ledger{Gaps: []Gap{gap(manifest.GapNotRunning, 100, 200, 0)}}},
		{"ran all along", state{Runs: runs(iv(50, 300))}, 0, Ledger{Coverage: []manifest.Interval{iv(100, 200)}}},
		{"another stream", state{Runs: []run{{chunker.OS, 50, 300}}}, 0, Ledger{Gaps: []Gap{gap(manifest.GapNotRunning, 100, 200, 0)}}},
		{"began and ended within", state{Runs: runs(iv(120, 150))}, 0, Ledger{
			Coverage: []manifest.Interval{iv(120, 150)},
			Gaps:     []Gap{gap(manifest.GapNotRunning, 100, 120, 0), gap(manifest.GapNotRunning, 150, 200, 0)},
		}},
		{"restarted", state{Runs: runs(iv(50, 150), iv(160, 300))}, 0, Ledger{
			Coverage: []manifest.Interval{iv(100, 150), iv(160, 200)},
			Gaps:     []Gap{gap(manifest.GapNotRunning, 150, 160, 0)},
		}},
		{"evicted in part", state{Runs: runs(iv(50, 110), iv(120, 300))}, 149, Ledger{
			Coverage: []manifest.Interval{iv(150, 200)},
			Gaps:     []Gap{gap(manifest.GapEvicted, 100, 110, 0), gap(manifest.GapNotRunning, 110, 120, 0), gap(manifest.GapEvicted, 120, 150, 0)},
		}},
		{"evicted whole", state{Runs: runs(iv(50, 300))}, 250, Ledger{Gaps: []Gap{gap(manifest.GapEvicted, 100, 200, 0)}}},
		{"evicted long ago", state{Runs: runs(iv(50, 300))}, 99, Ledger{Coverage: []manifest.Interval{iv(100, 200)}}},
		{"gaps are cut to the window", state{
			Runs: runs(iv(50, 300)),
			Gaps: []Gap{gap(manifest.GapKernelDrop, 60, 70, 1), gap(manifest.GapKernelDrop, 90, 110, 2), gap(manifest.GapDiskFull, 190, 260, 3)},
		}, 0, Ledger{
			Coverage: []manifest.Interval{iv(100, 200)},
			Gaps:     []Gap{gap(manifest.GapKernelDrop, 100, 110, 2), gap(manifest.GapDiskFull, 190, 200, 3)},
		}},
		{"the one interface that was named was gone", state{
			Runs:     runs(iv(50, 300)),
			Captures: []manifest.Capture{{From: 50, To: 300, Selection: manifest.Selection{Interfaces: []string{"a"}}}},
			Gaps:     []Gap{{Stream: chunker.Packets, Reason: manifest.GapInterfaceGone, Interface: "a", From: 120, To: 150}},
		}, 0, Ledger{
			Coverage: []manifest.Interval{iv(100, 120), iv(150, 200)},
			Gaps:     []Gap{{Stream: chunker.Packets, Reason: manifest.GapInterfaceGone, Interface: "a", From: 120, To: 150}},
			Capture:  []manifest.Capture{{From: 100, To: 200, Selection: manifest.Selection{Interfaces: []string{"a"}}}},
		}},
		{"another interface went on", state{
			Runs:     runs(iv(50, 300)),
			Captures: []manifest.Capture{{From: 50, To: 300, Selection: manifest.Selection{Interfaces: []string{"a", "b"}}}},
			Gaps:     []Gap{{Stream: chunker.Packets, Reason: manifest.GapInterfaceGone, Interface: "a", From: 120, To: 150}},
		}, 0, Ledger{
			Coverage: []manifest.Interval{iv(100, 200)},
			Gaps:     []Gap{{Stream: chunker.Packets, Reason: manifest.GapInterfaceGone, Interface: "a", From: 120, To: 150}},
			Capture:  []manifest.Capture{{From: 100, To: 200, Selection: manifest.Selection{Interfaces: []string{"a", "b"}}}},
		}},
		{"what a recorder did not hear of is not covered", state{
			Runs: runs(iv(50, 150), iv(170, 300)),
			Gaps: []Gap{gap(manifest.GapWatchLost, 90, 120, 0), gap(manifest.GapWatchLost, 145, 165, 0)},
		}, 0, Ledger{
			Coverage: []manifest.Interval{iv(120, 145), iv(170, 200)},
			Gaps: []Gap{
				gap(manifest.GapWatchLost, 100, 120, 0), gap(manifest.GapWatchLost, 145, 165, 0), gap(manifest.GapNotRunning, 165, 170, 0),
			},
		}},
		{"a step forward is no time that was missed", state{
			Runs: runs(iv(50, 130), iv(160, 300)),
			Gaps: []Gap{gap(manifest.GapClockStep, 130, 160, 30)},
		}, 0, Ledger{
			Coverage: []manifest.Interval{iv(100, 130), iv(160, 200)},
			Gaps:     []Gap{gap(manifest.GapClockStep, 130, 160, 30)},
		}},
		{"a step backward", state{
			Runs: runs(iv(50, 180), iv(150, 300)),
			Gaps: []Gap{gap(manifest.GapClockStep, 150, 180, 30)},
		}, 0, Ledger{
			Coverage: []manifest.Interval{iv(100, 200)},
			Gaps:     []Gap{gap(manifest.GapClockStep, 150, 180, 30)},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := cmp.Diff(c.want, c.state.ledger(chunker.Packets, iv(100, 200), c.evicted)); d != "" {
				t.Errorf("ledger (-want +got):\n%s", d)
			}
		})
	}
}

// What happens to one stream does not show in another.
func TestStreamsApart(t *testing.T) {
	var s state
	s.begin(chunker.Packets, 100*sec)
	s.begin(chunker.Kubernetes, 110*sec)
	s.extend(chunker.Packets, 200*sec)
	s.extend(chunker.Kubernetes, 150*sec)
	s.addGap(Gap{Stream: chunker.Kubernetes, Reason: manifest.GapWatchLost, From: 140 * sec, To: 145 * sec})
	s.addGap(Gap{Stream: chunker.Packets, Reason: manifest.GapKernelDrop, From: 145 * sec, To: 146 * sec, Count: 7})
	s.step(chunker.Kubernetes, 150*sec, 160*sec)
	s.extend(chunker.Kubernetes, 200*sec)
	raise(&s.Evicted, chunker.Kubernetes, int64(120*sec)-1)
	packets := s.ledger(chunker.Packets, iv(100*sec, 200*sec), s.Evicted[chunker.Packets])
	if d := cmp.Diff(Ledger{
		Coverage: []manifest.Interval{iv(100*sec, 200*sec)},
		Gaps:     []Gap{gap(manifest.GapKernelDrop, 145*sec, 146*sec, 7)},
	}, packets); d != "" {
		t.Errorf("packets (-want +got):\n%s", d)
	}
	events := s.ledger(chunker.Kubernetes, iv(100*sec, 200*sec), s.Evicted[chunker.Kubernetes])
	if d := cmp.Diff(Ledger{
		Coverage: []manifest.Interval{iv(120*sec, 140*sec), iv(145*sec, 150*sec), iv(160*sec, 200*sec)},
		Gaps: []Gap{
			{Stream: chunker.Kubernetes, Reason: manifest.GapNotRunning, From: 100 * sec, To: 110 * sec},
			{Stream: chunker.Kubernetes, Reason: manifest.GapEvicted, From: 110 * sec, To: 120 * sec},
			{Stream: chunker.Kubernetes, Reason: manifest.GapWatchLost, From: 140 * sec, To: 145 * sec},
			{Stream: chunker.Kubernetes, Reason: manifest.GapNotRunning, From: 150 * sec, To: 160 * sec},
		},
	}, events); d != "" {
		t.Errorf("kubernetes (-want +got):\n%s", d)
	}
}

func TestClockSteps(t *testing.T) {
	const year = 365 * 24 * 3600 * sec
	s := state{Evicted: map[string]manifest.Nanos{chunker.Packets: 40 * sec}}
	s.begin(chunker.Packets, 100*sec)
	s.extend(chunker.Packets, 200*sec)
	s.extend(chunker.Packets, 200*sec+10*year) // the clock was set, and nobody has said so yet
	s.step(chunker.Packets, 201*sec, 201*sec+10*year)
	s.extend(chunker.Packets, 300*sec+10*year)
	raise(&s.Evicted, chunker.Packets, int64(250*sec+10*year)) // the ring turns over
	s.step(chunker.Packets, 300*sec+10*year, 300*sec)
	s.extend(chunker.Packets, 400*sec)
	want := []run{
		{chunker.Packets, 100 * sec, 201 * sec},
		{chunker.Packets, 201*sec + 10*year, 300*sec + 10*year},
		{chunker.Packets, 300 * sec, 400 * sec},
	}
	if d := cmp.Diff(want, s.Runs); d != "" {
		t.Errorf("runs (-want +got):\n%s", d)
	}
	l := s.ledger(chunker.Packets, iv(0, 500*sec), s.Evicted[chunker.Packets])
	if d := cmp.Diff([]manifest.Interval{iv(300*sec, 400*sec)}, l.Coverage); d != "" {
		t.Errorf("coverage (-want +got):\n%s", d)
	}
	if s.oldest() != int64(300*sec) {
		t.Errorf("oldest is %d", s.oldest())
	}
	if l := s.ledger(chunker.Packets, iv(200*sec+10*year, 290*sec+10*year), s.Evicted[chunker.Packets]); len(l.Gaps) < 2 {
		t.Errorf("of the wrong years the ledger says %+v", l)
	}
}

func TestGapsCoalesce(t *testing.T) {
	var s state
	s.addGap(gap(manifest.GapKernelDrop, 1*sec, 2*sec, 1))
	s.addGap(gap(manifest.GapRingOverrun, 1*sec, 1*sec, 5)) // of no length: made one nanosecond
	s.addGap(gap(manifest.GapKernelDrop, 2*sec+sec/2, 3*sec, 2))
	s.addGap(gap(manifest.GapKernelDrop, 9*sec, 10*sec, 4))
	s.addGap(gap(manifest.GapClockStep, 10*sec, 11*sec, uint64(sec)))
	s.addGap(gap(manifest.GapClockStep, 11*sec, 12*sec, uint64(sec)))
	want := []Gap{
		gap(manifest.GapKernelDrop, 1*sec, 3*sec, 3),
		gap(manifest.GapRingOverrun, 1*sec, 1*sec+1, 5),
		gap(manifest.GapKernelDrop, 9*sec, 10*sec, 4),
		gap(manifest.GapClockStep, 10*sec, 11*sec, uint64(sec)),
		gap(manifest.GapClockStep, 11*sec, 12*sec, uint64(sec)),
	}
	if d := cmp.Diff(want, s.Gaps); d != "" {
		t.Errorf("gaps (-want +got):\n%s", d)
	}
}

func TestStateIsBounded(t *testing.T) {
	var s state
	const n = 3 * maxGaps
	for i := range manifest.Nanos(n) {
		g := gap(manifest.GapKernelDrop, 10*i*sec, 10*i*sec+1, 1)
		g.Interface = fmt.Sprint(i % 7)
		s.addGap(g)
		s.begin(chunker.Packets, 10*i*sec)
		s.saw(chunker.Interface{Name: fmt.Sprint(i)}, i, i)
	}
	if len(s.Gaps) > maxGaps || len(s.Runs) > maxRuns || len(s.Interfaces) > maxSeen {
		t.Errorf("%d gaps, %d runs, %d interfaces", len(s.Gaps), len(s.Runs), len(s.Interfaces))
	}
	var count uint64
	for _, g := range s.Gaps {
		count += g.Count
	}
	if count != n {
		t.Errorf("the gaps count %d records, want %d: none may be forgotten", count, n)
	}
	if last := s.Interfaces[len(s.Interfaces)-1].Name; last != fmt.Sprint(n-1) {
		t.Errorf("the newest interface is %s", last)
	}

	// What is older than all that the ring holds goes first.
	s.Evicted = map[string]manifest.Nanos{chunker.Packets: 1 << 62}
	for i := range manifest.Nanos(maxGaps) {
		s.addGap(gap(manifest.GapKernelDrop, 1<<62+10*i*sec, 1<<62+10*i*sec+1, 1))
	}
	if s.Gaps[0].From < 1<<62 {
		t.Errorf("gap at %d is kept, though the ring holds nothing that old", s.Gaps[0].From)
	}
}

func FuzzDecodeState(f *testing.F) {
	name, err := fileName(chunker.Meta{Stream: chunker.Packets, First: 1, Last: 2})
	if err != nil {
		f.Fatal(err)
	}
	full := state{
		Format: stateFormat, Version: stateVersion,
		Runs:     []run{{chunker.Packets, 1, 2}},
		Gaps:     []Gap{gap(manifest.GapKernelDrop, 1, 2, 3)},
		Evicted:  map[string]manifest.Nanos{chunker.Packets: 7},
		Evicting: []string{chunker.Packets + "/" + name},
		Pins:     map[string]pin{"s": {Window: iv(1, 2), Expires: time.Unix(3, 4).UTC(), Evicted: map[string]manifest.Nanos{chunker.Packets: 1}}},
	}
	full.saw(chunker.Interface{Name: "eth0", LinkType: 1}, 1, 2)
	seed, err := json.Marshal(full)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:len(seed)/2])
	f.Add([]byte(`{"format":"pcapsule.ring","version":2}`))
	f.Add([]byte(`{"format":"pcapsule.ring","version":1,"runs":[{"stream":"packets","from":"2","to":"1"}]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeState(again); err != nil {
			t.Errorf("what was read cannot be read again: %v", err)
		}
		s.begin(chunker.Packets, 5)
		s.extend(chunker.Packets, 10)
		s.addGap(gap(manifest.GapKernelDrop, 6, 7, 1))
		l := s.ledger(chunker.Packets, iv(0, 100), s.Evicted[chunker.Packets])
		for i, c := range l.Coverage {
			if c.From >= c.To || i > 0 && l.Coverage[i-1].To > c.From {
				t.Errorf("coverage %v is not in order", l.Coverage)
			}
		}
	})
}
