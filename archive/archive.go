// Package archive keeps snapshots in a store: it finds, reads and verifies them,
// makes them (Session), and deletes what none of them holds (Sweep).
//
// It is the one place that knows in which order objects are put and deleted, so
// that a snapshot is either there with all it holds or not there at all, however
// many sessions and sweeps run at once and wherever they die.
// manifest/FORMAT.md specifies the layout. The package captures nothing and
// serves nothing; time is passed in.
package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"pcapsule/manifest"
	"pcapsule/store"
)

// Errors that callers branch on.
var (
	ErrNotFound  = errors.New("no such snapshot")
	ErrAmbiguous = errors.New("several snapshots have this name")
)

// parallel is how many small objects are fetched at once: enough to hide the
// latency of a bucket, few enough for any server.
const parallel = 16

// An Archive is the snapshots of one store. Its methods may be called
// concurrently.
type Archive struct {
	st    store.Store
	trust *manifest.Trust // that snapshots are held against; nil where nobody asks

	mu     sync.Mutex
	cache  map[string]*Snapshot // whole ones by id; they never change
	cached int64                // bytes of their manifests

	proto protocol // of sessions and sweeps
}

// maxCached bounds the manifests that an Archive remembers, in bytes.
const maxCached = 128 << 20

// New returns the archive in st.
func New(st store.Store) *Archive {
	return &Archive{st: st, cache: map[string]*Snapshot{}}
}

// Store is where the archive lives.
func (a *Archive) Store() store.Store { return a.st }

// List returns the living snapshots in order of creation: those whose manifest
// is there and which nobody deleted. One that cannot be read or whose signature
// does not fit is in the list too, with Err set.
func (a *Archive) List(ctx context.Context) ([]*Snapshot, error) {
	living, _, err := a.ListAll(ctx)
	return living, err
}

// ListAll is List, and says what else there is that may be a snapshot and that no
// list can name: what it is, where, and what to do. Until that is done, sweeps
// delete nothing.
func (a *Archive) ListAll(ctx context.Context) (living []*Snapshot, strays []error, err error) {
	found, err := a.survey(ctx)
	if err != nil {
		return nil, nil, err
	}
	all, err := a.readAll(ctx, found.all())
	if err != nil {
		return nil, nil, fmt.Errorf("list snapshots: %w", err)
	}
	living = all[:0]
	for _, s := range all {
		missing := errors.Is(s.Err, ErrNotFound)
		if missing || s.Err == nil && found.odd[s.ID] != nil {
			why := a.unread(ctx, found, s.ID)
			if missing && (why == nil || errors.Is(s.Err, manifest.ErrVoid)) {
				continue
			}
			odd := *s
			odd.Err, s = why, &odd
		}
		living = append(living, s)
	}
	for _, o := range found.strays {
		id := strings.TrimPrefix(o.path, manifest.DeletedDir)
		if !slices.ContainsFunc(living, func(s *Snapshot) bool { return s.ID == id }) { // else the list has it
			strays = append(strays, o.err)
		}
	}
	return living, strays, nil
}

// readAll reads the snapshots ids, in their order. Only the end of ctx is an
// error of its own.
func (a *Archive) readAll(ctx context.Context, ids []string) ([]*Snapshot, error) {
	all := make([]*Snapshot, len(ids))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, id := range ids {
		g.Go(func() error {
			all[i] = a.read(gctx, id)
			return gctx.Err()
		})
	}
	return all, g.Wait()
}

// Load returns the living snapshot id, whole and signed. Whose key signed it is
// in its Key; whether to trust that key is the caller's to ask.
func (a *Archive) Load(ctx context.Context, id string) (*Snapshot, error) {
	if err := manifest.CheckID(id); err != nil {
		return nil, fmt.Errorf("load snapshot: %w", err)
	}
	_, err := a.st.Stat(ctx, manifest.TombstonePath(id))
	if err == nil {
		return nil, fmt.Errorf("snapshot %s was deleted: %w", id, ErrNotFound)
	}
	if !absent(err) {
		return nil, fmt.Errorf("load snapshot %s: %w", id, err)
	}
	s := a.read(ctx, id)
	if errors.Is(s.Err, ErrNotFound) {
		return nil, a.noSnapshot(ctx, id, s.Err)
	}
	if s.Err != nil {
		return nil, s.Err
	}
	return s, nil
}

