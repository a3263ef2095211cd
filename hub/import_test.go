package hub

import (
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"pcapsule/archive"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store/storetest"
)

// waiting is the sign of life of a client that plays node.
func waiting(node string) api.Progress { return api.Progress{Node: node, State: stateWaiting} }

// TestImportSignOfLife: an import whose client reports may take as long as its
// input does, at whichever node it is; one whose client is silent for
// SessionTimeout is ended, and its name is free.
func TestImportSignOfLife(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	var mu sync.Mutex
	now := time.Now()
	s := newSite(t, st, func(c *Config) {
		c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
		c.SessionTimeout = 2 * time.Minute
	})
	pass := func(d time.Duration) {
		mu.Lock()
		now = now.Add(d)
		mu.Unlock()
		s.hub.tick()
	}
	c := s.client()
	request := api.CreateRequest{Name: "slow", Import: true, Nodes: []string{"y", "x"}}
	begun, err := c.Create(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	creating := func() api.Snapshot {
		t.Helper()
		list, err := c.Snapshots(t.Context())
		if err != nil || len(list) != 1 || list[0].Status != api.Creating {
			t.Fatalf("%+v, error %v: want the import, under way", list, err)
		}
		return list[0]
	}
	alive := func() {
		t.Helper()
		for range 4 {
			pass(119 * time.Second)
			if err := c.Progress(t.Context(), begun.ID, waiting("x")); err != nil {
				t.Fatal(err)
			}
		}
		if snap := creating(); !snap.Heard.Equal(s.hub.now()) || !snap.Expires.Equal(s.hub.now().Add(2*time.Minute)) {
			t.Errorf("heard of at %s, ends at %s; it is %s", snap.Heard, snap.Expires, s.hub.now())
		}
	}
	alive()
	x := &agent{t: t, name: "x", client: c, chunks: []sample{packets(t, "x", recent(), 11)}}
	everything := manifest.Interval{From: 0, To: manifest.NanosOf(time.Now())}
	if err := x.take(t.Context(), api.Task{Session: begun.ID, Window: everything}); err != nil {
		t.Fatal(err)
	}
	alive() // also once node x is complete
	pass(119 * time.Second)
	creating()
	pass(2 * time.Second)
	_, err = c.WaitSnapshot(t.Context(), begun.ID, nil)
	if e := wantCode(t, err, http.StatusGatewayTimeout, api.CodeUnreachable); !strings.Contains(e.Message, "no sign of life for 2m0s") {
		t.Errorf("%q", e.Message)
	}
	err = c.Progress(t.Context(), begun.ID, waiting("y"))
	if e := wantCode(t, err, http.StatusConflict, api.CodeNotCompleted); !strings.Contains(e.Message, "no sign of life for 2m0s") {
		t.Errorf("%q", e.Message)
	}
	if _, err := c.Create(t.Context(), request); err != nil {
		t.Errorf("the name is not free: %v", err)
	}
}

// TestImportEndsWithItsHub: the next hub ends an import instead of carrying it on,
// says why to its client, and frees its name.
func TestImportEndsWithItsHub(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, nil)
	c := s.client()
	request := api.CreateRequest{Name: "left", Import: true, Nodes: []string{"x"}}
	begun, err := c.Create(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	s.stop()
	s.start(st)
	err = c.Progress(api.Patiently(t.Context(), 20*time.Second), begun.ID, waiting("x"))
	if e := wantCode(t, err, http.StatusGone, api.CodeSuperseded); e.Successor != "" || !strings.Contains(e.Message, importLeft) {
		t.Errorf("%+v", e)
	}
	if left, err := archive.New(st).Intents(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("intents %+v, %v", left, err)
	}
	if list, err := c.Snapshots(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := c.Create(t.Context(), request); err != nil {
		t.Errorf("the name is not free: %v", err)
	}
	mustVerify(t, st)
}

// TestStraysAreLogged: what may be a snapshot and is in no list, the log has, once.
func TestStraysAreLogged(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	storetest.Put(t, st, manifest.SnapshotsDir+"old/x/manifest.json", []byte("{}"))
	var log lines
	s := newSite(t, st, func(c *Config) { c.Logger = slog.New(slog.NewJSONHandler(&log, nil)) })
	for range 3 {
		if list, err := s.client().Snapshots(t.Context()); err != nil || len(list) != 0 {
			t.Fatalf("%+v, %v", list, err)
		}
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	if n := strings.Count(log.b.String(), "snapshots/old/x/manifest.json"); n != 1 {
		t.Errorf("named %d times in %s", n, log.b.String())
	}
}
