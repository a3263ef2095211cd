package kubernetes

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"pcapsule/agent/ring"
	"pcapsule/chunker"
	"pcapsule/cluster"
	"pcapsule/internal/kubetest"
	"pcapsule/manifest"
)

// An agent is a recorder with its ring, against a real API server.
type agent struct {
	*Recorder
	ring *ring.Ring
	dir  string
	stop func() // ends it, and waits for that
}

func startAgent(t testing.TB, config *rest.Config, lease, node string) *agent {
	t.Helper()
	a := &agent{dir: t.TempDir()}
	var err error
	if a.ring, err = ring.Open(a.dir, ring.Options{Limit: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.ring.Close() })
	a.Recorder, err = New(Config{
		API: config, Node: node, Lease: lease, Ring: a.ring, Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", node),
		Clock: func(int64) manifest.Clock { return manifest.Clock{Offset: 5, Error: 7} },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx) }()
	a.stop = func() { cancel(); <-done }
	t.Cleanup(a.stop)
	return a
}

// eventually waits for what must come true.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Minute)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		wait(t.Context(), 20*time.Millisecond)
	}
}

// chunks cuts, and are all that was recorded.
func (a *agent) chunks(t testing.TB) [][]cluster.Record {
	t.Helper()
	if err := a.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	return recorded(t, a.ring, a.dir)
}

// flat are the records of all chunks.
func flat(chunks [][]cluster.Record) []cluster.Record { return slices.Concat(chunks...) }

// state is what the records of one chunk say there is at its end, by uid. It fails
// when the chunk is not whole.
func state(t testing.TB, records []cluster.Record) map[string]string {
	t.Helper()
	out := map[string]string{}
	if records[0].Op != cluster.OpKeyframe {
		t.Fatalf("a chunk begins with %s", records[0].Op)
	}
	complete := false
	for i, r := range records {
		if i > 0 && r.Time < records[i-1].Time {
			t.Fatal("records are out of order")
		}
		switch r.Op {
		case cluster.OpState, cluster.OpSet:
			out[r.Meta().UID] = body(t, &r)
		case cluster.OpGone:
			delete(out, r.Meta().UID)
		case cluster.OpComplete:
			complete = true
			if r.Objects != len(out) {
				t.Fatalf("a keyframe of %d objects says they were %d", len(out), r.Objects)
			}
		}
	}
	if !complete {
		t.Fatal("a keyframe has no end")
	}
	return out
}

