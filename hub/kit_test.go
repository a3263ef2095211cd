package hub

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pcapsule/archive"
	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store"
)

// testKey is a signer, the same in every test.
var testKey = sync.OnceValue(func() *manifest.Signer {
	s, err := manifest.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		panic(err)
	}
	return s
})

// A site is a hub that can be killed and started again, at one URL.
type site struct {
	t   testing.TB
	cfg Config
	srv *httptest.Server

	handler atomic.Pointer[http.Handler]
	mu      sync.Mutex
	hub     *Hub
	kill    func()
}

// newSite starts a hub over st.
func newSite(t testing.TB, st store.Store, change func(*Config)) *site {
	t.Helper()
	s := &site{t: t, cfg: Config{
		Store: st, Signer: testKey(), Version: "test",
		FirstAnswer: 5 * time.Second, SessionTimeout: 5 * time.Second, Settle: time.Millisecond,
	}}
	if testing.Verbose() {
		s.cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	if change != nil {
		change(&s.cfg)
	}
	s.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := s.handler.Load()
		if h == nil {
			panic(http.ErrAbortHandler) // the process is gone
		}
		(*h).ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		s.stop()
		s.srv.Close()
	})
	s.start(st)
	return s
}

// start starts a hub, with the store as it sees it.
func (s *site) start(st store.Store) *Hub {
	s.t.Helper()
	cfg := s.cfg
	cfg.Store = st
	h, err := New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := h.Run(ctx); err != nil {
			s.t.Error(err)
		}
	}()
	s.mu.Lock()
	s.hub, s.kill = h, func() { cancel(); <-done }
	s.mu.Unlock()
	handler := checked(s.t, h.Handler(), nil)
	s.handler.Store(&handler)
	return h
}

// stop kills the hub: open connections break.
func (s *site) stop() {
	s.handler.Store(nil)
	s.srv.CloseClientConnections()
	s.mu.Lock()
	kill := s.kill
	s.mu.Unlock()
	kill()
}

func (s *site) client() *api.Client {
	s.t.Helper()
	c, err := api.NewClient(s.srv.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// A sample is a chunk as an agent's ring holds it.
type sample struct {
	b     []byte
	entry manifest.Entry // without Key
	hash  chunker.Hash
}

// packets makes a chunk of n packets from start on, a millisecond apart.
func packets(t testing.TB, node string, start time.Time, n int) sample {
	t.Helper()
	var b bytes.Buffer
	w, err := chunker.NewWriter(&b, chunker.Packets, chunker.Header{Node: node})
	if err != nil {
		t.Fatal(err)
	}
	id := w.Interface(eth0)
	for i := range n {
		data := fmt.Appendf(nil, "%s: packet %06d", node, i)
		err := w.Record(&chunker.Record{Time: start.UnixNano() + int64(i)*1e6, Interface: id, OrigLen: uint32(len(data)), Data: data})
		if err != nil {
			t.Fatal(err)
		}
	}
	m, err := w.Close(0)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b.Bytes())
	return sample{b.Bytes(), manifest.Entry{
		Size: m.Size, RawSize: m.RawSize, SHA256: hex.EncodeToString(sum[:]),
		First: manifest.Nanos(m.First), Last: manifest.Nanos(m.Last), Records: m.Records,
	}, m.Hash}
}

// events makes a chunk of n events of the cluster from start on, a second apart.
func events(t testing.TB, node string, start time.Time, n int) sample {
	t.Helper()
	var b bytes.Buffer
	w, err := chunker.NewWriter(&b, chunker.Kubernetes, chunker.Header{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		at := start.Add(time.Duration(i) * time.Second).UnixNano()
		if err := w.Event(at, fmt.Appendf(nil, `{"ts":"%d","op":"alive","node":%q}`, at, node)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := w.Close(0)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b.Bytes())
	return sample{b.Bytes(), manifest.Entry{
		Size: m.Size, RawSize: m.RawSize, SHA256: hex.EncodeToString(sum[:]),
		First: manifest.Nanos(m.First), Last: manifest.Nanos(m.Last), Records: m.Records,
	}, m.Hash}
}

var eth0 = chunker.Interface{Name: "eth0", LinkType: 1}

// An agent plays one: it polls, and hands in its chunks for each task.
type agent struct {
	t      testing.TB
	name   string
	client *api.Client
	chunks []sample
	clock  manifest.Clock

	events  []sample                                      // of the stream kubernetes
	cluster func(window manifest.Interval) *api.Recording // its account of a window of its time; nil outside a cluster

	// forge changes a part before it is handed in.
	forge func(*agent, *api.CompleteRequest)
	// warnings are told with each poll.
	warnings []string
	// pace is called before each step of a session.
	pace func(ctx context.Context, step string)
	// failed hears why a part could not be made or was not taken.
	failed func(error)
	unseen bool // chunks are offered as new

	mu    sync.Mutex
	pins  []string
	polls int
}

// newAgent starts an agent that stops with the test.
func (s *site) newAgent(name string, change func(*agent), chunks ...sample) *agent {
	s.t.Helper()
	a := &agent{t: s.t, name: name, client: s.client(), chunks: chunks, clock: manifest.Clock{Error: 1000}}
	if change != nil {
		change(a)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.run(ctx)
	}()
	s.t.Cleanup(func() { cancel(); <-done })
	// A node is known once it has polled.
	await(s.t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.ContainsFunc(s.hub.knownNodes(), func(n api.Node) bool { return n.Name == name })
	})
	return a
}

// await polls for what other goroutines bring about over real connections.
func await(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatal("waited in vain")
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (a *agent) state() api.PollRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.polls++
	var streams []string
	if len(a.events) > 0 {
		streams = []string{chunker.Kubernetes}
	}
	return api.PollRequest{
		Time: manifest.NanosOf(time.Now()), Clock: a.clock, Streams: streams,
		Versions: manifest.Versions{Agent: "test"}, Interfaces: []api.Interface{{Interface: eth0, State: api.InterfaceUp}}, Warnings: a.warnings,
		Ring: api.Ring{Limit: 1 << 30, Chunks: len(a.chunks)},
		Pins: slices.Clone(a.pins), Wait: manifest.Nanos(10 * time.Second),
	}
}

func (a *agent) pinned() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.pins)
}

