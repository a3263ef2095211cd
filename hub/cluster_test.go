package hub

import (
	"context"
	"math/rand/v2"
	"slices"
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

func iv(from, to manifest.Nanos) manifest.Interval { return manifest.Interval{From: from, To: to} }

func gapOf(reason string, from, to manifest.Nanos, detail string) manifest.Gap {
	return manifest.Gap{Stream: chunker.Kubernetes, Reason: reason, From: from, To: to, Detail: detail}
}

// sec is a second, in which these tests count.
const sec = manifest.Nanos(time.Second)

func TestAccountFor(t *testing.T) {
	window := iv(100*sec, 200*sec)
	none := func(node string) *recording {
		return &recording{node: node, gaps: []manifest.Gap{gapOf(manifest.GapNotRunning, 100*sec, 200*sec, "")}}
	}
	covers := func(node string, covered manifest.Interval, gaps ...manifest.Gap) *recording {
		return &recording{node: node, coverage: []manifest.Interval{covered}, gaps: gaps}
	}
	for _, tt := range []struct {
		name       string
		recordings []*recording
		vain       []string
		want       account
	}{
		{
			name: "one recorded all", recordings: []*recording{none("b"), covers("a", window), none("c")},
			want: account{coverage: []manifest.Interval{window}},
		},
		{
			name: "nobody recorded", recordings: []*recording{none("b"), none("a")},
			want: account{gaps: []manifest.Gap{gapOf(manifest.GapNotRunning, 100*sec, 200*sec, "")}},
		},
		{
			name: "a hand-over without a gap",
			recordings: []*recording{
				covers("a", iv(100*sec, 150*sec), gapOf(manifest.GapNotRunning, 150*sec, 200*sec, "")),
				covers("b", iv(149*sec, 200*sec), gapOf(manifest.GapNotRunning, 100*sec, 149*sec, "")),
			},
			want: account{coverage: []manifest.Interval{window}},
		},
		{
			name: "a hand-over after a crash",
			recordings: []*recording{
				covers("a", iv(100*sec, 150*sec), gapOf(manifest.GapNotRunning, 150*sec, 200*sec, "")),
				covers("b", iv(165*sec, 200*sec), gapOf(manifest.GapNotRunning, 100*sec, 165*sec, "")),
			},
			want: account{
				coverage: []manifest.Interval{iv(100*sec, 150*sec), iv(165*sec, 200*sec)},
				gaps:     []manifest.Gap{gapOf(manifest.GapNotRunning, 150*sec, 165*sec, "")},
			},
		},
		{
			name: "what one lost and another has",
			recordings: []*recording{
				covers("a", window, gapOf(manifest.GapWatchLost, 120*sec, 140*sec, "")),
				covers("b", iv(110*sec, 130*sec)),
			},
			want: account{
				coverage: []manifest.Interval{iv(100*sec, 130*sec), iv(140*sec, 200*sec)},
				gaps:     []manifest.Gap{gapOf(manifest.GapWatchLost, 130*sec, 140*sec, "node a")},
			},
		},
		{
			name: "recycled, and nobody since",
			recordings: []*recording{
				none("b"),
				{node: "a", coverage: []manifest.Interval{iv(140*sec, 160*sec)}, gaps: []manifest.Gap{
					gapOf(manifest.GapEvicted, 100*sec, 140*sec, "its disk was full"), gapOf(manifest.GapNotRunning, 160*sec, 200*sec, ""),
				}},
			},
			want: account{
				coverage: []manifest.Interval{iv(140*sec, 160*sec)},
				gaps: []manifest.Gap{
					gapOf(manifest.GapEvicted, 100*sec, 140*sec, "node a: its disk was full"), gapOf(manifest.GapNotRunning, 160*sec, 200*sec, ""),
				},
			},
		},
		{
			name: "asked in vain", recordings: []*recording{covers("a", iv(100*sec, 150*sec))}, vain: []string{"b", "c"},
			want: account{
				coverage: []manifest.Interval{iv(100*sec, 150*sec)},
				gaps:     []manifest.Gap{gapOf(manifest.GapUnreachable, 150*sec, 200*sec, "not handed in by b, c")},
			},
		},
		{
			name: "all asked in vain", vain: []string{"b"},
			want: account{gaps: []manifest.Gap{gapOf(manifest.GapUnreachable, 100*sec, 200*sec, "not handed in by b")}},
		},
		{
			name: "clocks that are ahead and behind",
			recordings: []*recording{
				{node: "ahead", clock: manifest.Clock{Offset: 300 * sec, Error: 1000}, coverage: []manifest.Interval{iv(400*sec, 450*sec)}},
				{node: "behind", clock: manifest.Clock{Offset: -300 * sec, Error: 1000}, coverage: []manifest.Interval{iv(-150*sec, -120*sec)},
					gaps: []manifest.Gap{gapOf(manifest.GapDamaged, -120*sec, -100*sec, "")}},
			},
			want: account{
				coverage: []manifest.Interval{iv(100*sec, 180*sec)},
				gaps:     []manifest.Gap{gapOf(manifest.GapDamaged, 180*sec, 200*sec, "node behind")},
			},
		},
		{
			name: "ends that are a moment short, by clocks that are not known well",
			recordings: []*recording{
				{node: "a", clock: manifest.Clock{Error: sec}, coverage: []manifest.Interval{iv(102*sec, 198*sec)}},
			},
			want: account{coverage: []manifest.Interval{iv(102*sec, 198*sec)}},
		},
		{
			name: "a clock that was set",
			recordings: []*recording{
				covers("a", window, gapOf(manifest.GapClockStep, 120*sec, 140*sec, "backward")),
			},
			want: account{
				coverage: []manifest.Interval{window},
				gaps:     []manifest.Gap{gapOf(manifest.GapClockStep, 120*sec, 140*sec, "node a: backward")},
			},
		},
		{
			name: "a count is told once",
			recordings: []*recording{
				covers("a", window, manifest.Gap{Stream: chunker.Kubernetes, Reason: manifest.GapDamaged, From: 110 * sec, To: 150 * sec, Count: 7}),
				covers("b", iv(120*sec, 130*sec)),
			},
			want: account{
				coverage: []manifest.Interval{iv(100*sec, 110*sec), iv(120*sec, 130*sec), iv(150*sec, 200*sec)},
				gaps: []manifest.Gap{
					{Stream: chunker.Kubernetes, Reason: manifest.GapDamaged, From: 110 * sec, To: 120 * sec, Count: 7, Detail: "node a"},
					gapOf(manifest.GapDamaged, 130*sec, 150*sec, "node a"),
				},
			},
		},
		{
			name: "outside the window", recordings: []*recording{covers("a", iv(0, 50*sec), gapOf(manifest.GapDamaged, 10*sec, 20*sec, ""))},
			want: account{gaps: []manifest.Gap{gapOf(manifest.GapNotRunning, 100*sec, 200*sec, "")}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 5 { // in any order
				rand.Shuffle(len(tt.recordings), func(i, j int) {
					tt.recordings[i], tt.recordings[j] = tt.recordings[j], tt.recordings[i]
				})
				got := accountFor(window, tt.recordings, tt.vain)
				if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(account{})); d != "" {
					t.Fatalf("(-want +got):\n%s", d)
				}
			}
		})
	}
}