func body(t testing.TB, r *cluster.Record) string {
	t.Helper()
	b, err := r.Body()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// truth is what the API server says there is, by uid.
func truth(t testing.TB, config *rest.Config) map[string]string {
	t.Helper()
	client, err := newClient(config)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, res := range resources() {
		if res.events() {
			continue
		}
		list := res.list()
		if err := client.Get().AbsPath(res.path).Do(t.Context()).Into(list); err != nil {
			t.Fatal(err)
		}
		if err := meta.EachListItem(list, func(o runtime.Object) error {
			r := reduce(o)
			out[r.Meta().UID] = body(t, r)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// agrees waits until the recorded state is that of the API server, and checks on
// the way that every chunk begins with the state that the one before ended with.
func (a *agent) agrees(t testing.TB, config *rest.Config) {
	t.Helper()
	var want, got map[string]string
	eventually(t, "the recorded state is the cluster's", func() bool {
		want = truth(t, config)
		if chunks := a.chunks(t); len(chunks) > 0 {
			got = state(t, chunks[len(chunks)-1])
		}
		return maps.Equal(want, got)
	})
	chunks := a.chunks(t)
	for i := range chunks[1:] {
		before, after := chunks[i], chunks[i+1]
		last, first := before[len(before)-1], after[0]
		if last.Op != cluster.OpAlive || last.Time != first.Time {
			continue
		}
		var keyframe []cluster.Record
		for _, r := range after {
			keyframe = append(keyframe, r)
			if r.Op == cluster.OpComplete {
				break
			}
		}
		if d := cmp.Diff(state(t, before), state(t, keyframe)); d != "" {
			t.Fatalf("chunk %d does not go on where the one before ended:\n%s", i+1, d)
		}
	}
}

func find(records []cluster.Record, op, name string) []cluster.Record {
	var out []cluster.Record
	for _, r := range records {
		if m := r.Meta(); r.Op == op && (m == nil && name == "" || m != nil && m.Name == name) {
			out = append(out, r)
		}
	}
	return out
}

const secret = "hunter2-" // in all that must not be recorded

// secretPod has a secret in everything of a pod that is not recorded.
func secretPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"app": "web"},
			Annotations: map[string]string{"kubectl.kubernetes.io/last-applied-configuration": `{"env":"` + secret + `annotation"}`},
			Finalizers:  []string{"example.com/" + secret + "finalizer"},
		},
		Spec: corev1.PodSpec{
			NodeName: "worker-1", ServiceAccountName: "web",
			InitContainers: []corev1.Container{{Name: "init", Image: "registry.example/init:1", Command: []string{secret + "command"}}},
			Containers: []corev1.Container{{
				Name: "main", Image: "registry.example/web:1", Args: []string{"--password=" + secret + "arg"}, WorkingDir: "/" + secret + "dir",
				Env: []corev1.EnvVar{{Name: "PASSWORD", Value: secret + "env"}, {Name: "FROM", ValueFrom: &corev1.EnvVarSource{
					SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: secret + "ref"}, Key: "k"},
				}}},
				EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: secret + "envfrom"}}}},
				Ports:   []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
				LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
					Exec: &corev1.ExecAction{Command: []string{secret + "probe"}},
				}},
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/" + secret + "mount"}},
			}},
			ImagePullSecrets: []corev1.LocalObjectReference{{Name: secret + "pull"}},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				Secret: &corev1.SecretVolumeSource{SecretName: secret + "volume"},
			}}},
			Hostname: secret + "hostname",
		},
	}
}

// runPod says that a pod runs, with a secret in the one place where a container
// can say something.
func runPod(t testing.TB, client *clientset.Clientset, pod *corev1.Pod, ip string) *corev1.Pod {
	t.Helper()
	now := metav1.Now().Rfc3339Copy()
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, HostIP: "192.0.2.1", StartTime: &now, Message: secret + "status",
		Conditions: []corev1.PodCondition{{
			Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue, LastTransitionTime: now, Message: secret + "condition",
		}},
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: "main", Image: "registry.example/web:1", ImageID: "sha256:ab", ContainerID: "containerd://cd", RestartCount: 3,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				Reason: "OOMKilled", ExitCode: 137, Message: secret + "termination", FinishedAt: now,
			}},
		}},
	}
	out, err := client.CoreV1().Pods(pod.Namespace).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func must[T any](t testing.TB) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// Everything that is recorded, is; and of everything else there is not a byte.
