package archive

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

func TestSweepWithFaults(t *testing.T) {
	eachFault(t, func(t *testing.T, plan storetest.Plan) {
		mem := newStore(t)
		a := New(mem)
		mustCreate(t, a, testIntent(0, "old"), "shared", "own")
		mustCreate(t, a, testIntent(1, "new"), "shared")
		if _, err := a.Begin(t.Context(), testIntent(2, "dead")); err != nil {
			t.Fatal(err)
		}
		faulty := storetest.NewFaulty(mem, plan)
		derr := New(faulty).Delete(t.Context(), testID(0), "me")
		if derr != nil {
			faulty.SetPlan(nil)
			if err := New(faulty).Delete(t.Context(), testID(0), "me"); err != nil {
				t.Fatalf("delete again: %v", err)
			}
		}
		_, err := New(faulty).Sweep(t.Context(), at(epoch.Add(48*time.Hour)))
		mustBeWhole(t, mem)
		faulty.SetPlan(nil)
		if err != nil {
			if _, err := New(faulty).Sweep(t.Context(), at(epoch.Add(48*time.Hour))); err != nil {
				t.Fatalf("sweep again: %v", err)
			}
		}
		mustBeWhole(t, mem)
		want := map[string]int{"chunks": 1, "inventories": 1, "deleted": 1, "gc": 1, "snapshots": 4}
		got := map[string]int{}
		for _, key := range mem.Keys() {
			dir, _, _ := strings.Cut(key, "/")
			got[dir]++
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("objects (-want +got):\n%s", d)
		}
	})
}

func TestSweepReport(t *testing.T) {
	mem := newStore(t)
	a := New(mem)
	mustCreate(t, a, testIntent(0, "old"), "shared", "own")
	mustCreate(t, a, testIntent(1, "new"), "shared")
	mem.Ops()
	if r, err := a.Sweep(t.Context(), at(epoch)); err != nil || r != (SweepReport{Scanned: 4}) {
		t.Errorf("sweep with nothing to do: %+v, %v", r, err)
	}
	if puts := mem.Puts(); len(puts) != 0 {
		t.Errorf("sweep with nothing to do wrote %q", puts)
	}
	if err := a.Delete(t.Context(), testID(0), "me"); err != nil {
		t.Fatal(err)
	}
	var freed int64
	for info, err := range mem.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		own := manifest.ObjectKey{Kind: manifest.KindChunk, Hash: chunker.HashOf([]byte("own")), Ext: chunker.PacketsExt}
		if info.Key == own.String() || strings.HasPrefix(info.Key, "inventories/") && info.Size > 400 {
			freed += info.Size
		}
	}
	mem.Ops()
	opt := at(epoch)
	opt.DryRun = true
	if r, err := a.Sweep(t.Context(), opt); err != nil || r != (SweepReport{Scanned: 4, Condemned: 2, Freed: freed}) {
		t.Errorf("dry run: %+v, %v, want %d bytes", r, err, freed)
	}
	for _, op := range mem.Ops() {
		if strings.HasPrefix(op, "put") || strings.HasPrefix(op, "delete ") {
			t.Errorf("dry run did %s", op)
		}
	}
	if r, err := a.Sweep(t.Context(), at(epoch)); err != nil || r != (SweepReport{Scanned: 4, Condemned: 2, Deleted: 2, Freed: freed}) {
		t.Errorf("sweep: %+v, %v, want %d bytes", r, err, freed)
	}
	puts := slices.DeleteFunc(mem.Puts(), func(key string) bool { return isMark(path.Base(key)) || isMark(path.Base(path.Dir(key))) })
	if d := cmp.Diff([]string{manifest.CondemnedPath(1)}, puts); d != "" {
		t.Errorf("puts (-want +got):\n%s", d)
	}
	mustBeWhole(t, mem)
}

