package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pcapsule/archive"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store/storetest"
)

// dying makes a store as a process sees it that dies at its nth operation:
// before it takes effect (Refused) or after (Lost). died is called once.
func dying(memory *storetest.Memory, n int, fault storetest.Fault, died func()) *faulty {
	dead := false
	return &faulty{storetest.NewFaulty(memory, func(string, string) storetest.Fault {
		n--
		switch {
		case dead:
			return storetest.Refused
		case n == -1:
			dead = true
			died()
			return fault
		}
		return storetest.NoFault
	}), memory}
}

// TestKilledHub kills the hub at every store operation of a session, and starts
// another. Whoever waits gets the snapshot.
func TestKilledHub(t *testing.T) {
	start := recent()
	chunks := []sample{packets(t, "a", start, 10), packets(t, "a", start.Add(time.Second), 10)}
	killEverywhere(t, killed{nodes: []string{"a"}, records: 20, every: 1, agents: func(s *site) []*agent {
		return []*agent{s.newAgent("a", nil, chunks...)}
	}})
}

// TestKilledHubOfCluster is TestKilledHub with two recorders, whose inventories
// the hub merges.
func TestKilledHubOfCluster(t *testing.T) {
	start := recent()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	a, b := packets(t, "a", start, 10), packets(t, "b", start, 10)
	killEverywhere(t, killed{nodes: []string{"a", "b"}, records: 20, every: 3, agents: func(s *site) []*agent {
		return []*agent{s.newAgent("a", inCluster(t, at(0), at(5)), a), s.newAgent("b", inCluster(t, at(5), at(10)), b)}
	}})
}

// killed is what the hub is killed over.
type killed struct {
	nodes   []string
	records uint64
	every   int // every operation, or every so many: most of the time clients wait to try again
	agents  func(*site) []*agent
}

func killEverywhere(t *testing.T, k killed) {
	for _, fault := range []storetest.Fault{storetest.Refused, storetest.Lost} {
		const lanes = 8 // most of the time clients wait to try again
		for lane := range lanes {
			t.Run(fmt.Sprintf("%d/%d", fault, lane), func(t *testing.T) {
				t.Parallel()
				for n := lane*k.every + int(fault)%k.every; killAt(t, n, fault, k); n += lanes * k.every {
				}
			})
		}
	}
}

// killAt tells whether the hub came to operation n.
func killAt(t *testing.T, n int, fault storetest.Fault, k killed) bool {
	memory := storetest.NewMemory(t, nil)
	s := newSite(t, memory, nil)
	<-s.hub.ready
	s.stop()
	died := make(chan struct{})
	s.start(dying(memory, n, fault, func() { close(died) }))
	restarted := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(restarted)
		select {
		case <-died:
			s.stop()
			s.start(memory)
		case <-ended:
		}
	}()
	agents := k.agents(s)
	c := s.client()
	ctx := api.Patiently(t.Context(), 20*time.Second)
	id := ""
	for id == "" {
		begun, err := c.Create(ctx, api.CreateRequest{Name: "x", Last: "5m", Nodes: k.nodes})
		var e *api.Error
		switch {
		case err == nil:
			id = begun.ID
		case errors.As(err, &e) && e.Code == api.CodeNameTaken:
			// The first attempt had its effect although its answer was lost.
			for _, snap := range mustList(t, c, ctx) {
				id = snap.ID
			}
		case errors.Is(err, api.ErrUnreachable), errors.As(err, &e) && (e.Status >= 500 || e.Code == api.CodeNotRecorded || e.Code == api.CodeUnknownNode):
		default:
			t.Fatalf("killed at operation %d: %v", n, err)
		}
	}
	snap, err := c.WaitSnapshot(ctx, id, nil)
	if err != nil {
		t.Fatalf("killed at operation %d: %v", n, err)
	}
	if snap.Records != k.records || snap.Status != manifest.Completed {
		t.Errorf("killed at operation %d: %+v", n, snap)
	}
	mustVerify(t, memory)
	if list := mustList(t, c, ctx); len(list) != 1 {
		t.Errorf("killed at operation %d: %d snapshots, want 1", n, len(list))
	}
	for _, a := range agents {
		await(t, func() bool { return len(a.pinned()) == 0 })
	}
	await(t, func() bool {
		left, err := archive.New(memory).Intents(ctx)
		return err == nil && !slices.ContainsFunc(left, func(a archive.Attempt) bool { return a.Outcome.State == archive.Undecided })
	})
	close(ended)
	<-restarted
	s.stop()
	select {
	case <-died:
		return true
	default:
		return false
	}
}

func mustList(t *testing.T, c *api.Client, ctx context.Context) []api.Snapshot {
	t.Helper()
	var list []api.Snapshot
	await(t, func() (ok bool) {
		var err error
		list, err = c.Snapshots(ctx)
		return err == nil
	})
	return list
}

