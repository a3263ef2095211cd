package archive

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pcapsule/internal/process"
	"pcapsule/manifest"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

// died is a process of this machine that has ended: its pid is another's now.
func died(t *testing.T) process.ID {
	t.Helper()
	p := process.Self()
	p.Start--
	if !p.Dead() {
		t.Skip("this machine cannot tell dead processes")
	}
	return p
}

// abandon leaves a session with one chunk uploaded.
func abandon(t *testing.T, a *Archive, in Intent, chunks ...string) {
	t.Helper()
	s, err := a.Begin(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fill(t.Context(), s, chunks...); err != nil {
		t.Fatal(err)
	}
}

func (in Intent) by(p process.ID) Intent {
	in.Process = p
	return in
}

func TestSweepEndsTheDead(t *testing.T) {
	mem := newStore(t)
	a := New(mem)
	abandon(t, a, testIntent(1, "dead").by(died(t)), "lost")
	r, err := a.Sweep(t.Context(), at(epoch.Add(time.Minute)))
	if err != nil {
		t.Fatal(err)
	}
	if r.Voided != 1 || r.Deleted != 2 {
		t.Errorf("report %+v", r)
	}
	o := mustOutcome(t, a, testID(1))
	if o.State != Voided || !strings.Contains(o.Reason, "process died") {
		t.Errorf("outcome %+v", o)
	}
	if slices.ContainsFunc(mem.Keys(), func(k string) bool { return strings.HasPrefix(k, manifest.IntentsDir) }) {
		t.Error("the intent is left")
	}
}

// TestSweepTells: of a session that may be alive a sweep tells once, and waits.
func TestSweepTells(t *testing.T) {
	for name, p := range map[string]process.ID{"alive": process.Self(), "unknown": {}} {
		a := New(newStore(t))
		abandon(t, a, testIntent(1, "x").by(p), "c")
		opt := at(epoch.Add(time.Minute))
		var told []string
		opt.Waiting = func(w Attempt) { told = append(told, w.ID+" "+w.Name) }
		waits := 0
		opt.Wait = func(context.Context, time.Duration) error {
			if waits++; waits == 5 {
				_, err := a.Remove(context.Background(), testID(1), "me")
				return err
			}
			return nil
		}
		if _, err := a.Sweep(t.Context(), opt); err != nil {
			t.Fatal(err)
		}
		if len(told) != 1 || told[0] != testID(1)+" x" {
			t.Errorf("%s: told of %q", name, told)
		}
		if waits != 5 {
			t.Errorf("%s: waited %d times", name, waits)
		}
	}
}

func TestNameOfTheDead(t *testing.T) {
	a := New(newStore(t))
	abandon(t, a, testIntent(1, "x").by(process.Self()), "c")
	if err := create(t.Context(), a, testIntent(2, "x"), "c"); !errors.Is(err, ErrNameTaken) || !strings.Contains(err.Error(), testID(1)) {
		t.Errorf("create under the name of a session that runs: %v", err)
	}
	a = New(newStore(t))
	abandon(t, a, testIntent(1, "x").by(died(t)), "c")
	mustCreate(t, a, testIntent(2, "x"), "c")
	if o := mustOutcome(t, a, testID(1)); o.State != Voided {
		t.Errorf("outcome of the dead session: %+v", o)
	}
}

func TestRemove(t *testing.T) {
	mem := newStore(t)
	a := New(mem)
	mustCreate(t, a, testIntent(1, "done"), "c")
	abandon(t, a, testIntent(2, "making").by(process.Self()), "c", "own")
	abandon(t, a, testIntent(3, "dead").by(died(t)))

	all, err := a.UnderWay(t.Context())
	if err != nil || len(all) != 2 || all[0].Dead() || !all[1].Dead() {
		t.Fatalf("under way: %+v, %v", all, err)
	}
	for _, ref := range []string{"mak", testID(2)[:20], "nothing", testID(9)} {
		if _, err := a.Remove(t.Context(), ref, "me"); !errors.Is(err, ErrNotFound) {
			t.Errorf("remove %s: %v", ref, err)
		}
	}
	r, err := a.Remove(t.Context(), "making", "me")
	if err != nil || r.Session == nil || r.ID != testID(2) || !r.Counted || r.Objects != 3 || r.Session.Dead() {
		t.Errorf("remove a session by name: %+v, %v", r, err)
	}
	if o := mustOutcome(t, a, testID(2)); o.State != Voided || !strings.Contains(o.Reason, "deleted by me") {
		t.Errorf("its outcome: %+v", o)
	}
	if _, err := a.Remove(t.Context(), testID(2), "me"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "deleted by me") {
		t.Errorf("once more: %v", err)
	}
	if r, err := a.Remove(t.Context(), testID(3), "me"); err != nil || r.Session == nil || !r.Session.Dead() {
		t.Errorf("remove a dead session by id: %+v, %v", r, err)
	}
	if r, err := a.Remove(t.Context(), "done", "me"); err != nil || r.Session != nil || r.ID != testID(1) {
		t.Errorf("remove a snapshot: %+v, %v", r, err)
	}
	if _, err := a.Remove(t.Context(), testID(1), "me"); !errors.Is(err, ErrNotFound) {
		t.Errorf("once more: %v", err)
	}
}

// TestRemoveAmbiguous: an archive put together from others may hold a name twice.
func TestRemoveAmbiguous(t *testing.T) {
	one, two, three := newStore(t), newStore(t), newStore(t)
	mustCreate(t, New(one), testIntent(1, "x"), "c")
	abandon(t, New(two), testIntent(2, "x"))
	abandon(t, New(three), testIntent(3, "x"))
	both := newStore(t)
	merge(t, both, one, two)
	_, err := New(both).Remove(t.Context(), "x", "me")
	if !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), testID(1)) || !strings.Contains(err.Error(), testID(2)) {
		t.Errorf("a snapshot and a session: %v", err)
	}
	open := newStore(t)
	merge(t, open, two, three)
	_, err = New(open).Remove(t.Context(), "x", "me")
	if !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), testID(2)) || !strings.Contains(err.Error(), testID(3)) {
		t.Errorf("two sessions: %v", err)
	}
	for _, id := range []string{testID(2), testID(3)} {
		if o := mustOutcome(t, New(open), id); o.State != Undecided {
			t.Errorf("session %s is %s", id, o.State)
		}
	}
}

func merge(t *testing.T, to *storetest.Memory, from ...*storetest.Memory) {
	t.Helper()
	for _, f := range from {
		for _, key := range f.Keys() {
			err := to.Put(t.Context(), key, store.Bytes(storetest.Read(t, f, key)))
			if err != nil && !errors.Is(err, store.ErrExist) {
				t.Fatal(err)
			}
		}
	}
}

func TestStanding(t *testing.T) {
	a := New(newStore(t))
	s, err := a.Begin(t.Context(), testIntent(1, "x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Standing(t.Context()); err != nil {
		t.Errorf("of an undecided session: %v", err)
	}
	if _, err := a.Remove(t.Context(), "x", "me"); err != nil {
		t.Fatal(err)
	}
	var voided *VoidedError
	if err := s.Standing(t.Context()); !errors.As(err, &voided) || !strings.Contains(err.Error(), "deleted by me") {
		t.Errorf("of one that was ended: %v", err)
	}
}