// FuzzAccountFor: whatever recorders claim, the account is one that a manifest can
// hold, and tells of the whole window.
func FuzzAccountFor(f *testing.F) {
	f.Add(int64(0), int64(0), []byte{10, 20, 0, 40, 60, 1, 70, 5, 2})
	f.Add(int64(30), int64(1)<<62, []byte{0, 255, 0, 0, 255, 3, 3, 3, 4})
	f.Add(int64(-30), int64(5), []byte{1, 99, 0, 0, 50, 0, 60, 40, 5, 50, 50, 6})
	reasons := []string{
		manifest.GapNotRunning, manifest.GapEvicted, manifest.GapDamaged, manifest.GapClockStep, manifest.GapWatchLost, manifest.GapKernelDrop,
	}
	f.Fuzz(func(t *testing.T, offset, fault int64, b []byte) {
		window := iv(100*sec, 200*sec)
		var list []*recording
		r := &recording{node: "a", clock: manifest.Clock{Offset: manifest.Nanos(offset), Error: manifest.Nanos(max(fault, 0))}}
		for ; len(b) >= 3; b = b[3:] {
			from := 50*sec + manifest.Nanos(b[0])*sec
			at := iv(from, from+manifest.Nanos(b[1])*sec)
			if kind := int(b[2]); kind%2 == 0 {
				r.gaps = append(r.gaps, gapOf(reasons[kind/2%len(reasons)], at.From, at.To, ""))
			} else if n := len(r.coverage); at.From < at.To && (n == 0 || r.coverage[n-1].To <= at.From) {
				r.coverage = append(r.coverage, at)
			}
			if b[2] > 200 {
				list = append(list, r)
				r = &recording{node: r.node + "a"}
			}
		}
		a := accountFor(window, append(list, r), nil)
		m := manifest.Manifest{
			Format: manifest.Format, Version: manifest.Version, ID: "20261123T013614.123456Z-0123456789", Name: "x", Created: 1, Window: window,
			Status: manifest.Completed, Creator: manifest.Tool{Name: "test"}, Coverage: a.coverage, Gaps: a.gaps,
		}
		if err := m.Validate(); err != nil {
			t.Fatal(err)
		}
		for _, rest := range m.Unexplained() {
			if rest.From != window.From && rest.To != window.To {
				t.Errorf("nothing is said of %v: %+v", rest, a)
			}
		}
		for _, c := range a.coverage {
			if c.From < window.From || c.To > window.To {
				t.Errorf("coverage %v is not of the window", c)
			}
		}
	})
}

