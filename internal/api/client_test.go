package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/manifest"
	"pcapsule/store"
)

// roundTrips plays a hub without a network, so that time can be played too.
type roundTrips func(*http.Request) (*http.Response, error)

func (f roundTrips) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func testClient(t *testing.T, f roundTrips) *Client {
	t.Helper()
	c, err := NewClient("http://hub:1/")
	if err != nil {
		t.Fatal(err)
	}
	c.hub, c.elsewhere = f, f
	return c
}

func answer(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

var refused = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}

func TestNewClient(t *testing.T) {
	for _, base := range []string{"", "http://127.0.0.1:8898", "http://127.0.0.1:8898/", "https://hub.example/pcapsule/"} {
		c, err := NewClient(base)
		if err != nil || strings.HasSuffix(c.Base(), "/") {
			t.Errorf("%q: %v, %v", base, c, err)
		}
	}
	for _, base := range []string{"127.0.0.1:8898", "hub", "ftp://hub", "http://", "http://hub?x=1", "http://hub#x", "://"} {
		if _, err := NewClient(base); err == nil || !strings.Contains(err.Error(), DefaultBase) {
			t.Errorf("%q: %v", base, err)
		}
	}
}

func TestRetries(t *testing.T) {
	broken := errors.New("connection reset")
	busy := func() *http.Response { return answer(503, `{"code":"unavailable","message":"busy"}`) }
	for _, test := range []struct {
		name     string
		patience time.Duration
		fail     func(n int) (*http.Response, error) // the nth attempt, from 0; nil, nil is a success
		create   bool
		attempts int
		ok       bool
	}{
		{"at once", 0, func(int) (*http.Response, error) { return nil, nil }, false, 1, true},
		{"impatient", 0, func(int) (*http.Response, error) { return nil, refused }, false, 1, false},
		{"comes up", time.Minute, func(n int) (*http.Response, error) {
			if n < 5 {
				return nil, refused
			}
			return nil, nil
		}, false, 6, true},
		{"busy", time.Minute, func(n int) (*http.Response, error) {
			if n < 3 {
				return busy(), nil
			}
			return nil, nil
		}, true, 4, true},
		{"broken", time.Minute, func(n int) (*http.Response, error) {
			if n < 3 {
				return nil, broken
			}
			return nil, nil
		}, false, 4, true},
		{"broken, not to be repeated", time.Minute, func(int) (*http.Response, error) { return nil, broken }, true, 1, false},
		{"create comes up", time.Minute, func(n int) (*http.Response, error) {
			if n < 3 {
				return nil, refused
			}
			return nil, nil
		}, true, 4, true},
		{"refused", time.Minute, func(int) (*http.Response, error) {
			return answer(400, `{"code":"invalid","message":"no"}`), nil
		}, false, 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				c := testClient(t, func(*http.Request) (*http.Response, error) {
					n++
					if resp, err := test.fail(n - 1); resp != nil || err != nil {
						return resp, err
					}
					return answer(200, `{"id":"1","name":"x"}`), nil
				})
				ctx := Patiently(t.Context(), test.patience)
				var s *Snapshot
				var err error
				if test.create {
					s, err = c.Create(ctx, CreateRequest{})
				} else {
					s, err = c.Snapshot(ctx, "x")
				}
				if n != test.attempts || (err == nil) != test.ok || test.ok && s.Name != "x" {
					t.Errorf("%d attempts, %+v, %v", n, s, err)
				}
			})
		})
	}
}

func TestPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := testClient(t, func(*http.Request) (*http.Response, error) { return nil, refused })
		began := time.Now()
		_, err := c.Hub(Patiently(t.Context(), time.Minute))
		if took := time.Since(began); took > time.Minute || took < 50*time.Second {
			t.Errorf("gave up after %s", took)
		}
		want := "nothing answers at http://hub:1: is the hub running? (--hub URL or PCAPSULE_HUB to choose another)"
		if !errors.Is(err, ErrUnreachable) || err.Error() != want {
			t.Errorf("%v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began = time.Now()
		if _, err := c.Hub(Patiently(ctx, time.Hour)); err == nil || time.Since(began) > time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

func TestDeleteOfUnknownEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		c := testClient(t, func(*http.Request) (*http.Response, error) {
			if n++; n == 1 {
				return nil, errors.New("connection reset")
			}
			return answer(404, `{"code":"not-found","message":"no such snapshot"}`), nil
		})
		if err := c.Delete(Patiently(t.Context(), time.Minute), "x"); err != nil {
			t.Errorf("what the first attempt deleted: %v", err)
		}
		if err := c.Delete(t.Context(), "x"); err == nil {
			t.Error("what was never there is deleted")
		}
	})
}

func TestNoHub(t *testing.T) {
	for _, body := range []string{"<html>hello</html>", `{"error":"x"}`, ""} {
		for _, status := range []int{200, 404, 502} {
			c := testClient(t, func(*http.Request) (*http.Response, error) { return answer(status, body), nil })
			_, err := c.Snapshots(t.Context())
			if err == nil || !strings.Contains(err.Error(), "like a pcapsule hub") {
				t.Errorf("%d %q: %v", status, body, err)
			}
		}
	}
	c := testClient(t, func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Name: "hub", IsNotFound: true}}
	})
	if _, err := c.Hub(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be found") {
		t.Errorf("%v", err)
	}
}

func TestWaitSnapshot(t *testing.T) {
	type step struct {
		id     string // that is asked for
		status int
		body   string
		err    error
	}
	creating := `{"id":"%","name":"x","status":"creating"}`
	for _, test := range []struct {
		name  string
		steps []step
		id    string
		fails string
	}{
		{"done", []step{{"one", 200, creating, nil}, {"one", 200, `{"id":"one","status":"completed"}`, nil}}, "one", ""},
		{"failed", []step{{"one", 200, `{"id":"one","status":"failed","error":{"code":"not-recorded","message":"nothing there"}}`, nil}}, "one", "nothing there"},
		{"superseded", []step{
			{"one", 200, creating, nil},
			{"one", 0, "", refused},
			{"one", 503, `{"code":"unavailable","message":"starting"}`, nil},
			{"one", 410, `{"code":"superseded","message":"gone","successor":"two"}`, nil},
			{"two", 404, `{"code":"not-found","message":"not yet"}`, nil},
			{"two", 410, `{"code":"superseded","message":"gone","successor":"three"}`, nil},
			{"three", 200, `{"id":"three","status":"partial"}`, nil},
		}, "three", ""},
		{"ended", []step{{"one", 410, `{"code":"superseded","message":"create it again"}`, nil}}, "", "create it again"},
		{"unknown", []step{{"one", 404, `{"code":"not-found","message":"no such snapshot"}`, nil}}, "", "no such snapshot"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				steps := test.steps
				c := testClient(t, func(r *http.Request) (*http.Response, error) {
					s := steps[0]
					steps = steps[1:]
					if !strings.HasSuffix(r.URL.Path, "/snapshots/"+s.id) {
						t.Errorf("%s is asked for, want %s", r.URL.Path, s.id)
					}
					if s.err != nil {
						return nil, s.err
					}
					return answer(s.status, s.body), nil
				})
				reports := 0
				got, err := c.WaitSnapshot(t.Context(), "one", func(*Snapshot) { reports++ })
				if len(steps) > 0 {
					t.Errorf("%d steps were not taken", len(steps))
				}
				if test.fails != "" {
					if err == nil || err.Error() != test.fails {
						t.Errorf("%v, want %s", err, test.fails)
					}
				} else if err != nil {
					t.Fatal(err)
				}
				if test.id != "" && (got == nil || got.ID != test.id || reports == 0) {
					t.Errorf("%+v after %d reports", got, reports)
				}
			})
		})
	}
}

