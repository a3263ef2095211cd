package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pcapsule/manifest"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

// A badLine stands between pcapsule and an S3 server and does what a test says.
type badLine struct {
	srv    *httptest.Server
	server http.Handler
	mode   atomic.Pointer[func(w http.ResponseWriter, r *http.Request, server http.Handler)]
	hung   chan struct{} // closed at the end: lets what hangs go
}

func newBadLine(t *testing.T, endpoint string) *badLine {
	target, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	l := &badLine{hung: make(chan struct{})}
	l.server = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // which is signed
	}}
	l.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if mode := l.mode.Load(); mode != nil {
			(*mode)(w, r, l.server)
			return
		}
		l.server.ServeHTTP(w, r)
	}))
	t.Cleanup(l.srv.Close)
	t.Cleanup(func() { close(l.hung) })
	return l
}

func (l *badLine) set(mode func(w http.ResponseWriter, r *http.Request, server http.Handler)) {
	if mode == nil {
		l.mode.Store(nil)
		return
	}
	l.mode.Store(&mode)
}

// slow answers late.
func slow(d time.Duration) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		time.Sleep(d)
		server.ServeHTTP(w, r)
	}
}

// overloaded answers 503 SlowDown for a while.
func overloaded(d time.Duration) func(http.ResponseWriter, *http.Request, http.Handler) {
	end := time.Now().Add(d)
	return func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		if time.Now().After(end) {
			server.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
	}
}

// torn breaks every other connection in the middle: of the request's body where
// there is one, else of the answer's.
func torn() func(http.ResponseWriter, *http.Request, http.Handler) {
	var n atomic.Int32
	return func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		if n.Add(1)%2 == 0 {
			server.ServeHTTP(w, r)
			return
		}
		if r.ContentLength > 0 {
			io.CopyN(io.Discard, r.Body, r.ContentLength/2)
			panic(http.ErrAbortHandler)
		}
		rec := httptest.NewRecorder()
		server.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// hangs never answers.
func (l *badLine) hangs(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
	select {
	case <-l.hung:
	case <-r.Context().Done():
	}
	panic(http.ErrAbortHandler)
}

// TestSlowStore: a store that is slow, overloaded, breaks connections or hangs
// costs time and nothing else; what cannot be done is said in one line, and
// Ctrl-C is heard at once.
func TestSlowStore(t *testing.T) {
	buildMinIO(t)
	if !inNamespace(t) {
		return
	}
	m := newMachine(t)
	opt := storetest.MinIO(t)
	line := newBadLine(t, opt.Endpoint)
	for k, v := range map[string]string{
		"AWS_ENDPOINT_URL": line.srv.URL, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": opt.AccessKey, "AWS_SECRET_ACCESS_KEY": opt.SecretKey,
	} {
		t.Setenv(k, v)
	}
	location := "s3://" + opt.Bucket + "/slow"
	s := newSender(t)

	line.set(slow(50 * time.Millisecond))
	d := m.start("up", "--data-dir", "data", "--node", "n", "--ring-size", "64MiB", "--store", location)
	m.ready(d)
	for i, mode := range []func(){
		func() { line.set(slow(100 * time.Millisecond)) },
		func() { line.set(overloaded(2 * time.Second)) },
		func() { line.set(torn()) },
	} {
		name := string(rune('a' + i))
		for range 100 {
			s.send(t)
		}
		mode()
		m.run(0, "snapshot", "create", name, "--last", "100ms")
		mode()
		m.run(0, "snapshot", "list")
		mode()
		m.run(0, "snapshot", "pcap", name, "-w", name+"-hub.pcapng")
		mode()
		m.run(0, "snapshot", "pcap", name, "--store", location, "-w", name+".pcapng")
		mode()
		m.run(0, "verify", location)
		mode()
		m.run(0, "sweep")
		compareFiles(t, m.dir+"/"+name+".pcapng", m.dir+"/"+name+"-hub.pcapng")
	}

	// Ctrl-C while nothing moves.
	line.set(nil)
	for _, args := range [][]string{
		{"snapshot", "list", "--store", location},
		{"verify", location},
		{"snapshot", "pcap", "a", "--store", location, "-w", "never.pcapng"},
		{"snapshot", "pcap", "a", "-w", "never.pcapng"},
		{"snapshot", "list"},
		{"snapshot", "create", "never", "--last", "100ms"},
		{"sweep"},
		{"hub", "--data-dir", "other", "--listen", "127.0.0.1:8899", "--store", location},
	} {
		line.set(line.hangs)
		code, took, out := m.interrupt(700*time.Millisecond, args...)
		if code == 0 || took > 6*time.Second || strings.Count(out, "\n") != 1 || !strings.Contains(out, "interrupted") {
			t.Errorf("Ctrl-C of %q: exit code %d after %v\n%s", args, code, took, out)
		}
		line.set(nil)
	}
	// Interrupted while it is being made.
	line.set(func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/inventories/") {
			line.hangs(w, r, server)
		}
		server.ServeHTTP(w, r)
	})
	if code, took, out := m.interrupt(time.Second, "snapshot", "create", "given-up", "--last", "100ms"); code != exitFailed || took > 6*time.Second || !strings.Contains(out, "given up") {
		t.Errorf("Ctrl-C of create: exit code %d after %v\n%s", code, took, out)
	}
	line.set(nil)
	m.run(0, "snapshot", "create", "given-up", "--last", "100ms") // the name is free
	m.run(0, "sweep")
	m.run(0, "verify", location)
	if _, err := os.Stat(m.dir + "/never.pcapng"); err == nil {
		t.Error("an export that was interrupted left a file")
	}

	opt.Prefix = "slow"
	st, err := store.NewS3(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	if left := storetest.Keys(t, st, manifest.IntentsDir); len(left) > 0 {
		t.Errorf("undecided: %v", left)
	}

	// A hub that is told to stop stops, whatever the store does.
	line.set(line.hangs)
	began := time.Now()
	if err := d.end(os.Interrupt); err != nil || time.Since(began) > 10*time.Second {
		t.Errorf("up ended with %v after %v\n%s", err, time.Since(began), d.out.String())
	}
}

// interrupt starts a command, presses Ctrl-C after a while, and waits.
func (m *machine) interrupt(after time.Duration, args ...string) (code int, took time.Duration, out string) {
	m.t.Helper()
	var b bytes.Buffer
	cmd := m.command(context.Background(), args...)
	cmd.Stdout, cmd.Stderr = &b, &b
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	select {
	case <-ended:
		m.t.Errorf("%q ended before it was interrupted", args)
	case <-time.After(after):
	}
	began := time.Now()
	cmd.Process.Signal(os.Interrupt)
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		cmd.Process.Signal(syscall.SIGQUIT)
		<-ended
	}
	return cmd.ProcessState.ExitCode(), time.Since(began), b.String()
}

func compareFiles(t *testing.T, a, b string) {
	t.Helper()
	if out, err := exec.Command("cmp", a, b).CombinedOutput(); err != nil {
		t.Errorf("%s", out)
	}
}