func TestMergeRecordings(t *testing.T) {
	entry := func(n byte, first manifest.Nanos, records uint64) manifest.Entry {
		return manifest.Entry{
			Key:  manifest.ObjectKey{Kind: manifest.KindChunk, Hash: chunker.HashOf([]byte{n}), Ext: chunker.EventsExt}.String(),
			Size: 10, RawSize: 100, SHA256: strings.Repeat("0", 64), First: first, Last: first + 5, Records: records,
		}
	}
	again := entry(1, 10, 2) // claims something else of a chunk of another
	again.Key = strings.Replace(again.Key, ".ndjson", ".3.ndjson", 1)
	list := []*recording{
		{node: "b", entries: []manifest.Entry{again, entry(3, 5, 1)}},
		{node: "c"},
		{node: "a", entries: []manifest.Entry{entry(1, 10, 1), entry(2, 20, 1)}},
	}
	want := manifest.EncodeInventory([]manifest.Entry{entry(3, 5, 1), entry(1, 10, 1), entry(2, 20, 1)})
	for range 6 {
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		got := manifest.EncodeInventory(mergeRecordings(list))
		if d := cmp.Diff(string(want), string(got)); d != "" {
			t.Fatalf("(-want +got):\n%s", d)
		}
		if _, err := manifest.DecodeInventory(got); err != nil {
			t.Fatal(err)
		}
	}
}

// recorded is the account of an agent whose turn it was for a while, by its
// clock.
func recorded(from, to time.Time) func(manifest.Interval) *api.Recording {
	return func(window manifest.Interval) *api.Recording {
		r := &api.Recording{Coverage: clip([]manifest.Interval{iv(manifest.NanosOf(from), manifest.NanosOf(to))}, window)}
		for _, i := range manifest.Uncovered(window, r.Coverage) {
			r.Gaps = append(r.Gaps, gapOf(manifest.GapNotRunning, i.From, i.To, ""))
		}
		return r
	}
}