func (a *agent) run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	at := map[string]bool{}
	for ctx.Err() == nil {
		answer, err := a.client.Poll(ctx, a.name, a.state())
		if err != nil {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		a.mu.Lock()
		a.pins = slices.DeleteFunc(a.pins, func(p string) bool { return slices.Contains(answer.Unpin, p) })
		a.mu.Unlock()
		for _, task := range answer.Tasks {
			if at[task.Session] {
				continue
			}
			at[task.Session] = true
			work.Go(func() {
				for ctx.Err() == nil {
					err := a.take(ctx, task)
					if err != nil && a.failed != nil {
						a.failed(err)
					}
					var e *api.Error
					if err == nil || errors.As(err, &e) && e.Status/100 == 4 {
						return
					}
					select {
					case <-time.After(20 * time.Millisecond):
					case <-ctx.Done():
					}
				}
			})
		}
	}
}

func (a *agent) step(ctx context.Context, s string) {
	if a.pace != nil {
		a.pace(ctx, s)
	}
}

// hangAt makes an agent stop at a step, for ever.
func hangAt(at string) func(context.Context, string) {
	return func(ctx context.Context, step string) {
		if step == at {
			<-ctx.Done()
		}
	}
}

// take hands in a part.
func (a *agent) take(ctx context.Context, task api.Task) error {
	a.step(ctx, "pin")
	a.mu.Lock()
	if !slices.Contains(a.pins, task.Session) {
		a.pins = append(a.pins, task.Session)
	}
	a.mu.Unlock()
	part, err := a.upload(ctx, task)
	if err != nil {
		return err
	}
	if a.forge != nil {
		a.forge(a, part)
	}
	a.step(ctx, "complete")
	return a.client.Complete(ctx, task.Session, part.Node.Name, *part)
}

