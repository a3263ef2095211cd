package archive

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

// TestSameBytes: what lies under an object's key is reused when it is its bytes,
// and condemned when it is proven not to be; nobody's word alone does either.
func TestSameBytes(t *testing.T) {
	right, garbage := []byte("eight by"), []byte("garbage!")
	said := objectOf(manifest.KindChunk, right, chunker.PacketsExt)
	wrongSum, wrongSize, shared := said, said, said
	wrongSum.SHA256[0]++
	wrongSize.Size++
	shared.SHA256 = objectOf(manifest.KindChunk, garbage, chunker.PacketsExt).SHA256 // as told by whoever put the garbage
	for _, test := range []struct {
		name       string
		there      []byte
		noSums     bool
		said       Object
		generation uint64
		have       bool
		err        error
		reads      int // of two calls
	}{
		{name: "the same", there: right, said: said, have: true},
		{name: "the same, store knows no sum", there: right, noSums: true, said: said, have: true, reads: 1},
		{name: "wrong sum told", there: right, said: wrongSum, err: ErrMisdescribed, reads: 1},
		{name: "wrong sum told, store knows no sum", there: right, noSums: true, said: wrongSum, err: ErrMisdescribed, reads: 1},
		{name: "wrong size told", there: right, said: wrongSize, err: ErrMisdescribed, reads: 1},
		{name: "garbage", there: garbage, said: said, generation: 1, reads: 1},
		{name: "garbage, store knows no sum", there: garbage, noSums: true, said: said, generation: 1, reads: 1},
		{name: "garbage of another size", there: garbage[:3], said: said, generation: 1, reads: 1},
		{name: "garbage that no writer makes", there: make([]byte, chunker.MaxSize+1), said: said, generation: 1},
		{name: "garbage, told by who put it", there: garbage, said: shared, have: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			mem := newStore(t)
			mem.NoSums = test.noSums
			k, err := test.said.key()
			if err != nil {
				t.Fatal(err)
			}
			storetest.Put(t, mem, k.String(), test.there)
			s, err := New(mem).Begin(t.Context(), testIntent(1, "new"))
			if err != nil {
				t.Fatal(err)
			}
			mem.Ops()
			for range 2 {
				key, have, err := s.Place(t.Context(), test.said)
				k.Generation = test.generation
				if test.err != nil {
					if !errors.Is(err, test.err) {
						t.Errorf("place: %v, want %v", err, test.err)
					}
					continue
				}
				if err != nil || key != k.String() || have != test.have {
					t.Errorf("place: %s, %v, %v", key, have, err)
				}
			}
			reads := 0
			for _, op := range mem.Ops() {
				if strings.HasPrefix(op, "get "+manifest.KindChunk) {
					reads++
				}
			}
			if reads != test.reads {
				t.Errorf("read %d times, want %d", reads, test.reads)
			}
			condemned := slices.ContainsFunc(mem.Keys(), func(key string) bool { return strings.HasPrefix(key, manifest.CondemnedDir) })
			if condemned != (test.generation > 0) {
				t.Errorf("condemned: %v", condemned)
			}
		})
	}
}

// TestProvenFolder: a folder's chunk is read once, and again when its file was
// changed, even with the old time and size.
func TestProvenFolder(t *testing.T) {
	dir := t.TempDir()
	folder, err := store.NewFolder(dir, store.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	right := []byte("eight by")
	o := objectOf(manifest.KindChunk, right, chunker.PacketsExt)
	a := New(folder)
	s, err := a.Begin(t.Context(), testIntent(1, "new"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.Bring(t.Context(), o, bytes.NewReader(right))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, have, err := s.Place(t.Context(), o); err != nil || !have || got != key {
			t.Fatalf("place: %s, %v, %v", got, have, err)
		}
	}
	info, err := folder.Stat(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := a.proto.proven.get(info); !ok {
		t.Error("what was read is not remembered")
	}
	overwrite(t, dir, key, []byte("garbage!"))
	other, have, err := s.Place(t.Context(), o)
	if err != nil || have || other == key {
		t.Errorf("place after the file was changed: %s, %v, %v", other, have, err)
	}
	if err := s.Usable(key); !errors.Is(err, ErrDamaged) {
		t.Errorf("the changed file is usable: %v", err)
	}
	if other, err = s.Bring(t.Context(), o, bytes.NewReader(right)); err != nil || other == key {
		t.Errorf("bring: %s, %v", other, err)
	}
}

// TestPutOtherBytes: a body that is not what its key names is not stored.
func TestPutOtherBytes(t *testing.T) {
	mem := newStore(t)
	s, err := New(mem).Begin(t.Context(), testIntent(1, "new"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.Fresh(manifest.KindChunk, chunker.HashOf([]byte("eight by")), chunker.PacketsExt)
	if err != nil {
		t.Fatal(err)
	}
	mem.Puts()
	if err := s.Put(t.Context(), key, store.Bytes([]byte("garbage!"))); !errors.Is(err, store.ErrChecksum) {
		t.Errorf("put: %v", err)
	}
	if puts := mem.Puts(); len(puts) > 0 {
		t.Errorf("put %q", puts)
	}
}

// TestProvenForgets: what is remembered is bounded, and the newest is kept.
func TestProvenForgets(t *testing.T) {
	var p provenSet
	at := func(i int) store.Info { return store.Info{Key: "k", Size: int64(i), Version: "v"} }
	const n = 3*maxProven + 1
	for i := range n {
		p.add(at(i), [32]byte{1})
	}
	if len(p.now)+len(p.old) > 2*maxProven {
		t.Errorf("%d and %d are remembered", len(p.now), len(p.old))
	}
	for i := n - maxProven; i < n; i++ {
		if _, ok := p.get(at(i)); !ok {
			t.Fatalf("%d of %d is forgotten", i, n)
		}
	}
	p.add(store.Info{Key: "unknown"}, [32]byte{1})
	if _, ok := p.get(store.Info{Key: "unknown"}); ok {
		t.Error("an object without a version is remembered")
	}
}

// overwrite changes a file in place, and sets its time back.
func overwrite(t *testing.T, dir, key string, b []byte) {
	t.Helper()
	path := filepath.Join(dir, filepath.FromSlash(key))
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
}
