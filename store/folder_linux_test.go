package store_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
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
	if _, err := store.Probe(t.Context(), f); err != nil {
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
	if _, err := store.Probe(t.Context(), f); !errors.Is(err, store.ErrReadOnly) || strings.ContainsRune(err.Error(), '\n') {
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
	_, err := store.Probe(t.Context(), openFolder(t, dir, store.FolderOptions{}))
	if err == nil || !strings.Contains(err.Error(), "another file system is mounted inside") {
		t.Errorf("Probe: %v", err)
	}
}

// walk lists the objects that start with prefix and the obstacles among them. An
// error of another kind ends the test.
func walk(t *testing.T, f *store.Folder, prefix string) (keys, obstacles []string) {
	t.Helper()
	for info, err := range f.List(t.Context(), prefix) {
		o := store.AsObstacle(err)
		switch {
		case o != nil:
			obstacles = append(obstacles, o.Path)
		case err != nil:
			t.Fatal(err)
		default:
			keys = append(keys, info.Key)
		}
	}
	return keys, obstacles
}

// TestFolderObstacles: whatever is no object is one for no verb, and named by each.
func TestFolderObstacles(t *testing.T) {
	outside := t.TempDir()
	for _, c := range []struct {
		name, key, obstacle string // key is an object in the healthy folder
		plant               func(at string) error
	}{
		{"dangling link", "s/id/m", "s/id/m", func(at string) error { return os.Symlink("nowhere", at) }},
		{"link inside", "s/id/m", "s/id/m", func(at string) error { return os.Symlink("../../other", at) }},
		{"absolute link inside", "s/id/m", "s/id/m", func(at string) error { return os.Symlink(filepath.Dir(at)+"/../../other", at) }},
		{"link outside", "s/id/m", "s/id/m", func(at string) error { return os.Symlink(outside+"/file", at) }},
		{"loop", "s/id/m", "s/id/m", func(at string) error { return os.Symlink("m", at) }},
		{"pipe", "s/id/m", "s/id/m", func(at string) error { return unix.Mkfifo(at, 0o600) }},
		{"socket", "s/id/m", "s/id/m", func(at string) error { return unix.Mknod(at, unix.S_IFSOCK|0o600, 0) }},
		{"folder's link outside", "s/id/m", "s/id", func(at string) error { return os.Symlink(outside, at) }},
		{"folder's link inside", "s/id/m", "s/id", func(at string) error { return os.Symlink("other", at) }},
		{"folder's link to its parent", "s/id/m", "s/id", func(at string) error { return os.Symlink("..", at) }},
		{"top folder's link", "s/id/m", "s", func(at string) error { return os.Symlink(outside, at) }},
		{"file for the top folder", "s/id/m", "s", func(at string) error { return os.WriteFile(at, nil, 0o600) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			f := openFolder(t, dir, store.FolderOptions{})
			storetest.Put(t, f, c.key, []byte("x"))
			storetest.Put(t, f, "s/other/m", []byte("x"))
			storetest.Put(t, f, "other", []byte("x"))
			if err := os.WriteFile(filepath.Join(outside, "m"), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			at := filepath.Join(dir, filepath.FromSlash(c.obstacle))
			if err := os.RemoveAll(at); err != nil {
				t.Fatal(err)
			}
			if err := c.plant(at); err != nil {
				t.Fatal(err)
			}
			for _, prefix := range []string{"s/", "s/id/"} {
				keys, odd := walk(t, f, prefix)
				if diff := cmp.Diff([]string{c.obstacle}, odd); diff != "" && c.obstacle != "s" {
					t.Errorf("List(%s): %s", prefix, diff)
				}
				for _, key := range keys {
					if strings.HasPrefix(key, "s/id") {
						t.Errorf("List(%s) has %s", prefix, key)
					}
				}
			}
			if _, odd := walk(t, f, "s/"); len(odd) != 1 || odd[0] != c.obstacle {
				t.Errorf("List(s/): obstacles %q", odd)
			}
			_, err := f.Stat(t.Context(), c.key)
			file := c.name == "file for the top folder" // below a file there is nothing
			if o := store.AsObstacle(err); !file && (o == nil || o.Path != c.obstacle) {
				t.Errorf("Stat: %v", err)
			}
			r, err := f.Get(t.Context(), c.key, 0, -1)
			if err == nil {
				r.Close()
			}
			if o := store.AsObstacle(err); !file && (o == nil || o.Path != c.obstacle) {
				t.Errorf("Get: %v", err)
			}
			if err := f.Put(t.Context(), c.key, store.Bytes([]byte("x"))); err == nil || errors.Is(err, store.ErrExist) {
				t.Errorf("Put: %v", err)
			}
			err = f.Delete(t.Context(), c.key)
			_, there := os.Lstat(at)
			if c.obstacle == c.key { // it goes itself, and nothing else does
				if err != nil || there == nil {
					t.Errorf("Delete: %v", err)
				}
			} else if there != nil {
				t.Errorf("Delete took %s away: %v", c.obstacle, err)
			}
			for _, kept := range []string{filepath.Join(outside, "m"), filepath.Join(dir, "other")} {
				if _, err := os.Lstat(kept); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestFolderOfOthers reads a folder as a user who may not read all of it.
func TestFolderOfOthers(t *testing.T) {
	if dir := os.Getenv("PCAPSULE_TEST_FOLDER"); dir != "" {
		f := openFolder(t, dir, store.FolderOptions{})
		keys, odd := walk(t, f, "")
		if diff := cmp.Diff([]string{"s/a/m", "s/c/m"}, keys); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"lost+found/", "s/b/"}, odd); diff != "" {
			t.Error(diff)
		}
		for key, want := range map[string]string{"s/b/m": "s/b/ ", "s/c/m": "s/c/m "} {
			_, err := f.Get(t.Context(), key, 0, -1)
			if !errors.Is(err, store.ErrForbidden) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "belongs to root") {
				t.Errorf("Get(%s): %v", key, err)
			}
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	dir := t.TempDir()
	f := openFolder(t, dir, store.FolderOptions{})
	for _, key := range []string{"s/a/m", "s/b/m", "s/c/m", "lost+found/x"} {
		storetest.Put(t, f, key, []byte("x"))
	}
	for _, err := range []error{
		os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755), os.Chmod(dir+"/s", 0o755),
		os.Chmod(dir+"/s/a", 0o755), os.Chmod(dir+"/s/a/m", 0o644), os.Chmod(dir+"/s/c", 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(dir, ".test")
	if err := os.WriteFile(self, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestFolderOfOthers$", "-test.v")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "PCAPSULE_TEST_FOLDER="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("as nobody: %v\n%s", err, out)
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
	good, odd := walk(t, f, "")
	if diff := cmp.Diff([]string{"a/good"}, good); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"a/link", "a/with space", "etc", "folder", "pipe"}, odd); diff != "" {
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
