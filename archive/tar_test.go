package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

func writeTar(t testing.TB, a *Archive, s *Snapshot) []byte {
	t.Helper()
	ctx := context.Background()
	size, err := a.TarSize(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	err = a.WriteTar(ctx, &buf, s, func(done, total int64) {
		if done != int64(buf.Len()) || total != size {
			t.Errorf("progress says %d of %d, it is %d of %d", done, total, buf.Len(), size)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if int64(buf.Len()) != size {
		t.Errorf("the tar has %d bytes, TarSize says %d", buf.Len(), size)
	}
	return buf.Bytes()
}

func TestTar(t *testing.T) {
	mem, a := newMemory(t)
	putSnapshot(t, a, 1, "before", snapshotOptions{})
	snap := putSnapshot(t, a, 2, "outage", snapshotOptions{})
	b := writeTar(t, a, snap)
	if again := writeTar(t, New(mem), snap); !bytes.Equal(again, b) {
		t.Error("a second tar of the same snapshot differs")
	}

	var got, want []string
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Format != tar.FormatUSTAR || h.Mode != 0o644 || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Unix() != snap.Manifest.Created.Time().Unix() {
			t.Errorf("%+v", h)
		}
		got = append(got, h.Name)
	}
	want = append(want, manifest.ManifestPath(snap.ID), manifest.SignaturePath(snap.ID), manifest.SignersPath(snap.ID))
	for _, stream := range snap.Streams {
		want = append(want, stream.Inventory)
	}
	for _, stream := range snap.Streams {
		entries, err := snap.Inventory(context.Background(), stream)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			want = append(want, e.Key)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}

	st, err := store.NewTar(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.CheckTar(bytes.NewReader(b), int64(len(b))); err != nil {
		t.Error(err)
	}
	if r := verify(t, st); !r.OK() || !r.Trusted() || len(r.Snapshots) != 1 {
		t.Errorf("%+v", r)
	}
}

// What tar unpacks is an archive.
func TestTarUnpacked(t *testing.T) {
	_, a := newMemory(t)
	snap := putSnapshot(t, a, 1, "outage", snapshotOptions{})
	dir := t.TempDir()
	file := filepath.Join(t.TempDir(), "outage.tar")
	if err := os.WriteFile(file, writeTar(t, a, snap), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-C", dir, "-xf", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	st, err := store.NewFolder(dir, store.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r := verify(t, st); !r.OK() || len(r.Snapshots) != 1 {
		t.Errorf("%+v", r)
	}
}

// No byte of a tar changes unseen, be it tar's or the archive's.
func TestTarEveryFlippedByteIsFound(t *testing.T) {
	_, a := newMemory(t)
	whole := writeTar(t, a, putSnapshot(t, a, 1, "outage", snapshotOptions{}))
	found := func(b []byte) bool {
		st, err := store.NewTar(bytes.NewReader(b), int64(len(b)))
		if err != nil || store.CheckTar(bytes.NewReader(b), int64(len(b))) != nil {
			return true
		}
		return !verify(t, st).OK()
	}
	if found(whole) {
		t.Fatal("the tar is bad from the start")
	}
	var wg sync.WaitGroup
	for part := range 4 {
		b := bytes.Clone(whole)
		wg.Go(func() {
			for i := part; i < len(b); i += 4 {
				b[i] ^= 0x10
				if !found(b) {
					t.Errorf("byte %d (%d of its block): not found", i, i%tarBlock)
				}
				b[i] ^= 0x10
			}
		})
	}
	wg.Wait()
	for n := 0; n < len(whole); n += 100 {
		if !found(whole[:n]) {
			t.Errorf("cut at %d of %d: not found", n, len(whole))
		}
	}
}

// Nothing that does not have its hash goes into a tar, and a tar that lacks
// something has no end.
func TestTarOfDamage(t *testing.T) {
	ctx := context.Background()
	mem, a := newMemory(t)
	snap := putSnapshot(t, a, 1, "outage", snapshotOptions{})
	whole := writeTar(t, a, snap)
	for _, key := range mem.Keys() {
		if !strings.HasPrefix(key, manifest.KindChunk) && !strings.HasPrefix(key, manifest.KindInventory) {
			continue
		}
		for name, change := range map[string]func([]byte) []byte{
			"flipped": flip(9), "missing": remove, "longer": func(b []byte) []byte { return append(b, 0) },
		} {
			c := mem.Clone()
			c.Damage(key, change)
			var buf bytes.Buffer
			if err := New(c).WriteTar(ctx, &buf, must(New(c).Load(ctx, snap.ID)), nil); err == nil {
				t.Errorf("%s %s: no error", name, key)
			}
			if !bytes.HasPrefix(whole, buf.Bytes()) || buf.Len() > len(whole)-tarTrailer {
				t.Errorf("%s %s: wrote %d bytes that are no beginning of the tar", name, key, buf.Len())
			}
		}
	}
	// The key beside the manifest is made anew.
	mem.Damage(manifest.SignersPath(snap.ID), flip(1))
	if got := writeTar(t, a, snap); !bytes.Equal(got, whole) {
		t.Error("another allowed_signers")
	}
	full := errors.New("disk full")
	if err := a.WriteTar(ctx, failAfter{1000, full}.writer(), snap, nil); !errors.Is(err, full) {
		t.Errorf("full disk: %v", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if err := a.WriteTar(ctx, io.Discard, snap, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func must(s *Snapshot, err error) *Snapshot {
	if err != nil {
		panic(err)
	}
	return s
}

// failAfter takes n bytes, then fails.
type failAfter struct {
	n   int
	err error
}

func (f failAfter) writer() io.Writer { return &f }

func (f *failAfter) Write(b []byte) (int, error) {
	if f.n -= len(b); f.n < 0 {
		return 0, f.err
	}
	return len(b), nil
}

func TestTarLongestKey(t *testing.T) {
	key := manifest.ObjectKey{Kind: manifest.KindInventory, Generation: 1<<64 - 1, Ext: chunker.PacketsExt}.String()
	w := tarWriter{tar: tar.NewWriter(io.Discard), mtime: epoch}
	if err := w.add(key, []byte("x")); err != nil {
		t.Error(err)
	}
	if err := w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: key, Size: manifest.MaxManifest + manifest.MaxInventory, Format: tar.FormatUSTAR}); err != nil {
		t.Error(err)
	}
}

// TestTarExtras: a tar carries store.json and the snapshot's companions, whatever
// their size and names.
func TestTarExtras(t *testing.T) {
	mem, a := newMemory(t)
	other := putSnapshot(t, a, 1, "before", snapshotOptions{})
	snap := putSnapshot(t, a, 2, "outage", snapshotOptions{})
	dir := manifest.SnapshotsDir + snap.ID + "/"
	want := map[string]string{
		manifest.StorePath:               `{"format":"pcapsule.store","version":1,"write_requires":["hold"]}`,
		dir + "notes.txt":                "what the customer said",
		dir + "empty":                    "",
		dir + "manifest.json.bak":        "x",
		dir + "index/a/b.parquet":        strings.Repeat("large ", 100_000),
		dir + strings.Repeat("long", 60): "its name is too long for ustar",
	}
	for key, text := range want {
		storetest.Put(t, mem, key, []byte(text))
	}
	storetest.Put(t, mem, manifest.SnapshotsDir+other.ID+"/notes.txt", []byte("of another snapshot"))
	b := writeTar(t, a, snap)
	if err := store.CheckTar(bytes.NewReader(b), int64(len(b))); err != nil {
		t.Error(err)
	}
	st, err := store.NewTar(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for key, text := range want {
		if got := string(storetest.Read(t, st, key)); got != text {
			t.Errorf("%s: %d bytes, want %d", key, len(got), len(text))
		}
	}
	if keys := storetest.Keys(t, st, manifest.SnapshotsDir); len(keys) != 3+len(want)-1 {
		t.Errorf("below snapshots/: %q", keys)
	}
	if r := verify(t, st); !r.OK() || len(r.Snapshots) != 1 || len(r.Notes) != 0 {
		t.Errorf("%+v", r)
	}

	for i := range maxCompanions {
		storetest.Put(t, mem, fmt.Sprintf("%s%d", dir, i), nil)
	}
	if err := a.WriteTar(t.Context(), io.Discard, snap, nil); err == nil || !strings.Contains(err.Error(), "move some out of "+strings.TrimSuffix(dir, "/")) {
		t.Errorf("with too many companions: %v", err)
	}
}

// TestOpenTar finds the archive in tars that people make of folders.
func TestOpenTar(t *testing.T) {
	_, a := newMemory(t)
	snap := putSnapshot(t, a, 1, "outage", snapshotOptions{})
	dir := t.TempDir()
	for _, in := range []string{"archive", "my old archive (2)/deep", "two/a", "two/b", "two/none"} {
		at := filepath.Join(dir, in)
		if err := os.MkdirAll(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if in == "two/none" {
			continue
		}
		cmd := exec.Command("tar", "-C", at, "-x")
		cmd.Stdin = bytes.NewReader(writeTar(t, a, snap))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	inner := filepath.Join(dir, "archive", manifest.SnapshotsDir, snap.ID, "copy") // a companion
	if err := os.CopyFS(inner, os.DirFS(filepath.Join(dir, "two/a"))); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		err  string
	}{
		"the folder's parts":       {[]string{"-C", "archive", "chunks", "inventories", "snapshots"}, ""},
		"the folder itself":        {[]string{"-C", "archive", "."}, ""},
		"a leading folder":         {[]string{"archive"}, ""},
		"a leading ./folder":       {[]string{"./archive"}, ""},
		"a name that is no key":    {[]string{"my old archive (2)"}, ""},
		"several":                  {[]string{"two"}, "several archives, in two/a/ and two/b/"},
		"none":                     {[]string{"two/none"}, "no archive in it"},
		"chunks without snapshots": {[]string{"-C", "archive", "chunks"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.tar")
			if out, err := exec.Command("tar", append([]string{"-C", dir, "-cf", file}, c.args...)...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			st, err := store.OpenTar(file)
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			a, err := Open(st)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("Open: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			list, err := a.List(t.Context())
			if err != nil || len(list) != 1 && name != "chunks without snapshots" {
				t.Fatalf("List: %+v, %v", list, err)
			}
			if r := verify(t, a.Store()); !r.OK() || len(r.Snapshots) != len(list) {
				t.Errorf("Verify: %+v", r)
			}
		})
	}
}
