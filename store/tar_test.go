package store_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/store"
	"pcapsule/store/storetest"
)

// writeTar makes a tar of headers and bodies with the standard library.
func writeTar(t testing.TB, entries ...any) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := 0; i < len(entries); i += 2 {
		h, body := entries[i].(tar.Header), entries[i+1].(string)
		if h.Size == 0 {
			h.Size = int64(len(body))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func file(name string, format tar.Format) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(1_700_000_000, 0), Format: format}
}

var tarObjects = map[string]string{
	"chunks/ab/x.pcapng.lz4":         strings.Repeat("x", 511),
	"chunks/ab/y.pcapng.lz4":         strings.Repeat("y", 512),
	"chunks/cd/z.pcapng.lz4":         strings.Repeat("z", 1500),
	"empty":                          "",
	"snapshots/01/manifest.json":     `{"a": 1}`,
	"snapshots/01/manifest.json.sig": "signature",
}

func openTar(t testing.TB, data []byte) *store.Tar {
	t.Helper()
	s, err := store.NewTar(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// contents reads all of a store.
func contents(t testing.TB, s store.Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, key := range storetest.Keys(t, s, "") {
		all[key] = string(storetest.Read(t, s, key))
	}
	return all
}

func TestTarOfEveryFormat(t *testing.T) {
	long := "chunks/ab/" + strings.Repeat("a", 120)
	for _, c := range []struct {
		name   string
		format tar.Format
		long   bool
	}{{"ustar", tar.FormatUSTAR, false}, {"pax", tar.FormatPAX, true}, {"gnu", tar.FormatGNU, true}} {
		t.Run(c.name, func(t *testing.T) {
			objects := maps.Clone(tarObjects)
			entries := []any{tar.Header{Name: "chunks/", Typeflag: tar.TypeDir, Mode: 0o755, Format: c.format}, ""}
			if c.long {
				objects[long] = "long name"
			}
			for _, key := range slices.Sorted(maps.Keys(objects)) {
				h := file(key, c.format)
				if c.format == tar.FormatPAX {
					h.ModTime = h.ModTime.Add(123456789)
				}
				entries = append(entries, h, objects[key])
			}
			data := writeTar(t, entries...)
			if diff := cmp.Diff(objects, contents(t, openTar(t, data))); diff != "" {
				t.Error(diff)
			}
			if err := store.CheckTar(bytes.NewReader(data), int64(len(data))); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTarOfTools reads what GNU tar makes here and what bsdtar 3.6.2 made.
func TestTarOfTools(t *testing.T) {
	dir := t.TempDir()
	f := openFolder(t, dir, store.FolderOptions{})
	objects := maps.Clone(tarObjects)
	objects["chunks/ab/"+strings.Repeat("a", 120)] = "long name"
	for key, body := range objects {
		storetest.Put(t, f, key, []byte(body))
	}
	if err := os.WriteFile(filepath.Join(dir, ".DS_Store"), []byte("of a desktop"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "pax"} {
		path := filepath.Join(t.TempDir(), "x.tar")
		if out, err := exec.Command("tar", "--format="+format, "-C", dir, "-cf", path, ".").CombinedOutput(); err != nil {
			t.Fatalf("tar: %v\n%s", err, out)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(objects, contents(t, openTar(t, data))); diff != "" {
			t.Errorf("GNU tar, %s: %s", format, diff)
		}
		if err := store.CheckTar(bytes.NewReader(data), int64(len(data))); err != nil {
			t.Errorf("GNU tar, %s: %v", format, err)
		}
	}

	for _, name := range []string{"bsdtar-ustar.tar", "bsdtar-pax.tar", "bsdtar-gnu.tar"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"chunks/ab/x.pcapng.lz4": "chunk\n", "snapshots/01/manifest.json": "{}\n"}
		if name != "bsdtar-ustar.tar" {
			want["chunks/ab/"+strings.Repeat("a", 120)] = strings.Repeat("z", 700)
		}
		s := openTar(t, data)
		if diff := cmp.Diff(want, contents(t, s)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if info, err := s.Stat(t.Context(), "snapshots/01/manifest.json"); err != nil || info.Modified.Unix() != 1_767_323_045 {
			t.Errorf("%s: Stat: %+v, %v", name, info, err)
		}
		if err := store.CheckTar(bytes.NewReader(data), int64(len(data))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTarEveryByte changes each byte of a tar in several ways: either CheckTar or
// the hash of an object finds it.
func TestTarEveryByte(t *testing.T) {
	var entries []any
	for _, key := range slices.Sorted(maps.Keys(tarObjects)) {
		entries = append(entries, file(key, tar.FormatUSTAR), tarObjects[key])
	}
	data := append(writeTar(t, entries...), make([]byte, 1024)...)
	if err := store.CheckTar(bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
	for i := range data {
		for _, flip := range []byte{1, 0x20, 0x80, 0xff} {
			damaged := bytes.Clone(data)
			damaged[i] ^= flip
			if err := store.CheckTar(bytes.NewReader(damaged), int64(len(damaged))); err != nil {
				continue
			}
			s, err := store.NewTar(bytes.NewReader(damaged), int64(len(damaged)))
			if err == nil && maps.Equal(contents(t, s), tarObjects) {
				t.Fatalf("byte %d changed by %#x is not found", i, flip)
			}
		}
	}
}

func TestTarCutOff(t *testing.T) {
	data := writeTar(t, file("a", tar.FormatUSTAR), strings.Repeat("a", 600), file("b", tar.FormatPAX), "b")
	for n := range len(data) {
		if _, err := store.NewTar(bytes.NewReader(data[:n]), int64(n)); err == nil {
			t.Fatalf("the first %d of %d bytes open as a tar", n, len(data))
		}
	}
}

func TestTarHostile(t *testing.T) {
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
	typed := func(typ byte, name, link string) tar.Header {
		return tar.Header{Name: name, Linkname: link, Typeflag: typ}
	}
	pax := func(name string, records map[string]string) tar.Header {
		h := file(name, tar.FormatPAX)
		h.PAXRecords = records
		return h
	}
	for name, entries := range map[string][]any{
		"absolute":      {file("/etc/passwd", tar.FormatUSTAR), "x"},
		"up":            {file("../a", tar.FormatUSTAR), "x"},
		"up inside":     {file("a/../../b", tar.FormatUSTAR), "x"},
		"up folder":     {dir("a/../../b/"), ""},
		"backslash":     {file(`a\b`, tar.FormatUSTAR), "x"},
		"drive":         {file("c:/b", tar.FormatUSTAR), "x"},
		"symlink":       {typed(tar.TypeSymlink, "a", "/etc"), ""},
		"hard link":     {file("a", tar.FormatUSTAR), "x", typed(tar.TypeLink, "b", "a"), ""},
		"long link":     {typed(tar.TypeSymlink, "a", strings.Repeat("l", 150)), ""},
		"device":        {typed(tar.TypeChar, "a", ""), ""},
		"block device":  {typed(tar.TypeBlock, "a", ""), ""},
		"pipe":          {typed(tar.TypeFifo, "a", ""), ""},
		"twice":         {file("a", tar.FormatUSTAR), "x", file("a", tar.FormatUSTAR), "x"},
		"twice dot":     {file("a", tar.FormatUSTAR), "x", file("./a", tar.FormatUSTAR), "y"},
		"pax up":        {file("../"+strings.Repeat("a", 200), tar.FormatPAX), "x"},
		"pax absolute":  {file("/"+strings.Repeat("a", 200), tar.FormatPAX), "x"},
		"gnu up":        {file("../"+strings.Repeat("a", 200), tar.FormatGNU), "x"},
		"gnu sparse":    {pax("a", map[string]string{"SCHILY.x": "1"}), "x", file("b", tar.FormatPAX), "y"},
		"bad utf8 name": {file("a\xff/../..", tar.FormatGNU), "x"},
	} {
		t.Run(name, func(t *testing.T) {
			data := writeTar(t, entries...)
			if name == "gnu sparse" { // archive/tar does not write them
				data = bytes.Replace(data, []byte("SCHILY.x=1"), []byte("GNU.sparse"), 1)
			}
			_, err := store.NewTar(bytes.NewReader(data), int64(len(data)))
			if err == nil {
				t.Fatal("it was opened")
			}
			if strings.ContainsRune(err.Error(), '\n') {
				t.Errorf("error of several lines: %v", err)
			}
		})
	}
}

func TestOpenTar(t *testing.T) {
	_, err := store.OpenTar(filepath.Join(t.TempDir(), "none.tar"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	for name, c := range map[string]struct{ data, want string }{
		"gzip":    {"\x1f\x8b\x08\x00" + strings.Repeat("x", 2000), "compressed with gzip"},
		"zstd":    {"\x28\xb5\x2f\xfd", "compressed with zstd"},
		"text":    {strings.Repeat("this is no tar\n", 100), "checksum does not match"},
		"empty":   {"", "no tar archive"},
		"pcapng":  {"\x0a\x0d\x0d\x0a" + strings.Repeat("\x00", 1500), "checksum does not match"},
		"short":   {strings.Repeat("\x00", 512), "no tar archive"},
		"trailer": {strings.Repeat("\x00", 1024), ""},
	} {
		path := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(path, []byte(c.data), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := store.OpenTar(path)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else {
				_ = s.Close()
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got error %v, want one with %q and the path", name, err, c.want)
		}
	}
}

func TestTarReads(t *testing.T) {
	s := openTar(t, writeTar(t, file("a/b", tar.FormatUSTAR), "0123456789"))
	r, err := s.Get(t.Context(), "a/b", 2, 5)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, ok := r.(io.ReaderAt); !ok {
		t.Error("the reader is no io.ReaderAt")
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "23456" {
		t.Errorf("read %q, %v", got, err)
	}
	for _, key := range []string{"a", "a/b/c", "b"} {
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, store.ErrNotExist) {
			t.Errorf("Stat(%s): %v", key, err)
		}
	}
	if err := s.Put(t.Context(), "c", store.Bytes(nil)); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("Put: %v", err)
	}
	if err := s.Delete(t.Context(), "a/b"); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("Delete: %v", err)
	}
	if _, err := s.Grant(t.Context(), "c", 1, [sha256.Size]byte{}, time.Now()); !errors.Is(err, store.ErrNoGrant) {
		t.Errorf("Grant: %v", err)
	}
}

// FuzzTar holds the parser against the standard library's, which reads more than
// ours does and nothing else.
func FuzzTar(f *testing.F) {
	for _, format := range []tar.Format{tar.FormatUSTAR, tar.FormatPAX, tar.FormatGNU} {
		h := file("chunks/ab/x", format)
		if format != tar.FormatUSTAR {
			h.Name += strings.Repeat("y", 120)
		}
		f.Add(writeTar(f, h, "body", file("b", format), strings.Repeat("b", 513)))
	}
	for _, name := range []string{"bsdtar-ustar.tar", "bsdtar-pax.tar", "bsdtar-gnu.tar"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		checked := store.CheckTar(r, int64(len(data)))
		s, err := store.NewTar(r, int64(len(data)))
		if err != nil {
			return
		}
		ours := contents(t, s)
		if checked != nil {
			return
		}
		theirs := map[string]string{}
		for tr := tar.NewReader(bytes.NewReader(data)); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return // it reads less than ours in corners, such as dates of the year 9999
			}
			name := strings.TrimSuffix(h.Name, "/")
			for strings.HasPrefix(name, "./") {
				name = name[2:]
			}
			if h.Typeflag != tar.TypeReg || strings.HasSuffix(h.Name, "/") || store.CheckKey(name) != nil {
				continue
			}
			body, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			theirs[name] = string(body)
		}
		if diff := cmp.Diff(theirs, ours); diff != "" {
			t.Errorf("-archive/tar +ours\n%s", diff)
		}
	})
}

func ExampleCheckTar() {
	data := make([]byte, 10240)
	data[5000] = 1
	fmt.Println(store.CheckTar(bytes.NewReader(data), int64(len(data))))
	// Output: byte 5000, after the end marker, is not zero
}
