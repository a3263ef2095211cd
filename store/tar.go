package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"
	"time"
)

// Tar is a store in a tar archive, for reading only: what "snapshot download"
// wrote, or what any tar made of a folder. Its entries are read in place.
//
// Entries that no key can name, such as those that a desktop adds, are not
// objects; a folder's own entry is none either. Names that would lead out of
// the place where the archive is unpacked, links, devices, sparse files and
// names that stand twice are refused when the archive is opened.
type Tar struct {
	r       io.ReaderAt
	size    int64
	name    string
	files   []tarEntry // all of the archive, with their names for keys
	entries []tarEntry // the objects, in key order
}

type tarEntry struct {
	key      string
	off      int64
	size     int64
	modified time.Time
}

// OpenTar opens the file at path. The caller closes it.
func OpenTar(path string) (*Tar, error) {
	file, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no file %s: check the path: %w", path, ErrNotExist)
		}
		return nil, fmt.Errorf("open tar: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open tar: %w", err)
	}
	t, err := NewTar(file, info.Size())
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open tar %s: %w", path, err)
	}
	t.name = path
	return t, nil
}

// NewTar indexes the tar archive in the first size bytes of r, which must not
// change while the store is in use. It reads the headers only; Check looks at the
// rest of the structure.
func NewTar(r io.ReaderAt, size int64) (*Tar, error) {
	t := &Tar{r: r, size: size, name: "tar"}
	err := scanTar(r, size, false, func(h *tarHeader) error {
		if !h.folder {
			t.files = append(t.files, tarEntry{h.name, h.off, h.size, h.modified})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return t.Below("")
}

// Below is the store in one folder of the archive, of which dir is the name with a
// slash at its end. What lies elsewhere in the archive is not in it.
func (t *Tar) Below(dir string) (*Tar, error) {
	b := &Tar{r: t.r, size: t.size, name: t.name, files: t.files}
	for _, e := range t.files {
		key, ok := strings.CutPrefix(e.key, dir)
		if !ok || CheckKey(key) != nil {
			continue
		}
		e.key = key
		b.entries = append(b.entries, e)
	}
	slices.SortFunc(b.entries, func(a, b tarEntry) int { return cmp.Compare(a.key, b.key) })
	for i := 1; i < len(b.entries); i++ {
		if b.entries[i].key == b.entries[i-1].key {
			return nil, fmt.Errorf("%q stands in it twice: it is not what pcapsule wrote", b.entries[i].key)
		}
	}
	return b, nil
}

// Names yields the names of all files of the archive, also those that no key has.
func (t *Tar) Names(yield func(name string) bool) {
	for _, e := range t.files {
		if !yield(e.key) {
			return
		}
	}
}

// Close closes the file that OpenTar opened.
func (t *Tar) Close() error {
	if c, ok := t.r.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Check is CheckTar of the whole file.
func (t *Tar) Check() error { return CheckTar(t.r, t.size) }

// String is the file's path.
func (t *Tar) String() string { return t.name }

func (t *Tar) find(ctx context.Context, key string) (tarEntry, error) {
	if err := ctx.Err(); err != nil {
		return tarEntry{}, err
	}
	if err := CheckKey(key); err != nil {
		return tarEntry{}, err
	}
	i, ok := slices.BinarySearchFunc(t.entries, key, func(e tarEntry, key string) int { return cmp.Compare(e.key, key) })
	if !ok {
		return tarEntry{}, fmt.Errorf("%s in %s: %w", key, t.name, ErrNotExist)
	}
	return t.entries[i], nil
}

// Get returns a reader that is also an io.ReaderAt and an io.Seeker.
func (t *Tar) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	e, err := t.find(ctx, key)
	if err != nil {
		return nil, err
	}
	r, err := section(io.NewSectionReader(t.r, e.off, e.size), e.size, off, n)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return struct {
		*io.SectionReader
		io.Closer
	}{r, io.NopCloser(nil)}, nil
}

// Stat tells what the entry's header says.
func (t *Tar) Stat(ctx context.Context, key string) (Info, error) {
	e, err := t.find(ctx, key)
	if err != nil {
		return Info{}, err
	}
	return Info{Key: e.key, Size: e.size, Modified: e.modified}, nil
}

// List yields from the index.
func (t *Tar) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := checkPrefix(prefix); err != nil {
			yield(Info{}, err)
			return
		}
		first, _ := slices.BinarySearchFunc(t.entries, prefix, func(e tarEntry, p string) int { return cmp.Compare(e.key, p) })
		for _, e := range t.entries[first:] {
			if err := ctx.Err(); err != nil {
				yield(Info{}, err)
				return
			}
			if !strings.HasPrefix(e.key, prefix) || !yield(Info{Key: e.key, Size: e.size, Modified: e.modified}, nil) {
				return
			}
		}
	}
}

// Put fails with ErrReadOnly.
func (t *Tar) Put(_ context.Context, key string, _ Body) error {
	return fmt.Errorf("put %s in %s: %w: unpack it to a folder", key, t.name, ErrReadOnly)
}

// Delete fails with ErrReadOnly.
func (t *Tar) Delete(_ context.Context, key string) error {
	return fmt.Errorf("delete %s in %s: %w: unpack it to a folder", key, t.name, ErrReadOnly)
}

// Grant fails with ErrNoGrant.
func (t *Tar) Grant(context.Context, string, int64, [sha256.Size]byte, time.Time) (Grant, error) {
	return Grant{}, ErrNoGrant
}

// CheckTar finds a damaged byte anywhere in the structure of a tar archive: in a
// header, in the padding after an entry, in the end marker and what follows it.
// With the entries' own hashes every byte of the file is then accounted for, but
// for two things that tar does not protect: the values in extended headers that
// say when a file was changed and whose it was, which pcapsule does not write,
// and entries that are not objects.
func CheckTar(r io.ReaderAt, size int64) error {
	return scanTar(r, size, true, func(*tarHeader) error { return nil })
}

// compressed tells by its first bytes what a file is compressed with.
func compressed(b []byte) string {
	for _, c := range []struct{ magic, name string }{
		{"\x1f\x8b", "gzip"}, {"\x28\xb5\x2f\xfd", "zstd"}, {"\xfd7zXZ", "xz"}, {"BZh", "bzip2"}, {"\x04\x22\x4d\x18", "lz4"},
	} {
		if bytes.HasPrefix(b, []byte(c.magic)) {
			return c.name
		}
	}
	return ""
}
