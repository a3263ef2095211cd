package agent

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store"
)

// testHub is a hub over a real folder store, with faults where a test wants
// them. It checks what an agent hands in as a hub must.
type testHub struct {
	t     *testing.T
	store *store.Folder
	srv   *httptest.Server

	mu       sync.Mutex
	wake     chan struct{} // closed, and made anew, when polls have news
	tasks    map[string]api.Task
	unpin    map[string]bool
	polls    []api.PollRequest
	progress []api.Progress
	parts    map[string]api.CompleteRequest
	puts     []string                                                   // keys of the uploads that were tried
	down     bool                                                       // answers nothing
	refuse   func(session, verb string) *api.Error                      // of a session's calls
	upload   func(w http.ResponseWriter, r *http.Request, n int) func() // what the n-th upload of a key, from 1, does instead of uploading
	tries    map[string]int
	ahead    time.Duration // of the hub's clock
	done     chan string   // sessions whose part came
}

func newTestHub(t *testing.T) *testHub {
	t.Helper()
	h := &testHub{
		t: t, wake: make(chan struct{}), tasks: map[string]api.Task{}, unpin: map[string]bool{},
		parts: map[string]api.CompleteRequest{}, tries: map[string]int{}, done: make(chan string, 100),
	}
	var err error
	h.store, err = store.NewFolder(t.TempDir(), store.FolderOptions{Create: true, GrantKey: bytes.Repeat([]byte{7}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/agents/{node}/poll", h.poll)
	mux.HandleFunc("POST /api/v1/sessions/{id}/nodes/{node}/{verb}", h.session)
	mux.HandleFunc("PUT /grants/", h.put)
	h.srv = httptest.NewServer(mux)
	t.Cleanup(h.srv.Close)
	return h
}

func (h *testHub) now() time.Time { return time.Now().Add(h.ahead) }

// change changes the hub's state, and lets the agent know.
func (h *testHub) change(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	close(h.wake)
	h.wake = make(chan struct{})
}

func (h *testHub) onUpload(f func(http.ResponseWriter, *http.Request, int) func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.upload = f
}

func (h *testHub) onCall(f func(session, verb string) *api.Error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refuse = f
}

// ask starts a session, and await waits for its part.
func (h *testHub) ask(id string, from, to time.Time, streams ...string) {
	h.change(func() {
		h.tasks[id] = api.Task{
			Session: id, Streams: streams, Window: manifest.Interval{From: manifest.NanosOf(from), To: manifest.NanosOf(to)}, Deadline: h.now().Add(time.Minute),
		}
	})
}

func (h *testHub) await(id string) manifest.Node {
	h.t.Helper()
	return h.awaitPart(id).Node
}

func (h *testHub) awaitPart(id string) api.CompleteRequest {
	h.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		h.mu.Lock()
		n, ok := h.parts[id]
		h.mu.Unlock()
		if ok {
			return n
		}
		select {
		case <-h.done:
		case <-timeout:
			h.t.Fatalf("no part for session %s", id)
		}
	}
}

// awaitPoll waits for a poll that satisfies ok.
func (h *testHub) awaitPoll(what string, ok func(api.PollRequest) bool) api.PollRequest {
	h.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		h.mu.Lock()
		polls := h.polls
		h.mu.Unlock()
		if i := len(polls) - 1; i >= 0 && ok(polls[i]) {
			return polls[i]
		}
		h.change(func() {})
		time.Sleep(5 * time.Millisecond)
	}
	h.t.Fatalf("no poll in which %s", what)
	return api.PollRequest{}
}

func (h *testHub) poll(w http.ResponseWriter, r *http.Request) {
	received := h.now()
	var req api.PollRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		h.t.Errorf("poll: %v", err)
	}
	h.mu.Lock()
	if h.down {
		h.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	h.polls = append(h.polls, req)
	wake := h.wake
	news := h.news(req.Pins)
	h.mu.Unlock()
	if len(news.Tasks)+len(news.Unpin) == 0 {
		select {
		case <-wake:
		case <-time.After(time.Duration(req.Wait)):
		case <-r.Context().Done():
		}
		h.mu.Lock()
		news = h.news(req.Pins)
		h.mu.Unlock()
	}
	news.Received, news.Sent = manifest.NanosOf(received), manifest.NanosOf(h.now())
	_ = json.NewEncoder(w).Encode(news)
}

func (h *testHub) news(pins []string) api.PollAnswer {
	a := api.PollAnswer{Tasks: slices.Collect(maps.Values(h.tasks)), Unpin: []string{}}
	for _, p := range pins {
		if h.unpin[p] {
			a.Unpin = append(a.Unpin, p)
		}
	}
	return a
}

func (h *testHub) session(w http.ResponseWriter, r *http.Request) {
	id, node, verb := r.PathValue("id"), r.PathValue("node"), r.PathValue("verb")
	h.mu.Lock()
	refuse, down := h.refuse, h.down
	h.mu.Unlock()
	if down {
		panic(http.ErrAbortHandler)
	}
	if refuse != nil {
		if e := refuse(id, verb); e != nil {
			w.WriteHeader(e.Status)
			_ = json.NewEncoder(w).Encode(e)
			return
		}
	}
	d := json.NewDecoder(r.Body)
	switch verb {
	case "progress":
		var p api.Progress
		if err := d.Decode(&p); err != nil || p.Node != node || p.Sent > p.Done || p.Done > p.Bytes {
			h.t.Errorf("progress %+v: %v", p, err)
		}
		h.mu.Lock()
		h.progress = append(h.progress, p)
		h.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	case "grants":
		var req api.GrantRequest
		if err := d.Decode(&req); err != nil || len(req.Objects) > api.MaxGrants {
			h.t.Errorf("grants for %d: %v", len(req.Objects), err)
		}
		_ = json.NewEncoder(w).Encode(api.GrantAnswer{Placements: h.place(r.Context(), req.Objects)})
	case "complete":
		var req api.CompleteRequest
		if err := d.Decode(&req); err != nil || req.Node.Name != node {
			h.t.Errorf("complete: %v", err)
		}
		h.check(r.Context(), req.Node)
		if k := req.Kubernetes; k != nil {
			trial := manifest.Node{Name: node, Status: manifest.Completed, Coverage: k.Coverage, Gaps: k.Gaps}
			if k.Stream != nil {
				trial.Streams = []manifest.Stream{*k.Stream}
			}
			h.check(r.Context(), trial)
		}
		h.mu.Lock()
		h.parts[id] = req
		delete(h.tasks, id)
		h.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
		h.done <- id
	}
}

func (h *testHub) place(ctx context.Context, objects []api.Object) (out []api.Placement) {
	for _, o := range objects {
		key := manifest.ObjectKey{Kind: o.Kind, Hash: o.Hash, Ext: o.Ext}.String()
		p := api.Placement{Key: key}
		if _, err := h.store.Stat(ctx, key); errors.Is(err, store.ErrNotExist) {
			sum, err := hex.DecodeString(o.SHA256)
			if err != nil {
				h.t.Error(err)
			}
			g, err := h.store.Grant(ctx, key, o.Size, [32]byte(sum), time.Now().Add(time.Minute))
			if err != nil {
				h.t.Error(err)
			}
			p.Grant = &g
		}
		out = append(out, p)
	}
	return out
}

func (h *testHub) put(w http.ResponseWriter, r *http.Request) {
	key := strings.TrimPrefix(r.URL.Path, "/grants/")
	h.mu.Lock()
	h.puts = append(h.puts, key)
	h.tries[key]++
	n, upload := h.tries[key], h.upload
	h.mu.Unlock()
	if upload != nil {
		if instead := upload(w, r, n); instead != nil {
			instead()
			return
		}
	}
	h.store.GrantHandler().ServeHTTP(w, r)
}

// apply does an upload whose answer the agent will not see.
func (h *testHub) apply(r *http.Request) { h.store.GrantHandler().ServeHTTP(httptest.NewRecorder(), r) }

func (h *testHub) uploads() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := slices.Sorted(slices.Values(h.puts))
	h.puts = nil
	return list
}

