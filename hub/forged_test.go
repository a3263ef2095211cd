package hub

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"pcapsule/archive"
	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

func TestForgedParts(t *testing.T) {
	start := recent()
	other := packets(t, "other", start, 20)
	// rewrite uploads an inventory with changed entries in place of the right one.
	rewrite := func(a *agent, part *api.CompleteRequest, change func([]manifest.Entry) []manifest.Entry) {
		list, err := a.client.Snapshots(context.Background())
		if err != nil {
			t.Error(err)
			return
		}
		session := list[len(list)-1].ID
		var entries []manifest.Entry
		for _, c := range a.chunks {
			e := c.entry
			e.Key = manifest.ObjectKey{Kind: manifest.KindChunk, Hash: c.hash, Ext: chunker.PacketsExt}.String()
			entries = append(entries, e)
		}
		entries = change(entries)
		b := manifest.EncodeInventory(entries)
		body := store.Bytes(b)
		keys, err := a.put(context.Background(), session, []api.Object{{
			Hash: chunker.HashOf(b), SHA256: hex.EncodeToString(body.SHA256[:]), Size: int64(len(b)), Kind: manifest.KindInventory, Ext: manifest.InventoryExt,
		}}, [][]byte{b})
		if err != nil {
			t.Error(err)
			return
		}
		part.Node.Streams[0] = manifest.SumInventory(chunker.Packets, entries)
		part.Node.Streams[0].Inventory, part.Node.Streams[0].InventorySize = keys[0], int64(len(b))
	}
	for _, test := range []struct {
		name  string
		says  string
		forge func(*agent, *api.CompleteRequest)
	}{
		{"another node", "is handed in for node", nil}, // below
		{"sum", "does not add up", func(_ *agent, p *api.CompleteRequest) { p.Node.Streams[0].Records++ }},
		{"inventory size", "was not placed", func(_ *agent, p *api.CompleteRequest) { p.Node.Streams[0].InventorySize++ }},
		{"inventory key", "was not placed", func(_ *agent, p *api.CompleteRequest) {
			p.Node.Streams[0].Inventory = manifest.ObjectKey{Kind: manifest.KindInventory, Hash: chunker.HashOf([]byte("x")), Ext: manifest.InventoryExt}.String()
		}},
		{"key outside", "not valid", func(_ *agent, p *api.CompleteRequest) { p.Node.Streams[0].Inventory = "../../etc/passwd" }},
		{"chunk as inventory", "not valid", func(a *agent, p *api.CompleteRequest) {
			p.Node.Streams[0].Inventory = manifest.ObjectKey{Kind: manifest.KindChunk, Hash: a.chunks[0].hash, Ext: chunker.PacketsExt}.String()
		}},
		{"other node's chunk", "was not placed", func(a *agent, p *api.CompleteRequest) {
			rewrite(a, p, func(e []manifest.Entry) []manifest.Entry {
				o := other.entry
				o.Key = manifest.ObjectKey{Kind: manifest.KindChunk, Hash: other.hash, Ext: chunker.PacketsExt}.String()
				return append(e, o)
			})
		}},
		{"chunk size", "was not placed", func(a *agent, p *api.CompleteRequest) {
			rewrite(a, p, func(e []manifest.Entry) []manifest.Entry { e[0].Size--; return e })
		}},
		{"chunk sum", "was not placed", func(a *agent, p *api.CompleteRequest) {
			rewrite(a, p, func(e []manifest.Entry) []manifest.Entry { e[0].SHA256 = strings.Repeat("0", 64); return e })
		}},
		{"stream", "is none of a node", func(_ *agent, p *api.CompleteRequest) { p.Node.Streams[0].Stream = chunker.Kubernetes }},
		{"unreachable", "not valid", func(_ *agent, p *api.CompleteRequest) { p.Node.Status = manifest.Unreachable }},
		{"clock", "a clock is said", func(_ *agent, p *api.CompleteRequest) { p.Node.Clock.Offset = 1 << 62 }},
		{"terminal codes", "unprintable", func(_ *agent, p *api.CompleteRequest) { p.Node.Versions.Kernel = "\x1b[2J" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.forge == nil {
				test.forge = func(_ *agent, p *api.CompleteRequest) { p.Node.Name = "other" }
			}
			st := storetest.NewMemory(t, nil)
			s := newSite(t, st, nil)
			s.newAgent("other", nil, other)
			refused := make(chan error, 1)
			s.newAgent("evil", func(a *agent) {
				a.forge = func(a *agent, part *api.CompleteRequest) {
					session := a.pinned()[0]
					name := part.Node.Name
					test.forge(a, part)
					err := a.client.Complete(context.Background(), session, name, *part)
					refused <- err
					part.Node.Name = "evil" // the path of what comes next
				}
			}, packets(t, "evil", start, 10))
			begun, err := s.client().Create(t.Context(), api.CreateRequest{Name: "forged", Last: "5m"})
			if err != nil {
				t.Fatal(err)
			}
			err = <-refused
			if e := wantCode(t, err, http.StatusBadRequest, api.CodeInvalid); !strings.Contains(e.Message, test.says) {
				t.Errorf("%q does not say %q", e.Message, test.says)
			}
			// The agent gets nowhere, and the snapshot does without it.
			await(t, func() bool {
				s.hub.expireSessions(time.Now().Add(time.Minute))
				return s.hub.session(begun.ID).over()
			})
			if snap, err := s.client().Snapshot(t.Context(), begun.ID); err == nil && snap.Status == manifest.Completed && test.name != "another node" {
				t.Errorf("a forged part made it into %+v", snap)
			}
			mustVerify(t, st)
		})
	}
}

