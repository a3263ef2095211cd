package archive

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

var (
	simRuns  = flag.Int("sim.runs", 0, "random worlds to play; 0 is as many as suit an ordinary run")
	simWorld = flag.Uint64("sim.world", 0, "play this one random world, and print what happens")
	simFull  = flag.Bool("sim.full", false, "explore the large scenarios to their end")
)

// A choice is what the scheduler lets happen next: an operation of an actor, or
// a pending effect.
type choice struct {
	actor, pending int
	fault          fault
}

// choices are all that can happen next. Every operation but waits may also fail
// in each of the ways in faults.
func (w *world) choices(faults []fault) []choice {
	var c []choice
	for i, act := range w.actors {
		if !act.ready() {
			continue
		}
		c = append(c, choice{actor: i})
		if act.waiting {
			continue
		}
		for _, f := range faults {
			if act.may(f) {
				c = append(c, choice{actor: i, fault: f})
			}
		}
	}
	for i := range w.pending {
		c = append(c, choice{actor: -1, pending: i})
	}
	return c
}

// pass lets time pass for sweeps that wait with nothing else to happen, to past
// all deadlines. It tells whether there were any.
func (w *world) pass() bool {
	passed := false
	for _, act := range w.actors {
		if act.waiting && !act.done {
			act.now, act.since, passed = epoch.Add(48*time.Hour), -1, true
		}
	}
	return passed
}

func (w *world) do(c choice) {
	if c.actor < 0 {
		w.land(c.pending)
	} else {
		w.actors[c.actor].step(c.fault)
	}
}

// checkEnded checks what has to hold of actors that have come to their end.
func (w *world) checkEnded() {
	for _, act := range w.actors {
		id, ok := strings.CutPrefix(act.name, "session ")
		if !act.done || act.dead || act.err != nil || !ok {
			continue
		}
		b := w.objects[manifest.ManifestPath(id)]
		if v, damaged := readVerdict(b, id); (v.void || damaged) && !w.tombstone(id) {
			w.violate("session %s returned success and is not committed", id)
		}
	}
}

