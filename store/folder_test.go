package store_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"pcapsule/store"
	"pcapsule/store/storetest"
)

func openFolder(t testing.TB, dir string, opt store.FolderOptions) *store.Folder {
	t.Helper()
	f, err := store.NewFolder(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestFolderConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		return openFolder(t, t.TempDir(), store.FolderOptions{GrantKey: bytes.Repeat([]byte{7}, 32)})
	})
}

func TestMemoryConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return storetest.NewMemory(t, nil) })
}

func TestFolderMissing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	_, err := store.NewFolder(dir, store.FolderOptions{})
	if !errors.Is(err, store.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("NewFolder: %v", err)
	}
	if _, err := store.Open(t.Context(), dir); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("Open: %v", err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening made the folder: %v", err)
	}
	deep := filepath.Join(dir, "a", "b")
	s, err := store.Create(t.Context(), deep)
	if err != nil {
		t.Fatal(err)
	}
	storetest.Put(t, s, "k", []byte("v"))
	if store.Describe(s) != deep {
		t.Errorf("Describe: %s", store.Describe(s))
	}
	if again, err := store.Create(t.Context(), deep); err != nil || string(storetest.Read(t, again, "k")) != "v" {
		t.Errorf("Create of what exists: %v", err)
	}
}

// tree lists files and folders with their permissions.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		if strings.HasSuffix(path, "/.tmp/reserve") {
			return filepath.SkipDir // which space_linux_test.go is about
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		all[rel] = info.Mode().String()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestFolderFiles(t *testing.T) {
	dir := t.TempDir()
	f := openFolder(t, dir, store.FolderOptions{})
	if _, err := f.Stat(t.Context(), "a/b"); !errors.Is(err, store.ErrNotExist) {
		t.Error(err)
	}
	storetest.Keys(t, f, "")
	if diff := cmp.Diff(map[string]string{}, tree(t, dir)); diff != "" {
		t.Errorf("reading changed the folder: %s", diff)
	}
	storetest.Put(t, f, "a/b/c", []byte("x"))
	storetest.Put(t, f, "a/d", []byte("y"))
	want := map[string]string{
		".tmp": "drwx------", "a": "drwx------", "a/b": "drwx------", "a/b/c": "-rw-------", "a/d": "-rw-------",
	}
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
	if err := f.Delete(t.Context(), "a/b/c"); err != nil {
		t.Fatal(err)
	}
	delete(want, "a/b/c")
	delete(want, "a/b")
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Errorf("after Delete: %s", diff)
	}
	// Somebody cleans up by hand.
	if err := os.RemoveAll(filepath.Join(dir, ".tmp")); err != nil {
		t.Fatal(err)
	}
	storetest.Put(t, f, "e", []byte("z"))
}

