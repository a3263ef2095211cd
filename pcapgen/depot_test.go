package pcapgen

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"pcapsule/chunker"
	"pcapsule/store"
)

// folder is the snapshot's store as a folder. It is written without the care
// for crashes that takes a store so long.
func (s *snapshot) folder(dir string) *store.Folder {
	s.t.Helper()
	for key, b := range s.store.bytes {
		path := filepath.Join(dir, key)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o666); err != nil {
			s.t.Fatal(err)
		}
	}
	f, err := store.NewFolder(dir, store.FolderOptions{Create: true})
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

// Where the bytes of chunks are held makes no difference: in memory and in the
// temporary file, or in more files than may be open.
func TestStores(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s := newSnapshot(t)
	eth := ethernet("eth0")
	s.node("a", eth)
	for c := range openFiles + 12 {
		var records []chunker.Record
		for i := range 8 {
			records = append(records, packet(t0+int64(i)*1000+int64(c), 0, uint64(c*10+i), 100000))
		}
		s.chunk("a", []chunker.Interface{eth}, records)
	}
	want, stats := s.export(Request{})
	if stats.Bytes < memoryBudget {
		t.Fatalf("%d bytes all fit in memory", stats.Bytes)
	}
	samePackets(t, s.naive(t0, t0+second), mustParse(t, want).packets)
	src := s.source()
	src.Store = s.folder(t.TempDir())
	var got bytes.Buffer
	if _, err := Export(t.Context(), &got, src, Request{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got.Bytes()) {
		t.Error("other bytes from a folder")
	}

	name := filepath.Join(t.TempDir(), "snapshot.tar")
	if err := s.tar(name); err != nil {
		t.Fatal(err)
	}
	packed, err := store.OpenTar(name)
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	if o, err := newDepot(packed).fetch(t.Context(), s.inventories["a"][0].Key, 1); err != nil {
		t.Error(err)
	} else if _, ok := o.(*file); !ok {
		t.Errorf("a chunk in a tar is held as %T", o)
	}
	src.Store = packed
	got.Reset()
	if _, err := Export(t.Context(), &got, src, Request{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got.Bytes()) {
		t.Error("other bytes from a tar")
	}
}

// tar writes the snapshot's store to a file.
func (s *snapshot) tar(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for key, b := range s.store.bytes {
		if err := w.WriteHeader(&tar.Header{Name: key, Size: int64(len(b)), Mode: 0o444}); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return w.Close()
}

func mustParse(t *testing.T, b []byte) section {
	t.Helper()
	s, err := parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Chunks go into memory while there is room, then into the temporary file, and
// both are used again.
func TestDepot(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	const size = 5 << 20
	objs := &objects{bytes: map[string][]byte{}}
	for i := range byte(8) {
		objs.bytes[string('a'+i)] = bytes.Repeat([]byte{i}, size)
	}
	d := newDepot(objs)
	defer d.close()
	fetch := func(key string) object {
		t.Helper()
		o, err := d.fetch(t.Context(), key, size)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, size)
		if n, err := o.ReadAt(b, 0); n < size || !bytes.Equal(b, objs.bytes[key]) {
			t.Fatalf("%s: read %d bytes, which are others: %v", key, n, err)
		}
		if n, err := o.ReadAt(b[:10], size-4); n < 4 && err != io.EOF {
			t.Fatalf("%s: read %d bytes at its end: %v", key, n, err)
		}
		return o
	}
	for round := range 3 {
		var held []object
		for i, key := range []string{"a", "b", "c", "d", "e", "f", "g"} {
			o := fetch(key)
			_, spooled := o.(*slot)
			if spooled != (i >= memoryBudget/size) {
				t.Errorf("round %d: chunk %d spooled: %v", round, i, spooled)
			}
			held = append(held, o)
		}
		for _, o := range held {
			o.release()
		}
	}
	if d.memory.used > memoryBudget || d.spool.slots != 3 {
		t.Errorf("%d bytes of memory, %d slots", d.memory.used, d.spool.slots)
	}
	// A larger one takes the room of spare buffers.
	objs.bytes["big"] = make([]byte, 12<<20)
	o, err := d.fetch(t.Context(), "big", 12<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := o.(*inMemory); !ok || d.memory.used > memoryBudget {
		t.Errorf("%T, with %d bytes of memory", o, d.memory.used)
	}
	o.release()
}

func TestDepotFails(t *testing.T) {
	objs := &objects{bytes: map[string][]byte{"short": make([]byte, 10), "large": make([]byte, 16<<20)}}
	d := newDepot(objs)
	defer d.close()
	if _, err := d.fetch(t.Context(), "short", 11); !errors.Is(err, chunker.ErrDamaged) {
		t.Errorf("a chunk that is too short: %v", err)
	}
	if _, err := d.fetch(t.Context(), "missing", 11); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("a chunk that is missing: %v", err)
	}
	if _, err := d.fetch(t.Context(), "large", 16<<20); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", t.TempDir()+"/nowhere")
	if _, err := d.fetch(t.Context(), "large", 16<<20); !errors.Is(err, os.ErrNotExist) || !bytes.Contains([]byte(err.Error()), []byte("TMPDIR")) {
		t.Errorf("no room for a temporary file: %v", err)
	}
}

// Files that were closed to make room are opened again.
func TestFiles(t *testing.T) {
	s := inTurn(t, 1)
	for i := range 2 * openFiles {
		s.store.bytes[string(rune('a'+i%26))+string(rune('a'+i/26))] = []byte{byte(i), 1, 2, 3}
	}
	d := newDepot(s.folder(t.TempDir()))
	var held []object
	for i := range 2 * openFiles {
		o, err := d.fetch(t.Context(), string(rune('a'+i%26))+string(rune('a'+i/26)), 4)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, o)
	}
	for range 3 {
		for i, o := range held {
			var b [4]byte
			if _, err := o.ReadAt(b[:], 0); err != nil || b[0] != byte(i) {
				t.Fatalf("file %d: %v, %v", i, b, err)
			}
			if d.files.open > openFiles {
				t.Fatalf("%d files are open", d.files.open)
			}
		}
	}
	for _, o := range held {
		o.release()
	}
	if d.files.open != 0 {
		t.Errorf("%d files are still open", d.files.open)
	}
	d.close()
	d = newDepot(s.folder(t.TempDir()))
	d.store = refusing{d.store}
	if _, err := d.fetch(context.Background(), "aa", 4); !errors.Is(err, store.ErrForbidden) {
		t.Errorf("error %v, want that of the store", err)
	}
}

// Only what is a file here is read in place: other readers make a request of
// each ReadAt.
func TestLocal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	type part struct {
		*io.SectionReader
		io.Closer
	}
	type remote struct {
		io.Reader
		io.ReaderAt
		io.Closer
	}
	tests := []struct {
		name string
		r    io.ReadCloser
		want bool
	}{
		{"file", f, true},
		{"part of a file", part{io.NewSectionReader(f, 3, 4), f}, true},
		{"part of a part", part{io.NewSectionReader(io.NewSectionReader(f, 1, 9), 3, 4), f}, true},
		{"part of something else", part{io.NewSectionReader(bytes.NewReader(nil), 0, 0), f}, false},
		{"remote object", remote{f, f, f}, false},
		{"stream", io.NopCloser(f), false},
	}
	for _, tt := range tests {
		if _, got := local(tt.r); got != tt.want {
			t.Errorf("%s: local is %v", tt.name, got)
		}
	}
}

type refusing struct{ store.Store }

func (refusing) Get(context.Context, string, int64, int64) (io.ReadCloser, error) {
	return nil, store.ErrForbidden
}
