package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/manifest"
)

func notesOf(t *Table) (out []string) {
	notes, _ := t.Notes()
	for _, n := range notes {
		warning := ""
		if n.Warning {
			warning = "!"
		}
		out = append(out, fmt.Sprintf("%.3f %s%s %s %s", float64((n.Time-sec(0))/1e6)/1e3, n.Reason, warning, n.About.Path(), n.Node))
	}
	return out
}

func TestNotes(t *testing.T) {
	event := func(uid string, count int, last float64) Record {
		return Record{Op: OpEvent, Event: &Event{
			Meta:  Meta{UID: uid, Namespace: "shop", Name: uid},
			About: Ref{Kind: KindPod, Namespace: "shop", Name: "a", UID: "u-a"}, Type: "Warning", Reason: "BackOff",
			Message: "Back-off", Source: "kubelet", Host: "n1", Count: count, Last: cutTo(last),
		}}
	}
	play := func(s *script) {
		a := running(podOf("a", "u-a", 10), "10.0.0.5", 12)
		killed := finished(deleting(a, 30), 30.5)
		killed.Containers[0].Reason = "OOMKilled"
		again := running(a, "10.0.0.5", 20)
		again.Containers[0].Last = &LastRun{Reason: "Error", ExitCode: 1, Finished: cutTo(18)}
		s.chunk(0, Keyframe{Node: "n1"})
		s.set(10.2, podOf("a", "u-a", 10))
		s.set(13.4, a)
		s.add(15.3, event("e1", 1, 15.1))
		s.set(18.7, again)
		s.add(25.2, event("e1", 2, 22)) // learnt late
		s.set(31.9, killed)
		s.gone(32.5, killed)
		s.add(33, Record{Op: OpEvent, Event: &Event{
			Meta: Meta{UID: "e2", Name: "e2"}, About: Ref{Kind: KindNode, Name: "n2"}, Type: "Normal", Reason: "NodeReady", First: cutTo(32).Add(250 * time.Millisecond),
		}})
		s.alive(60)
		// Another recorder learns it all again, later.
		s.chunk(11, Keyframe{Node: "n2"}, podOf("a", "u-a", 10))
		s.set(13.6, a)
		s.add(15.4, event("e1", 1, 15.1))
		s.set(31.95, killed)
		s.gone(32.6, killed)
		s.alive(60)
	}
	want := []string{
		"10.200 Added shop/a n1",
		"15.300 BackOff! shop/a n1",
		"18.700 Error! shop/a n1",
		"22.999 BackOff! shop/a n1",
		"30.999 OOMKilled! shop/a n1",
		"30.999 Deleting shop/a n1",
		"32.250 NodeReady n2 n2",
		"32.500 Gone shop/a n1",
	}
	s := newScript(t, nil)
	play(s)
	if diff := cmp.Diff(want, notesOf(s.table())); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	for _, part := range [][2]float64{{0, 10.2}, {10.25, 11}, {15, 31}, {31, 60}} {
		s := newScript(t, nil)
		s.b = NewBuilder(nil, sec(part[0]), sec(part[1]))
		play(s)
		var some []string
		for _, w := range want {
			var at float64
			fmt.Sscan(w, &at)
			if at >= part[0] && at < part[1] {
				some = append(some, w)
			}
		}
		if diff := cmp.Diff(some, notesOf(s.table())); diff != "" {
			t.Errorf("notes from %g to %g (-want +got):\n%s", part[0], part[1], diff)
		}
	}
}

// There is a bound on what is kept, and what is beyond it is counted.
func TestManyNotes(t *testing.T) {
	s := newScript(t, nil)
	s.chunk(0, Keyframe{})
	e := &Event{Meta: Meta{UID: "e"}, Message: strings.Repeat("ä", 5000), Last: cutTo(1)}
	for i := range maxNotes + 7 {
		e.Count = i
		if err := s.c.Record(&Record{Time: manifest.Nanos(sec(1)), Op: OpEvent, Event: e}); err != nil {
			t.Fatal(err)
		}
		e.Message = ""
	}
	notes, lost := s.table().Notes()
	if len(notes) != maxNotes || lost != 7 {
		t.Errorf("%d notes, %d lost", len(notes), lost)
	}
	if n := len(notes[len(notes)-1].Message); n > maxMessage {
		t.Errorf("a message of %d bytes", n)
	}
}
