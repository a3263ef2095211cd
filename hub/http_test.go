package hub

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pcapsule/archive"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

// stocked is a site with one snapshot, "outage", of two nodes.
func stocked(t testing.TB, chunks int) (*site, *faulty, time.Time) {
	t.Helper()
	memory := storetest.NewMemory(t, nil)
	st := &faulty{storetest.NewFaulty(memory, nil), memory}
	s := newSite(t, st, nil)
	start := recent()
	for _, node := range []string{"a", "b"} {
		var list []sample
		for i := range chunks {
			list = append(list, packets(t, node, start.Add(time.Duration(i)*time.Second), 1000))
		}
		s.newAgent(node, nil, list...)
	}
	mustCreate(t, s.client(), api.CreateRequest{Name: "outage", Last: "5m"})
	return s, st, start
}

func TestPcap(t *testing.T) {
	s, _, start := stocked(t, 2)
	c := s.client()
	read := func(q api.PcapQuery) []byte {
		t.Helper()
		out, err := c.Pcap(t.Context(), "outage", q)
		if err != nil {
			t.Fatal(err)
		}
		if want := "outage." + map[string]string{"": "pcapng", "pcap": "pcap"}[q.Format]; out.Name != want || out.Size != -1 {
			t.Errorf("%q of %d bytes, want %q of unknown size", out.Name, out.Size, want)
		}
		return readAll(t, out)
	}
	all := read(api.PcapQuery{})
	if n := bytes.Count(all, []byte(": packet ")); n != 4000 {
		t.Errorf("%d packets, want 4000", n)
	}
	if !bytes.Equal(all, read(api.PcapQuery{})) {
		t.Error("the same request gives other bytes")
	}
	some := read(api.PcapQuery{Range: manifest.Between(manifest.NanosOf(start), manifest.NanosOf(start.Add(100*time.Millisecond))), Nodes: []string{"a"}, Format: "pcap"})
	if n := bytes.Count(some, []byte(": packet ")); n != 100 || bytes.Contains(some, []byte("b: packet")) {
		t.Errorf("%d packets of a in a tenth of a second, want 100", n)
	}
	for _, test := range []struct {
		ref    string
		query  string
		status int
		code   string
	}{
		{"none", "", 404, api.CodeNotFound},
		{"outage", "?node=c", 404, api.CodeUnknownNode},
		{"outage", "?interface=wlan0", 404, api.CodeNotFound},
		{"outage", "?format=erf", 400, api.CodeInvalid},
		{"outage", "?from=yesterday", 400, api.CodeInvalid},
		{"outage", "?from=", 400, api.CodeInvalid},
		{"outage", "?to=10000-01-01T00:00:00Z", 400, api.CodeInvalid},
		{"outage", "?to=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z", 400, api.CodeInvalid},
		{"outage", "?nodes=a", 400, api.CodeInvalid},
		{"outage", "?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", 400, api.CodeInvalid},
	} {
		resp, err := http.Get(s.srv.URL + api.Prefix + "/snapshots/" + test.ref + "/pcap" + test.query)
		if err != nil {
			t.Fatal(err)
		}
		b := readAll(t, resp.Body)
		if resp.StatusCode != test.status || !bytes.Contains(b, []byte(`"code":"`+test.code+`"`)) || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s%s: %s %s", test.ref, test.query, resp.Status, b)
		}
	}
}

// TestPcapTimes asks for times that no clock tells: each is what it says, zero
// too, and an export without packets says why.
func TestPcapTimes(t *testing.T) {
	s, _, start := stocked(t, 1)
	for _, tt := range []struct {
		from, to string
		packets  bool
	}{
		{"", "9999-12-31T23:59:59Z", true},
		{"0000-01-01T00:00:00Z", "", true},
		{"1970-01-01T00:00:00Z", "2300-01-01T00:00:00Z", true},
		{"", "1970-01-01T00:00:00Z", false},
		{"", "0001-01-01T00:00:00Z", false},
		{"2300-01-01T00:00:00Z", "", false},
		{"2300-01-01T00:00:00Z", "9999-12-31T23:59:59Z", false},
		{start.Add(-time.Hour).Format(time.RFC3339Nano), start.Format(time.RFC3339Nano), false},
	} {
		var q api.PcapQuery
		for _, end := range []struct {
			s  string
			to **manifest.Nanos
		}{{tt.from, &q.Range.From}, {tt.to, &q.Range.To}} {
			if end.s == "" {
				continue
			}
			ns, err := manifest.ParseTime(end.s)
			if err != nil {
				t.Fatal(err)
			}
			*end.to = &ns
		}
		out, err := s.client().Pcap(t.Context(), "outage", q)
		if err != nil {
			t.Fatalf("from %q to %q: %v", tt.from, tt.to, err)
		}
		b := readAll(t, out)
		if got := bytes.Contains(b, []byte(": packet ")); got != tt.packets || (out.Empty() == "") != tt.packets {
			t.Errorf("from %q to %q: packets %v, empty %q", tt.from, tt.to, got, out.Empty())
		}
	}
}

