package hub

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/archive"
	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

// folder opens a real folder store.
func folder(t testing.TB) *store.Folder {
	t.Helper()
	f, err := store.NewFolder(t.TempDir(), store.FolderOptions{Create: true, GrantKey: bytes.Repeat([]byte{1}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// create makes a snapshot and waits for it.
func create(t testing.TB, c *api.Client, req api.CreateRequest) (*api.Snapshot, error) {
	t.Helper()
	s, err := c.Create(t.Context(), req)
	if err != nil {
		return nil, err
	}
	switch s.Status {
	case api.Creating, manifest.Completed, manifest.Partial, api.Failed: // its nodes may be quicker than the answer
	default:
		t.Errorf("a snapshot begins as %s", s.Status)
	}
	return c.WaitSnapshot(t.Context(), s.ID, nil)
}

func mustCreate(t testing.TB, c *api.Client, req api.CreateRequest) *api.Snapshot {
	t.Helper()
	s, err := create(t, c, req)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// recent is a time whose packets are in a window of five minutes.
func recent() time.Time { return time.Now().Add(-time.Minute).Truncate(time.Millisecond) }

func TestSnapshot(t *testing.T) {
	st := folder(t)
	s := newSite(t, st, nil)
	start := recent()
	a := s.newAgent("a", nil, packets(t, "a", start, 100), packets(t, "a", start.Add(time.Second), 50))
	s.newAgent("b", nil, packets(t, "b", start, 10))
	c := s.client()

	var states []string
	begun, err := c.Create(t.Context(), api.CreateRequest{Name: "outage", Last: "5m"})
	if err != nil {
		t.Fatal(err)
	}
	snap, err := c.WaitSnapshot(t.Context(), begun.ID, func(s *api.Snapshot) { states = append(states, s.Status) })
	if err != nil {
		t.Fatal(err)
	}
	if states[len(states)-1] != manifest.Completed || snap.ID != begun.ID || snap.Records != 160 || !slices.Equal(snap.Nodes, []string{"a", "b"}) {
		t.Errorf("states %v, snapshot %+v", states, snap)
	}
	if got := snap.End.Sub(snap.Start); got != 5*time.Minute {
		t.Errorf("the window is %s long", got)
	}
	mustVerify(t, st)
	await(t, func() bool { return len(a.pinned()) == 0 })

	// By name, by id, in the list: the same.
	for _, ref := range []string{"outage", snap.ID} {
		got, err := c.Snapshot(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(snap, got); diff != "" {
			t.Errorf("%s: %s", ref, diff)
		}
	}
	list, err := c.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]api.Snapshot{*snap}, list); diff != "" {
		t.Error(diff)
	}

	// The intent is gone, and the agents' answers are still understood.
	if keys := storetest.Keys(t, st, manifest.IntentsDir); len(keys) > 0 {
		t.Errorf("intents are left: %v", keys)
	}
	_, err = c.Grants(t.Context(), snap.ID, "a", api.GrantRequest{Objects: []api.Object{}})
	wantCode(t, err, http.StatusConflict, api.CodeNotCompleted)

	// Its name is taken until it is deleted.
	_, err = c.Create(t.Context(), api.CreateRequest{Name: "outage", Last: "5m"})
	wantCode(t, err, http.StatusConflict, api.CodeNameTaken)
	if err := c.Delete(t.Context(), "outage"); err != nil {
		t.Fatal(err)
	}
	_, err = c.Snapshot(t.Context(), "outage")
	wantCode(t, err, http.StatusNotFound, api.CodeNotFound)
	again := mustCreate(t, c, api.CreateRequest{Name: "outage", Last: "5m"})
	if err := c.Delete(t.Context(), again.ID); err != nil {
		t.Fatal(err)
	}
	report, err := c.Sweep(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if report.Deleted < 5 { // three chunks, two inventories
		t.Errorf("sweep: %+v", report)
	}
	if keys := storetest.Keys(t, st, manifest.KindChunk+"/"); len(keys) > 0 {
		t.Errorf("chunks are left: %v", keys)
	}
}

// TestSecondSnapshot is the promise that a snapshot costs its new bytes only.
func TestSecondSnapshot(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, nil)
	start := recent()
	s.newAgent("a", nil, packets(t, "a", start, 100), packets(t, "a", start.Add(time.Second), 50))
	c := s.client()
	window := api.CreateRequest{From: start.Add(-time.Second), To: start.Add(10 * time.Second)}

	window.Name = "first"
	first := mustCreate(t, c, window)
	st.Puts() // forget them
	window.Name = "second"
	began := time.Now()
	second := mustCreate(t, c, window)
	t.Logf("the second snapshot took %s", time.Since(began))

	want := []string{
		manifest.IntentPath(second.ID), manifest.SignaturePath(second.ID),
		manifest.SignersPath(second.ID), manifest.ManifestPath(second.ID),
	}
	if diff := cmp.Diff(want, st.Puts()); diff != "" {
		t.Errorf("the second snapshot put: %s", diff)
	}
	if first.Size != second.Size {
		t.Errorf("sizes %d and %d", first.Size, second.Size)
	}
	mustVerify(t, st)
}

func TestRefusedCreate(t *testing.T) {
	s := newSite(t, storetest.NewMemory(t, nil), nil)
	c := s.client()
	_, err := c.Create(t.Context(), api.CreateRequest{Last: "5m"})
	e := wantCode(t, err, http.StatusUnprocessableEntity, api.CodeNotRecorded)
	if !strings.Contains(e.Message, "pcapsule agent") {
		t.Errorf("%q does not say what to do", e.Message)
	}
	s.newAgent("a", nil, packets(t, "a", recent(), 10))
	s.newAgent("b", nil)
	now := time.Now()
	for _, test := range []struct {
		name   string
		req    api.CreateRequest
		status int
		code   string
		says   string
	}{
		{"nothing", api.CreateRequest{}, 400, api.CodeInvalid, "either last, or from and to"},
		{"both", api.CreateRequest{Last: "5m", From: now}, 400, api.CodeInvalid, "either"},
		{"half", api.CreateRequest{From: now}, 400, api.CodeInvalid, "from and to"},
		{"no duration", api.CreateRequest{Last: "five"}, 400, api.CodeInvalid, "5m"},
		{"negative", api.CreateRequest{Last: "-5m"}, 400, api.CodeInvalid, "5m"},
		{"endless", api.CreateRequest{Last: "2000000h"}, 400, api.CodeInvalid, "1970"},
		{"future", api.CreateRequest{From: now, To: now.Add(time.Hour)}, 400, api.CodeInvalid, "for the hub it is"},
		{"backwards", api.CreateRequest{From: now.Add(-time.Hour), To: now.Add(-2 * time.Hour)}, 400, api.CodeInvalid, "ends"},
		{"name", api.CreateRequest{Name: "a b", Last: "5m"}, 400, api.CodeInvalid, "letters"},
		{"node", api.CreateRequest{Nodes: []string{"a", "c", "d"}, Last: "5m"}, 404, api.CodeUnknownNode, "unknown node c, d: known are a, b"},
		{"node name", api.CreateRequest{Nodes: []string{"../a"}, Last: "5m"}, 400, api.CodeInvalid, "node name"},
		{"import of nothing", api.CreateRequest{Import: true}, 400, api.CodeInvalid, "import"},
		{"import of a window", api.CreateRequest{Import: true, Nodes: []string{"x"}, Last: "5m"}, 400, api.CodeInvalid, "window of an import"},
		{"import twice", api.CreateRequest{Import: true, Nodes: []string{"x", "x"}}, 400, api.CodeInvalid, "twice"},
	} {
		_, err := c.Create(t.Context(), test.req)
		if e := wantCode(t, err, test.status, test.code); !strings.Contains(e.Message, test.says) {
			t.Errorf("%s: %q does not say %q", test.name, e.Message, test.says)
		}
	}
	// A clock that is ahead by a moment is no future.
	if _, err := c.Create(t.Context(), api.CreateRequest{From: now.Add(-time.Hour), To: time.Now().Add(futureSlop / 2)}); err != nil {
		t.Error(err)
	}
}

func TestNotRecorded(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, nil)
	s.newAgent("a", nil, packets(t, "a", recent(), 10))
	c := s.client()
	old := time.Now().Add(-10 * time.Hour)
	begun, err := c.Create(t.Context(), api.CreateRequest{Name: "early", From: old, To: old.Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.WaitSnapshot(t.Context(), begun.ID, nil)
	e := wantCode(t, err, http.StatusUnprocessableEntity, api.CodeNotRecorded)
	if !strings.Contains(e.Message, "nothing of") || !strings.Contains(e.Message, "ring of node a") {
		t.Errorf("%q", e.Message)
	}
	// Nothing is left but the marker, and the name is free.
	list, err := c.Snapshots(t.Context())
	if err != nil || len(list) > 0 {
		t.Errorf("snapshots %v, error %v", list, err)
	}
	mustCreate(t, c, api.CreateRequest{Name: "early", Last: "5m"})
	// Another hub still knows why.
	s.stop()
	s.start(st)
	_, err = c.Snapshot(t.Context(), begun.ID)
	if e := wantCode(t, err, http.StatusGone, api.CodeSuperseded); !strings.Contains(e.Message, "nothing of") {
		t.Errorf("%q", e.Message)
	}
	mustVerify(t, st)
}

func TestUnreachable(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	var mu sync.Mutex
	now := time.Now()
	s := newSite(t, st, func(c *Config) {
		c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	})
	pass := func(d time.Duration) {
		mu.Lock()
		now = now.Add(d)
		mu.Unlock()
		s.hub.tick()
	}
	s.newAgent("good", nil, packets(t, "good", recent(), 10))
	s.newAgent("mute", func(a *agent) { a.pace = hangAt("pin") })
	s.newAgent("stuck", func(a *agent) { a.pace = hangAt("complete") }, packets(t, "stuck", recent(), 10))
	c := s.client()

	begun, err := c.Create(t.Context(), api.CreateRequest{Name: "some", Last: "5m"})
	if err != nil {
		t.Fatal(err)
	}
	state := func(node string) string {
		for _, p := range s.hub.session("some").view(time.Minute).Progress {
			if p.Node == node {
				return p.State
			}
		}
		return ""
	}
	await(t, func() bool { return state("good") == stateDone && state("stuck") == stateUploading })
	pass(4 * time.Second)
	if got := state("mute"); got != stateWaiting {
		t.Errorf("after 4 s of 5 the node that has not answered is %s", got)
	}
	pass(2 * time.Second)
	snap, err := c.WaitSnapshot(t.Context(), begun.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	if snap.Status != manifest.Partial || len(snap.Reasons) != 2 ||
		!strings.HasPrefix(snap.Reasons[0], "node mute: ") || !strings.Contains(snap.Reasons[1], "did not arrive in time") {
		t.Errorf("%+v", snap)
	}
	mustVerify(t, st)

	// No node at all: no snapshot.
	begun, err = c.Create(t.Context(), api.CreateRequest{Name: "none", Last: "5m", Nodes: []string{"mute"}})
	if err != nil {
		t.Fatal(err)
	}
	pass(6 * time.Second)
	_, err = c.WaitSnapshot(t.Context(), begun.ID, nil)
	wantCode(t, err, http.StatusGatewayTimeout, api.CodeUnreachable)
	// What comes late is refused.
	late, err := c.Grants(t.Context(), begun.ID, "mute", api.GrantRequest{})
	wantCode(t, err, http.StatusConflict, api.CodeNotCompleted)
	if late != nil {
		t.Error("a late node got grants")
	}
	await(t, func() bool { return len(storetest.Keys(t, st, manifest.IntentsDir)) == 0 })
}

func TestGapsMakePartial(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, nil)
	start := recent()
	gaps := map[string][]manifest.Gap{
		"drops":   {{Stream: chunker.Packets, Reason: manifest.GapKernelDrop, From: manifest.NanosOf(start), To: manifest.NanosOf(start.Add(time.Second)), Count: 17}},
		"evicted": {{Stream: chunker.Packets, Reason: manifest.GapEvicted, From: manifest.NanosOf(start.Add(-time.Hour)), To: manifest.NanosOf(start)}},
		"silent":  nil,
	}
	for name := range gaps {
		s.newAgent(name, func(a *agent) {
			a.forge = func(_ *agent, part *api.CompleteRequest) {
				part.Node.Gaps = gaps[name]
				if name != "drops" {
					c := &part.Node.Coverage[0]
					c.From = manifest.NanosOf(start)
				}
			}
		}, packets(t, name, start, 10))
	}
	c := s.client()
	req := api.CreateRequest{From: start.Add(-time.Minute), To: start.Add(time.Second)}

	req.Name, req.Nodes = "drops", []string{"drops"}
	snap := mustCreate(t, c, req)
	if snap.Status != manifest.Completed || len(snap.Reasons) > 0 || len(snap.Warnings) != 1 || !strings.Contains(snap.Warnings[0], "dropped 17 packets") {
		t.Errorf("dropped packets: %+v", snap)
	}
	req.Name, req.Nodes = "evicted", []string{"evicted"}
	snap = mustCreate(t, c, req)
	want := "node evicted: " + api.Span(manifest.Interval{From: manifest.NanosOf(req.From), To: manifest.NanosOf(start)}) + " had been recycled by the ring: make the ring larger (--ring-size)"
	if diff := cmp.Diff([]string{want}, snap.Reasons); diff != "" || snap.Status != manifest.Partial {
		t.Errorf("evicted: %s: %s", snap.Status, diff)
	}
	// An agent that leaves time unaccounted for is found out.
	req.Name, req.Nodes = "silent", []string{"silent"}
	snap = mustCreate(t, c, req)
	if snap.Status != manifest.Partial || len(snap.Reasons) != 1 || !strings.Contains(snap.Reasons[0], "the agent does not say why") {
		t.Errorf("silent: %+v", snap)
	}
	mustVerify(t, st)
}

// TestNothingToRecord makes a snapshot of a time in which what was to be recorded
// was not there, and says so. Other interfaces of a node are no excuse for time
// that it does not account for.
func TestNothingToRecord(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, nil)
	start := recent()
	from, to := manifest.NanosOf(start.Add(-time.Minute)), manifest.NanosOf(start.Add(time.Second))
	node := func(name string, interfaces ...string) {
		s.newAgent(name, func(a *agent) {
			a.forge = func(_ *agent, part *api.CompleteRequest) {
				part.Node.Coverage = nil
				if len(interfaces) > 1 {
					part.Node.Coverage = []manifest.Interval{{From: from, To: from + 10e9}}
				}
				part.Node.Capture = []manifest.Capture{{From: from - 1e12, To: to + 1e12, Selection: manifest.Selection{Interfaces: interfaces}}}
				part.Node.Gaps = []manifest.Gap{{Stream: chunker.Packets, Reason: manifest.GapInterfaceGone, Interface: "v0", From: from - 1e12, To: to + 1e12}}
			}
		})
	}
	node("only", "v0")
	node("both", "v0", "v1")
	c := s.client()
	for name, want := range map[string]string{
		"only": "node only: " + api.Span(manifest.Interval{From: from, To: to}) + " interface v0 was gone",
		"both": "the agent does not say why",
	} {
		snap := mustCreate(t, c, api.CreateRequest{Name: name, Nodes: []string{name}, From: from.Time(), To: to.Time()})
		if snap.Status != manifest.Partial || !strings.Contains(strings.Join(snap.Reasons, "\n"), want) || (name == "only") != (len(snap.Reasons) == 1) {
			t.Errorf("%s: %+v", name, snap)
		}
		stored, err := archive.New(st).Load(t.Context(), snap.ID)
		if err != nil {
			t.Fatal(err)
		}
		if c := stored.Manifest.Nodes[0].Capture; len(c) != 1 || c[0].From != from || c[0].To != to || len(c[0].Interfaces) == 0 {
			t.Errorf("%s: what was to be recorded is %+v, want it cut to the window", name, c)
		}
	}
	mustVerify(t, st)
}

func TestEmptyWindowIsNoFailure(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, nil)
	s.newAgent("quiet", func(a *agent) {
		a.forge = func(_ *agent, part *api.CompleteRequest) {
			now := manifest.NanosOf(time.Now())
			part.Node.Coverage = []manifest.Interval{{From: now - 1e12, To: now + 1e12}}
		}
	})
	snap := mustCreate(t, s.client(), api.CreateRequest{Name: "quiet", Last: "1m"})
	if snap.Status != manifest.Completed || snap.Records != 0 {
		t.Errorf("%+v", snap)
	}
	mustVerify(t, st)
	out, err := s.client().Pcap(t.Context(), "quiet", api.PcapQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if len(readAll(t, out)) == 0 {
		t.Error("an empty capture has a header")
	}
}

func TestNamesAreUnique(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, nil)
	s.newAgent("a", nil, packets(t, "a", recent(), 10))
	c := s.client()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var made []string
	for range 8 {
		wg.Go(func() {
			snap, err := c.Create(t.Context(), api.CreateRequest{Name: "outage", Last: "5m"})
			if err != nil {
				wantCode(t, err, http.StatusConflict, api.CodeNameTaken)
				return
			}
			snap, err = c.WaitSnapshot(t.Context(), snap.ID, nil)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			made = append(made, snap.ID)
		})
	}
	wg.Wait()
	if len(made) > 1 {
		t.Errorf("%d snapshots of one name", len(made))
	}
	// Without a name there is always one.
	for range 3 {
		mustCreate(t, c, api.CreateRequest{Last: "5m"})
	}
	mustVerify(t, st)
}

func TestDeleteWhileCreating(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, nil)
	a := s.newAgent("a", func(a *agent) { a.pace = hangAt("complete") }, packets(t, "a", recent(), 10))
	c := s.client()
	begun, err := c.Create(t.Context(), api.CreateRequest{Name: "oops", Last: "5m"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Pcap(t.Context(), "oops", api.PcapQuery{})
	wantCode(t, err, http.StatusConflict, api.CodeNotCompleted)
	if err := c.Delete(t.Context(), "oops"); err != nil {
		t.Fatal(err)
	}
	_, err = c.WaitSnapshot(t.Context(), begun.ID, nil)
	wantCode(t, err, http.StatusConflict, api.CodeNotCompleted)
	await(t, func() bool { return len(a.pinned()) == 0 })
	if _, err := archive.New(st).Begin(t.Context(), archive.Intent{
		Name: "oops", Kind: archive.KindImport, Created: time.Now(), Deadline: time.Now().Add(time.Hour),
	}); err != nil {
		t.Errorf("the name is not free: %v", err)
	}
}

func TestImport(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, nil)
	c := s.client()
	old := time.Date(2019, 3, 1, 12, 0, 0, 0, time.UTC)
	begun, err := c.Create(t.Context(), api.CreateRequest{Name: "old", Import: true, Nodes: []string{"y", "x"}})
	if err != nil {
		t.Fatal(err)
	}
	for i, node := range []string{"x", "y"} {
		a := &agent{t: t, name: node, client: c, chunks: []sample{packets(t, node, old.Add(time.Duration(i)*time.Hour), 11)}}
		everything := manifest.Interval{From: 0, To: manifest.NanosOf(time.Now())}
		if err := a.take(t.Context(), api.Task{Session: begun.ID, Window: everything}); err != nil {
			t.Fatal(err)
		}
	}
	snap, err := c.WaitSnapshot(t.Context(), begun.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := old.Add(time.Hour + 10*time.Millisecond + 1); !snap.Start.Equal(old) || !snap.End.Equal(want) || snap.Status != manifest.Completed {
		t.Errorf("%s from %s to %s, want %s to %s", snap.Status, snap.Start, snap.End, old, want)
	}
	mustVerify(t, st)
}

func TestPollAnswersOnce(t *testing.T) {
	s := newSite(t, storetest.NewMemory(t, nil), nil)
	a := s.newAgent("a", func(a *agent) { a.pace = hangAt("pin") })
	if _, err := s.client().Create(t.Context(), api.CreateRequest{Name: "x", Last: "5m"}); err != nil {
		t.Fatal(err)
	}
	// The agent has the task, works on it, and comes back: no busy loop.
	time.Sleep(500 * time.Millisecond)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.polls > 4 {
		t.Errorf("%d polls in half a second", a.polls)
	}
}

// BenchmarkSecondSnapshot is of 128 chunks, a GiB in real life, that are in a
// folder already.
func BenchmarkSecondSnapshot(b *testing.B) {
	s := newSite(b, folder(b), nil)
	start := recent()
	var chunks []sample
	for i := range 128 {
		chunks = append(chunks, packets(b, "a", start.Add(time.Duration(i)*100*time.Millisecond), 10))
	}
	s.newAgent("a", nil, chunks...)
	c := s.client()
	req := api.CreateRequest{From: start.Add(-time.Second), To: start.Add(20 * time.Second)}
	take := func(name string) {
		req.Name = name
		begun, err := c.Create(b.Context(), req)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.WaitSnapshot(b.Context(), begun.ID, nil); err != nil {
			b.Fatal(err)
		}
	}
	take("first")
	n := 0
	for b.Loop() {
		n++
		take("again-" + strconv.Itoa(n))
	}
}

// A node that dies together with the hub is missed by the next hub of the cluster
// as well: it is named, not left out.
func TestNewHubMissesNodes(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, func(c *Config) { c.Cluster = true })
	usual := func(a *agent) { a.forge = func(_ *agent, p *api.CompleteRequest) { p.Node.Versions.Kernel = "6.1" } }
	s.newAgent("a", usual, packets(t, "a", recent(), 10))
	s.newAgent("b", usual, packets(t, "b", recent(), 10))
	c := s.client()
	begun, err := c.Create(t.Context(), api.CreateRequest{Name: "before", Last: "5m"})
	if err != nil {
		t.Fatal(err)
	}
	if snap, err := c.WaitSnapshot(t.Context(), begun.ID, nil); err != nil || len(snap.Nodes) != 2 {
		t.Fatalf("%+v, %v", snap, err)
	}
	s.stop()

	later := func(d time.Duration, heard ...string) string {
		t.Helper()
		cfg := s.cfg
		cfg.Now = func() time.Time { return time.Now().Add(d) }
		h, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		h.expect(t.Context())
		for _, name := range heard {
			if _, err := h.heard(name, &api.PollRequest{}, h.now()); err != nil {
				t.Fatal(err)
			}
		}
		got, err := h.chooseNodes(t.Context(), nil, manifest.Interval{From: manifest.NanosOf(h.now().Add(-time.Minute)), To: manifest.NanosOf(h.now())})
		if err != nil {
			return problem(err).Code
		}
		return strings.Join(got, " ")
	}
	for _, tt := range []struct {
		after time.Duration
		heard []string
		want  string
	}{
		{time.Minute, []string{"b"}, "a b"},
		{time.Minute, []string{"b", "a", "c"}, "a b c"},
		{time.Minute, nil, api.CodeNotRecorded},
		{nodeMemory + time.Minute, []string{"b"}, "b"},
	} {
		if got := later(tt.after, tt.heard...); got != tt.want {
			t.Errorf("after %s, of %v: %s, want %s", tt.after, tt.heard, got, tt.want)
		}
	}
}