// TestStreamEnds is about how a stream ends over a real connection.
func TestStreamEnds(t *testing.T) {
	for _, test := range []struct {
		name  string
		end   func(w http.ResponseWriter)
		fails string
	}{
		{"whole", func(w http.ResponseWriter) { w.Header().Set(TrailerComplete, "true") }, ""},
		{"told", func(w http.ResponseWriter) { w.Header().Set(TrailerError, "chunk x is damaged") }, "chunk x is damaged"},
		{"broken", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, "ended the stream early"},
		{"no trailer", func(http.ResponseWriter) {}, "without a word"},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get(HeaderTrailers) != "1" {
				t.Error("the client does not say that it reads trailers")
			}
			w.Header().Set("Trailer", TrailerError+", "+TrailerComplete)
			w.Header().Set("Content-Disposition", `attachment; filename="x.pcapng"`)
			w.Header().Set(HeaderLength, "100000")
			w.Write(make([]byte, 100000))
			test.end(w)
		}))
		c, err := NewClient(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.Pcap(t.Context(), "x", PcapQuery{})
		if err != nil {
			t.Fatal(err)
		}
		if s.Name != "x.pcapng" || s.Size != 100000 {
			t.Errorf("%s: %q of %d bytes", test.name, s.Name, s.Size)
		}
		n, err := io.Copy(io.Discard, s)
		if test.fails == "" && (err != nil || n != 100000) || test.fails != "" && (err == nil || !strings.Contains(err.Error(), test.fails)) {
			t.Errorf("%s: %d bytes, %v", test.name, n, err)
		}
		if _, again := s.Read(make([]byte, 1)); again == nil || err != nil && again.Error() != err.Error() {
			t.Errorf("%s: read again: %v", test.name, again)
		}
		s.Close()
		srv.Close()
	}
}

