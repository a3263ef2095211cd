package api

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/internal/kubetest/pki"
	"pcapsule/manifest"
	"pcapsule/store"
)

// server is an HTTPS server with a certificate of an authority.
func server(t *testing.T, ca *pki.Authority, name string, h http.Handler) *httptest.Server {
	t.Helper()
	pair, err := ca.Server(name)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

func authority(t *testing.T, at time.Time) *pki.Authority {
	t.Helper()
	ca, err := pki.NewAuthority("test", at)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func write(t *testing.T, name string, b ...[]byte) string {
	t.Helper()
	var all []byte
	for _, b := range b {
		all = append(all, b...)
	}
	if err := os.WriteFile(name, all, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

const about = `{"version":"1","store":"x","public_key":"k","time":"2026-01-01T00:00:00Z"}`

// TestToken: the hub gets the token, and nobody else: not the store, to which a
// presigned URL leads, and not whoever the hub redirects to.
func TestToken(t *testing.T) {
	var mu sync.Mutex
	seen := map[string][]string{}
	see := func(who string, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[who] = append(seen[who], r.Header.Get("Authorization")+r.Header.Get(HeaderClaimedUser))
	}
	hubCA, storeCA := authority(t, time.Now()), authority(t, time.Now())
	s3 := server(t, storeCA, "127.0.0.1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		see("store", r)
		w.Header().Set("ETag", `"x"`)
	}))
	hub := server(t, hubCA, "127.0.0.1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			see("grant", r)
			w.WriteHeader(http.StatusCreated)
		case r.URL.Path == Prefix+"/nodes":
			http.Redirect(w, r, s3.URL+"/elsewhere", http.StatusTemporaryRedirect)
		default:
			see("hub", r)
			_, _ = w.Write([]byte(about))
		}
	}))
	dir := t.TempDir()
	token := write(t, filepath.Join(dir, "token"), []byte("one\n"))
	bundle := write(t, filepath.Join(dir, "ca.crt"), hubCA.CertPEM, storeCA.CertPEM)
	c, err := NewClient(hub.URL, WithTokenFile(token), WithCA(bundle), WithClaimedUser("(me\n)"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Hub(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Nodes(t.Context()); err == nil {
		t.Error("the store played the hub")
	}
	for _, u := range []string{"/grants/chunks/x", s3.URL + "/bucket/x?X-Amz-Signature=y"} {
		if err := c.Upload(t.Context(), &store.Grant{URL: u}, strings.NewReader("x"), 1); err != nil {
			t.Errorf("upload to %s: %v", u, err)
		}
	}
	resp, err := c.HTTP().Get(c.ObjectsBase() + "x")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	want := map[string][]string{"hub": {"Bearer one(me�)", "Bearer one(me�)"}, "grant": {""}, "store": {""}}
	if d := cmp.Diff(want, seen); d != "" {
		t.Error(d)
	}

	// The kubelet renews it.
	write(t, token, []byte("two"))
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := c.Hub(t.Context()); err != nil {
			t.Fatal(err)
		}
		if h := seen["hub"]; h[len(h)-1] == "Bearer two(me�)" {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the token is not read again")
		}
	}
}

func TestTokenInTheClear(t *testing.T) {
	token := func(context.Context) (string, error) { return "x", nil }
	for base, ok := range map[string]bool{
		"http://hub.example": false, "http://192.0.2.1:8898": false,
		"https://hub.example": true, "http://127.0.0.1:8898": true, "http://localhost:1": true, "http://[::1]:1": true,
	} {
		if _, err := NewClient(base, WithToken(token)); (err == nil) != ok {
			t.Errorf("%s: %v", base, err)
		}
	}
	none := write(t, filepath.Join(t.TempDir(), "none"), []byte("\n"))
	for _, opt := range []Option{WithTokenFile(none), WithTokenFile(none + "x"), WithCA(none), WithCA(none + "x"), WithCACertificates([]byte("x"))} {
		if _, err := NewClient("https://hub", opt); err == nil {
			t.Error("a file that holds nothing, or is not there, is taken")
		}
	}
}

// TestCARotates: a hub gets a certificate of a new CA; the bundle on the
// client's side follows.
func TestCARotates(t *testing.T) {
	first, second := authority(t, time.Now()), authority(t, time.Now())
	pages := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(about)) })
	before, after := server(t, first, "hub.test", pages), server(t, second, "hub.test", pages)
	bundle := write(t, filepath.Join(t.TempDir(), "ca.crt"), first.CertPEM)
	addr := before.Listener.Addr().String()
	c, err := NewClient("https://hub.test:8898", WithCA(bundle), WithDialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Hub(t.Context()); err != nil {
		t.Fatal(err)
	}
	before.CloseClientConnections()
	addr = after.Listener.Addr().String()
	if _, err := c.Hub(t.Context()); err == nil || !strings.Contains(err.Error(), "not signed by the CA given") {
		t.Errorf("another CA: %v", err)
	}
	write(t, bundle, first.CertPEM, second.CertPEM)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := c.Hub(t.Context())
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the bundle is not read again: %v", err)
		}
	}
}

