package kube

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

const kubeconfig = `apiVersion: v1
kind: Config
current-context: near
clusters:
- {name: near, cluster: {server: "https://127.0.0.1:6443"}}
- {name: far, cluster: {server: "https://127.0.0.2:6443"}}
users:
- {name: me, user: {token: abc}}
contexts:
- {name: near, context: {cluster: near, user: me, namespace: here}}
- {name: far, context: {cluster: far, user: me}}
`

func TestFind(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name      string
		at        Location
		env       string
		host      string
		context   string
		namespace string
		none      bool
		fails     bool
	}{
		{name: "current context", at: Location{Kubeconfig: file}, host: "https://127.0.0.1:6443", context: "near", namespace: "here"},
		{name: "environment", env: file, host: "https://127.0.0.1:6443", context: "near", namespace: "here"},
		{name: "named context", at: Location{Kubeconfig: file, Context: "far"}, host: "https://127.0.0.2:6443", context: "far", namespace: "default"},
		{name: "no such context", at: Location{Kubeconfig: file, Context: "nowhere"}, fails: true},
		{name: "no such file", at: Location{Kubeconfig: file + "x"}, fails: true},
		{name: "nothing", env: file + "x", none: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("KUBECONFIG", tt.env)
			c, err := Find(tt.at)
			if tt.none || tt.fails {
				if err == nil || errors.Is(err, ErrNoCluster) != tt.none {
					t.Fatalf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.Config.Host != tt.host || c.Context != tt.context || c.Namespace != tt.namespace {
				t.Errorf("%s %q %q, want %s %q %q", c.Config.Host, c.Context, c.Namespace, tt.host, tt.context, tt.namespace)
			}
		})
	}
	names, err := Contexts(file)
	if slices.Sort(names); err != nil || !slices.Equal(names, []string{"far", "near"}) {
		t.Errorf("contexts %q, %v", names, err)
	}
}

func TestOutside(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := InCluster(); err == nil {
		t.Error("in a cluster, without one")
	}
	if _, err := os.Stat(namespaceFile); err == nil {
		t.Skip("this test runs in a pod")
	}
	if _, err := Namespace(); err == nil {
		t.Error("a namespace, without a pod")
	}
}