// TestTakeOver looks at what becomes of a session whose hub dies while an agent
// is at it.
func TestTakeOver(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, nil)
	var mu sync.Mutex
	hang := true
	a := s.newAgent("a", func(a *agent) {
		a.pace = func(ctx context.Context, step string) {
			mu.Lock()
			h := hang
			mu.Unlock()
			if h && step == "complete" {
				<-ctx.Done()
			}
		}
	}, packets(t, "a", recent(), 10))
	c := s.client()
	begun, err := c.Create(t.Context(), api.CreateRequest{Name: "long", Last: "5m"})
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return len(st.Puts()) > 0 && len(a.pinned()) == 1 })
	await(t, func() bool { return len(storetest.Keys(t, st, manifest.KindInventory)) == 1 })
	st.Puts()
	mu.Lock()
	hang = false
	mu.Unlock()
	s.stop()
	s.start(st)
	// A successor has the name, and agents keep their pins until it is done.
	snap, err := c.WaitSnapshot(api.Patiently(t.Context(), 20*time.Second), begun.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	if snap.ID == begun.ID || snap.Name != "long" || !snap.Start.Equal(begun.Start) || !snap.End.Equal(begun.End) {
		t.Errorf("%+v carries on from %+v", snap, begun)
	}
	for _, key := range st.Puts() {
		if k, err := manifest.ParseObjectKey(key); err == nil {
			t.Errorf("%s was sent twice", k)
		}
	}
	await(t, func() bool { return len(a.pinned()) == 0 })
	// The old id leads to the new one, for ever.
	for range 2 {
		_, err = c.Snapshot(t.Context(), begun.ID)
		if e := wantCode(t, err, http.StatusGone, api.CodeSuperseded); e.Successor != snap.ID {
			t.Errorf("%+v leads to %q, want %q", e, e.Successor, snap.ID)
		}
		wantCode(t, c.Progress(t.Context(), begun.ID, api.Progress{Node: "a", State: stateSealing}), http.StatusGone, api.CodeSuperseded)
		s.stop()
		s.start(st)
	}
	// Sessions of others are left alone.
	other, err := archive.New(st).Begin(t.Context(), archive.Intent{
		Name: "theirs", Kind: archive.KindHub, Owner: "SHA256:somebody/1", Created: time.Now(), Deadline: time.Now().Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.stop()
	<-s.start(st).ready
	_, err = c.Snapshot(t.Context(), other.Intent.ID)
	wantCode(t, err, http.StatusConflict, api.CodeNotCompleted)
	mustVerify(t, st)
}

// TestTakeOverInCluster: the successor of a hub that died asks whoever recorded
// the stream of the cluster again, also for a snapshot of other nodes.
func TestTakeOverInCluster(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, nil)
	start := recent()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	var hang atomic.Bool
	hang.Store(true)
	a := s.newAgent("a", func(a *agent) {
		inCluster(t, at(0), at(5))(a)
		a.pace = func(ctx context.Context, step string) {
			if hang.Load() && step == "complete" {
				<-ctx.Done()
			}
		}
	}, packets(t, "a", start, 10))
	b := s.newAgent("b", inCluster(t, at(5), at(10)), packets(t, "b", start, 10))
	c := s.client()
	begun, err := c.Create(t.Context(), api.CreateRequest{Name: "x", From: at(0), To: at(10), Nodes: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		list := s.hub.session("x").view(time.Minute).Progress
		return len(list) == 2 && list[1].State == stateDone && list[0].State == stateUploading
	})
	hang.Store(false)
	s.stop()
	s.start(st)
	snap, err := c.WaitSnapshot(api.Patiently(t.Context(), 20*time.Second), begun.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := load(t, st, snap.ID).Manifest
	if snap.ID == begun.ID || snap.Status != manifest.Completed || len(m.Nodes) != 1 || len(m.Gaps) > 0 || len(m.Streams) != 1 || m.Streams[0].Records != 10 {
		t.Errorf("%+v, streams %+v, gaps %+v", snap, m.Streams, m.Gaps)
	}
	await(t, func() bool { return len(a.pinned())+len(b.pinned()) == 0 })
	mustVerify(t, st)
}

// TestStoreAwayAtStart starts a hub whose store does not answer.
func TestStoreAwayAtStart(t *testing.T) {
	memory := storetest.NewMemory(t, nil)
	st := &faulty{storetest.NewFaulty(memory, func(string, string) storetest.Fault { return storetest.Refused }), memory}
	s := newSite(t, st, nil)
	s.newAgent("a", nil, packets(t, "a", recent(), 10))
	resp, err := http.Get(s.srv.URL + "/healthz")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("healthz: %v, %v", resp, err)
	}
	resp.Body.Close()
	st.SetPlan(nil)
	<-s.hub.ready
	mustCreate(t, s.client(), api.CreateRequest{Name: "x", Last: "5m"})
}