// settle sweeps the quiet world once, and checks that nothing is left that
// nobody needs.
func (w *world) settle() {
	w.skip = func(string) bool { return true }
	w.paged, w.lateDeletes, w.word = false, false, nil
	delete(w.objects, manifest.StorePath)
	w.start("last sweep", epoch.Add(48*time.Hour), sweepActor)
	last := w.actors[len(w.actors)-1]
	if !last.done || last.err != nil {
		w.violate("the last sweep failed: %v", last.err)
	}
	w.checkEnded()
	held := map[string]bool{}
	for _, keys := range w.holds {
		for _, key := range keys {
			held[key] = true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(w.objects)) {
		id, file := snapshotOf(key)
		switch {
		case strings.HasPrefix(key, manifest.DeletedDir), strings.HasPrefix(key, manifest.CondemnedDir):
		case strings.HasPrefix(key, manifest.IntentsDir):
			// It may lead a hub that starts to a successor that is yet to begin.
			id := strings.TrimPrefix(key, manifest.IntentsDir)
			v, _ := readVerdict(w.objects[manifest.ManifestPath(id)], id)
			if _, ok := w.objects[manifest.ManifestPath(v.successor)]; v.successor == "" || ok {
				w.violate("after the last sweep %s is left", key)
			}
		case file == "manifest.json":
			if w.tombstone(id) || isMark(id) {
				w.violate("after the last sweep %s is left of a deleted snapshot or a sweep", key)
			}
		case file != "":
			if _, ok := w.holds[id]; !ok {
				w.violate("after the last sweep %s is left, of no snapshot", key)
			}
		case !held[key]:
			w.violate("after the last sweep %s is left, which nobody holds", key)
		}
	}
}

// Actors.

func sessionActor(n int, name string, chunks ...string) func(context.Context, *Archive, *actor) error {
	return func(ctx context.Context, a *Archive, _ *actor) error {
		in := testIntent(n, name)
		in.Kind = KindHub
		return create(ctx, a, in, chunks...)
	}
}

func sweepActor(ctx context.Context, a *Archive, self *actor) error {
	_, err := a.Sweep(ctx, SweepOptions{Now: func() time.Time { return self.now }, Wait: self.wait})
	return err
}

func deleteActor(n int) func(context.Context, *Archive, *actor) error {
	return func(ctx context.Context, a *Archive, _ *actor) error {
		if err := a.Delete(ctx, testID(n), "test"); !errors.Is(err, ErrNotFound) {
			return err
		}
		return nil
	}
}

// poisonActor puts garbage under the first generations of chunks that others
// bring.
func poisonActor(generations uint64, chunks ...string) func(context.Context, *Archive, *actor) error {
	return func(ctx context.Context, a *Archive, _ *actor) error {
		for _, c := range chunks {
			k := manifest.ObjectKey{Kind: manifest.KindChunk, Hash: chunker.HashOf([]byte(c)), Ext: chunker.PacketsExt}
			for k.Generation = range generations {
				_ = a.st.Put(ctx, k.String(), store.Bytes(bytes.Repeat([]byte("!"), len(c))))
			}
		}
		return nil
	}
}

// hubActor starts as a hub does, and finishes what its predecessors began.
func hubActor(first int, chunks ...string) func(context.Context, *Archive, *actor) error {
	return func(ctx context.Context, a *Archive, _ *actor) error {
		n := first
		sessions, err := a.TakeOver(ctx, func(in Intent) bool { return in.Kind == KindHub }, func(old Intent) (Intent, error) {
			in := testIntent(n, old.Name)
			in.Kind = KindHub
			n++
			return in, nil
		})
		for _, s := range sessions {
			m, ferr := fill(ctx, s, chunks...)
			if ferr == nil {
				ferr = s.Commit(ctx, m, testSigner)
			}
			if err == nil {
				err = ferr
			}
		}
		return err
	}
}

// newcomerActor is a program that knows a word which this one does not. It makes
// the store require the word, and then sees to all who may not have read it.
func newcomerActor(ctx context.Context, a *Archive, self *actor) error {
	b, err := manifest.Store{WriteRequires: []string{"hold"}}.Encode()
	if err != nil {
		return err
	}
	if err := a.st.Put(ctx, manifest.StorePath, store.Bytes(b)); err != nil {
		return err
	}
	attempts, _, err := a.attempts(ctx, nil)
	if err != nil {
		return err
	}
	for _, t := range attempts {
		for t.Outcome.State == Undecided {
			if self.now.After(t.Deadline) {
				t.Outcome, err = a.void(ctx, t.ID, "", "past its deadline")
			} else if err = self.wait(ctx, time.Minute); err == nil {
				t.Outcome, err = a.outcome(ctx, t.ID, true)
			}
			if err != nil {
				return err
			}
		}
	}
	if _, err := a.readCondemned(ctx); err != nil {
		return err
	}
	self.w.word = &a.proto.condemned
	return nil
}

// begun is a store with a snapshot, 0, of the chunk "shared".
var begun = sync.OnceValue(func() map[string][]byte {
	t := &quietTB{}
	st := storetest.NewMemory(t, func() time.Time { return epoch })
	if err := create(context.Background(), New(st), testIntent(0, "old"), "shared"); err != nil {
		panic(err)
	}
	objects := map[string][]byte{}
	for _, key := range st.Keys() {
		r, err := st.Get(context.Background(), key, 0, -1)
		if err != nil {
			panic(err)
		}
		var buf bytes.Buffer
		if _, err := buf.ReadFrom(r); err != nil {
			panic(err)
		}
		objects[key] = buf.Bytes()
	}
	return objects
})

type quietTB struct{ testing.TB }

func (quietTB) Helper() {}

// A scenario is a small world, to be explored in every interleaving.
type scenario struct {
	name  string
	dead  bool // snapshot 0 is deleted already
	fault []fault
	max   int // faults in one run
	large bool
	word  bool // somebody requires one
	start func(*world)
}

func (s scenario) world() *world {
	objects := begun()
	if s.dead {
		objects = maps.Clone(objects)
		objects[manifest.TombstonePath(testID(0))] = []byte("{}")
	}
	w := newWorld(objects)
	w.lateDeletes = true
	// What is as good as part of the operation before it: nobody else writes these
	// objects, or does so in the same way as others that are looked at.
	w.skip = func(op string) bool {
		verb, key, _ := strings.Cut(op, " ")
		id, file := snapshotOf(key)
		switch {
		case strings.HasPrefix(key, manifest.DeletedDir):
			return s.dead // it is never written
		case isMark(id), isMark(path.Base(key)):
			return true
		case strings.HasPrefix(key, manifest.CondemnedDir):
			_, there := w.objects[key]
			return verb == "get" && there
		case key == manifest.StorePath:
			return !s.word
		case strings.HasPrefix(key, manifest.KindInventory):
			return true
		}
		return file != "" && file != "manifest.json"
	}
	s.start(w)
	return w
}

// explore plays every interleaving of a scenario, up to limit distinct states.
// It is a depth-first search that plays each run from its beginning, and leaves a
// run when it comes to a state from which all has been played.
func explore(s scenario, limit int) (states, runs int, whole bool, violated *world) {
	type point struct{ at, of int }
	var path []point
	seen := map[uint64]struct{}{}
	for {
		runs++
		w := s.world()
		faults := 0
		depth, pruned := 0, false
		for w.violated == "" {
			allowed := s.fault
			if faults == s.max {
				allowed = nil
			}
			c := w.choices(allowed)
			if len(c) == 0 {
				if !w.pass() {
					break
				}
				continue
			}
			if depth == len(path) {
				id := w.state()*31 + uint64(faults)
				if _, ok := seen[id]; ok {
					pruned = true
					break
				}
				seen[id] = struct{}{}
				path = append(path, point{0, len(c)})
			}
			p := path[depth]
			depth++
			if c[p.at].fault != fine {
				faults++
			}
			w.do(c[p.at])
			w.checkEnded()
		}
		if w.violated == "" && !pruned {
			w.settle()
		}
		w.close()
		if w.violated != "" {
			w = s.world() // again, for the record
			w.tracing = true
			for _, p := range path[:depth] {
				c := w.choices(s.fault)
				for len(c) == 0 && w.pass() {
					c = w.choices(s.fault)
				}
				w.do(c[p.at])
				w.checkEnded()
			}
			if w.violated == "" {
				w.settle()
			}
			w.close()
			return len(seen), runs, false, w
		}
		for len(path) > 0 && path[len(path)-1].at+1 == path[len(path)-1].of {
			path = path[:len(path)-1]
		}
		if len(path) == 0 {
			return len(seen), runs, true, nil
		}
		path[len(path)-1].at++
		if len(seen) >= limit {
			return len(seen), runs, false, nil
		}
	}
}

var (
	early = epoch.Add(time.Minute)    // before all deadlines
	later = epoch.Add(48 * time.Hour) // after them
)

func scenarios() []scenario {
	return []scenario{
		{name: "session and sweep", dead: true, start: func(w *world) {
			w.start("session "+testID(1), early, sessionActor(1, "new", "shared"))
			w.start("sweep", later, sweepActor)
		}},
		{name: "session and sweep, lists that lie", dead: true, fault: []fault{blind, short}, max: 1, large: true, start: func(w *world) {
			w.start("session "+testID(1), early, sessionActor(1, "new", "shared"))
			w.start("sweep", later, sweepActor)
		}},
		{name: "sweep and session, lists that lie", dead: true, fault: []fault{blind, short}, max: 1, large: true, start: func(w *world) {
			w.start("sweep", later, sweepActor) // so that sessions begin late in it, first of all
			w.start("session "+testID(1), early, sessionActor(1, "new", "shared"))
		}},
		{name: "session and sweep, an intent that the store does not keep", dead: true, fault: []fault{swallowed}, max: 1, start: func(w *world) {
			w.start("session "+testID(1), early, sessionActor(1, "new", "shared"))
			w.start("sweep", early, sweepActor)
		}},
		{name: "session and sweep, an empty list of intents", dead: true, fault: []fault{blindIntents}, max: 2, large: true, start: func(w *world) {
			w.start("session "+testID(1), early, sessionActor(1, "new", "shared"))
			w.start("sweep", later, sweepActor)
		}},
		{name: "session and patient sweep", dead: true, start: func(w *world) {
			w.start("session "+testID(1), early, sessionActor(1, "new", "shared"))
			w.start("sweep", early, sweepActor)
		}},
		{name: "session, sweep and delete", large: true, start: func(w *world) {
			w.start("delete", early, deleteActor(0))
			w.start("session "+testID(1), early, sessionActor(1, "new", "shared"))
			w.start("sweep", later, sweepActor)
		}},
		{name: "one name twice", dead: true, start: func(w *world) {
			w.start("session "+testID(1), early, sessionActor(1, "new", "shared"))
			w.start("session "+testID(2), early, sessionActor(2, "new", "shared"))
		}},
		{name: "two sweeps", dead: true, large: true, start: func(w *world) {
			w.start("sweep 1", later, sweepActor)
			w.start("sweep 2", later, sweepActor)
		}},
		{name: "session and newcomer", dead: true, word: true, start: func(w *world) {
			w.start("session "+testID(1), early, sessionActor(1, "new", "shared"))
			w.start("newcomer", early, newcomerActor)
		}},
		{name: "sweep and newcomer", dead: true, word: true, start: func(w *world) {
			w.start("sweep", later, sweepActor)
			w.start("newcomer", early, newcomerActor)
		}},
		{name: "session and poisoner", dead: true, start: func(w *world) {
			w.start("session "+testID(1), early, sessionActor(1, "new", "mine"))
			w.start("poisoner", early, poisonActor(2, "mine"))
		}},
		{name: "two sessions and poisoner", dead: true, large: true, start: func(w *world) {
			w.noSums = true
			w.start("session "+testID(1), early, sessionActor(1, "new", "mine"))
			w.start("session "+testID(2), early, sessionActor(2, "newer", "mine"))
			w.start("poisoner", early, poisonActor(2, "mine"))
		}},
		{name: "session, poisoner and sweep", dead: true, large: true, start: func(w *world) {
			w.start("poisoner", early, poisonActor(1, "mine"))
			w.start("session "+testID(2), early, sessionActor(2, "new", "mine"))
			w.start("sweep", later, sweepActor)
		}},
		{name: "two sessions and sweep", dead: true, large: true, start: func(w *world) {
			w.start("session "+testID(1), early, sessionActor(1, "new", "shared"))
			w.start("session "+testID(2), early, sessionActor(2, "newer", "shared"))
			w.start("sweep", later, sweepActor)
		}},
		{name: "session and two sweeps", dead: true, large: true, start: func(w *world) {
			w.start("session "+testID(1), early, sessionActor(1, "new", "shared"))
			w.start("sweep 1", later, sweepActor)
			w.start("sweep 2", early, sweepActor)
		}},
	}
}

// TestEveryInterleaving plays small worlds to their end, in every order.
func TestEveryInterleaving(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			limit := 1_000_000_000
			if s.large && !*simFull {
				limit = 1_500
			} else if testing.Short() && !*simFull {
				limit = 2_000
			}
			states, runs, whole, w := explore(s, limit)
			if w != nil {
				t.Fatalf("INVARIANT VIOLATED: %s\n%s", w.violated, strings.Join(w.trace, "\n"))
			}
			t.Logf("%d states in %d runs; that is all: %v", states, runs, whole)
		})
	}
}

