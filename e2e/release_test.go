//go:build e2e && linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pcapsule/e2e/testbed"
)

// values are what --set takes.
type values map[string]string

// A release is the chart in the cluster.
type release struct {
	name, namespace string
	values          values
}

// bucketValues keep snapshots in the bucket outside of the cluster.
func bucketValues() values {
	return values{
		"store.s3.bucket":          testbed.S3Bucket,
		"store.s3.endpoint":        testbed.S3Endpoint,
		"store.s3.region":          "us-east-1",
		"store.s3.accessKeyId":     testbed.S3AccessKey,
		"store.s3.secretAccessKey": testbed.S3SecretKey,
	}
}

func claimValues() values {
	return values{"tap.snapshots.storageClass": testbed.StorageClass, "tap.snapshots.storageSize": "1000Gi"}
}

func newRelease(name, namespace string, v values) *release {
	all := values{
		"image.repository": imageRepository, "image.tag": imageTag, "image.pullPolicy": "Never",
		"agent.logLevel": "debug", "hub.logLevel": "debug",
	}
	maps.Copy(all, v)
	return &release{name: name, namespace: namespace, values: all}
}

// helm runs helm as on a laptop, and returns what it printed.
func helm(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(cluster.Dir, "bin", "helm"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.Kubeconfig())
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("helm %s: %w\n%s", args[0], err, out)
	}
	return string(out), nil
}

func chart() string { return filepath.Join(root, "charts", "pcapsule") }

func (r *release) set(v values) []string {
	all := maps.Clone(r.values)
	maps.Copy(all, v)
	var args []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		args = append(args, "--set", k+"="+all[k])
	}
	return args
}

// install installs the chart and waits until all of it is ready. When the test
// has failed, what Kubernetes knows of the release goes to the logs.
func (r *release) install(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			r.collect(t.Name())
		}
		// Also after the test's own uninstall, which leaves what an archive needs.
		r.remove(t)
	})
	args := append([]string{
		"install", r.name, chart(), "--namespace", r.namespace, "--create-namespace", "--wait", "--timeout", "3m",
	}, r.set(nil)...)
	if _, err := helm(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
	r.awaitAgents(t)
}

// upgrade changes values and waits until all is ready.
func (r *release) upgrade(t *testing.T, v values) {
	t.Helper()
	args := append([]string{"upgrade", r.name, chart(), "--namespace", r.namespace, "--wait", "--timeout", "3m"}, r.set(v)...)
	if _, err := helm(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
	r.awaitAgents(t)
}

func (r *release) uninstall(t *testing.T) {
	t.Helper()
	if _, err := helm(t.Context(), "uninstall", r.name, "--namespace", r.namespace, "--wait", "--timeout", "3m"); err != nil {
		t.Fatal(err)
	}
}

// remove removes everything: release, namespace, and rings, so that the next test
// finds a cluster without pcapsule.
func (r *release) remove(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if out, err := helm(ctx, "uninstall", r.name, "--namespace", r.namespace, "--ignore-not-found", "--wait", "--timeout", "2m"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if err := removeNamespace(ctx, r.namespace); err != nil {
		t.Error(err)
	}
	for _, node := range cluster.Nodes {
		if _, err := cluster.OnNode(ctx, node, "rm", "-rf", "/var/lib/pcapsule"); err != nil {
			t.Error(err)
		}
	}
}

func removeNamespace(ctx context.Context, name string) error {
	err := client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return testbed.Poll(ctx, 2*time.Minute, func() error {
		_, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("namespace %s is still there", name))
	})
}

// collect writes what Kubernetes knows of the release to the logs, when a scenario
// has failed.
func (r *release) collect(scenario string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const script = `
kubectl -n "$1" get all,pvc,events -o wide
kubectl -n "$1" describe pods
for pod in $(kubectl -n "$1" get pods -o name); do
	for previous in "" --previous; do
		echo "=== $pod $previous"; kubectl -n "$1" logs $previous "$pod"
	done
done`
	cmd := exec.CommandContext(ctx, "sh", "-c", script, "sh", r.namespace)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.Kubeconfig(), "PATH="+filepath.Join(cluster.Dir, "bin")+":"+os.Getenv("PATH"))
	out, _ := cmd.CombinedOutput() // as much as there is
	name := strings.NewReplacer(" ", "-", "/", "-").Replace(scenario)
	_ = os.WriteFile(filepath.Join(*logs, name+".txt"), out, 0o644)
}

