package archive

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"pcapsule/manifest"
	"pcapsule/store"
)

// checkName tells whether a session other than id, undecided or committed to a
// living snapshot, has the name. Two sessions that both put their intents and
// then check cannot both miss the other: the later one finds the earlier one's
// intent or, when that is gone, its manifest; so intents come before manifests.
func (a *Archive) checkName(ctx context.Context, name, id string) error {
	attempts, _, err := a.attempts(ctx)
	if err != nil {
		return fmt.Errorf("look for other sessions of this name: %w", err)
	}
	for _, t := range attempts {
		if t.ID != id && t.Name == name && t.Outcome.State == Undecided {
			return fmt.Errorf("%q: %w by session %s, which is under way: choose another, or wait for it", name, ErrNameTaken, t.ID)
		}
	}
	ids, err := a.undeleted(ctx)
	if err != nil {
		return fmt.Errorf("look for snapshots of this name: %w", err)
	}
	verdicts := make([]verdict, len(ids))
	err = a.each(ctx, len(ids), func(ctx context.Context, i int) error {
		v, err := a.verdict(ctx, ids[i])
		if errors.Is(err, store.ErrNotExist) {
			return nil // deleted, and swept
		}
		verdicts[i] = v
		return err
	})
	if err != nil {
		return fmt.Errorf("look for snapshots of this name: %w", err)
	}
	for i, v := range verdicts {
		if ids[i] != id && !v.void && v.name == name {
			return fmt.Errorf("%q: %w by snapshot %s: choose another, or delete that one", name, ErrNameTaken, ids[i])
		}
	}
	return nil
}

// A survey is what lies below manifest.SnapshotsDir, without the snapshots that
// have a tombstone.
type survey struct {
	ids      []string // with a manifest or a void marker, in order
	headless []string // with a signature or a key, and neither of those
	stray    string   // a key that looks like a manifest's and is none, if any
}

// undeleted lists the ids at which a manifest or a void marker stands, in order,
// without those that have a tombstone.
func (a *Archive) undeleted(ctx context.Context) ([]string, error) {
	s, err := a.survey(ctx)
	return s.ids, err
}

func (a *Archive) survey(ctx context.Context) (survey, error) {
	var s survey
	for info, err := range a.st.List(ctx, manifest.SnapshotsDir) {
		if err != nil {
			return s, fmt.Errorf("list snapshots: %w", err)
		}
		id, _, err := manifest.ParseSnapshotPath(info.Key)
		switch {
		case err != nil && path.Base(info.Key) == path.Base(manifest.ManifestPath("")):
			s.stray = info.Key
		case err == nil && info.Key == manifest.ManifestPath(id):
			s.ids = append(s.ids, id)
		case err == nil:
			s.headless = append(s.headless, id)
		}
	}
	dead, err := a.tombstones(ctx)
	if err != nil {
		return s, err
	}
	s.ids = slices.DeleteFunc(s.ids, func(id string) bool { return dead[id] })
	s.headless = slices.DeleteFunc(slices.Compact(s.headless), func(id string) bool {
		_, ok := slices.BinarySearch(s.ids, id)
		return ok || dead[id]
	})
	return s, nil
}

// tombstones are the ids of deleted snapshots.
func (a *Archive) tombstones(ctx context.Context) (map[string]bool, error) {
	dead := map[string]bool{}
	for info, err := range a.st.List(ctx, manifest.DeletedDir) {
		if err != nil {
			return nil, fmt.Errorf("list tombstones: %w", err)
		}
		dead[strings.TrimPrefix(info.Key, manifest.DeletedDir)] = true
	}
	return dead, nil
}
