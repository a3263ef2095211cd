package archive

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pcapsule/store"
)

// onTmpfs is a folder store on a file system of its own, and the folder of that.
func onTmpfs(t *testing.T, options string) (st *store.Folder, dir string) {
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
	st, err := store.NewFolder(filepath.Join(dir, "store"), store.FolderOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st, dir
}

func noise(n int, seed uint64) string {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return string(b)
}

// fillUp puts files of size bytes into dir until its volume takes no more.
func fillUp(dir string, size int) {
	for i := 0; ; i++ {
		if os.WriteFile(filepath.Join(dir, fmt.Sprint("filler-", i)), make([]byte, size), 0o600) != nil {
			return
		}
	}
}

// TestFullStore fills a store with snapshots until it takes no more, then its
// volume to the last byte or inode, and empties it again.
func TestFullStore(t *testing.T) {
	for name, c := range map[string]struct {
		options string
		size    int
		reserve bool
	}{
		"bytes":                 {"size=8m", 200 << 10, true},
		"inodes":                {"size=64m,nr_inodes=300", 10, true},
		"bytes, and no reserve": {"size=8m", 200 << 10, false},
	} {
		t.Run(name, func(t *testing.T) {
			st, dir := onTmpfs(t, c.options)
			a := New(st)
			var full *RoomError
			n := 0
			for ; ; n++ {
				err := create(t.Context(), a, testIntent(n, fmt.Sprint("s", n)), noise(c.size, uint64(n)), "shared")
				if errors.As(err, &full) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if n < 5 || !errors.Is(full, store.ErrNoSpace) {
				t.Fatalf("%d snapshots, then %v", n, full)
			}
			for _, want := range []string{"kept free", "delete snapshots and sweep would give", "s0 "} {
				if !strings.Contains(full.Error(), want) {
					t.Errorf("%q is not in: %v", want, full)
				}
			}
			if all, err := a.Intents(t.Context()); err != nil || len(all) != 0 {
				t.Errorf("a session that may not begin leaves %v, %v", all, err)
			}
			if !c.reserve {
				if err := os.RemoveAll(filepath.Join(st.Dir(), ".tmp", "reserve")); err != nil {
					t.Fatal(err)
				}
			}
			fillUp(dir, map[bool]int{true: 4096}[c.size > 1000])
			// Another process empties it.
			a = New(st)
			for i := range n {
				if _, err := a.Remove(t.Context(), fmt.Sprint("s", i), "me"); err != nil {
					t.Fatalf("delete snapshot %d of %d: %v", i, n, err)
				}
				if i%4 != 3 && i != n-1 {
					continue
				}
				if _, err := a.Sweep(t.Context(), at(epoch.Add(time.Hour))); err != nil {
					t.Fatalf("sweep after %d of %d: %v", i+1, n, err)
				}
			}
			if left, _, err := a.Unheld(t.Context(), time.Time{}); err != nil || left != 0 {
				t.Errorf("%d objects are left, %v", left, err)
			}
			mustCreate(t, a, testIntent(n+1, "again"), "shared")
		})
	}
}

// TestFullMidSession: a store that fills up under a session fails it, and takes
// that it has failed.
func TestFullMidSession(t *testing.T) {
	st, dir := onTmpfs(t, "size=4m")
	a := New(st)
	s, err := a.Begin(t.Context(), testIntent(1, "x"))
	if err != nil {
		t.Fatal(err)
	}
	fillUp(dir, 4096)
	if _, err := fill(t.Context(), s, noise(1<<20, 1)); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("upload: %v", err)
	}
	if err := s.Fail(t.Context(), "full"); err != nil {
		t.Fatalf("end the session: %v", err)
	}
	if o := mustOutcome(t, a, testID(1)); o.State != Voided {
		t.Errorf("outcome %+v", o)
	}
	if all, err := a.Intents(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("left are %v, %v", all, err)
	}
}

// TestTakeOverOfFullStore: what cannot be carried on for want of room holds no
// hub up.
func TestTakeOverOfFullStore(t *testing.T) {
	st, dir := onTmpfs(t, "size=4m")
	a := New(st)
	if _, err := a.Begin(t.Context(), testIntent(1, "x")); err != nil {
		t.Fatal(err)
	}
	fillUp(dir, 4096)
	begun, err := New(st).TakeOver(t.Context(), func(Intent) bool { return true }, func(Intent) (Intent, error) {
		return testIntent(2, "x"), nil
	})
	if err != nil || len(begun) != 0 {
		t.Fatalf("begun %v, %v", begun, err)
	}
	if o := mustOutcome(t, a, testID(1)); o.State != Voided || !strings.Contains(o.Reason, "no space") {
		t.Errorf("outcome %+v", o)
	}
}
