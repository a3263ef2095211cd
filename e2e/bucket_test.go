//go:build e2e && linux

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pcapsule/e2e/testbed"
	"pcapsule/manifest"
)

// TestBucket is the main job with an archive in a bucket, then what may go wrong.
func TestBucket(t *testing.T) {
	emptyBucket(t)
	openShop(t)
	me := newLaptop(t)
	r := newRelease("pcapsule", "pcapsule", bucketValues())
	step(t, "helm install")
	r.install(t)

	for _, s := range []struct {
		name string
		run  func(*testing.T, *release, *laptop)
	}{
		{"agents have no storage credentials", noCredentialsOnNodes},
		{"all nodes", allNodes},
		{"one node", oneNode},
		{"events in the timeline", events},
		{"an address used again", addressReused},
		{"chosen pods alone", chosenPods},
		{"who may do what", roles},
		{"tokens of others", tokensOfOthers},
		{"an agent killed while it captures", agentKilledCapturing},
		{"an agent killed while it uploads", agentKilledUploading},
		{"the hub killed during a session", hubKilled},
		{"a node cut off from the hub", nodeCutOff},
		{"wrong storage credentials", wrongCredentials},
		{"a hub with another key", anotherKey},
		// After what changes Secrets: kubelets that have lost the API server go on
		// for a while with those they know.
		{"the API server down", apiServerDown},
		{"uninstall leaves the archive", uninstallBucket},
	} {
		if ok := t.Run(s.name, func(t *testing.T) { s.run(t, r, me) }); !ok {
			r.collect(s.name)
		}
	}
}

// emptyBucket removes what an earlier run in the same cluster left.
func emptyBucket(t *testing.T) {
	t.Helper()
	s3, err := cluster.S3Client()
	if err != nil {
		t.Fatal(err)
	}
	if err := testbed.EmptyBucket(t.Context(), s3); err != nil {
		t.Fatal(err)
	}
}

// noCredentialsOnNodes looks for the bucket's secret key in everything that the
// agents' pods have, and asks whether they could get it.
func noCredentialsOnNodes(t *testing.T, r *release, _ *laptop) {
	hubNode := r.hub(t).Spec.NodeName
	for _, pod := range r.pods(t, "agent") {
		for _, volume := range pod.Spec.Volumes {
			if volume.Secret != nil {
				t.Errorf("%s mounts secret %s", pod.Name, volume.Secret.SecretName)
			}
		}
		dir := filepath.Join("/var/lib/kubelet/pods", string(pod.UID))
		out, err := cluster.OnNode(t.Context(), pod.Spec.NodeName, "sh", "-c",
			`grep -rl -- "$1" "$2" /var/lib/pcapsule || [ $? -eq 1 ]`, "sh", testbed.S3SecretKey, dir)
		if err != nil {
			t.Fatal(err)
		}
		if out != "" {
			t.Errorf("%s has the secret key in %s", pod.Name, out)
		}
		env, err := cluster.ContainerEnvironment(&pod, "agent")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(env, testbed.S3SecretKey) || strings.Contains(env, "AWS_") {
			t.Errorf("%s has storage settings in its environment", pod.Name)
		}
	}
	// The hub's container is where it has to be, so that the search above means something.
	env, err := cluster.ContainerEnvironment(r.hub(t), "hub")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(env, testbed.S3SecretKey) {
		t.Errorf("the hub on %s has no secret key in its environment: the search finds nothing", hubNode)
	}
	for _, verb := range []string{"get", "list", "watch"} {
		review, err := client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{
				User:   "system:serviceaccount:" + r.namespace + ":" + r.name + "-agent",
				Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + r.namespace, "system:authenticated"},
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Namespace: r.namespace, Verb: verb, Resource: "secrets", Name: r.name + "-store",
				},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if review.Status.Allowed {
			t.Errorf("agents may %s the Secret with the credentials: %s", verb, review.Status.Reason)
		}
	}
}

