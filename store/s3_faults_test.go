package store_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/signer"

	"pcapsule/store"
	"pcapsule/store/storetest"
)

// front starts a server that hands requests on to the one of opt, as handle
// sees fit, and returns the settings to reach it.
func front(t *testing.T, opt store.S3Options, handle func(w http.ResponseWriter, r *http.Request, pass http.Handler)) store.S3Options {
	t.Helper()
	target, err := url.Parse(opt.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handle(w, r, proxy) }))
	t.Cleanup(srv.Close)
	opt.Endpoint = srv.URL
	return opt
}

// s3Answer is an error as S3 services send them.
func s3Answer(w http.ResponseWriter, status int, code, extra string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>of a test</Message>%s</Error>`, code, extra)
}

// wantAdvice checks an error for a person: one line, with what to do.
func wantAdvice(t *testing.T, what string, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: error does not say %q: %v", what, part, err)
		}
	}
	if strings.ContainsRune(err.Error(), '\n') {
		t.Errorf("%s: error of several lines: %v", what, err)
	}
}

func TestS3WrongSettings(t *testing.T) {
	good := storetest.MinIO(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	for _, c := range []struct {
		name   string
		change func(*store.S3Options)
		want   []string
	}{
		{"missing bucket", func(o *store.S3Options) { o.Bucket = "no-such-bucket" }, []string{`no bucket "no-such-bucket"`, "create it"}},
		{"bad bucket", func(o *store.S3Options) { o.Bucket = "Not_A_Bucket" }, []string{"Not_A_Bucket"}},
		{"no bucket", func(o *store.S3Options) { o.Bucket = "" }, []string{"s3://bucket/prefix"}},
		{"bad prefix", func(o *store.S3Options) { o.Prefix = "a/../b" }, []string{"prefix"}},
		{"unknown key", func(o *store.S3Options) { o.AccessKey = "nobody" }, []string{"AWS_ACCESS_KEY_ID"}},
		{"wrong secret", func(o *store.S3Options) { o.SecretKey = "wrong" }, []string{"AWS_SECRET_ACCESS_KEY"}},
		{"nobody listens", func(o *store.S3Options) { o.Endpoint = "http://" + closed.Addr().String() }, []string{"nothing listens", "AWS_ENDPOINT_URL"}},
		{"no such host", func(o *store.S3Options) { o.Endpoint = "http://host.invalid" }, []string{"host.invalid", "AWS_ENDPOINT_URL"}},
		{"no scheme", func(o *store.S3Options) { o.Endpoint = "localhost:9000" }, []string{"want one like https://"}},
		{"with a path", func(o *store.S3Options) { o.Endpoint += "/bucket" }, []string{"no more"}},
		{"TLS to plain", func(o *store.S3Options) { o.Endpoint = strings.Replace(o.Endpoint, "http:", "https:", 1) }, []string{"http://"}},
		{"bad style", func(o *store.S3Options) { o.Style = "odd" }, []string{"path or virtual"}},
		{"missing CA", func(o *store.S3Options) { o.CABundle = "/nonexistent" }, []string{"AWS_CA_BUNDLE"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			opt := good
			c.change(&opt)
			_, err := store.NewS3(t.Context(), opt)
			wantAdvice(t, c.name, err, c.want...)
			if errors.Is(err, store.ErrNotExist) {
				t.Errorf("looks as if an object was absent: %v", err)
			}
		})
	}
}

func TestS3TLS(t *testing.T) {
	good := storetest.MinIO(t)
	target, err := url.Parse(good.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host
	}})
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	opt := good
	opt.Endpoint = srv.URL
	_, err = store.NewS3(t.Context(), opt)
	wantAdvice(t, "unknown authority", err, "AWS_CA_BUNDLE")

	opt.CABundle = filepath.Join(t.TempDir(), "ca.pem")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(opt.CABundle, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openS3(t, opt)
	data := bytes.Repeat([]byte("tls"), 100_000)
	storetest.Put(t, s, "a", data)
	if got := storetest.Read(t, s, "a"); !bytes.Equal(got, data) {
		t.Error("read other bytes")
	}

	opt.Endpoint = strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)
	_, err = store.NewS3(t.Context(), opt)
	wantAdvice(t, "another name", err, "another name")
	opt.Endpoint = strings.Replace(srv.URL, "https:", "http:", 1)
	_, err = store.NewS3(t.Context(), opt)
	wantAdvice(t, "plain to TLS", err, "https://")
}

// TestS3Answers covers what a real server cannot be brought to say.
func TestS3Answers(t *testing.T) {
	for _, c := range []struct {
		code   string
		status int
		extra  string
		kind   error
		want   string
	}{
		{"AccessDenied", 403, "", store.ErrForbidden, "s3:ListBucket"},
		{"RequestTimeTooSkewed", 403, "", store.ErrForbidden, "clock"},
		{"ExpiredToken", 400, "", store.ErrForbidden, "expired"},
		{"AuthorizationHeaderMalformed", 400, "<Region>eu-central-1</Region>", nil, "set AWS_REGION to eu-central-1"},
		{"PermanentRedirect", 301, "", nil, "set AWS_REGION"},
		{"SlowDown", 503, "", nil, "overloaded"},
		{"InternalError", 500, "", nil, "overloaded or failing"},
		{"XMinioStorageFull", 507, "", store.ErrNoSpace, "no space"},
		{"Whatever", 418, "", nil, "AWS_ENDPOINT_URL"},
	} {
		t.Run(c.code, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				s3Answer(w, c.status, c.code, c.extra)
			}))
			defer srv.Close()
			_, err := store.NewS3(t.Context(), store.S3Options{
				Bucket: "bucket", Endpoint: srv.URL, Region: "us-east-1", AccessKey: "a", SecretKey: "s",
				Attempts: 2, Backoff: time.Microsecond,
			})
			wantAdvice(t, c.code, err, c.want, "s3://bucket")
			if c.kind != nil && !errors.Is(err, c.kind) {
				t.Errorf("%v is not %v", err, c.kind)
			}
		})
	}
}

// TestS3NoS3 meets a web server that is no S3 service.
func TestS3NoS3(t *testing.T) {
	for status, want := range map[int]string{200: "no S3 service", 404: "no S3 service", 403: "login page", 401: "login page", 405: "AWS_ENDPOINT_URL"} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "<html>welcome")
		}))
		_, err := store.NewS3(t.Context(), store.S3Options{Bucket: "bucket", Endpoint: srv.URL, AccessKey: "a", SecretKey: "s"})
		wantAdvice(t, fmt.Sprint("status ", status), err, want)
		srv.Close()
	}
}

func TestS3RegionIsFound(t *testing.T) {
	opt := front(t, storetest.MinIO(t), func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if !strings.Contains(r.Header.Get("Authorization"), "/eu-central-1/s3/") {
			s3Answer(w, 400, "AuthorizationHeaderMalformed", "<Region>eu-central-1</Region>")
			return
		}
		pass.ServeHTTP(w, r)
	})
	storetest.Put(t, openS3(t, opt), "a", []byte("x"))
	opt.Region = "us-west-2" // said by the user, and so not overruled
	_, err := store.NewS3(t.Context(), opt)
	wantAdvice(t, "wrong region", err, "us-west-2", "set AWS_REGION to eu-central-1")
}

// failing answers 503 to the next n requests.
type failing struct{ n, seen atomic.Int64 }

func (f *failing) handle(w http.ResponseWriter, r *http.Request, pass http.Handler) {
	f.seen.Add(1)
	if f.n.Add(-1) >= 0 {
		s3Answer(w, http.StatusServiceUnavailable, "SlowDown", "")
		return
	}
	pass.ServeHTTP(w, r)
}

func TestS3Retries(t *testing.T) {
	var f failing
	opt := front(t, storetest.MinIO(t), f.handle)
	opt.Attempts, opt.Backoff = 4, time.Millisecond
	s := openS3(t, opt)
	data := bytes.Repeat([]byte("x"), 300<<10)
	f.n.Store(3)
	storetest.Put(t, s, "a", data)
	f.n.Store(3)
	if got := storetest.Read(t, s, "a"); !bytes.Equal(got, data) {
		t.Error("read other bytes")
	}
	f.n.Store(3)
	if _, err := s.Stat(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	f.n.Store(3)
	if diff := cmp.Diff([]string{"a"}, storetest.Keys(t, s, "")); diff != "" {
		t.Error(diff)
	}

	f.n.Store(1 << 40)
	f.seen.Store(0)
	err := s.Put(t.Context(), "b", store.Bytes(data))
	wantAdvice(t, "503 for ever", err, "tried 4 times", "overloaded", "b")
	if n := f.seen.Load(); n != 4 {
		t.Errorf("%d requests for 4 attempts", n)
	}
	_, err = store.NewS3(t.Context(), opt)
	wantAdvice(t, "open at 503 for ever", err, "overloaded")

	// With time to spare, the context ends it.
	opt.Attempts, opt.Backoff = 1000, time.Hour
	f.n.Store(0)
	patient := openS3(t, opt)
	f.n.Store(1 << 40)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err = patient.Put(ctx, "b", store.Bytes(data))
	wantAdvice(t, "deadline", err, "overloaded")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v is no %v", err, context.DeadlineExceeded)
	}
}

func TestS3Hangs(t *testing.T) {
	var hang atomic.Bool
	release := make(chan struct{})
	opt := front(t, storetest.MinIO(t), func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if hang.Load() {
			<-release
			return
		}
		pass.ServeHTTP(w, r)
	})
	defer close(release)
	opt.Attempts, opt.Timeout = 2, 200*time.Millisecond
	s := openS3(t, opt)
	hang.Store(true)
	wantAdvice(t, "Put", s.Put(t.Context(), "a", store.Bytes([]byte("x"))), "does not answer", "tried 2 times")
	_, err := s.Get(t.Context(), "a", 0, -1)
	wantAdvice(t, "Get", err, "does not answer")
	for _, err := range s.List(t.Context(), "") {
		wantAdvice(t, "List", err, "does not answer")
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, errors.New("the test's patience ended"))
	defer cancel()
	_, err = s.Stat(ctx, "a")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Stat: %v", err)
	}
}

// TestS3LostAnswer breaks the connection after the server did what it was asked.
func TestS3LostAnswer(t *testing.T) {
	direct := storetest.MinIO(t)
	var before func() // runs in place of the answer's way back, once
	var mu sync.Mutex
	opt := front(t, direct, func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		mu.Lock()
		f := before
		if r.Method == http.MethodPut {
			before = nil
		}
		mu.Unlock()
		if r.Method != http.MethodPut || f == nil {
			pass.ServeHTTP(w, r)
			return
		}
		pass.ServeHTTP(httptest.NewRecorder(), r)
		f()
		panic(http.ErrAbortHandler)
	})
	s := openS3(t, opt)
	other := openS3(t, direct)

	before = func() {}
	if err := s.Put(t.Context(), "own", store.Bytes([]byte("own"))); err != nil {
		t.Errorf("taken by an earlier attempt of its own: %v", err)
	}
	before = func() {
		err := errors.Join(
			other.Delete(context.Background(), "other"),
			other.Put(context.Background(), "other", store.Bytes([]byte("other's"))),
		)
		if err != nil {
			t.Error(err)
		}
	}
	if err := s.Put(t.Context(), "other", store.Bytes([]byte("own"))); !errors.Is(err, store.ErrExist) {
		t.Errorf("taken by another: %v", err)
	}
}

func TestS3Conflict(t *testing.T) {
	var once sync.Once
	opt := front(t, storetest.MinIO(t), func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		conflict := false
		if r.Method == http.MethodPut {
			once.Do(func() { conflict = true })
		}
		if conflict {
			s3Answer(w, http.StatusConflict, "ConditionalRequestConflict", "")
			return
		}
		pass.ServeHTTP(w, r)
	})
	storetest.Put(t, openS3(t, opt), "a", []byte("x"))
}

// TestS3BrokenRead cuts the body of each answer short.
func TestS3BrokenRead(t *testing.T) {
	direct := storetest.MinIO(t)
	var gets, limit atomic.Int64
	limit.Store(1 << 40)
	opt := front(t, direct, func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if r.Method == http.MethodGet && r.URL.Query().Get("list-type") == "" {
			gets.Add(1)
			w = &cutWriter{w, limit.Load()}
		}
		pass.ServeHTTP(w, r)
	})
	opt.Attempts = 3
	s := openS3(t, opt)
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(i >> 8)
	}
	storetest.Put(t, s, "a", data)
	limit.Store(300 << 10)
	if got := storetest.Read(t, s, "a"); !bytes.Equal(got, data) {
		t.Error("read other bytes")
	}
	if n := gets.Load(); n != 4 {
		t.Errorf("%d requests, want 4", n)
	}
	r, err := s.Get(t.Context(), "a", 1000, 700<<10)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data[1000:1000+700<<10]) {
		t.Errorf("range: %d bytes, %v", len(got), err)
	}
	r.Close()
	limit.Store(0)
	r, err = s.Get(t.Context(), "a", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_, err = io.ReadAll(r)
	wantAdvice(t, "nothing ever comes", err, "connection", "/a")
}

// cutWriter aborts an answer after left bytes of its body.
type cutWriter struct {
	http.ResponseWriter
	left int64
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > w.left {
		_, _ = w.ResponseWriter.Write(p[:w.left])
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	w.left -= int64(len(p))
	return w.ResponseWriter.Write(p)
}

// TestProbeRefusesOverwriting meets a service that ignores If-None-Match, as that
// of Google does.
func TestProbeRefusesOverwriting(t *testing.T) {
	real := storetest.MinIO(t)
	opt := front(t, real, func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if r.Method == http.MethodPut {
			r.Header.Del("If-None-Match")
			r.Header.Del("Authorization")
			r = signer.SignV4(*r, real.AccessKey, real.SecretKey, "", "us-east-1")
		}
		pass.ServeHTTP(w, r)
	})
	s := openS3(t, opt)
	_, err := store.Probe(t.Context(), s)
	wantAdvice(t, "Probe", err, "overwrites objects", "If-None-Match", real.Bucket)
	if keys := storetest.Keys(t, s, ""); len(keys) != 0 {
		t.Errorf("the probe left %q", keys)
	}
}

// limited returns opt with credentials that may do no more than actions.
func limited(t *testing.T, opt store.S3Options, actions string) store.S3Options {
	t.Helper()
	sts, err := credentials.NewSTSAssumeRole(opt.Endpoint, credentials.STSAssumeRoleOptions{
		AccessKey: opt.AccessKey, SecretKey: opt.SecretKey, DurationSeconds: 900,
		Policy: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":[` + actions + `],"Resource":["arn:aws:s3:::*"]}]}`,
	})
	if err != nil {
		t.Fatal(err)
	}
	v, err := sts.GetWithContext(&credentials.CredContext{Client: http.DefaultClient, Endpoint: opt.Endpoint})
	if err != nil {
		t.Fatal(err)
	}
	opt.AccessKey, opt.SecretKey, opt.SessionToken = v.AccessKeyID, v.SecretAccessKey, v.SessionToken
	return opt
}

