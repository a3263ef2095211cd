package store_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pcapsule/internal/process"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

// fillUp takes every byte of dir's volume, or every inode.
func fillUp(t *testing.T, dir string, inodes bool) {
	t.Helper()
	for i := 0; ; i++ {
		var b []byte
		if !inodes {
			b = make([]byte, 4096)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("filler-%d", i)), b, 0o600); err != nil {
			return
		}
	}
}

func reserve(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, ".tmp", "reserve"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return len(entries)
}

// TestFolderReserve: on a volume with no byte, or no inode, left, what frees space
// is still put, by whichever process, and nothing else takes what is reserved.
func TestFolderReserve(t *testing.T) {
	for name, inodes := range map[string]bool{"bytes": false, "inodes": true} {
		t.Run(name, func(t *testing.T) {
			dir, _ := tmpfs(t, map[bool]string{false: "size=4m", true: "size=64m,nr_inodes=80"}[inodes])
			at := filepath.Join(dir, "store")
			f := openFolder(t, at, store.FolderOptions{Create: true})
			storetest.Put(t, f, "a/b", []byte("x"))
			whole := reserve(t, at)
			fillUp(t, dir, inodes)
			other := openFolder(t, at, store.FolderOptions{})
			for i := range 5 {
				err := other.Put(t.Context(), fmt.Sprintf("n/%d", i), store.Bytes(make([]byte, 5000)))
				if !errors.Is(err, store.ErrNoSpace) {
					t.Fatalf("put on a full volume: %v", err)
				}
			}
			if n := reserve(t, at); n != whole || n == 0 {
				t.Fatalf("%d files in reserve of %d, and nobody may have taken any", n, whole)
			}
			for i, by := range []*store.Folder{f, other, f, other} {
				if err := by.Put(t.Context(), fmt.Sprintf("d%d/x", i), store.Freeing([]byte("gone"))); err != nil {
					t.Fatalf("put of what frees space: %v", err)
				}
			}
			if n := reserve(t, at); n >= whole {
				t.Errorf("%d files in reserve: what was put came from elsewhere", n)
			}
			if err := f.Put(t.Context(), "large", store.Freeing(make([]byte, 80<<20))); !errors.Is(err, store.ErrNoSpace) {
				t.Errorf("put of more than there ever was: %v", err)
			}
			fillers, _ := filepath.Glob(filepath.Join(dir, "filler-*"))
			for _, name := range fillers {
				if err := os.Remove(name); err != nil {
					t.Fatal(err)
				}
			}
			if err := other.Restock(); err != nil {
				t.Fatal(err)
			}
			if n := reserve(t, at); n != whole {
				t.Errorf("%d files in reserve of %d after there is room", n, whole)
			}
			if got := storetest.Keys(t, f, ""); !slices.Equal(got, []string{"a/b", "d0/x", "d1/x", "d2/x", "d3/x"}) {
				t.Errorf("in the store: %v", got)
			}
		})
	}
}

// TestFolderNoRoomToRestock: that the reserve is not whole is found out.
func TestFolderNoRoomToRestock(t *testing.T) {
	dir, _ := tmpfs(t, "size=1m")
	f := openFolder(t, dir, store.FolderOptions{})
	fillUp(t, dir, false)
	if err := f.Restock(); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("Restock: %v", err)
	}
}

func TestFloor(t *testing.T) {
	for _, c := range []struct{ total, want int64 }{
		{0, 0}, {24 << 20, 24 << 20 / 16}, {1 << 30, 64 << 20}, {100 << 30, 1 << 30}, {10 << 40, 4 << 30},
	} {
		if got, _ := (store.Space{Total: c.total}).Floor(); got != c.want {
			t.Errorf("floor of %d bytes: %d, want %d", c.total, got, c.want)
		}
	}
	for _, c := range []struct{ total, want int64 }{{0, 0}, {160, 10}, {10_000, 256}, {100_000, 1000}, {10_000_000, 4096}} {
		if _, got := (store.Space{TotalFiles: c.total}).Floor(); got != c.want {
			t.Errorf("floor of %d files: %d, want %d", c.total, got, c.want)
		}
	}
}

// TestFolderTidy: what a dead process left half-written goes at once, what a living
// one writes stays.
func TestFolderTidy(t *testing.T) {
	dir := t.TempDir()
	f := openFolder(t, dir, store.FolderOptions{})
	storetest.Put(t, f, "a", nil)
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	dead := process.Self()
	dead.PID = cmd.Process.Pid
	names := map[string]bool{dead.Tag() + "-ABC": false, process.Self().Tag() + "-ABC": true, "unknown-ABC": true, "ABC": true}
	for name := range names {
		if err := os.WriteFile(filepath.Join(dir, ".tmp", name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Tidy(); err != nil {
		t.Fatal(err)
	}
	for name, stays := range names {
		if _, err := os.Stat(filepath.Join(dir, ".tmp", name)); (err == nil) != stays {
			t.Errorf("%s: %v", strings.TrimPrefix(name, dead.Tag()), err)
		}
	}
}
