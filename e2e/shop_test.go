//go:build e2e && linux

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pcapsule/e2e/testbed"
)

// shop is what runs in the cluster besides pcapsule: pods that ask services over
// HTTP, after a DNS look-up each time, within a node and across nodes.
const shop = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "$IMAGE", imagePullPolicy: Never, args: [serve], readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}]
---
apiVersion: v1
kind: Pod
metadata: {name: near, namespace: shop}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "$IMAGE", imagePullPolicy: Never, args: [ask, 500ms, "http://web/asked-by-near"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: shop}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "$IMAGE", imagePullPolicy: Never, args: [ask, 500ms, "http://web.shop/asked-by-far"]}]
`

// openShop starts the shop for a test.
func openShop(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if err := removeNamespace(context.Background(), "shop"); err != nil {
			t.Error(err)
		}
	})
	apply(t, shop)
	for _, name := range []string{"web", "near", "far"} {
		awaitPod(t, "shop", name)
	}
}

func apply(t *testing.T, manifest string) {
	t.Helper()
	if err := cluster.Apply(t.Context(), strings.ReplaceAll(manifest, "$IMAGE", testbed.WorkloadImage)); err != nil {
		t.Fatal(err)
	}
}

// awaitPod waits until a pod is ready, and returns it.
func awaitPod(t *testing.T, namespace, name string) (pod *corev1.Pod) {
	t.Helper()
	await(t, time.Minute, func() (err error) {
		pod, err = client.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && !podReady(pod) {
			err = fmt.Errorf("pod %s/%s is not ready: %s", namespace, name, pod.Status.Phase)
		}
		return err
	})
	return pod
}

// awaitRounds waits until a pod that asks has been answered n times since a time.
func awaitRounds(t *testing.T, namespace, name string, since time.Time, n int) {
	t.Helper()
	await(t, time.Minute, func() error {
		if done := len(answered(t, namespace, name, since)); done < n {
			return fmt.Errorf("%s/%s was answered %d times, not %d", namespace, name, done, n)
		}
		return nil
	})
}

// answered returns when a pod that asks was answered, since a time.
func answered(t *testing.T, namespace, name string, since time.Time) (at []time.Time) {
	t.Helper()
	whole := metav1.NewTime(since) // of which the API server takes the seconds
	text, err := client.CoreV1().Pods(namespace).GetLogs(name, &corev1.PodLogOptions{SinceTime: &whole, Timestamps: true}).DoRaw(t.Context())
	if err != nil {
		return nil // it does not run yet
	}
	for line := range strings.Lines(string(text)) {
		stamp, said, _ := strings.Cut(strings.TrimSpace(line), " ")
		when, err := time.Parse(time.RFC3339Nano, stamp)
		if err == nil && said == "all answered" && !when.Before(since) {
			at = append(at, when)
		}
	}
	return at
}

// traffic waits for requests of the shop, and returns the time before them. The
// first answer may be to a request from before; all others are not.
func traffic(t *testing.T, rounds int) (since time.Time) {
	t.Helper()
	since = time.Now()
	awaitRounds(t, "shop", "near", since, rounds)
	awaitRounds(t, "shop", "far", since, rounds)
	return since
}
