package kubeauth

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"pcapsule/internal/kubetest"
)

// A node has gone when the API server says so, and not because something in its
// place says "not found", or nothing does.
func TestNodeGone(t *testing.T) {
	config := kubetest.APIServer(t)
	name := kubetest.Namespace(t) + "-node"
	nodes := kubetest.Client(t).CoreV1().Nodes()
	if _, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ask := func(config *rest.Config, node string) (bool, error) {
		t.Helper()
		client, err := NewClient(config)
		if err != nil {
			t.Fatal(err)
		}
		a, err := New(Config{Client: client, Audience: audience, AgentAccount: "x/agent", Namespace: "x"})
		if err != nil {
			t.Fatal(err)
		}
		return a.NodeGone(t.Context(), node)
	}
	if gone, err := ask(config, name); gone || err != nil {
		t.Errorf("a node that is there: %v, %v", gone, err)
	}
	if gone, err := ask(config, "another"); !gone || err != nil {
		t.Errorf("a node that is not there: %v, %v", gone, err)
	}
	if err := nodes.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if gone, err := ask(config, name); !gone || err != nil {
		t.Errorf("a node that was deleted: %v, %v", gone, err)
	}
	for what, answer := range map[string]http.HandlerFunc{
		"a page": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", http.StatusNotFound) },
		"another's": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"kind":"Node","apiVersion":"v1","metadata":{"name":"other"}}`)
		},
		"nothing at all":  func(w http.ResponseWriter, _ *http.Request) {},
		"no permission":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"not of the node": func(w http.ResponseWriter, _ *http.Request) { notFound(w, `{"name":"x","kind":"pods"}`) },
	} {
		srv := httptest.NewServer(answer)
		t.Cleanup(srv.Close)
		if gone, err := ask(&rest.Config{Host: srv.URL}, name); gone || err == nil {
			t.Errorf("%s: gone %v, %v", what, gone, err)
		}
	}
}

func notFound(w http.ResponseWriter, details string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404,"details":%s}`, details)
}
