package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"pcapsule/manifest"
	"pcapsule/store"
)

// SweepOptions say how to sweep.
type SweepOptions struct {
	// Now tells the time that sessions' deadlines are held against. A clock that
	// is wrong ends sessions too early or late; it never costs data.
	Now func() time.Time

	// Wait returns after d, or with the error of ctx. nil waits in real time.
	Wait func(ctx context.Context, d time.Duration) error

	// DryRun finds what would be condemned, and changes nothing. It counts what
	// sessions under way have uploaded, for which a sweep would wait.
	DryRun bool

	// Waiting, when not nil, is told once of each session that the sweep waits for.
	Waiting func(Attempt)

	// Progress, when not nil, is told what goes on. Total is 0 when unknown.
	Progress func(step string, done, total int)
}

// A SweepReport says what a sweep did.
type SweepReport struct {
	Scanned   int   // objects of content looked at
	Condemned int   // of those, held by no snapshot
	Deleted   int   // of those, still held by none, and deleted
	Freed     int64 // stored bytes of those; of a dry run, of the condemned
	Voided    int   // sessions that were ended: their deadline had passed, or their process died

	// Kept says, for people, what the store keeps of what is deleted: Freed is 0
	// then. It is empty where the space is free.
	Kept string
}

// sweepPoll is how often a sweep looks after a session that it waits for.
const sweepPoll = 2 * time.Second