// check holds a part against the store, every byte of it.
func (h *testHub) check(ctx context.Context, n manifest.Node) {
	if err := n.Validate(); err != nil {
		h.t.Errorf("the part is not valid: %v", err)
	}
	for _, s := range n.Streams {
		entries := h.inventory(ctx, s)
		for _, e := range entries {
			h.records(ctx, s.Stream, e)
		}
		sum := manifest.SumInventory(s.Stream, entries)
		sum.Inventory, sum.InventorySize = s.Inventory, s.InventorySize
		if sum != s {
			h.t.Errorf("stream is %+v, its inventory adds up to %+v", s, sum)
		}
	}
}

func (h *testHub) inventory(ctx context.Context, s manifest.Stream) []manifest.Entry {
	b, err := store.ReadAll(ctx, h.store, s.Inventory, s.InventorySize)
	if err != nil {
		h.t.Errorf("inventory: %v", err)
		return nil
	}
	entries, err := manifest.DecodeInventory(b)
	if err != nil {
		h.t.Errorf("inventory: %v", err)
	}
	return entries
}

// records are the times of a chunk's records.
func (h *testHub) records(ctx context.Context, stream string, e manifest.Entry) (times []int64) {
	b, err := store.ReadAll(ctx, h.store, e.Key, e.Size)
	if err != nil {
		h.t.Errorf("chunk: %v", err)
		return nil
	}
	k, err := manifest.ParseObjectKey(e.Key)
	if err != nil {
		h.t.Errorf("chunk: %v", err)
	}
	z, err := chunker.Open(bytes.NewReader(b), e.Size, k.Hash, stream)
	if err != nil {
		h.t.Errorf("chunk %s: %v", e.Key, err)
		return nil
	}
	var batch chunker.Batch
	for z.Next(&batch) == nil {
		times = append(times, batch.Times...)
	}
	if m := z.Meta(); m.Records != e.Records || m.RawSize != e.RawSize || m.First != int64(e.First) || m.Last != int64(e.Last) || m.Drops != e.Drops {
		h.t.Errorf("chunk is %+v, its entry %+v", m, e)
	}
	return times
}

// packets are the times of all packets of a part, in order.
func (h *testHub) packets(n manifest.Node) (times []int64) {
	for _, s := range n.Streams {
		for _, e := range h.inventory(context.Background(), s) {
			times = append(times, h.records(context.Background(), s.Stream, e)...)
		}
	}
	slices.Sort(times)
	return times
}
