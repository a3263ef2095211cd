package store_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"pcapsule/store"
	"pcapsule/store/storetest"
)

// TestHTTP reads a folder that a plain web server publishes.
func TestHTTP(t *testing.T) {
	dir := t.TempDir()
	f := openFolder(t, dir, store.FolderOptions{})
	data := bytes.Repeat([]byte("0123456789"), 10_000)
	storetest.Put(t, f, "a/object", data)
	storetest.Put(t, f, "a/empty", nil)
	files := http.FileServer(http.Dir(dir))
	for name, handler := range map[string]http.HandlerFunc{
		"with ranges": files.ServeHTTP,
		"without ranges": func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Range")
			files.ServeHTTP(w, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(handler)
			defer srv.Close()
			s := store.NewHTTP(srv.URL, nil)
			for _, c := range []struct{ off, n, from, to int64 }{
				{0, -1, 0, 100_000}, {0, 10, 0, 10}, {99_990, -1, 99_990, 100_000}, {5, 1<<63 - 1, 5, 100_000},
				{50, 1000, 50, 1050}, {100_000, -1, 0, 0}, {200_000, 5, 0, 0}, {7, 0, 0, 0},
			} {
				r, err := s.Get(t.Context(), "a/object", c.off, c.n)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data[c.from:c.to]) {
					t.Errorf("Get(%d, %d): %d bytes, %v", c.off, c.n, len(got), err)
				}
				r.Close()
			}
			if got, err := store.ReadAll(t.Context(), s, "a/empty", 10); err != nil || len(got) != 0 {
				t.Errorf("empty object: %q, %v", got, err)
			}
			info, err := s.Stat(t.Context(), "a/object")
			if err != nil || info.Size != 100_000 || info.Modified.IsZero() {
				t.Errorf("Stat: %+v, %v", info, err)
			}
			if _, err := s.Get(t.Context(), "a/none", 0, -1); !errors.Is(err, store.ErrNotExist) {
				t.Errorf("missing: %v", err)
			}
			if _, err := s.Get(t.Context(), "../secret", 0, -1); err == nil {
				t.Error("a key outside was asked for")
			}
			for _, err := range s.List(t.Context(), "") {
				if !errors.Is(err, store.ErrNoList) {
					t.Errorf("List: %v", err)
				}
			}
			if err := s.Put(t.Context(), "b", store.Bytes(nil)); !errors.Is(err, store.ErrReadOnly) {
				t.Errorf("Put: %v", err)
			}
		})
	}
}

func TestHTTPAnswers(t *testing.T) {
	var failures, status atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if failures.Add(-1) >= 0 {
			http.Error(w, "reason\nmore", int(status.Load()))
			return
		}
		_, _ = io.WriteString(w, "body")
	}))
	defer srv.Close()
	s := store.NewHTTP(srv.URL+"/base/", nil)
	status.Store(http.StatusServiceUnavailable)
	failures.Store(2)
	if got, err := store.ReadAll(t.Context(), s, "a", 10); err != nil || string(got) != "body" {
		t.Errorf("after two failures: %q, %v", got, err)
	}
	failures.Store(1 << 40)
	_, err := s.Stat(t.Context(), "a")
	wantAdvice(t, "503 for ever", err, "503", "tried 4 times", "/base/a")
	for code, want := range map[int]error{403: store.ErrForbidden, 401: store.ErrForbidden, 404: store.ErrNotExist, 410: store.ErrNotExist} {
		status.Store(int64(code))
		_, err := s.Get(t.Context(), "a", 0, -1)
		wantAdvice(t, "refused", err, "reason")
		if !errors.Is(err, want) {
			t.Errorf("%d: %v is not %v", code, err, want)
		}
	}
	for _, l := range []aLie{
		{200, "text/html", page, nil},
		{200, "text/html", page, likeAFile},
		{404, "text/html", page, nil},
		{403, "text/html", page, nil},
		{302, "", "", http.Header{"Location": {"https://login.example/?secret"}}},
		{200, "", zipped("body"), http.Header{"Content-Encoding": {"gzip"}}},
	} {
		lying := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { l.send(w, r) }))
		follow := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		s := store.NewHTTP(lying.URL, &http.Client{CheckRedirect: follow})
		_, err := s.Stat(t.Context(), "a")
		wantStrange(t, "Stat", err)
		_, err = s.Get(t.Context(), "a", 0, -1)
		wantStrange(t, "Get", err)
		wantAdvice(t, "Get", err, "login page")
		lying.Close()
	}
	if got := store.Describe(store.NewHTTP("https://user:secret@example.com/x", nil)); strings.Contains(got, "secret") {
		t.Errorf("Describe gives a password away: %s", got)
	}
}
