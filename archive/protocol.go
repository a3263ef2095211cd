package archive

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"pcapsule/store"
)

// Errors that callers of the protocol branch on.
var (
	// ErrNameTaken says that a living snapshot, or a session under way, has the
	// name already.
	ErrNameTaken = errors.New("name is taken")

	// ErrUndecided says that the store's answers leave open whether a session
	// has ended, and how. Outcome tells, once the store answers again.
	ErrUndecided = errors.New("outcome is undecided")

	// ErrDecided says that a session has ended already, or that another process
	// has it.
	ErrDecided = errors.New("session is another's or has ended")

	// ErrDamaged says that an object in the store is not what it has to be.
	ErrDamaged = errors.New("damaged object in the store")
)

// protocol is what an Archive remembers of sessions and sweeps. All of it is
// copied from immutable objects, so that it never has to be forgotten.
type protocol struct {
	condemned condemned
	proven    provenSet

	mu       sync.Mutex
	verdicts map[string]verdict // by id, of sessions that have ended

	rnd      io.Reader // of ids and tokens; nil is crypto/rand
	parallel int       // requests at a time; 0 is defaultParallel
}

const (
	defaultParallel = 16
	putTries        = 3 // the store has retried each on its own
)

func (p *protocol) random() io.Reader {
	if p.rnd != nil {
		return p.rnd
	}
	return rand.Reader
}

// putOnce makes sure that something is durably at key, b if nothing was before,
// and returns what that is. So a Put whose answer was lost is found out, and a
// race lost shows who won it. An error leaves open whether b is there, or will
// be when a request that is still under way arrives.
func (a *Archive) putOnce(ctx context.Context, key string, b []byte, limit int64) ([]byte, error) {
	return a.putBody(ctx, key, b, store.Bytes(b), limit)
}

// putFreeing is putOnce of what frees space, or ends a session that takes some: a
// full store has a reserve for that.
func (a *Archive) putFreeing(ctx context.Context, key string, b []byte, limit int64) ([]byte, error) {
	return a.putBody(ctx, key, b, store.Freeing(b), limit)
}

func (a *Archive) putBody(ctx context.Context, key string, b []byte, body store.Body, limit int64) ([]byte, error) {
	var err error
	for range putTries {
		if err = a.st.Put(ctx, key, body); err == nil {
			return b, nil
		}
		there, gerr := store.ReadAll(ctx, a.st, key, limit)
		if gerr == nil {
			return there, nil
		}
		if !errors.Is(gerr, store.ErrNotExist) {
			return nil, fmt.Errorf("%w; then: %w", err, gerr)
		}
		if refused(err) {
			break
		}
	}
	return nil, err
}

// refused tells whether trying again would change nothing.
func refused(err error) bool {
	for _, e := range []error{
		store.ErrForbidden, store.ErrReadOnly, store.ErrNoSpace, store.ErrChecksum,
		context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// atOnce is how many requests are made at a time.
func (a *Archive) atOnce() int {
	if a.proto.parallel > 0 {
		return a.proto.parallel
	}
	return defaultParallel
}

// each calls f for 0 to n-1, several at a time, and returns the first error.
func (a *Archive) each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	limit := a.atOnce()
	if n == 1 || limit == 1 {
		for i := range n {
			if err := f(ctx, i); err != nil {
				return err
			}
		}
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(limit)
	for i := range n {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return f(ctx, i)
		})
	}
	return g.Wait()
}