// TestRandomWorlds plays large worlds in random orders, with faults of all kinds.
// A world is what its seed makes it: -sim.world plays one again.
func TestRandomWorlds(t *testing.T) {
	runs := *simRuns
	if runs == 0 {
		runs = 600
		if testing.Short() {
			runs = 200
		}
	}
	first, last := uint64(1), uint64(runs)
	if *simWorld != 0 {
		first, last = *simWorld, *simWorld
	}
	var sum tally
	for seed := first; seed <= last; seed++ {
		w := playWorld(seed, seed == *simWorld, &sum)
		if *simWorld != 0 {
			t.Log(strings.Join(w.trace, "\n"))
		}
		if w.violated != "" {
			again := playWorld(seed, true, new(tally))
			t.Fatalf("INVARIANT VIOLATED in world %d: %s\n%s", seed, w.violated, strings.Join(again.trace, "\n"))
		}
	}
	t.Logf("%d worlds: %+v", last-first+1, sum)
	if *simWorld == 0 && (sum.Committed == 0 || sum.Failed == 0 || sum.Crashed == 0 || sum.TakenOver == 0 || sum.Deleted == 0) {
		t.Errorf("these worlds do not show what they should: %+v", sum)
	}
}

// A tally counts what happened in random worlds.
type tally struct {
	Ops, Committed, Failed, Crashed, TakenOver, Deleted int
}

