package archive

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"sync"

	"github.com/zeebo/blake3"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
)

// held is the set of keys that living snapshots hold. It keeps 64 bits of each:
// should two keys ever share them, one that nobody holds stays.
type held struct {
	a    *Archive
	seed maphash.Seed

	mu          sync.Mutex
	keys        map[uint64]struct{}
	ids         map[string]bool // snapshots taken in, void markers seen
	voids       map[string]bool // of them, void markers
	marks       map[string]bool // of those, marks of sweeps
	listed      map[string]bool // ids in the last list
	inventories map[string]bool // taken in, whole
	last        *survey
}

func newHeld(a *Archive) *held {
	return &held{
		a: a, seed: maphash.MakeSeed(), keys: map[uint64]struct{}{},
		ids: map[string]bool{}, voids: map[string]bool{}, marks: map[string]bool{}, inventories: map[string]bool{},
	}
}

func (h *held) add(key string) {
	f := maphash.String(h.seed, key)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keys[f] = struct{}{}
}

// has tells whether a living snapshot holds key. In doubt it does.
func (h *held) has(key string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.keys[maphash.String(h.seed, key)]
	return ok
}

// refresh takes in the snapshots that are new since it was last called. It fails
// when it cannot tell what one of them holds.
func (h *held) refresh(ctx context.Context) error {
	all, err := h.a.survey(ctx)
	if err != nil {
		return err
	}
	if len(all.strays) > 0 {
		return fmt.Errorf("cannot tell what snapshots there are: %w: %w", ErrDamaged, all.strays[0].err)
	}
	h.last, h.listed = all, map[string]bool{}
	for _, id := range all.ids {
		h.listed[id] = true
	}
	known := func(id string) bool {
		_, dead := all.dead[id]
		return dead || h.listed[id]
	}
	if err := h.a.missed(ctx, h.ids, known, manifest.ManifestPath); err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	for _, id := range all.all() {
		if _, ok := slices.BinarySearch(all.ids, id); ok && all.odd[id] == nil {
			continue
		}
		if err := h.a.unread(ctx, all, id); err != nil {
			return fmt.Errorf("cannot tell what a snapshot holds: %w", err)
		}
	}
	for _, id := range all.headless {
		// It has been committed since, or the list lacks its manifest.
		there, err := h.a.exists(ctx, manifest.ManifestPath(id))
		if err != nil {
			return err
		}
		if there {
			all.ids = append(all.ids, id)
		}
	}
	var ids []string
	for _, id := range all.ids {
		if !h.ids[id] {
			ids = append(ids, id)
		}
	}
	return h.a.each(ctx, len(ids), func(ctx context.Context, i int) error { return h.take(ctx, ids[i]) })
}

// take takes in one snapshot.
func (h *held) take(ctx context.Context, id string) error {
	void, err := h.read(ctx, id)
	if isMark(id) && absent(err) {
		return nil // tidied up
	}
	if err != nil {
		// It may have been deleted, and swept by another, while it was read.
		dead, derr := h.a.deleted(ctx, id)
		if derr != nil {
			return derr
		}
		if !dead {
			return fmt.Errorf("cannot tell what snapshot %s holds: %w (if it is beyond repair, delete it)", id, err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ids[id] = true
	if void {
		h.voids[id] = true
	}
	return nil
}

func (h *held) read(ctx context.Context, id string) (void bool, err error) {
	b, err := store.ReadAll(ctx, h.a.st, manifest.ManifestPath(id), manifest.MaxManifest)
	if err != nil {
		return false, err
	}
	if v, _ := readVerdict(b, id); v.void {
		if isMark(id) && v.reason == markReason {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.marks[id] = true
		}
		return true, nil
	}
	// As whoever reads the snapshot does: what is somebody else's manifest, or not
	// what was signed, does not say what this snapshot holds.
	snap := &Snapshot{ID: id, Raw: b, st: h.a.st}
	if err := snap.decode(); err != nil {
		return false, err
	}
	if err := snap.loadSignature(ctx); err != nil {
		return false, err
	}
	for _, stream := range snap.Streams {
		if err := h.inventory(ctx, stream); err != nil {
			return false, err
		}
	}
	return false, nil
}

// inventory takes in an inventory and what it names, unless that was done.
func (h *held) inventory(ctx context.Context, s manifest.Stream) error {
	h.mu.Lock()
	done := h.inventories[s.Inventory]
	h.mu.Unlock()
	if done {
		return nil
	}
	h.add(s.Inventory)
	err := h.a.readInventory(ctx, s.Inventory, s.InventorySize, func(e manifest.Entry) error {
		h.add(e.Key)
		return nil
	})
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inventories[s.Inventory] = true
	return nil
}

// readInventory calls f for each entry of an inventory of the given key and size.
// That the bytes have the key's hash is known only when it returns nil.
func (a *Archive) readInventory(ctx context.Context, key string, size int64, f func(manifest.Entry) error) error {
	k, err := manifest.ParseObjectKey(key)
	if err != nil {
		return err
	}
	body, err := a.st.Get(ctx, key, 0, size+1)
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	defer body.Close()
	sum := blake3.New()
	from := &failing{r: body}
	limited := &io.LimitedReader{R: from, N: size + 1}
	r := manifest.NewInventoryReader(io.TeeReader(limited, sum))
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if from.err != nil {
			return fmt.Errorf("read %s: %w", key, from.err)
		}
		if err != nil {
			return fmt.Errorf("read %s: %w: %w", key, ErrDamaged, err)
		}
		if err := f(e); err != nil {
			return err
		}
	}
	if limited.N != 1 || chunker.Hash(sum.Sum(nil)) != k.Hash {
		return fmt.Errorf("read %s: %w: its bytes do not have its hash, or its size", key, ErrDamaged)
	}
	return nil
}

// failing remembers why reading failed, which is not the fault of what is read.
type failing struct {
	r   io.Reader
	err error // never io.EOF
}

func (f *failing) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}
