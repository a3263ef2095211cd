package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"pcapsule/agent/ring"
	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
)

// maxAhead is how far a window may end in the future by this node's clock, which
// then waits for its end. More than that is no difference of clocks.
const maxAhead = 2 * time.Second

// attempt does a task from the beginning: what an earlier attempt has done is
// found done.
func (a *agent) attempt(ctx context.Context, s *session, report *reporter) error {
	if s.part == nil {
		report.again()
		part, err := a.prepare(ctx, s.task, report)
		if err != nil {
			return err
		}
		s.part = part
	}
	if err := a.client.Complete(api.Patiently(ctx, time.Minute), s.task.Session, a.cfg.Node, *s.part); err != nil {
		if ended, _ := over(err); !ended {
			s.part = nil // what the hub does not take now it may not take as it is
		}
		return fmt.Errorf("hand in: %w", err)
	}
	return nil
}

// prepare seals and pins what overlaps the window, uploads what the store lacks,
// and writes this node's part.
func (a *agent) prepare(ctx context.Context, task api.Task, report *reporter) (*api.CompleteRequest, error) {
	clock := a.clock.at(a.now().UnixNano())
	window := clock.Window(task.Window)
	if ahead := window.To.Time().Sub(a.now()); ahead > 0 {
		sleep(ctx, min(ahead, maxAhead))
	}
	if err := a.seal(ctx, window); err != nil {
		return nil, err
	}
	pinned, err := a.ring.Pin(task.Session, int64(window.From), int64(window.To), a.local(task.Deadline).Add(pinGrace))
	if err != nil {
		return nil, err
	}
	node := manifest.Node{
		Name: a.cfg.Node, Status: manifest.Completed, Clock: clock, Versions: a.versions,
		Coverage: []manifest.Interval{}, Interfaces: []chunker.Interface{}, Streams: []manifest.Stream{},
	}
	byStream := map[string][]ring.Chunk{}
	for _, c := range pinned.Chunks {
		byStream[c.Stream] = append(byStream[c.Stream], c)
	}
	report.begin(pinned.Chunks)
	up := uploader{a: a, session: task.Session, report: report}
	// A stream without a chunk in the window has no entry: there is nothing to
	// name. Coverage and gaps say whether that means nothing was seen.
	for _, stream := range []string{chunker.OS, chunker.Packets} { // in the manifest's order
		entries, err := up.chunks(ctx, byStream[stream])
		if err != nil {
			return nil, err
		}
		if len(entries) == 0 {
			continue
		}
		s, err := up.inventory(ctx, stream, entries)
		if err != nil {
			return nil, err
		}
		node.Streams = append(node.Streams, s)
		for _, i := range a.ring.Interfaces(int64(s.First), int64(s.Last)) {
			if stream == chunker.Packets {
				node.Interfaces = append(node.Interfaces, clean(i))
			}
		}
	}
	node.Interfaces = sorted(node.Interfaces)
	// After the upload, which may have found damage.
	ledger := pinned.Ledger(chunker.Packets)
	node.Coverage = append(node.Coverage, ledger.Coverage...)
	node.Gaps = ledger.Gaps
	return &api.CompleteRequest{Node: node}, nil
}

// seal makes everything up to the end of the window be in sealed chunks, and the
// ledger know. A window that ends before the last time needs nothing: to cut
// again would only make chunks smaller.
func (a *agent) seal(ctx context.Context, window manifest.Interval) error {
	if a.rec.sealedThrough() >= int64(window.To) {
		return nil
	}
	now := a.now().UnixNano()
	if err := a.source.Cut(ctx); err != nil {
		return fmt.Errorf("cut open chunks: %w", err)
	}
	if err := a.ring.Drain(ctx); err != nil {
		return fmt.Errorf("seal open chunks: %w", err)
	}
	a.rec.sealedUntil(now)
	return nil
}

// inventory uploads the inventory of a stream, and returns the stream's entry.
func (u *uploader) inventory(ctx context.Context, stream string, entries []manifest.Entry) (manifest.Stream, error) {
	s := manifest.SumInventory(stream, entries)
	b := manifest.EncodeInventory(entries)
	sum := sha256.Sum256(b)
	key, err := u.object(ctx, api.Object{
		Hash: chunker.HashOf(b), SHA256: hex.EncodeToString(sum[:]), Size: int64(len(b)), Kind: manifest.KindInventory, Ext: manifest.InventoryExt,
	}, b)
	if err != nil {
		return s, fmt.Errorf("upload inventory of %s: %w", stream, err)
	}
	s.Inventory, s.InventorySize = key, int64(len(b))
	return s, nil
}
