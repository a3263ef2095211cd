//go:build e2e && linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pcapsule/internal/api"
	"pcapsule/manifest"
)

const asker = `
apiVersion: v1
kind: Pod
metadata: {name: $NAME, namespace: shop}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "$IMAGE", imagePullPolicy: Never, args: [ask, 200ms, "http://web/$NAME"]}]
`

func startAsker(t *testing.T, name string) *corev1.Pod {
	t.Helper()
	apply(t, strings.ReplaceAll(asker, "$NAME", name))
	pod := awaitPod(t, "shop", name)
	awaitRounds(t, "shop", name, pod.CreationTimestamp.Time, 5)
	return pod
}

// deletePod deletes a pod and waits until it is gone.
func deletePod(t *testing.T, namespace, name string) {
	t.Helper()
	if err := client.CoreV1().Pods(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, time.Minute, func() error {
		_, err := client.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("pod %s is still there", name))
	})
}

// addressReused gives the address of a deleted pod to another one.
func addressReused(t *testing.T, r *release, me *laptop) {
	from := traffic(t, 2)
	first := startAsker(t, "first")
	deletePod(t, "shop", "first")
	addr, err := netip.ParseAddr(first.Status.PodIP)
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.NextPodAddress(t.Context(), "node-2", addr); err != nil {
		t.Fatal(err)
	}
	second := startAsker(t, "second")
	if second.Status.PodIP != first.Status.PodIP {
		t.Fatalf("the second pod has %s, want the first one's %s", second.Status.PodIP, first.Status.PodIP)
	}
	me.create(t, fine, "reused", from)
	for _, pod := range []struct{ name, other string }{{"first", "second"}, {"second", "first"}} {
		file := me.export(t, "reused", "--pod", "shop/"+pod.name)
		wantPackets(t, file, pod.name, "http.request.uri contains "+pod.name)
		wantNone(t, file, pod.other+" in the export of "+pod.name, "http.request.uri contains "+pod.other)
		wantPackets(t, file, pod.name+" with a comment", `frame.comment contains "shop/`+pod.name+`"`)
		wantNone(t, file, pod.name+" with a comment of "+pod.other, `frame.comment contains "shop/`+pod.other+`"`)
	}
	deletePod(t, "shop", "second")
}

func agentKilledCapturing(t *testing.T, r *release, me *laptop) {
	from := traffic(t, 8)
	killed, before := r.agent(t, "node-1"), time.Now()
	if err := cluster.KillContainer(t.Context(), killed, "agent"); err != nil {
		t.Fatal(err)
	}
	r.awaitRestart(t, killed, "agent")
	after := traffic(t, 4)
	s := me.create(t, partial, "killed-capturing", from)
	if text := strings.Join(s.Reasons, "\n"); !strings.Contains(text, "node-1") || strings.Contains(text, "node-2") {
		t.Errorf("reasons name not node-1, or others:\n%s", text)
	}
	for _, node := range me.manifest(t, "killed-capturing").Nodes {
		lost := slices.IndexFunc(node.Gaps, func(g manifest.Gap) bool { return g.Reason == manifest.GapNotRunning })
		if (lost >= 0) != (node.Name == "node-1") {
			t.Errorf("gaps of %s: %+v", node.Name, node.Gaps)
		}
		if lost >= 0 {
			if from := node.Gaps[lost].From.Time(); from.Before(before.Add(-2 * time.Second)) {
				t.Errorf("the gap starts at %s: more than the last second before %s is lost", from, before)
			}
		}
	}
	me.want(t, fine, "verify", "killed-capturing")
	file := me.export(t, "killed-capturing")
	wantPackets(t, file, "the time before the kill",
		fmt.Sprintf("http.request.uri contains near && frame.time_epoch < %d.%09d", before.Unix()-1, before.Nanosecond()))
	wantPackets(t, file, "the time after it", fmt.Sprintf("http.request.uri contains near && frame.time_epoch > %d", after.Unix()))
}

// noise is traffic that does not compress, so that its upload takes a while.
const noise = `
apiVersion: v1
kind: Pod
metadata: {name: noise, namespace: shop}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: "$IMAGE", imagePullPolicy: Never, args: [ask, 100ms, "http://web/noise/10000000"]}]
`