// TestBrokenStreams damages a chunk that comes late: a client sees an error,
// never a short file that looks whole.
func TestBrokenStreams(t *testing.T) {
	s, st, _ := stocked(t, 20)
	snap, err := archive.New(st).Find(t.Context(), "outage")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := snap.Inventory(t.Context(), snap.Manifest.Nodes[1].Streams[0])
	if err != nil {
		t.Fatal(err)
	}
	last := entries[len(entries)-1].Key
	st.memory.Damage(last, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })

	c := s.client()
	for name, open := range map[string]func(context.Context) (*api.Stream, error){
		"pcap":    func(ctx context.Context) (*api.Stream, error) { return c.Pcap(ctx, "outage", api.PcapQuery{}) },
		"archive": func(ctx context.Context) (*api.Stream, error) { return c.Archive(ctx, "outage") },
	} {
		out, err := open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, out)
		if err == nil || n == 0 || !strings.Contains(err.Error(), "damaged") && !strings.Contains(err.Error(), "verify") {
			t.Errorf("%s: %d bytes, then: %v", name, n, err)
		}
		out.Close()
		// Without trailers, the connection breaks.
		resp, err := http.Get(s.srv.URL + api.Prefix + "/snapshots/outage/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s without trailers ends with %v", name, err)
		}
		resp.Body.Close()
	}
	// With HTTP/1.0, a break cannot be told from the end.
	conn, err := net.Dial("tcp", s.srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET "+api.Prefix+"/snapshots/outage/pcap HTTP/1.0\r\nHost: localhost\r\n\r\n")
	if b, _ := io.ReadAll(conn); !strings.HasPrefix(string(b), "HTTP/1.0 505") {
		t.Errorf("HTTP/1.0 is answered %.100q", b)
	}
	// A chunk that is missing from the start is an error like any other.
	for _, e := range entries {
		st.memory.Damage(e.Key, func([]byte) []byte { return nil })
	}
	_, err = c.Pcap(t.Context(), "outage", api.PcapQuery{Nodes: []string{"b"}})
	if err == nil {
		t.Error("an export without chunks begins")
	}
}