// Find returns the living snapshot that ref names or is the id of. When there is
// none, the ErrNotFound says what there is. Should several have the name, in an
// archive put together from others, the ErrAmbiguous says their ids.
func (a *Archive) Find(ctx context.Context, ref string) (*Snapshot, error) {
	if manifest.CheckID(ref) == nil {
		return a.Load(ctx, ref)
	}
	s, err := a.named(ctx, ref)
	if err != nil {
		return nil, err
	}
	if s.Err != nil {
		return nil, s.Err
	}
	return s, nil
}

// Resolve returns the id of what Find finds, also when that is damaged: it is for
// Verify. An id is returned as it is, whether there is such a snapshot or not.
func (a *Archive) Resolve(ctx context.Context, ref string) (id string, err error) {
	if manifest.CheckID(ref) == nil {
		return ref, nil
	}
	s, err := a.named(ctx, ref)
	if err != nil {
		return "", err
	}
	return s.ID, nil
}

// named finds a living snapshot by its name, damaged or not.
func (a *Archive) named(ctx context.Context, name string) (*Snapshot, error) {
	if err := manifest.CheckName(name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	all, err := a.List(ctx)
	if errors.Is(err, store.ErrNoList) {
		return nil, fmt.Errorf("find snapshot %q: give its id, since this store cannot be listed: %w", name, err)
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	var found, trusted []*Snapshot
	for _, s := range all {
		if s.Name() != name {
			continue
		}
		ids, found = append(ids, s.ID), append(found, s)
		if s.Err == nil && s.Untrusted == nil {
			trusted = append(trusted, s)
		}
	}
	switch {
	case len(ids) == 0:
		return nil, notFound(name, all)
	case len(ids) == 1:
		return found[0], nil
	case a.trust != nil && len(trusted) == 1: // a stranger takes no name
		return trusted[0], nil
	}
	return nil, fmt.Errorf("%q is the name of %s: give the id: %w", name, strings.Join(ids, " and "), ErrAmbiguous)
}

// notFound says what there is instead of ref: the newest few names, and ids that
// could be it since their manifest cannot be read.
func notFound(ref string, all []*Snapshot) error {
	const few = 5
	var names, unread []string
	for _, s := range slices.Backward(all) {
		if s.Name() == "" {
			unread = append(unread, s.ID)
		} else if len(names) < few {
			names = append(names, s.Name())
		}
	}
	hint := "there are none yet"
	if len(names) > 0 {
		hint = "there is " + strings.Join(names, ", ")
		if more := len(all) - len(unread) - len(names); more > 0 {
			hint += fmt.Sprintf(" and %d more", more)
		}
	} else if len(unread) > 0 {
		hint = "no other can be read"
	}
	if len(unread) > 0 {
		hint += "; these cannot be read: " + strings.Join(unread[:min(few, len(unread))], ", ")
	}
	return fmt.Errorf("%w: %q (%s)", ErrNotFound, ref, hint)
}

// read reads what stands at id, deleted or not. What is wrong is in Err; a
// missing manifest and a void marker are ErrNotFound.
func (a *Archive) read(ctx context.Context, id string) *Snapshot {
	a.mu.Lock()
	s := a.cache[id]
	a.mu.Unlock()
	if s != nil {
		return s
	}
	s = &Snapshot{ID: id, st: a.st}
	if s.Err = s.load(ctx); s.Err != nil {
		return s
	}
	a.hold(s)
	a.keep(s)
	return s
}

func (a *Archive) keep(s *Snapshot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.cache[s.ID]; ok {
		return
	}
	size := int64(len(s.Raw))
	for id, old := range a.cache {
		if a.cached+size <= maxCached {
			break
		}
		delete(a.cache, id)
		a.cached -= int64(len(old.Raw))
	}
	a.cache[s.ID] = s
	a.cached += size
}