// whileUploading starts a snapshot of much traffic, calls fault when node-2 is in
// the middle of its upload, and returns how the command ended.
func whileUploading(t *testing.T, me *laptop, name string, fault func()) result {
	t.Helper()
	from := time.Now()
	apply(t, noise)
	awaitRounds(t, "shop", "noise", from, 3)
	deletePod(t, "shop", "noise")
	restore, err := cluster.SlowDown(t.Context(), "node-2", "12mbit")
	if err != nil {
		t.Fatal(err)
	}
	wait := me.start(t, "snapshot", "create", name, "--from", from.UTC().Format(time.RFC3339Nano))
	await(t, time.Minute, func() error {
		r := me.run(t, "snapshot", "show", name, "-o", "json")
		if r.code != fine {
			return fmt.Errorf("show: %s", r.stderr)
		}
		var s api.Snapshot
		if s = decode[api.Snapshot](t, r.stdout); len(s.Progress) == 0 && s.Status != api.Creating {
			t.Fatalf("the upload was over before the fault: %s", r.stdout)
		}
		for _, p := range s.Progress {
			if p.Node == "node-2" && p.State == "uploading" {
				return nil
			}
		}
		return fmt.Errorf("node-2 does not upload: %+v", s.Progress)
	})
	fault()
	if err := restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended, err := wait()
	if err != nil {
		t.Fatalf("%v\n%s", err, ended.stderr)
	}
	return ended
}

func agentKilledUploading(t *testing.T, r *release, me *laptop) {
	killed := r.agent(t, "node-2")
	ended := whileUploading(t, me, "killed-uploading", func() {
		if err := cluster.KillContainer(t.Context(), killed, "agent"); err != nil {
			t.Fatal(err)
		}
	})
	if ended.code != fine {
		t.Errorf("exit code %d: the window was in the ring\n%s", ended.code, ended.stderr)
	}
	r.awaitRestart(t, killed, "agent")
	me.want(t, fine, "verify", "killed-uploading")
	wantPackets(t, me.export(t, "killed-uploading", "--node", "node-2"), "the noise", "http.request.uri contains noise")
}

func hubKilled(t *testing.T, r *release, me *laptop) {
	killed := r.hub(t)
	ended := whileUploading(t, me, "hub-killed", func() {
		if err := cluster.KillContainer(t.Context(), killed, "hub"); err != nil {
			t.Fatal(err)
		}
	})
	if ended.code != fine {
		t.Errorf("exit code %d: the next hub should have carried on\n%s", ended.code, ended.stderr)
	}
	r.awaitRestart(t, killed, "hub")
	r.awaitReady(t, "hub")
	me.want(t, fine, "verify", "hub-killed")
	if n := strings.Count(me.want(t, fine, "snapshot", "list").stdout, "hub-killed"); n != 1 {
		t.Errorf("%d snapshots of that name, want 1", n)
	}
}

func nodeCutOff(t *testing.T, r *release, me *laptop) {
	hub := r.hub(t)
	victim := cluster.Nodes[0]
	if victim == hub.Spec.NodeName {
		victim = cluster.Nodes[1]
	}
	heal, err := cluster.CutOff(t.Context(), victim, hub.Status.PodIP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := heal(context.Background()); err != nil {
			t.Error(err)
		}
	})
	from := traffic(t, 2)
	s := me.create(t, partial, "cut-off", from)
	text := strings.Join(s.Reasons, "\n")
	for _, node := range cluster.Nodes {
		if strings.Contains(text, node) != (node == victim) {
			t.Errorf("reasons name not %s, or others:\n%s", victim, text)
		}
	}
	for _, node := range me.manifest(t, "cut-off").Nodes {
		if (node.Status == manifest.Unreachable) != (node.Name == victim) {
			t.Errorf("%s is %s", node.Name, node.Status)
		}
	}
	me.want(t, fine, "verify", "cut-off")
}

// outage is how long the API server is away: longer than a watch takes to notice.
const outage = 8 * time.Second

