package agent

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"

	"pcapsule/agent/targets"
	"pcapsule/internal/api"
	"pcapsule/manifest"
)

// TestSelection says in manifests what an agent was told to record.
func TestSelection(t *testing.T) {
	client, err := api.NewClient("http://hub:8898")
	if err != nil {
		t.Fatal(err)
	}
	some, err := targets.NewSelection("^front", []string{"shop"}, []string{"kube-system"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name       string
		cfg        Config
		interfaces []string
		targets    *manifest.Targets
		says       []string // in what is left out
	}{
		{"a machine", Config{}, nil, nil, []string{"own connections", "TCP with the hub (http://hub:8898)"}},
		{"named, as they are", Config{Interfaces: []string{"eth1", "eth0", "eth1"}, NoPromiscuous: true}, []string{"eth1", "eth0"}, nil, []string{"--no-promiscuous"}},
		{"an address", Config{Exclude: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:443")}}, nil, nil, []string{"TCP with 192.0.2.1:443"}},
		{"all pods", Config{Kubernetes: new(rest.Config)}, nil, new(manifest.Targets), []string{"API server", "on their way"}},
		{"some pods", Config{Kubernetes: new(rest.Config), Pods: some}, nil,
			&manifest.Targets{Regex: "^front", Namespaces: []string{"shop"}, Excluded: []string{"kube-system"}}, []string{"no target"}},
	} {
		s := (&agent{cfg: tt.cfg, client: client}).selection()
		if d := cmp.Diff(tt.interfaces, s.Interfaces); d != "" {
			t.Errorf("%s: interfaces (-want +got):\n%s", tt.name, d)
		}
		if d := cmp.Diff(tt.targets, s.Targets); d != "" {
			t.Errorf("%s: targets (-want +got):\n%s", tt.name, d)
		}
		for _, want := range tt.says {
			if !strings.Contains(strings.Join(s.Excluded, "\n"), want) {
				t.Errorf("%s: it does not say that %q is left out: %q", tt.name, want, s.Excluded)
			}
		}
		if err := manifest.CheckCaptures([]manifest.Capture{{From: 1, To: 2, Selection: s}}); err != nil || s.Abridged {
			t.Errorf("%s: %+v: %v", tt.name, s, err)
		}
	}
}
