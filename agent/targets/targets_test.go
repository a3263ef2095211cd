package targets

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"pcapsule/agent/packets"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestSelectionSays(t *testing.T) {
	for _, tt := range []struct {
		regex                string
		namespaces, excluded []string
		want                 string
	}{
		{want: "all"},
		{regex: ".*", want: "all"},
		{regex: "^web-", want: "those with a name that matches ^web-"},
		{regex: "a", namespaces: []string{"x", "y"}, excluded: []string{"z"}, want: "those with a name that matches a, in the namespaces x, y, not in the namespaces z"},
	} {
		s, err := NewSelection(tt.regex, tt.namespaces, tt.excluded)
		if got := s.String(); err != nil || got != tt.want {
			t.Errorf("%q, %v: want %q", got, err, tt.want)
		}
	}
}

// TestSelection says what is recorded, of pods that are known.
func TestSelection(t *testing.T) {
	web := pod{Namespace: "shop", Name: "web-1", Addresses: []netip.Addr{addr("10.1.0.1"), addr("fd01::1")}, Host: []netip.Addr{addr("192.0.2.1")}}
	db := pod{Namespace: "shop", Name: "db-0", Addresses: []netip.Addr{addr("10.1.0.2")}}
	dns := pod{Namespace: "kube-system", Name: "coredns-7", Addresses: []netip.Addr{addr("10.1.0.3")}}
	proxy := pod{Namespace: "kube-system", Name: "kube-proxy-x", Addresses: []netip.Addr{addr("192.0.2.1")}, HostNetwork: true}
	hub := pod{Namespace: "pcapsule", Name: "web-hub", Addresses: []netip.Addr{addr("10.1.0.4")}, Own: true}
	agent := pod{Namespace: "pcapsule", Name: "agent-1", Addresses: []netip.Addr{addr("192.0.2.1")}, HostNetwork: true, Own: true}
	fresh := pod{Namespace: "shop", Name: "web-2"}
	all := map[string]pod{"1": web, "2": db, "3": dns, "4": proxy, "5": hub, "6": agent, "7": fresh}

	tests := []struct {
		name                 string
		regex                string
		namespaces, excluded []string
		unknown              bool
		selective, node      bool
		want                 string // web db dns: Target, Untargeted, Excluded
	}{
		{name: "everything", node: true, want: "TTT"},
		{name: "everything, by a regular expression", regex: ".*", node: true, want: "TTT"},
		{name: "by name", regex: "^web", selective: true, want: "TUU"},
		{name: "by part of a name", regex: "b-", selective: true, want: "TTU"},
		{name: "by name, one of the host's network", regex: "proxy", selective: true, node: true, want: "UUU"},
		{name: "by namespace", namespaces: []string{"shop", "other"}, selective: true, want: "TTU"},
		{name: "by namespace, with the host's network", namespaces: []string{"kube-system"}, selective: true, node: true, want: "UUT"},
		{name: "by both", regex: "db|dns", namespaces: []string{"shop"}, selective: true, want: "UTU"},
		{name: "excluded", excluded: []string{"shop"}, selective: true, node: true, want: "EET"},
		{name: "excluded, with the host's network", excluded: []string{"kube-system"}, selective: true, want: "TTE"},
		{name: "exclusion wins", regex: ".", namespaces: []string{"shop", "kube-system"}, excluded: []string{"kube-system"}, selective: true, want: "TTE"},
		{name: "not known", excluded: []string{"other"}, unknown: true, selective: true},
		{name: "not known, and all wanted", unknown: true, node: true},
	}
	codes := map[rune]packets.Pod{'T': packets.Target, 'U': packets.Untargeted, 'E': packets.Excluded}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := NewSelection(tt.regex, tt.namespaces, tt.excluded)
			if err != nil {
				t.Fatal(err)
			}
			want := packets.Targets{Selective: tt.selective, Node: tt.node, Pods: map[netip.Addr]packets.Pod{}}
			pods := map[string]pod{}
			if !tt.unknown {
				pods = all
				want.NodeAddresses = []netip.Addr{addr("192.0.2.1")}
				for i, c := range tt.want {
					for _, a := range []pod{web, db, dns}[i].Addresses {
						want.Pods[a] = codes[c]
					}
				}
				want.Pods[addr("10.1.0.4")] = packets.OwnPod
			}
			if diff := cmp.Diff(want, s.targets(pods, !tt.unknown), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if _, err := NewSelection("(", nil, nil); err == nil {
		t.Error("a broken expression is taken")
	}

	// An address that goes from one pod to the next is that of the stricter.
	s, _ := NewSelection("", nil, []string{"secret"})
	old, next := web, web
	next.Namespace = "secret"
	for range 20 { // maps have no order
		if got := s.targets(map[string]pod{"1": old, "2": next}, true).Pods[addr("10.1.0.1")]; got != packets.Excluded {
			t.Fatalf("a shared address is %v", got)
		}
	}
}

func TestServiceOf(t *testing.T) {
	for hub, want := range map[string]Service{
		"https://pcapsule-hub.pcapsule.svc:8898":     {"pcapsule", "pcapsule-hub"},
		"https://h.ns.svc.cluster.local:8898/prefix": {"ns", "h"},
		"https://hub.example.com":                    {},
		"http://127.0.0.1:8898":                      {},
		"http://[::1]:8898":                          {},
		"://":                                        {},
	} {
		if got := ServiceOf(hub); got != want {
			t.Errorf("%s: %+v, want %+v", hub, got, want)
		}
	}
}

// TestPodOf reads pods, and nothing from those that have no address yet.
func TestPodOf(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Labels: map[string]string{"app.kubernetes.io/name": "pcapsule"}}}
	if diff := cmp.Diff(pod{Namespace: "ns", Name: "p"}, podOf(p, "other")); diff != "" {
		t.Error(diff)
	}
	p.Status = corev1.PodStatus{
		PodIP: "10.1.0.1", PodIPs: []corev1.PodIP{{IP: "10.1.0.1"}, {IP: "fd01::1"}, {IP: "not an address"}},
		HostIP: "192.0.2.1", HostIPs: []corev1.HostIP{{IP: "192.0.2.1"}, {IP: "2001:db8::1"}},
	}
	want := pod{
		Namespace: "ns", Name: "p", Own: true,
		Addresses: []netip.Addr{addr("10.1.0.1"), addr("fd01::1")}, Host: []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")},
	}
	if diff := cmp.Diff(want, podOf(p, "ns"), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// TestMemory knows what the last watcher knew, on the same node and since the
// same start of the machine.
func TestMemory(t *testing.T) {
	if _, err := bootID(); err != nil {
		if runtime.GOOS == "linux" {
			t.Fatal(err)
		}
		t.Skip("agents run on Linux:", err)
	}
	file := filepath.Join(t.TempDir(), "pods.json")
	pods := map[string]pod{"u": {Namespace: "ns", Name: "p", Addresses: []netip.Addr{addr("10.1.0.1")}}}
	if err := remember(file, "n1", pods); err != nil {
		t.Fatal(err)
	}
	start := func(node string) *Watcher {
		t.Helper()
		s, err := NewSelection("p", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		w, err := New(Config{
			API: &rest.Config{Host: "https://192.0.2.1"}, Node: node, Selection: s, File: file,
			Apply: func(packets.Targets) error { return nil }, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	if got := start("n1").Targets(); len(got.Pods) != 1 || got.Pods[addr("10.1.0.1")] != packets.Target {
		t.Errorf("remembered are %+v", got)
	}
	if w := start("n2"); w.known || len(w.Targets().Pods) > 0 || !w.Targets().Selective {
		t.Errorf("another node knows %+v", w.Targets())
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	boot, _ := bootID()
	for name, b := range map[string]string{
		"another start": strings.ReplaceAll(string(b), boot, "other"),
		"damaged":       string(b[:len(b)/2]),
		"version":       strings.Replace(string(b), `"version":1`, `"version":2`, 1),
		"address":       strings.Replace(string(b), "10.1.0.1", "::ffff:10.1.0.1", 1),
		"no pods":       strings.Replace(string(b), `"pods"`, `"dops"`, 1),
	} {
		if err := os.WriteFile(file, []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
		if w := start("n1"); w.known || len(w.Targets().Pods) > 0 {
			t.Errorf("%s: known are %+v", name, w.Targets())
		}
	}
}

// FuzzMemory reads any file.
func FuzzMemory(f *testing.F) {
	b, err := json.Marshal(memory{Format: memoryFormat, Version: memoryVersion, Node: "n", Boot: "b", Pods: map[string]pod{"u": {Addresses: []netip.Addr{addr("10.1.0.1")}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"format":"pcapsule.pods","version":1,"pods":{"u":{"addresses":[""]}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMemory(b)
		if err == nil {
			Selection{}.targets(m.Pods, true)
		}
	})
}