func apiServerDown(t *testing.T, r *release, me *laptop) {
	from := traffic(t, 2)
	if err := cluster.Kill(t.Context(), "kube-apiserver"); err != nil {
		t.Fatal(err)
	}
	down := time.Now()
	select {
	case <-time.After(outage): // it is the outage that takes time
	case <-t.Context().Done():
	}
	up := time.Now()
	if err := cluster.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := cluster.AwaitAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.awaitReady(t, "hub")
	traffic(t, 2)
	s := me.create(t, fine, "no-api-server", from)
	if len(s.Warnings) == 0 {
		t.Error("no warning about the stream of the cluster")
	}
	m := me.manifest(t, "no-api-server")
	if !slices.ContainsFunc(m.Gaps, func(g manifest.Gap) bool {
		return g.Stream == "kubernetes" && g.From.Time().Before(up) && g.To.Time().After(down)
	}) {
		t.Errorf("no gap of the stream kubernetes from %s to %s: %+v", down, up, m.Gaps)
	}
	file := me.export(t, "no-api-server")
	wantPackets(t, file, "the outage", fmt.Sprintf("http.request && frame.time_epoch > %d && frame.time_epoch < %d", down.Unix()+1, up.Unix()))
	me.want(t, fine, "snapshot", "delete", "no-api-server") // whose key is another than that of the rest
}

func wrongCredentials(t *testing.T, r *release, me *laptop) {
	from := traffic(t, 2)
	args := append([]string{"upgrade", r.name, chart(), "--namespace", r.namespace}, r.set(values{"store.s3.secretAccessKey": "wrong-secret"})...)
	if _, err := helm(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
	said := ""
	await(t, time.Minute, func() error {
		for _, pod := range r.pods(t, "hub") {
			for _, previous := range []bool{false, true} {
				text, err := client.CoreV1().Pods(r.namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Previous: previous}).DoRaw(t.Context())
				if err == nil && len(text) > 0 {
					said = string(text)
				}
				if strings.Contains(said, "the secret key does not match") {
					return nil
				}
			}
		}
		return fmt.Errorf("the hub does not say that its credentials are wrong:\n%s", said)
	})
	refused := me.run(t, "snapshot", "create", "refused", "--last", "5s")
	if refused.code != failed || !strings.Contains(refused.stderr, "hub") {
		t.Errorf("exit code %d without a hub, want %d:\n%s", refused.code, failed, refused.stderr)
	}
	r.upgrade(t, nil)
	traffic(t, 2)
	s := me.create(t, fine, "credentials-mended", from)
	if s.Status != manifest.Completed {
		t.Errorf("%s: packets of the time without a hub are missing: %v", s.Status, s.Reasons)
	}
}

// anotherKey: a hub that signs with another key than before is refused, until the
// user forgets the one of before.
func anotherKey(t *testing.T, r *release, me *laptop) {
	var before struct {
		SignerKey string `json:"signer_key"`
	}
	if err := json.Unmarshal([]byte(me.want(t, fine, "snapshot", "show", "all", "-o", "json").stdout), &before); err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().Secrets(r.namespace).Delete(t.Context(), r.name+"-signing-key", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.upgrade(t, nil)
	deletePod(t, r.namespace, r.hub(t).Name)
	await(t, time.Minute, func() error {
		if pods := r.pods(t, "hub"); len(pods) != 1 || !podReady(&pods[0]) {
			return fmt.Errorf("no hub is ready")
		}
		return nil
	})
	from := traffic(t, 2)
	refused := me.want(t, notVerified, "snapshot", "create", "another-key", "--from", from.UTC().Format(time.RFC3339Nano))
	way := regexp.MustCompile("another key.*`pcapsule (key forget [^`]+)`").FindStringSubmatch(refused.stderr)
	if way == nil {
		t.Fatalf("it is not refused for its key:\n%s", refused.stderr)
	}
	me.want(t, notVerified, "snapshot", "list")
	me.want(t, fine, strings.Fields(way[1])...)
	me.want(t, fine, "snapshot", "create", "another-key", "--from", from.UTC().Format(time.RFC3339Nano))
	me.want(t, fine, "verify", "another-key")
	me.want(t, fine, append([]string{"key", "trust"}, strings.Fields(before.SignerKey)...)...)
	me.want(t, fine, "verify", "all")
	me.want(t, fine, "snapshot", "delete", "another-key")
}
