package archive

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

// newStore is a store in which time stands still.
func newStore(t *testing.T) *storetest.Memory {
	return storetest.NewMemory(t, func() time.Time { return epoch })
}

func at(now time.Time) SweepOptions {
	return SweepOptions{
		Now:  func() time.Time { return now },
		Wait: func(context.Context, time.Duration) error { return errors.New("the sweep waits, and nobody comes") },
	}
}

func mustOutcome(t *testing.T, a *Archive, id string) Outcome {
	t.Helper()
	o, err := a.Outcome(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// eachFault calls f with stores of which one call fails, in each way, until f
// makes no call that is late enough to be the one.
func eachFault(t *testing.T, f func(t *testing.T, plan storetest.Plan)) {
	for _, fault := range []storetest.Fault{storetest.Refused, storetest.Lost} {
		for n, met := 0, true; met; n++ {
			met = false
			nth := storetest.NthPlan(n, fault)
			var what string
			ok := t.Run(fmt.Sprintf("fault %d at call %d", fault, n), func(t *testing.T) {
				f(t, func(op, key string) storetest.Fault {
					got := nth(op, key)
					if got != storetest.NoFault {
						met, what = true, op+" "+key
					}
					return got
				})
			})
			if !ok {
				t.Fatalf("the fault was in %s", what)
			}
		}
	}
}

func TestSessionWithFaults(t *testing.T) {
	eachFault(t, func(t *testing.T, plan storetest.Plan) {
		mem := newStore(t)
		mustCreate(t, New(mem), testIntent(0, "old"), "shared")
		faulty := storetest.NewFaulty(mem, plan)
		err := create(t.Context(), New(faulty), testIntent(1, "new"), "shared", "own")
		faulty.SetPlan(nil)

		// A second look comes from another process.
		a := New(mem)
		switch o := mustOutcome(t, a, testID(1)); {
		case err == nil && o.State != Committed:
			t.Fatalf("created, yet the outcome is %v", o)
		case err != nil && o.State == Committed:
			t.Fatalf("committed, yet create says: %v", err)
		}
		if _, serr := a.Sweep(t.Context(), at(epoch.Add(48*time.Hour))); serr != nil {
			t.Fatal(serr)
		}
		for _, key := range mem.Keys() {
			if strings.HasPrefix(key, manifest.IntentsDir) {
				t.Errorf("%s is left", key)
			}
		}
		again := create(t.Context(), a, testIntent(2, "new"), "shared")
		if err == nil && !errors.Is(again, ErrNameTaken) || err != nil && again != nil {
			t.Fatalf("create: %v; once more: %v", err, again)
		}
		mustBeWhole(t, mem)
	})
}

// mustBeWhole fails the test when a living snapshot lacks anything.
func mustBeWhole(t *testing.T, st store.Store) {
	t.Helper()
	objects := map[string][]byte{}
	for info, err := range st.List(context.Background(), "") {
		if err != nil {
			t.Fatal(err)
		}
		b, err := store.ReadAll(context.Background(), st, info.Key, info.Size)
		if err != nil {
			t.Fatal(err)
		}
		objects[info.Key] = b
	}
	if w := newWorld(objects); w.violated != "" {
		t.Fatal(w.violated)
	}
}

func TestCommitOfUnknownFate(t *testing.T) {
	mem := newStore(t)
	faulty := storetest.NewFaulty(mem, nil)
	a := New(faulty)
	s, err := a.Begin(t.Context(), testIntent(1, "new"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := fill(t.Context(), s, "chunk")
	if err != nil {
		t.Fatal(err)
	}
	// The manifest arrives; nothing is heard of it, or of anything after.
	down := false
	faulty.SetPlan(func(op, key string) storetest.Fault {
		if down {
			return storetest.Refused
		}
		if op == "put" && key == manifest.ManifestPath(testID(1)) {
			down = true
			return storetest.Lost
		}
		return storetest.NoFault
	})
	if err := s.Commit(t.Context(), m, testSigner); !errors.Is(err, ErrUndecided) {
		t.Fatalf("commit: %v, want ErrUndecided", err)
	}
	faulty.SetPlan(nil)
	if err := s.Abort(t.Context()); !errors.Is(err, ErrDecided) {
		t.Errorf("abort: %v, want ErrDecided: it is committed", err)
	}
	for range 2 {
		if err := s.Commit(t.Context(), m, testSigner); err != nil {
			t.Fatal(err)
		}
	}
	other := *m
	other.Status, other.Reasons = manifest.Partial, []string{"other"}
	if err := s.Commit(t.Context(), &other, testSigner); err == nil {
		t.Error("commit takes another manifest than the one it signed")
	}
	if _, err := a.Load(t.Context(), testID(1)); err != nil {
		t.Error(err)
	}
}

func TestCommitChecksItsManifest(t *testing.T) {
	mem := newStore(t)
	a := New(mem)
	mustCreate(t, a, testIntent(0, "old"), "chunk")
	old, err := a.Load(t.Context(), testID(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Delete(t.Context(), testID(0), "me"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sweep(t.Context(), at(epoch)); err != nil {
		t.Fatal(err)
	}
	s, err := a.Begin(t.Context(), testIntent(1, "new"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := fill(t.Context(), s, "chunk")
	if err != nil {
		t.Fatal(err)
	}
	condemned, name := *m, *m
	condemned.Nodes = append([]manifest.Node(nil), m.Nodes...)
	condemned.Nodes[0].Streams = append([]manifest.Stream(nil), m.Nodes[0].Streams...)
	condemned.Nodes[0].Streams[0].Inventory = old.Manifest.Nodes[0].Streams[0].Inventory
	name.Name = "other"
	for _, bad := range []*manifest.Manifest{&condemned, &name} {
		if err := s.Commit(t.Context(), bad, testSigner); err == nil {
			t.Errorf("commit takes %+v", bad)
		}
	}
	if err := s.Commit(t.Context(), m, testSigner); err != nil {
		t.Fatal(err)
	}
}

// voider ends a session as soon as its intent is there.
type voider struct {
	store.Store
	t         *testing.T
	successor string
}

func (v voider) Put(ctx context.Context, key string, body store.Body) error {
	err := v.Store.Put(ctx, key, body)
	if id, ok := strings.CutPrefix(key, manifest.IntentsDir); ok && err == nil {
		if _, err := New(v.Store).Void(ctx, id, v.successor, "past its deadline"); err != nil {
			v.t.Error(err)
		}
	}
	return err
}

func TestBeginMeetsVoid(t *testing.T) {
	for _, successor := range []string{"", testID(2)} {
		mem := newStore(t)
		_, err := New(voider{mem, t, successor}).Begin(t.Context(), testIntent(1, "new"))
		var void *VoidedError
		if !errors.As(err, &void) || *void != (VoidedError{testID(1), successor, "past its deadline"}) {
			t.Errorf("begin: %v, want a VoidedError naming %q", err, successor)
		}
		if !errors.Is(err, ErrDecided) {
			t.Errorf("begin: %v is no ErrDecided", err)
		}
		// The intent stays where it leads to a session that is yet to begin.
		_, err = mem.Stat(t.Context(), manifest.IntentPath(testID(1)))
		if gone := errors.Is(err, store.ErrNotExist); gone != (successor == "") {
			t.Errorf("successor %q: the intent is gone: %v", successor, gone)
		}
	}
}

func TestCommitMeetsVoid(t *testing.T) {
	for _, successor := range []string{"", testID(2)} {
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
		o, err := New(mem).Void(t.Context(), testID(1), successor, "too\nlate")
		if want := (Outcome{Voided, successor, "too\ufffdlate"}); err != nil || o != want {
			t.Fatalf("void: %+v, %v; want %+v", o, err, want)
		}
		for range 2 {
			err = s.Commit(t.Context(), m, testSigner)
			var void *VoidedError
			if !errors.As(err, &void) || void.Successor != successor {
				t.Fatalf("commit: %v, want a VoidedError naming %q", err, successor)
			}
		}
		if err := s.Abort(t.Context()); err != nil {
			t.Errorf("abort of a voided session: %v", err)
		}
		// The intent stays where it leads to a session that is yet to begin.
		_, err = mem.Stat(t.Context(), manifest.IntentPath(testID(1)))
		if gone := errors.Is(err, store.ErrNotExist); gone != (successor == "") {
			t.Errorf("successor %q: the intent is gone: %v", successor, gone)
		}
	}
}

// forgetful is a store that takes intents and does not keep them.
type forgetful struct {
	store.Store
	atOnce bool // else when somebody lists them
}

func (f forgetful) Put(ctx context.Context, key string, body store.Body) error {
	if f.atOnce && strings.HasPrefix(key, manifest.IntentsDir) {
		return nil
	}
	return f.Store.Put(ctx, key, body)
}

func (f forgetful) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	if prefix == manifest.IntentsDir {
		_ = f.Delete(ctx, manifest.IntentPath(testID(1)))
	}
	return f.Store.List(ctx, prefix)
}

// TestBeginWithoutIntent: no sweep would wait for a session that has no intent.
func TestBeginWithoutIntent(t *testing.T) {
	for _, atOnce := range []bool{true, false} {
		mem := newStore(t)
		_, err := New(forgetful{mem, atOnce}).Begin(t.Context(), testIntent(1, "new"))
		if !errors.Is(err, errUnannounced) {
			t.Errorf("begin: %v, want %v", err, errUnannounced)
		}
		// Its intent, should it turn up later, is that of a session that has ended.
		if o := mustOutcome(t, New(mem), testID(1)); o.State != Voided {
			t.Errorf("the session is %s", o.State)
		}
		mustCreate(t, New(mem), testIntent(2, "new"), "chunk")
	}
}

// TestCommitWithoutIntent: somebody deletes the intent while chunks come, and a
// sweep does not know of the session.
func TestCommitWithoutIntent(t *testing.T) {
	mem := newStore(t)
	mustCreate(t, New(mem), testIntent(0, "old"), "other chunk")
	faulty := storetest.NewFaulty(mem, nil)
	s, err := New(faulty).Begin(t.Context(), testIntent(1, "new"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := fill(t.Context(), s, "chunk")
	if err != nil {
		t.Fatal(err)
	}
	intent := manifest.IntentPath(testID(1))
	if err := mem.Delete(t.Context(), intent); err != nil {
		t.Fatal(err)
	}
	if _, err := New(mem).Sweep(t.Context(), at(epoch)); err != nil {
		t.Fatal(err)
	}
	// As long as the store does not tell, the session is open.
	faulty.SetPlan(func(op, key string) storetest.Fault {
		if op == "stat" && key == intent || op == "put" && key == manifest.ManifestPath(testID(1)) {
			return storetest.Refused
		}
		return storetest.NoFault
	})
	if err := s.Commit(t.Context(), m, testSigner); !errors.Is(err, ErrUndecided) {
		t.Errorf("commit, and the store does not tell of the intent: %v, want ErrUndecided", err)
	}
	faulty.SetPlan(func(op, key string) storetest.Fault {
		if op == "put" {
			return storetest.Refused
		}
		return storetest.NoFault
	})
	if err := s.Commit(t.Context(), m, testSigner); !errors.Is(err, ErrUndecided) {
		t.Errorf("commit, and the store takes no void marker: %v, want ErrUndecided", err)
	}
	faulty.SetPlan(nil)
	for range 2 {
		err := s.Commit(t.Context(), m, testSigner)
		var void *VoidedError
		if !errors.As(err, &void) || !strings.Contains(err.Error(), "intent is not in the store") {
			t.Fatalf("commit: %v, want a VoidedError that tells of the intent", err)
		}
	}
	if list, err := New(mem).List(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("%d snapshots, %v; want the old one", len(list), err)
	}
}

func TestOutcomes(t *testing.T) {
	mem := newStore(t)
	a := New(mem)
	ctx := t.Context()
	for n, name := range []string{"undecided", "voided", "committed", "deleted", "swept"} {
		s, err := a.Begin(ctx, testIntent(n, name))
		if err != nil {
			t.Fatal(err)
		}
		switch name {
		case "undecided":
			continue
		case "voided":
			if err := s.Fail(ctx, "no reason"); err != nil {
				t.Fatal(err)
			}
			continue
		}
		m, err := fill(ctx, s, name)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(ctx, m, testSigner); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Delete(ctx, testID(4), "me"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sweep(ctx, at(epoch.Add(48*time.Hour))); err != nil {
		t.Fatal(err)
	}
	// The sweep ended session 0; begin another in its place.
	if _, err := a.Begin(ctx, testIntent(6, "undecided")); err != nil {
		t.Fatal(err)
	}
	if err := a.Delete(ctx, testID(3), "me"); err != nil {
		t.Fatal(err)
	}
	want := map[int]Outcome{
		0: {Voided, "", "a sweep found it past its deadline, 2026-11-23T15:50:00Z"},
		1: {Voided, "", "no reason"},
		2: {State: Committed},
		3: {State: Deleted},
		4: {State: Deleted},
		5: {State: Unknown},
		6: {State: Undecided},
	}
	for _, a := range []*Archive{a, New(mem)} {
		got := map[int]Outcome{}
		for n := range want {
			got[n] = mustOutcome(t, a, testID(n))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("outcomes (-want +got):\n%s", d)
		}
	}
	// To void what has ended changes nothing.
	for n, o := range want {
		if n == 5 || n == 6 {
			continue
		}
		if got, err := New(mem).Void(ctx, testID(n), "", "again"); err != nil || got != o {
			t.Errorf("void %d: %+v, %v; want %+v", n, got, err, o)
		}
	}
	if got := mustOutcome(t, New(mem), testID(4)); got.State != Deleted {
		t.Errorf("a void marker in the place of a swept manifest: %+v", got)
	}
	// To delete what is no snapshot does not.
	for n, o := range want {
		err := New(mem).Delete(ctx, testID(n), "me")
		snapshot := o.State == Committed || o.State == Deleted
		if snapshot && err != nil || !snapshot && !errors.Is(err, ErrNotFound) {
			t.Errorf("delete %d, which is %s: %v", n, o.State, err)
		}
	}
	for _, id := range []string{"", "../x", "latest"} {
		if _, err := a.Outcome(ctx, id); err == nil {
			t.Errorf("outcome of %q: no error", id)
		}
	}
}

func TestBegin(t *testing.T) {
	mem := newStore(t)
	a := New(mem)
	mustCreate(t, a, testIntent(0, "living"), "chunk")
	if _, err := a.Begin(t.Context(), testIntent(1, "busy")); err != nil {
		t.Fatal(err)
	}
	nothing := testIntent(9, "x")
	nothing.Deadline = nothing.Created
	for _, c := range []struct {
		name string
		in   Intent
		want error
	}{
		{"name of a snapshot", testIntent(2, "living"), ErrNameTaken},
		{"name of a session", testIntent(3, "busy"), ErrNameTaken},
		{"id of a snapshot", testIntent(0, "free"), ErrDecided},
		{"id of a session", testIntent(1, "free"), ErrDecided},
		{"bad name", testIntent(4, "a/b"), nil},
		{"no deadline", nothing, nil},
	} {
		_, err := New(mem).Begin(t.Context(), c.in)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	var left []string
	for _, key := range mem.Keys() {
		if strings.HasPrefix(key, manifest.IntentsDir) {
			left = append(left, key)
		}
	}
	if d := cmp.Diff([]string{manifest.IntentPath(testID(1))}, left); d != "" {
		t.Errorf("intents (-want +got):\n%s", d)
	}
	if o := mustOutcome(t, a, testID(1)); o.State != Undecided {
		t.Errorf("the session under way is %s", o.State)
	}
	if o := mustOutcome(t, a, testID(0)); o.State != Committed {
		t.Errorf("the snapshot is %s", o.State)
	}
	in := testIntent(5, "made")
	in.ID = ""
	s, err := a.Begin(t.Context(), in)
	if err != nil || manifest.CheckID(s.Intent.ID) != nil {
		t.Fatalf("begin without an id: %+v, %v", s, err)
	}
}

func TestPlace(t *testing.T) {
	mem := newStore(t)
	a := New(mem)
	ctx := t.Context()
	s, err := a.Begin(ctx, testIntent(1, "new"))
	if err != nil {
		t.Fatal(err)
	}
	body := []byte("eight by")
	hash := chunker.HashOf(body)
	place := func(wantGeneration uint64, wantHave bool) string {
		t.Helper()
		mem.Ops()
		key, have, err := s.Place(ctx, objectOf(manifest.KindChunk, body, chunker.PacketsExt))
		if err != nil {
			t.Fatal(err)
		}
		k, err := manifest.ParseObjectKey(key)
		if err != nil || k.Generation != wantGeneration || have != wantHave {
			t.Fatalf("place: %s, %v; want generation %d, %v", key, have, wantGeneration, wantHave)
		}
		return key
	}
	fresh, err := s.Fresh(manifest.KindChunk, hash, chunker.PacketsExt)
	if err != nil {
		t.Fatal(err)
	}
	key := place(0, false)
	if fresh != key {
		t.Errorf("fresh: %s, placed: %s", fresh, key)
	}
	if ops := mem.Ops(); len(ops) != 1 {
		t.Errorf("place asked %q: one question is what 100,000 chunks allow", ops)
	}
	if err := s.Put(ctx, key, store.Bytes(body)); err != nil {
		t.Fatal(err)
	}
	place(0, true)
	if err := s.Put(ctx, key, store.Bytes(body)); err != nil {
		t.Errorf("put again: %v", err)
	}
	mem.Damage(key, func(b []byte) []byte { return b[:3] })
	if err := s.Put(ctx, key, store.Bytes(body)); !errors.Is(err, ErrDamaged) {
		t.Errorf("put over a damaged object: %v", err)
	}
	for g := uint64(1); g < 4; g++ {
		key = place(g, false) // steps over the damaged ones
		if err := s.Put(ctx, key, store.Bytes(body)); err != nil {
			t.Fatal(err)
		}
		place(g, true)
		mem.Damage(key, func(b []byte) []byte { return b[:3] })
		if fresh, err := s.Fresh(manifest.KindChunk, hash, chunker.PacketsExt); err != nil || fresh != key {
			t.Errorf("fresh: %s, %v; placed: %s", fresh, err, key)
		}
	}
	k, err := manifest.ParseObjectKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for range maxPlaceTries {
		k.Generation++
		storetest.Put(t, mem, k.String(), []byte("garbage!"))
	}
	if _, _, err := s.Place(ctx, objectOf(manifest.KindChunk, body, chunker.PacketsExt)); !errors.Is(err, ErrDamaged) {
		t.Errorf("place with all damaged: %v", err)
	}
	if _, _, err := s.Place(ctx, objectOf("snapshots", body, chunker.PacketsExt)); err == nil {
		t.Error("place takes a kind that is none")
	}
	if _, err := s.Fresh("snapshots", hash, chunker.PacketsExt); err == nil {
		t.Error("fresh takes a kind that is none")
	}
	if err := s.Put(ctx, manifest.ManifestPath(testID(1)), store.Bytes(body)); err == nil {
		t.Error("put takes a key that is no content")
	}
}

func TestCheck(t *testing.T) {
	ctx := t.Context()
	start := func() (*storetest.Memory, *Session, manifest.Stream) {
		mem := newStore(t)
		s, err := New(mem).Begin(ctx, testIntent(1, "new"))
		if err != nil {
			t.Fatal(err)
		}
		m, err := fill(ctx, s, "one", "two")
		if err != nil {
			t.Fatal(err)
		}
		return mem, s, m.Nodes[0].Streams[0]
	}
	mem, s, stream := start()
	if err := s.Check(ctx, stream); err != nil {
		t.Fatal(err)
	}
	wrong := stream
	wrong.Records++
	if err := s.Check(ctx, wrong); err == nil {
		t.Error("check takes wrong sums")
	}
	wrong = stream
	wrong.InventorySize--
	if err := s.Check(ctx, wrong); err == nil {
		t.Error("check takes a wrong size")
	}
	for _, key := range mem.Keys() {
		if !strings.HasPrefix(key, "chunks/") && !strings.HasPrefix(key, "inventories/") {
			continue
		}
		mem, s, stream := start()
		mem.Damage(key, func([]byte) []byte { return nil })
		if err := s.Check(ctx, stream); !errors.Is(err, store.ErrNotExist) {
			t.Errorf("%s is missing: %v", key, err)
		}
		mem, s, stream = start()
		mem.Damage(key, func(b []byte) []byte { return append(b, '!') })
		if err := s.Check(ctx, stream); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s is damaged: %v", key, err)
		}
	}
	condemnedKey, err := manifest.ParseObjectKey(stream.Inventory)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.a.putCondemned(ctx, 1, []string{condemnedKey.String()}); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(ctx, stream); err != nil {
		t.Errorf("what is condemned after the session began is usable: %v", err)
	}
	s, err = s.a.Begin(ctx, testIntent(2, "newer"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(ctx, stream); err == nil {
		t.Error("check takes a condemned inventory")
	}
}
