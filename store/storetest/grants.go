package storetest

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/store"
)

// testGrant uploads as an agent does: with nothing but HTTP.
func testGrant(t *testing.T, s store.Store) {
	data := random(300 << 10)
	body := store.Bytes(data)
	expires := time.Now().Add(10 * time.Minute)
	grant := func(key string) store.Grant {
		t.Helper()
		g, err := s.Grant(t.Context(), key, body.Size, body.SHA256, expires)
		if err != nil {
			t.Fatalf("Grant(%s): %v", key, err)
		}
		if g.Expires.After(expires) || g.Expires.Before(expires.Add(-time.Minute)) {
			t.Errorf("grant until %v expires %v", expires, g.Expires)
		}
		return g
	}
	if _, err := s.Grant(t.Context(), "a", 1, body.SHA256, expires); errors.Is(err, store.ErrNoGrant) {
		t.Skip("this store grants no uploads, which its contract allows")
	}
	base := ""
	if h, ok := s.(interface{ GrantHandler() http.Handler }); ok {
		srv := httptest.NewServer(h.GrantHandler())
		t.Cleanup(srv.Close)
		base = srv.URL
	}

	g := grant("chunks/ab/granted")
	flipped := bytes.Clone(data)
	flipped[7] ^= 1
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"flipped byte", flipped},
		{"too short", data[1:]},
		{"too long", append(bytes.Clone(data), 0)},
		{"empty", nil},
	} {
		if status, answer := Upload(t, base, g, c.data); status/100 != 4 || status == http.StatusPreconditionFailed {
			t.Errorf("%s: status %d (%s), want a refusal", c.name, status, answer)
		}
	}
	forged := g
	forged.URL = strings.Replace(g.URL, "granted", "stolen", 1)
	if status, answer := Upload(t, base, forged, data); status != http.StatusForbidden {
		t.Errorf("forged key: status %d (%s), want 403", status, answer)
	}
	if keys := Keys(t, s, ""); len(keys) != 0 {
		t.Fatalf("refused uploads left %q", keys)
	}

	if status, answer := Upload(t, base, g, data); status != http.StatusOK && status != http.StatusCreated {
		t.Fatalf("upload: status %d (%s)", status, answer)
	}
	for _, again := range [][]byte{data, flipped} {
		status, answer := Upload(t, base, g, again)
		if bytes.Equal(again, data) && status != http.StatusPreconditionFailed || status/100 != 4 {
			t.Errorf("upload to a taken key: status %d (%s)", status, answer)
		}
	}
	if got := Read(t, s, "chunks/ab/granted"); !bytes.Equal(got, data) {
		t.Error("the object is not what was uploaded")
	}

	g, err := s.Grant(t.Context(), "late", body.Size, body.SHA256, time.Now().Add(-time.Hour))
	if err == nil {
		if status, answer := Upload(t, base, g, data); status != http.StatusForbidden {
			t.Errorf("expired grant: status %d (%s), want 403", status, answer)
		}
	}
	if _, err := s.Grant(t.Context(), "../up", body.Size, body.SHA256, expires); err == nil {
		t.Error("a grant for a key outside the store was given")
	}
	if diff := cmp.Diff([]string{"chunks/ab/granted"}, Keys(t, s, "")); diff != "" {
		t.Error(diff)
	}
}

// Upload does what a grant permits, and returns the answer. The grant's URL is
// relative to base. A server may refuse before it has read the body, and close
// the connection: its answer is then lost at times, and asked for again.
func Upload(t testing.TB, base string, g store.Grant, data []byte) (status int, answer string) {
	t.Helper()
	var err error
	for range 10 {
		if status, answer, err = upload(t, base, g, data); err == nil {
			return status, answer
		}
	}
	t.Fatalf("upload: %v", err)
	return 0, ""
}

func upload(t testing.TB, base string, g store.Grant, data []byte) (status int, answer string, err error) {
	url := g.URL
	if strings.HasPrefix(url, "/") {
		url = base + url
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, bytes.NewReader(data))
	if err != nil {
		return 0, "", err
	}
	req.Header = g.Header.Clone()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, strings.TrimSpace(string(b)), nil
}