// inCluster makes an agent one of a cluster, which recorded for a while.
func inCluster(t *testing.T, from, to time.Time) func(*agent) {
	return func(a *agent) {
		a.cluster = recorded(from, to)
		if from.Before(to) {
			a.events = append(a.events, events(t, a.name, from, int(to.Sub(from)/time.Second)))
		}
	}
}

func load(t *testing.T, st store.Store, id string) *archive.Snapshot {
	t.Helper()
	s, err := archive.New(st).Load(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func names(m *manifest.Manifest) (list []string) {
	for _, n := range m.Nodes {
		list = append(list, n.Name)
	}
	return list
}

// TestClusterStream has three nodes of a cluster of which two recorded its
// stream, one after the other.
func TestClusterStream(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, nil)
	start := recent()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	none := inCluster(t, start, start)
	s.newAgent("a", inCluster(t, at(0), at(10)), packets(t, "a", start, 10))
	s.newAgent("b", inCluster(t, at(10), at(20)), packets(t, "b", start, 10))
	s.newAgent("c", none, packets(t, "c", start, 10))
	c := s.client()
	window := api.CreateRequest{From: at(0), To: at(20)}

	var streams []manifest.Stream
	for i, tt := range []struct {
		name  string
		nodes []string // none: all
	}{
		{"all", nil}, {"one", []string{"c"}}, {"recorder", []string{"a"}},
	} {
		window.Name, window.Nodes = tt.name, tt.nodes
		snap := mustCreate(t, c, window)
		if snap.Status != manifest.Completed || len(snap.Warnings) > 0 {
			t.Errorf("%s: %+v", tt.name, snap)
		}
		stored := load(t, st, snap.ID)
		m := stored.Manifest
		want := tt.nodes
		if want == nil {
			want = []string{"a", "b", "c"}
		}
		if d := cmp.Diff(want, names(m)); d != "" {
			t.Errorf("%s: nodes %s", tt.name, d)
		}
		if d := cmp.Diff([]manifest.Interval{m.Window}, m.Coverage); d != "" || len(m.Gaps) > 0 {
			t.Errorf("%s: gaps %v, coverage %s", tt.name, m.Gaps, d)
		}
		if len(m.Streams) != 1 || m.Streams[0].Stream != chunker.Kubernetes || m.Streams[0].Chunks != 2 || m.Streams[0].Records != 20 {
			t.Fatalf("%s: streams %+v", tt.name, m.Streams)
		}
		if entries, err := stored.Inventory(t.Context(), m.Streams[0]); err != nil || len(entries) != 2 {
			t.Errorf("%s: %d chunks, error %v", tt.name, len(entries), err)
		}
		if streams = append(streams, m.Streams[0]); streams[i] != streams[0] {
			t.Errorf("%s: the same recordings make %+v and %+v", tt.name, streams[0], streams[i])
		}
		mustVerify(t, st)
	}
	// Whoever was asked for the stream alone is told when that is over, too.
	await(t, func() bool {
		s.hub.mu.Lock()
		defer s.hub.mu.Unlock()
		return !slices.ContainsFunc([]string{"a", "b", "c"}, func(n string) bool { return len(s.hub.nodes[n].told) > 0 })
	})

	// What is sent once is not sent again.
	st.Puts()
	window.Name, window.Nodes = "again", nil
	again := mustCreate(t, c, window)
	want := []string{
		manifest.IntentPath(again.ID), manifest.SignaturePath(again.ID),
		manifest.SignersPath(again.ID), manifest.ManifestPath(again.ID),
	}
	if d := cmp.Diff(want, st.Puts()); d != "" {
		t.Errorf("the second snapshot put: %s", d)
	}
}

func TestClusterGaps(t *testing.T) {
	start := recent()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	for _, tt := range []struct {
		name  string
		a, b  func(*agent)
		gaps  int
		says  string // the warning
		chunk bool
	}{
		{"no cluster", func(*agent) {}, func(*agent) {}, 0, "", false},
		{"nobody recorded", inCluster(t, start, start), inCluster(t, start, start), 1, "no agent followed the cluster", false},
		{"a crash", inCluster(t, at(0), at(5)), inCluster(t, at(15), at(20)), 1, "no agent followed the cluster", true},
		{"the API server was away", inCluster(t, start, start), func(a *agent) {
			inCluster(t, at(0), at(20))(a)
			all := a.cluster
			a.cluster = func(window manifest.Interval) *api.Recording {
				r := all(window)
				r.Gaps = append(r.Gaps, gapOf(manifest.GapWatchLost, manifest.NanosOf(at(5)), manifest.NanosOf(at(8)), ""))
				return r
			}
		}, 1, "the API server could not be asked (node b)", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			st := storetest.NewMemory(t, nil)
			s := newSite(t, st, nil)
			s.newAgent("a", tt.a, packets(t, "a", start, 10))
			s.newAgent("b", tt.b, packets(t, "b", start, 10))
			snap := mustCreate(t, s.client(), api.CreateRequest{Name: "x", From: at(0), To: at(20)})
			if snap.Status != manifest.Completed {
				t.Errorf("gaps of the cluster make it %s: %v", snap.Status, snap.Reasons)
			}
			if tt.says == "" && len(snap.Warnings) > 0 || tt.says != "" && (len(snap.Warnings) != 1 || !strings.Contains(snap.Warnings[0], tt.says)) {
				t.Errorf("warnings %q, want one with %q", snap.Warnings, tt.says)
			}
			m := load(t, st, snap.ID).Manifest
			if len(m.Gaps) != tt.gaps || (len(m.Streams) > 0) != tt.chunk || m.Clustered() != (tt.name != "no cluster") {
				t.Errorf("gaps %+v, coverage %v, streams %+v", m.Gaps, m.Coverage, m.Streams)
			}
			mustVerify(t, st)
		})
	}
}

