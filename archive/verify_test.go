package archive

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

func verify(t testing.TB, st store.Store, ids ...string) *Report {
	t.Helper()
	r, err := New(st).Verify(context.Background(), VerifyOptions{IDs: ids, Trust: testTrust()})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestVerifyWholeArchive(t *testing.T) {
	mem, a := newMemory(t)
	putSnapshot(t, a, 1, "first", snapshotOptions{})
	putSnapshot(t, a, 2, "second", snapshotOptions{})
	var done, total int64
	r, err := a.Verify(context.Background(), VerifyOptions{Trust: testTrust(), Progress: func(d, all int64) {
		if d < done || all < d {
			t.Errorf("progress went from %d to %d of %d", done, d, all)
		}
		done, total = d, all
	}})
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK() || !r.Trusted() || len(r.Notes) > 0 {
		t.Errorf("problems %q, notes %q", r.Problems, r.Notes)
	}
	if done != total || total == 0 {
		t.Errorf("progress ended at %d of %d", done, total)
	}
	var objects, size int64
	for info, err := range mem.List(context.Background(), "") {
		if err != nil {
			t.Fatal(err)
		}
		objects++
		size += info.Size
	}
	if r.Objects != objects || r.Bytes != size {
		t.Errorf("looked at %d objects of %d bytes; there are %d of %d", r.Objects, r.Bytes, objects, size)
	}
	if len(r.Snapshots) != 2 || r.Snapshots[0].Name != "first" || r.Snapshots[0].Chunks != 5 || r.Snapshots[0].Signature != SignatureTrusted {
		t.Errorf("snapshots %+v", r.Snapshots)
	}
}

// What two snapshots share is read once.
func TestVerifyReadsSharedChunksOnce(t *testing.T) {
	mem, a := newMemory(t)
	putSnapshot(t, a, 1, "first", snapshotOptions{})
	putSnapshot(t, a, 2, "second", snapshotOptions{})
	mem.Ops() // forgets what was before
	verify(t, mem)
	seen := map[string]int{}
	for _, op := range mem.Ops() {
		if strings.HasPrefix(op, "get chunks/") {
			if seen[op]++; seen[op] > 1 {
				t.Errorf("%s: %d times", op, seen[op])
			}
		}
	}
	if len(seen) != 7 { // two and two of their own, two and one shared
		t.Errorf("read %d chunks, want 7", len(seen))
	}
}

// The promise of the whole format: no byte of a snapshot changes unseen.
func TestVerifyFindsEveryFlippedByte(t *testing.T) {
	mem, a := newMemory(t)
	snap := putSnapshot(t, a, 1, "outage", snapshotOptions{})
	var wg sync.WaitGroup
	for part := range 4 { // each on a store of its own
		mem := mem.Clone()
		wg.Go(func() {
			n := 0
			for _, key := range mem.Keys() {
				size := len(storetest.Read(t, mem, key))
				for i := range size {
					if n++; n%4 != part {
						continue
					}
					mem.Damage(key, flip(i))
					if r := verify(t, mem); r.OK() {
						t.Errorf("%s, byte %d: not found", key, i)
					}
					if i%64 == 0 { // an id's own way through Verify
						if r := verify(t, mem, snap.ID); r.OK() {
							t.Errorf("%s, byte %d: not found by id", key, i)
						}
					}
					mem.Damage(key, flip(i))
				}
			}
		})
	}
	wg.Wait()
	if r := verify(t, mem); !r.OK() {
		t.Errorf("at last: %q", r.Problems)
	}
}

func TestVerifyFindsWhatIsMissingSwappedOrCut(t *testing.T) {
	mem, a := newMemory(t)
	putSnapshot(t, a, 1, "outage", snapshotOptions{})
	keys := mem.Keys()
	damage := func(name, object string, change func(*storetest.Memory)) {
		t.Helper()
		c := mem.Clone()
		change(c)
		r := verify(t, c)
		found := false
		for _, p := range r.Problems {
			found = found || strings.HasPrefix(p.Object, object) // a manifest's newline shows in its .sig
			if p.What == "" || strings.Contains(p.What, "\n") {
				t.Errorf("%s: %q is not one line", name, p)
			}
		}
		if !found {
			t.Errorf("%s: not found among %q", name, r.Problems)
		}
	}
	for i, key := range keys {
		b := storetest.Read(t, mem, key)
		damage("without "+key, key, func(m *storetest.Memory) { m.Damage(key, remove) })
		damage("empty "+key, key, func(m *storetest.Memory) { m.Damage(key, set([]byte{})) })
		damage("cut "+key, key, func(m *storetest.Memory) { m.Damage(key, set(b[:len(b)-1])) })
		damage("longer "+key, key, func(m *storetest.Memory) { m.Damage(key, set(append(bytes.Clone(b), '\n'))) })
		for _, other := range keys[i+1:] {
			damage("swapped "+key+" and "+other, other, func(m *storetest.Memory) {
				m.Damage(key, set(storetest.Read(t, mem, other)))
				m.Damage(other, set(b))
			})
		}
	}
}

// Damage does not end Verify: all of it is listed.
func TestVerifyListsAllDamage(t *testing.T) {
	mem, a := newMemory(t)
	putSnapshot(t, a, 1, "first", snapshotOptions{})
	putSnapshot(t, a, 2, "second", snapshotOptions{})
	want := map[string]bool{}
	for _, key := range mem.Keys() {
		if strings.HasPrefix(key, manifest.KindChunk) || strings.HasSuffix(key, ".sig") {
			mem.Damage(key, flip(50))
			want[key] = true
		}
	}
	r := verify(t, mem)
	for _, p := range r.Problems {
		delete(want, p.Object)
	}
	if len(want) > 0 {
		t.Errorf("not found: %v", want)
	}
	for _, s := range r.Snapshots {
		if s.Signature != SignatureBad || s.Problems != 6 { // five chunks and the signature
			t.Errorf("%+v", s)
		}
	}
}

// A signed snapshot may lie about what it holds, by a broken program or by
// intent.
func TestVerifyFindsLies(t *testing.T) {
	for name, c := range map[string]struct {
		opt  snapshotOptions
		want string
	}{
		"sha256":    {snapshotOptions{chunk: func(b *built) { b.entry.SHA256 = strings.Repeat("0", 64) }}, "SHA-256"},
		"raw size":  {snapshotOptions{chunk: func(b *built) { b.entry.RawSize++ }}, "raw bytes"},
		"records":   {snapshotOptions{chunk: func(b *built) { b.entry.Records++ }}, "records"},
		"first":     {snapshotOptions{chunk: func(b *built) { b.entry.First-- }}, "records from"},
		"last":      {snapshotOptions{chunk: func(b *built) { b.entry.Last++ }}, "records from"},
		"drops":     {snapshotOptions{chunk: func(b *built) { b.entry.Drops++ }}, "dropped"},
		"not lz4":   {snapshotOptions{chunk: func(b *built) { b.bytes = bytes.Repeat([]byte{'x'}, int(b.entry.Size)) }}, "SHA-256"},
		"interface": {snapshotOptions{manifest: func(m *manifest.Manifest) { m.Nodes[1].Interfaces[0].Name = "eth1" }}, "eth0"},
		"sums":      {snapshotOptions{manifest: func(m *manifest.Manifest) { m.Nodes[1].Streams[0].Records-- }}, "add up"},
		"times":     {snapshotOptions{manifest: func(m *manifest.Manifest) { m.Nodes[1].Streams[0].Last++ }}, "add up"},
		"kind":      {snapshotOptions{manifest: func(m *manifest.Manifest) { m.Nodes[1].Streams[0].Stream = chunker.OS }}, "no chunk of stream"},
		"coverage":  {snapshotOptions{manifest: func(m *manifest.Manifest) { m.Nodes[1].Coverage = nil }}, "covers no time"},

		"cluster's sha256":   {snapshotOptions{event: func(b *built) { b.entry.SHA256 = strings.Repeat("0", 64) }}, "SHA-256"},
		"cluster's raw size": {snapshotOptions{event: func(b *built) { b.entry.RawSize++ }}, "raw bytes"},
		"cluster's records":  {snapshotOptions{event: func(b *built) { b.entry.Records++ }}, "records"},
		"cluster's times":    {snapshotOptions{event: func(b *built) { b.entry.First-- }}, "records from"},
		"cluster's drops":    {snapshotOptions{event: func(b *built) { b.entry.Drops++ }}, "dropped"},
		"cluster's bytes":    {snapshotOptions{event: func(b *built) { b.bytes = bytes.Repeat([]byte{'x'}, int(b.entry.Size)) }}, "SHA-256"},
		"cluster's chunk":    {snapshotOptions{event: func(b *built) { *b = build(packetsChunk(t, "node-a", epoch, 1)) }}, "damaged chunk"},
		"cluster's sums":     {snapshotOptions{manifest: func(m *manifest.Manifest) { m.Streams[0].Records-- }}, "add up"},
		"cluster's coverage": {snapshotOptions{manifest: func(m *manifest.Manifest) { m.Coverage = nil }}, "covers no time"},
		"a node's inventory": {snapshotOptions{manifest: func(m *manifest.Manifest) {
			s := m.Nodes[0].Streams[0]
			s.Stream = chunker.Kubernetes
			m.Streams[0] = s
		}}, "no chunk of stream"},
		"the cluster's a node": {snapshotOptions{manifest: func(m *manifest.Manifest) { s := m.Streams[0]; s.Stream = chunker.Packets; m.Nodes[0].Streams[0] = s }}, "no chunk of stream"},
	} {
		t.Run(name, func(t *testing.T) {
			mem, a := newMemory(t)
			putSnapshot(t, a, 1, "outage", c.opt)
			r := verify(t, mem)
			if len(r.Problems) == 0 || !strings.Contains(r.Problems[0].What, c.want) {
				t.Errorf("got %q, want one about %q", r.Problems, c.want)
			}
		})
	}
}

func TestVerifyTrust(t *testing.T) {
	mem, a := newMemory(t)
	snap := putSnapshot(t, a, 1, "outage", snapshotOptions{})
	r, err := New(mem).Verify(context.Background(), VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s := r.Snapshots[0]; !r.OK() || r.Trusted() || s.Signature != SignatureUntrusted || s.Key != testSigner.Public().Fingerprint() {
		t.Errorf("without trust: %+v", r)
	}
	mem.Damage(manifest.SignaturePath(snap.ID), remove)
	if r := verify(t, mem); r.Snapshots[0].Signature != SignatureMissing {
		t.Errorf("without a signature: %+v", r.Snapshots)
	}
}

func TestVerifyLooksAtTheWholeStore(t *testing.T) {
	ctx := context.Background()
	mem, a := newMemory(t)
	putSnapshot(t, a, 1, "living", snapshotOptions{})
	dead := putSnapshot(t, a, 2, "dead", snapshotOptions{})
	if err := a.Delete(ctx, dead.ID, "test"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Begin(ctx, testIntent(3, "under-way")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Begin(ctx, testIntent(4, "voided")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Void(ctx, testID(4), "", "test"); err != nil {
		t.Fatal(err)
	}
	storetest.Put(t, mem, "README.txt", []byte("hello"))
	storetest.Put(t, mem, manifest.SignaturePath(testID(3)), []byte("of a session under way"))
	r := verify(t, mem)
	if !r.OK() || len(r.Snapshots) != 1 {
		t.Errorf("%+v", r)
	}
	for _, want := range []string{"README.txt", manifest.SnapshotsDir + testID(3), "chunks/"} {
		found := false
		for _, n := range r.Notes {
			found = found || strings.HasPrefix(n.Object, want)
		}
		if !found {
			t.Errorf("no note on %s among %q", want, r.Notes)
		}
	}
	if r := verify(t, mem, dead.ID); r.OK() {
		t.Error("a deleted snapshot is fine")
	}
	if r := verify(t, mem, testID(4)); r.OK() {
		t.Error("a voided snapshot is fine")
	}
	if r := verify(t, mem, testID(9), "../x"); len(r.Problems) < 2 {
		t.Errorf("ids that are none: %q", r.Problems)
	}

	for key, b := range map[string]string{
		manifest.CondemnedPath(1):                 "hello",
		manifest.CondemnedDir + "x":               "hello",
		manifest.DeletedDir + "x":                 "hello",
		manifest.IntentPath(testID(5)):            "hello",
		manifest.ManifestPath(testID(6)):          `{"format":"pcapsule.void","version":1}`,
		manifest.SignersPath(testID(7)):           "hello",
		manifest.IntentsDir + "x":                 "hello",
		manifest.SnapshotsDir + "x/manifest.json": "hello",
	} {
		c := mem.Clone()
		storetest.Put(t, c, key, []byte(b))
		r := verify(t, c)
		if r.OK() {
			t.Errorf("%s of %q is no problem", key, b)
		}
	}
}

func TestVerifyNotesUnaccountedTime(t *testing.T) {
	mem, a := newMemory(t)
	putSnapshot(t, a, 1, "outage", snapshotOptions{manifest: func(m *manifest.Manifest) {
		m.Nodes[0].Coverage[0].To -= manifest.Nanos(10 * time.Second)
		m.Nodes[1].Coverage[0].To -= manifest.Nanos(10 * time.Second)
		m.Nodes[1].Gaps = []manifest.Gap{{
			Stream: chunker.Packets, Reason: manifest.GapNotRunning, From: m.Nodes[1].Coverage[0].To, To: m.Window.To,
		}}
	}})
	r := verify(t, mem)
	if !r.OK() || len(r.Notes) != 1 || !strings.Contains(r.Notes[0].What, "node-a: 10s of the window") {
		t.Errorf("problems %q, notes %q", r.Problems, r.Notes)
	}
}

func TestVerifyNotesUnaccountedTimeOfTheCluster(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*manifest.Manifest)
		want   string
	}{
		"hole": {func(m *manifest.Manifest) {
			m.Coverage = []manifest.Interval{{From: m.Window.From, To: m.Window.From + 20e9}, {From: m.Window.From + 30e9, To: m.Window.To}}
		}, "kubernetes: 10s of the window"},
		"hole with a reason": {func(m *manifest.Manifest) {
			at := manifest.Interval{From: m.Window.From + 20e9, To: m.Window.To}
			m.Coverage = []manifest.Interval{{From: m.Window.From, To: at.From}}
			m.Gaps = []manifest.Gap{{Stream: chunker.Kubernetes, Reason: manifest.GapUnreachable, From: at.From, To: at.To}}
		}, ""},
		"nobody recorded": {func(m *manifest.Manifest) {
			m.Streams, m.Coverage = nil, nil
			m.Gaps = []manifest.Gap{{Stream: chunker.Kubernetes, Reason: manifest.GapNotRunning, From: m.Window.From, To: m.Window.To}}
		}, ""},
		"no cluster": {func(m *manifest.Manifest) { m.Streams, m.Coverage = nil, nil }, ""},
		"a moment":   {func(m *manifest.Manifest) { m.Coverage[0].To -= 1e9 }, ""},
		"within clock's error": {func(m *manifest.Manifest) {
			m.Nodes[1].Clock.Error = 10e9
			m.Coverage[0].To -= 10e9
		}, ""},
	} {
		mem, a := newMemory(t)
		putSnapshot(t, a, 1, "outage", snapshotOptions{manifest: c.change})
		r := verify(t, mem)
		said := ""
		for _, n := range r.Notes {
			if strings.Contains(n.What, "of the window") {
				said = n.What
			}
		}
		if !r.OK() || (said == "") != (c.want == "") || !strings.Contains(said, c.want) {
			t.Errorf("%s: problems %q, notes %q", name, r.Problems, r.Notes)
		}
	}
}

// TestVerifyNotesChunksOfOthers: a node may have handed in what another recorded.
func TestVerifyNotesChunksOfOthers(t *testing.T) {
	mem, a := newMemory(t)
	putSnapshot(t, a, 1, "outage", snapshotOptions{chunk: func(b *built) { *b = build(packetsChunk(t, "node-x", epoch, 3)) }})
	r := verify(t, mem)
	if !r.OK() || len(r.Notes) != 1 || !strings.Contains(r.Notes[0].What, `packets of "node-x", the manifest lists it for node node-a`) {
		t.Errorf("problems %q, notes %q", r.Problems, r.Notes)
	}
}

// TestVerifyPacketsInGap: an agent that was killed could save packets of which it
// had not yet noted that it recorded them.
func TestVerifyPacketsInGap(t *testing.T) {
	mem, a := newMemory(t)
	putSnapshot(t, a, 1, "outage", snapshotOptions{manifest: func(m *manifest.Manifest) {
		m.Nodes[1].Coverage = nil
		m.Nodes[1].Gaps = []manifest.Gap{{Stream: chunker.Packets, Reason: manifest.GapNotRunning, From: m.Window.From, To: m.Window.To}}
	}})
	if r := verify(t, mem); !r.OK() || len(r.Notes) != 0 {
		t.Errorf("problems %q, notes %q", r.Problems, r.Notes)
	}
}

func TestUnaccounted(t *testing.T) {
	window := manifest.Interval{From: 1000, To: 2000}
	iv := func(from, to manifest.Nanos) manifest.Interval { return manifest.Interval{From: from, To: to} }
	for name, c := range map[string]struct {
		node manifest.Node
		want manifest.Nanos
	}{
		"nothing":       {manifest.Node{}, 1000},
		"all":           {manifest.Node{Coverage: []manifest.Interval{iv(1000, 2000)}}, 0},
		"beyond":        {manifest.Node{Coverage: []manifest.Interval{iv(0, 5000)}}, 0},
		"elsewhere":     {manifest.Node{Coverage: []manifest.Interval{iv(0, 500), iv(3000, 4000)}}, 1000},
		"hole":          {manifest.Node{Coverage: []manifest.Interval{iv(1000, 1400), iv(1500, 2000)}}, 100},
		"ends":          {manifest.Node{Coverage: []manifest.Interval{iv(1100, 1900)}}, 200},
		"clock":         {manifest.Node{Clock: manifest.Clock{Offset: 500}, Coverage: []manifest.Interval{iv(1500, 2500)}}, 0},
		"clock's error": {manifest.Node{Clock: manifest.Clock{Error: 100}, Coverage: []manifest.Interval{iv(1100, 1900)}}, 0},
		"gap":           {manifest.Node{Coverage: []manifest.Interval{iv(1000, 1500)}, Gaps: []manifest.Gap{{Stream: chunker.Packets, From: 1400, To: 2000}}}, 0},
		"other stream":  {manifest.Node{Coverage: []manifest.Interval{iv(1000, 1500)}, Gaps: []manifest.Gap{{Stream: chunker.OS, From: 1400, To: 2000}}}, 500},
		"giant error":   {manifest.Node{Clock: manifest.Clock{Offset: 1 << 62, Error: 1<<63 - 1}}, 0},
	} {
		if got := unaccounted(window, &c.node); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}
