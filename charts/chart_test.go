package charts_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// authority is a file with a certificate, as --set-file takes it.
func authority(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(path, []byte(certificate), 0o600); err != nil {
		t.Fatal(err)
	}
	return "@" + path
}

const certificate = "-----BEGIN CERTIFICATE-----\nc3RvcmU=\n-----END CERTIFICATE-----\n"

// installations are ways to install the chart, all of which must hold what the
// tests of this file say.
func installations(t testing.TB) map[string]values {
	ca := authority(t)
	return map[string]values{
		"default":        {},
		"claim":          {"tap.snapshots.storageClass": "gp2", "tap.snapshots.storageSize": "1000Gi"},
		"claim by alias": {"tap.snapshots.local.storageClass": "gp2", "tap.snapshots.local.storageSize": "1000Gi"},
		"existing claim": {"store.existingClaim": "archive"},
		"aws": {
			"store.s3.bucket": "forensics", "store.s3.region": "eu-central-1",
			`hub.serviceAccount.annotations.eks\.amazonaws\.com/role-arn`: "arn:aws:iam::111122223333:role/pcapsule",
		},
		"minio with keys": {
			"store.s3.bucket": "forensics", "store.s3.prefix": "prod/", "store.s3.endpoint": "https://minio.minio.svc:9000",
			"store.s3.pathStyle": "true", "store.s3.ca": ca,
			"store.s3.accessKeyId": "THE-ACCESS-KEY", "store.s3.secretAccessKey": "THE-SECRET-KEY",
		},
		"minio with a secret": {
			"store.s3.bucket": "forensics", "store.s3.endpoint": "http://minio.minio.svc:9000",
			"store.s3.existingSecret": "the-store-secret", "store.s3.existingSecretKeys.accessKeyId": "rootUser",
			"store.s3.existingSecretKeys.secretAccessKey": "rootPassword", "store.s3.existingSecretKeys.sessionToken": "",
		},
		"no capture":   {"tap.capture.raw.enabled": "false"},
		"old kernels":  {"agent.oldKernel": "true", "agent.seLinuxOptions.type": "spc_t"},
		"targeting":    {"tap.regex": "^(api|web)-$(x)", "tap.namespaces": "{prod,stage}", "tap.excludedNamespaces": "{kube-system}"},
		"cert-manager": {"tls.mode": "certManager", "tls.certManager.issuerRef.name": "in-house", "tls.ca": ca},
		"own secrets":  {"tls.mode": "secret", "tls.existingSecret": "hub-cert", "tls.ca": ca, "signingKey.existingSecret": "our-key", "signingKey.existingSecretKey": "id_ed25519"},
		"everything": {
			"commonLabels.team": "sre", "fullnameOverride": "recorder", "image.digest": "sha256:" + strings.Repeat("a", 64),
			"image.pullSecrets": "{registry}", "agent.priorityClassName": "system-node-critical", "agent.chunk.size": "4Mi",
			"agent.interfaces": "{eth0,eth1}", "agent.extraArgs": "{--workers=2}", "agent.extraEnv[0].name": "GOGC", "agent.extraEnv[0].value": "off",
			"hub.extraEnv[0].name": "GOMEMLIMIT", "hub.extraEnv[0].value": "900MiB", "hub.hosts": "{hub.example.com}",
			"hub.podLabels.zone": "a", "agent.podAnnotations.note": "b", "hub.tolerations[0].operator": "Exists",
			"metrics.serviceMonitor.enabled": "true", "metrics.serviceMonitor.labels.release": "prometheus", "metrics.dashboard.enabled": "true",
			"access.viewers[0].kind": "Group", "access.viewers[0].name": "developers",
			"access.operators[0].kind": "ServiceAccount", "access.operators[0].name": "bot", "access.operators[0].namespace": "ci",
			"networkPolicy.ingressFrom[0].ipBlock.cidr": "10.0.0.0/8", "networkPolicy.egress[0].ports[0].port": "443",
			"podDisruptionBudget.maxUnavailable": "0",
		},
	}
}

// each runs a test on the chart as every installation renders it.
func each(t *testing.T, test func(t *testing.T, v values, all objects)) {
	for name, v := range installations(t) {
		t.Run(name, func(t *testing.T) { test(t, v, render(t, v)) })
	}
}