func TestArchive(t *testing.T) {
	s, _, _ := stocked(t, 2)
	out, err := s.client().Archive(t.Context(), "outage")
	if err != nil {
		t.Fatal(err)
	}
	b := readAll(t, out)
	if out.Name != "outage.tar" || out.Size != int64(len(b)) {
		t.Errorf("%q of %d bytes, read %d", out.Name, out.Size, len(b))
	}
	st, err := store.NewTar(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	mustVerify(t, st)
	var files int
	for r := tar.NewReader(bytes.NewReader(b)); ; files++ {
		if _, err := r.Next(); err != nil {
			break
		}
	}
	if files != 3+2+4 {
		t.Errorf("%d files in the tar", files)
	}
	// Any other client gets a length.
	resp, err := http.Get(s.srv.URL + api.Prefix + "/snapshots/outage/archive")
	if err != nil {
		t.Fatal(err)
	}
	if plain := readAll(t, resp.Body); resp.ContentLength != int64(len(b)) || !bytes.Equal(plain, b) {
		t.Errorf("Content-Length %d, %d bytes", resp.ContentLength, len(plain))
	}
}

func TestObjects(t *testing.T) {
	s, st, _ := stocked(t, 2)
	c := s.client()
	remote := store.NewHTTP(c.ObjectsBase(), nil)
	for _, prefix := range []string{manifest.SnapshotsDir, manifest.KindInventory + "/", manifest.KindChunk + "/"} {
		keys := storetest.Keys(t, st, prefix)
		if len(keys) == 0 {
			t.Fatalf("no %s", prefix)
		}
		for _, key := range keys {
			want := storetest.Read(t, st, key)
			if got := storetest.Read(t, remote, key); !bytes.Equal(got, want) {
				t.Errorf("%s: other bytes over HTTP", key)
			}
			info, err := remote.Stat(t.Context(), key)
			if err != nil || info.Size != int64(len(want)) {
				t.Errorf("%s: %+v, %v", key, info, err)
			}
			r, err := remote.Get(t.Context(), key, 5, 10)
			if err != nil {
				t.Fatal(err)
			}
			if got := readAll(t, r); !bytes.Equal(got, want[5:15]) {
				t.Errorf("%s: bytes 5 to 15 are %x, want %x", key, got, want[5:15])
			}
		}
	}
	// An archive over it: what needs no list works.
	list, err := c.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := archive.New(remote).Load(t.Context(), list[0].ID); err != nil {
		t.Error(err)
	}
	// Nothing else is served.
	intents := storetest.Keys(t, st, "")
	for _, key := range append(intents, "intents/"+list[0].ID, "gc/x", "chunks/../snapshots/x", "..%2f..%2fetc/x/passwd", "chunks/00/"+strings.Repeat("0", 64)+".pcapng.lz4") {
		resp, err := http.Get(c.ObjectsBase() + key)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		served := slices.ContainsFunc([]string{"snapshots/", "inventories/", "chunks/"}, func(p string) bool { return strings.HasPrefix(key, p) }) && slices.Contains(intents, key)
		if (resp.StatusCode == http.StatusOK) != served {
			t.Errorf("%s: %s", key, resp.Status)
		}
	}
	for _, method := range []string{"PUT", "POST", "DELETE"} {
		req, _ := http.NewRequest(method, c.ObjectsBase()+storetest.Keys(t, st, "chunks/")[0], strings.NewReader("x"))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s of an object: %s", method, resp.Status)
		}
	}
}

