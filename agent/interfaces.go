package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"pcapsule/agent/packets"
	"pcapsule/agent/ring"
	"pcapsule/chunker"
	"pcapsule/manifest"
)

// interfaces keeps the account of the interfaces that were named: while one is
// gone or down, the ring's ledger has a gap of it, and the node warns.
type interfaces struct {
	ring *ring.Ring
	log  *slog.Logger
	warn *warnings
	now  func() time.Time

	mu   sync.Mutex
	list []packets.Named
	dark map[string]*dark       // by name: those that cannot be recorded now
	said map[string][]time.Time // when there was something in the log about an interface
	left map[string]string      // by name: the last line that was not logged, as there were too many
}

// dark is a time in which an interface cannot be recorded, so far.
type dark struct {
	reason string
	since  int64
	begun  time.Time // since when by a clock that is never set, for a person's sake
	noted  bool      // the ledger knows
}

const (
	// brief is how long an interface may be down before it is gone, to count as
	// gone all the time: whatever is removed is set down first.
	brief = int64(time.Second)

	// replaced is how long an interface was away at most that went and came back
	// unseen, as news of both came together.
	replaced = int64(100 * time.Millisecond)

	// An interface that comes and goes all the time is logged maxSaid times in
	// saidIn.
	maxSaid = 10
	saidIn  = time.Minute
)

func newInterfaces(r *ring.Ring, log *slog.Logger, warn *warnings, now func() time.Time) *interfaces {
	return &interfaces{ring: r, log: log, warn: warn, now: now, dark: map[string]*dark{}, said: map[string][]time.Time{}, left: map[string]string{}}
}

// changed hears what became of the interfaces; see packets.Config.
func (s *interfaces) changed(at int64, list []packets.Named) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, next := range list {
		i := slices.IndexFunc(s.list, func(o packets.Named) bool { return o.Name == next.Name })
		if i < 0 {
			s.change(at, packets.Named{Name: next.Name, As: []string{next.Name}, Devices: next.Devices}, next)
		} else {
			s.change(at, s.list[i], next)
		}
	}
	s.list = list
	texts := map[string]string{}
	for _, n := range list {
		texts[n.Name] = s.text(n)
	}
	s.warn.setAll("interface ", texts)
}

// change notes and tells what became of one interface.
func (s *interfaces) change(at int64, old, next packets.Named) {
	d := s.dark[next.Name]
	reason := ""
	switch next.State {
	case packets.NamedDown:
		reason = manifest.GapInterfaceDown
	case packets.NamedGone:
		reason = manifest.GapInterfaceGone
	}
	switch {
	case d != nil && d.reason == reason:
	case d != nil && !d.noted && reason == manifest.GapInterfaceGone && at-d.since < brief:
		d.reason = reason
		s.say(next.Name, s.text(next))
	default:
		if d != nil {
			s.note(next.Name, d, at)
			delete(s.dark, next.Name)
		}
		if reason != "" {
			s.dark[next.Name] = &dark{reason: reason, since: at, begun: s.now()}
			s.say(next.Name, s.text(next))
		} else if d != nil {
			s.say(next.Name, fmt.Sprintf("interface %s is recorded again", called(next)))
		}
	}
	kept := slices.ContainsFunc(next.Devices, func(index int) bool { return slices.Contains(old.Devices, index) })
	switch {
	case d != nil || reason != "":
	case len(old.Devices) > 0 && len(next.Devices) > 0 && !kept:
		s.note(next.Name, &dark{reason: manifest.GapInterfaceGone, since: at - replaced}, at)
		s.say(next.Name, fmt.Sprintf("interface %s was replaced by another: it is recorded from now on", called(next)))
	case !slices.Equal(old.As, next.As):
		s.say(next.Name, cmp.Or(s.text(next), fmt.Sprintf("interface %s has its name again", next.Name)))
	}
}

// called is the name of an interface, and what it is called now if that differs.
func called(n packets.Named) string {
	var others []string
	for _, as := range n.As {
		if as != n.Name {
			others = append(others, as)
		}
	}
	if len(others) == 0 {
		return n.Name
	}
	return fmt.Sprintf("%s (now %s)", n.Name, strings.Join(others, ", "))
}

// text warns of an interface, if there is something to warn of.
func (s *interfaces) text(n packets.Named) string {
	since := ""
	if d := s.dark[n.Name]; d != nil {
		since = " since " + d.begun.UTC().Format(time.DateTime) + " UTC"
	}
	switch {
	case n.State == packets.NamedGone:
		return fmt.Sprintf("interface %s is gone%s, removed or moved to another network namespace: nothing of it is recorded until one of that name is there", n.Name, since)
	case n.State == packets.NamedDown:
		return fmt.Sprintf("interface %s is down%s: nothing can pass it (ip link set %s up)", called(n), since, n.As[0])
	case !slices.Contains(n.As, n.Name):
		return fmt.Sprintf("interface %s was renamed and is %s now: it is still recorded, but the next start will not find it by its old name", n.Name, strings.Join(n.As, ", "))
	case len(n.As) > 1:
		return fmt.Sprintf("interface %s was renamed and another has its name now: both are recorded", called(n))
	}
	return ""
}

// say logs a line about an interface, unless it changes all the time.
func (s *interfaces) say(name, line string) {
	if line == "" {
		return
	}
	now := s.now()
	said := slices.DeleteFunc(s.said[name], func(t time.Time) bool { return now.Sub(t) > saidIn })
	if len(said) > maxSaid {
		s.said[name], s.left[name] = said, line
		return
	}
	delete(s.left, name)
	s.said[name] = append(said, now)
	if len(said) == maxSaid {
		line += "; it changes all the time, and only how that ends is logged for the next " + saidIn.String()
	}
	s.log.Warn(manifest.Clean(line), "interface", manifest.Clean(name))
}

// sayLeft logs how what was too much to log ended.
func (s *interfaces) sayLeft() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, line := range s.left {
		s.say(name, line)
	}
}

// note tells the ledger of a gap until at.
func (s *interfaces) note(name string, d *dark, at int64) {
	d.noted = true
	s.ring.AddGap(ring.Gap{
		Stream: chunker.Packets, Reason: d.reason, From: manifest.Nanos(d.since), To: manifest.Nanos(max(at, d.since+1)), Interface: manifest.Clean(name),
	})
}

// noteAll tells the ledger of all gaps that go on, until at.
func (s *interfaces) noteAll(at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, d := range s.dark {
		s.note(name, d, at)
	}
}

// stepped hears that the clock was set; see packets.Config.
func (s *interfaces) stepped(at, delta int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, d := range s.dark {
		s.note(name, d, at-delta)
		d.since, d.noted = at, false
	}
}

// run logs what is left to say, until the context ends.
func (s *interfaces) run(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			s.sayLeft()
		case <-ctx.Done():
			return
		}
	}
}