// TestS3Forbidden uses credentials that may only read.
func TestS3Forbidden(t *testing.T) {
	opt := storetest.MinIO(t)
	storetest.Put(t, openS3(t, opt), "a", []byte("x"))
	s := openS3(t, limited(t, opt, `"s3:GetObject","s3:ListBucket"`))
	if got := storetest.Read(t, s, "a"); string(got) != "x" {
		t.Errorf("read %q", got)
	}
	_, probeErr := store.Probe(t.Context(), s)
	for what, c := range map[string]struct {
		err  error
		want string
	}{
		"Put":    {s.Put(t.Context(), "b", store.Bytes(nil)), "s3:PutObject"},
		"Delete": {s.Delete(t.Context(), "a"), "s3:DeleteObject"},
		"Probe":  {probeErr, "s3:PutObject"},
	} {
		wantAdvice(t, what, c.err, c.want)
		if !errors.Is(c.err, store.ErrForbidden) {
			t.Errorf("%s: %v is not %v", what, c.err, store.ErrForbidden)
		}
	}
}

// TestS3ForeignKeys lists a bucket in which others keep things.
func TestS3ForeignKeys(t *testing.T) {
	opt := storetest.MinIO(t)
	whole := openS3(t, opt)
	storetest.Put(t, whole, "prefix/a", []byte("x"))
	storetest.Put(t, whole, "prefix-not/b", []byte("x"))
	storetest.Put(t, whole, "c", []byte("x"))
	opt.Prefix = "prefix"
	if diff := cmp.Diff([]string{"a"}, storetest.Keys(t, openS3(t, opt), "")); diff != "" {
		t.Error(diff)
	}
	if got := store.Describe(openS3(t, opt)); got != "s3://"+opt.Bucket+"/prefix" {
		t.Error(got)
	}
}

func TestS3GrantLimits(t *testing.T) {
	s := openS3(t, storetest.MinIO(t))
	body := store.Bytes([]byte("x"))
	g, err := s.Grant(t.Context(), "a", body.Size, body.SHA256, time.Now().Add(30*24*time.Hour))
	if err != nil || time.Until(g.Expires) > 7*24*time.Hour {
		t.Errorf("a grant for a month: %v, %v", g.Expires, err)
	}
	if _, err := s.Grant(t.Context(), "a", body.Size, body.SHA256, time.Now()); err == nil {
		t.Error("a grant that expires at once")
	}
	without := g
	without.Header = http.Header{}
	if status, answer := storetest.Upload(t, "", without, []byte("x")); status != http.StatusBadRequest && status != http.StatusForbidden {
		t.Errorf("without its headers: status %d %s", status, answer)
	}
}
