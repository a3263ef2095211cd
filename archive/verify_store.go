package archive

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"pcapsule/manifest"
	"pcapsule/store"
)

// survey lists the snapshots that there are, and checks what the store holds
// beside them: void markers, tombstones, intents and condemned lists.
func (v *verifier) survey(ctx context.Context) (ids []string, err error) {
	found, err := v.a.survey(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range found.strays {
		v.blind = true
		id := strings.TrimPrefix(s.path, manifest.DeletedDir)
		if manifest.CheckID(id) != nil {
			id = ""
		}
		what := s.err.Error()
		if own, ok := strings.CutPrefix(what, s.path+" "); ok { // the report names the path already
			what = "it " + own
		}
		v.problem(id, s.path, "%s; until then no sweep deletes anything", what)
	}
	for _, path := range found.foreign {
		if strings.HasPrefix(path, manifest.DeletedDir) {
			v.problem("", path, "it is no tombstone; move it away")
		} else {
			v.note("", path, "it is no part of an archive")
		}
	}
	if err := v.intents(ctx); err != nil {
		return nil, err
	}
	if err := v.condemnedLists(ctx); err != nil {
		return nil, err
	}
	ids = found.ids
	for _, id := range found.all() {
		_, there := slices.BinarySearch(found.ids, id)
		if there && found.odd[id] == nil || found.oddTombstone(id) {
			continue
		}
		why := v.a.unread(ctx, found, id)
		if found.odd[id] != nil {
			why = found.odd[id]
		}
		switch {
		case why != nil:
			v.blind = true
			v.problem(id, manifest.ManifestPath(id), "%v", why)
		case !there:
			// The session may have ended well since the folders were listed.
			if there, err = v.a.exists(ctx, manifest.ManifestPath(id)); err != nil {
				return nil, err
			}
			if there {
				ids = append(ids, id)
			} else {
				v.note("", manifest.SnapshotsDir+id, "a session is making this snapshot, or died over it")
			}
		}
	}
	slices.Sort(ids)
	return v.dropVoid(ctx, ids)
}

// dropVoid leaves out the ids at which a sound void marker stands.
func (v *verifier) dropVoid(ctx context.Context, ids []string) ([]string, error) {
	void := make([]bool, len(ids))
	err := v.a.each(ctx, len(ids), func(ctx context.Context, i int) error {
		b, err := store.ReadAll(ctx, v.a.st, manifest.ManifestPath(ids[i]), manifest.MaxVoid)
		if err == nil {
			marker, err := manifest.DecodeVoid(b)
			void[i] = err == nil && marker.ID == ids[i]
		} else if isMark(ids[i]) && absent(err) {
			void[i] = true // of a sweep, which has tidied up
		}
		return ctx.Err() // what is no void marker is looked at later
	})
	if err != nil {
		return nil, err
	}
	living := ids[:0]
	for i, id := range ids {
		if !void[i] {
			living = append(living, id)
		}
	}
	return living, nil
}

func (v *verifier) intents(ctx context.Context) error {
	return v.each(ctx, manifest.IntentsDir, func(key string) {
		id := strings.TrimPrefix(key, manifest.IntentsDir)
		if err := manifest.CheckID(id); err != nil {
			v.problem("", key, "%v; move it away", err)
			return
		}
		b, err := store.ReadAll(ctx, v.a.st, key, maxIntent)
		if absent(err) {
			return // the session ended
		}
		if err != nil {
			v.unreadable("", key, err)
		} else if decodeIntent(b, id, time.Time{}).Name == "" {
			v.problem("", key, "it cannot be read; a sweep will end its session")
		}
	})
}

func (v *verifier) condemnedLists(ctx context.Context) error {
	return v.each(ctx, manifest.CondemnedDir, func(key string) {
		n, err := manifest.ParseCondemnedPath(key)
		if err != nil {
			v.problem("", key, "%v; move it away", err)
			return
		}
		b, err := store.ReadAll(ctx, v.a.st, key, maxCondemnedSize)
		if err == nil {
			_, err = decodeCondemned(b, n)
		}
		if err != nil {
			v.unreadable("", key, err)
		}
	})
}

// each calls f for the objects below dir. Obstacles are problems.
func (v *verifier) each(ctx context.Context, dir string, f func(key string)) error {
	for info, err := range v.a.st.List(ctx, dir) {
		switch o := store.AsObstacle(err); {
		case o != nil && litterIn(o.Path, dir), err == nil && litterIn(info.Key, dir):
		case o != nil:
			v.problem("", o.Path, "%s", o.What)
		case err != nil:
			return err
		default:
			f(info.Key)
		}
	}
	return nil
}

// leftovers notes what no snapshot holds.
func (v *verifier) leftovers(ctx context.Context) error {
	var foreign, unheld, size int64
	var example, unheldExample string
	for info, err := range v.a.st.List(ctx, "") {
		if o := store.AsObstacle(err); o != nil {
			v.obstacle(o)
			continue
		}
		if err != nil {
			return err
		}
		if _, ok := v.held[info.Key]; ok || ours(info.Key) {
			continue
		}
		if _, err := manifest.ParseObjectKey(info.Key); err != nil {
			if foreign++; foreign == 1 {
				example = info.Key
			}
			continue
		}
		if unheld++; unheld == 1 {
			unheldExample = info.Key
		}
		size += info.Size
	}
	if foreign > 0 {
		v.note("", example, "%s no part of an archive", oneOf(foreign))
	}
	if unheld > 0 && v.blind {
		v.note("", unheldExample, "%s (%d bytes in all) held by no snapshot that can be read; repair those that cannot before you sweep", oneOf(unheld), size)
	} else if unheld > 0 {
		v.note("", unheldExample, "%s (%d bytes in all) held by no snapshot; sessions may need it, else a sweep deletes it", oneOf(unheld), size)
	}
	return nil
}

// obstacle notes what is no object and not where snapshots are decided: survey,
// intents and condemnedLists saw that. Beside an archive anything may lie.
func (v *verifier) obstacle(o *store.Obstacle) {
	dir, name, below := strings.Cut(o.Path, "/")
	switch {
	case dir != manifest.KindChunk && dir != manifest.KindInventory:
	case below && name != "" && litterIn(o.Path, dir+"/"):
	case o.Name:
		v.note("", o.Path, "it is no part of an archive")
	default:
		v.problem("", o.Path, "%s", o.What)
	}
}

func oneOf(n int64) string {
	if n == 1 {
		return "this object is"
	}
	return fmt.Sprintf("this is one of %d objects that are", n)
}

// ours tells whether key is of the protocol or of a snapshot, dead or alive.
func ours(key string) bool {
	for _, dir := range []string{manifest.SnapshotsDir, manifest.IntentsDir, manifest.DeletedDir, manifest.CondemnedDir} {
		if strings.HasPrefix(key, dir) {
			return true
		}
	}
	return key == manifest.StorePath || strings.HasPrefix(key, store.ProbeDir)
}

// recheck takes back what was found of snapshots that were deleted meanwhile: a
// sweep may have been taking their chunks.
func (v *verifier) recheck(ctx context.Context) error {
	gone := map[string]bool{}
	for _, p := range v.report.Problems {
		if _, ok := gone[p.Snapshot]; ok || p.Snapshot == "" {
			continue
		}
		dead, err := v.a.exists(ctx, manifest.TombstonePath(p.Snapshot))
		if err != nil && store.AsObstacle(err) == nil {
			return err
		}
		if gone[p.Snapshot] = dead; dead {
			v.note(p.Snapshot, manifest.TombstonePath(p.Snapshot), "the snapshot was deleted while it was verified")
		}
	}
	v.report.Problems = slices.DeleteFunc(v.report.Problems, func(p Problem) bool { return gone[p.Snapshot] })
	v.report.Snapshots = slices.DeleteFunc(v.report.Snapshots, func(s SnapshotReport) bool { return gone[s.ID] })
	return nil
}
