package storetest

import (
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/store"
)

// recorder is a test that only notes that it failed.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Errorf(string, ...any) { r.failed = true }
func (r *recorder) Helper()               {}

func TestMemoryWatches(t *testing.T) {
	ctx := t.Context()
	r := &recorder{TB: t}
	m := NewMemory(r, nil)
	Put(t, m, "a", []byte("x"))
	if err := m.Put(ctx, "a", store.Bytes([]byte("y"))); !errors.Is(err, store.ErrExist) {
		t.Error(err)
	}
	if err := m.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	Put(t, m, "a", []byte("x"))
	if r.failed {
		t.Error("the same bytes under the same key are fine")
	}
	if err := m.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "a"}, m.Puts()); diff != "" {
		t.Error(diff)
	}
	c := m.Clone()
	Put(t, c, "a", []byte("y"))
	if !r.failed {
		t.Error("other bytes under a key used before were let pass")
	}
	Put(t, m, "b", []byte("z"))
	m.Damage("b", func(b []byte) []byte { b[0]++; return b })
	if got := Read(t, m, "b"); string(got) != "{" {
		t.Errorf("damaged to %q", got)
	}
	m.Damage("b", func([]byte) []byte { return nil })
	if keys := m.Keys(); len(keys) != 0 {
		t.Errorf("left: %q", keys)
	}
}

func TestFaultsComeInPairs(t *testing.T) {
	for _, fault := range []Fault{Refused, Lost} {
		m := NewMemory(t, nil)
		Put(t, m, "old", []byte("0123456789"))
		Put(t, m, "older", nil)
		f := NewFaulty(m, func(string, string) Fault { return fault })
		done := fault == Lost
		if err := f.Put(t.Context(), "new", store.Bytes([]byte("x"))); !errors.Is(err, ErrFault) {
			t.Errorf("Put: %v", err)
		}
		if _, err := m.Stat(t.Context(), "new"); (err == nil) != done {
			t.Errorf("fault %d: Put was done: %v", fault, err == nil)
		}
		if err := f.Delete(t.Context(), "older"); !errors.Is(err, ErrFault) {
			t.Errorf("Delete: %v", err)
		}
		if _, err := m.Stat(t.Context(), "older"); (err != nil) != done {
			t.Errorf("fault %d: Delete was done: %v", fault, err != nil)
		}
		r, err := f.Get(t.Context(), "old", 0, -1)
		if done && err == nil {
			var got []byte
			if got, err = io.ReadAll(r); string(got) != "01234" {
				t.Errorf("read %q before the fault", got)
			}
		}
		if !errors.Is(err, ErrFault) {
			t.Errorf("Get: %v", err)
		}
		var last error
		for _, err := range f.List(t.Context(), "") {
			last = err
		}
		if !errors.Is(last, ErrFault) {
			t.Errorf("List: %v", last)
		}
		f.SetPlan(nil)
		Read(t, f, "old")
	}
}

func TestPlans(t *testing.T) {
	run := func(p Plan) (faults []Fault) {
		for range 1000 {
			faults = append(faults, p("put", "a"))
		}
		return faults
	}
	if diff := cmp.Diff(run(RandomPlan(1, 10)), run(RandomPlan(1, 10))); diff != "" {
		t.Error("the same seed gives another plan")
	}
	count := map[Fault]int{}
	for _, f := range run(RandomPlan(1, 10)) {
		count[f]++
	}
	if count[Refused] < 20 || count[Lost] < 20 || count[NoFault] < 800 {
		t.Errorf("faults: %v", count)
	}
	for i, f := range run(NthPlan(7, Lost)) {
		if (f == Lost) != (i == 7) {
			t.Errorf("call %d: fault %d", i, f)
		}
	}
}