func allNodes(t *testing.T, r *release, me *laptop) {
	from := traffic(t, 5)
	step(t, "snapshot of all nodes")
	s := me.create(t, fine, "all", from)
	if !slices.Equal(s.Nodes, cluster.Nodes) {
		t.Errorf("nodes %v, want %v", s.Nodes, cluster.Nodes)
	}
	if s.Status != manifest.Completed || s.Records == 0 {
		t.Errorf("status %s with %d packets", s.Status, s.Records)
	}
	m := me.manifest(t, "all")
	if len(m.Streams) != 1 || m.Streams[0].Stream != "kubernetes" || m.Streams[0].Records == 0 {
		t.Errorf("streams of the cluster: %+v, want kubernetes", m.Streams)
	}
	me.want(t, fine, "verify", "all")

	step(t, "export")
	near, far, web := awaitPod(t, "shop", "near"), awaitPod(t, "shop", "far"), awaitPod(t, "shop", "web")
	file := me.export(t, "all")
	wantPackets(t, file, "HTTP within a node", "http.request.uri contains asked-by-near && ip.src == "+near.Status.PodIP)
	wantPackets(t, file, "HTTP across nodes", "http.request.uri contains asked-by-far && ip.dst == "+web.Status.PodIP)
	wantPackets(t, file, "DNS", `dns.qry.name == "web.shop.svc.cluster.local" && ip.src == `+far.Status.PodIP)
	wantPackets(t, file, "a comment with the pod's name", `frame.comment contains "shop/far" && ip.addr == `+far.Status.PodIP)
	wantNone(t, file, "a comment with the name of another pod",
		`frame.comment contains "shop/far" && !(ip.addr == `+far.Status.PodIP+` || arp)`)
	resolved := strings.Join(tshark(t, file, "-N", "n", "-q", "-z", "hosts"), "\n")
	for _, pod := range []*corev1.Pod{near, far, web} {
		if !hasName(resolved, pod.Status.PodIP, pod.Name) {
			t.Errorf("%s has no name like %s in Wireshark:\n%s", pod.Status.PodIP, pod.Name, resolved)
		}
	}

	step(t, "each packet where it leaves and where it arrives")
	// Of a request within the node there are two records, across nodes as well: one
	// at each pod. The bridges and links between show none.
	for _, uri := range []string{"/asked-by-near", "/asked-by-far"} {
		wantTwice(t, file, uri)
	}

	step(t, "a pod, a service, a namespace")
	only := me.export(t, "all", "--pod", "shop/far")
	wantPackets(t, only, "packets of shop/far", "ip.addr == "+far.Status.PodIP)
	wantNone(t, only, "packets of others in an export of shop/far", "ip && !(ip.addr == "+far.Status.PodIP+")")
	service := me.export(t, "all", "--service", "shop/web")
	wantPackets(t, service, "packets of service web", "http.request.uri contains asked-by-far")
	namespace := me.export(t, "all", "--namespace", "shop")
	wantPackets(t, namespace, "packets of namespace shop", "http.request.uri contains asked-by-near")
	plain := me.export(t, "all", "--plain")
	wantNone(t, plain, "comments in a plain export", `frame.comment contains "shop/"`)
}

func oneNode(t *testing.T, r *release, me *laptop) {
	from := traffic(t, 3)
	s := me.create(t, fine, "one", from, "--node", "node-2")
	if !slices.Equal(s.Nodes, []string{"node-2"}) {
		t.Errorf("nodes %v, want node-2 alone", s.Nodes)
	}
	m := me.manifest(t, "one")
	if len(m.Streams) != 1 {
		t.Errorf("%d streams of the cluster, want kubernetes, whichever node recorded it", len(m.Streams))
	}
	file := me.export(t, "one")
	wantPackets(t, file, "what passes node-2", "http.request.uri contains asked-by-far")
	wantNone(t, file, "what stays within node-1", "http.request.uri contains asked-by-near")
}

