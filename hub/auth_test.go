package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

// byToken takes tokens like "operator" and "agent:n1" for what they say.
func byToken(r *http.Request, role Role) (*Identity, error) {
	if role == Anyone {
		return nil, nil
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return nil, refuse(http.StatusUnauthorized, api.CodeUnauthenticated, "who are you?")
	}
	is, node, _ := strings.Cut(token, ":")
	id := &Identity{User: "user-" + is, Role: Role(is), Node: node, Credential: "JTI=" + token}
	allowed := map[string][]Role{"viewer": {Viewer}, "exporter": {Viewer, Exporter}, "operator": {Viewer, Operator, Part}, "agent": {Agent, Part}}
	if !slices.Contains(allowed[is], role) {
		return id, refuse(http.StatusForbidden, api.CodeForbidden, "%s is no %s", is, role)
	}
	return id, nil
}

// lines is a log of JSON lines.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// of are the lines of an action, without time, level and message.
func (l *lines) of(t *testing.T, action string) (found []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.b.Bytes()) {
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatal(err)
		}
		if m["action"] == action {
			found = append(found, m)
		}
	}
	return found
}

// guarded is a site that wants tokens, with its audit log.
func guarded(t *testing.T, st store.Store) (*site, *lines) {
	t.Helper()
	log := &lines{}
	return newSite(t, st, func(c *Config) {
		c.Authorise = byToken
		c.Audit = slog.New(slog.NewJSONHandler(log, nil))
	}), log
}

