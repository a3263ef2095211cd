package archive

import (
	"context"
	"errors"
	"fmt"

	"pcapsule/store"
)

// TakeOver ends the sessions of dead predecessors and begins others in their
// place. A hub calls it once, when it starts. mine tells which intents are of its
// predecessors; next makes the intent of the session that carries on from one of
// them: as a rule the same with a new id, deadline and owner. A session that nobody
// can carry on ends without a successor when next returns a *VoidedError, for its
// Reason. TakeOver returns the sessions begun.
//
// The old session's void marker names the new one, so that whoever waits for the
// old id finds it. It also settles which new id it is, for all who try: a
// TakeOver that dies after the void marker and before the new session is
// completed by the next, with the id in the marker. The old intent, which leads
// there, goes last.
//
// A predecessor that is not dead after all finds out when it commits. Two hubs
// that start at once may end each other's sessions; each is carried on by one of
// them.
//
// One session that cannot be begun does not keep the others from it; sessions
// are returned along with the errors. A name that was taken meanwhile is such an
// error, and final: the new session is void. After other errors TakeOver may be
// called again.
func (a *Archive) TakeOver(ctx context.Context, mine func(Intent) bool, next func(old Intent) (Intent, error)) ([]*Session, error) {
	if err := a.Writable(ctx); err != nil {
		return nil, fmt.Errorf("take over sessions: %w", err)
	}
	attempts, err := a.Intents(ctx)
	if err != nil {
		return nil, fmt.Errorf("take over sessions: %w", err)
	}
	var begun []*Session
	var errs []error
	for _, t := range attempts {
		if t.Err != nil || !mine(t.Intent) {
			continue
		}
		s, err := a.takeOver(ctx, t, next)
		if err != nil {
			errs = append(errs, fmt.Errorf("take over session %s: %w", t.ID, err))
		}
		if s != nil {
			begun = append(begun, s)
		}
	}
	return begun, errors.Join(errs...)
}

func (a *Archive) takeOver(ctx context.Context, t Attempt, next func(Intent) (Intent, error)) (*Session, error) {
	over, err := a.over(ctx, t.Outcome)
	if err != nil {
		return nil, err
	}
	if over {
		a.dropIntent(ctx, t.ID)
		return nil, nil
	}
	if err := a.Room(ctx); err != nil {
		_, ended := a.end(ctx, t.ID, "it could not be carried on: "+err.Error())
		return nil, ended
	}
	in, err := next(t.Intent)
	var last *VoidedError
	if errors.As(err, &last) {
		return nil, a.endLast(ctx, t.ID, last.Reason)
	}
	if err != nil {
		return nil, err
	}
	if t.Outcome.State == Undecided {
		t.Outcome, err = a.Void(ctx, t.ID, in.ID, "its process ended")
		if err != nil {
			return nil, err
		}
		if over, err = a.over(ctx, t.Outcome); err != nil {
			return nil, err
		}
		if over {
			a.dropIntent(ctx, t.ID)
			return nil, nil
		}
	}
	in.ID = t.Outcome.Successor
	return a.succeed(ctx, t.ID, in)
}

// endLast ends a session that nobody carries on, and the successor that a TakeOver
// before this one named and did not begin.
func (a *Archive) endLast(ctx context.Context, id, reason string) error {
	o, err := a.void(ctx, id, "", reason)
	if err == nil && o.Successor != "" {
		_, err = a.void(ctx, o.Successor, "", reason)
	}
	if err != nil {
		return err
	}
	a.dropIntent(ctx, id)
	return nil
}

// succeed begins the successor of session old and then drops the old intent. What
// the store refuses leaves the successor undecided, not void as Begin would: the
// next TakeOver goes on from there.
func (a *Archive) succeed(ctx context.Context, old string, in Intent) (*Session, error) {
	s, err := a.announce(ctx, in)
	if errors.Is(err, ErrDecided) {
		a.dropIntent(ctx, old)
		return nil, nil // another process begins it
	}
	if errors.Is(err, store.ErrNoSpace) {
		// Nobody is to wait for it until there is room.
		if _, verr := a.Void(ctx, in.ID, "", err.Error()); verr != nil {
			return nil, errors.Join(err, verr)
		}
		a.dropIntent(ctx, old)
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	err = s.enter(ctx)
	switch {
	case errors.Is(err, ErrNameTaken), errors.Is(err, ErrDecided):
		s.giveUp(ctx, err)
	case err != nil:
		return nil, err
	}
	a.dropIntent(ctx, old)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// over tells whether a session has ended and its intent has no more use: it does
// not lead to a successor that has yet to begin.
func (a *Archive) over(ctx context.Context, o Outcome) (bool, error) {
	switch {
	case o.State == Unknown, o.State == Undecided:
		return false, nil
	case o.Successor == "":
		return true, nil
	}
	next, err := a.Outcome(ctx, o.Successor)
	return err == nil && next.State != Unknown, err
}
