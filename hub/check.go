package hub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store"
)

// checkObject checks what an agent says of an object before anything is done
// with it.
func checkObject(o api.Object) error {
	limit := int64(chunker.MaxSize)
	switch {
	case o.Kind == manifest.KindChunk && (o.Ext == chunker.PacketsExt || o.Ext == chunker.EventsExt):
		if o.Size == 0 {
			return errors.New("a chunk is never empty")
		}
	case o.Kind == manifest.KindInventory && o.Ext == manifest.InventoryExt:
		limit = manifest.MaxInventory
	default:
		return fmt.Errorf("%.40q with extension %.40q is nothing that a snapshot holds", o.Kind, o.Ext)
	}
	if o.Size < 0 || o.Size > limit {
		return fmt.Errorf("size is %d, want at most %d", o.Size, limit)
	}
	if _, err := parseSHA256(o.SHA256); err != nil {
		return err
	}
	return nil
}

func parseSHA256(s string) (sum [sha256.Size]byte, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(sum) || hex.EncodeToString(b) != s {
		return sum, fmt.Errorf("sha256 %.80q: want %d lower-case hex digits", s, 2*len(sum))
	}
	return [sha256.Size]byte(b), nil
}

// checkPart holds a node's part against what is in the store, and returns it as
// it goes into the manifest. The part may name only what its node has placed in
// this session.
func (h *Hub) checkPart(ctx context.Context, s *session, p *part, handed manifest.Node) (*manifest.Node, error) {
	n := handed
	n.Interfaces = sortedInterfaces(n.Interfaces)
	if err := n.Validate(); err != nil {
		return nil, invalid("the part of node %s is not valid: %v", n.Name, err)
	}
	if err := checkClock(n.Clock); err != nil {
		return nil, err
	}
	if n.Status == manifest.Unreachable {
		return nil, invalid("node %s says that it is unreachable", n.Name)
	}
	for _, stream := range n.Streams {
		if stream.Stream != chunker.Packets && stream.Stream != chunker.OS {
			return nil, invalid("node %s: stream %q is none of a node", n.Name, stream.Stream)
		}
		if err := h.checkStream(ctx, s, p, stream); err != nil {
			return nil, err
		}
	}
	judge(&n, s.req)
	if err := n.Validate(); err != nil {
		return nil, invalid("the part of node %s is not valid: %v", n.Name, err)
	}
	return &n, nil
}

// maxOffset of a clock keeps sums of times far from overflow.
const maxOffset = 100 * 365 * 24 * time.Hour

func checkClock(c manifest.Clock) error {
	if off := time.Duration(c.Offset); off > maxOffset || off < -maxOffset || time.Duration(c.Error) > maxOffset {
		return invalid("a clock is said to be off by %s, known to within %s", off, time.Duration(c.Error))
	}
	return nil
}

// checkStream reads a stream's inventory and checks that every chunk is there.
func (h *Hub) checkStream(ctx context.Context, s *session, p *part, stream manifest.Stream) error {
	is := func(key string) (placed, bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		l, ok := p.placed[key]
		return l, ok
	}
	l, ok := is(stream.Inventory)
	if !ok || l.size != stream.InventorySize {
		return invalid("inventory %s of %d bytes was not placed in this session by this node", stream.Inventory, stream.InventorySize)
	}
	key, err := manifest.ParseObjectKey(stream.Inventory)
	if err != nil || key.Kind != manifest.KindInventory {
		return invalid("%s is no inventory", stream.Inventory)
	}
	b, err := store.ReadAll(ctx, h.cfg.Store, stream.Inventory, stream.InventorySize)
	switch {
	case errors.Is(err, store.ErrNotExist):
		return invalid("inventory %s has not been uploaded", stream.Inventory)
	case err != nil:
		return fmt.Errorf("read inventory: %w", err)
	case int64(len(b)) != stream.InventorySize || chunker.HashOf(b) != key.Hash:
		return invalid("inventory %s: what was uploaded is something else", stream.Inventory)
	}
	entries, err := manifest.DecodeInventory(b)
	if err != nil {
		return invalid("inventory %s: %v", stream.Inventory, err)
	}
	sum := manifest.SumInventory(stream.Stream, entries)
	sum.Inventory, sum.InventorySize = stream.Inventory, stream.InventorySize
	if sum != stream {
		return invalid("inventory %s does not add up to what its stream says", stream.Inventory)
	}

	var missing []manifest.Entry // to be looked for
	for _, e := range entries {
		l, ok := is(e.Key)
		if !ok || l.size != e.Size || l.sha256 != e.SHA256 {
			return invalid("chunk %s was not placed as this in this session by this node", e.Key)
		}
		if k, err := manifest.ParseObjectKey(e.Key); err != nil || k.Kind != manifest.KindChunk || k.Ext != chunker.Ext(stream.Stream) {
			return invalid("%s is no chunk of stream %s", e.Key, stream.Stream)
		}
		if !l.have {
			missing = append(missing, e)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, e := range missing {
		g.Go(func() error {
			info, err := h.cfg.Store.Stat(ctx, e.Key)
			switch {
			case errors.Is(err, store.ErrNotExist):
				return invalid("chunk %s has not been uploaded", e.Key)
			case err != nil:
				return fmt.Errorf("look for chunk %s: %w", e.Key, err)
			case info.Size != e.Size:
				return invalid("chunk %s has %d bytes in the store, not %d", e.Key, info.Size, e.Size)
			}
			return nil
		})
	}
	return g.Wait()
}
