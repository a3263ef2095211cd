package hub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"pcapsule/archive"
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
//
// What chunks hold the hub does not read. An agent that lies of its own can thus
// claim wrong records, times and raw sizes. On S3, where a grant holds an upload
// to its size and SHA-256 and nobody to the BLAKE3 in the key, it can also hand in
// bytes under an address that is not theirs. `pcapsule verify` finds each of these,
// in the stream of that node; who reads chunks checks all of it before use. What
// it cannot do: name chunks of others without knowing their address, which nobody
// tells it; change or read what is in the store; or spoil the parts of other
// nodes, which have what they bring confirmed by its SHA-256 (archive.Session).
func (h *Hub) checkPart(ctx context.Context, s *session, p *part, handed *api.CompleteRequest) (*manifest.Node, *recording, error) {
	node, err := h.checkNode(ctx, s, p, handed.Node)
	if err != nil {
		return nil, nil, err
	}
	var cluster *recording
	if handed.Kubernetes != nil {
		if s.req.Import {
			return nil, nil, invalid("node %s: an import has no stream of a cluster", node.Name)
		}
		if cluster, err = h.checkRecording(ctx, s, p, node, handed.Kubernetes); err != nil {
			return nil, nil, err
		}
	}
	return node, cluster, checkShare(node, cluster, len(s.parts))
}

// checkShare sees to it that all parts of a session together stay within what a
// manifest can count, whatever one of them claims.
func checkShare(n *manifest.Node, cluster *recording, parts int) error {
	var sum manifest.Totals
	for _, s := range n.Streams {
		sum = sum.Add(s.Totals)
	}
	if cluster != nil {
		sum = sum.Add(cluster.stream.Totals)
	}
	for _, v := range []uint64{uint64(sum.Chunks), uint64(sum.Size), uint64(sum.RawSize), sum.Records, sum.Drops} {
		if share := uint64(manifest.MaxCount) / uint64(parts); v > share {
			return invalid("the part of node %s adds up to %d: one of %d parts may have %d", n.Name, v, parts, share)
		}
	}
	return nil
}

// checkNode checks what concerns the streams of a node.
func (h *Hub) checkNode(ctx context.Context, s *session, p *part, n manifest.Node) (*manifest.Node, error) {
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
	if p.extra { // which never changes
		if len(n.Streams)+len(n.Coverage)+len(n.Gaps) > 0 {
			return nil, invalid("node %s hands in streams of its own: it is asked for stream %s only", n.Name, chunker.Kubernetes)
		}
		return &n, nil
	}
	for _, g := range n.Gaps {
		if g.Stream == chunker.Kubernetes {
			return nil, invalid("node %s: a gap of stream %s is none of a node", n.Name, g.Stream)
		}
	}
	for _, stream := range n.Streams {
		if stream.Stream != chunker.Packets && stream.Stream != chunker.OS {
			return nil, invalid("node %s: stream %q is none of a node", n.Name, stream.Stream)
		}
		if err := h.checkStream(ctx, s, p, stream, nil); err != nil {
			return nil, err
		}
	}
	judge(&n, s.req, api.WordsOf(h.cfg.Cluster && !s.req.Import))
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

// Limits of a recording: far more than a ring's ledger holds, or a cluster's
// stream has in a window.
const (
	maxRecordingChunks = 1 << 16
	maxRecordingGaps   = 1 << 13 // and intervals of coverage
)

// checkRecording checks what a node hands in of the stream of the cluster.
func (h *Hub) checkRecording(ctx context.Context, s *session, p *part, n *manifest.Node, handed *api.Recording) (*recording, error) {
	r := &recording{node: n.Name, clock: n.Clock, coverage: handed.Coverage, gaps: handed.Gaps}
	if len(r.coverage) > maxRecordingGaps || len(r.gaps) > maxRecordingGaps {
		return nil, invalid("node %s: %d times and %d gaps of stream %s: want at most %d", n.Name, len(r.coverage), len(r.gaps), chunker.Kubernetes, maxRecordingGaps)
	}
	trial := manifest.Node{Name: n.Name, Status: manifest.Completed, Coverage: r.coverage, Gaps: r.gaps}
	if handed.Stream != nil {
		r.stream = *handed.Stream
		trial.Streams = []manifest.Stream{r.stream}
	}
	if err := trial.Validate(); err != nil {
		return nil, invalid("what node %s recorded of stream %s is not valid: %v", n.Name, chunker.Kubernetes, err)
	}
	for _, g := range r.gaps {
		if g.Stream != chunker.Kubernetes {
			return nil, invalid("node %s: a gap of stream %s is none of stream %s", n.Name, g.Stream, chunker.Kubernetes)
		}
	}
	if handed.Stream == nil {
		return r, nil
	}
	switch {
	case r.stream.Stream != chunker.Kubernetes:
		return nil, invalid("node %s: stream %q is none of the cluster", n.Name, r.stream.Stream)
	case r.stream.Chunks > maxRecordingChunks:
		return nil, invalid("node %s: %d chunks of stream %s: want at most %d", n.Name, r.stream.Chunks, chunker.Kubernetes, maxRecordingChunks)
	}
	err := h.checkStream(ctx, s, p, r.stream, func(e manifest.Entry) { r.entries = append(r.entries, e) })
	return r, err
}

// notKept is the answer to a part whose object is not in the store. Nobody else
// looks for what an agent was told is stored.
func notKept(key string) error {
	return invalid("%s has not been uploaded, or the store did not keep it: check what stands between it and who uploads", key)
}

// checkStream reads a stream's inventory and checks that every chunk is there.
// Unless it is nil, each gets the entries; they are sound when checkStream returns
// nil.
func (h *Hub) checkStream(ctx context.Context, s *session, p *part, stream manifest.Stream, each func(manifest.Entry)) error {
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
	if key, err := manifest.ParseObjectKey(stream.Inventory); err != nil || key.Kind != manifest.KindInventory {
		return invalid("%s is no inventory", stream.Inventory)
	}
	var missing []manifest.Entry // to be looked for
	sum := manifest.Stream{Stream: stream.Stream, Inventory: stream.Inventory, InventorySize: stream.InventorySize}
	err := s.store.Inventory(ctx, stream.Inventory, stream.InventorySize, func(e manifest.Entry) error {
		if sum.Count(e); sum.Chunks > stream.Chunks {
			return invalid("inventory %s does not add up to what its stream says", stream.Inventory)
		}
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
		if each != nil {
			each(e)
		}
		return nil
	})
	switch {
	case errors.Is(err, store.ErrNotExist):
		return notKept(stream.Inventory)
	case errors.Is(err, archive.ErrDamaged):
		return invalid("%v: what was uploaded is something else", err)
	case err != nil:
		return err
	case sum != stream:
		return invalid("inventory %s does not add up to what its stream says", stream.Inventory)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, e := range missing {
		g.Go(func() error {
			err := s.store.Confirm(ctx, e)
			switch {
			case errors.Is(err, store.ErrNotExist):
				return notKept(e.Key)
			case errors.Is(err, archive.ErrDamaged):
				return invalid("chunk %s is other bytes in the store: ask where it goes once more", e.Key)
			case err != nil:
				return fmt.Errorf("look for chunk %s: %w", e.Key, err)
			}
			return nil
		})
	}
	return g.Wait()
}