func TestGuard(t *testing.T) {
	h, err := New(Config{Store: storetest.NewMemory(t, nil), Signer: testKey(), Hosts: []string{"hub.example"}, Authorise: func(r *http.Request, role Role) (*Identity, error) {
		if role == Operator && r.Header.Get("Authorization") == "" {
			return nil, refuse(http.StatusForbidden, api.CodeForbidden, "no")
		}
		return nil, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	handler := h.Handler()
	do := func(method, path, host string, header ...string) int {
		r := httptest.NewRequest(method, path, strings.NewReader("{}"))
		r.Host = host
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code >= 400 && w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %d as %s", method, path, w.Code, w.Header().Get("Content-Type"))
		}
		return w.Code
	}
	for host, want := range map[string]int{
		"localhost:8898": 200, "LOCALHOST": 200, "127.0.0.1:8898": 200, "127.3.4.5": 200, "[::1]:8898": 200, "192.0.2.7:80": 200, "hub.example:8898": 200, "HUB.example": 200,
		"evil.example": 403, "evil.example:8898": 403, "localhost.evil.example": 403, "127.0.0.1.evil.example": 403, "": 403, "[::1%25evil.example]:8898": 403,
	} {
		if got := do("GET", "/healthz", host); got != want {
			t.Errorf("host %q: %d, want %d", host, got, want)
		}
	}
	for _, test := range []struct {
		name   string
		method string
		path   string
		header []string
		want   int
	}{
		{"agent", "POST", "/api/v1/agents/a/poll", nil, 200},
		{"form of another site", "POST", "/api/v1/agents/a/poll", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"form of another site, old browser", "POST", "/api/v1/agents/a/poll", []string{"Origin", "http://evil.example"}, 403},
		{"image on another site", "GET", "/api/v1/nodes", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"}, 403},
		{"page on another port", "GET", "/api/v1/nodes", []string{"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "cors"}, 403},
		{"link", "GET", "/api/v1/nodes", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, 200},
		{"own page", "GET", "/api/v1/nodes", []string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors"}, 200},
		{"no operator", "POST", "/api/v1/sweep", nil, 403},
		{"nowhere", "GET", "/api/v2/nodes", nil, 404},
		{"no such method", "PATCH", "/api/v1/nodes", nil, 405},
		{"no such node", "POST", "/api/v1/agents/..%2fx/poll", nil, 400},
	} {
		if got := do(test.method, test.path, "localhost", test.header...); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
	// Bodies are bounded.
	r := httptest.NewRequest(http.MethodPost, "http://localhost/api/v1/agents/a/poll", strings.NewReader(`{"pins":["`+strings.Repeat("x", maxPollBody)+`"]}`))
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("a giant body: %d", w.Code)
	}
}

func TestMetrics(t *testing.T) {
	s, _, _ := stocked(t, 1)
	if _, err := s.client().Nodes(t.Context()); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(s.srv.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text := string(readAll(t, resp.Body))
	for _, want := range []string{
		`pcapsule_hub_nodes{live="true"} 2`,
		`pcapsule_hub_sessions_total{status="completed"} 1`,
		`pcapsule_node_ring_limit_bytes{node="a"} 1.073741824e+09`,
		`pcapsule_hub_chunk_bytes_total{stored="false"}`,
		`pcapsule_hub_request_duration_seconds_count{method="POST",path="/api/v1/snapshots",status="202"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
}

func TestNodes(t *testing.T) {
	var now = time.Now()
	h, err := New(Config{Store: storetest.NewMemory(t, nil), Signer: testKey(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	hear := func(name string) {
		t.Helper()
		if _, err := h.heard(name, &api.PollRequest{}, now); err != nil {
			t.Fatal(err)
		}
	}
	window := manifest.Interval{From: manifest.NanosOf(now.Add(-2 * time.Hour)), To: manifest.NanosOf(now)}
	hear("gone")
	now = now.Add(3 * time.Hour)
	hear("b")
	hear("a")
	var got []string
	for _, n := range h.knownNodes() {
		got = append(got, n.Name+" "+strconv.FormatBool(n.Live))
	}
	if want := []string{"a true", "b true", "gone false"}; !slices.Equal(got, want) {
		t.Errorf("nodes %v, want %v", got, want)
	}
	// A window in which the node that has gone was alive names it, a later one
	// does not.
	chosen, err := h.chooseNodes(t.Context(), nil, window)
	if err != nil || !slices.Equal(chosen, []string{"a", "b", "gone"}) {
		t.Errorf("chosen %v, %v", chosen, err)
	}
	window.From = manifest.NanosOf(now.Add(-time.Minute))
	chosen, err = h.chooseNodes(t.Context(), nil, window)
	if err != nil || !slices.Equal(chosen, []string{"a", "b"}) {
		t.Errorf("chosen %v, %v", chosen, err)
	}
	now = now.Add(8 * 24 * time.Hour)
	h.forgetNodes()
	if n := h.knownNodes(); len(n) > 0 {
		t.Errorf("after a week %v are known", n)
	}
	for i := range manifest.MaxNodes {
		hear("n" + strconv.Itoa(i))
	}
	if _, err := h.heard("one-more", &api.PollRequest{}, now); err == nil {
		t.Error("nodes without end")
	}
}

// TestWarnings passes on what agents warn of, within bounds.
func TestWarnings(t *testing.T) {
	s := newSite(t, storetest.NewMemory(t, nil), nil)
	start := time.Now().Add(-time.Minute)
	const text = "interface v0 is gone"
	warn := func(a *agent) { a.warnings = []string{text} }
	s.newAgent("web-1", warn, packets(t, "web-1", start, 10))
	s.newAgent("web-2", nil, packets(t, "web-2", start, 10))
	c := s.client()
	list, err := c.Nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []api.Interface{{Interface: eth0, State: api.InterfaceUp}}
	if len(list) != 2 || !slices.Equal(list[0].Warnings, []string{text}) || list[1].Warnings == nil || !slices.Equal(list[0].Interfaces, want) {
		t.Errorf("nodes are %+v", list)
	}
	snap, err := c.Create(t.Context(), api.CreateRequest{Name: "x", Last: "5m"})
	if err != nil {
		t.Fatal(err)
	}
	done, err := c.WaitSnapshot(t.Context(), snap.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(done.Warnings, []string{"node web-1, now: " + text}) {
		t.Errorf("who made the snapshot hears %q", done.Warnings)
	}
	if later, err := c.Snapshot(t.Context(), "x"); err != nil || len(later.Warnings) > 0 {
		t.Errorf("who looks later hears %q, %v", later.Warnings, err)
	}
	resp, err := http.Get(s.srv.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	for _, want := range []string{
		`pcapsule_node_warnings{node="web-1"} 1`, `pcapsule_node_warnings{node="web-2"} 0`,
		`pcapsule_node_interfaces{node="web-1",state="up"} 1`, `pcapsule_node_interfaces{node="web-1",state="gone"} 0`,
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("no %s in the metrics", want)
		}
	}

	for name, list := range map[string][]string{
		"many":        slices.Repeat([]string{"x"}, api.MaxWarnings+1),
		"long":        {strings.Repeat("x", api.MaxWarning+1)},
		"unprintable": {"a\x1b[2J"},
		"no text":     {"a\xff"},
	} {
		if _, err := s.hub.heard("web-1", &api.PollRequest{Warnings: list}, time.Now()); err == nil {
			t.Errorf("warnings that are %s are taken", name)
		}
	}
	odd := []api.Interface{{Interface: eth0, State: "sideways\n"}}
	if n, err := s.hub.heard("web-3", &api.PollRequest{Interfaces: odd}, time.Now()); err != nil || n.Interfaces[0].State != "" {
		t.Errorf("an unknown state: %v", err)
	}
}

func TestServe(t *testing.T) {
	h, err := New(Config{Store: storetest.NewMemory(t, nil), Signer: testKey()})
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
	c, err := api.NewClient("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	about, err := c.Hub(t.Context())
	if err != nil || about.PublicKey != testKey().Public().SignersLine() || !about.Proven {
		t.Errorf("%+v, %v", about, err)
	}
	polled := make(chan error, 1)
	go func() {
		_, err := c.Poll(context.Background(), "a", api.PollRequest{Wait: manifest.Nanos(20 * time.Second)})
		polled <- err
	}()
	await(t, func() bool { return len(h.knownNodes()) == 1 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := <-polled; err != nil {
		t.Errorf("a poll when the hub stops: %v", err)
	}
	_, err = c.Hub(t.Context())
	if !errors.Is(err, api.ErrUnreachable) || !strings.Contains(err.Error(), "is `pcapsule up` running?") {
		t.Errorf("a hub that is gone: %v", err)
	}
}

func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := New(Config{Store: storetest.NewMemory(t, nil), Signer: testKey()})
		if err != nil {
			t.Fatal(err)
		}
		window := manifest.Interval{From: 1, To: manifest.NanosOf(time.Now())}
		hearAfter := func(name string, d time.Duration) {
			time.AfterFunc(d, func() {
				if _, err := h.heard(name, &api.PollRequest{}, time.Now()); err != nil {
					t.Error(err)
				}
			})
		}
		choose := func(want string, after time.Duration, named ...string) {
			t.Helper()
			began := time.Now()
			got, err := h.chooseNodes(t.Context(), named, window)
			if strings.Join(got, " ") != want || err != nil || time.Since(began) != after {
				t.Errorf("%v, %v after %s, want %s after %s", got, err, time.Since(began), want, after)
			}
		}
		// One that nobody expects: the first to come.
		hearAfter("a", time.Second)
		choose("a", time.Second)
		choose("a", 0)
		// One that is expected, or named, is waited for.
		h.expected = expected{nodes: []string{"a", "b"}}
		hearAfter("b", 5*time.Second)
		choose("a b", 5*time.Second)
		hearAfter("c", 3*time.Second)
		choose("c", 3*time.Second, "c")
		// One that never comes back does not hold up anybody for long.
		h.expected = expected{nodes: []string{"a", "gone"}}
		choose("a b c", h.cfg.Settle-9*time.Second)
		choose("a b c", 0)
		// In a cluster, where no snapshot tells who there is, all have their time.
		h.cfg.Cluster, h.expected, h.began = true, expected{}, time.Now()
		hearAfter("d", 20*time.Second)
		choose("b", 0, "b")
		choose("a b c d", h.cfg.Settle)
	})
}
