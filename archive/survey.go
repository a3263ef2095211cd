package archive

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"pcapsule/manifest"
	"pcapsule/store"
)

// A survey is what stands below manifest.SnapshotsDir and manifest.DeletedDir. It
// alone decides what exists: lists, names, sweeps and Verify start from one.
//
// Companions, which are the objects in a snapshot's folder that no snapshot is
// made of, are in nobody's way and not in it.
type survey struct {
	ids      []string            // with a manifest or a void marker, and without a tombstone, in order
	headless []string            // with something else in their folder, or a folder without anything, and neither of those nor a tombstone
	hollow   bool                // there is a folder of snapshots, with nothing in it
	odd      map[string]error    // by id: something that is no object stands where its folder, manifest or tombstone should
	dead     map[string]struct{} // with a tombstone
	strays   []stray             // what could be a snapshot's or a tombstone and is not understood
	foreign  []string            // what is no part of an archive
}

func newSurvey() *survey { return &survey{odd: map[string]error{}, dead: map[string]struct{}{}} }

// A stray is the path of something, and what is wrong with it.
type stray struct {
	path string
	err  error
}

func (a *Archive) survey(ctx context.Context) (*survey, error) {
	s := newSurvey()
	if err := a.checkTop(ctx); err != nil {
		return s, err
	}
	if err := s.scan(ctx, a.st, manifest.SnapshotsDir); err != nil {
		return s, fmt.Errorf("list snapshots: %w", err)
	}
	// The tombstones after the snapshots: a manifest goes only when there is one.
	if err := s.tombstones(ctx, a.st); err != nil {
		return s, fmt.Errorf("list tombstones: %w", err)
	}
	if err := s.hollows(ctx, a.st); err != nil {
		return s, fmt.Errorf("list snapshots: %w", err)
	}
	dead := func(id string) bool { _, ok := s.dead[id]; return ok }
	s.ids = slices.DeleteFunc(s.ids, dead)
	slices.Sort(s.headless)
	s.headless = slices.DeleteFunc(slices.Compact(s.headless), func(id string) bool {
		_, ok := slices.BinarySearch(s.ids, id)
		return ok || dead(id) || s.odd[id] != nil
	})
	for id := range s.odd {
		if dead(id) {
			delete(s.odd, id)
		}
	}
	return s, nil
}

