//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
)

const chunkPackets = 4 // of each simulated chunk

// A flock is many simulated agents, each of which does what package agent does,
// but has its chunks ready.
type flock struct {
	site     *site
	agents   []*simulated
	from, to time.Time

	requests atomic.Int64 // of the hub
	uploads  atomic.Int64

	cancel context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex
	failed error // the first
}

// simulated is one agent.
type simulated struct {
	flock      *flock
	name       string
	client     *api.Client
	interfaces []chunker.Interface
	streams    map[string][]heldChunk
	covers     manifest.Interval // of the stream of the cluster

	mu    sync.Mutex
	pins  []string
	known map[string]bool // sessions taken up

	offered map[chunker.Hash]bool // chunks; by one session at a time
}

// heldChunk is one in a simulated ring.
type heldChunk struct {
	object api.Object
	entry  manifest.Entry // without Key
	b      []byte
}

func newFlock(s *site, size scaleSize) (*flock, error) {
	f := &flock{site: s, to: time.Now().Add(-time.Minute).Truncate(time.Millisecond)}
	f.from = f.to.Add(-time.Duration(size.chunks) * time.Minute)
	for i := range size.nodes {
		a := &simulated{flock: f, name: fmt.Sprintf("node-%04d", i), streams: map[string][]heldChunk{}, known: map[string]bool{}, offered: map[chunker.Hash]bool{}}
		var err error
		if a.client, err = s.client(agentToken + a.name); err != nil {
			return nil, err
		}
		for n := range size.interfaces {
			a.interfaces = append(a.interfaces, chunker.Interface{Name: fmt.Sprintf("veth%04x%04x", i, n), LinkType: 1})
		}
		for n := range size.chunks {
			c, err := a.packets(f.from.Add(time.Duration(n)*time.Minute), n)
			if err != nil {
				return nil, err
			}
			a.streams[chunker.Packets] = append(a.streams[chunker.Packets], c)
		}
		if i < size.recorders { // each had its share of the window
			share := f.to.Sub(f.from) / time.Duration(size.recorders)
			from := f.from.Add(time.Duration(i) * share)
			c, err := a.events(from, share)
			if err != nil {
				return nil, err
			}
			a.streams[chunker.Kubernetes] = append(a.streams[chunker.Kubernetes], c)
			a.covers = manifest.Interval{From: manifest.NanosOf(from), To: manifest.NanosOf(from.Add(share))}
		}
		f.agents = append(f.agents, a)
	}
	return f, nil
}

// packets makes a chunk of some packets within a minute.
func (a *simulated) packets(from time.Time, n int) (heldChunk, error) {
	var b bytes.Buffer
	w, err := chunker.NewWriter(&b, chunker.Packets, chunker.Header{Node: a.name})
	if err != nil {
		return heldChunk{}, err
	}
	id := w.Interface(a.interfaces[n%len(a.interfaces)])
	for i := range chunkPackets {
		data := fmt.Appendf(nil, "%s: packet %d of chunk %d", a.name, i, n)
		at := from.Add(time.Duration(i) * time.Second).UnixNano()
		if err := w.Record(&chunker.Record{Time: at, Interface: id, OrigLen: uint32(len(data)), Data: data}); err != nil {
			return heldChunk{}, err
		}
	}
	m, err := w.Close(0)
	return held(m, b.Bytes()), err
}

// events makes a chunk that opens and closes a time of recording.
func (a *simulated) events(from time.Time, share time.Duration) (heldChunk, error) {
	var b bytes.Buffer
	w, err := chunker.NewWriter(&b, chunker.Kubernetes, chunker.Header{})
	if err != nil {
		return heldChunk{}, err
	}
	for _, at := range []int64{from.UnixNano(), from.Add(share).UnixNano() - 1} {
		if err := w.Event(at, fmt.Appendf(nil, `{"ts":"%d","op":"alive"}`, at)); err != nil {
			return heldChunk{}, err
		}
	}
	m, err := w.Close(0)
	return held(m, b.Bytes()), err
}

func held(m chunker.Meta, b []byte) heldChunk {
	sum := sha256.Sum256(b)
	return heldChunk{
		object: api.Object{Hash: m.Hash, SHA256: hex.EncodeToString(sum[:]), Size: m.Size, Kind: manifest.KindChunk, Ext: chunker.Ext(m.Stream)},
		entry: manifest.Entry{
			Size: m.Size, RawSize: m.RawSize, SHA256: hex.EncodeToString(sum[:]),
			First: manifest.Nanos(m.First), Last: manifest.Nanos(m.Last), Records: m.Records,
		},
		b: b,
	}
}

