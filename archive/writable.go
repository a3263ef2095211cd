package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"pcapsule/manifest"
	"pcapsule/store"
)

// ErrRequires says that this program must not write to the store: it does not
// know what the store asks of those who do.
var ErrRequires = errors.New("the store must not be changed by this pcapsule")

// Writable tells whether this program may change the store, by the object at
// manifest.StorePath. Sessions, deletions and sweeps ask it each time, so that
// one that runs for weeks notices what a newer program has put there.
func (a *Archive) Writable(ctx context.Context) error {
	r, err := a.st.Get(ctx, manifest.StorePath, 0, manifest.MaxStore+1)
	if absent(err) {
		return a.checkTop(ctx)
	}
	if store.AsObstacle(err) != nil {
		return fmt.Errorf("%w: %w", ErrRequires, err)
	}
	if err != nil {
		return fmt.Errorf("cannot tell what the store asks of those who change it: %w", err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, manifest.MaxStore+1))
	if err != nil {
		return fmt.Errorf("cannot tell what the store asks of those who change it: read %s: %w", manifest.StorePath, err)
	}
	s, err := manifest.DecodeStore(b)
	if err != nil {
		return fmt.Errorf("%w: %w: update pcapsule, or restore that file", ErrRequires, err)
	}
	if words := s.Unknown(); len(words) > 0 {
		return fmt.Errorf("%w: %s requires %q, which it does not know: update pcapsule", ErrRequires, manifest.StorePath, strings.Join(words, ", "))
	}
	return nil
}