// all are the ids at which something stands that may be a living snapshot, in
// order.
func (s *survey) all() []string {
	ids := slices.Concat(s.ids, s.headless)
	for id := range s.odd {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// scan takes in what lies below prefix, which starts with manifest.SnapshotsDir.
func (s *survey) scan(ctx context.Context, st store.Store, prefix string) error {
	for info, err := range st.List(ctx, prefix) {
		o := store.AsObstacle(err)
		switch {
		case err != nil && o == nil:
			return err
		case o == nil:
			s.snapshot(info.Key, nil)
		case !inside(o.Path, manifest.SnapshotsDir):
			return err
		default:
			s.snapshot(o.Path, o)
		}
	}
	return nil
}

// snapshot takes in one object, or one obstacle, below manifest.SnapshotsDir.
func (s *survey) snapshot(key string, o *store.Obstacle) {
	id, rest, _ := strings.Cut(strings.TrimPrefix(key, manifest.SnapshotsDir), "/")
	file, below, deeper := strings.Cut(rest, "/")
	name := path.Base(manifest.ManifestPath(""))
	switch {
	case litter(id) && !strings.EqualFold(path.Base(key), name):
	case manifest.CheckID(id) != nil:
		switch {
		case o != nil && !o.Name:
			s.strays = append(s.strays, stray{key, o})
		case strings.EqualFold(path.Base(key), name):
			s.strays = append(s.strays, stray{key, fmt.Errorf("%s looks like a manifest and is not where one can be: move it out of the store", key)})
		default:
			s.foreign = append(s.foreign, key)
		}
	case rest == "" && o != nil:
		s.odd[id] = o
	case rest == "":
		s.odd[id] = fmt.Errorf("%s is a file where the folder of a snapshot should be: move it out of the store", key)
	case file == name && deeper && below != "":
		s.odd[id] = fmt.Errorf("%s is a folder where a manifest should be: move it out of the store", manifest.ManifestPath(id))
	case file == name && o != nil:
		s.odd[id] = o
	case file == name:
		s.ids = append(s.ids, id)
	case strings.EqualFold(file, name):
		s.odd[id] = fmt.Errorf("%s is spelled otherwise than %s: rename it", key, name)
	default:
		s.headless = append(s.headless, id)
	}
}

// topNames are the names that this program looks for in a store's root.
var topNames = []string{
	manifest.SnapshotsDir, manifest.DeletedDir, manifest.IntentsDir, manifest.CondemnedDir,
	manifest.KindChunk, manifest.KindInventory, manifest.StorePath,
}

// checkTop finds names in a folder's root that stand there in other letters only,
// as file systems and tools make them that do not tell letters' case apart. To
// this program, what has such a name is not there.
func (a *Archive) checkTop(ctx context.Context) error {
	f, ok := a.st.(interface {
		Top(ctx context.Context) ([]string, error)
	})
	if !ok {
		return nil
	}
	names, err := f.Top(ctx)
	if err != nil {
		return err
	}
	for _, want := range topNames {
		want = strings.TrimSuffix(want, "/")
		if slices.Contains(names, want) {
			continue
		}
		for _, name := range names {
			if strings.EqualFold(name, want) {
				return fmt.Errorf("%w: %s is spelled otherwise than %s: rename it", ErrDamaged, name, want)
			}
		}
	}
	return nil
}

// hollows takes in the folders below manifest.SnapshotsDir that hold nothing, of a
// store that has folders: what was in them may have been taken away, or is on a
// disk that is not mounted. pcapsule leaves none but for a moment.
func (s *survey) hollows(ctx context.Context, st store.Store) error {
	f, ok := st.(interface {
		Hollow(ctx context.Context, dir string) ([]string, error)
	})
	if !ok {
		return nil
	}
	paths, err := f.Hollow(ctx, manifest.SnapshotsDir)
	if err != nil {
		return err
	}
	for _, p := range paths {
		id := strings.Trim(strings.TrimPrefix(p, manifest.SnapshotsDir), "/")
		switch {
		case id == "":
			s.hollow = true
		case manifest.CheckID(id) == nil && !isMark(id):
			s.headless = append(s.headless, id)
		}
	}
	return nil
}

// tombstones takes in what lies below manifest.DeletedDir.
func (s *survey) tombstones(ctx context.Context, st store.Store) error {
	for info, err := range st.List(ctx, manifest.DeletedDir) {
		o := store.AsObstacle(err)
		key := info.Key
		if o != nil {
			key = o.Path
		}
		id, _, folder := strings.Cut(strings.TrimPrefix(key, manifest.DeletedDir), "/")
		isID := manifest.CheckID(id) == nil
		switch {
		case err != nil && (o == nil || !inside(key, manifest.DeletedDir)):
			return err
		case litter(id):
		case isID && o == nil && !folder:
			s.dead[id] = struct{}{} // whatever it holds: that it is there deletes the snapshot
		case isID || o != nil && !o.Name:
			if o == nil {
				err = fmt.Errorf("%s is a folder where a tombstone should be: move it out of the store", manifest.TombstonePath(id))
			} else {
				err = o
			}
			if !isID {
				s.strays = append(s.strays, stray{key, err})
			} else if !s.oddTombstone(id) { // one of a folder's files is enough
				s.strays = append(s.strays, stray{manifest.TombstonePath(id), err})
				s.odd[id] = err
			}
		default:
			s.foreign = append(s.foreign, key)
		}
	}
	return s.hollowTombstones(ctx, st)
}

// hollowTombstones takes in the folders below manifest.DeletedDir that hold
// nothing, of a store that has folders: nobody can tell whether the snapshot was
// deleted, nor delete it.
func (s *survey) hollowTombstones(ctx context.Context, st store.Store) error {
	f, ok := st.(interface {
		Hollow(ctx context.Context, dir string) ([]string, error)
	})
	if !ok {
		return nil
	}
	paths, err := f.Hollow(ctx, manifest.DeletedDir)
	if err != nil {
		return err
	}
	for _, p := range paths {
		id := strings.Trim(strings.TrimPrefix(p, manifest.DeletedDir), "/")
		if manifest.CheckID(id) == nil && !s.oddTombstone(id) {
			err := fmt.Errorf("%s is an empty folder where a tombstone should be: remove it", manifest.TombstonePath(id))
			s.strays = append(s.strays, stray{manifest.TombstonePath(id), err})
			s.odd[id] = err
		}
	}
	return nil
}

// oddTombstone tells whether a stray stands where the tombstone of id should.
func (s *survey) oddTombstone(id string) bool {
	return slices.ContainsFunc(s.strays, func(o stray) bool { return o.path == manifest.TombstonePath(id) })
}

// inside tells whether path is below dir, and not dir itself.
func inside(path, dir string) bool { return strings.HasPrefix(path, dir) && path != dir }

// litter tells names that desktops and file systems leave in any folder.
func litter(name string) bool {
	switch name {
	case "lost+found", "@eaDir", "desktop.ini", "Thumbs.db":
		return true
	}
	return false
}

// litterIn tells whether path, which is below dir, is litter there or in a folder
// that is.
func litterIn(path, dir string) bool {
	name, _, _ := strings.Cut(strings.TrimPrefix(path, dir), "/")
	return litter(name)
}

// absent tells whether err says that there is no object, and nothing in its
// place either.
func absent(err error) bool {
	return errors.Is(err, store.ErrNotExist) && store.AsObstacle(err) == nil
}

// undeleted lists the ids at which a manifest or a void marker stands, in order,
// without those that have a tombstone. It fails when something stands in the
// place of one.
func (a *Archive) undeleted(ctx context.Context) ([]string, error) {
	s, err := a.survey(ctx)
	if err != nil {
		return nil, err
	}
	if len(s.odd) > 0 {
		id := slices.Min(slices.Collect(maps.Keys(s.odd)))
		return nil, fmt.Errorf("cannot tell what snapshot %s is: %w", id, s.odd[id])
	}
	return s.ids, nil
}

// unread tells why what stands at id, which is no manifest, is no snapshot. It
// returns nil when nothing is wrong: a session is making the snapshot, or ended
// without one.
func (a *Archive) unread(ctx context.Context, s *survey, id string) error {
	if err := s.odd[id]; err != nil {
		return fmt.Errorf("snapshot %s: %w: %w", id, ErrDamaged, err)
	}
	if !slices.Contains(s.headless, id) {
		return nil
	}
	// A session puts the signature before the manifest. Without a session somebody
	// took the manifest away or renamed it, or has yet to copy it, or to mount a disk.
	o, err := a.Outcome(ctx, id)
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", id, err)
	}
	if o.State != Unknown {
		return nil
	}
	return fmt.Errorf("snapshot %s: %w: there is its folder and no manifest in it: copy the manifest (or mount the disk), or move the folder %s out of the store",
		id, ErrDamaged, manifest.SnapshotsDir+id)
}

// noSnapshot is ErrNotFound for an id, or what stands there instead.
func (a *Archive) noSnapshot(ctx context.Context, id string, err error) error {
	s := newSurvey()
	if s.scan(ctx, a.st, manifest.SnapshotsDir+id) != nil || s.hollows(ctx, a.st) != nil || slices.Contains(s.ids, id) {
		return err
	}
	if why := a.unread(ctx, s, id); why != nil {
		return why
	}
	return err
}
