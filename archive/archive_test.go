package archive

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
)

func names(list []*Snapshot) []string {
	var names []string
	for _, s := range list {
		if s.Err != nil {
			names = append(names, "!"+s.Name())
		} else {
			names = append(names, s.Name())
		}
	}
	return names
}

func TestListIsOfTheLiving(t *testing.T) {
	ctx := context.Background()
	mem, a := newMemory(t)
	list := func() []string {
		t.Helper()
		got, err := a.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return names(got)
	}
	if got := list(); len(got) != 0 {
		t.Errorf("empty store: %q", got)
	}
	second := putSnapshot(t, a, 2, "second", snapshotOptions{})
	putSnapshot(t, a, 1, "first", snapshotOptions{})
	putSnapshot(t, a, 3, "third", snapshotOptions{})

	begun, err := a.Begin(ctx, testIntent(4, "under-way"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Begin(ctx, testIntent(5, "voided")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Void(ctx, testID(5), begun.Intent.ID, "test"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"first", "second", "third"}, list()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := a.Delete(ctx, second.ID, "test"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"first", "third"}, list()); diff != "" {
		t.Errorf("after a deletion (-want +got):\n%s", diff)
	}
	for _, id := range []string{second.ID, testID(4), testID(5), testID(9)} {
		if _, err := a.Load(ctx, id); !errors.Is(err, ErrNotFound) {
			t.Errorf("load %s: got %v, want ErrNotFound", id, err)
		}
	}

	// Another process finds the same, and damage does not hide what it damages.
	mem.Damage(manifest.ManifestPath(testID(1)), flip(2))
	mem.Damage(manifest.SignaturePath(testID(3)), flip(100))
	a = New(mem)
	if diff := cmp.Diff([]string{"!", "!third"}, list()); diff != "" {
		t.Errorf("damaged (-want +got):\n%s", diff)
	}
	if _, err := a.Find(ctx, "third"); !errors.Is(err, ErrDamaged) {
		t.Errorf("find a damaged snapshot: %v", err)
	}
	if id, err := a.Resolve(ctx, "third"); id != testID(3) || err != nil {
		t.Errorf("resolve a damaged snapshot: %q, %v", id, err)
	}
	if id, err := a.Resolve(ctx, testID(1)); id != testID(1) || err != nil {
		t.Errorf("resolve an id: %q, %v", id, err)
	}
	if _, err := a.Find(ctx, "first"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), testID(1)) {
		t.Errorf("find by a name that cannot be read: %v, want the id that it may be", err)
	}
}

func TestFind(t *testing.T) {
	ctx := context.Background()
	mem, a := newMemory(t)
	if _, err := a.Find(ctx, "outage"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "none yet") {
		t.Errorf("in an empty store: %v", err)
	}
	want := putSnapshot(t, a, 1, "outage", snapshotOptions{})
	for _, ref := range []string{"outage", want.ID} {
		got, err := a.Find(ctx, ref)
		if err != nil || got.ID != want.ID {
			t.Errorf("%s: got %v, %v", ref, got, err)
		}
		if got.Key != testSigner.Public() {
			t.Errorf("%s: signed by %s", ref, got.Key.Fingerprint())
		}
	}
	for _, ref := range []string{"outag", "", "../x", testID(2)} {
		if _, err := a.Find(ctx, ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: got %v, want ErrNotFound", ref, err)
		}
	}
	if _, err := a.Find(ctx, "other"); !strings.Contains(err.Error(), "outage") {
		t.Errorf("no hint of what there is: %v", err)
	}

	// Two sessions raced, as a store without put-if-absent lets them.
	twin := *want.Manifest
	twin.ID = testID(2)
	b, err := twin.Encode()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := testSigner.Sign(b)
	if err != nil {
		t.Fatal(err)
	}
	for key, b := range map[string][]byte{manifest.ManifestPath(twin.ID): b, manifest.SignaturePath(twin.ID): sig} {
		if err := mem.Put(ctx, key, store.Bytes(b)); err != nil {
			t.Fatal(err)
		}
	}
	_, err = a.Find(ctx, "outage")
	if !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), want.ID) || !strings.Contains(err.Error(), twin.ID) {
		t.Errorf("got %v, want ErrAmbiguous with both ids", err)
	}
}

// noList is a store that cannot list, as plain HTTP.
type noList struct{ store.Store }