// Sweep deletes the chunks and inventories that no living snapshot holds, then
// what is left of deleted snapshots and of sessions that have ended. It voids
// sessions whose deadline has passed or whose process has died, and waits for the
// others when there is anything to delete.
//
// Any number of sweeps and sessions may run at once, on any machines. A sweep
// that dies leaves nothing to clean up: the next one completes it. It deletes
// nothing when it cannot tell what some snapshot holds. After an error the report
// tells what was done until then.
func (a *Archive) Sweep(ctx context.Context, opt SweepOptions) (SweepReport, error) {
	s := &sweep{a: a, opt: opt, held: newHeld(a), waited: map[string]bool{}, seen: map[string]bool{}}
	if s.opt.Wait == nil {
		s.opt.Wait = wait
	}
	if s.opt.Waiting == nil {
		s.opt.Waiting = func(Attempt) {}
	}
	if s.opt.Progress == nil {
		s.opt.Progress = func(string, int, int) {}
	}
	err := s.run(ctx)
	if s.report.Kept = store.Keeps(ctx, a.st); s.report.Kept != "" {
		s.report.Freed = 0
	}
	if err != nil {
		s.unmark(ctx)
		return s.report, fmt.Errorf("sweep: %w", err)
	}
	return s.report, nil
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

type sweep struct {
	a          *Archive
	opt        SweepOptions
	held       *held
	since      time.Time       // only what was stored from then on is a candidate; zero: all
	candidates []candidate     // content that nobody holds, as far as is known
	rest       []candidate     // more of it, for which there was no room in condemned lists
	waited     map[string]bool // sessions that Waiting was told of
	seen       map[string]bool // sessions whose intents lists had
	marks      []string        // keys of the last mark
	report     SweepReport
}

type candidate struct {
	key  string
	size int64
}

// run is the sweep's side of the protocol. Its order is what keeps the archive
// safe: PROTOCOL.md.
func (s *sweep) run(ctx context.Context) error {
	if err := s.scan(ctx); err != nil {
		return err
	}
	if s.opt.DryRun {
		s.report.Condemned = len(s.candidates)
		for _, c := range s.candidates {
			s.report.Freed += c.size
		}
		return nil
	}
	if err := s.a.Writable(ctx); err != nil {
		return err
	}
	// What sessions under way have uploaded was put after their intents. To wait
	// for them here spares their objects from being condemned.
	err := s.settle(ctx)
	if errors.Is(err, store.ErrNoSpace) {
		// What is left of deleted snapshots goes without all that, and makes room.
		if err = s.tidy(ctx); err == nil {
			err = s.settle(ctx)
		}
	}
	if err != nil {
		return err
	}
	s.report.Condemned = len(s.candidates)
	// In one round, as a rule. A full store has room for the names of a few only,
	// whose deletion makes room for those of more.
	for s.rest = s.candidates; len(s.rest) > 0; {
		s.candidates, s.rest = s.rest, nil
		if err := s.round(ctx); err != nil {
			return err
		}
	}
	if err := s.tidy(ctx); err != nil {
		return err
	}
	s.a.tidyStore()
	return nil
}

// round condemns the candidates, or as many as there is room for, and deletes them.
func (s *sweep) round(ctx context.Context) error {
	if err := s.condemn(ctx); err != nil {
		return err
	}
	// Sessions that have not read the new lists put their intents before.
	if err := s.settle(ctx); err != nil {
		return err
	}
	// Once more, after the lists: who requires a word of those who delete reads
	// them then, and knows what a sweep that has not read the word may delete.
	if err := s.a.Writable(ctx); err != nil {
		return err
	}
	if err := s.delete(ctx); err != nil {
		return err
	}
	return nil
}

// scan finds the candidates.
func (s *sweep) scan(ctx context.Context) error {
	s.opt.Progress("reading snapshots", 0, 0)
	if err := s.held.refresh(ctx); err != nil {
		return err
	}
	for _, kind := range []string{manifest.KindChunk, manifest.KindInventory} {
		for info, err := range s.a.st.List(ctx, kind+"/") {
			if o := store.AsObstacle(err); o != nil && inside(o.Path, kind+"/") && (o.Name || litterIn(o.Path, kind+"/")) {
				continue // not ours
			}
			if err != nil {
				return fmt.Errorf("list %s: %w", kind, err)
			}
			if _, err := manifest.ParseObjectKey(info.Key); err != nil {
				continue // not ours
			}
			if s.report.Scanned++; s.report.Scanned%1000 == 0 {
				s.opt.Progress("scanning", s.report.Scanned, 0)
			}
			if !s.held.has(info.Key) && !info.Modified.Before(s.since) {
				s.candidates = append(s.candidates, candidate{info.Key, info.Size})
			}
		}
	}
	return s.traced(ctx)
}

// traced tells whether candidates can be what snapshots and sessions have left:
// these leave tombstones, void markers or intents, for ever. Where there is nothing
// at all of that kind, it is that which is lost, not the content superfluous.
func (s *sweep) traced(ctx context.Context) error {
	all := s.held.last
	if len(s.candidates) == 0 {
		return nil
	}
	why := "its folder of snapshots is empty"
	if !all.hollow {
		if len(all.dead)+len(all.headless)+len(all.odd) > 0 ||
			slices.ContainsFunc(all.ids, func(id string) bool { return !isMark(id) }) {
			return nil
		}
		attempts, err := s.a.Intents(ctx)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(attempts, func(t Attempt) bool { return !isMark(t.ID) }) {
			return nil
		}
		why = "it has no trace of any snapshot or session"
	}
	return fmt.Errorf("the store holds %d objects, and %s: %w: mount or copy what is missing; if nothing is, remove the objects (%s, %s) by other means",
		len(s.candidates), why, ErrDamaged, manifest.KindChunk+"/", manifest.KindInventory+"/")
}

// settle waits until every session whose intent is in the store now has ended,
// or ends it after its deadline; then it drops the candidates that snapshots
// hold. It does nothing when there are no candidates.
func (s *sweep) settle(ctx context.Context) error {
	if len(s.candidates) == 0 {
		return nil
	}
	attempts, err := s.sessions(ctx)
	if err != nil {
		return err
	}
	for _, t := range attempts {
		if err := s.await(ctx, t); err != nil {
			return err
		}
	}
	if err := s.refresh(ctx); err != nil {
		return err
	}
	s.candidates = slices.DeleteFunc(s.candidates, func(c candidate) bool { return s.held.has(c.key) })
	return nil
}

// await waits until one session has ended. The intent may go meanwhile, but not
// before there is an outcome.
func (s *sweep) await(ctx context.Context, t Attempt) error {
	for t.Outcome.State == Undecided {
		if why := s.hopeless(t); why != "" {
			_, err := s.void(ctx, t.ID, why)
			return err
		}
		if !s.waited[t.ID] {
			s.waited[t.ID] = true
			s.opt.Waiting(t)
		}
		s.opt.Progress("waiting for session "+t.ID, 0, 0)
		if err := s.opt.Wait(ctx, min(t.Deadline.Sub(s.opt.Now()), sweepPoll)); err != nil {
			return fmt.Errorf("wait for session %s: %w", t.ID, err)
		}
		var err error
		if t.Outcome, err = s.a.outcome(ctx, t.ID, true); err != nil {
			return err
		}
	}
	return nil
}

// hopeless says why an undecided session need not be waited for, empty if it must.
func (s *sweep) hopeless(t Attempt) string {
	switch {
	case t.Kind == kindSweep:
		return markReason // its void marker has been tidied up
	case !s.opt.Now().Before(t.Deadline):
		return "a sweep found it past its deadline, " + t.Deadline.UTC().Format(time.RFC3339)
	case t.Dead():
		return buried(t.Intent)
	}
	return ""
}

// void ends a session that need not be waited for.
func (s *sweep) void(ctx context.Context, id, why string) (Outcome, error) {
	o, err := s.a.Void(ctx, id, "", why)
	if err == nil && o.State == Voided {
		if why == markReason {
			s.held.marks[id] = true
		} else {
			s.report.Voided++
		}
		s.held.voids[id] = true
	}
	return o, err
}

// condemn makes sure that every candidate is in a condemned list. Those that an
// earlier sweep condemned, and did not delete, are. Where the store has no room
// for a list of all, what is in none is for the next round.
func (s *sweep) condemn(ctx context.Context) error {
	if len(s.candidates) == 0 {
		return nil
	}
	keys := make([]manifest.ObjectKey, len(s.candidates))
	for i, c := range s.candidates {
		k, err := manifest.ParseObjectKey(c.key)
		if err != nil {
			return err
		}
		keys[i] = k
	}
	err := s.a.condemn(ctx, keys)
	if !errors.Is(err, store.ErrNoSpace) {
		return err
	}
	var done []candidate
	for i, c := range s.candidates {
		if s.a.proto.condemned.holds(keys[i], s.a.proto.condemned.read()) {
			done = append(done, c)
		} else {
			s.rest = append(s.rest, c)
		}
	}
	if len(done) == 0 {
		return err
	}
	s.candidates = done
	return nil
}

// delete takes the candidates away.
func (s *sweep) delete(ctx context.Context) error {
	var done, freed atomic.Int64
	err := s.a.each(ctx, len(s.candidates), func(ctx context.Context, i int) error {
		c := s.candidates[i]
		if err := s.a.st.Delete(ctx, c.key); err != nil {
			return fmt.Errorf("delete %s: %w", c.key, err)
		}
		freed.Add(c.size)
		s.opt.Progress("deleting", int(done.Add(1)), len(s.candidates))
		return nil
	})
	s.report.Deleted += int(done.Load())
	s.report.Freed += freed.Load()
	return err
}

// tidy ends sessions that are hopeless, whose names nobody else could take. Then
// it takes away what is left of snapshots that have a tombstone, the signatures
// beside void markers, the intents of sessions that have ended, and all marks.
// Tombstones and other void markers stay: they are what says so.
func (s *sweep) tidy(ctx context.Context) error {
	var intents, keys []string
	attempts, err := s.a.Intents(ctx)
	if err != nil {
		return err
	}
	for _, t := range attempts {
		if t.Err != nil {
			continue // there is nothing to delete that it could hold
		}
		if why := s.hopeless(t); t.Outcome.State == Undecided && why != "" {
			if t.Outcome, err = s.void(ctx, t.ID, why); err != nil {
				return err
			}
		}
		over, err := s.a.over(ctx, t.Outcome)
		if err != nil {
			return err
		}
		if over {
			intents = append(intents, manifest.IntentPath(t.ID))
		}
	}
	found := newSurvey()
	if err := found.tombstones(ctx, s.a.st); err != nil {
		return fmt.Errorf("list tombstones: %w", err)
	}
	for info, err := range s.a.st.List(ctx, manifest.SnapshotsDir) {
		if o := store.AsObstacle(err); o != nil {
			info.Key, err = o.Path, nil // a link among the companions, as a rule: it goes with them
		}
		if err != nil {
			return fmt.Errorf("list snapshots: %w", err)
		}
		id, _, ok := manifest.SplitSnapshotPath(info.Key)
		if !ok || store.CheckKey(info.Key) != nil {
			continue
		}
		if _, dead := found.dead[id]; dead || s.held.marks[id] || s.held.voids[id] && info.Key != manifest.ManifestPath(id) {
			keys = append(keys, info.Key)
		}
	}
	// The intents of marks go before their void markers.
	if err := s.remove(ctx, intents); err != nil {
		return err
	}
	return s.remove(ctx, keys)
}

func (s *sweep) remove(ctx context.Context, keys []string) error {
	return s.a.each(ctx, len(keys), func(ctx context.Context, i int) error {
		if err := s.a.st.Delete(ctx, keys[i]); err != nil {
			return fmt.Errorf("delete %s: %w", keys[i], err)
		}
		return nil
	})
}
