package kubeauth

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	authenticationv1 "k8s.io/api/authentication/v1"

	"pcapsule/hub"
	"pcapsule/internal/api"
	"pcapsule/internal/kubetest"
)

const audience = "pcapsule"

// cluster is an API server with a namespace of a hub: agents' service account,
// one for each role, and a hub's own.
type cluster struct {
	t      *testing.T
	config *rest.Config
	ns     string
	now    time.Time
	mu     sync.Mutex
	auth   *Authority
}

func newCluster(t *testing.T, config *rest.Config) *cluster {
	t.Helper()
	c := &cluster{t: t, config: config, ns: kubetest.NamespaceIn(t, config), now: time.Now()}
	for _, name := range []string{"agent", "viewer", "exporter", "operator", "other"} {
		kubetest.ServiceAccount(t, config, c.ns, name, nil)
	}
	c.allow("viewer", "viewer")
	c.allow("exporter", "exporter", "viewer")
	c.allow("operator", "operator", "viewer")
	client, err := NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	c.auth, err = New(Config{Client: client, Audience: audience, AgentAccount: c.ns + "/agent", Namespace: c.ns, Now: func() time.Time {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.now
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"viewer", "exporter", "operator"} {
		c.settle(role, role)
	}
	return c
}

// allow lets a service account use roles.
func (c *cluster) allow(account string, roles ...string) {
	c.t.Helper()
	rbac := kubetest.ClientOf(c.t, c.config).RbacV1()
	_, err := rbac.Roles(c.ns).Create(c.t.Context(), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: account},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{Group}, Resources: roles, Verbs: []string{Verb}}},
	}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	_, err = rbac.RoleBindings(c.ns).Create(c.t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: account},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: account},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: account, Namespace: c.ns}},
	}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
}

// settle waits until RBAC, which follows what is stored by watches, knows what
// an account may.
func (c *cluster) settle(account, role string) {
	c.t.Helper()
	h := &holder{user: authenticationv1.UserInfo{Username: accountPrefix + c.ns + ":" + account}}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		ok, err := c.auth.access(c.t.Context(), h, hub.Role(role))
		if err != nil {
			c.t.Fatal(err)
		}
		if ok {
			return
		}
		if time.Now().After(end) {
			c.t.Fatal("RBAC does not follow")
		}
	}
}

// agent is a pod of the agents on a new node.
func (c *cluster) agent(node, account string) *corev1.Pod {
	c.t.Helper()
	kubetest.Node(c.t, c.config, c.node(node))
	return kubetest.Pod(c.t, c.config, c.ns, "pod-"+node, account, c.node(node))
}

// node is a name that no other test has.
func (c *cluster) node(name string) string { return c.ns + "-" + name }

func (c *cluster) token(account string, pod *corev1.Pod, audiences ...string) string {
	c.t.Helper()
	return kubetest.Token(c.t, c.config, c.ns, account, pod, audiences...)
}