// playWorld plays one random world to its end.
func playWorld(seed uint64, tracing bool, sum *tally) *world {
	rnd := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(begun())
	defer w.close()
	w.tracing = tracing
	w.paged, w.lateDeletes, w.noSums = rnd.IntN(2) == 0, rnd.IntN(2) == 0, rnd.IntN(2) == 0

	oneOf := func(of ...string) string { return of[rnd.IntN(len(of))] }
	when := func() time.Time {
		if rnd.IntN(2) == 0 {
			return early
		}
		return later
	}
	var starts []func()
	for n := range 1 + rnd.IntN(4) {
		chunks := []string{oneOf("shared", "a"), oneOf("b", "c")}
		starts = append(starts, func() {
			w.start("session "+testID(n+1), early, sessionActor(n+1, oneOf("old", "new", "newer", "newest"), chunks...))
		})
	}
	for n := range 1 + rnd.IntN(3) {
		starts = append(starts, func() { w.start(fmt.Sprint("sweep ", n), when(), sweepActor) })
	}
	for range 1 + rnd.IntN(3) {
		of := rnd.IntN(4)
		starts = append(starts, func() { w.start(fmt.Sprint("delete of ", testID(of)), early, deleteActor(of)) })
	}
	for n := range rnd.IntN(3) {
		starts = append(starts, func() {
			w.start(fmt.Sprint("poisoner ", n), early, poisonActor(1+rnd.Uint64N(2), oneOf("shared", "a"), oneOf("b", "c")))
		})
	}
	for n := range rnd.IntN(3) {
		starts = append(starts, func() { w.start(fmt.Sprint("hub ", n), early, hubActor(100*(n+1), "shared", "c")) })
	}
	rnd.Shuffle(len(starts), func(i, j int) { starts[i], starts[j] = starts[j], starts[i] })

	// How often an operation fails, how long an actor keeps its turn, and how
	// soon the next one starts differ from world to world.
	faulty := []float64{0, 0, 0.02, 0.1}[rnd.IntN(4)]
	lying := []float64{0, 0.4}[rnd.IntN(2)] // of lists, where nothing else fails
	if lying > 0 {
		faulty = 0
	}
	sticky := []float64{0, 0.5, 0.9, 0.97}[rnd.IntN(4)]
	startAt := []float64{0.02, 0.1, 1}[rnd.IntN(3)]
	turn := -2
	for w.violated == "" {
		if len(starts) > 0 && rnd.Float64() < startAt {
			starts[0]()
			starts = starts[1:]
			continue
		}
		c := w.choices(nil)
		if len(c) == 0 {
			if len(starts) > 0 {
				startAt = 1
			} else if !w.pass() {
				break
			}
			continue
		}
		next := c[rnd.IntN(len(c))]
		if i := slices.IndexFunc(c, func(c choice) bool { return c.actor == turn }); i >= 0 && rnd.Float64() < sticky {
			next = c[i]
		}
		turn = next.actor
		if turn >= 0 && rnd.Float64() < faulty {
			next.fault = []fault{refused503, lost, late, crash, blind, short, stale}[rnd.IntN(7)]
			if !w.actors[turn].may(next.fault) {
				next.fault = refused503
			}
		}
		if lie := []fault{blind, short, stale}[rnd.IntN(3)]; turn >= 0 && strings.HasPrefix(w.actors[turn].op, "list ") &&
			rnd.Float64() < lying && w.actors[turn].may(lie) {
			next.fault = lie
		}
		w.do(next)
		w.checkEnded()
		sum.Ops++
	}
	if w.violated == "" {
		w.settle()
	}
	for _, act := range w.actors {
		switch id, session := strings.CutPrefix(act.name, "session "); {
		case act.dead:
			sum.Crashed++
		case session && act.err == nil:
			sum.Committed++
		case session:
			sum.Failed++
			if v, _ := readVerdict(w.objects[manifest.ManifestPath(id)], id); v.successor != "" {
				sum.TakenOver++
			}
		case strings.HasPrefix(act.name, "delete") && act.err == nil:
			sum.Deleted++
		}
	}
	return w
}

