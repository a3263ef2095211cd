package archive

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"pcapsule/manifest"
)

// This file is how a sweep makes sure of lists before it rests anything on them:
// a list may be empty, old or cut short and look like any other. PROTOCOL.md has
// the argument.

// ErrBlind says that a list of the store lacks what is in the store.
var ErrBlind = errors.New("a list lacks what is there")

// errMarks says that every mark was gone before the list was made that should
// have had it.
var errMarks = errors.New("other sweeps tidied up at the same moments: run it again")

const (
	kindSweep  = "sweep" // of a mark's intent
	markReason = "a mark by which a sweep knows a whole list"
	markTries  = 5
)

// markTime makes the id of a mark come after those of all sessions, so that a
// list without its end lacks the mark.
var markTime = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// mark puts a session that never was, voided from the start: a list of snapshots
// that is made from now on has its void marker and, with intent, a list of
// intents has that, until a sweep tidies up. Nobody can commit it, so that its
// void marker need not stay; to everybody else it is a session that has ended.
func (s *sweep) mark(ctx context.Context, intent bool) (id string, err error) {
	id, err = manifest.NewID(markTime, s.a.proto.random())
	if err != nil {
		return "", err
	}
	if len(s.marks) == 0 {
		// Who may not delete learns so here, before anything is put or condemned.
		if err := s.a.st.Delete(ctx, manifest.IntentPath(id)); err != nil {
			return "", err
		}
	}
	// Lists were made with those before. On a full store there is room for few.
	s.unmark(ctx)
	s.marks = []string{manifest.IntentPath(id), manifest.ManifestPath(id)}
	if _, err := s.a.void(ctx, id, "", markReason); err != nil {
		return "", fmt.Errorf("put a mark: %w", err)
	}
	s.held.ids[id], s.held.marks[id] = true, true
	if !intent {
		return id, nil
	}
	b, err := Intent{
		ID: id, Name: "mark-of-a-sweep", Kind: kindSweep, Owner: markReason,
		Created: time.Unix(1, 0).UTC(), Deadline: time.Unix(2, 0).UTC(),
	}.encode(id)
	if err != nil {
		return "", err
	}
	if _, err := s.a.putFreeing(ctx, manifest.IntentPath(id), b, maxIntent); err != nil {
		return "", fmt.Errorf("put a mark: %w", err)
	}
	return id, nil
}

// isMark tells whether id can be that of a mark, of whichever sweep: a mark's void
// marker has markReason, too. (A machine whose clock is wrong may make others.)
func isMark(id string) bool {
	t, err := manifest.IDTime(id)
	return err == nil && !t.Before(markTime)
}

// unmark takes this sweep's last mark away.
func (s *sweep) unmark(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceful)
	defer cancel()
	for _, key := range s.marks {
		_ = s.a.st.Delete(ctx, key)
	}
}

// sessions lists the sessions under way, from a list that has a mark put just
// before, and all that is in the store of what earlier lists had.
func (s *sweep) sessions(ctx context.Context) ([]Attempt, error) {
	for range markTries {
		mark, err := s.mark(ctx, true)
		if err != nil {
			return nil, err
		}
		s.seen[mark] = true
		attempts, stray, err := s.a.attempts(ctx, s.seen)
		if err != nil {
			return nil, err
		}
		if stray != "" {
			return nil, fmt.Errorf("%s is not where an intent can be: %w: move it out of the store", stray, ErrDamaged)
		}
		marked := false
		for _, t := range attempts {
			if t.Err != nil {
				return nil, fmt.Errorf("cannot tell which sessions are under way: %w", t.Err)
			}
			s.seen[t.ID] = true
			marked = marked || t.ID == mark
		}
		if marked {
			return attempts, nil
		}
		delete(s.seen, mark) // another sweep tidied up before the list was made
	}
	return nil, fmt.Errorf("list intents: %w", errMarks)
}

// refresh takes in the snapshots that are new, from a list that has a mark put
// just before, and all that is in the store of what earlier lists had.
func (s *sweep) refresh(ctx context.Context) error {
	for range markTries {
		mark, err := s.mark(ctx, false)
		if err != nil {
			return err
		}
		if err := s.held.refresh(ctx); err != nil {
			return err
		}
		if s.held.listed[mark] {
			return nil
		}
	}
	return fmt.Errorf("list snapshots: %w", errMarks)
}

// missed returns the error for a list without some of expected, where one of
// these is in the store all the same.
func (a *Archive) missed(ctx context.Context, expected map[string]bool, listed func(id string) bool, path func(id string) string) error {
	for _, id := range slices.Sorted(maps.Keys(expected)) {
		if listed(id) {
			continue
		}
		there, err := a.exists(ctx, path(id))
		if err != nil {
			return err
		}
		if there {
			return fmt.Errorf("%w (%s): a proxy or cache before the store answers with a list that is old or not whole, and nothing was decided by it: check what stands between, then try again", ErrBlind, path(id))
		}
	}
	return nil
}
