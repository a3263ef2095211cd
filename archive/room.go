package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"pcapsule/manifest"
	"pcapsule/store"
)

// A RoomError says that a store has too little room for another session, and what
// would give some. It is a store.ErrNoSpace.
type RoomError struct{ text string }

func (e *RoomError) Error() string { return e.text }

func (e *RoomError) Unwrap() error { return store.ErrNoSpace }

// Room tells whether the store has room for another session: what it keeps in
// reserve for deletions is whole, and as much is free as its volume wants. Else
// the error is a *RoomError. Stores that cannot tell have room.
func (a *Archive) Room(ctx context.Context) error {
	v, ok := a.st.(store.Volume)
	if !ok {
		return nil
	}
	restock := v.Restock()
	s, err := v.Space()
	floor, files := s.Floor()
	has := ""
	switch {
	case errors.Is(restock, store.ErrNoSpace):
		has = "has no room, not even for what deletions need, or has reached its quota"
	case err != nil:
		return nil // a file system that does not tell
	case s.Free < floor:
		has = fmt.Sprintf("has %s free, less than the %s that are kept free", iec(s.Free), iec(floor))
	case s.TotalFiles > 0 && s.FreeFiles < files:
		has = fmt.Sprintf("has room for %d more files, fewer than the %d that are kept free", s.FreeFiles, files)
	default:
		return nil
	}
	return &RoomError{fmt.Sprintf("no space left in store %s: it %s: %s", store.Describe(a.st), has, a.advice(ctx))}
}

// adviceTime is how long advice looks for what could be deleted.
const adviceTime = 10 * time.Second

// advice says what deleting would give, as far as that is found out soon.
func (a *Archive) advice(ctx context.Context) string {
	const do = "delete snapshots and sweep"
	soon, cancel := context.WithTimeout(ctx, adviceTime)
	defer cancel()
	r, err := a.reclaimable(soon)
	if err != nil {
		return do
	}
	var parts []string
	if r.unheld > 0 {
		parts = append(parts, fmt.Sprintf("`pcapsule sweep` would give %s", iec(r.unheld)))
	}
	if len(r.snapshots) > 0 {
		const few = 3
		var list []string
		for _, s := range r.snapshots[:min(few, len(r.snapshots))] {
			list = append(list, s.name+" "+iec(s.bytes))
		}
		if more := len(r.snapshots) - few; more > 0 {
			list = append(list, fmt.Sprintf("%d more", more))
		}
		parts = append(parts, fmt.Sprintf("%s would give %s (%s)", do, iec(r.held), strings.Join(list, ", ")))
	}
	if len(parts) == 0 {
		return "nothing in it can be deleted: make room on its volume, or choose another store"
	}
	return strings.Join(parts, "; ")
}

// reclaim is what could be freed.
type reclaim struct {
	unheld    int64         // bytes that no living snapshot holds
	held      int64         // bytes that living snapshots hold, each counted once
	snapshots []reclaimable // the largest first
}

// reclaimable is what one snapshot alone holds.
type reclaimable struct {
	name  string
	bytes int64
}

func (a *Archive) reclaimable(ctx context.Context) (r reclaim, err error) {
	all, err := a.List(ctx)
	if err != nil {
		return r, err
	}
	type holder struct {
		snapshot int
		shared   bool
		size     int64
	}
	holders := map[string]holder{}
	hold := func(key string, size int64, i int) {
		h, ok := holders[key]
		holders[key] = holder{i, ok && (h.shared || h.snapshot != i), size}
	}
	for i, s := range all {
		r.snapshots = append(r.snapshots, reclaimable{name: s.Name()})
		if s.Manifest == nil {
			return r, fmt.Errorf("snapshot %s cannot be read: %w", s.ID, s.Err)
		}
		streams := slices.Clone(s.Manifest.Streams)
		for _, n := range s.Manifest.Nodes {
			streams = append(streams, n.Streams...)
		}
		for _, stream := range streams {
			hold(stream.Inventory, stream.InventorySize, i)
			err := a.readInventory(ctx, stream.Inventory, stream.InventorySize, func(e manifest.Entry) error {
				hold(e.Key, e.Size, i)
				return nil
			})
			if err != nil {
				return r, err
			}
		}
	}
	for _, h := range holders {
		r.held += h.size
		if !h.shared {
			r.snapshots[h.snapshot].bytes += h.size
		}
	}
	_, r.unheld, err = a.Unheld(ctx, time.Time{})
	slices.SortStableFunc(r.snapshots, func(x, y reclaimable) int { return int(min(max(y.bytes-x.bytes, -1), 1)) })
	return r, err
}

func iec(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// tidyStore has the store clear up after itself: what fails is done by the next.
func (a *Archive) tidyStore() {
	if v, ok := a.st.(store.Volume); ok {
		_ = v.Tidy()
	}
}