func TestUpload(t *testing.T) {
	body := strings.NewReader("0123456789")
	for _, test := range []struct {
		name   string
		status []int
		is     error
		says   string
	}{
		{"stored", []int{201}, nil, ""},
		{"taken", []int{412}, nil, ""},
		{"race", []int{409, 500, 503, 201}, nil, ""},
		{"lie, then truth", []int{200, 204, 201}, nil, ""},
		{"too large for a proxy", []int{413}, nil, "raise its limit"},
		{"redirect", []int{302}, nil, "redirects"},
		{"over", []int{403}, ErrGrantOver, "BadDigest: no"},
		{"full", []int{507}, store.ErrNoSpace, ""},
		{"wrong", []int{400}, nil, "BadDigest: no"},
	} {
		synctest.Test(t, func(t *testing.T) {
			left := test.status
			c := testClient(t, func(r *http.Request) (*http.Response, error) {
				b, _ := io.ReadAll(r.Body)
				if string(b) != "0123456789" || r.ContentLength != 10 || r.Header.Get("If-None-Match") != "*" || r.URL.String() != "http://hub:1/grants/chunks/x?sig=1" {
					t.Errorf("%s of %q with %v", r.URL, b, r.Header)
				}
				status := left[0]
				left = left[1:]
				if status == 201 {
					return answer(status, ""), nil
				}
				return answer(status, "<Error><Code>BadDigest</Code><Message>no</Message></Error>"), nil
			})
			err := c.Upload(Patiently(t.Context(), time.Minute), &store.Grant{URL: "/grants/chunks/x?sig=1", Header: http.Header{"If-None-Match": {"*"}}}, body, 10)
			ok := test.is == nil && test.says == ""
			if (err == nil) != ok || test.is != nil && !errors.Is(err, test.is) || err != nil && !strings.Contains(err.Error(), test.says) || len(left) > 0 {
				t.Errorf("%s: %v", test.name, err)
			}
		})
	}
	// A presigned URL is a secret.
	c := testClient(t, func(*http.Request) (*http.Response, error) { return nil, errors.New("reset") })
	err := c.Upload(t.Context(), &store.Grant{URL: "https://bucket.example/x?X-Amz-Signature=secret"}, body, 10)
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

func TestGrantURL(t *testing.T) {
	for base, want := range map[string]string{
		"http://hub:1":       "http://hub:1/grants/a?b=c",
		"http://hub:1/path/": "http://hub:1/path/grants/a?b=c",
	} {
		c, err := NewClient(base)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.GrantURL(&store.Grant{URL: "/grants/a?b=c"}); err != nil || got != want {
			t.Errorf("%s: %s, %v", base, got, err)
		}
		if got, err := c.GrantURL(&store.Grant{URL: "https://s3/x?y"}); err != nil || got != "https://s3/x?y" {
			t.Errorf("%s, %v", got, err)
		}
	}
}

// What to do is said in the words of the place: nobody in a cluster gives flags.
func TestWords(t *testing.T) {
	window := manifest.Interval{From: 0, To: 100}
	for _, reason := range []string{manifest.GapEvicted, manifest.GapRingOverrun} {
		gaps := []manifest.Gap{{Stream: "packets", Reason: reason, From: 0, To: 50, Count: 3}}
		for words, want := range map[Words]string{WordsOf(false): "(--ring-size)", WordsOf(true): "(tap.capture.raw.storageSize)"} {
			if reasons, _ := Explain(gaps, window, words); len(reasons) != 1 || !strings.Contains(reasons[0], "make the ring larger "+want) {
				t.Errorf("%s: %q, want %s", reason, reasons, want)
			}
		}
	}
	if got := explainCluster([]manifest.Gap{{Stream: "kubernetes", Reason: manifest.GapEvicted, From: 0, To: 50}}, window); len(got) != 1 || !strings.Contains(got[0], "tap.capture.raw.storageSize") {
		t.Errorf("of a cluster: %q", got)
	}
}

func TestExplain(t *testing.T) {
	at := func(s int) manifest.Nanos { return manifest.Nanos(1764000000+s) * 1e9 }
	window := manifest.Interval{From: at(0), To: at(100)}
	gap := func(reason string, from, to int, count uint64) manifest.Gap {
		return manifest.Gap{Stream: "packets", Reason: reason, From: at(from), To: at(to), Count: count}
	}
	withDetail := func(g manifest.Gap, detail string) manifest.Gap { g.Detail = detail; return g }
	on := func(g manifest.Gap, name string) manifest.Gap { g.Interface = name; return g }
	for _, test := range []struct {
		name     string
		gaps     []manifest.Gap
		reasons  []string
		warnings []string
	}{
		{"none", nil, nil, nil},
		{"outside", []manifest.Gap{gap(manifest.GapEvicted, -50, 0, 0), gap(manifest.GapNotRunning, 100, 200, 0)}, nil, nil},
		{"evicted", []manifest.Gap{gap(manifest.GapEvicted, -50, 10, 0), gap(manifest.GapEvicted, 10, 20, 0)},
			[]string{"2025-11-24 16:00:00–16:00:20 UTC had been recycled by the ring: make the ring larger (--ring-size)"}, nil},
		{"many", []manifest.Gap{gap(manifest.GapDiskFull, 10, 11, 3), gap(manifest.GapDiskFull, 20, 21, 4), gap(manifest.GapDiskFull, 30, 31, 0), gap(manifest.GapDiskFull, 40, 41, 0), gap(manifest.GapDiskFull, 50, 51, 0)},
			[]string{"2025-11-24 16:00:10–16:00:11 UTC, 2025-11-24 16:00:20–16:00:21 UTC, 2025-11-24 16:00:30–16:00:31 UTC and 2 times more lost 7 packets: the disk of the ring was full; free some space on it"}, nil},
		{"drops", []manifest.Gap{gap(manifest.GapKernelDrop, 10, 20, 1)}, nil,
			[]string{"the kernel dropped 1 packet in 2025-11-24 16:00:10–16:00:20 UTC: give the agent more CPU or a larger capture buffer"}},
		{"clock", []manifest.Gap{withDetail(gap(manifest.GapClockStep, 50, 50, 7), "back")}, nil,
			[]string{"its clock jumped in 2025-11-24 16:00:50–16:00:50 UTC: times around that are off (back)"}},
		{"import", []manifest.Gap{withDetail(gap(manifest.GapSkipped, 500, 500, 7), "7 name resolution blocks"), withDetail(gap(manifest.GapTruncated, 500, 500, 1), "x.pcap")},
			[]string{"the capture is cut short (x.pcap)"}, []string{"what is not packets was left out (7 name resolution blocks)"}},
		{"import that lacks", []manifest.Gap{withDetail(gap(manifest.GapKernelDrop, 0, 100, 7), "x.pcapng"), withDetail(gap(manifest.GapUntimed, 0, 100, 1), "y.pcapng")}, nil,
			[]string{"the capture had lost 7 packets when it was imported (x.pcapng)", "1 packet had no time: put at that of the packet before (y.pcapng)"}},
		{"interfaces that went", []manifest.Gap{
			on(gap(manifest.GapInterfaceGone, 10, 20, 0), "v0"), on(gap(manifest.GapInterfaceGone, 20, 30, 0), "v1"), on(gap(manifest.GapInterfaceDown, 40, 50, 0), "v0"),
			on(gap(manifest.GapInterfaceDown, -10, 0, 0), "before"),
		}, []string{"2025-11-24 16:00:10–16:00:30 UTC interfaces v0, v1 were gone (removed, or moved to another network namespace), and not recorded"},
			[]string{"2025-11-24 16:00:40–16:00:50 UTC interface v0 was down: nothing could pass"}},
		{"of later versions", []manifest.Gap{gap("solar-flare", 10, 20, 0)}, []string{"2025-11-24 16:00:10–16:00:20 UTC is incomplete: solar-flare"}, nil},
	} {
		reasons, warnings := Explain(test.gaps, window, FlagWords)
		if diff := cmp.Diff([][]string{test.reasons, test.warnings}, [][]string{reasons, warnings}); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}

// A hub that stops has begun nothing: the snapshot is asked for again, of the hub
// that comes next, and of nothing else that goes wrong.
func TestCreateOutlivesAHub(t *testing.T) {
	answers := make(chan func(http.ResponseWriter), 10)
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		(<-answers)(w)
	}))
	t.Cleanup(srv.Close)
	say := func(status int, v any) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(v)
		}
	}
	stopping := say(http.StatusServiceUnavailable, Error{Code: CodeStopping, Message: "the hub is stopping"})
	unavailable := say(http.StatusServiceUnavailable, Error{Code: CodeUnavailable, Message: "not yet"})
	begun := say(http.StatusAccepted, Snapshot{ID: "20260301T143000.000000000Z-00000000", Status: Creating})
	c, err := NewClient(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		answers []func(http.ResponseWriter)
		ok      bool
	}{
		"at once":           {[]func(http.ResponseWriter){begun}, true},
		"after one":         {[]func(http.ResponseWriter){stopping, begun}, true},
		"one not ready yet": {[]func(http.ResponseWriter){stopping, unavailable, begun}, true},
		"unavailable":       {[]func(http.ResponseWriter){unavailable}, false},
		"refused":           {[]func(http.ResponseWriter){stopping, say(http.StatusConflict, Error{Code: CodeNameTaken, Message: "taken"})}, false},
	} {
		asked = 0
		for _, a := range tc.answers {
			answers <- a
		}
		_, err := c.Create(t.Context(), CreateRequest{Last: "5m"})
		if (err == nil) != tc.ok || asked != len(tc.answers) {
			t.Errorf("%s: asked %d times of %d, %v", name, asked, len(tc.answers), err)
		}
	}
}
