//go:build linux

package agent

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/internal/kubetest"
	"pcapsule/manifest"
)

// With a real API server: its cluster is in each snapshot, and when it is away
// packets go on, and the account of the cluster's stream has the gap.
func TestAPIServerComesAndGoes(t *testing.T) {
	server := kubetest.New(t)
	config := server.Config()
	ns := kubetest.NamespaceIn(t, config)
	h := newTestHub(t)
	a := startAgent(t, h, t.TempDir(), func(cfg *Config) { cfg.Kubernetes, cfg.Lease = config, ns+"/kubernetes" })
	h.awaitPoll("it records the cluster", func(p api.PollRequest) bool { return slices.Contains(p.Streams, chunker.Kubernetes) })

	began := time.Now()
	h.ask("there", began, time.Now())
	p := h.awaitPart("there")
	if k := p.Kubernetes; k == nil || k.Stream == nil || k.Stream.Records < 3 || len(k.Coverage) != 1 || len(k.Gaps) > 0 {
		t.Fatalf("part of the cluster: %+v", k)
	}

	server.Stop(t)
	stopped := time.Now()
	sent := a.feed(t, stopped, 1000, time.Microsecond, 100)
	h.ask("away", stopped, time.Now())
	p = h.awaitPart("away")
	if d := cmp.Diff(sent, h.packets(p.Node)); d != "" {
		t.Errorf("packets (-want +got):\n%s", d)
	}
	sleep(t.Context(), 6*time.Second) // what lasts less makes news late, and no gap
	server.Start(t)
	_, err := kubetest.ClientOf(t, config).CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "new-"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}

	// The account of it, once the recorder is back.
	isLost := func(g manifest.Gap) bool { return g.Reason == manifest.GapWatchLost }
	for i := 0; ; i++ {
		id := "after-" + string(rune('a'+i))
		h.ask(id, began, time.Now())
		k := h.awaitPart(id).Kubernetes
		n := slices.IndexFunc(k.Gaps, isLost)
		if n < 0 && i < 25 {
			sleep(t.Context(), 2*time.Second)
			continue
		}
		if n < 0 {
			t.Fatalf("account of an outage: %+v", k)
		}
		g := k.Gaps[n]
		if g.From.Time().Before(stopped.Add(-time.Second)) || g.From.Time().After(stopped.Add(2*time.Second)) || len(k.Coverage) != 2 {
			t.Errorf("stopped at %d, account %+v", stopped.UnixNano(), k)
		}
		return
	}
}