// A sweep waits for a session that is under way, spares what it uploaded, and
// condemns none of it.
func TestSweepWaits(t *testing.T) {
	mem := newStore(t)
	a := New(mem)
	s, err := a.Begin(t.Context(), testIntent(1, "new"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := fill(t.Context(), s, "chunk")
	if err != nil {
		t.Fatal(err)
	}
	opt, waits := at(epoch), 0
	opt.Wait = func(_ context.Context, d time.Duration) error {
		if d <= 0 || d > time.Minute {
			t.Errorf("waits for %v", d)
		}
		if waits++; waits == 3 {
			return s.Commit(t.Context(), m, testSigner)
		}
		return nil
	}
	if r, err := New(mem).Sweep(t.Context(), opt); err != nil || r != (SweepReport{Scanned: 2}) || waits != 3 {
		t.Errorf("sweep: %+v, %v, after %d waits", r, err, waits)
	}
	mustBeWhole(t, mem)
	if slices.Contains(mem.Keys(), manifest.CondemnedPath(1)) {
		t.Error("the session's objects were condemned")
	}
}

func TestSweepStopsOnDoubt(t *testing.T) {
	living := testID(1)
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	gone := func([]byte) []byte { return nil }
	put := func(key string) func(*testing.T, *storetest.Memory) {
		return func(t *testing.T, mem *storetest.Memory) {
			if err := mem.Put(t.Context(), key, store.Bytes([]byte("?"))); err != nil {
				t.Fatal(err)
			}
		}
	}
	damage := func(prefix string, f func([]byte) []byte) func(*testing.T, *storetest.Memory) {
		return func(t *testing.T, mem *storetest.Memory) {
			for _, key := range mem.Keys() {
				if strings.HasPrefix(key, prefix) {
					mem.Damage(key, f)
				}
			}
		}
	}
	for _, c := range []struct {
		name   string
		damage func(*testing.T, *storetest.Memory)
		cured  bool // by deleting the snapshot
	}{
		{"manifest flipped", damage(manifest.ManifestPath(living), func(b []byte) []byte { b[0] ^= 1; return b }), true},
		{"manifest gone", func(t *testing.T, mem *storetest.Memory) { mem.Damage(manifest.ManifestPath(living), gone) }, false},
		{"inventories flipped", damage("inventories/", flip), true},
		{"inventories gone", damage("inventories/", gone), true},
		{"stray manifest", put("snapshots/backup-of-1/manifest.json"), false},
		{"stray intent", put("intents/backup-of-1"), false},
		{"damaged condemned list", put(manifest.CondemnedPath(1)), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := newStore(t)
			a := New(mem)
			mustCreate(t, a, testIntent(0, "old"), "own")
			mustCreate(t, a, testIntent(1, "new"), "other")
			if err := a.Delete(t.Context(), testID(0), "me"); err != nil {
				t.Fatal(err)
			}
			c.damage(t, mem)
			before := mem.Keys()
			r, err := New(mem).Sweep(t.Context(), at(epoch))
			if err == nil || r.Deleted != 0 {
				t.Fatalf("sweep: %+v, %v", r, err)
			}
			t.Log(err)
			if d := cmp.Diff(before, mem.Keys()); d != "" {
				t.Errorf("it changed something (-before +after):\n%s", d)
			}
			if !c.cured {
				return
			}
			if err := New(mem).Delete(t.Context(), living, "me"); err != nil {
				t.Fatalf("delete what is damaged: %v", err)
			}
			if _, err := New(mem).Sweep(t.Context(), at(epoch)); err != nil {
				t.Fatalf("sweep after that: %v", err)
			}
			for _, key := range mem.Keys() {
				if !strings.HasPrefix(key, manifest.DeletedDir) && !strings.HasPrefix(key, manifest.CondemnedDir) {
					t.Errorf("%s is left", key)
				}
			}
		})
	}
}

// A sweep that died is completed by the next, without a list of its own.
func TestSweepCompletesAnother(t *testing.T) {
	mem := newStore(t)
	mustCreate(t, New(mem), testIntent(0, "old"), "own")
	if err := New(mem).Delete(t.Context(), testID(0), "me"); err != nil {
		t.Fatal(err)
	}
	faulty := storetest.NewFaulty(mem, func(op, key string) storetest.Fault {
		if op == "delete" {
			return storetest.Refused
		}
		return storetest.NoFault
	})
	if _, err := New(faulty).Sweep(t.Context(), at(epoch)); err == nil {
		t.Fatal("sweep: no error")
	}
	if r, err := New(mem).Sweep(t.Context(), at(epoch)); err != nil || r.Deleted != 2 {
		t.Fatalf("sweep: %+v, %v", r, err)
	}
	want := []string{manifest.TombstonePath(testID(0)), manifest.CondemnedPath(1)}
	if d := cmp.Diff(want, mem.Keys()); d != "" {
		t.Errorf("left (-want +got):\n%s", d)
	}
}

func TestSweepSplitsLists(t *testing.T) {
	mem := newStore(t)
	// There was a snapshot once.
	if err := mem.Put(t.Context(), manifest.TombstonePath(testID(0)), store.Bytes([]byte("{}"))); err != nil {
		t.Fatal(err)
	}
	const many = maxCondemned + 10
	for n := range many {
		key := manifest.ObjectKey{Kind: manifest.KindChunk, Hash: chunker.HashOf(fmt.Append(nil, n)), Ext: chunker.PacketsExt}
		if err := mem.Put(t.Context(), key.String(), store.Bytes([]byte("x"))); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := New(mem).Sweep(t.Context(), at(epoch)); err != nil || r.Deleted != many {
		t.Fatalf("sweep: %+v, %v", r, err)
	}
	want := []string{manifest.TombstonePath(testID(0)), manifest.CondemnedPath(1), manifest.CondemnedPath(2)}
	if d := cmp.Diff(want, mem.Keys()); d != "" {
		t.Errorf("left (-want +got):\n%s", d)
	}
	a := New(mem)
	if n, err := a.readCondemned(t.Context()); err != nil || n != 2 || len(a.proto.condemned.all) != many {
		t.Errorf("lists: %d, %v; %d keys", n, err, len(a.proto.condemned.all))
	}
}

func TestTakeOverWithFaults(t *testing.T) {
	mine := func(in Intent) bool { return in.Kind == KindHub }
	eachFault(t, func(t *testing.T, plan storetest.Plan) {
		mem := newStore(t)
		in := testIntent(1, "new")
		in.Kind = KindHub
		if _, err := New(mem).Begin(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		if _, err := New(mem).Begin(t.Context(), testIntent(2, "import")); err != nil {
			t.Fatal(err)
		}
		// Hubs start, and die, until one can do its work.
		faulty := storetest.NewFaulty(mem, plan)
		var sessions []*Session
		n := 10
		for {
			var err error
			sessions, err = New(faulty).TakeOver(t.Context(), mine, func(old Intent) (Intent, error) {
				in := testIntent(n, old.Name)
				in.Kind = KindHub
				n++
				return in, nil
			})
			if err == nil {
				break
			}
			faulty.SetPlan(nil)
		}
		faulty.SetPlan(nil)
		if len(sessions) != 1 || sessions[0].Intent.Name != "new" {
			t.Fatalf("taken over: %v", sessions)
		}
		m, err := fill(t.Context(), sessions[0], "chunk")
		if err != nil {
			t.Fatal(err)
		}
		if err := sessions[0].Commit(t.Context(), m, testSigner); err != nil {
			t.Fatal(err)
		}
		// Whoever waits for the first id comes to the snapshot.
		id := testID(1)
		for range 5 {
			o := mustOutcome(t, New(mem), id)
			if o.Successor == "" {
				break
			}
			id = o.Successor
		}
		if o := mustOutcome(t, New(mem), id); o.State != Committed {
			t.Errorf("the last in the line, %s, is %s", id, o.State)
		}
		if o := mustOutcome(t, New(mem), testID(2)); o.State != Undecided {
			t.Errorf("the session of another is %s", o.State)
		}
		if _, err := New(mem).Sweep(t.Context(), at(epoch.Add(48*time.Hour))); err != nil {
			t.Fatal(err)
		}
		for _, key := range mem.Keys() {
			if strings.HasPrefix(key, manifest.IntentsDir) {
				t.Errorf("%s is left", key)
			}
		}
	})
}

func TestTakeOverOfTakenName(t *testing.T) {
	mem := newStore(t)
	a := New(mem)
	if _, err := a.Begin(t.Context(), testIntent(1, "new")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Void(t.Context(), testID(1), testID(2), "a hub died here"); err != nil {
		t.Fatal(err)
	}
	mustCreate(t, a, testIntent(3, "new"), "chunk")
	for range 2 {
		sessions, err := a.TakeOver(t.Context(), func(Intent) bool { return true }, func(Intent) (Intent, error) { return testIntent(4, "new"), nil })
		if len(sessions) != 0 || err != nil && !errors.Is(err, ErrNameTaken) {
			t.Fatalf("take over: %v, %v", sessions, err)
		}
	}
	if o := mustOutcome(t, a, testID(2)); o.State != Voided || !strings.Contains(o.Reason, "taken") {
		t.Errorf("the successor is %+v", o)
	}
}

// TestTakeOverOfWhatEnds: a session that nobody can carry on ends, with whatever a
// TakeOver before named as its successor, wherever a hub dies over that.
func TestTakeOverOfWhatEnds(t *testing.T) {
	eachFault(t, func(t *testing.T, plan storetest.Plan) {
		mem := newStore(t)
		for i, name := range map[int]string{1: "named", 2: "unnamed"} {
			if _, err := New(mem).Begin(t.Context(), testIntent(i, name)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := New(mem).Void(t.Context(), testID(1), testID(3), "a hub died here"); err != nil {
			t.Fatal(err)
		}
		faulty := storetest.NewFaulty(mem, plan)
		for {
			sessions, err := New(faulty).TakeOver(t.Context(), func(Intent) bool { return true }, func(old Intent) (Intent, error) {
				return Intent{}, &VoidedError{ID: old.ID, Reason: "nobody has its packets"}
			})
			faulty.SetPlan(nil)
			if len(sessions) != 0 {
				t.Fatalf("taken over: %v", sessions)
			}
			if err == nil {
				break
			}
		}
		for _, i := range []int{2, 3} {
			if o := mustOutcome(t, New(mem), testID(i)); o.State != Voided || o.Reason != "nobody has its packets" || o.Successor != "" {
				t.Errorf("session %d is %+v", i, o)
			}
		}
		if left, err := New(mem).UnderWay(t.Context()); err != nil || len(left) != 0 {
			t.Errorf("under way: %+v, %v", left, err)
		}
		if _, err := New(mem).Sweep(t.Context(), at(epoch.Add(48*time.Hour))); err != nil {
			t.Error(err)
		}
	})
}

func FuzzCondemned(f *testing.F) {
	key := manifest.ObjectKey{Kind: manifest.KindChunk, Hash: chunker.HashOf(nil), Ext: chunker.PacketsExt, Generation: 3}
	for _, keys := range [][]string{nil, {key.String()}} {
		b, err := encodeCondemned(7, keys)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := decodeCondemned(b, 7)
		if err != nil {
			return
		}
		text := make([]string, len(keys))
		for i, k := range keys {
			text[i] = k.String()
		}
		again, err := encodeCondemned(7, text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeCondemned(again, 7); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzIntent(f *testing.F) {
	b, err := testIntent(1, "name").encode("token")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"format":"pcapsule.intent","version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := decodeIntent(b, testID(1), epoch)
		if in.ID != testID(1) || in.Deadline.IsZero() || !in.Deadline.After(in.Created) {
			t.Fatalf("%+v", in)
		}
	})
}

// A liar is a store whose lists of some prefix are what lie makes of them.
type liar struct {
	store.Store
	prefix string
	lie    func([]store.Info) []store.Info
}

func (l liar) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	if prefix != l.prefix {
		return l.Store.List(ctx, prefix)
	}
	return func(yield func(store.Info, error) bool) {
		var all []store.Info
		for info, err := range l.Store.List(ctx, prefix) {
			if err != nil {
				yield(info, err)
				return
			}
			all = append(all, info)
		}
		for _, info := range l.lie(all) {
			if !yield(info, nil) {
				return
			}
		}
	}
}

// TestSweepBelievesNoList sweeps a store whose lists look whole and are not. It
// deletes nothing that lives, and says what is wrong.
func TestSweepBelievesNoList(t *testing.T) {
	for _, prefix := range []string{manifest.SnapshotsDir, manifest.IntentsDir} {
		var old []store.Info
		for name, lie := range map[string]func([]store.Info) []store.Info{
			"empty":            func([]store.Info) []store.Info { return nil },
			"the first":        func(l []store.Info) []store.Info { return l[:min(1, len(l))] },
			"without the last": func(l []store.Info) []store.Info { return l[:max(0, len(l)-1)] },
			"old":              func([]store.Info) []store.Info { return old },
		} {
			t.Run(prefix+" "+name, func(t *testing.T) {
				mem := newStore(t)
				a := New(mem)
				mustCreate(t, a, testIntent(0, "old"), "own")
				for info, err := range mem.List(t.Context(), prefix) {
					if err != nil {
						t.Fatal(err)
					}
					old = append(old, info)
				}
				mustCreate(t, a, testIntent(1, "living"), "shared")
				commit := func() error { return nil }
				if prefix == manifest.IntentsDir { // a session for which the sweep would wait, did it see it
					s, err := a.Begin(t.Context(), testIntent(2, "under-way"))
					if err != nil {
						t.Fatal(err)
					}
					m, err := fill(t.Context(), s, "shared", "new")
					if err != nil {
						t.Fatal(err)
					}
					commit = func() error { return s.Commit(t.Context(), m, testSigner) }
				}
				if err := a.Delete(t.Context(), testID(0), "me"); err != nil {
					t.Fatal(err)
				}
				r, err := New(liar{mem, prefix, lie}).Sweep(t.Context(), at(epoch))
				if !errors.Is(err, ErrBlind) || r.Deleted > 0 {
					t.Errorf("sweep: %+v, %v", r, err)
				}
				if err := commit(); err != nil {
					t.Error(err)
				}
				mustBeWhole(t, mem)
				if _, err := a.Sweep(t.Context(), at(epoch)); err != nil {
					t.Error(err)
				}
				mustBeWhole(t, mem)
				for _, key := range mem.Keys() {
					if isMark(path.Base(key)) || isMark(path.Base(path.Dir(key))) {
						t.Errorf("left: %s", key)
					}
				}
			})
		}
	}
}

// TestSessionBelievesNoList begins sessions in a store with a lying list.
func TestSessionBelievesNoList(t *testing.T) {
	none := func([]store.Info) []store.Info { return nil }
	mem := newStore(t)
	a := New(mem)
	mustCreate(t, a, testIntent(0, "old"), "own")
	if err := a.Delete(t.Context(), testID(0), "me"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sweep(t.Context(), at(epoch)); err != nil {
		t.Fatal(err)
	}
	if _, err := New(liar{mem, manifest.IntentsDir, none}).Begin(t.Context(), testIntent(1, "new")); !errors.Is(err, ErrBlind) {
		t.Errorf("without its own intent in the list: %v", err)
	}
	s, err := New(liar{mem, manifest.CondemnedDir, none}).Begin(t.Context(), testIntent(2, "newer"))
	if err != nil {
		t.Fatal(err)
	}
	key, have, err := s.Place(t.Context(), objectOf(manifest.KindChunk, []byte("own"), chunker.PacketsExt))
	if k, _ := manifest.ParseObjectKey(key); err != nil || have || k.Generation != 1 {
		t.Errorf("a condemned key is used again: %s, %v, %v", key, have, err)
	}
}

// TestSweepSparesTheFuture sweeps what a machine with a wrong clock has made, at
// the times of marks: a snapshot, and a session that was ended.
func TestSweepSparesTheFuture(t *testing.T) {
	mem := newStore(t)
	a := New(mem)
	mustCreate(t, a, testIntent(0, "old"), "own")
	if err := a.Delete(t.Context(), testID(0), "me"); err != nil {
		t.Fatal(err)
	}
	in := testIntent(1, "living")
	in.ID = "22010203T040506.000000Z-0000000001"
	mustCreate(t, a, in, "shared")
	ended := testIntent(2, "ended")
	ended.ID = "22010203T040506.000000Z-0000000002"
	s, err := a.Begin(t.Context(), ended)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Void(t.Context(), s.Intent.ID, "", "by hand"); err != nil {
		t.Fatal(err)
	}
	if r, err := New(mem).Sweep(t.Context(), at(epoch)); err != nil || r.Deleted != 2 {
		t.Fatalf("sweep: %+v, %v", r, err)
	}
	mustBeWhole(t, mem)
	for id, want := range map[string]State{in.ID: Committed, ended.ID: Voided} {
		if o, err := New(mem).Outcome(t.Context(), id); err != nil || o.State != want {
			t.Errorf("%s: %+v, %v", id, o, err)
		}
	}
}