// TestDistrust: a person learns why, and nothing was sent.
func TestDistrust(t *testing.T) {
	now := time.Now()
	pages := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") })
	ca := authority(t, now)
	old := authority(t, now.Add(-60*24*time.Hour))
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(plain.Close)
	for _, tt := range []struct {
		name string
		base string
		opts []Option
		says string
	}{
		{"unknown", server(t, ca, "127.0.0.1", pages).URL, nil, "--hub-ca"},
		{"other CA", server(t, ca, "127.0.0.1", pages).URL, []Option{WithCACertificates(authority(t, now).CertPEM)}, "is that the CA of this hub"},
		{"other name", server(t, ca, "hub.test", pages).URL, []Option{WithCACertificates(ca.CertPEM)}, "127.0.0.1"},
		{"expired", server(t, old, "127.0.0.1", pages).URL, []Option{WithCACertificates(old.CertPEM)}, "not valid now"},
		{"no TLS", strings.Replace(plain.URL, "http:", "https:", 1), nil, "http://"},
		{"TLS", strings.Replace(server(t, ca, "127.0.0.1", pages).URL, "https:", "http:", 1), nil, "https://"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := NewClient(tt.base, tt.opts...)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			_, err = c.Create(Patiently(t.Context(), time.Hour), CreateRequest{})
			if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "may have begun") || time.Since(began) > time.Minute {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestDialer: a way to the hub that fails is tried again with patience, also
// for what must not be repeated, and says why it failed.
func TestDialer(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(`{"id":"x"}`)) }))
	t.Cleanup(srv.Close)
	u, _ := url.Parse(srv.URL)
	tries := 0
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if tries++; tries%3 != 0 {
			return nil, errors.New("the hub's pod is not ready")
		}
		return new(net.Dialer).DialContext(ctx, network, u.Host)
	}
	c, err := NewClient("http://hub.test", WithDialer(dial))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(t.Context(), CreateRequest{}); !errors.Is(err, ErrUnreachable) || err.Error() != "the hub's pod is not ready" {
		t.Errorf("%v", err)
	}
	if _, err := c.Create(Patiently(t.Context(), time.Minute), CreateRequest{}); err != nil || tries != 3 {
		t.Errorf("%v after %d", err, tries)
	}
}

// TestNoToken: a source that fails ends the call with its own words.
func TestNoToken(t *testing.T) {
	c, err := NewClient("https://hub.test", WithToken(func(context.Context) (string, error) { return "", errors.New("you may not") }))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Nodes(Patiently(t.Context(), time.Hour)); err == nil || err.Error() != "you may not" {
		t.Errorf("%v", err)
	}
}

// TestConnections dials by the caller's function, to the hub and to where grants
// lead.
func TestConnections(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"x"`)
		if r.Method == http.MethodGet {
			_, _ = w.Write([]byte(about))
		}
	}))
	defer server.Close()
	var dialled []string
	c, err := NewClient("http://hub.test:80", WithConnections(func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialled = append(dialled, addr)
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Hub(t.Context()); err != nil {
		t.Error(err)
	}
	grant := &store.Grant{URL: "http://store.test:80/object"}
	if err := c.Upload(t.Context(), grant, strings.NewReader("x"), 1); err != nil {
		t.Error(err)
	}
	if want := []string{"hub.test:80", "store.test:80"}; !slices.Equal(dialled, want) {
		t.Errorf("dialled %v, want %v", dialled, want)
	}
}

// What is sent to the address of a hub that has moved may come to nothing, not
// even a refusal: a connection is given up long before the call is.
func TestConnectTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		c, err := NewClient("http://127.0.0.1:1", WithConnections(func(ctx context.Context, _, _ string) (net.Conn, error) {
			dials++
			<-ctx.Done()
			return nil, ctx.Err()
		}))
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := c.Poll(t.Context(), "n", PollRequest{Wait: manifest.Nanos(10 * time.Second)}); err == nil {
			t.Error("polled nobody")
		}
		if took := time.Since(began); took != connectTimeout || dials != 1 {
			t.Errorf("%d connections given up after %s, want 1 after %s", dials, took, connectTimeout)
		}
	})
}