// TestPartsThatWereNotKept has a store forget what an agent was told is stored.
func TestPartsThatWereNotKept(t *testing.T) {
	for _, kind := range []string{manifest.KindChunk, manifest.KindInventory} {
		t.Run(kind, func(t *testing.T) {
			st := storetest.NewMemory(t, nil)
			s := newSite(t, st, nil)
			refused := make(chan error, 1)
			s.newAgent("a", func(a *agent) {
				a.forge = func(a *agent, part *api.CompleteRequest) {
					key := part.Node.Streams[0].Inventory
					if kind == manifest.KindChunk {
						key = keyOf(a.chunks[0], chunker.Packets)
					}
					if err := st.Delete(context.Background(), key); err != nil {
						t.Error(err)
					}
					refused <- a.client.Complete(context.Background(), a.pinned()[0], part.Node.Name, *part)
				}
			}, packets(t, "a", recent(), 10))
			begun, err := s.client().Create(t.Context(), api.CreateRequest{Name: "lost", Last: "5m"})
			if err != nil {
				t.Fatal(err)
			}
			if e := wantCode(t, <-refused, http.StatusBadRequest, api.CodeInvalid); !strings.Contains(e.Message, kind) || !strings.Contains(e.Message, "did not keep it") {
				t.Errorf("%q does not say that a part of %s was not kept", e.Message, kind)
			}
			await(t, func() bool {
				s.hub.expireSessions(time.Now().Add(time.Minute))
				return s.hub.session(begun.ID).over()
			})
			if snap, err := s.client().Snapshot(t.Context(), begun.ID); err == nil && snap.Status == manifest.Completed {
				t.Errorf("%+v is completed without its %s", snap, kind)
			}
			mustVerify(t, st)
		})
	}
}

// keyOf is where a sample lies in a store without condemned lists.
func keyOf(c sample, stream string) string {
	return manifest.ObjectKey{Kind: manifest.KindChunk, Hash: c.hash, Ext: chunker.Ext(stream)}.String()
}

