//go:build linux

package targets

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"pcapsule/agent/packets"
	"pcapsule/internal/kubetest"
)

// A watched is a watcher that runs, and what it told.
type watched struct {
	*Watcher
	stop func()

	mu    sync.Mutex
	now   packets.Targets
	blind []int64 // from, to, from, to
}

func start(t *testing.T, api *rest.Config, change func(*Config)) *watched {
	t.Helper()
	s, err := NewSelection("", nil, []string{"kube-system"})
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{}
	cfg := Config{
		API: api, Node: "n1", Selection: s, Now: time.Now, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Apply: func(now packets.Targets) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.now = now
			return nil
		},
		OnBlind: func(from, to int64) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.blind = append(w.blind, from, to)
		},
	}
	if change != nil {
		change(&cfg)
	}
	if w.Watcher, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	w.now = w.Targets()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	w.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(w.stop)
	return w
}

// await waits until an address is that of such a pod, or of none.
func (w *watched) await(t *testing.T, address string, want packets.Pod, there bool) {
	t.Helper()
	eventually(t, address+" is not what it should be", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		got, ok := w.now.Pods[addr(address)]
		return ok == there && got == want
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatal(what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// run makes a pod that runs, with an address.
func run(t *testing.T, api *rest.Config, ns, name, node, address string) *corev1.Pod {
	t.Helper()
	p, err := kubetest.ClientOf(t, api).CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "main", Image: "test"}}, AutomountServiceAccountToken: new(bool)},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return status(t, api, p, corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}}, HostIP: "192.0.2.1", HostIPs: []corev1.HostIP{{IP: "192.0.2.1"}}})
}

func status(t *testing.T, api *rest.Config, p *corev1.Pod, s corev1.PodStatus) *corev1.Pod {
	t.Helper()
	p = p.DeepCopy()
	p.Status = s
	p, err := kubetest.ClientOf(t, api).CoreV1().Pods(p.Namespace).UpdateStatus(t.Context(), p, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func gone(t *testing.T, client kubernetes.Interface, p *corev1.Pod) {
	t.Helper()
	if err := client.CoreV1().Pods(p.Namespace).Delete(t.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
}

// TestWatch follows pods of a real API server.
func TestWatch(t *testing.T) {
	server := kubetest.New(t)
	api := server.Config()
	client := kubetest.ClientOf(t, api)
	ns := kubetest.NamespaceIn(t, api)
	for _, sa := range []string{ns, "kube-system"} {
		kubetest.ServiceAccount(t, api, sa, "default", nil)
	}
	before := run(t, api, ns, "before", "n1", "10.1.0.1")
	run(t, api, ns, "elsewhere", "n2", "10.2.0.1")
	file := filepath.Join(t.TempDir(), "pods.json")
	withFile := func(c *Config) { c.File = file }
	w := start(t, api, withFile)
	w.await(t, "10.1.0.1", packets.Target, true)
	w.await(t, "10.2.0.1", 0, false)

	began := time.Now()
	p := run(t, api, ns, "new", "n1", "10.1.0.2")
	w.await(t, "10.1.0.2", packets.Target, true)
	t.Logf("a pod was a target %v after it was made", time.Since(began))
	run(t, api, "kube-system", "dns", "n1", "10.1.0.3")
	w.await(t, "10.1.0.3", packets.Excluded, true)
	w.mu.Lock()
	if hosts := w.now.NodeAddresses; len(hosts) != 1 || hosts[0] != addr("192.0.2.1") || !w.now.Selective || !w.now.Node {
		t.Errorf("targets are %+v", w.now)
	}
	w.mu.Unlock()

	// The address of a pod that has ended goes to one that is excluded.
	status(t, api, p, corev1.PodStatus{Phase: corev1.PodSucceeded, PodIP: "10.1.0.2", PodIPs: p.Status.PodIPs})
	w.await(t, "10.1.0.2", 0, false)
	run(t, api, "kube-system", "next", "n1", "10.1.0.2")
	w.await(t, "10.1.0.2", packets.Excluded, true)
	gone(t, client, before)
	w.await(t, "10.1.0.1", 0, false)

	// The API server goes away, and the agent starts anew meanwhile.
	last := run(t, api, ns, "last", "n1", "10.1.0.4")
	w.await(t, "10.1.0.4", packets.Target, true)
	server.Stop(t)
	w.await(t, "10.1.0.4", packets.Target, true)
	w.stop()
	again := start(t, api, withFile)
	again.await(t, "10.1.0.4", packets.Target, true)
	again.await(t, "10.1.0.3", packets.Excluded, true)
	// Another that knows nothing records nothing, and says so.
	empty := start(t, api, nil)
	eventually(t, "no blind time is told", func() bool {
		empty.mu.Lock()
		defer empty.mu.Unlock()
		return len(empty.blind) >= 4
	})
	if now := empty.Targets(); !now.Selective || now.Node || len(now.Pods) > 0 {
		t.Errorf("known are %+v", now)
	}

	server.Start(t)
	gone(t, client, last)
	for _, w := range []*watched{again, empty} {
		w.await(t, "10.1.0.4", 0, false)
		w.await(t, "10.1.0.3", packets.Excluded, true)
	}
	again.mu.Lock()
	if len(again.blind) > 0 {
		t.Error("a watcher that remembers was blind")
	}
	again.mu.Unlock()
	empty.stop()
	empty.mu.Lock()
	defer empty.mu.Unlock()
	for i := 2; i < len(empty.blind); i += 2 {
		if empty.blind[i] != empty.blind[i-1] {
			t.Errorf("blind times %v do not follow on each other", empty.blind)
		}
	}
}

// TestHubEndpoints leaves out what has the hub's addresses.
func TestHubEndpoints(t *testing.T) {
	api := kubetest.APIServer(t)
	client := kubetest.Client(t)
	ns := kubetest.Namespace(t)
	slice := func(name, service string, port int32, addresses ...string) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Port: &port}},
		}
		if netip.MustParseAddr(addresses[0]).Is6() {
			s.AddressType = discoveryv1.AddressTypeIPv6
		}
		s.Endpoints = []discoveryv1.Endpoint{{Addresses: addresses}}
		s, err := client.DiscoveryV1().EndpointSlices(ns).Create(t.Context(), s, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s4 := slice("hub-4", "hub", 8898, "10.1.0.9")
	slice("other", "other", 80, "10.1.0.8")
	own := &packets.Own{}
	w := start(t, api, func(c *Config) { c.Hub, c.Own = Service{ns, "hub"}, own })
	out := func(want ...string) {
		t.Helper()
		eventually(t, "left out are not the hub's endpoints", func() bool {
			w.Watcher.mu.Lock()
			defer w.Watcher.mu.Unlock()
			var got []string
			for a := range w.peers {
				got = append(got, a.String())
			}
			slices.Sort(got)
			return slices.Equal(got, want)
		})
	}
	out("10.1.0.9:8898")
	slice("hub-6", "hub", 8898, "fd01::9")
	out("10.1.0.9:8898", net.JoinHostPort("fd01::9", "8898"))
	s4.Endpoints[0].Addresses = []string{"10.1.0.7"}
	s4, err := client.DiscoveryV1().EndpointSlices(ns).Update(t.Context(), s4, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out("10.1.0.7:8898", net.JoinHostPort("fd01::9", "8898"))
	if err := client.DiscoveryV1().EndpointSlices(ns).Delete(t.Context(), s4.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	out(net.JoinHostPort("fd01::9", "8898"))
}