// mounted is a token as the kubelet gets it for an agent's pod: for an hour.
func (c *cluster) mounted(pod *corev1.Pod) string {
	c.t.Helper()
	hour := int64(3600)
	answer, err := kubetest.ClientOf(c.t, c.config).CoreV1().ServiceAccounts(c.ns).CreateToken(c.t.Context(), "agent", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{
			Audiences: []string{audience}, ExpirationSeconds: &hour,
			BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return answer.Status.Token
}

// later lets time pass for the hub.
func (c *cluster) later(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// ask is what Authorise says: the user without the namespace, role and node, or
// status and message.
func (c *cluster) ask(token string, role hub.Role) string {
	c.t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(c.t.Context())
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	id, err := c.auth.Authorise(r, role)
	who := "nobody"
	if id != nil {
		who = fmt.Sprintf("%s %s %s", strings.TrimPrefix(id.User, accountPrefix+c.ns+":"), id.Role, strings.TrimPrefix(id.Node, c.ns+"-"))
	}
	var e *api.Error
	switch {
	case errors.As(err, &e):
		return fmt.Sprintf("%s: %d %s", strings.Fields(who)[0], e.Status, e.Message)
	case err != nil:
		return err.Error()
	}
	return strings.TrimSpace(who)
}

// TestAuthorise asks a real API server about every kind of token.
func TestAuthorise(t *testing.T) {
	c := newCluster(t, kubetest.APIServer(t))
	pod := c.agent("n1", "agent")
	impostor := c.agent("n2", "other")
	viewer := c.token("viewer", nil, audience)
	forged := viewer[:strings.LastIndex(viewer, ".")+1] + base64.RawURLEncoding.EncodeToString(make([]byte, 64))
	for _, tt := range []struct {
		name  string
		token string
		role  hub.Role
		want  string
	}{
		{"anyone", "", hub.Anyone, "nobody"},
		{"no token", "", hub.Viewer, "nobody: 401 this hub wants to know"},
		{"noise", "noise", hub.Viewer, "nobody: 401 this is no token"},
		{"forged", forged, hub.Viewer, "nobody: 401 the API server does not take this token"},
		{"too large", strings.Repeat("x", maxToken+1), hub.Viewer, "nobody: 401 "},
		{"audience of the API server", c.token("viewer", nil), hub.Viewer, `nobody: 401 the token is made for the audience "https://`},
		{"other audience", c.token("viewer", nil, "vault"), hub.Viewer, `nobody: 401 the token is made for the audience "vault", not for "pcapsule"`},
		{"two audiences", c.token("viewer", nil, "vault", audience), hub.Viewer, "viewer viewer"},
		{"administrator of the cluster", c.config.BearerToken, hub.Viewer, "nobody: 401 "},

		{"viewer", viewer, hub.Viewer, "viewer viewer"},
		{"viewer as exporter", viewer, hub.Exporter, "viewer: 403 system:serviceaccount:" + c.ns + ":viewer may not use exporter.hub.pcapsule in namespace " + c.ns},
		{"viewer as operator", viewer, hub.Operator, "viewer: 403 "},
		{"viewer as agent", viewer, hub.Agent, "viewer: 403 this token is of system:serviceaccount:" + c.ns + ":viewer, and agents are"},
		{"viewer hands in", viewer, hub.Part, "viewer: 403 "},
		{"exporter", c.token("exporter", nil, audience), hub.Exporter, "exporter exporter"},
		{"exporter as viewer", c.token("exporter", nil, audience), hub.Viewer, "exporter viewer"},
		{"exporter as operator", c.token("exporter", nil, audience), hub.Operator, "exporter: 403 "},
		{"operator", c.token("operator", nil, audience), hub.Operator, "operator operator"},
		{"operator hands in", c.token("operator", nil, audience), hub.Part, "operator operator"},
		{"operator as exporter", c.token("operator", nil, audience), hub.Exporter, "operator: 403 "},

		{"agent", c.token("agent", pod, audience), hub.Agent, "agent agent n1"},
		{"agent hands in", c.token("agent", pod, audience), hub.Part, "agent agent n1"},
		{"agent as viewer", c.token("agent", pod, audience), hub.Viewer, "agent: 403 "},
		{"agent as operator", c.token("agent", pod, audience), hub.Operator, "agent: 403 "},
		{"agent without the audience", c.token("agent", pod), hub.Agent, "nobody: 401 the token is made for the audience"},
		{"agent of no pod", c.token("agent", nil, audience), hub.Agent, "agent: 403 this token of the agents is bound to no pod"},
		{"other account on a node", c.token("other", impostor, audience), hub.Agent, "other: 403 "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 2 { // asked, and remembered
				if got := c.ask(tt.token, tt.role); got != tt.want && !(strings.Contains(tt.want, ": 40") && strings.HasPrefix(got, tt.want)) {
					t.Errorf("got  %s\nwant %s", got, tt.want)
				}
			}
		})
	}
}

// TestRevoked: what the API server no longer allows ends in a minute.
func TestRevoked(t *testing.T) {
	c := newCluster(t, kubetest.APIServer(t))
	kube := kubetest.ClientOf(t, c.config)
	operator, agent := c.token("operator", nil, audience), c.mounted(c.agent("n1", "agent"))
	expect := func(token string, role hub.Role, want string) {
		t.Helper()
		// The API server itself remembers for ten seconds that a token is good.
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
			got := c.ask(token, role)
			if strings.HasPrefix(got, want) {
				return
			}
			if time.Now().After(end) {
				t.Errorf("%s, want %s", got, want)
				return
			}
			c.later(badFor)
		}
	}
	expect(operator, hub.Operator, "operator operator")
	expect(agent, hub.Agent, "agent agent n1")
	if err := kube.RbacV1().RoleBindings(c.ns).Delete(t.Context(), "operator", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	now := int64(0)
	if err := kube.CoreV1().Pods(c.ns).Delete(t.Context(), "pod-n1", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	if got := c.ask(operator, hub.Operator); got != "operator operator" {
		t.Errorf("an answer of a moment ago: %s", got)
	}
	c.later(goodFor)
	expect(operator, hub.Operator, "operator: 403")
	c.later(goodFor)
	expect(agent, hub.Agent, "nobody: 401 the API server does not take this token")
}

// TestExpires: no answer outlives the token, whatever is remembered.
func TestExpires(t *testing.T) {
	c := newCluster(t, kubetest.APIServer(t))
	viewer, agent := c.token("viewer", nil, audience), c.token("agent", c.agent("n1", "agent"), audience)
	c.later(10*time.Minute - 30*time.Second) // of ten minutes' life
	for _, token := range []string{viewer, agent} {
		if got := c.ask(token, hub.Part); strings.Contains(got, "401") {
			t.Fatal(got)
		}
	}
	c.later(31 * time.Second)
	for _, token := range []string{viewer, agent} {
		if got := c.ask(token, hub.Part); !strings.HasPrefix(got, "nobody: 401 the token has expired, at ") {
			t.Error(got)
		}
	}
}

// TestAPIServerAway: agents that are known go on for a while; nobody else is let
// in, and all are told to try again.
func TestAPIServerAway(t *testing.T) {
	server := kubetest.New(t)
	c := newCluster(t, server.Config())
	agent, unknown := c.mounted(c.agent("n1", "agent")), c.mounted(c.agent("n2", "agent"))
	viewer := c.token("viewer", nil, audience)
	for token, want := range map[string]string{agent: "agent agent n1", viewer: "viewer viewer"} {
		if got := c.ask(token, hub.Role(strings.Fields(want)[1])); got != want {
			t.Fatal(got)
		}
	}
	server.Stop(t)
	expect := func(token string, role hub.Role, want string) {
		t.Helper()
		if got := c.ask(token, role); !strings.HasPrefix(got, want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
	const away = "nobody: 503 the hub cannot ask the API server"
	expect(viewer, hub.Viewer, "viewer viewer")
	expect(viewer, hub.Exporter, "viewer: 503 ")
	expect(unknown, hub.Agent, away)
	expect(agent, hub.Agent, "agent agent n1")
	c.later(goodFor)
	expect(viewer, hub.Viewer, away)
	expect(agent, hub.Agent, "agent agent n1")
	expect("noise", hub.Agent, away)
	c.later(agentsFor - goodFor - time.Second)
	expect(agent, hub.Agent, "agent agent n1")
	server.Start(t)
	c.later(pause)
	expect(agent, hub.Agent, "agent agent n1")
	expect(unknown, hub.Agent, "agent agent n2")
	server.Stop(t)
	c.later(agentsFor)
	expect(agent, hub.Agent, away)
}

// TestAuditLogsJoin: the hub knows a token by the id under which the API server's
// audit log has who asked for it.
func TestAuditLogsJoin(t *testing.T) {
	dir := t.TempDir()
	policy, log := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "audit.log")
	rules := "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n  resources: [{group: '', resources: [serviceaccounts/token]}]\n- level: None\n"
	if err := os.WriteFile(policy, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, kubetest.New(t, "--audit-policy-file="+policy, "--audit-log-path="+log).Config())
	r := withToken(t.Context(), c.token("viewer", nil, audience))
	id, err := c.auth.Authorise(r, hub.Viewer)
	if err != nil || !strings.HasPrefix(id.Credential, "JTI=") {
		t.Fatalf("%+v, %v", id, err)
	}
	want := fmt.Sprintf(`"authentication.kubernetes.io/issued-credential-id":"%s"`, id.Credential)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		b, err := os.ReadFile(log)
		if err == nil && bytes.Contains(b, []byte(want)) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no %s in %s", want, b)
		}
	}
}

// TestNode looks nodes up as it has to before Kubernetes 1.30.
func TestNode(t *testing.T) {
	c := newCluster(t, kubetest.APIServer(t))
	pod, other := c.agent("n1", "agent"), c.agent("n2", "other")
	waiting := kubetest.Pod(t, c.config, c.ns, "waiting", "agent", "")
	of := func(p *corev1.Pod, uid string) map[string]authenticationv1.ExtraValue {
		return map[string]authenticationv1.ExtraValue{extraPod: {p.Name}, extraPodUID: {uid}}
	}
	for _, tt := range []struct {
		name     string
		extra    map[string]authenticationv1.ExtraValue
		node     string
		nodeless string
	}{
		{"pod", of(pod, string(pod.UID)), c.node("n1"), ""},
		{"successor of that name", of(pod, "another"), "", "is gone"},
		{"gone", of(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "gone"}}, "x"), "", "is gone"},
		{"other account", of(other, string(other.UID)), "", "another service account"},
		{"not scheduled", of(waiting, string(waiting.UID)), "", "on no node"},
		{"no pod", nil, "", "bound to no pod"},
		{"named in the token", map[string]authenticationv1.ExtraValue{extraNode: {"n9"}}, "n9", ""},
		{"nonsense", map[string]authenticationv1.ExtraValue{extraNode: {"n/9"}}, "", "cannot be recorded"},
	} {
		node, nodeless, err := c.auth.node(t.Context(), authenticationv1.UserInfo{Extra: tt.extra})
		if err != nil || node != tt.node || !strings.Contains(nodeless, tt.nodeless) || (tt.nodeless == "") != (nodeless == "") {
			t.Errorf("%s: %q, %q, %v", tt.name, node, nodeless, err)
		}
	}
}