func (s *site) as(token string) *api.Client {
	s.t.Helper()
	c, err := api.NewClient(s.srv.URL, api.WithToken(func(context.Context) (string, error) { return token, nil }), api.WithClaimedUser("ann\u202e@laptop"))
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// TestRoles asks for every route with every token.
func TestRoles(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s, _ := guarded(t, st)
	s.newAgent("a", func(a *agent) { a.client = s.as("agent:a") }, packets(t, "a", recent(), 10))
	mustCreate(t, s.as("operator"), api.CreateRequest{Name: "x", Last: "5m"})
	object := func(prefix string) string { return "/objects/" + storetest.Keys(t, st, prefix)[0] }
	everybody := []string{"", "viewer", "exporter", "operator", "agent:a"}
	for _, tt := range []struct {
		method, path string
		may          []string
	}{
		{"GET", "/hub", everybody[1:4]},
		{"GET", "/nodes", everybody[1:4]},
		{"GET", "/snapshots", everybody[1:4]},
		{"GET", "/snapshots/x", everybody[1:4]},
		{"POST", "/snapshots", []string{"operator"}},
		{"DELETE", "/snapshots/none", []string{"operator"}},
		{"POST", "/sweep", []string{"operator"}},
		{"GET", "/snapshots/x/pcap", []string{"exporter"}},
		{"GET", "/snapshots/x/archive", []string{"exporter"}},
		{"GET", object(manifest.KindChunk + "/"), []string{"exporter"}},
		{"HEAD", object(manifest.KindChunk + "/"), []string{"exporter"}},
		{"GET", object(manifest.SnapshotsDir), everybody[1:4]},
		{"GET", object(manifest.KindInventory + "/"), everybody[1:4]},
		{"POST", "/agents/a/poll", []string{"agent:a"}},
		{"POST", "/agents/b/poll", nil},
		{"GET", "/openapi.json", everybody},
		{"GET", "/../../healthz", everybody},
		{"GET", "/../../metrics", everybody},
	} {
		// Every operation is among those above, but for parts: see TestParts.
		for _, token := range everybody {
			req, err := http.NewRequest(tt.method, s.srv.URL+api.Prefix+tt.path, strings.NewReader(""))
			if p, ok := strings.CutPrefix(tt.path, "/../.."); ok {
				req, err = http.NewRequest(tt.method, s.srv.URL+p, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			if token != "" {
				req.Header.Set("Authorization", "Bearer "+token)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			let := resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden
			if let != slices.Contains(tt.may, token) {
				t.Errorf("%s %s as %q: %s", tt.method, tt.path, token, resp.Status)
			}
			if ask := resp.Header.Get("WWW-Authenticate"); (resp.StatusCode == http.StatusUnauthorized) != strings.HasPrefix(ask, "Bearer ") {
				t.Errorf("%s %s as %q: %s with WWW-Authenticate %q", tt.method, tt.path, token, resp.Status, ask)
			}
		}
	}
}

// TestParts: nobody hands in what is another's to hand in.
func TestParts(t *testing.T) {
	s, _ := guarded(t, storetest.NewMemory(t, nil))
	operator := s.as("operator")
	hang := func(a *agent) { a.client = s.as("agent:" + a.name); a.pace = hangAt("pin") }
	s.newAgent("a", hang, packets(t, "a", recent(), 10))
	s.newAgent("b", hang, packets(t, "b", recent(), 10))
	taken, err := operator.Create(t.Context(), api.CreateRequest{Name: "taken", Last: "5m"})
	if err != nil {
		t.Fatal(err)
	}
	imported, err := operator.Create(t.Context(), api.CreateRequest{Name: "imported", Import: true, Nodes: []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		token, session, node string
		ok                   bool
		says                 string
	}{
		{"agent:a", taken.ID, "a", true, ""},
		{"agent:b", taken.ID, "a", false, "of the agent on node b, which cannot speak for node \"a\""},
		{"agent:b", imported.ID, "a", false, "cannot speak for node \"a\""},
		{"agent:a", imported.ID, "a", false, "is an import"},
		{"operator", imported.ID, "a", true, ""},
		{"operator", taken.ID, "a", false, "only they hand in"},
		{"exporter", imported.ID, "a", false, "exporter is no part"},
		{"viewer", taken.ID, "a", false, "viewer is no part"},
	} {
		c := s.as(tt.token)
		calls := map[string]error{"progress": c.Progress(t.Context(), tt.session, api.Progress{Node: tt.node, State: stateUploading})}
		_, calls["grants"] = c.Grants(t.Context(), tt.session, tt.node, api.GrantRequest{Objects: []api.Object{}})
		if !tt.ok {
			calls["complete"] = c.Complete(t.Context(), tt.session, tt.node, api.CompleteRequest{Node: manifest.Node{Name: tt.node}})
		}
		for call, err := range calls {
			if tt.ok && err == nil {
				continue
			}
			var e *api.Error
			if !errors.As(err, &e) || e.Status != http.StatusForbidden || !strings.Contains(e.Message, tt.says) || tt.ok {
				t.Errorf("%s as %s: %v", call, tt.token, err)
			}
		}
	}
}

// TestAudit: who did what, and who was not let.
func TestAudit(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s, log := guarded(t, st)
	s.newAgent("a", func(a *agent) { a.client = s.as("agent:a") }, packets(t, "a", recent(), 10))
	snap := mustCreate(t, s.as("operator"), api.CreateRequest{Name: "x", Last: "5m"})
	out, err := s.as("exporter").Pcap(t.Context(), "x", api.PcapQuery{})
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, out)
	out, err = s.as("exporter").Archive(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	readAll(t, out)
	if err := s.as("viewer").Delete(t.Context(), "x"); err == nil {
		t.Fatal("a viewer deletes")
	}
	if err := s.as("operator").Delete(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.as("operator").Sweep(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ action, user, role, key, value string }{
		{"create", "operator", "operator", "snapshot", snap.ID},
		{"export", "exporter", "exporter", "snapshot", snap.ID},
		{"export-begins", "exporter", "exporter", "snapshot", snap.ID},
		{"download", "exporter", "exporter", "snapshot", snap.ID},
		{"delete", "operator", "operator", "snapshot", snap.ID},
		{"sweep", "operator", "operator", "dry_run", "false"},
		{"refused", "viewer", "viewer", "path", "/api/v1/snapshots/x"},
	} {
		await(t, func() bool { return len(log.of(t, tt.action)) > 0 }) // it is written after the answer
		got := log.of(t, tt.action)
		if len(got) != 1 {
			t.Errorf("%s: %d lines", tt.action, len(got))
			continue
		}
		m := got[0]
		if m["user"] != "user-"+tt.user || m["role"] != tt.role || m["credential"] != "JTI="+tt.user || fmt.Sprint(m[tt.key]) != tt.value {
			t.Errorf("%v", m)
		}
		if m["claimed"] != "ann\ufffd@laptop" || !strings.HasPrefix(fmt.Sprint(m["remote"]), "127.0.0.1:") {
			t.Errorf("%v", m)
		}
	}
	for _, key := range storetest.Keys(t, st, manifest.DeletedDir) {
		if b := storetest.Read(t, st, key); !bytes.Contains(b, []byte("user-operator")) {
			t.Errorf("the tombstone does not say who: %s", b)
		}
	}
}

// TestRefusals: whoever tries tokens does not fill a disk with lines.
func TestRefusals(t *testing.T) {
	log := &lines{}
	now := time.Now()
	h, err := New(Config{
		Store: storetest.NewMemory(t, nil), Signer: testKey(), Authorise: byToken, Now: func() time.Time { return now },
		Audit: slog.New(slog.NewJSONHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	handler := h.Handler()
	try := func(n int) {
		for range n {
			r := httptest.NewRequest(http.MethodGet, "http://localhost/api/v1/nodes", nil)
			r.Header.Set(api.HeaderClaimedUser, strings.Repeat("é", maxClaimed))
			handler.ServeHTTP(httptest.NewRecorder(), r)
		}
	}
	try(maxRefusals + 50)
	if n := len(log.of(t, "refused")); n != maxRefusals {
		t.Errorf("%d lines in the first minute", n)
	}
	now = now.Add(time.Minute)
	try(1)
	all := log.of(t, "refused")
	if last := all[len(all)-1]; len(all) != maxRefusals+1 || last["more_before"] != 50. {
		t.Errorf("%d lines, and at last %v", len(all), last)
	}
	if claimed := fmt.Sprint(all[0]["claimed"]); len(claimed) > maxClaimed+3 {
		t.Errorf("a claim of %d bytes", len(claimed))
	}
}