// upload brings what overlaps the window into the store.
func (a *agent) upload(ctx context.Context, task api.Task) (*api.CompleteRequest, error) {
	part := &api.CompleteRequest{Node: manifest.Node{
		Name: a.name, Status: manifest.Completed, Versions: manifest.Versions{Agent: "test"},
		Interfaces: []chunker.Interface{eth0}, Clock: a.clock,
	}}
	window := a.clock.Window(task.Window)
	wants := func(stream string) bool { return len(task.Streams) == 0 || slices.Contains(task.Streams, stream) }
	var chunks, events []sample
	if wants(chunker.Packets) {
		chunks = overlapping(a.chunks, window)
	}
	if wants(chunker.Kubernetes) {
		events = overlapping(a.events, window)
	}
	progress := api.Progress{Node: a.name, State: stateUploading, Chunks: len(chunks) + len(events)}
	for _, c := range slices.Concat(chunks, events) {
		progress.Bytes += int64(len(c.b))
	}
	a.step(ctx, "progress")
	if err := a.client.Progress(ctx, task.Session, progress); err != nil {
		return nil, err
	}
	if wants(chunker.Packets) {
		stream, err := a.stream(ctx, task.Session, chunker.Packets, chunks)
		if err != nil {
			return nil, err
		}
		part.Node.Streams = []manifest.Stream{stream}
		if len(chunks) > 0 {
			part.Node.Coverage = []manifest.Interval{window}
		}
	}
	if wants(chunker.Kubernetes) && a.cluster != nil {
		part.Kubernetes = a.cluster(window)
		if len(events) > 0 {
			stream, err := a.stream(ctx, task.Session, chunker.Kubernetes, events)
			if err != nil {
				return nil, err
			}
			part.Kubernetes.Stream = &stream
		}
	}
	return part, nil
}

// overlapping lists the samples with records in a window of the agent's time.
func overlapping(list []sample, window manifest.Interval) (in []sample) {
	for _, c := range list {
		if c.entry.Last >= window.From && c.entry.First < window.To {
			in = append(in, c)
		}
	}
	return in
}

// stream brings chunks and their inventory into the store.
func (a *agent) stream(ctx context.Context, session, stream string, chunks []sample) (s manifest.Stream, err error) {
	var objects []api.Object
	var bodies [][]byte
	for _, c := range chunks {
		objects = append(objects, api.Object{Hash: c.hash, SHA256: c.entry.SHA256, Size: c.entry.Size, Kind: manifest.KindChunk, Ext: chunker.Ext(stream), New: a.unseen})
		bodies = append(bodies, c.b)
	}
	keys, err := a.put(ctx, session, objects, bodies)
	if err != nil {
		return s, err
	}
	var entries []manifest.Entry
	for i, c := range chunks {
		c.entry.Key = keys[i]
		entries = append(entries, c.entry)
	}
	return a.inventory(ctx, session, stream, entries)
}

// inventory brings an inventory into the store, and returns its stream.
func (a *agent) inventory(ctx context.Context, session, stream string, entries []manifest.Entry) (s manifest.Stream, err error) {
	b := manifest.EncodeInventory(entries)
	sum := sha256.Sum256(b)
	keys, err := a.put(ctx, session, []api.Object{{
		Hash: chunker.HashOf(b), SHA256: hex.EncodeToString(sum[:]), Size: int64(len(b)),
		Kind: manifest.KindInventory, Ext: manifest.InventoryExt,
	}}, [][]byte{b})
	if err != nil {
		return s, err
	}
	s = manifest.SumInventory(stream, entries)
	s.Inventory, s.InventorySize = keys[0], int64(len(b))
	return s, nil
}

// put places objects and uploads those that are missing.
func (a *agent) put(ctx context.Context, session string, objects []api.Object, bodies [][]byte) ([]string, error) {
	if len(objects) == 0 {
		return nil, nil
	}
	a.step(ctx, "grant")
	answer, err := a.client.Grants(ctx, session, a.name, api.GrantRequest{Objects: objects})
	if err != nil {
		return nil, err
	}
	var keys []string
	for i, p := range answer.Placements {
		if p.Grant != nil {
			a.step(ctx, "upload")
		}
		key, err := a.client.Bring(ctx, session, a.name, objects[i], bytes.NewReader(bodies[i]), &p, func(error) bool { return false })
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// mustVerify checks everything in a store.
func mustVerify(t testing.TB, st store.Store) {
	t.Helper()
	report, err := archive.New(st).Verify(context.Background(), archive.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK() {
		t.Fatalf("the archive is not sound: %+v", report)
	}
}

// wantCode asserts the code and status of a refusal.
func wantCode(t testing.TB, err error, status int, code string) *api.Error {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want status %d and code %s", err, status, code)
	}
	if e.Code != code || e.Status != 0 && e.Status != status {
		t.Fatalf("%d %s %q, want %d %s", e.Status, e.Code, e.Message, status, code)
	}
	return e
}

func readAll(t testing.TB, r io.ReadCloser) []byte {
	t.Helper()
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