func TestRecords(t *testing.T) {
	server := kubetest.New(t)
	config := server.Config()
	client := kubetest.ClientOf(t, config)
	ns := kubetest.NamespaceIn(t, config)
	ctx, create := t.Context(), metav1.CreateOptions{}
	must[*corev1.Node](t)(client.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "worker-1", Annotations: map[string]string{"a": secret + "node"}},
		Spec:       corev1.NodeSpec{PodCIDR: "10.1.0.0/24", PodCIDRs: []string{"10.1.0.0/24"}},
	}, create))
	must[*corev1.Secret](t)(client.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: secret + "name"}, StringData: map[string]string{"k": secret + "data"},
	}, create))
	must[*corev1.ConfigMap](t)(client.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: secret + "map"}, Data: map[string]string{"k": secret + "data"},
	}, create))
	// Before the recorder starts, and while it records.
	before := must[*corev1.Pod](t)(client.CoreV1().Pods(ns).Create(ctx, secretPod("before"), create))
	runPod(t, client, before, "10.1.0.7")
	event := must[*corev1.Event](t)(client.CoreV1().Events(ns).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: "before.1"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: "before", UID: before.UID},
		Reason:         "BackOff", Message: "Back-off restarting", Type: "Warning", Count: 1,
		FirstTimestamp: metav1.Now(), LastTimestamp: metav1.Now(), Source: corev1.EventSource{Component: "kubelet", Host: "worker-1"},
	}, create))
	a := startAgent(t, config, ns+"/kubernetes", "worker-1")
	eventually(t, "it records", func() bool { return len(a.chunks(t)) > 0 })

	pods := client.CoreV1().Pods(ns)
	pod := must[*corev1.Pod](t)(pods.Create(ctx, secretPod("after"), create))
	pod = runPod(t, client, pod, "10.1.0.8")
	event.Count, event.LastTimestamp = 2, metav1.Now()
	must[*corev1.Event](t)(client.CoreV1().Events(ns).Update(ctx, event, metav1.UpdateOptions{}))
	labels := map[string]string{"app": "web"}
	selector := &metav1.LabelSelector{MatchLabels: labels}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: secretPod("x").Spec}
	template.Spec.NodeName, template.Spec.ServiceAccountName = "", ""
	annotated := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Annotations: map[string]string{"a": secret + name}}
	}
	deployment := must[*appsv1.Deployment](t)(client.AppsV1().Deployments(ns).Create(ctx, &appsv1.Deployment{
		ObjectMeta: annotated("deploy"), Spec: appsv1.DeploymentSpec{Replicas: new(int32(3)), Selector: selector, Template: template},
	}, create))
	owned := annotated("rs")
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "deploy", UID: deployment.UID, Controller: new(true)}}
	must[*appsv1.ReplicaSet](t)(client.AppsV1().ReplicaSets(ns).Create(ctx, &appsv1.ReplicaSet{
		ObjectMeta: owned, Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(3)), Selector: selector, Template: template},
	}, create))
	must[*appsv1.StatefulSet](t)(client.AppsV1().StatefulSets(ns).Create(ctx, &appsv1.StatefulSet{
		ObjectMeta: annotated("sts"), Spec: appsv1.StatefulSetSpec{Selector: selector, Template: template},
	}, create))
	must[*appsv1.DaemonSet](t)(client.AppsV1().DaemonSets(ns).Create(ctx, &appsv1.DaemonSet{
		ObjectMeta: annotated("ds"), Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template},
	}, create))
	job := template
	job.Spec.RestartPolicy = corev1.RestartPolicyNever
	must[*batchv1.Job](t)(client.BatchV1().Jobs(ns).Create(ctx, &batchv1.Job{
		ObjectMeta: annotated("job"), Spec: batchv1.JobSpec{Parallelism: new(int32(2)), Template: job},
	}, create))
	must[*batchv1.CronJob](t)(client.BatchV1().CronJobs(ns).Create(ctx, &batchv1.CronJob{
		ObjectMeta: annotated("cron"), Spec: batchv1.CronJobSpec{Schedule: "* * * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: job}}},
	}, create))
	service := must[*corev1.Service](t)(client.CoreV1().Services(ns).Create(ctx, &corev1.Service{
		ObjectMeta: annotated("svc"), Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, Selector: labels, ExternalIPs: []string{"203.0.113.9"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http"), NodePort: 30081}},
		},
	}, create))
	must[*discoveryv1.EndpointSlice](t)(client.DiscoveryV1().EndpointSlices(ns).Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "svc-x", Labels: map[string]string{discoveryv1.LabelServiceName: "svc"}, Annotations: map[string]string{"a": secret + "slice"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{"10.1.0.8"}, NodeName: new("worker-1"), Hostname: new(secret + "host"),
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: "after", UID: pod.UID},
		}},
		Ports: []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}},
	}, create))
	a.agrees(t, config)
	if err := pods.Delete(ctx, "after", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
		t.Fatal(err)
	}
	patch := []byte(`{"metadata":{"finalizers":null}}`)
	must[*corev1.Pod](t)(pods.Patch(ctx, "after", types.MergePatchType, patch, metav1.PatchOptions{}))
	eventually(t, "the pod has gone", func() bool { return len(find(flat(a.chunks(t)), cluster.OpGone, "after")) > 0 })
	a.agrees(t, config)

	chunks := a.chunks(t)
	all := flat(chunks)
	keyframe := chunks[0][0].Keyframe
	system := must[*corev1.Namespace](t)(client.CoreV1().Namespaces().Get(ctx, "kube-system", metav1.GetOptions{}))
	if d := cmp.Diff(&cluster.Keyframe{
		Version: 1, Cluster: string(system.UID), Node: "worker-1", Clock: manifest.Clock{Offset: 5, Error: 7},
	}, keyframe); d != "" {
		t.Errorf("keyframe (-want +got):\n%s", d)
	}
	var counts []int
	for _, r := range find(all, cluster.OpEvent, "before.1") {
		counts = append(counts, r.Event.Count)
	}
	if d := cmp.Diff([]int{1, 2}, counts); d != "" {
		t.Errorf("counts of the event (-want +got):\n%s", d)
	}
	set := find(all, cluster.OpSet, "after")
	got := set[len(set)-1].Pod
	if d := cmp.Diff(&cluster.Pod{
		Meta: cluster.Meta{UID: string(pod.UID), Namespace: ns, Name: "after", Created: pod.CreationTimestamp.UTC(), Labels: labels, Deleted: got.Deleted},
		Node: "worker-1", Addresses: []string{"10.1.0.8"}, Phase: "Running", Started: pod.Status.StartTime.UTC(),
		Sandboxed: pod.Status.StartTime.UTC(), ServiceAccount: "web",
		Containers: []cluster.Container{
			{Name: "init", Image: "registry.example/init:1"},
			{
				Name: "main", Image: "registry.example/web:1", ImageID: "sha256:ab", ID: "containerd://cd",
				Ports: []cluster.Port{{Name: "http", Protocol: "TCP", Port: 8080}}, Restarts: 3, State: "running", Started: pod.Status.StartTime.UTC(),
				Last: &cluster.LastRun{Reason: "OOMKilled", ExitCode: 137, Finished: pod.Status.StartTime.UTC()},
			},
		},
	}, got); d != "" {
		t.Errorf("pod (-want +got):\n%s", d)
	}
	if d := cmp.Diff(&cluster.Service{
		Meta: cluster.Meta{UID: string(service.UID), Namespace: ns, Name: "svc", Created: service.CreationTimestamp.UTC()},
		Type: "NodePort", Addresses: service.Spec.ClusterIPs, External: []string{"203.0.113.9"}, Selector: labels,
		Ports: []cluster.Port{{Name: "http", Protocol: "TCP", Port: 80, Target: "http", NodePort: 30081}},
	}, find(all, cluster.OpSet, "svc")[0].Service); d != "" {
		t.Errorf("service (-want +got):\n%s", d)
	}
	slice := find(all, cluster.OpSet, "svc-x")[0].Endpoints
	if d := cmp.Diff([]cluster.Endpoint{{
		Addresses: []string{"10.1.0.8"}, Node: "worker-1", Ready: true,
		Pod: &cluster.Ref{Kind: "Pod", Namespace: ns, Name: "after", UID: string(pod.UID)},
	}}, slice.Members); d != "" || slice.Service != "svc" {
		t.Errorf("endpoints of %s (-want +got):\n%s", slice.Service, d)
	}
	workloads := map[string][2]int{}
	for _, name := range []string{"deploy", "rs", "sts", "ds", "job", "cron"} {
		if r := find(all, cluster.OpSet, name); len(r) > 0 {
			workloads[r[0].Workload.Kind] = [2]int{r[0].Workload.Replicas, r[0].Workload.Ready}
		}
	}
	if d := cmp.Diff(map[string][2]int{"Deployment": {3, 0}, "ReplicaSet": {3, 0}, "StatefulSet": {1, 0}, "DaemonSet": {}, "Job": {2, 0}, "CronJob": {}}, workloads); d != "" {
		t.Errorf("workloads (-want +got):\n%s", d)
	}
	if owner := find(all, cluster.OpSet, "rs")[0].Workload.Owner; owner == nil || owner.UID != string(deployment.UID) {
		t.Errorf("owner of the replica set is %+v", owner)
	}
	a.stop()
	noSecrets(t, a)
}