// TestAtOnce runs sessions, deletions and sweeps of one process and of several
// with real goroutines, for the race detector.
func TestAtOnce(t *testing.T) {
	folder, err := store.NewFolder(t.TempDir(), store.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range []store.Store{storetest.NewMemory(t, nil), folder} {
		t.Run(fmt.Sprintf("%T", st), func(t *testing.T) {
			one := New(st)
			g, ctx := errgroup.WithContext(t.Context())
			for n := range 12 {
				a := one
				if n%2 == 0 {
					a = New(st)
				}
				g.Go(func() error {
					err := create(ctx, a, testIntent(n, fmt.Sprint("name-", n%8)), "shared", fmt.Sprint("chunk ", n%3))
					if errors.Is(err, ErrNameTaken) {
						return nil
					}
					// A sweep whose clock is past the deadline ends it where it finds
					// it: before it has begun, or when it commits.
					if void := (*VoidedError)(nil); errors.As(err, &void) {
						return nil
					}
					if err == nil && n%3 == 0 {
						err = a.Delete(ctx, testID(n), "test")
					}
					return err
				})
				if n%3 == 1 {
					g.Go(func() error {
						_, err := a.Sweep(ctx, SweepOptions{
							Now:  func() time.Time { return early.Add(time.Duration(n) * time.Hour / 8) },
							Wait: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
						})
						return err
					})
				}
			}
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
			mustBeWhole(t, st)
		})
	}
}