// start starts all agents, within some seconds of each other, and returns when the
// hub has heard of each.
func (f *flock) start(ctx context.Context) error {
	own, cancel := context.WithCancel(ctx)
	f.cancel = cancel
	for _, a := range f.agents {
		f.work.Go(func() { a.run(own) })
	}
	client, err := f.site.client("operator")
	if err != nil {
		return err
	}
	for {
		nodes, err := client.Nodes(ctx)
		switch {
		case err != nil:
			return errors.Join(err, f.site.alive())
		case len(nodes) == len(f.agents):
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *flock) stop() {
	f.cancel()
	f.work.Wait()
}

// snapshot makes one as `pcapsule snapshot create` does.
func (f *flock) snapshot(ctx context.Context, req api.CreateRequest) (*api.Snapshot, error) {
	client, err := f.site.client("operator")
	if err != nil {
		return nil, err
	}
	begun, err := client.Create(ctx, req)
	if err != nil {
		return nil, err
	}
	snap, err := client.WaitSnapshot(ctx, begun.ID, nil)
	f.mu.Lock()
	defer f.mu.Unlock()
	return snap, errors.Join(err, f.failed)
}

// fail notes what must not happen.
func (f *flock) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed == nil {
		f.failed = err
	}
}

// states are interfaces as polls have them.
func states(list []chunker.Interface) (out []api.Interface) {
	for _, i := range list {
		out = append(out, api.Interface{Interface: i, State: api.InterfaceUp})
	}
	return out
}

// run polls, as agent.serve does.
func (a *simulated) run(ctx context.Context) {
	sleepFor(ctx, rand.N(5*time.Second))
	wait := time.Duration(0)
	for ctx.Err() == nil {
		a.mu.Lock()
		req := api.PollRequest{
			Time: manifest.NanosOf(time.Now()), Clock: manifest.Clock{Offset: 1000, Error: 100_000},
			Versions:   manifest.Versions{Agent: "0.1.0", Kernel: "6.18.0", OS: "Debian GNU/Linux 12 (bookworm)", Arch: "amd64"},
			Interfaces: states(a.interfaces),
			Ring:       api.Ring{Limit: 1 << 30, Used: 1 << 29, Chunks: len(a.streams[chunker.Packets]), Oldest: a.flock.from},
			Pins:       slices.Clone(a.pins), Wait: manifest.Nanos(wait), Streams: []string{chunker.Packets},
		}
		a.mu.Unlock()
		if len(a.streams[chunker.Kubernetes]) > 0 {
			req.Streams = []string{chunker.Kubernetes, chunker.Packets}
		}
		if req.Pins == nil {
			req.Pins = []string{}
		}
		began := time.Now()
		a.flock.requests.Add(1)
		answer, err := a.client.Poll(ctx, a.name, req)
		if err != nil {
			sleepFor(ctx, time.Second)
			continue
		}
		wait = 10 * time.Second
		a.mu.Lock()
		a.pins = slices.DeleteFunc(a.pins, func(p string) bool { return slices.Contains(answer.Unpin, p) })
		for _, task := range answer.Tasks {
			if !a.known[task.Session] {
				a.known[task.Session] = true
				a.pins = append(a.pins, task.Session)
				a.flock.work.Go(func() {
					if err := a.carryOut(ctx, task); err != nil && ctx.Err() == nil {
						a.flock.fail(fmt.Errorf("%s: %w", a.name, err))
					}
				})
			}
		}
		a.mu.Unlock()
		if time.Since(began) < 100*time.Millisecond {
			sleepFor(ctx, 100*time.Millisecond)
		}
	}
}

// carryOut hands in a part, and reports how far it is.
func (a *simulated) carryOut(ctx context.Context, task api.Task) error {
	ctx, cancel := context.WithCancel(api.Patiently(ctx, time.Minute))
	defer cancel()
	var mu sync.Mutex
	progress := api.Progress{Node: a.name, State: "sealing"}
	advance := func(change func(*api.Progress)) {
		mu.Lock()
		defer mu.Unlock()
		change(&progress)
	}
	a.flock.work.Go(func() {
		var last api.Progress
		for ctx.Err() == nil {
			mu.Lock()
			now := progress
			mu.Unlock()
			if now != last {
				a.flock.requests.Add(1)
				if a.client.Progress(ctx, task.Session, now) == nil {
					last = now
				}
			}
			sleepFor(ctx, max(500*time.Millisecond, time.Duration(task.Report)))
		}
	})
	part := api.CompleteRequest{
		Node: manifest.Node{
			Name: a.name, Status: manifest.Completed, Clock: manifest.Clock{Offset: 1000, Error: 100_000},
			Versions: manifest.Versions{Agent: "0.1.0", Kernel: "6.18.0", OS: "Debian GNU/Linux 12 (bookworm)", Arch: "amd64"},
			Coverage: []manifest.Interval{}, Interfaces: []chunker.Interface{}, Streams: []manifest.Stream{},
		},
		Kubernetes: &api.Recording{Coverage: []manifest.Interval{}},
	}
	if len(task.Streams) == 0 {
		s, err := a.send(ctx, task.Session, chunker.Packets, advance)
		if err != nil {
			return err
		}
		part.Node.Streams = append(part.Node.Streams, *s)
		part.Node.Coverage = append(part.Node.Coverage, task.Window)
		part.Node.Interfaces = a.interfaces
	}
	known := []manifest.Interval{}
	if len(a.streams[chunker.Kubernetes]) > 0 {
		s, err := a.send(ctx, task.Session, chunker.Kubernetes, advance)
		if err != nil {
			return err
		}
		part.Kubernetes.Stream = s
		part.Kubernetes.Coverage = append(part.Kubernetes.Coverage, a.covers)
		known = part.Kubernetes.Coverage
	}
	for _, rest := range manifest.Uncovered(task.Window, known) {
		part.Kubernetes.Gaps = append(part.Kubernetes.Gaps, manifest.Gap{
			Stream: chunker.Kubernetes, Reason: manifest.GapNotRunning, From: rest.From, To: rest.To,
		})
	}
	a.flock.requests.Add(1)
	return a.client.Complete(ctx, task.Session, a.name, part)
}

// send brings a stream's chunks and inventory into the store.
func (a *simulated) send(ctx context.Context, session, stream string, advance func(func(*api.Progress))) (*manifest.Stream, error) {
	chunks := a.streams[stream]
	advance(func(p *api.Progress) {
		p.State = "uploading"
		p.Chunks += len(chunks)
		for _, c := range chunks {
			p.Bytes += c.entry.Size
		}
	})
	entries := make([]manifest.Entry, len(chunks))
	for at := 0; at < len(chunks); at += api.MaxGrants / 4 {
		group := chunks[at:min(len(chunks), at+api.MaxGrants/4)]
		var req api.GrantRequest
		for _, c := range group {
			o := c.object
			o.New = !a.offered[o.Hash]
			a.offered[o.Hash] = true
			req.Objects = append(req.Objects, o)
		}
		a.flock.requests.Add(1)
		answer, err := a.client.Grants(ctx, session, a.name, req)
		if err != nil {
			return nil, err
		}
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(4)
		for i, c := range group {
			g.Go(func() error {
				key, err := a.bring(ctx, session, c.object, c.b, &answer.Placements[i])
				entries[at+i] = c.entry
				entries[at+i].Key = key
				advance(func(p *api.Progress) { p.Done += c.entry.Size })
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
	}
	b := manifest.EncodeInventory(entries)
	s := manifest.SumInventory(stream, entries)
	s.InventorySize = int64(len(b))
	sum := sha256.Sum256(b)
	a.flock.requests.Add(1)
	var err error
	s.Inventory, err = a.bring(ctx, session, api.Object{
		Hash: chunker.HashOf(b), SHA256: hex.EncodeToString(sum[:]), Size: int64(len(b)), Kind: manifest.KindInventory, Ext: manifest.InventoryExt,
	}, b, nil)
	return &s, err
}

func (a *simulated) bring(ctx context.Context, session string, o api.Object, b []byte, place *api.Placement) (string, error) {
	if place == nil || place.Grant != nil {
		a.flock.uploads.Add(1)
	}
	return a.client.Bring(ctx, session, a.name, o, bytes.NewReader(b), place, func(error) bool {
		sleepFor(ctx, time.Second)
		return ctx.Err() == nil
	})
}

func sleepFor(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