func TestFolderReaderIsFile(t *testing.T) {
	f := openFolder(t, t.TempDir(), store.FolderOptions{})
	storetest.Put(t, f, "a", []byte("0123456789"))
	r, err := f.Get(t.Context(), "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, ok := r.(*os.File); !ok {
		t.Errorf("Get of the whole is a %T", r)
	}
	r, err = f.Get(t.Context(), "a", 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := make([]byte, 2)
	if n, err := r.(io.ReaderAt).ReadAt(p, 1); n != 2 || err != nil || string(p) != "34" {
		t.Errorf("ReadAt: %q, %v", p[:n], err)
	}
}

func TestFolderLeftovers(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	f := openFolder(t, dir, store.FolderOptions{})
	storetest.Put(t, f, "a", nil)
	for name, age := range map[string]time.Duration{"young": 23 * time.Hour, "old": 25 * time.Hour} {
		path := filepath.Join(dir, ".tmp", name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	again := openFolder(t, dir, store.FolderOptions{Now: func() time.Time { return now }})
	storetest.Put(t, again, "b", nil)
	want := map[string]string{".tmp": "drwx------", ".tmp/young": "-rw-------", "a": "-rw-------", "b": "-rw-------"}
	if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// TestFolderChurn puts and deletes in folders that come and go meanwhile.
func TestFolderChurn(t *testing.T) {
	dir := t.TempDir()
	var g errgroup.Group
	for w := range 6 {
		f := openFolder(t, dir, store.FolderOptions{})
		g.Go(func() error {
			for i := range 60 {
				key := fmt.Sprintf("a/%d/%d-%d", i%2, w, i)
				if err := f.Put(t.Context(), key, store.Bytes([]byte(key))); err != nil {
					return err
				}
				if _, err := f.Stat(t.Context(), key); err != nil {
					return err
				}
				for _, err := range f.List(t.Context(), "a/") {
					if err != nil {
						return err
					}
				}
				if err := f.Delete(t.Context(), key); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{".tmp": "drwx------"}, tree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestFolderKeyThroughObject(t *testing.T) {
	f := openFolder(t, t.TempDir(), store.FolderOptions{})
	storetest.Put(t, f, "a/b", []byte("x"))
	for _, key := range []string{"a", "a/b/c"} {
		if err := f.Put(t.Context(), key, store.Bytes(nil)); err == nil || errors.Is(err, store.ErrExist) {
			t.Errorf("Put(%s): %v", key, err)
		}
	}
	if diff := cmp.Diff([]string{"a/b"}, storetest.Keys(t, f, "")); diff != "" {
		t.Error(diff)
	}
}

func TestFolderGrants(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	f := openFolder(t, t.TempDir(), store.FolderOptions{
		GrantKey: bytes.Repeat([]byte{7}, 32), Now: func() time.Time { return now },
	})
	srv := httptest.NewServer(f.GrantHandler())
	defer srv.Close()
	body := store.Bytes([]byte("body"))
	g, err := f.Grant(t.Context(), "a/b", body.Size, body.SHA256, now.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	if status, _ := storetest.Upload(t, srv.URL, g, []byte("body")); status != http.StatusForbidden {
		t.Errorf("expired: status %d", status)
	}
	later := g
	later.URL = strings.Replace(g.URL, "expires=1700000060", "expires=1700000061", 1)
	if status, _ := storetest.Upload(t, srv.URL, later, []byte("body")); later.URL == g.URL || status != http.StatusForbidden {
		t.Errorf("prolonged: status %d", status)
	}
	now = now.Add(-time.Second)
	for method, want := range map[string]int{
		http.MethodGet: http.StatusMethodNotAllowed,
		http.MethodPut: http.StatusLengthRequired,
	} {
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+g.URL, io.MultiReader(strings.NewReader("body")))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s without a length: status %d, want %d", method, resp.StatusCode, want)
		}
	}
	if status, answer := storetest.Upload(t, srv.URL, g, []byte("body")); status != http.StatusCreated {
		t.Errorf("in time: status %d %s", status, answer)
	}

	plain := openFolder(t, t.TempDir(), store.FolderOptions{})
	if _, err := plain.Grant(t.Context(), "a", 0, body.SHA256, now); !errors.Is(err, store.ErrNoGrant) {
		t.Errorf("without a key: %v", err)
	}
	if _, err := store.NewFolder(t.TempDir(), store.FolderOptions{GrantKey: []byte("short")}); err == nil {
		t.Error("a short key is accepted")
	}
}

// FuzzGrantURL asks for uploads with made-up URLs: none may succeed.
func FuzzGrantURL(f *testing.F) {
	now := func() time.Time { return time.Unix(1_700_000_000, 0) }
	write := func(context.Context, string, io.Reader, int64, [sha256.Size]byte) error { return nil }
	granter, err := store.NewGranter(bytes.Repeat([]byte{7}, 32), now, write)
	if err != nil {
		f.Fatal(err)
	}
	g, err := granter.Grant("a/b", 0, sha256.Sum256(nil), now().Add(time.Minute))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(g.URL)
	f.Add("/grants/?size=")
	f.Fuzz(func(t *testing.T, url string) {
		req, err := http.NewRequest(http.MethodPut, url, nil)
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		granter.ServeHTTP(w, req)
		if w.Code == http.StatusCreated && req.URL.Query().Get("sig") != mustQuery(t, g.URL).Get("sig") {
			t.Errorf("%q is taken for a grant", url)
		}
	})
}

func mustQuery(t *testing.T, s string) url.Values {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query()
}