// noSecrets reads every chunk, open ones too, as the bytes they decompress to.
func noSecrets(t testing.TB, a *agent) {
	t.Helper()
	lines := 0
	for _, records := range recorded(t, a.ring, a.dir) {
		for _, r := range records {
			line, err := cluster.Append(nil, &r)
			if err != nil {
				t.Fatal(err)
			}
			lines++
			if bytes.Contains(line, []byte(secret)) {
				t.Errorf("recorded: %s", line)
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(a.dir, chunker.Kubernetes, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(secret)) {
			t.Errorf("%s holds a secret", f)
		}
	}
	if lines == 0 {
		t.Error("nothing is recorded")
	}
}

// One records at a time, and who stands by takes over at once when it is done.
func TestElection(t *testing.T) {
	config := kubetest.APIServer(t)
	ns := kubetest.Namespace(t)
	client := kubetest.Client(t)
	lease := ns + "/kubernetes"
	first := startAgent(t, config, lease, "n1")
	eventually(t, "the first records", func() bool { return len(first.chunks(t)) > 0 })
	second := startAgent(t, config, lease, "n2")
	l, err := client.CoordinationV1().Leases(ns).Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil || holderOf(l) != "n1" {
		t.Fatalf("holder %q, %v", holderOf(l), err)
	}
	if second.Recording() || len(second.chunks(t)) > 0 {
		t.Error("two record at once")
	}
	first.stop()
	firstChunks := recorded(t, first.ring, first.dir)
	eventually(t, "the second records", func() bool { return len(second.chunks(t)) > 0 })
	if first.Recording() || len(recorded(t, first.ring, first.dir)) != len(firstChunks) {
		t.Error("the first records on")
	}
	second.agrees(t, config)
	last := firstChunks[len(firstChunks)-1]
	if op := last[len(last)-1].Op; op != cluster.OpAlive {
		t.Errorf("the first one's last word was %s", op)
	}
	l, err = client.CoordinationV1().Leases(ns).Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil || holderOf(l) != "n2" || transitions(&l.Spec) == 0 {
		t.Errorf("holder %q after %d transitions, %v", holderOf(l), transitions(&l.Spec), err)
	}
}

// Whoever loses the Lease stops at once.
func TestLeaseIsTaken(t *testing.T) {
	config := kubetest.APIServer(t)
	ns := kubetest.Namespace(t)
	leases := kubetest.Client(t).CoordinationV1().Leases(ns)
	a := startAgent(t, config, ns+"/kubernetes", "n1")
	eventually(t, "it records", func() bool { return len(a.chunks(t)) > 0 })
	eventually(t, "the lease is another's", func() bool {
		l := must[*coordinationv1.Lease](t)(leases.Get(t.Context(), "kubernetes", metav1.GetOptions{}))
		l.Spec.HolderIdentity, l.Spec.RenewTime = new("n2"), new(metav1.NowMicro())
		_, err := leases.Update(t.Context(), l, metav1.UpdateOptions{})
		return err == nil
	})
	eventually(t, "it has stopped", func() bool { return !a.Recording() })
	if l := a.ring.Ledger(chunker.Kubernetes, 0, 1<<62); len(l.Coverage) != 1 {
		t.Errorf("coverage %v", l.Coverage)
	}
	// n2 never renews it.
	eventually(t, "it records again", a.Recording)
}

// While the API server is away there is a gap of just that time; what has gone
// meanwhile is gone after it.
func TestOutage(t *testing.T) {
	server := kubetest.New(t)
	config := server.Config()
	client := kubetest.ClientOf(t, config)
	ns := kubetest.NamespaceIn(t, config)
	a := startAgent(t, config, ns+"/kubernetes", "n1")
	eventually(t, "it records", func() bool { return len(a.chunks(t)) > 0 })
	for _, outage := range []struct {
		name string
		time time.Duration
	}{
		{"short", 6 * time.Second},
		{"longer than the lease", giveUpAfter + 3*time.Second},
	} {
		before := len(flat(a.chunks(t)))
		stopped := time.Now()
		server.Stop(t)
		wait(t.Context(), outage.time)
		if err := a.Cut(t.Context()); err != nil {
			t.Error(err)
		}
		server.Start(t)
		_, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "new-"}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var gaps []cluster.Record
		eventually(t, outage.name+": it records a gap", func() bool {
			gaps = find(flat(a.chunks(t))[before:], cluster.OpGap, "")
			return len(gaps) > 0
		})
		g := gaps[0]
		if from := g.Gap.From.Time(); from.Before(stopped.Add(-time.Second)) || from.After(stopped.Add(2*time.Second)) || g.Time.Time().Sub(from) < outage.time-time.Second {
			t.Errorf("%s: gap from %v to %v, stopped at %v", outage.name, from, g.Time.Time(), stopped)
		}
		l := a.ring.Ledger(chunker.Kubernetes, stopped.UnixNano(), time.Now().UnixNano())
		if !slices.ContainsFunc(l.Gaps, func(x ring.Gap) bool { return x.Reason == manifest.GapWatchLost }) {
			t.Errorf("%s: gaps of the ledger are %v", outage.name, l.Gaps)
		}
		for _, c := range l.Coverage {
			if c.From < g.Time && c.To > g.Gap.From+manifest.Nanos(2*time.Second) {
				t.Errorf("%s: coverage %v in the gap", outage.name, c)
			}
		}
		a.agrees(t, config)
	}
}

// A watch whose place the server no longer knows starts over, with a gap.
func TestExpired(t *testing.T) {
	server := kubetest.New(t)
	config := server.Config()
	ns := kubetest.NamespaceIn(t, config)
	client, err := newClient(config)
	if err != nil {
		t.Fatal(err)
	}
	must[*corev1.Service](t)(kubetest.ClientOf(t, config).CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "stays"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{}))
	server.Stop(t)
	server.Start(t) // and has forgotten what came before
	out := make(chan news)
	ctx, cancel := context.WithCancel(t.Context())
	s := &source{resource: resources()[index("services")], client: client, out: out, now: time.Now, version: "1"}
	done := make(chan struct{})
	go func() { defer close(done); s.run(ctx) }()
	var kinds []newsKind
	var names []string
	for n := range out {
		kinds = append(kinds, n.kind)
		if n.object != nil {
			names = append(names, n.object.name)
		}
		if n.kind == ended {
			break
		}
	}
	cancel()
	<-done
	if d := cmp.Diff([]newsKind{lost, began, listed, ended}, slices.Compact(kinds)); d != "" {
		t.Errorf("news (-want +got):\n%s", d)
	}
	if !slices.Contains(names, ns+"/stays") {
		t.Errorf("%q are listed", names)
	}
}