// TestRecorderIsLate: a node that the snapshot is not of, and that recorded the
// stream, does not answer, or does not come to an end.
func TestRecorderIsLate(t *testing.T) {
	for _, step := range []string{"pin", "complete"} {
		t.Run(step, func(t *testing.T) {
			st := storetest.NewMemory(t, nil)
			var mu sync.Mutex
			now := time.Now()
			s := newSite(t, st, func(c *Config) {
				c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
				c.FirstAnswer, c.SessionTimeout = 30*time.Second, 2*time.Minute
			})
			pass := func(d time.Duration) {
				mu.Lock()
				now = now.Add(d)
				mu.Unlock()
				s.hub.tick()
			}
			start := recent()
			s.newAgent("a", inCluster(t, start, start), packets(t, "a", start, 10))
			s.newAgent("b", func(a *agent) {
				inCluster(t, start, start.Add(10*time.Second))(a)
				a.pace = hangAt(step)
			}, packets(t, "b", start, 10))
			begun, err := s.client().Create(t.Context(), api.CreateRequest{Name: "x", From: start, To: start.Add(10 * time.Second), Nodes: []string{"a"}})
			if err != nil {
				t.Fatal(err)
			}
			open := s.hub.session("x")
			settled := func(name string) func() bool {
				return func() bool {
					open.mu.Lock()
					defer open.mu.Unlock()
					return open.parts[name].settled() || step == "complete" && name == "b" && open.parts[name].progress.State == stateUploading
				}
			}
			await(t, settled("a"))
			if step == "complete" {
				await(t, settled("b"))
			}
			pass(extraPatience - time.Second)
			if open.over() {
				t.Error("the hub does not wait at all")
			}
			// What it did at last may have been a moment after the start.
			pass(2 * time.Second)
			snap, err := s.client().WaitSnapshot(t.Context(), begun.ID, nil)
			if err != nil {
				t.Fatal(err)
			}
			if snap.Status != manifest.Completed || !slices.Equal(snap.Nodes, []string{"a"}) ||
				len(snap.Warnings) != 1 || !strings.Contains(snap.Warnings[0], "is missing (not handed in by b)") {
				t.Errorf("%+v", snap)
			}
			if m := load(t, st, snap.ID).Manifest; len(m.Gaps) != 1 || m.Gaps[0].Reason != manifest.GapUnreachable || len(m.Coverage)+len(m.Streams) > 0 {
				t.Errorf("gaps %+v, coverage %v, streams %+v", m.Gaps, m.Coverage, m.Streams)
			}
			mustVerify(t, st)
		})
	}
}

