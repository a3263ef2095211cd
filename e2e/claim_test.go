//go:build e2e && linux

package e2e

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pcapsule/manifest"
)

// TestClaim keeps the archive in a volume: over upgrades, over the loss of the
// release, and readable without pcapsule's hub.
func TestClaim(t *testing.T) {
	openShop(t)
	me := newLaptop(t)
	r := newRelease("pcapsule", "pcapsule", claimValues())
	step(t, "helm install with a claim")
	r.install(t)

	step(t, "snapshot")
	from := traffic(t, 3)
	s := me.create(t, fine, "kept", from)
	if s.Status != manifest.Completed || s.Records == 0 {
		t.Fatalf("status %s with %d packets", s.Status, s.Records)
	}
	me.want(t, fine, "verify", "kept")
	claim := onlyClaim(t, r)

	step(t, "helm upgrade")
	first := r.hub(t).UID
	alone := watchHubs(t, r)
	r.upgrade(t, values{"hub.podAnnotations.upgraded": "yes", "agent.podAnnotations.upgraded": "yes"})
	if most := alone(); most > 1 {
		t.Errorf("%d hubs had the volume at once", most)
	}
	if r.hub(t).UID == first {
		t.Error("the upgrade did not replace the hub's pod: it shows nothing")
	}
	if after := onlyClaim(t, r); after.UID != claim.UID {
		t.Error("the upgrade made another claim")
	}
	me.want(t, fine, "verify", "kept")
	from = traffic(t, 3)
	me.create(t, fine, "after-upgrade", from)

	step(t, "helm uninstall, and a new release with the same archive")
	r.uninstall(t)
	claim = onlyClaim(t, r)
	folder, err := cluster.VolumeFolder(t.Context(), claim.Spec.VolumeName)
	if err != nil {
		t.Fatal(err)
	}
	outside := &laptop{home: me.home, kubeconfig: os.DevNull}
	outside.want(t, fine, "verify", folder+"/store")
	wantPackets(t, outside.export(t, "kept", "--store", folder+"/store"), "the packets", "http.request.uri contains asked-by-near")

	r.install(t)
	list := me.want(t, fine, "snapshot", "list").stdout
	for _, name := range []string{"kept", "after-upgrade"} {
		if !strings.Contains(list, name) {
			t.Errorf("the new release does not find snapshot %s:\n%s", name, list)
		}
	}
	me.want(t, fine, "verify", "kept")
}

// onlyClaim returns the claim of the release, whose volume it must have.
func onlyClaim(t *testing.T, r *release) *corev1.PersistentVolumeClaim {
	t.Helper()
	claims, err := client.CoreV1().PersistentVolumeClaims(r.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(claims.Items) != 1 || claims.Items[0].Status.Phase != corev1.ClaimBound {
		t.Fatalf("claims %+v, want one that is bound", claims.Items)
	}
	return &claims.Items[0]
}

// watchHubs counts pods of the hub that run at once, until the function it
// returns is called, which tells the most there were.
func watchHubs(t *testing.T, r *release) (most func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	running := map[string]bool{}
	highest := 0
	watch, err := client.CoreV1().Pods(r.namespace).Watch(ctx, metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/instance=" + r.name + ",app.kubernetes.io/component=hub",
	})
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for event := range watch.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			alive := slices.ContainsFunc(pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Running != nil })
			running[pod.Name] = alive && event.Type != "DELETED"
			n := 0
			for _, is := range running {
				if is {
					n++
				}
			}
			highest = max(highest, n)
		}
	})
	return func() int {
		cancel()
		watch.Stop()
		done.Wait()
		return highest
	}
}

// TestChart puts the chart to helm and to a real API server, without installing it.
func TestChart(t *testing.T) {
	ctx := t.Context()
	if out, err := helm(ctx, "lint", "--strict", chart()); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for name, v := range map[string]values{"bucket": bucketValues(), "claim": claimValues(), "neither": nil} {
		r := newRelease("pcapsule", "default", v)
		args := append([]string{"install", r.name, chart(), "--namespace", r.namespace, "--dry-run=server"}, r.set(nil)...)
		out, err := helm(ctx, args...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if warned := strings.Contains(out, "DIES WITH THE HUB'S POD"); warned != (name == "neither") {
			t.Errorf("%s: warning that the archive dies with the pod: %v", name, warned)
		}
	}
	for _, tc := range []struct{ name, value, want string }{
		{"a class that does not exist", "tap.snapshots.storageClass=nowhere", "nowhere"},
		{"a value that does not exist", "tap.snapshot.storageClass=gp2", "snapshot"},
		{"a size that is none", "tap.snapshots.storageSize=lots", "storageSize"},
		{"a filter, for now", "tap.bpfOverride=port 80", "bpfOverride"},
	} {
		out, err := helm(ctx, "install", "pcapsule", chart(), "--namespace", "default", "--dry-run=server", "--set", tc.value)
		if err == nil || !strings.Contains(out, tc.want) {
			t.Errorf("%s: %v\n%s", tc.name, err, out)
		}
	}
	objects, err := helm(ctx, append([]string{"template", "pcapsule", chart(), "--namespace", "default", "--kube-version", "1.37.0", "--skip-tests"},
		newRelease("pcapsule", "default", bucketValues()).set(nil)...)...)
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.DryRun(ctx, objects); err != nil {
		t.Errorf("server-side dry run: %v", err)
	}
}
