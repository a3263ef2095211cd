//go:build e2e && linux

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pcapsule/manifest"
)

// TestBrokenUpgrade upgrades to agents that cannot record. One node is lost, the
// others go on, and whoever upgrades hears of it.
func TestBrokenUpgrade(t *testing.T) {
	openShop(t)
	me := newLaptop(t)
	r := newRelease("pcapsule", "pcapsule", claimValues())
	step(t, "helm install")
	r.install(t)
	awaitRecording(t, r, len(cluster.Nodes))

	for _, tc := range []struct {
		name string
		v    values
	}{
		{"a flag that does not exist", values{"agent.extraArgs": "{--no-such-flag}"}},
		{"an interface that does not exist", values{"agent.interfaces": "{nope0}"}},
	} {
		step(t, "helm upgrade with %s", tc.name)
		from := time.Now()
		args := append([]string{"upgrade", r.name, chart(), "--namespace", r.namespace, "--wait", "--timeout", "40s"}, r.set(tc.v)...)
		if out, err := helm(t.Context(), args...); err == nil {
			t.Errorf("%s: helm says that all is well:\n%s", tc.name, out)
		}
		if out, err := kubectl(t.Context(), "-n", r.namespace, "rollout", "status", "daemonset/"+r.name+"-agent", "--timeout", "2s"); err == nil {
			t.Errorf("%s: `kubectl rollout status` says that all is well:\n%s", tc.name, out)
		}
		if n := len(recording(t, r)); n != len(cluster.Nodes)-1 {
			t.Errorf("%s: %d of %d agents record", tc.name, n, len(cluster.Nodes))
		}
		traffic(t, 2)
		s := me.create(t, partial, "broken-"+strings.Fields(tc.name)[1], from)
		lost := 0
		for _, node := range me.manifest(t, s.ID).Nodes {
			if node.Status != manifest.Completed {
				lost++
			}
		}
		if lost != 1 {
			t.Errorf("%s: %d nodes did not record all: %v", tc.name, lost, s.Reasons)
		}
	}

	step(t, "helm upgrade, mended")
	r.upgrade(t, nil)
	awaitRecording(t, r, len(cluster.Nodes))
	from := traffic(t, 2)
	if s := me.create(t, fine, "mended", from); s.Status != manifest.Completed {
		t.Errorf("%s: %v", s.Status, s.Reasons)
	}

	step(t, "a second release with the same folder")
	other := newRelease("second", "second", nil)
	args := append([]string{"install", other.name, chart(), "--namespace", other.namespace, "--create-namespace"}, other.set(nil)...)
	if out, err := helm(t.Context(), args...); err == nil || !strings.Contains(out, "release pcapsule/pcapsule has its ring in /var/lib/pcapsule on the same nodes: set agent.ring.hostPath") {
		t.Errorf("%v\n%s", err, out)
	}
	if n := len(recording(t, r)); n != len(cluster.Nodes) {
		t.Errorf("%d of %d agents record", n, len(cluster.Nodes))
	}
}

// recording lists the nodes whose agents are ready.
func recording(t *testing.T, r *release) (nodes []string) {
	t.Helper()
	for _, pod := range r.pods(t, "agent") {
		if podReady(&pod) && slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Running != nil }) {
			nodes = append(nodes, pod.Spec.NodeName)
		}
	}
	return nodes
}

// awaitRecording waits until all agents are ready, and have been for as long as an
// upgrade wants.
func awaitRecording(t *testing.T, r *release, n int) {
	t.Helper()
	await(t, 2*time.Minute, func() error {
		_, err := kubectl(t.Context(), "-n", r.namespace, "rollout", "status", "daemonset/"+r.name+"-agent", "--timeout", "1s")
		return err
	})
	set, err := client.AppsV1().DaemonSets(r.namespace).Get(t.Context(), r.name+"-agent", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if int(set.Status.NumberAvailable) != n {
		t.Fatalf("%d agents are available, want %d", set.Status.NumberAvailable, n)
	}
}

// kubectl runs kubectl as on a laptop, and returns what it printed.
func kubectl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(cluster.Dir, "bin", "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.Kubeconfig())
	out, err := cmd.CombinedOutput()
	return string(out), err
}