// TestHubWithoutPower: a hub that may not ask says what to bind, and lets nobody
// in.
func TestHubWithoutPower(t *testing.T) {
	c := newCluster(t, kubetest.APIServer(t))
	client, err := NewClient(kubetest.AsToken(c.config, c.token("other", nil)))
	if err != nil {
		t.Fatal(err)
	}
	c.auth.cfg.Client = client
	if got := c.ask(c.token("viewer", nil, audience), hub.Viewer); !strings.HasPrefix(got, "nobody: 503 ") || !strings.Contains(got, "system:auth-delegator") {
		t.Error(got)
	}
}

// played is an API server that answers as told, and counts.
func played(t *testing.T, status int, body string, asked func()) *Authority {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(srv.Close)
	client, err := NewClient(&rest.Config{Host: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Config{Client: client, Audience: audience, AgentAccount: "ns/agent", Namespace: "ns"})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func withToken(ctx context.Context, token string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx)
	r.Header.Set("Authorization", "bearer "+token)
	return r
}

// TestStrangeAnswers: what is not a clear yes is a no.
func TestStrangeAnswers(t *testing.T) {
	const review = `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","status":%s}`
	for _, tt := range []struct {
		name   string
		status int
		body   string
		want   int
	}{
		{"knows no audiences", 201, fmt.Sprintf(review, `{"authenticated":true,"user":{"username":"x"}}`), 401},
		{"other audience", 201, fmt.Sprintf(review, `{"authenticated":true,"user":{"username":"x"},"audiences":["y"]}`), 401},
		{"no user", 201, fmt.Sprintf(review, `{"authenticated":true,"audiences":["pcapsule"]}`), 401},
		{"no status", 201, `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1"}`, 401},
		{"something else", 201, `{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1","status":{"allowed":true}}`, 401},
		{"no JSON", 200, `<html>`, 503},
		{"not found", 404, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":404}`, 503},
		{"overloaded", 429, ``, 503},
		{"broken", 500, ``, 503},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := played(t, tt.status, tt.body, func() {})
			id, err := a.Authorise(withToken(t.Context(), "x"), hub.Viewer)
			var e *api.Error
			if id != nil || !errors.As(err, &e) || e.Status != tt.want {
				t.Errorf("%+v, %v", id, err)
			}
		})
	}
}

