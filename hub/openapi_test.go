package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store/storetest"
)

// contract is the parsed document. Every request that a test makes of a site is
// held against it.
var contract = sync.OnceValues(func() (routers.Router, error) {
	doc, err := openapi3.NewLoader().LoadFromData(document)
	if err != nil {
		return nil, err
	}
	return legacy.NewRouter(doc)
})

// checked holds requests that were served, and all answers, against the
// document.
func checked(t testing.TB, next http.Handler, seen func(operation string, status int)) http.Handler {
	t.Helper()
	router, err := contract()
	if err != nil {
		t.Fatalf("openapi.json: %v", err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		route, params, err := router.FindRoute(r)
		if err != nil {
			tee := &teeWriter{ResponseWriter: w, status: http.StatusOK}
			next.ServeHTTP(tee, r)
			if tee.status/100 == 2 {
				t.Errorf("%s %s is served, but not documented", r.Method, r.URL.Path)
			}
			return
		}
		jsonBody := r.Header.Get("Content-Type") == "application/json"
		var body []byte
		if jsonBody {
			body, _ = io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		tee := &teeWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(tee, r)

		request := r.Clone(context.Background())
		request.Body = io.NopCloser(bytes.NewReader(body))
		in := &openapi3filter.RequestValidationInput{
			Request: request, PathParams: params, Route: route,
			Options: &openapi3filter.Options{ExcludeRequestBody: !jsonBody, IncludeResponseStatus: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
		}
		if tee.status < 400 {
			if err := openapi3filter.ValidateRequest(context.Background(), in); err != nil {
				t.Errorf("%s %s is served, but not what the document says: %v", r.Method, r.URL, err)
			}
		}
		isJSON := tee.Header().Get("Content-Type") == "application/json"
		out := &openapi3filter.ResponseValidationInput{
			RequestValidationInput: in, Status: tee.status, Header: tee.Header(),
			Options: &openapi3filter.Options{ExcludeResponseBody: !isJSON || r.Method == http.MethodHead, IncludeResponseStatus: true},
		}
		if isJSON {
			out.SetBodyBytes(tee.json.Bytes())
		}
		// A client that went away gets an answer that nobody reads.
		if err := openapi3filter.ValidateResponse(context.Background(), out); err != nil && r.Context().Err() == nil {
			t.Errorf("%s %s answers %d %s, not what the document says: %v", r.Method, r.URL, tee.status, tee.json.Bytes(), err)
		}
		if seen != nil {
			seen(route.Operation.OperationID, tee.status)
		}
	})
}

// teeWriter keeps JSON answers.
type teeWriter struct {
	http.ResponseWriter
	status int
	json   bytes.Buffer
}

func (w *teeWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *teeWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *teeWriter) Write(b []byte) (int, error) {
	if w.Header().Get("Content-Type") == "application/json" {
		w.json.Write(b)
	}
	return w.ResponseWriter.Write(b)
}

// TestDocumentedRoutes holds the routes against the document, both ways.
func TestDocumentedRoutes(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(document)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	h, err := New(Config{Store: storetest.NewMemory(t, nil), Signer: testKey()})
	if err != nil {
		t.Fatal(err)
	}
	var served, documented []string
	for _, r := range h.routes() {
		served = append(served, r.method+" "+r.path+" "+string(r.role))
		if strings.Contains(r.path, "/objects/") { // GET patterns serve HEAD too
			served = append(served, "HEAD "+r.path+" "+string(r.role))
		}
	}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			role, _ := op.Extensions["x-role"].(string)
			documented = append(documented, method+" "+path+" "+role)
		}
	}
	slices.Sort(served)
	slices.Sort(documented)
	if !slices.Equal(served, documented) {
		t.Errorf("served:\n %s\ndocumented:\n %s", strings.Join(served, "\n "), strings.Join(documented, "\n "))
	}
}

// TestDocumentedCodes holds the error codes against the document.
func TestDocumentedCodes(t *testing.T) {
	var doc struct {
		Components struct {
			Schemas struct {
				Error struct {
					Properties struct{ Code struct{ Enum []string } }
				}
			}
		}
	}
	if err := json.Unmarshal(document, &doc); err != nil {
		t.Fatal(err)
	}
	want := []string{
		api.CodeInvalid, api.CodeForbidden, api.CodeNotFound, api.CodeNameTaken, api.CodeSuperseded, api.CodeNotRecorded,
		api.CodeMixedLinks, api.CodeUnavailable, api.CodeStopping, api.CodeInternal, api.CodeNoSpace, api.CodeUnknownName, api.CodeUnknownNode, api.CodeNotCompleted,
		api.CodeUnreachable, api.CodeDamaged, api.CodeUnauthenticated, api.CodeUntrusted,
	}
	if got := doc.Components.Schemas.Error.Properties.Code.Enum; !slices.Equal(got, want) {
		t.Errorf("documented codes %v, want %v", got, want)
	}
}

// TestEveryOperation uses each operation of the document with success, under
// the eyes of checked.
func TestEveryOperation(t *testing.T) {
	var mu sync.Mutex
	good := map[string]bool{}
	memory := storetest.NewMemory(t, nil)
	s := newSite(t, memory, nil)
	handler := checked(t, s.hub.Handler(), func(operation string, status int) {
		mu.Lock()
		defer mu.Unlock()
		good[operation] = good[operation] || status < 300
	})
	s.handler.Store(&handler)
	s.newAgent("a", nil, packets(t, "a", recent(), 10))
	c := s.client()
	mustCreate(t, c, api.CreateRequest{Name: "x", Last: "5m"})
	for _, path := range []string{
		"/hub", "/nodes", "/snapshots", "/snapshots/x?wait=1s", "/snapshots/x/archive", "/openapi.json",
		"/snapshots/x/pcap?node=a&interface=eth0&format=pcap&from=2026-01-01T00:00:00Z&to=2100-01-01T00:00:00Z",
		"/objects/" + storetest.Keys(t, memory, manifest.SnapshotsDir)[0], "/../../healthz", "/../../readyz", "/../../metrics",
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			if method == http.MethodHead && !strings.HasPrefix(path, "/objects/") {
				continue
			}
			path, _ := strings.CutPrefix(api.Prefix+path, api.Prefix+"/../..")
			req, err := http.NewRequest(method, s.srv.URL+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if readAll(t, resp.Body); resp.StatusCode != http.StatusOK {
				t.Errorf("%s %s: %s", method, path, resp.Status)
			}
		}
	}
	if err := c.Delete(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Sweep(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(document)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			if !good[op.OperationID] {
				t.Errorf("%s was never used with success", op.OperationID)
			}
		}
	}
}
