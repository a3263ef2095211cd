package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"pcapsule/manifest"
	"pcapsule/store"
)

const (
	tombstoneFormat  = "pcapsule.tombstone"
	tombstoneVersion = 1
	maxTombstone     = 16 << 10
)

// A tombstone is the object deleted/<id>. It is the presence of the key that
// counts, whatever is in it. It is never taken away, and the id never used again.
type tombstone struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	ID      string `json:"id"`
	By      string `json:"by"` // who deleted the snapshot
}

// Delete ends the life of snapshot id, for good. Its name is free at once; what
// no other snapshot holds of it goes with the next sweep. Deleting it again is no
// error. ErrNotFound says that id is no snapshot.
func (a *Archive) Delete(ctx context.Context, id, by string) error {
	if err := a.Writable(ctx); err != nil {
		return fmt.Errorf("delete snapshot %s: %w", id, err)
	}
	o, err := a.Outcome(ctx, id)
	if err != nil {
		return fmt.Errorf("delete snapshot %s: %w", id, err)
	}
	switch o.State {
	case Deleted:
		return nil
	case Undecided:
		return fmt.Errorf("delete snapshot %s: %w yet: it is still being made", id, ErrNotFound)
	case Committed:
	default:
		return fmt.Errorf("delete snapshot %s: %w", id, ErrNotFound)
	}
	b, err := json.MarshalIndent(tombstone{tombstoneFormat, tombstoneVersion, id, manifest.Clean(by)}, "", "  ")
	if err != nil {
		return fmt.Errorf("delete snapshot %s: %w", id, err)
	}
	// Whatever is there, be it another's: the snapshot is deleted.
	_, err = a.putFreeing(ctx, manifest.TombstonePath(id), append(b, '\n'), maxTombstone)
	if errors.Is(err, store.ErrNoSpace) {
		// An empty file may still find a place where no block is free.
		_, err = a.putFreeing(ctx, manifest.TombstonePath(id), nil, maxTombstone)
	}
	if err != nil {
		return fmt.Errorf("delete snapshot %s: %w", id, err)
	}
	return nil
}
