package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync/atomic"
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

// clusterSource records the stream kubernetes while it is this node's turn:
// agent/kubernetes, but in tests.
type clusterSource interface {
	// Run records until the context ends.
	Run(ctx context.Context)

	// Cut ends the open chunk, so that all that was recorded until now is on its
	// way into the ring, and tells the ring's ledger as much. When it is another
	// node's turn there is nothing to do.
	Cut(ctx context.Context) error

	// Stepped hears that the node's clock was set; see packets.Config.
	Stepped(at, delta int64)
}

// cutTime is how long a part waits for the stream kubernetes to be cut. Its
// packets do not wait for an API server.
const cutTime = 10 * time.Second

// A sealMark is the time before which a stream is in sealed chunks.
type sealMark struct{ t atomic.Int64 }

func (m *sealMark) reset()         { m.t.Store(0) }
func (m *sealMark) through() int64 { return m.t.Load() }

func (m *sealMark) until(t int64) {
	for old := m.t.Load(); t > old && !m.t.CompareAndSwap(old, t); old = m.t.Load() {
	}
}

// wants tells whether a task asks for a stream.
func wants(task api.Task, stream string) bool {
	return len(task.Streams) == 0 || slices.Contains(task.Streams, stream)
}

// prepare seals and pins what overlaps the window, uploads what the store lacks,
// and writes this node's part.
func (a *agent) prepare(ctx context.Context, task api.Task, report *reporter) (*api.CompleteRequest, error) {
	clock := a.clock.at(a.now().UnixNano())
	window := clock.Window(task.Window)
	if ahead := window.To.Time().Sub(a.now()); ahead > 0 {
		sleep(ctx, min(ahead, maxAhead))
	}
	if err := a.seal(ctx, task, window); err != nil {
		return nil, err
	}
	pinned, err := a.ring.Pin(task.Session, int64(window.From), int64(window.To), a.local(task.Deadline).Add(pinGrace), task.Streams...)
	if err != nil {
		return nil, err
	}
	part := &api.CompleteRequest{Node: manifest.Node{
		Name: a.cfg.Node, Status: manifest.Completed, Clock: clock, Versions: a.versions,
		Coverage: []manifest.Interval{}, Interfaces: []chunker.Interface{}, Streams: []manifest.Stream{},
	}}
	report.begin(pinned.Chunks)
	up := a.uploader(task.Session, report)
	for _, stream := range []string{chunker.OS, chunker.Packets} { // in the manifest's order
		s, err := up.stream(ctx, stream, pinned)
		if err != nil {
			return nil, err
		}
		if s == nil {
			continue
		}
		part.Node.Streams = append(part.Node.Streams, *s)
		for _, i := range a.ring.Interfaces(int64(s.First), int64(s.Last)) {
			if stream == chunker.Packets {
				part.Node.Interfaces = append(part.Node.Interfaces, clean(i))
			}
		}
	}
	part.Node.Interfaces = sorted(part.Node.Interfaces)
	if wants(task, chunker.Kubernetes) && a.clustered() {
		if part.Kubernetes, err = up.recording(ctx, pinned); err != nil {
			return nil, err
		}
	}
	if wants(task, chunker.Packets) { // after the upload, which may have found damage
		ledger := pinned.Ledger(chunker.Packets)
		part.Node.Coverage = append(part.Node.Coverage, ledger.Coverage...)
		part.Node.Gaps, part.Node.Capture = ledger.Gaps, ledger.Capture
	}
	return part, nil
}

// clustered tells whether this node is one of a cluster, or was.
func (a *agent) clustered() bool {
	return a.cluster != nil || slices.Contains(a.ring.Streams(), chunker.Kubernetes)
}

// seal makes everything up to the end of the window be in sealed chunks, and the
// ledger know. A window that ends before the last time needs nothing: to cut
// again would only make chunks smaller.
func (a *agent) seal(ctx context.Context, task api.Task, window manifest.Interval) error {
	now := a.now().UnixNano()
	packets := wants(task, chunker.Packets) && a.rec.sealedThrough() < int64(window.To)
	events := a.cluster != nil && wants(task, chunker.Kubernetes) && a.events.through() < int64(window.To)
	if !packets && !events {
		return nil
	}
	if packets {
		if err := a.source.Cut(ctx); err != nil {
			return fmt.Errorf("cut open chunks: %w", err)
		}
	}
	if events {
		limited, cancel := context.WithTimeout(ctx, cutTime)
		err := a.cluster.Cut(limited)
		cancel()
		if err != nil { // what the ledger then lacks is a gap
			a.log.Warn("cannot cut the stream kubernetes", "session", task.Session, "err", err)
			events = false
		}
	}
	if err := a.ring.Drain(ctx); err != nil {
		return fmt.Errorf("seal open chunks: %w", err)
	}
	if packets {
		a.named.noteAll(now)
		a.rec.sealedUntil(now)
	}
	if events {
		a.events.until(now)
	}
	return nil
}

// stream uploads the pinned chunks of a stream and their inventory. A stream
// without a chunk in the window has none: there is nothing to name. Coverage and
// gaps say whether that means nothing was seen.
func (u *uploader) stream(ctx context.Context, stream string, pinned ring.Pinned) (*manifest.Stream, error) {
	var list []ring.Chunk
	for _, c := range pinned.Chunks {
		if c.Stream == stream {
			list = append(list, c)
		}
	}
	entries, err := u.chunks(ctx, list)
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	s, err := u.inventory(ctx, stream, entries)
	return &s, err
}

// recording uploads what this node has of the stream of the cluster.
func (u *uploader) recording(ctx context.Context, pinned ring.Pinned) (*api.Recording, error) {
	s, err := u.stream(ctx, chunker.Kubernetes, pinned)
	if err != nil {
		return nil, err
	}
	ledger := pinned.Ledger(chunker.Kubernetes)
	return &api.Recording{Stream: s, Coverage: append([]manifest.Interval{}, ledger.Coverage...), Gaps: ledger.Gaps}, nil
}

// inventory uploads the inventory of a stream, and returns the stream's entry.
func (u *uploader) inventory(ctx context.Context, stream string, entries []manifest.Entry) (manifest.Stream, error) {
	s := manifest.SumInventory(stream, entries)
	b := manifest.EncodeInventory(entries)
	sum := sha256.Sum256(b)
	key, err := u.bring(ctx, api.Object{
		Hash: chunker.HashOf(b), SHA256: hex.EncodeToString(sum[:]), Size: int64(len(b)), Kind: manifest.KindInventory, Ext: manifest.InventoryExt,
	}, nil, b)
	if err != nil {
		return s, fmt.Errorf("upload inventory of %s: %w", stream, err)
	}
	s.Inventory, s.InventorySize = key, int64(len(b))
	return s, nil
}
