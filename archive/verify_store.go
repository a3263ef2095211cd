package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pcapsule/manifest"
	"pcapsule/store"
)

// survey lists the living snapshots, and checks what the store holds beside
// them: void markers, tombstones, intents and condemned lists.
func (v *verifier) survey(ctx context.Context) (ids []string, err error) {
	folders := map[string]bool{} // by id: whether a manifest or a void marker is there
	for info, err := range v.a.st.List(ctx, manifest.SnapshotsDir) {
		if err != nil {
			return nil, err
		}
		id, _, err := manifest.ParseSnapshotPath(info.Key)
		if err != nil {
			v.note("", info.Key, "it is no part of an archive")
			continue
		}
		folders[id] = folders[id] || info.Key == manifest.ManifestPath(id)
	}
	intents, err := v.intents(ctx)
	if err != nil {
		return nil, err
	}
	if err := v.condemnedLists(ctx); err != nil {
		return nil, err
	}
	dead, err := v.tombstones(ctx)
	if err != nil {
		return nil, err
	}
	for id, committed := range folders {
		if dead[id] {
			continue
		}
		if !committed {
			// The session may have ended well since the folders were listed.
			if committed, err = v.a.exists(ctx, manifest.ManifestPath(id)); err != nil {
				return nil, err
			}
		}
		switch {
		case committed:
			ids = append(ids, id)
		case intents[id]:
			v.note("", manifest.SnapshotsDir+id, "a session is making this snapshot, or died over it")
		default:
			v.problem(id, manifest.ManifestPath(id), "missing, though there is its signature or its key; %s", doCopy)
			v.blind = true
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

func (v *verifier) intents(ctx context.Context) (map[string]bool, error) {
	ids := map[string]bool{}
	for info, err := range v.a.st.List(ctx, manifest.IntentsDir) {
		if err != nil {
			return nil, err
		}
		id := strings.TrimPrefix(info.Key, manifest.IntentsDir)
		if err := manifest.CheckID(id); err != nil {
			v.problem("", info.Key, "%v; move it away", err)
			continue
		}
		ids[id] = true
		b, err := store.ReadAll(ctx, v.a.st, info.Key, maxIntent)
		if errors.Is(err, store.ErrNotExist) {
			continue // the session ended
		}
		if err != nil {
			v.unreadable("", info.Key, err)
		} else if decodeIntent(b, id, time.Time{}).Name == "" {
			v.problem("", info.Key, "it cannot be read; a sweep will end its session")
		}
	}
	return ids, nil
}

func (v *verifier) tombstones(ctx context.Context) (map[string]bool, error) {
	ids := map[string]bool{}
	for info, err := range v.a.st.List(ctx, manifest.DeletedDir) {
		if err != nil {
			return nil, err
		}
		id := strings.TrimPrefix(info.Key, manifest.DeletedDir)
		if err := manifest.CheckID(id); err != nil {
			v.problem("", info.Key, "%v; move it away", err)
			continue
		}
		ids[id] = true // whatever it holds: that it is there deletes the snapshot
	}
	return ids, nil
}

func (v *verifier) condemnedLists(ctx context.Context) error {
	for info, err := range v.a.st.List(ctx, manifest.CondemnedDir) {
		if err != nil {
			return err
		}
		n, err := manifest.ParseCondemnedPath(info.Key)
		if err != nil {
			v.problem("", info.Key, "%v; move it away", err)
			continue
		}
		b, err := store.ReadAll(ctx, v.a.st, info.Key, maxCondemnedSize)
		if err == nil {
			_, err = decodeCondemned(b, n)
		}
		if err != nil {
			v.unreadable("", info.Key, err)
		}
	}
	return nil
}

// leftovers notes what no snapshot holds.
func (v *verifier) leftovers(ctx context.Context) error {
	var foreign, unheld, size int64
	var example, unheldExample string
	for info, err := range v.a.st.List(ctx, "") {
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
	return false
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
		if err != nil {
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