// Many objects, in pages and streamed, and as many changes.
func TestManyObjects(t *testing.T) {
	const n = 2000
	server := kubetest.New(t)
	config := server.Config()
	client := kubetest.ClientOf(t, config)
	ns := kubetest.NamespaceIn(t, config)
	ctx := t.Context()
	for i := range n {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod-%04d", i)},
			Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "main", Image: "test"}}},
		}
		must[*corev1.Pod](t)(client.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{}))
	}
	a := startAgent(t, config, ns+"/kubernetes", "n1")
	eventually(t, "it records", func() bool { return len(a.chunks(t)) > 0 })
	a.agrees(t, config)
	if err := client.CoreV1().Pods(ns).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	a.agrees(t, config)
	gone := 0
	for _, r := range flat(a.chunks(t)) {
		if r.Op == cluster.OpGone && r.Pod != nil {
			gone++
		}
	}
	if gone != n {
		t.Errorf("%d pods have gone, want %d", gone, n)
	}
	// The same, from a server that knows pages only.
	c, err := newClient(config)
	if err != nil {
		t.Fatal(err)
	}
	for i := range pageSize + 1 {
		must[*corev1.Namespace](t)(client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("many-%d", i)}}, metav1.CreateOptions{}))
	}
	out := make(chan news, 4*pageSize)
	s := &source{resource: resources()[index("namespaces")], client: c, out: out, now: time.Now, paged: true}
	w, err := s.list(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w.Stop()
	names := map[string]bool{}
	for len(out) > 0 {
		if n := <-out; n.kind == listed {
			names[n.object.name] = true
		}
	}
	if len(names) <= pageSize || !names[fmt.Sprintf("/many-%d", pageSize)] {
		t.Errorf("%d namespaces are listed", len(names))
	}
}