// TestClusterClocks has clocks of nodes that are minutes off.
func TestClusterClocks(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, nil)
	start := recent()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	for name, off := range map[string]time.Duration{"ahead": 5 * time.Minute, "behind": -5 * time.Minute} {
		from, to := at(0), at(10)
		if off < 0 {
			from, to = at(10), at(20)
		}
		s.newAgent(name, func(a *agent) {
			a.clock = manifest.Clock{Offset: manifest.Nanos(off), Error: 1e6}
			inCluster(t, from.Add(off), to.Add(off))(a)
		}, packets(t, name, start.Add(off), 10))
	}
	snap := mustCreate(t, s.client(), api.CreateRequest{Name: "x", From: at(0), To: at(20)})
	m := load(t, st, snap.ID).Manifest
	if snap.Status != manifest.Completed || len(snap.Warnings) > 0 || len(m.Gaps) > 0 {
		t.Errorf("%+v, gaps %+v", snap, m.Gaps)
	}
	if d := cmp.Diff([]manifest.Interval{m.Window}, m.Coverage); d != "" {
		t.Error(d)
	}
	if m.Streams[0].Records != 20 || m.Totals.Records != 40 {
		t.Errorf("%+v, in all %+v", m.Streams, m.Totals)
	}
	mustVerify(t, st)
}

// TestClusterStreamEverywhere takes a snapshot with a stream of the cluster all
// the way: made, listed, downloaded, verified, deleted, swept.
func TestClusterStreamEverywhere(t *testing.T) {
	for name, open := range map[string]func(*testing.T) store.Store{
		"folder": func(t *testing.T) store.Store { return folder(t) },
		"S3": func(t *testing.T) store.Store {
			opt := storetest.MinIO(t)
			st, err := store.NewS3(t.Context(), opt)
			if err != nil {
				t.Fatal(err)
			}
			return st
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := open(t)
			s := newSite(t, st, nil)
			start := recent()
			at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
			s.newAgent("a", inCluster(t, at(0), at(10)), packets(t, "a", start, 10))
			s.newAgent("b", inCluster(t, at(10), at(20)), packets(t, "b", start, 10))
			c := s.client()
			snap := mustCreate(t, c, api.CreateRequest{Name: "x", From: at(0), To: at(20), Nodes: []string{"a"}})
			list, err := c.Snapshots(t.Context())
			if err != nil || len(list) != 1 || list[0].Records != 10 {
				t.Errorf("list %+v, error %v", list, err)
			}
			mustVerify(t, st)

			body, err := c.Archive(t.Context(), "x")
			if err != nil {
				t.Fatal(err)
			}
			tar := readAll(t, body)
			copied, err := store.NewTar(strings.NewReader(string(tar)), int64(len(tar)))
			if err != nil {
				t.Fatal(err)
			}
			mustVerify(t, copied)
			stored := load(t, copied, snap.ID)
			if entries, err := stored.Inventory(t.Context(), stored.Manifest.Streams[0]); err != nil || len(entries) != 2 {
				t.Errorf("%d chunks in the tar, error %v", len(entries), err)
			}

			// A sweep keeps what a living snapshot holds, and no more.
			if r, err := c.Sweep(t.Context(), false); err != nil || r.Deleted > 2 { // inventories of single recorders
				t.Errorf("sweep: %+v, error %v", r, err)
			}
			mustVerify(t, st)
			if err := c.Delete(t.Context(), "x"); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Sweep(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			for info, err := range st.List(context.Background(), "") {
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasPrefix(info.Key, manifest.KindChunk+"/") || strings.HasPrefix(info.Key, manifest.KindInventory+"/") {
					t.Errorf("%s is left", info.Key)
				}
			}
		})
	}
}