// chosenPods records pods by their names, one that starts later among them.
func chosenPods(t *testing.T, r *release, me *laptop) {
	r.upgrade(t, values{"tap.regex": "^(far|late)$"})
	defer r.upgrade(t, nil)
	from := traffic(t, 3)
	startAsker(t, "late")
	times := answered(t, "shop", "late", from)
	traffic(t, 2)
	me.create(t, fine, "chosen", from)
	file := me.export(t, "chosen")
	wantPackets(t, file, "a chosen pod", "http.request.uri contains asked-by-far")
	wantNone(t, file, "a pod that was not chosen", "http.request.uri contains asked-by-near")
	// The first request may be from before the agent knew of the pod.
	rows := tshark(t, file, "-Y", "http.request.uri contains late", "-T", "fields", "-e", "frame.time_epoch")
	if len(rows) == 0 {
		t.Fatal("no packets of a pod that started later")
	}
	first, err := strconv.ParseFloat(rows[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	if late := time.UnixMilli(int64(first * 1e3)).Sub(times[0]); late > 2*time.Second {
		t.Errorf("packets of a new pod are recorded from %s after its first on, want at most 2 s", late)
	}
	deletePod(t, "shop", "late")
}

const exhausted = `
apiVersion: v1
kind: Pod
metadata: {name: hungry, namespace: shop}
spec:
  nodeSelector: {kubernetes.io/hostname: node-2} # by way of the scheduler, which tells of it
  containers: [{name: main, image: "$IMAGE", imagePullPolicy: Never, args: [oom], resources: {limits: {memory: 32Mi}}}]
`

// events runs a pod out of memory and looks for what Kubernetes says of it among
// the packets.
func events(t *testing.T, r *release, me *laptop) {
	from := time.Now()
	apply(t, exhausted)
	await(t, time.Minute, func() error {
		list, err := client.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{
			FieldSelector: "involvedObject.name=hungry,reason=BackOff",
		})
		if err == nil && len(list.Items) == 0 {
			err = errors.New("the kubelet has not backed off from shop/hungry")
		}
		return err
	})
	traffic(t, 2)
	me.create(t, fine, "events", from)
	file := me.export(t, "events")
	rows := tshark(t, file, "-Y", "systemd_journal", "-T", "fields", "-e", "frame.time_epoch", "-e", "systemd_journal.message")
	text := strings.Join(rows, "\n")
	for _, want := range []string{"Scheduled", "Pulled", "BackOff", "OOMKilled"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s of shop/hungry in the timeline:\n%s", want, text)
		}
	}
	// tshark keeps the order of the file: packets and events are one timeline.
	times := tshark(t, file, "-T", "fields", "-e", "frame.time_epoch")
	if !slices.IsSorted(times) {
		t.Error("events and packets are not in order of time")
	}
	listed := me.want(t, fine, "snapshot", "events", "events").stdout
	if !strings.Contains(listed, "hungry") {
		t.Errorf("`snapshot events` does not tell of shop/hungry:\n%s", listed)
	}
	if err := client.CoreV1().Pods("shop").Delete(t.Context(), "hungry", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

// uninstallBucket removes the release, and reads the archive from outside.
func uninstallBucket(t *testing.T, r *release, me *laptop) {
	r.uninstall(t)
	outside := &laptop{home: me.home, kubeconfig: os.DevNull, env: []string{
		"AWS_ENDPOINT_URL=http://" + cluster.S3, "AWS_REGION=us-east-1",
		"AWS_ACCESS_KEY_ID=" + testbed.S3AccessKey, "AWS_SECRET_ACCESS_KEY=" + testbed.S3SecretKey,
	}}
	location := "s3://" + testbed.S3Bucket
	outside.want(t, fine, "verify", location)
	list := outside.want(t, fine, "snapshot", "list", "--store", location).stdout
	for _, name := range []string{"all", "one", "events"} {
		if !strings.Contains(list, name) {
			t.Errorf("snapshot %s is gone:\n%s", name, list)
		}
	}
	file := outside.export(t, "all", "--store", location)
	wantPackets(t, file, "the packets", "http.request.uri contains asked-by-near")
	wantPackets(t, file, "their pods' names", `frame.comment contains "shop/near"`)
}