// TestForgedRecordings has a node that lies about the stream of the cluster: one
// of the snapshot's nodes, or one that is asked for that stream only.
func TestForgedRecordings(t *testing.T) {
	start := recent()
	end := start.Add(10 * time.Second)
	other := events(t, "other", start, 10)
	ctx := context.Background()
	// list changes the evil node's inventory of the stream.
	list := func(change func(*agent, []manifest.Entry) []manifest.Entry) func(*agent, *api.CompleteRequest) {
		return func(a *agent, p *api.CompleteRequest) {
			var entries []manifest.Entry
			for _, c := range a.events {
				c.entry.Key = keyOf(c, chunker.Kubernetes)
				entries = append(entries, c.entry)
			}
			s, err := a.inventory(ctx, a.pinned()[0], chunker.Kubernetes, change(a, entries))
			if err != nil {
				t.Error(err)
			}
			p.Kubernetes.Stream = &s
		}
	}
	for _, test := range []struct {
		name  string
		says  string
		forge func(*agent, *api.CompleteRequest)
	}{
		{"sum", "does not add up", func(_ *agent, p *api.CompleteRequest) { p.Kubernetes.Stream.Records-- }},
		{"times of the sum", "does not add up", func(_ *agent, p *api.CompleteRequest) { p.Kubernetes.Stream.Last++ }},
		{"fewer chunks", "does not add up", func(_ *agent, p *api.CompleteRequest) { p.Kubernetes.Stream.Chunks = 1 }},
		{"inventory of another node", "was not placed", func(a *agent, p *api.CompleteRequest) {
			e := other.entry
			e.Key = keyOf(other, chunker.Kubernetes)
			b := manifest.EncodeInventory([]manifest.Entry{e})
			s := manifest.SumInventory(chunker.Kubernetes, []manifest.Entry{e})
			s.InventorySize = int64(len(b))
			s.Inventory = manifest.ObjectKey{Kind: manifest.KindInventory, Hash: chunker.HashOf(b), Ext: manifest.InventoryExt}.String()
			p.Kubernetes.Stream = &s
		}},
		{"chunk of another node", "was not placed", list(func(_ *agent, e []manifest.Entry) []manifest.Entry {
			o := other.entry
			o.Key = keyOf(other, chunker.Kubernetes)
			return append(e, o)
		})},
		{"size", "was not placed as this", list(func(_ *agent, e []manifest.Entry) []manifest.Entry { e[0].Size++; return e })},
		{"sha256", "was not placed as this", list(func(_ *agent, e []manifest.Entry) []manifest.Entry { e[0].SHA256 = strings.Repeat("0", 64); return e })},
		{"another generation", "was not placed as this", list(func(_ *agent, e []manifest.Entry) []manifest.Entry {
			e[0].Key = strings.Replace(e[0].Key, ".ndjson", ".9.ndjson", 1)
			return e
		})},
		{"overflow", "adds up to", list(func(_ *agent, e []manifest.Entry) []manifest.Entry { e[0].Drops = manifest.MaxCount; return e })},
		{"too much for a manifest", "not valid", func(_ *agent, p *api.CompleteRequest) { p.Kubernetes.Stream.Drops = 1 << 60 }},
		{"more records than bytes", "is not valid", func(_ *agent, p *api.CompleteRequest) { p.Kubernetes.Stream.Records = 1 << 50 }},
		{"stream of a node", "is none of the cluster", func(_ *agent, p *api.CompleteRequest) { p.Kubernetes.Stream.Stream = chunker.Packets }},
		{"stream of nobody", "is none of the cluster", func(_ *agent, p *api.CompleteRequest) { p.Kubernetes.Stream.Stream = "audit" }},
		{"key outside", "is not valid", func(_ *agent, p *api.CompleteRequest) { p.Kubernetes.Stream.Inventory = "../../etc/passwd" }},
		{"gap of packets", "is none of stream kubernetes", func(_ *agent, p *api.CompleteRequest) {
			p.Kubernetes.Gaps = append(p.Kubernetes.Gaps, manifest.Gap{Stream: chunker.Packets, Reason: manifest.GapEvicted, From: 1, To: 2})
		}},
		{"gap of the cluster at the node", "", func(_ *agent, p *api.CompleteRequest) { // says something else of each
			p.Node.Gaps = append(p.Node.Gaps, manifest.Gap{Stream: chunker.Kubernetes, Reason: manifest.GapEvicted, From: 1, To: 2})
		}},
		{"stream of the cluster at the node", "", func(_ *agent, p *api.CompleteRequest) {
			p.Node.Streams = []manifest.Stream{*p.Kubernetes.Stream}
		}},
		{"coverage out of order", "is not valid", func(_ *agent, p *api.CompleteRequest) {
			p.Kubernetes.Coverage = []manifest.Interval{{From: 5, To: 6}, {From: 1, To: 2}}
		}},
		{"too many gaps", "want at most", func(_ *agent, p *api.CompleteRequest) {
			p.Kubernetes.Gaps = slices.Repeat([]manifest.Gap{gapOf(manifest.GapEvicted, 1, 2, "")}, maxRecordingGaps+1)
		}},
		{"too many chunks", "", func(_ *agent, p *api.CompleteRequest) { p.Kubernetes.Stream.Chunks = maxRecordingChunks + 1 }},
		{"terminal codes", "unprintable", func(_ *agent, p *api.CompleteRequest) { p.Kubernetes.Gaps[0].Detail = "\x1b[2J" }},
		{"clock", "a clock is said", func(_ *agent, p *api.CompleteRequest) { p.Node.Clock.Offset = 1 << 62 }},
	} {
		for _, chosen := range []bool{true, false} {
			name := test.name + ", asked for the stream only"
			if chosen {
				name = test.name
			}
			t.Run(name, func(t *testing.T) {
				st := storetest.NewMemory(t, nil)
				s := newSite(t, st, nil)
				s.newAgent("other", func(a *agent) {
					a.cluster = recorded(start, end)
					a.events = []sample{other}
				}, packets(t, "other", start, 20))
				refused := make(chan error, 1)
				s.newAgent("evil", func(a *agent) {
					a.cluster = recorded(start, end.Add(-time.Second))
					a.events = []sample{events(t, "evil", start, 5), events(t, "evil", start.Add(5*time.Second), 5)}
					a.forge = func(a *agent, part *api.CompleteRequest) {
						test.forge(a, part)
						err := a.client.Complete(ctx, a.pinned()[0], a.name, *part)
						select {
						case refused <- err:
						default:
						}
					}
				}, packets(t, "evil", start, 10))
				req := api.CreateRequest{Name: "forged", From: start, To: end}
				if !chosen {
					req.Nodes = []string{"other"}
				}
				begun, err := s.client().Create(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				e := wantCode(t, <-refused, http.StatusBadRequest, api.CodeInvalid)
				if !strings.Contains(e.Message, test.says) || strings.Contains(e.Message, "\n") {
					t.Errorf("%q does not say %q", e.Message, test.says)
				}
				// The node gets nowhere, and the snapshot does without it.
				open := s.hub.session(begun.ID)
				await(t, func() bool {
					open.mu.Lock()
					other := open.parts["other"].settled()
					open.mu.Unlock()
					if other {
						s.hub.expireSessions(time.Now().Add(time.Minute))
					}
					return open.over()
				})
				snap, err := s.client().Snapshot(t.Context(), begun.ID)
				if err != nil {
					t.Fatal(err)
				}
				m := load(t, st, snap.ID).Manifest
				if len(m.Streams) != 1 || m.Streams[0].Records != 10 || len(m.Gaps) > 0 {
					t.Errorf("the stream of the cluster is %+v, gaps %+v", m.Streams, m.Gaps)
				}
				switch {
				case !chosen && snap.Status != manifest.Completed:
					t.Errorf("%+v", snap)
				case chosen && (snap.Status != manifest.Partial || len(snap.Reasons) != 1 || !strings.HasPrefix(snap.Reasons[0], "node evil: ") ||
					!strings.Contains(snap.Reasons[0], "the hub refused its part")):
					t.Errorf("%+v", snap)
				}
				mustVerify(t, st)
			})
		}
	}
}

// TestForgedListTwice: one chunk, told of twice and differently.
func TestForgedListTwice(t *testing.T) {
	start := recent()
	c := events(t, "evil", start, 5)
	s := newSite(t, storetest.NewMemory(t, nil), nil)
	refused := make(chan error, 1)
	s.newAgent("evil", func(a *agent) {
		a.cluster, a.events = recorded(start, start.Add(5*time.Second)), []sample{c}
		a.forge = func(a *agent, part *api.CompleteRequest) {
			one := c.entry
			one.Key = keyOf(c, chunker.Kubernetes)
			two := one
			two.First++
			b := manifest.AppendEntry(manifest.AppendEntry(nil, one), two)
			body := store.Bytes(b)
			keys, err := a.put(context.Background(), a.pinned()[0], []api.Object{{
				Hash: chunker.HashOf(b), SHA256: hex.EncodeToString(body.SHA256[:]), Size: int64(len(b)), Kind: manifest.KindInventory, Ext: manifest.InventoryExt,
			}}, [][]byte{b})
			if err != nil {
				t.Error(err)
				return
			}
			sum := manifest.SumInventory(chunker.Kubernetes, []manifest.Entry{one, two})
			sum.Inventory, sum.InventorySize = keys[0], int64(len(b))
			part.Kubernetes.Stream = &sum
			select {
			case refused <- a.client.Complete(context.Background(), a.pinned()[0], a.name, *part):
			default:
			}
		}
	}, packets(t, "evil", start, 10))
	if _, err := s.client().Create(t.Context(), api.CreateRequest{Name: "twice", From: start, To: start.Add(5 * time.Second)}); err != nil {
		t.Fatal(err)
	}
	if e := wantCode(t, <-refused, http.StatusBadRequest, api.CodeInvalid); !strings.Contains(e.Message, "the same chunk is listed before") {
		t.Errorf("%q", e.Message)
	}
}

// TestLiesThatVerifyFinds has a node that lies about what is in its chunks, which
// the hub does not read. Verify names its chunk, and nothing of another node.
func TestLiesThatVerifyFinds(t *testing.T) {
	start := recent()
	for name, test := range map[string]struct {
		lie  func(*sample)
		says string
	}{
		"records":  {func(c *sample) { c.entry.Records-- }, "records"},
		"first":    {func(c *sample) { c.entry.First -= 1e9 }, "records from"},
		"last":     {func(c *sample) { c.entry.Last += 1e9 }, "records from"},
		"raw size": {func(c *sample) { c.entry.RawSize = chunker.MaxRawSize }, "raw bytes"},
		"drops":    {func(c *sample) { c.entry.Drops = 1 << 30 }, "dropped"},
		"bytes": {func(c *sample) {
			c.b = []byte(strings.Repeat("x", 100))
			body := store.Bytes(c.b)
			c.hash, c.entry.Size, c.entry.SHA256 = chunker.HashOf(c.b), body.Size, hex.EncodeToString(body.SHA256[:])
		}, "damaged chunk"},
	} {
		for _, stream := range []string{chunker.Packets, chunker.Kubernetes} {
			t.Run(name+" of "+stream, func(t *testing.T) {
				st := storetest.NewMemory(t, nil)
				s := newSite(t, st, nil)
				s.newAgent("other", inCluster(t, start, start.Add(10*time.Second)), packets(t, "other", start, 20))
				lie := packets(t, "evil", start, 20)
				if stream == chunker.Kubernetes {
					lie = events(t, "evil", start, 5)
				}
				test.lie(&lie)
				s.newAgent("evil", func(a *agent) {
					a.cluster = recorded(start, start)
					if stream == chunker.Kubernetes {
						a.events = []sample{lie}
					} else {
						a.chunks = []sample{lie}
					}
				})
				mustCreate(t, s.client(), api.CreateRequest{Name: "lies", From: start, To: start.Add(10 * time.Second)})
				report, err := archive.New(st).Verify(t.Context(), archive.VerifyOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if len(report.Problems) != 1 || report.Problems[0].Object != keyOf(lie, stream) || !strings.Contains(report.Problems[0].What, test.says) {
					t.Errorf("got %q, want one problem with %q", report.Problems, test.says)
				}
			})
		}
	}
}

// TestLieAboutAddress: bytes under an address that is not theirs are refused where
// the hub takes them, and nothing is stored.
func TestLieAboutAddress(t *testing.T) {
	start := recent()
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, nil)
	lie := packets(t, "evil", start, 20)
	lie.hash = chunker.HashOf([]byte("something else"))
	refused := make(chan error, 1)
	s.newAgent("evil", func(a *agent) {
		a.failed = func(err error) {
			select {
			case refused <- err:
			default:
			}
		}
	}, lie)
	begun, err := s.client().Create(t.Context(), api.CreateRequest{Name: "lies", From: start, To: start.Add(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-refused; err == nil || !strings.Contains(err.Error(), "400") {
		t.Errorf("upload: %v", err)
	}
	if err := s.client().Delete(t.Context(), begun.ID); err != nil {
		t.Fatal(err)
	}
	for _, key := range st.Keys() {
		if strings.HasPrefix(key, manifest.KindChunk) {
			t.Errorf("%s is stored", key)
		}
	}
}

// TestLieAboutStoredChunk: whoever describes a stored chunk wrongly does not get
// it, and does not make it garbage for others either.
func TestLieAboutStoredChunk(t *testing.T) {
	for _, noSums := range []bool{false, true} {
		testLieAboutStoredChunk(t, noSums)
	}
}

func testLieAboutStoredChunk(t *testing.T, noSums bool) {
	t.Helper()
	start := recent()
	st := storetest.NewMemory(t, nil)
	st.NoSums = noSums
	s := newSite(t, st, nil)
	c := packets(t, "a", start, 20)
	s.newAgent("a", nil, c)
	window := api.CreateRequest{Name: "first", From: start, To: start.Add(time.Second), Nodes: []string{"a"}}
	mustCreate(t, s.client(), window)
	lie := c
	lie.entry.SHA256 = strings.Repeat("0", 64)
	refused := make(chan error, 1)
	s.newAgent("evil", func(a *agent) {
		a.failed = func(err error) {
			select {
			case refused <- err:
			default:
			}
		}
	}, lie)
	window.Name, window.Nodes = "second", []string{"evil"}
	key := keyOf(c, chunker.Packets)
	sum, size := c.entry.SHA256, c.entry.Size
	if _, err := s.client().Create(t.Context(), window); err != nil {
		t.Fatal(err)
	}
	e := wantCode(t, <-refused, http.StatusBadRequest, api.CodeInvalid)
	if !strings.Contains(e.Message, key) || !strings.Contains(e.Message, archive.ErrMisdescribed.Error()) {
		t.Errorf("%q", e.Message)
	}
	for _, k := range st.Keys() {
		if strings.HasPrefix(k, manifest.CondemnedDir) || strings.HasPrefix(k, manifest.KindChunk) && k != key {
			t.Errorf("a lie about %s of %d bytes with %s made %s", key, size, sum, k)
		}
	}
	mustVerify(t, st)
}

// TestPoisonedChunk: garbage of the right size lies where a node's chunk is to go,
// found before it uploads or only then; the node's part is whole all the same.
func TestPoisonedChunk(t *testing.T) {
	for _, noSums := range []bool{false, true} {
		for _, unseen := range []bool{false, true} {
			t.Run(fmt.Sprint("no sums ", noSums, ", unseen ", unseen), func(t *testing.T) {
				start := recent()
				st := storetest.NewMemory(t, nil)
				st.NoSums = noSums
				s := newSite(t, st, nil)
				c := packets(t, "a", start, 20)
				storetest.Put(t, st, keyOf(c, chunker.Packets), []byte(strings.Repeat("!", len(c.b))))
				s.newAgent("a", func(a *agent) { a.unseen = unseen }, c)
				for _, name := range []string{"first", "second"} {
					st.Ops()
					snap := mustCreate(t, s.client(), api.CreateRequest{Name: name, From: start, To: start.Add(time.Second)})
					if snap.Status != manifest.Completed {
						t.Errorf("%+v", snap)
					}
					chunks := 0
					for _, key := range st.Puts() {
						if strings.HasPrefix(key, manifest.KindChunk) {
							chunks++
						}
					}
					if want := map[string]int{"first": 1}[name]; chunks != want {
						t.Errorf("%s: %d chunks were put, want %d", name, chunks, want)
					}
				}
				report, err := archive.New(st).Verify(t.Context(), archive.VerifyOptions{})
				if err != nil || len(report.Problems) > 0 {
					t.Errorf("%q, %v", report.Problems, err)
				}
				if _, err := archive.New(st).Sweep(t.Context(), archive.SweepOptions{Now: time.Now}); err != nil {
					t.Fatal(err)
				}
				if slices.Contains(st.Keys(), keyOf(c, chunker.Packets)) {
					t.Error("the garbage is left after a sweep")
				}
			})
		}
	}
}

// TestPoisonedRecording: of two recorders of one chunk one has put garbage in its
// place. The stream of the cluster has the other's.
func TestPoisonedRecording(t *testing.T) {
	for _, evil := range []string{"a-evil", "z-evil"} {
		start := recent()
		st := storetest.NewMemory(t, nil)
		s := newSite(t, st, nil)
		good := events(t, "good", start, 5)
		bad := good
		bad.b = []byte(strings.Repeat("!", len(good.b)))
		sum := store.Bytes(bad.b).SHA256
		bad.entry.SHA256 = hex.EncodeToString(sum[:])
		storetest.Put(t, st, keyOf(good, chunker.Kubernetes), bad.b)
		for name, c := range map[string]sample{"good": good, evil: bad} {
			s.newAgent(name, func(a *agent) {
				a.cluster, a.events = recorded(start, start.Add(10*time.Second)), []sample{c}
			}, packets(t, name, start, 10))
		}
		snap := mustCreate(t, s.client(), api.CreateRequest{Name: "both", From: start, To: start.Add(10 * time.Second)})
		m := load(t, st, snap.ID).Manifest
		if len(m.Streams) != 1 || m.Streams[0].Chunks != 1 || m.Streams[0].Records != 5 {
			t.Errorf("%s: streams %+v", evil, m.Streams)
		}
		mustVerify(t, st)
	}
}

// TestLargeParts: parts that fill a manifest are left out, the largest first, and
// what is left can be read.
func TestLargeParts(t *testing.T) {
	m := &manifest.Manifest{
		Format: manifest.Format, Version: manifest.Version, ID: "20261123T013614.123456Z-0123456789", Name: "x", Created: 1,
		Window: manifest.Interval{From: 0, To: 1 << 30}, Status: manifest.Partial, Reasons: []string{"some"}, Creator: manifest.Tool{Name: "test"},
	}
	covers := func(n int) (list []manifest.Interval) {
		for i := range n {
			list = append(list, manifest.Interval{From: manifest.Nanos(2 * i), To: manifest.Nanos(2*i + 1)})
		}
		return list
	}
	for i, n := range []int{100, manifest.MaxValues / 3, 10, manifest.MaxValues / 2, manifest.MaxValues / 3} {
		m.Nodes = append(m.Nodes, manifest.Node{Name: string(rune('a' + i)), Status: manifest.Completed, Coverage: covers(n)})
	}
	if _, err := m.Encode(); err == nil {
		t.Error("a manifest that nobody can decode was encoded")
	}
	if out := makeRoom(m, nil, m.Window); !slices.Equal(out, []string{"d"}) {
		t.Errorf("left out: %v", out)
	}
	if m.Nodes[3].Status != manifest.Unreachable || !strings.Contains(m.Nodes[3].Reasons[0], "choose a shorter window") {
		t.Errorf("%+v", m.Nodes[3])
	}
	m.SumUp()
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Decode(b); err != nil {
		t.Fatal(err)
	}
}

// TestForgedExtra: a node that is asked for the stream of the cluster hands in
// more.
func TestForgedExtra(t *testing.T) {
	start := recent()
	s := newSite(t, storetest.NewMemory(t, nil), nil)
	s.newAgent("a", func(a *agent) { a.pace = hangAt("pin") }, packets(t, "a", start, 10))
	s.newAgent("extra", func(a *agent) {
		inCluster(t, start, start.Add(5*time.Second))(a)
		a.pace = hangAt("pin")
	})
	c := s.client()
	begun, err := c.Create(t.Context(), api.CreateRequest{Name: "x", From: start, To: start.Add(5 * time.Second), Nodes: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	chunk := api.Object{Hash: chunker.HashOf([]byte("x")), SHA256: strings.Repeat("0", 64), Size: 1, Kind: manifest.KindChunk, Ext: chunker.PacketsExt}
	_, err = c.Grants(t.Context(), begun.ID, "extra", api.GrantRequest{Objects: []api.Object{chunk}})
	if e := wantCode(t, err, http.StatusBadRequest, api.CodeInvalid); !strings.Contains(e.Message, "asked for stream kubernetes only") {
		t.Errorf("%q", e.Message)
	}
	node := manifest.Node{Name: "extra", Status: manifest.Completed, Coverage: []manifest.Interval{{From: 1, To: 2}}}
	err = c.Complete(t.Context(), begun.ID, "extra", api.CompleteRequest{Node: node})
	if e := wantCode(t, err, http.StatusBadRequest, api.CodeInvalid); !strings.Contains(e.Message, "asked for stream kubernetes only") {
		t.Errorf("%q", e.Message)
	}
}

func TestForgedObjects(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, nil)
	s.newAgent("a", func(a *agent) { a.pace = hangAt("pin") })
	c := s.client()
	begun, err := c.Create(t.Context(), api.CreateRequest{Name: "x", Last: "5m"})
	if err != nil {
		t.Fatal(err)
	}
	good := api.Object{Hash: chunker.HashOf([]byte("x")), SHA256: strings.Repeat("0", 64), Size: 1, Kind: manifest.KindChunk, Ext: chunker.PacketsExt}
	for name, change := range map[string]func(*api.Object){
		"kind":     func(o *api.Object) { o.Kind = "snapshots" },
		"path":     func(o *api.Object) { o.Kind = "../intents" },
		"ext":      func(o *api.Object) { o.Ext = "json" },
		"mixed":    func(o *api.Object) { o.Ext = manifest.InventoryExt },
		"empty":    func(o *api.Object) { o.Size = 0 },
		"negative": func(o *api.Object) { o.Size = -1 },
		"giant":    func(o *api.Object) { o.Size = chunker.MaxSize + 1 },
		"sum":      func(o *api.Object) { o.SHA256 = "XY" },
	} {
		o := good
		change(&o)
		_, err := c.Grants(t.Context(), begun.ID, "a", api.GrantRequest{Objects: []api.Object{good, o}})
		if e := wantCode(t, err, http.StatusBadRequest, api.CodeInvalid); !strings.HasPrefix(e.Message, "object 1: ") {
			t.Errorf("%s: %q", name, e.Message)
		}
	}
	_, err = c.Grants(t.Context(), begun.ID, "a", api.GrantRequest{Objects: slices.Repeat([]api.Object{good}, api.MaxGrants+1)})
	wantCode(t, err, http.StatusBadRequest, api.CodeInvalid)
	_, err = c.Grants(t.Context(), begun.ID, "b", api.GrantRequest{})
	wantCode(t, err, http.StatusNotFound, api.CodeUnknownNode)
	_, err = c.Grants(t.Context(), "nonsense", "a", api.GrantRequest{})
	wantCode(t, err, http.StatusBadRequest, api.CodeInvalid)
	_, err = c.Grants(t.Context(), "20261123T013614.123456Z-0123456789", "a", api.GrantRequest{})
	wantCode(t, err, http.StatusNotFound, api.CodeNotFound)
	// Progress that makes no sense.
	for _, p := range []api.Progress{{Node: "a", State: "dancing"}, {Node: "a", State: "sealing", Done: 1}, {Node: "a", State: "sealing", Chunks: -1}} {
		wantCode(t, c.Progress(t.Context(), begun.ID, p), http.StatusBadRequest, api.CodeInvalid)
	}
}