func (noList) List(context.Context, string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) { yield(store.Info{}, store.ErrNoList) }
}

func TestWithoutList(t *testing.T) {
	ctx := context.Background()
	mem, a := newMemory(t)
	snap := putSnapshot(t, a, 1, "outage", snapshotOptions{})
	a = New(noList{mem})
	if _, err := a.Find(ctx, snap.ID); err != nil {
		t.Error(err)
	}
	if _, err := a.Find(ctx, "outage"); !errors.Is(err, store.ErrNoList) || !strings.Contains(err.Error(), "give its id") {
		t.Errorf("by name: %v", err)
	}
	r, err := a.Verify(ctx, VerifyOptions{IDs: []string{snap.ID}, Trust: testTrust()})
	if err != nil || !r.OK() {
		t.Errorf("verify: %+v, %v", r, err)
	}
	if _, err := a.Verify(ctx, VerifyOptions{}); !errors.Is(err, store.ErrNoList) {
		t.Errorf("verify all: %v", err)
	}
}

// A list of what was seen before costs two LISTs and no GETs.
func TestListIsQuick(t *testing.T) {
	ctx := context.Background()
	mem, a := newMemory(t)
	for n := range 5 {
		putSnapshot(t, a, n, string(rune('a'+n)), snapshotOptions{})
	}
	a = New(mem)
	count := func() map[string]int {
		mem.Ops() // forgets what was before
		if _, err := a.List(ctx); err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, op := range mem.Ops() {
			count[strings.Fields(op)[0]]++
		}
		return count
	}
	if diff := cmp.Diff(map[string]int{"list": 2, "get": 10}, count()); diff != "" {
		t.Errorf("first list (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"list": 2}, count()); diff != "" {
		t.Errorf("second list (-want +got):\n%s", diff)
	}
}

func TestInventory(t *testing.T) {
	ctx := context.Background()
	mem, a := newMemory(t)
	snap := putSnapshot(t, a, 1, "outage", snapshotOptions{})
	var nodes []string
	for node, stream := range snap.Streams {
		nodes = append(nodes, node)
		entries, err := snap.Inventory(ctx, stream)
		if err != nil {
			t.Fatal(err)
		}
		if sum := manifest.SumInventory(stream.Stream, entries); sum.Totals != stream.Totals {
			t.Errorf("%s: %+v, want %+v", node, sum, stream)
		}
	}
	if want := []string{"node-a", "node-b", ""}; !slices.Equal(nodes, want) {
		t.Errorf("streams of %q, want %q", nodes, want)
	}
	stream := snap.Manifest.Nodes[0].Streams[0]
	for name, change := range map[string]func(s *manifest.Stream){
		"records":      func(s *manifest.Stream) { s.Records++ },
		"first":        func(s *manifest.Stream) { s.First-- },
		"size":         func(s *manifest.Stream) { s.InventorySize-- },
		"larger":       func(s *manifest.Stream) { s.InventorySize++ },
		"giant":        func(s *manifest.Stream) { s.InventorySize = 1 << 60 },
		"path":         func(s *manifest.Stream) { s.Inventory = "../../etc/passwd" },
		"other stream": func(s *manifest.Stream) { s.Stream = chunker.OS },
	} {
		bad := stream
		change(&bad)
		if _, err := snap.Inventory(ctx, bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	mem.Damage(stream.Inventory, flip(9))
	if _, err := snap.Inventory(ctx, stream); !errors.Is(err, ErrDamaged) {
		t.Errorf("flipped byte: %v", err)
	}
	mem.Damage(stream.Inventory, remove)
	if _, err := snap.Inventory(ctx, stream); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

// Every key of the layout is one that every store can hold.
func TestLayoutFitsStores(t *testing.T) {
	longest := manifest.ObjectKey{Kind: manifest.KindInventory, Generation: 1<<64 - 1, Ext: chunker.PacketsExt}.String()
	for _, key := range []string{
		manifest.ManifestPath(testID(1)), manifest.SignaturePath(testID(1)), manifest.SignersPath(testID(1)),
		manifest.IntentPath(testID(1)), manifest.TombstonePath(testID(1)), manifest.CondemnedPath(1<<64 - 1), longest,
	} {
		if err := store.CheckKey(key); err != nil {
			t.Error(err)
		}
	}
}