// TestFlood: many who come with the same token are one question, and tokens that
// somebody makes up neither grow what is remembered nor push out what is good.
func TestFlood(t *testing.T) {
	var mu sync.Mutex
	asked := 0
	a := played(t, 201, `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","status":{"authenticated":false}}`, func() {
		mu.Lock()
		defer mu.Unlock()
		asked++
	})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { _, _ = a.Authorise(withToken(t.Context(), "same"), hub.Viewer) })
	}
	wg.Wait()
	if asked != 1 {
		t.Errorf("asked %d times about one token", asked)
	}
	good := digest{1}
	a.keep(good, &holder{reviewed: time.Now()}, nil)
	for i := range 3 * maxBad {
		a.keep(digest{2, byte(i), byte(i >> 8)}, nil, unauthenticated("no"))
	}
	if len(a.bad) > maxBad || a.known[good] == nil {
		t.Errorf("%d remembered, the good one: %v", len(a.bad), a.known[good])
	}
	for i := range 2 * maxKnown {
		a.keep(digest{3, byte(i), byte(i >> 8)}, &holder{reviewed: time.Now()}, nil)
	}
	if len(a.known) > maxKnown {
		t.Errorf("%d good ones are remembered", len(a.known))
	}
}

// TestGone: whoever goes away while the API server is asked takes no answer from
// the others.
func TestGone(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	a := played(t, 201, `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","status":{"authenticated":false}}`, func() {
		close(asked)
		<-answer
	})
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { _, err := a.Authorise(withToken(ctx, "x"), hub.Viewer); first <- err }()
	<-asked
	go func() { _, err := a.Authorise(withToken(t.Context(), "x"), hub.Viewer); second <- err }()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(answer)
	var e *api.Error
	if err := <-second; !errors.As(err, &e) || e.Status != http.StatusUnauthorized {
		t.Error(err)
	}
}

func TestNew(t *testing.T) {
	client, err := NewClient(&rest.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	good := Config{Client: client, Audience: "a", AgentAccount: "ns/agent", Namespace: "ns"}
	for name, spoil := range map[string]func(*Config){
		"client": func(c *Config) { c.Client = nil }, "audience": func(c *Config) { c.Audience = "" },
		"agent": func(c *Config) { c.AgentAccount = "agent" }, "agent of": func(c *Config) { c.AgentAccount = "/agent" },
		"deep agent": func(c *Config) { c.AgentAccount = "a/b/c" }, "namespace": func(c *Config) { c.Namespace = "" },
	} {
		bad := good
		if spoil(&bad); true {
			if _, err := New(bad); err == nil {
				t.Errorf("no %s: taken", name)
			}
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}
