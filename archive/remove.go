package archive

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"pcapsule/manifest"
)

// A Removal is what Remove did.
type Removal struct {
	ID      string
	Name    string   // empty when the snapshot's manifest cannot be read
	Session *Attempt // the session under way that was ended; nil: it was a snapshot, which is deleted

	// Of a session: what was stored since it began and no living snapshot holds,
	// where that could be counted soon. Other sessions under way may have stored it.
	Counted bool
	Objects int
	Bytes   int64
}

// countTime is how long Left counts what a session has stored, which takes a
// look at all there is.
const countTime = 10 * time.Second

// Remove deletes the living snapshot that ref names or is the id of, or ends the
// session under way that does or is. Where a name is that of several, it does
// nothing, and the ErrAmbiguous says their ids.
func (a *Archive) Remove(ctx context.Context, ref, by string) (Removal, error) {
	found, err := a.removable(ctx, ref)
	if err != nil {
		return Removal{}, err
	}
	if found.Session == nil {
		return found, a.Delete(ctx, found.ID, by)
	}
	if err := a.Writable(ctx); err != nil {
		return Removal{}, fmt.Errorf("end session %s: %w", found.ID, err)
	}
	o, err := a.end(ctx, found.ID, "it was deleted by "+by+" while it was being made")
	switch {
	case err != nil:
		return Removal{}, err
	case o.State == Committed:
		return Removal{}, fmt.Errorf("session %s has just ended, with a snapshot: delete that: %w", found.ID, ErrDecided)
	}
	found.Objects, found.Bytes, found.Counted = a.Left(ctx, found.Session.Created)
	return found, nil
}

// Left tells what a session that was ended leaves in the store: what was stored
// since created and no living snapshot holds, where that can be counted soon.
// Other sessions under way may have stored it.
func (a *Archive) Left(ctx context.Context, created time.Time) (objects int, bytes int64, counted bool) {
	ctx, cancel := context.WithTimeout(ctx, countTime)
	defer cancel()
	// By the session's clock and the store's, which may differ by a little.
	objects, bytes, err := a.Unheld(ctx, created.Add(-time.Minute))
	return objects, bytes, err == nil
}

// removable finds what ref means.
func (a *Archive) removable(ctx context.Context, ref string) (Removal, error) {
	if manifest.CheckID(ref) == nil {
		return a.removableID(ctx, ref)
	}
	// Sessions first: one that ends in between is then found twice, not missed.
	sessions, err := a.UnderWay(ctx)
	if err != nil {
		return Removal{}, err
	}
	var ids []string
	var found Removal
	for _, t := range sessions {
		if t.Name == ref {
			ids, found = append(ids, t.ID), Removal{ID: t.ID, Name: ref, Session: &t}
		}
	}
	s, err := a.named(ctx, ref)
	switch {
	case errors.Is(err, ErrNotFound) && len(ids) == 1:
		return found, nil
	case err == nil && len(ids) == 0:
		return Removal{ID: s.ID, Name: ref}, nil
	case err == nil && len(ids) == 1 && ids[0] == s.ID:
		return Removal{}, fmt.Errorf("session %s has just ended, with a snapshot: delete that: %w", s.ID, ErrDecided)
	case err == nil:
		return Removal{}, fmt.Errorf("%q is the name of snapshot %s and of %s: give the id: %w", ref, s.ID, underWay(ids), ErrAmbiguous)
	case len(ids) > 1:
		return Removal{}, fmt.Errorf("%q is the name of %s: give the id: %w", ref, underWay(ids), ErrAmbiguous)
	case len(ids) == 1 && errors.Is(err, ErrAmbiguous):
		return Removal{}, fmt.Errorf("%w; and of %s", err, underWay(ids))
	}
	return Removal{}, err
}

func underWay(ids []string) string {
	if len(ids) == 1 {
		return "session " + ids[0] + ", which is under way"
	}
	return "sessions " + strings.Join(ids, " and ") + ", which are under way"
}

func (a *Archive) removableID(ctx context.Context, id string) (Removal, error) {
	o, err := a.Outcome(ctx, id)
	if err != nil {
		return Removal{}, err
	}
	switch o.State {
	case Committed:
		v, err := a.verdict(ctx, id)
		return Removal{ID: id, Name: v.name}, err
	case Deleted:
		return Removal{}, fmt.Errorf("snapshot %s was deleted: %w", id, ErrNotFound)
	case Voided:
		ended := VoidedError{ID: id, Successor: o.Successor, Reason: o.Reason}
		return Removal{}, fmt.Errorf("%w: %w", ErrNotFound, &ended)
	case Unknown:
		return Removal{}, a.noSnapshot(ctx, id, fmt.Errorf("%w: %q", ErrNotFound, id))
	}
	t, err := a.attempt(ctx, id, time.Time{})
	if err != nil {
		return Removal{}, err
	}
	return Removal{ID: id, Name: t.Name, Session: &t}, nil
}

// Unheld tells how much content no living snapshot holds of what was stored from
// since on. That may be more than the sweep of today would delete: sessions under
// way may have stored it.
func (a *Archive) Unheld(ctx context.Context, since time.Time) (objects int, bytes int64, err error) {
	s := &sweep{a: a, opt: SweepOptions{Progress: func(string, int, int) {}}, held: newHeld(a), since: since}
	if err := s.scan(ctx); err != nil {
		return 0, 0, err
	}
	for _, c := range s.candidates {
		bytes += c.size
	}
	return len(s.candidates), bytes, nil
}
