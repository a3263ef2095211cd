package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"pcapsule/agent/packets"
)

// TestOwnConnections reaches an API server past its service's address, and by
// that address when the way past it is no more.
func TestOwnConnections(t *testing.T) {
	var port string
	var asked atomic.Int32
	var open atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices":
			asked.Add(1)
			if got := r.URL.Query().Get("labelSelector"); got != "kubernetes.io/service-name=kubernetes" {
				t.Errorf("asked for %q", got)
			}
			fmt.Fprintf(w, `{"kind":"EndpointSliceList","apiVersion":"discovery.k8s.io/v1","items":[
				{"ports":[{"name":"https","port":%s}],"endpoints":[{"addresses":["127.0.0.2","no address"]}]}]}`, port)
		default:
			fmt.Fprint(w, `{}`)
		}
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	server.Start()
	defer server.Close()
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	port = u.Port()
	// At all of 127.0.0.0/8: the service is 127.0.0.1, and leads to 127.0.0.2.
	everywhere, err := net.Listen("tcp", "127.0.0.2:"+port)
	if err != nil {
		if runtime.GOOS == "linux" {
			t.Fatal(err)
		}
		t.Skip("only Linux has all of 127.0.0.0/8 from the start:", err)
	}
	defer everywhere.Close()
	other := &http.Server{Handler: server.Config.Handler}
	go func() { _ = other.Serve(everywhere) }()

	t.Setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
	own := new(packets.Own)
	plain := &rest.Config{Host: server.URL}
	cfg := ownConnections(plain, own, slog.New(slog.DiscardHandler))
	if plain.Dial != nil {
		t.Error("the caller's settings are changed")
	}
	dial := func() string {
		t.Helper()
		c, err := cfg.Dial(context.Background(), "tcp", u.Host)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		host, _, err := net.SplitHostPort(c.RemoteAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		return host
	}
	got := []string{dial(), dial()}
	for end := time.Now().Add(10 * time.Second); open.Load() > 0; {
		if time.Now().After(end) {
			t.Fatal("the connection with the service is kept")
		}
		time.Sleep(time.Millisecond)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	got = append(got, dial())
	if want := []string{"127.0.0.2", "127.0.0.2", "127.0.0.1"}; !slices.Equal(got, want) {
		t.Errorf("reached are %v, want %v", got, want)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	dial()
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times after the way was no more", n)
	}

	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	cfg = ownConnections(plain, own, slog.New(slog.DiscardHandler))
	if dial() != "127.0.0.1" || asked.Load() != 2 {
		t.Error("an address that is no service's is not dialled as it is")
	}
	if ownConnections(nil, own, nil) != nil {
		t.Error("settings from nothing")
	}
}