// pod is what a workload or a hook runs.
type pod struct {
	name   string
	labels map[string]string
	spec   corev1.PodSpec
}

// pods are all that run, each with one container.
func pods(all objects) (found []pod) {
	for _, o := range all {
		switch w := o.typed.(type) {
		case *appsv1.Deployment:
			found = append(found, pod{w.Name, w.Spec.Template.Labels, w.Spec.Template.Spec})
		case *appsv1.DaemonSet:
			found = append(found, pod{w.Name, w.Spec.Template.Labels, w.Spec.Template.Spec})
		case *corev1.Pod:
			found = append(found, pod{w.Name, w.Labels, w.Spec})
		}
	}
	return found
}

func TestLint(t *testing.T) {
	for name, v := range installations(t) {
		t.Run(name, func(t *testing.T) {
			if out, err := helm(t, os.DevNull, append([]string{"lint", chart, "--strict", "--kube-version", kubeVersion}, v.args()...)...); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func TestSecurity(t *testing.T) {
	each(t, func(t *testing.T, v values, all objects) {
		for _, p := range pods(all) {
			if n := len(p.spec.Containers) + len(p.spec.InitContainers) + len(p.spec.EphemeralContainers); n != 1 {
				t.Fatalf("%s has %d containers, and this test knows one", p.name, n)
			}
			if p.spec.HostPID || p.spec.HostIPC {
				t.Errorf("%s shares the host's processes", p.name)
			}
			if s := p.spec.SecurityContext.SeccompProfile; s == nil || s.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Errorf("%s: seccomp profile %v, want RuntimeDefault", p.name, s)
			}
			c := p.spec.Containers[0].SecurityContext
			if c.Privileged != nil && *c.Privileged || c.AllowPrivilegeEscalation == nil || *c.AllowPrivilegeEscalation || c.ReadOnlyRootFilesystem == nil || !*c.ReadOnlyRootFilesystem {
				t.Errorf("%s is not as unprivileged as it should be: %+v", p.name, c)
			}
			if diff := cmp.Diff([]corev1.Capability{"ALL"}, c.Capabilities.Drop); diff != "" {
				t.Errorf("%s: capabilities that it drops (-want +got):\n%s", p.name, diff)
			}
			agent := strings.HasSuffix(p.name, "-agent")
			var want []corev1.Capability
			switch {
			case agent && v["agent.oldKernel"] == "true":
				want = []corev1.Capability{"NET_RAW", "SYS_ADMIN", "SYS_RESOURCE"}
			case agent:
				want = []corev1.Capability{"NET_RAW", "BPF"}
			}
			if diff := cmp.Diff(want, c.Capabilities.Add); diff != "" {
				t.Errorf("%s: capabilities that it has (-want +got):\n%s", p.name, diff)
			}
			if p.spec.HostNetwork != agent {
				t.Errorf("%s: host network is %v", p.name, p.spec.HostNetwork)
			}
			if agent {
				checkAgentVolumes(t, p.spec)
				continue
			}
			if s := p.spec.SecurityContext; s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser == 0 {
				t.Errorf("%s may run as root", p.name)
			}
			for _, vol := range p.spec.Volumes {
				if vol.HostPath != nil {
					t.Errorf("%s mounts %s of its node", p.name, vol.HostPath.Path)
				}
			}
		}
	})
}

// checkAgentVolumes asserts that an agent sees its ring, an authority and two
// tokens, and nothing else.
func checkAgentVolumes(t *testing.T, spec corev1.PodSpec) {
	t.Helper()
	var got []string
	for _, v := range spec.Volumes {
		switch {
		case v.HostPath != nil:
			got = append(got, "host "+v.HostPath.Path)
		case v.ConfigMap != nil:
			got = append(got, "config map "+v.ConfigMap.Name)
		case v.Projected != nil && len(v.Projected.Sources) == 1 && v.Projected.Sources[0].ServiceAccountToken != nil:
			token := v.Projected.Sources[0].ServiceAccountToken
			got = append(got, "token for "+token.Audience)
			if seconds := *token.ExpirationSeconds; seconds > 3600 {
				t.Errorf("the agent's token lives %d s", seconds)
			}
		default:
			t.Errorf("the agent mounts %+v", v)
		}
	}
	prefix := strings.TrimSuffix(spec.ServiceAccountName, "-agent")
	want := []string{"host /var/lib/pcapsule", "config map " + prefix + "-agent-ca", "token for pcapsule"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("volumes of the agent (-want +got):\n%s", diff)
	}
}

// No node gets storage credentials: whatever an agent's pod refers to, neither
// the Secret nor the keys nor any Secret at all is in it, and no node can read a
// Secret in its agent's name.
func TestAgentsHoldNoStorageCredentials(t *testing.T) {
	each(t, func(t *testing.T, v values, all objects) {
		for _, o := range all {
			switch typed := o.typed.(type) {
			case *appsv1.DaemonSet:
				pod, err := json.Marshal(typed.Spec.Template)
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range []string{"AWS_", "S3", "s3:", "forensics", "the-store-secret", "THE-ACCESS-KEY", "THE-SECRET-KEY", "rootUser", "secretKeyRef", "secretRef", "secretName", "envFrom", "-store"} {
					if strings.Contains(string(pod), s) {
						t.Errorf("%q stands in the pod of agents: %s", s, pod)
					}
				}
			case *rbacv1.ClusterRole:
				noSecrets(t, typed.Name, typed.Rules)
			case *rbacv1.Role:
				noSecrets(t, typed.Name, typed.Rules)
			case *corev1.ConfigMap:
				for k, s := range typed.Data {
					if strings.Contains(s, "THE-") || strings.Contains(s, "PRIVATE KEY") {
						t.Errorf("a secret stands in config map %s, %s", typed.Name, k)
					}
				}
			}
		}
	})
}

func noSecrets(t *testing.T, role string, rules []rbacv1.PolicyRule) {
	t.Helper()
	for _, r := range rules {
		for _, resource := range r.Resources {
			if resource == "secrets" || resource == "*" || resource == "configmaps" && len(r.ResourceNames) == 0 {
				t.Errorf("role %s reaches %s", role, resource)
			}
		}
		if slices.Contains(r.Verbs, "*") || slices.Contains(r.APIGroups, "*") {
			t.Errorf("role %s has a wildcard: %v", role, r)
		}
	}
}

// Selectors match the pods that they are for, and no other pod of the chart.
func TestSelectors(t *testing.T) {
	each(t, func(t *testing.T, v values, all objects) {
		running := pods(all)
		check := func(what string, selector map[string]string, want string) {
			t.Helper()
			var got []string
			for _, p := range running {
				if labels.SelectorFromSet(selector).Matches(labels.Set(p.labels)) {
					got = append(got, p.name)
				}
			}
			if diff := cmp.Diff([]string{want}, got); diff != "" {
				t.Errorf("%s selects (-want +got):\n%s", what, diff)
			}
		}
		services := 0
		for _, o := range all {
			switch typed := o.typed.(type) {
			case *appsv1.Deployment:
				check("deployment", typed.Spec.Selector.MatchLabels, typed.Name)
			case *appsv1.DaemonSet:
				check("daemon set", typed.Spec.Selector.MatchLabels, typed.Name)
			case *corev1.Service:
				check("service", typed.Spec.Selector, typed.Name)
				services++
				// By these the commands find the hub.
				if typed.Labels["app.kubernetes.io/name"] != "pcapsule" || typed.Labels["app.kubernetes.io/component"] != "hub" {
					t.Errorf("labels of the service are %v", typed.Labels)
				}
			case *policyv1.PodDisruptionBudget:
				check("disruption budget", typed.Spec.Selector.MatchLabels, typed.Name)
			case *networkingv1.NetworkPolicy:
				check("network policy", typed.Spec.PodSelector.MatchLabels, typed.Name)
			}
			if o.GetNamespace() != "pcapsule" && !strings.HasPrefix(o.GetKind(), "Cluster") {
				t.Errorf("%s %s is in namespace %q", o.GetKind(), o.GetName(), o.GetNamespace())
			}
			if want := v["commonLabels.team"]; o.GetLabels()["team"] != want {
				t.Errorf("%s %s has not the common labels", o.GetKind(), o.GetName())
			}
		}
		if services != 1 {
			t.Errorf("%d services: agents listen on no port", services)
		}
	})
}

// Names are unique: the chart may be installed twice in a cluster.
func TestTwoReleases(t *testing.T) {
	seen := map[string]bool{}
	for _, namespace := range []string{"pcapsule", "other"} {
		out, err := helm(t, os.DevNull, "template", "pcapsule", chart, "--namespace", namespace, "--kube-version", kubeVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range decode(t, out) {
			key := fmt.Sprint(o.GetKind(), "/", o.GetNamespace(), "/", o.GetName())
			if seen[key] {
				t.Errorf("%s is there twice", key)
			}
			seen[key] = true
		}
	}
}

// What the names of Kubeshark's values mean, and where the archive is.
func TestArchive(t *testing.T) {
	claims := schema.GroupKind{Kind: "PersistentVolumeClaim"}
	for _, tc := range []struct {
		name        string
		v           values
		claim, size string // of a claim that the chart makes
		volume      string
		args        []string // of the hub, beside those that it always has
	}{
		{"default", values{}, "", "", "emptyDir 20Gi", nil},
		{"size", values{"tap.snapshots.local.storageSize": "5Gi"}, "", "", "emptyDir 5Gi", nil},
		{"class", values{"tap.snapshots.storageClass": "gp2"}, "gp2", "20Gi", "claim pcapsule-snapshots", nil},
		{"class and size", values{"tap.snapshots.storageClass": "gp2", "tap.snapshots.storageSize": "1000Gi"}, "gp2", "1000Gi", "claim pcapsule-snapshots", nil},
		{"aliases", values{"tap.snapshots.local.storageClass": "gp2", "tap.snapshots.local.storageSize": "1000Gi"}, "gp2", "1000Gi", "claim pcapsule-snapshots", nil},
		{"mixed", values{"tap.snapshots.local.storageClass": "gp2", "tap.snapshots.storageSize": "1000Gi"}, "gp2", "1000Gi", "claim pcapsule-snapshots", nil},
		{"both alike", values{"tap.snapshots.storageClass": "gp2", "tap.snapshots.local.storageClass": "gp2"}, "gp2", "20Gi", "claim pcapsule-snapshots", nil},
		{"existing", values{"store.existingClaim": "archive"}, "", "", "claim archive", nil},
		{"bucket", values{"store.s3.bucket": "forensics"}, "", "", "emptyDir 0", []string{"--store=s3://forensics"}},
		{"prefix", values{"store.s3.bucket": "forensics", "store.s3.prefix": "/a/b/"}, "", "", "emptyDir 0", []string{"--store=s3://forensics/a/b"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			all := render(t, tc.v)
			if tc.claim == "" {
				if names := all.names(claims); names != nil {
					t.Errorf("claims %v were made", names)
				}
			} else {
				claim := find[*corev1.PersistentVolumeClaim](t, all, "pcapsule-snapshots")
				if got := *claim.Spec.StorageClassName; got != tc.claim {
					t.Errorf("class %s, want %s", got, tc.claim)
				}
				if got := claim.Spec.Resources.Requests.Storage().String(); got != tc.size {
					t.Errorf("size %s, want %s", got, tc.size)
				}
				if got := claim.Annotations["helm.sh/resource-policy"]; got != "keep" {
					t.Errorf("policy %q: uninstalling would delete the archive", got)
				}
			}
			hub := find[*appsv1.Deployment](t, all, "pcapsule-hub")
			if hub.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType || *hub.Spec.Replicas != 1 {
				t.Errorf("%d hubs, replaced by %s: two cannot have one volume", *hub.Spec.Replicas, hub.Spec.Strategy.Type)
			}
			var volume string
			switch data := hub.Spec.Template.Spec.Volumes[0]; {
			case data.EmptyDir != nil && data.EmptyDir.SizeLimit == nil:
				volume = "emptyDir 0"
			case data.EmptyDir != nil:
				volume = "emptyDir " + data.EmptyDir.SizeLimit.String()
			case data.PersistentVolumeClaim != nil:
				volume = "claim " + data.PersistentVolumeClaim.ClaimName
			}
			if volume != tc.volume {
				t.Errorf("volume %s, want %s", volume, tc.volume)
			}
			var args []string
			for _, a := range hub.Spec.Template.Spec.Containers[0].Args {
				if strings.HasPrefix(a, "--store") {
					args = append(args, a)
				}
			}
			if diff := cmp.Diff(tc.args, args); diff != "" {
				t.Errorf("arguments (-want +got):\n%s", diff)
			}
		})
	}
}

// The hub's environment is what S3 users know.
func TestBucketEnvironment(t *testing.T) {
	all := installations(t)
	for name, want := range map[string]map[string]string{
		"default": {},
		"aws":     {"AWS_REGION": "eu-central-1"},
		"minio with keys": {
			"AWS_ENDPOINT_URL": "https://minio.minio.svc:9000", "PCAPSULE_S3_PATH_STYLE": "true", "AWS_CA_BUNDLE": "/etc/pcapsule/store/ca.crt",
			"AWS_ACCESS_KEY_ID": "pcapsule-store AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY": "pcapsule-store AWS_SECRET_ACCESS_KEY",
		},
		"minio with a secret": {
			"AWS_ENDPOINT_URL":  "http://minio.minio.svc:9000",
			"AWS_ACCESS_KEY_ID": "the-store-secret rootUser", "AWS_SECRET_ACCESS_KEY": "the-store-secret rootPassword",
		},
	} {
		t.Run(name, func(t *testing.T) {
			hub := find[*appsv1.Deployment](t, render(t, all[name]), "pcapsule-hub")
			got := map[string]string{}
			for _, e := range hub.Spec.Template.Spec.Containers[0].Env {
				got[e.Name] = e.Value
				if e.ValueFrom != nil {
					got[e.Name] = e.ValueFrom.SecretKeyRef.Name + " " + e.ValueFrom.SecretKeyRef.Key
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("environment (-want +got):\n%s", diff)
			}
		})
	}
}

// Agents trust the hub's authority and that of the store they upload to.
func TestAuthorities(t *testing.T) {
	all := render(t, installations(t)["minio with keys"])
	hub := strings.TrimSpace(find[*corev1.ConfigMap](t, all, "pcapsule-hub-ca").Data["ca.crt"])
	agent := strings.TrimSpace(find[*corev1.ConfigMap](t, all, "pcapsule-agent-ca").Data["ca.crt"])
	store := strings.TrimSpace(find[*corev1.ConfigMap](t, all, "pcapsule-store-ca").Data["ca.crt"])
	if agent != hub+"\n"+store || !strings.Contains(store, "c3RvcmU=") {
		t.Errorf("agents trust\n%s\nwant\n%s\n%s", agent, hub, store)
	}
	// The authority's key is in no pod.
	for _, v := range find[*appsv1.Deployment](t, all, "pcapsule-hub").Spec.Template.Spec.Volumes {
		if v.Secret == nil || v.Secret.SecretName != "pcapsule-hub-tls" {
			continue
		}
		want := []corev1.KeyToPath{{Key: "tls.crt", Path: "tls.crt"}, {Key: "tls.key", Path: "tls.key"}}
		if diff := cmp.Diff(want, v.Secret.Items); diff != "" {
			t.Errorf("what the hub sees of its Secret (-want +got):\n%s", diff)
		}
	}
	secret := find[*corev1.Secret](t, all, "pcapsule-hub-tls")
	if got := string(secret.Data["ca.crt"]); strings.TrimSpace(got) != hub {
		t.Errorf("the authority in the Secret is another one:\n%s\nwant\n%s", got, hub)
	}
}

func TestNoCapture(t *testing.T) {
	all := render(t, values{"tap.capture.raw.enabled": "false"})
	for _, o := range all {
		if strings.Contains(o.GetName(), "agent") {
			t.Errorf("%s %s was rendered", o.GetKind(), o.GetName())
		}
	}
	find[*appsv1.Deployment](t, all, "pcapsule-hub") // serves the archive
}

func TestAgentArguments(t *testing.T) {
	base := []string{
		"agent", "--hub=https://pcapsule-hub.pcapsule.svc:8898", "--hub-ca=/etc/pcapsule/hub/ca.crt",
		"--hub-token-file=/var/run/secrets/pcapsule/token", "--node=$(NODE_NAME)", "--data-dir=/var/lib/pcapsule",
	}
	const owner = "--ring-owner=pcapsule/pcapsule"
	lease := []string{"--kubernetes", "--lease=pcapsule/pcapsule-kubernetes"}
	for _, tc := range []struct {
		name string
		v    values
		want []string
	}{
		{"default", values{}, slices.Concat(base, []string{"--ring-size=1Gi", owner, "--chunk-age=60s"}, lease, []string{"--log-level=info"})},
		{
			"ring", values{"tap.capture.raw.storageSize": "500Mi", "agent.chunk.age": "30s", "agent.chunk.size": "4Mi"},
			slices.Concat(base, []string{"--ring-size=500Mi", owner, "--chunk-age=30s", "--chunk-size=4Mi"}, lease, []string{"--log-level=info"}),
		},
		{
			"taking over", values{"agent.ring.takeOver": "true"},
			slices.Concat(base, []string{"--ring-size=1Gi", owner, "--take-over-ring", "--chunk-age=60s"}, lease, []string{"--log-level=info"}),
		},
		{
			"fair", values{"agent.ring.fair": "25%", "agent.ring.depthWarn": "10m"},
			slices.Concat(base, []string{"--ring-size=1Gi", owner, "--fair=25%", "--ring-depth-warn=10m", "--chunk-age=60s"}, lease, []string{"--log-level=info"}),
		},
		{
			// Kubernetes would replace $(x) by nothing that the user wants.
			"targeting", installations(t)["targeting"],
			slices.Concat(base, []string{"--ring-size=1Gi", owner, "--chunk-age=60s"}, lease, []string{
				"--pod-regex=^(api|web)-$$(x)", "--pod-namespaces=prod", "--pod-namespaces=stage", "--exclude-namespaces=kube-system", "--log-level=info",
			}),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			agent := find[*appsv1.DaemonSet](t, render(t, tc.v), "pcapsule-agent")
			if diff := cmp.Diff(tc.want, agent.Spec.Template.Spec.Containers[0].Args); diff != "" {
				t.Errorf("arguments (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]corev1.Toleration{{Operator: corev1.TolerationOpExists}}, agent.Spec.Template.Spec.Tolerations); diff != "" {
				t.Errorf("tolerations (-want +got):\n%s", diff)
			}
		})
	}
}

// An agent is ready when it records, and an upgrade goes on to the next node when
// the new agent has done so for a while. Nothing restarts one that does not.
func TestReadiness(t *testing.T) {
	agent := find[*appsv1.DaemonSet](t, render(t, nil), "pcapsule-agent")
	c := agent.Spec.Template.Spec.Containers[0]
	if c.ReadinessProbe == nil || c.ReadinessProbe.Exec == nil {
		t.Fatalf("readiness probe %+v", c.ReadinessProbe)
	}
	want := []string{"/usr/local/bin/pcapsule", "agent-ready"}
	for _, arg := range c.Args { // it looks where the agent keeps its ring
		if strings.HasPrefix(arg, "--data-dir=") {
			want = append(want, arg)
		}
	}
	if diff := cmp.Diff(want, c.ReadinessProbe.Exec.Command); diff != "" {
		t.Errorf("probe (-want +got):\n%s", diff)
	}
	if c.LivenessProbe != nil || c.StartupProbe != nil {
		t.Error("something ends an agent that does not record")
	}
	if n, period := agent.Spec.MinReadySeconds, c.ReadinessProbe.PeriodSeconds*c.ReadinessProbe.FailureThreshold; n < 10 || period > 30 {
		t.Errorf("%d s of recording are enough, and a failure shows after %d s", n, period)
	}
	agent = find[*appsv1.DaemonSet](t, render(t, values{"agent.minReadySeconds": "60"}), "pcapsule-agent")
	if n := agent.Spec.MinReadySeconds; n != 60 {
		t.Errorf("minReadySeconds is %d, want 60", n)
	}
}

// Upgrades of the chart alone restart nothing: each restart is a gap.
func TestVersionRestartsNothing(t *testing.T) {
	for _, p := range pods(render(t, values{"image.tag": "1.2.3"})) {
		if p.name != "pcapsule-test" && (p.labels["helm.sh/chart"] != "" || p.labels["app.kubernetes.io/version"] != "") {
			t.Errorf("a version is in the labels of the pods of %s: %v", p.name, p.labels)
		}
	}
}

func TestImage(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for _, tc := range []struct {
		v    values
		want string
	}{
		{values{}, "pcapsule:0.1.0"},
		{values{"image.repository": "registry.example.com/tools/pcapsule", "image.tag": "dev"}, "registry.example.com/tools/pcapsule:dev"},
		{values{"image.tag": "dev", "image.digest": digest}, "pcapsule@" + digest},
	} {
		for _, p := range pods(render(t, tc.v)) {
			if got := p.spec.Containers[0].Image; got != tc.want {
				t.Errorf("%s runs %s, want %s", p.name, got, tc.want)
			}
		}
	}
}

// Each metric of the dashboard is one that the hub has.
func TestDashboard(t *testing.T) {
	all := render(t, values{"metrics.dashboard.enabled": "true"})
	dashboard := find[*corev1.ConfigMap](t, all, "pcapsule-dashboard")
	if dashboard.Labels["grafana_dashboard"] != "1" {
		t.Errorf("Grafana's sidecar does not find labels %v", dashboard.Labels)
	}
	if !json.Valid([]byte(dashboard.Data["pcapsule.json"])) {
		t.Fatal("the dashboard is not JSON")
	}
	source, err := os.ReadFile("../hub/metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{}
	for _, m := range regexp.MustCompile(`"(pcapsule_[a-z_]+)"`).FindAllStringSubmatch(string(source), -1) {
		has[m[1]] = true
	}
	shown := map[string]bool{}
	for _, name := range regexp.MustCompile(`pcapsule_[a-z_]+`).FindAllString(dashboard.Data["pcapsule.json"], -1) {
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			if n := strings.TrimSuffix(name, suffix); has[n] {
				name = n
			}
		}
		if !has[name] {
			t.Errorf("the hub has no metric %s", name)
		}
		shown[name] = true
	}
	for name := range maps.Keys(has) {
		if !shown[name] {
			t.Errorf("metric %s of the hub is on no panel", name)
		}
	}
}

func TestServiceMonitor(t *testing.T) {
	for _, o := range render(t, values{"metrics.serviceMonitor.enabled": "true"}) {
		if o.GetKind() != "ServiceMonitor" {
			continue
		}
		endpoints, _, err := unstructured.NestedSlice(o.Object, "spec", "endpoints")
		if err != nil || len(endpoints) != 1 {
			t.Fatalf("endpoints %v, %v", endpoints, err)
		}
		want := map[string]any{
			"port": "https", "scheme": "https", "path": "/metrics", "interval": "30s", "honorLabels": true,
			"tlsConfig": map[string]any{
				"serverName": "pcapsule-hub.pcapsule.svc",
				"ca":         map[string]any{"configMap": map[string]any{"name": "pcapsule-hub-ca", "key": "ca.crt"}},
			},
		}
		if diff := cmp.Diff(want, endpoints[0]); diff != "" {
			t.Errorf("endpoint (-want +got):\n%s", diff)
		}
		return
	}
	t.Error("no ServiceMonitor was rendered")
}

func TestNetworkPolicy(t *testing.T) {
	policy := find[*networkingv1.NetworkPolicy](t, render(t, values{}), "pcapsule-hub")
	if diff := cmp.Diff([]networkingv1.PolicyType{"Ingress"}, policy.Spec.PolicyTypes); diff != "" {
		t.Errorf("types (-want +got):\n%s", diff)
	}
	policy = find[*networkingv1.NetworkPolicy](t, render(t, values{"networkPolicy.egress[0].ports[0].port": "443", "networkPolicy.ingressFrom[0].ipBlock.cidr": "10.0.0.0/8"}), "pcapsule-hub")
	if diff := cmp.Diff([]networkingv1.PolicyType{"Ingress", "Egress"}, policy.Spec.PolicyTypes); diff != "" {
		t.Errorf("types (-want +got):\n%s", diff)
	}
	if len(policy.Spec.Ingress) != 1 || len(policy.Spec.Ingress[0].From) != 1 || len(policy.Spec.Egress) != 1 {
		t.Errorf("policy %+v", policy.Spec)
	}
}
