package hub

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pcapsule/internal/api"
	"pcapsule/internal/kubetest/pki"
	"pcapsule/manifest"
	"pcapsule/store/storetest"
)

func hubCertificate(t *testing.T, ca *pki.Authority) *tls.Certificate {
	t.Helper()
	pair, err := ca.Server("127.0.0.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
		t.Fatal(err)
	}
	return &cert
}

// TestTLS serves as in a cluster, with a certificate that changes meanwhile.
func TestTLS(t *testing.T) {
	ca, err := pki.NewAuthority("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var cert atomic.Pointer[tls.Certificate]
	cert.Store(hubCertificate(t, ca))
	h, err := New(Config{Store: storetest.NewMemory(t, nil), Signer: testKey(), Certificate: cert.Load})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(ctx, l) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	addr := l.Addr().String()
	c, err := api.NewClient("https://"+addr, api.WithCACertificates(ca.CertPEM))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Hub(t.Context()); err != nil {
		t.Fatal(err)
	}

	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.CertPEM)
	shake := func(cfg *tls.Config) (tls.ConnectionState, error) {
		cfg.RootCAs = pool
		conn, err := tls.Dial("tcp", addr, cfg)
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer conn.Close()
		return conn.ConnectionState(), nil
	}
	for _, old := range []*tls.Config{
		{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10},
		{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}},
	} {
		if _, err := shake(old); err == nil {
			t.Error("TLS of old is spoken")
		}
	}
	if state, err := shake(&tls.Config{NextProtos: []string{"h2", "http/1.1"}, MaxVersion: tls.VersionTLS12}); err != nil || state.NegotiatedProtocol != "http/1.1" {
		t.Errorf("a client of HTTP/2 gets %q, %v", state.NegotiatedProtocol, err)
	}

	// A poll that waits survives that the certificate changes, new connections
	// see the new one.
	polled := make(chan error, 1)
	go func() {
		_, err := c.Poll(t.Context(), "a", api.PollRequest{Wait: manifest.Nanos(time.Second)})
		polled <- err
	}()
	await(t, func() bool { return len(h.knownNodes()) == 1 })
	cert.Store(hubCertificate(t, ca))
	state, err := shake(&tls.Config{})
	if err != nil || !state.PeerCertificates[0].Equal(cert.Load().Leaf) {
		t.Errorf("the certificate is not the new one: %v", err)
	}
	if err := <-polled; err != nil {
		t.Errorf("a poll while the certificate changed: %v", err)
	}
}

// TestStreamsOverProtocols: that a stream is whole, or is not, is seen over
// whatever carries it: the hub itself speaks HTTP/1.1, but a proxy before it may
// speak HTTP/2 to clients, and to a hub without TLS.
func TestStreamsOverProtocols(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		t.Run(map[bool]string{false: "HTTP/1.1", true: "HTTP/2"}[http2], func(t *testing.T) {
			s, st, _ := stocked(t, 20)
			srv := httptest.NewUnstartedServer(s.hub.Handler())
			srv.EnableHTTP2 = http2
			srv.StartTLS()
			t.Cleanup(srv.Close)
			get := func(trailers string) (*http.Response, []byte, error) {
				t.Helper()
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+api.Prefix+"/snapshots/outage/pcap", nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set(api.HeaderTrailers, trailers)
				resp, err := srv.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if (resp.ProtoMajor == 2) != http2 {
					t.Errorf("spoken is %s", resp.Proto)
				}
				b, err := io.ReadAll(resp.Body)
				return resp, b, err
			}
			resp, whole, err := get("1")
			if err != nil || resp.Trailer.Get(api.TrailerComplete) != "true" {
				t.Fatalf("%v, %v", err, resp.Trailer)
			}
			if _, b, err := get(""); err != nil || !bytes.Equal(b, whole) {
				t.Errorf("without trailers: %v", err)
			}
			snap, err := s.hub.archive.Find(t.Context(), "outage")
			if err != nil {
				t.Fatal(err)
			}
			entries, err := snap.Inventory(t.Context(), snap.Manifest.Nodes[1].Streams[0])
			if err != nil {
				t.Fatal(err)
			}
			st.memory.Damage(entries[len(entries)-1].Key, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
			resp, b, err := get("1")
			if err != nil || resp.Trailer.Get(api.TrailerComplete) != "" || resp.Trailer.Get(api.TrailerError) == "" || len(b) >= len(whole) {
				t.Errorf("a broken stream with trailers: %d of %d bytes, %v, %v", len(b), len(whole), err, resp.Trailer)
			}
			if _, b, err := get(""); err == nil || len(b) >= len(whole) {
				t.Errorf("a broken stream without trailers looks whole: %d of %d bytes, %v", len(b), len(whole), err)
			}
			// Polls wait, and end with the deadline of their bodies long past.
			client := srv.Client()
			poll, err := client.Post(srv.URL+api.Prefix+"/agents/z/poll", "application/json", strings.NewReader(`{"wait":"300000000"}`))
			if err != nil {
				t.Fatal(err)
			}
			if readAll(t, poll.Body); poll.StatusCode != http.StatusOK {
				t.Errorf("poll: %s", poll.Status)
			}
		})
	}
}