// pods lists the running pods of a component, hub or agent.
func (r *release) pods(t *testing.T, component string) []corev1.Pod {
	t.Helper()
	list, err := client.CoreV1().Pods(r.namespace).List(t.Context(), metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/instance=" + r.name + ",app.kubernetes.io/component=" + component,
	})
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

// hub returns the hub's pod, and agent the one of a node.
func (r *release) hub(t *testing.T) *corev1.Pod {
	t.Helper()
	pods := r.pods(t, "hub")
	if len(pods) != 1 {
		t.Fatalf("%d pods of the hub, want 1", len(pods))
	}
	return &pods[0]
}

func (r *release) agent(t *testing.T, node string) *corev1.Pod {
	t.Helper()
	for _, pod := range r.pods(t, "agent") {
		if pod.Spec.NodeName == node {
			return &pod
		}
	}
	t.Fatalf("no agent on %s", node)
	return nil
}

// awaitReady waits until a pod of a component is ready on each node in question.
func (r *release) awaitReady(t *testing.T, component string) {
	t.Helper()
	await(t, 2*time.Minute, func() error {
		for _, pod := range r.pods(t, component) {
			if !podReady(&pod) {
				return fmt.Errorf("pod %s is not ready", pod.Name)
			}
		}
		return nil
	})
}

// awaitAgents waits until all agents are as the release wants them, and capture.
// helm does not wait for those that may be unavailable during an upgrade.
func (r *release) awaitAgents(t *testing.T) {
	t.Helper()
	await(t, 2*time.Minute, func() error {
		set, err := client.AppsV1().DaemonSets(r.namespace).Get(t.Context(), r.name+"-agent", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s := set.Status; s.ObservedGeneration < set.Generation || s.UpdatedNumberScheduled < s.DesiredNumberScheduled || s.NumberUnavailable > 0 {
			return fmt.Errorf("not all agents are up to date: %+v", s)
		}
		for _, pod := range r.pods(t, "agent") {
			if err := capturing(t, &pod); err != nil {
				return err
			}
		}
		return nil
	})
}

// capturing tells, by its log, whether an agent captures.
func capturing(t *testing.T, agent *corev1.Pod) error {
	t.Helper()
	text, err := client.CoreV1().Pods(agent.Namespace).GetLogs(agent.Name, &corev1.PodLogOptions{}).DoRaw(t.Context())
	if err == nil && !strings.Contains(string(text), "msg=capturing") {
		err = fmt.Errorf("%s does not capture yet", agent.Name)
	}
	return err
}

// awaitRestart waits until a container that was killed runs again, and does its
// work if it is an agent.
func (r *release) awaitRestart(t *testing.T, killed *corev1.Pod, container string) {
	t.Helper()
	restarts := func(pod *corev1.Pod) (n int32, runs bool) {
		for _, s := range pod.Status.ContainerStatuses {
			if s.Name == container {
				return s.RestartCount, s.State.Running != nil
			}
		}
		return 0, false
	}
	before, _ := restarts(killed)
	await(t, 2*time.Minute, func() error {
		pod, err := client.CoreV1().Pods(killed.Namespace).Get(t.Context(), killed.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if n, runs := restarts(pod); n <= before || !runs {
			return fmt.Errorf("%s of %s has not been started again", container, pod.Name)
		}
		if container == "agent" {
			return capturing(t, pod)
		}
		return nil
	})
}

func podReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func await(t *testing.T, limit time.Duration, try func() error) {
	t.Helper()
	if err := testbed.Poll(t.Context(), limit, try); err != nil {
		t.Fatal(err)
	}
}
