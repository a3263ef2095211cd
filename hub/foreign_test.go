package hub

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"pcapsule/archive"
	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/internal/process"
	"pcapsule/manifest"
	"pcapsule/store/storetest"
)

// begin starts a session of another process in the site's store.
func beginElsewhere(t *testing.T, a *archive.Archive, name string, p process.ID) *archive.Session {
	t.Helper()
	now := time.Now()
	s, err := a.Begin(t.Context(), archive.Intent{
		Name: name, Kind: archive.KindImport, Owner: "alice@web-1", Created: now, Deadline: now.Add(time.Hour), Process: p,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestForeignSessions: sessions of other processes are in the list, and can be
// ended.
func TestForeignSessions(t *testing.T) {
	memory := storetest.NewMemory(t, nil)
	s := newSite(t, memory, nil)
	c := s.client()
	a := archive.New(memory)
	dead := process.Self()
	dead.Start--
	live := beginElsewhere(t, a, "live", process.Self())
	beginElsewhere(t, a, "dead", dead)
	list, err := c.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].Status != api.Creating || list[1].Status != api.Dead ||
		!strings.Contains(list[0].Owner, "alice@web-1") || list[0].Deadline.IsZero() {
		t.Fatalf("list: %+v", list)
	}
	e, err := c.Remove(t.Context(), "live")
	if err != nil || e == nil || e.ID != live.Intent.ID || e.Dead || e.Uploaded == nil {
		t.Errorf("end a session by name: %+v, %v", e, err)
	}
	if err := live.Standing(t.Context()); err == nil || !strings.Contains(err.Error(), "deleted by") {
		t.Errorf("the session stands: %v", err)
	}
	if e, err := c.Remove(t.Context(), list[1].ID); err != nil || e == nil || !e.Dead {
		t.Errorf("end a dead session by id: %+v, %v", e, err)
	}
	_, err = c.Remove(t.Context(), list[1].ID)
	wantCode(t, err, http.StatusGone, api.CodeSuperseded)
}

// TestEndedSessionLeaves: whoever ends a session of the hub's hears what it leaves in
// the store, whether or not its node has told of it.
func TestEndedSessionLeaves(t *testing.T) {
	s := newSite(t, storetest.NewMemory(t, nil), nil)
	c := s.client()
	for i, uploads := range []int{0, 2} {
		name := fmt.Sprint("x", i)
		snap, err := c.Create(t.Context(), api.CreateRequest{Name: name, Import: true, Nodes: []string{"a"}})
		if err != nil {
			t.Fatal(err)
		}
		a := &agent{t: t, name: "a", client: c}
		var size int64
		for n := range uploads {
			p := packets(t, "a", time.Unix(1000, 0), 10+n)
			object := api.Object{Hash: p.hash, SHA256: p.entry.SHA256, Size: p.entry.Size, Kind: manifest.KindChunk, Ext: chunker.PacketsExt}
			if _, err := a.put(t.Context(), snap.ID, []api.Object{object}, [][]byte{p.b}); err != nil {
				t.Fatal(err)
			}
			size += p.entry.Size
		}
		e, err := c.Remove(t.Context(), name)
		if err != nil || e == nil || e.ID != snap.ID || e.Name != name || e.Owner == "" {
			t.Fatalf("end %s: %+v, %v", name, e, err)
		}
		if want := (&api.Content{Objects: uploads, Bytes: size}); e.Uploaded == nil || *e.Uploaded != *want {
			t.Errorf("uploaded %+v, want %+v", e.Uploaded, want)
		}
	}
}

// TestSessionEndedInStore: somebody ends a hub's session in the store, and whoever
// waits for the snapshot hears of it.
func TestSessionEndedInStore(t *testing.T) {
	memory := storetest.NewMemory(t, nil)
	s := newSite(t, memory, nil)
	c := s.client()
	snap, err := c.Create(t.Context(), api.CreateRequest{Name: "x", Import: true, Nodes: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := archive.New(memory).Remove(t.Context(), "x", "alice@web-1"); err != nil {
		t.Fatal(err)
	}
	_, err = c.WaitSnapshot(t.Context(), snap.ID, nil)
	if e := wantCode(t, err, http.StatusGone, api.CodeSuperseded); !strings.Contains(e.Message, "deleted by alice@web-1") {
		t.Errorf("the waiting client hears: %v", e)
	}
}

// TestSweepTellsWhatItWaitsFor: the list shows which sessions a sweep waits for.
func TestSweepTellsWhatItWaitsFor(t *testing.T) {
	memory := storetest.NewMemory(t, nil)
	s := newSite(t, memory, nil)
	c := s.client()
	storetest.Put(t, memory, "chunks/ab/ab"+strings.Repeat("0", 62)+".pcapng.lz4", []byte("held by none"))
	beginElsewhere(t, archive.New(memory), "x", process.Self())
	swept := make(chan error, 1)
	go func() {
		_, err := c.Sweep(t.Context(), false)
		swept <- err
	}()
	for {
		list, err := c.Snapshots(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 1 && list[0].Awaited {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := c.Remove(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if err := <-swept; err != nil {
		t.Fatal(err)
	}
	if list, err := c.Snapshots(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("list after all: %+v, %v", list, err)
	}
}
