package hub

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

// TestTrouble: a node that tells why it cannot go on is given up soon when that
// does not mend itself, and what it said is in the snapshot, or the failure.
func TestTrouble(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	var mu sync.Mutex
	now := time.Now()
	s := newSite(t, st, func(c *Config) {
		c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
		c.SessionTimeout = time.Minute
	})
	pass := func(d time.Duration) {
		mu.Lock()
		now = now.Add(d)
		mu.Unlock()
		s.hub.tick()
	}
	s.newAgent("good", nil, packets(t, "good", recent(), 10))
	s.newAgent("other", func(a *agent) { a.pace = hangAt("pin") })
	c := s.client()
	full := &api.Error{Code: api.CodeNoSpace, Message: "upload: no space\nleft"}
	begin := func(name string, nodes ...string) (id string, report func(done int64, e *api.Error)) {
		t.Helper()
		begun, err := c.Create(t.Context(), api.CreateRequest{Name: name, Last: "5m", Nodes: nodes})
		if err != nil {
			t.Fatal(err)
		}
		return begun.ID, func(done int64, e *api.Error) {
			t.Helper()
			p := api.Progress{Node: "other", State: stateUploading, Chunks: 2, Bytes: 100, Done: done, Error: e}
			if err := c.Progress(t.Context(), begun.ID, p); err != nil {
				t.Fatal(err)
			}
		}
	}

	id, report := begin("some")
	await(t, func() bool { return s.hub.sessionByID(id).view(time.Minute).Progress[0].State == stateDone })
	report(0, full)
	pass(9 * time.Second)
	report(10, full) // it gets on all the same
	pass(9 * time.Second)
	report(10, nil) // it has found room
	pass(9 * time.Second)
	report(10, full)
	snap, err := c.Snapshot(t.Context(), id)
	if err != nil || snap.Status != api.Creating || len(snap.Progress) != 2 || snap.Progress[1].Error == nil ||
		snap.Progress[1].Error.Code != api.CodeNoSpace || strings.Contains(snap.Progress[1].Error.Message, "\n") {
		t.Fatalf("%+v, error %v: want to be told what holds it up", snap, err)
	}
	pass(11 * time.Second)
	snap, err = c.WaitSnapshot(t.Context(), id, nil)
	if err != nil || snap.Status != manifest.Partial || len(snap.Reasons) != 1 || !strings.Contains(snap.Reasons[0], "no space") {
		t.Errorf("%+v, error %v: want a part, and why the other is missing", snap, err)
	}

	// Nobody has room.
	id, report = begin("none", "other")
	report(0, full)
	pass(11 * time.Second)
	_, err = c.WaitSnapshot(t.Context(), id, nil)
	if e := wantCode(t, err, http.StatusInsufficientStorage, api.CodeNoSpace); !strings.Contains(e.Message, "no space left in store") {
		t.Errorf("%q", e.Message)
	}

	// What may pass by itself is waited for.
	id, report = begin("slow", "other")
	report(0, &api.Error{Code: api.CodeUnavailable, Message: "upload: 503 SlowDown"})
	pass(50 * time.Second)
	if snap, err := c.Snapshot(t.Context(), id); err != nil || snap.Status != api.Creating {
		t.Fatalf("%+v, error %v: given up too soon", snap, err)
	}
	pass(20 * time.Second)
	_, err = c.WaitSnapshot(t.Context(), id, nil)
	if e := wantCode(t, err, http.StatusGatewayTimeout, api.CodeUnreachable); !strings.Contains(e.Message, "503 SlowDown") {
		t.Errorf("%q", e.Message)
	}
	mustVerify(t, st)
}

// noRoom is a store that takes nothing more below a prefix.
type noRoom struct {
	*storetest.Memory
	prefix string
}

func (n *noRoom) Put(ctx context.Context, key string, body store.Body) error {
	if strings.HasPrefix(key, n.prefix) {
		return fmt.Errorf("put %s: %w", key, store.ErrNoSpace)
	}
	return n.Memory.Put(ctx, key, body)
}

// TestNoSpaceToCommit: a store that took the chunks and does not take the
// manifest fails the session, after a few tries.
func TestNoSpaceToCommit(t *testing.T) {
	memory := storetest.NewMemory(t, nil)
	var mu sync.Mutex
	now := time.Now()
	s := newSite(t, &noRoom{memory, manifest.SnapshotsDir}, func(c *Config) {
		c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
		c.SessionTimeout = time.Minute
	})
	s.newAgent("a", nil, packets(t, "a", recent(), 10))
	c := s.client()
	begun, err := c.Create(t.Context(), api.CreateRequest{Name: "x", Last: "5m"})
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		snap, err := c.Snapshot(t.Context(), begun.ID)
		return err == nil && snap.Status == api.Creating && snap.Error != nil && snap.Error.Code == api.CodeNoSpace
	})
	mu.Lock()
	now = now.Add(11 * time.Second)
	mu.Unlock()
	_, err = c.WaitSnapshot(t.Context(), begun.ID, nil)
	wantCode(t, err, http.StatusInsufficientStorage, api.CodeNoSpace)
	// With room again, the next hub ends it, and makes it.
	s.stop()
	s.start(memory)
	await(t, func() bool {
		list, err := c.Snapshots(t.Context())
		return err == nil && len(list) == 1 && list[0].Status == manifest.Completed
	})
	mustVerify(t, memory)
}
