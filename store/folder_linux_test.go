package store_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pcapsule/store"
	"pcapsule/store/storetest"
)

// tmpfs mounts a file system of its own, for what only a file system can do.
func tmpfs(t *testing.T, options string) (dir string, remount func(flags uintptr)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir = t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir, func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("none", dir, "", unix.MS_REMOUNT|flags, options); err != nil {
			t.Fatalf("remount: %v", err)
		}
	}
}

func TestFolderFull(t *testing.T) {
	dir, _ := tmpfs(t, "size=1m")
	f := openFolder(t, dir, store.FolderOptions{GrantKey: bytes.Repeat([]byte{7}, 32)})
	storetest.Put(t, f, "small", make([]byte, 100<<10))
	before := tree(t, dir)
	large := store.Bytes(make([]byte, 2<<20))
	err := f.Put(t.Context(), "a/large", large)
	if !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("Put: %v", err)
	}
	srv := httptest.NewServer(f.GrantHandler())
	defer srv.Close()
	g, err := f.Grant(t.Context(), "a/large", large.Size, large.SHA256, time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if status, answer := storetest.Upload(t, srv.URL, g, make([]byte, 2<<20)); status != http.StatusInsufficientStorage {
		t.Errorf("upload: status %d %s", status, answer)
	}
	if err := store.Probe(t.Context(), f); err != nil {
		t.Errorf("a small object still fits: %v", err)
	}
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("what did not fit left something: %s", diff)
	}
}

func TestFolderReadOnly(t *testing.T) {
	dir, remount := tmpfs(t, "size=1m")
	storetest.Put(t, openFolder(t, dir, store.FolderOptions{}), "a", []byte("x"))
	remount(unix.MS_RDONLY)
	f := openFolder(t, dir, store.FolderOptions{})
	if got := storetest.Read(t, f, "a"); string(got) != "x" {
		t.Errorf("read %q", got)
	}
	if err := f.Put(t.Context(), "b", store.Bytes(nil)); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("Put: %v", err)
	}
	if err := store.Probe(t.Context(), f); !errors.Is(err, store.ErrReadOnly) || strings.ContainsRune(err.Error(), '\n') {
		t.Errorf("Probe: %v", err)
	}
}

// TestFolderMountInside: a key's folder is on another disk than the temporary
// files.
func TestFolderMountInside(t *testing.T) {
	dir, _ := tmpfs(t, "size=1m")
	sub := filepath.Join(dir, "probe")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", sub, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(sub, unix.MNT_DETACH) })
	err := store.Probe(t.Context(), openFolder(t, dir, store.FolderOptions{}))
	if err == nil || !strings.Contains(err.Error(), "another file system is mounted inside") {
		t.Errorf("Probe: %v", err)
	}
}

// TestFolderPlanted reads a folder in which an enemy, or a desktop, left things.
func TestFolderPlanted(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f := openFolder(t, dir, store.FolderOptions{})
	storetest.Put(t, f, "a/good", []byte("x"))
	for _, err := range []error{
		os.Symlink(outside, filepath.Join(dir, "a", "link")),
		os.Symlink(filepath.Dir(outside), filepath.Join(dir, "folder")),
		os.Symlink("../../../../../../../../etc", filepath.Join(dir, "etc")),
		unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600),
		os.WriteFile(filepath.Join(dir, ".hidden"), nil, 0o600),
		os.WriteFile(filepath.Join(dir, "a", "with space"), nil, 0o600),
		os.Mkdir(filepath.Join(dir, "a", ".git"), 0o700),
		os.WriteFile(filepath.Join(dir, "a", ".git", "x"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"a/good"}, storetest.Keys(t, f, "")); diff != "" {
		t.Error(diff)
	}
	for _, key := range []string{"a/link", "folder/secret", "etc/passwd", "pipe"} {
		if r, err := f.Get(t.Context(), key, 0, -1); err == nil {
			r.Close()
			t.Errorf("Get(%s) succeeded", key)
		}
		if _, err := f.Stat(t.Context(), key); err == nil {
			t.Errorf("Stat(%s) succeeded", key)
		}
	}
	for _, key := range []string{"folder/new", "etc/new", "a/link/new"} {
		if err := f.Put(t.Context(), key, store.Bytes([]byte("x"))); err == nil {
			t.Errorf("Put(%s) succeeded", key)
		}
	}
	if err := f.Delete(t.Context(), "folder/secret"); err == nil {
		t.Error("Delete through a link succeeded")
	}
	if entries, err := os.ReadDir(filepath.Dir(outside)); err != nil || len(entries) != 1 {
		t.Errorf("outside the store: %v, %v", entries, err)
	}
}