// Who may not see a resource records the others, and says what is missing.
func TestForbidden(t *testing.T) {
	config := kubetest.APIServer(t)
	client := kubetest.Client(t)
	ns := kubetest.Namespace(t)
	ctx, create := t.Context(), metav1.CreateOptions{}
	kubetest.ServiceAccount(t, config, ns, "agent", nil)
	var rules []rbacv1.PolicyRule
	for _, r := range resources() {
		if r.name != "cronjobs" && r.name != "endpointslices" {
			rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{"*"}, Resources: []string{r.name}, Verbs: []string{"list", "watch"}})
		}
	}
	must[*rbacv1.ClusterRole](t)(client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: ns}, Rules: rules}, create))
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: ns, Name: "agent"}}
	must[*rbacv1.ClusterRoleBinding](t)(client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: ns}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: ns}, Subjects: subjects,
	}, create))
	must[*rbacv1.Role](t)(client.RbacV1().Roles(ns).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: []string{"get", "create", "update"}},
	}}, create))
	must[*rbacv1.RoleBinding](t)(client.RbacV1().RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "agent"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "agent"}, Subjects: subjects,
	}, create))
	a := startAgent(t, kubetest.AsToken(config, kubetest.Token(t, config, ns, "agent", nil)), ns+"/kubernetes", "n1")
	eventually(t, "it records", func() bool { return len(a.chunks(t)) > 0 })
	chunks := a.chunks(t)
	missing := slices.Sorted(slices.Values(chunks[len(chunks)-1][0].Keyframe.Missing))
	if d := cmp.Diff([]string{"cronjobs", "endpointslices"}, missing); d != "" {
		t.Errorf("missing (-want +got):\n%s", d)
	}
	if len(find(flat(chunks), cluster.OpState, ns)) == 0 {
		t.Errorf("namespace %s is not recorded", ns)
	}
}

func TestParseLease(t *testing.T) {
	for s, ok := range map[string]bool{
		"monitoring/pcapsule-kubernetes": true, "pcapsule": false, "/x": false, "a/": false, "a/b/c": false, "A/b": false, "": false, strings.Repeat("a", 80) + "/b": false,
	} {
		if _, _, err := ParseLease(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}
