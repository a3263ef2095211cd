package charts_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"pcapsule/internal/kubetest"
	"pcapsule/manifest"
)

// A cluster is a namespace of a real API server, for one test.
type cluster struct {
	t          *testing.T
	client     *kubernetes.Clientset
	kubeconfig string
	namespace  string
}

func newCluster(t *testing.T) *cluster {
	config := kubetest.APIServer(t)
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters["test"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	kubeconfig.AuthInfos["test"] = &clientcmdapi.AuthInfo{ClientCertificateData: config.CertData, ClientKeyData: config.KeyData}
	kubeconfig.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "test"}
	kubeconfig.CurrentContext = "test"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*kubeconfig, path); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, client: kubetest.Client(t), kubeconfig: path, namespace: kubetest.Namespace(t)}
	t.Cleanup(func() { // nobody collects what is in a namespace that was deleted, and its rings would be in the way of others
		_ = c.client.AppsV1().DaemonSets(c.namespace).DeleteCollection(context.Background(), metav1.DeleteOptions{}, metav1.ListOptions{})
	})
	_, err := c.client.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "gp2"}, Provisioner: "example.com/none",
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	return c
}

// helm runs a helm command on release "pcapsule", and fails the test if it does.
func (c *cluster) helm(v values, args ...string) string {
	c.t.Helper()
	out, err := c.try(v, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

func (c *cluster) try(v values, args ...string) (string, error) {
	c.t.Helper()
	return helm(c.t, c.kubeconfig, append(append(args, "--namespace", c.namespace), v.args()...)...)
}

func (c *cluster) secret(name string) *corev1.Secret {
	c.t.Helper()
	s, err := c.client.CoreV1().Secrets(c.namespace).Get(c.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// An API server takes every rendering, strictly: an unknown or doubled field is
// an error.
func TestServerSideDryRun(t *testing.T) {
	c := newCluster(t)
	for name, v := range installations(t) {
		v = maps.Clone(v)
		delete(v, "metrics.serviceMonitor.enabled") // of kinds that this server does not have
		delete(v, "metrics.serviceMonitor.labels.release")
		if v["tls.mode"] == "certManager" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			c := &cluster{t, c.client, c.kubeconfig, c.namespace}
			for _, o := range decode(t, c.helm(v, "template", "pcapsule", chart, "--dry-run=server", "--kube-version", kubeVersion)) {
				body, err := json.Marshal(o.Object)
				if err != nil {
					t.Fatal(err)
				}
				gvk := o.GroupVersionKind()
				path := "/api/v1"
				if gvk.Group != "" {
					path = "/apis/" + gvk.Group + "/" + gvk.Version
				}
				if ns := o.GetNamespace(); ns != "" {
					path += "/namespaces/" + ns
				}
				resource := strings.ToLower(gvk.Kind) + "s"
				if gvk.Kind == "NetworkPolicy" {
					resource = "networkpolicies"
				}
				err = c.client.Discovery().RESTClient().Post().AbsPath(path, resource).
					Param("dryRun", "All").Param("fieldValidation", "Strict").Body(body).Do(t.Context()).Error()
				if err != nil {
					t.Errorf("%s %s: %v", gvk.Kind, o.GetName(), err)
				}
			}
		})
	}
}

// The life of a release: what has to survive upgrades does, and what has to
// survive its end as well, and another release takes it up.
func TestLifeOfARelease(t *testing.T) {
	c := newCluster(t)
	v := values{"tap.snapshots.storageClass": "gp2", "tap.snapshots.storageSize": "10Gi"}
	notes := c.helm(v, "install", "pcapsule", chart)
	if strings.Contains(notes, "WARNING") || !strings.Contains(notes, "claim pcapsule-snapshots, 10Gi of gp2; it stays when you uninstall") {
		t.Errorf("notes:\n%s", notes)
	}
	key, certificate := c.secret("pcapsule-signing-key"), c.secret("pcapsule-hub-tls")
	c.checkKey(key)
	c.checkCertificate(certificate)

	kept := func(after string) {
		t.Helper()
		if diff := cmp.Diff(key.Data, c.secret("pcapsule-signing-key").Data); diff != "" {
			t.Errorf("%s made another signing key", after)
		}
		claim, err := c.client.CoreV1().PersistentVolumeClaims(c.namespace).Get(t.Context(), "pcapsule-snapshots", metav1.GetOptions{})
		if err != nil || claim.DeletionTimestamp != nil {
			t.Errorf("%s deleted the claim: %v", after, err)
		}
	}

	c.helm(v, "upgrade", "pcapsule", chart, "--set", "image.tag=next")
	kept("an upgrade")
	if diff := cmp.Diff(certificate.Data, c.secret("pcapsule-hub-tls").Data); diff != "" {
		t.Error("an upgrade made other certificates")
	}

	// Other names, and certificates that end, need new ones; agents go on trusting
	// the authority that they know, as long as that has years to go.
	renamed := certificate
	for _, tc := range []struct {
		name, patch string // of the Secret's annotations
		newCA       bool
	}{
		{"a new name", `{}`, false},
		{"a certificate that ends soon", `{"pcapsule/expires":"1800000000"}`, false},
		{"an authority that ends soon", `{"pcapsule/expires":"1800000000","pcapsule/ca-expires":"1900000000"}`, true},
	} {
		_, err := c.client.CoreV1().Secrets(c.namespace).Patch(t.Context(), certificate.Name, types.MergePatchType,
			[]byte(`{"metadata":{"annotations":`+tc.patch+`}}`), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.helm(v, "upgrade", "pcapsule", chart, "--set", "hub.hosts={hub.example.com}")
		before := renamed
		renamed = c.secret("pcapsule-hub-tls")
		if bytes.Equal(before.Data["tls.crt"], renamed.Data["tls.crt"]) {
			t.Errorf("%s: the certificate was kept", tc.name)
		}
		if newCA := !bytes.Equal(before.Data["ca.crt"], renamed.Data["ca.crt"]); newCA != tc.newCA {
			t.Errorf("%s: a new authority: %v, want %v", tc.name, newCA, tc.newCA)
		}
		if !slices.Contains(c.checkCertificate(renamed).DNSNames, "hub.example.com") {
			t.Errorf("%s: the certificate has not the new name", tc.name)
		}
		kept(tc.name)
	}

	// An upgrade that forgets its values would leave the archive behind.
	if _, err := c.try(nil, "upgrade", "pcapsule", chart, "--reset-values"); err == nil ||
		!strings.Contains(err.Error(), "give tap.snapshots.storageClass=gp2, as it was") {
		t.Errorf("upgrade without values: %v", err)
	}
	if _, err := c.try(values{"tap.snapshots.storageClass": "gp3"}, "upgrade", "pcapsule", chart); err == nil ||
		!strings.Contains(err.Error(), `is there with storage class "gp2", and a claim's class cannot be changed to "gp3"`) {
		t.Errorf("upgrade with another class: %v", err)
	}

	c.helm(nil, "uninstall", "pcapsule")
	kept("uninstalling")
	left, err := c.client.AppsV1().Deployments(c.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(left.Items) > 0 {
		t.Errorf("left behind: %v, %v", left.Items, err)
	}
	c.helm(v, "install", "pcapsule", chart)
	kept("installing again")
	c.helm(nil, "uninstall", "pcapsule")
}

// Two releases do not share a ring: the second is refused, before anything is
// installed, unless it has a folder of its own, or other nodes.
func TestTwoRings(t *testing.T) {
	first, second := newCluster(t), newCluster(t)
	first.helm(nil, "install", "pcapsule", chart)
	first.helm(nil, "upgrade", "pcapsule", chart) // it is not in its own way
	for name, tc := range map[string]struct {
		c    *cluster
		name string
		v    values
		ok   bool
	}{
		"in another namespace":               {second, "pcapsule", nil, false},
		"of another name":                    {first, "other", nil, false},
		"the same folder, written otherwise": {second, "pcapsule", values{"agent.ring.hostPath": "/var//lib/./pcapsule"}, false},
		"some of the same nodes":             {second, "pcapsule", values{"agent.nodeSelector.pool": "gpu"}, false},
		"another folder":                     {second, "pcapsule", values{"agent.ring.hostPath": "/var/lib/pcapsule-2"}, true},
		"other nodes":                        {second, "pcapsule", values{`agent.nodeSelector.kubernetes\.io/os`: "plan9"}, true},
		"no agents":                          {second, "pcapsule", values{"tap.capture.raw.enabled": "false"}, true},
	} {
		out, err := tc.c.try(tc.v, "install", tc.name, chart, "--dry-run=server")
		switch {
		case tc.ok && err != nil:
			t.Errorf("%s: %v", name, err)
		case !tc.ok && err == nil:
			t.Errorf("%s: installed\n%s", name, out)
		case !tc.ok && !strings.Contains(err.Error(), "release "+first.namespace+"/pcapsule has its ring in /var/lib/pcapsule on the same nodes: set agent.ring.hostPath"):
			t.Errorf("%s: %v", name, err)
		}
	}
}

// checkKey loads the key as the hub does.
func (c *cluster) checkKey(s *corev1.Secret) {
	c.t.Helper()
	path := filepath.Join(c.t.TempDir(), "key")
	if err := os.WriteFile(path, s.Data["key"], 0o600); err != nil {
		c.t.Fatal(err)
	}
	if _, err := manifest.LoadKey(path); err != nil {
		c.t.Error(err)
	}
}

// checkCertificate verifies the hub's certificate as agents do.
func (c *cluster) checkCertificate(s *corev1.Secret) *x509.Certificate {
	c.t.Helper()
	pair, err := tls.X509KeyPair(s.Data["tls.crt"], s.Data["tls.key"])
	if err != nil {
		c.t.Fatal(err)
	}
	config, err := c.client.CoreV1().ConfigMaps(c.namespace).Get(c.t.Context(), "pcapsule-agent-ca", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(config.Data["ca.crt"])) {
		c.t.Errorf("no authority in %q", config.Data["ca.crt"])
	}
	for _, name := range []string{"pcapsule-hub." + c.namespace + ".svc", "pcapsule-hub." + c.namespace + ".svc.cluster.local", "pcapsule-hub", "localhost", "127.0.0.1"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			c.t.Errorf("as %s: %v", name, err)
		}
	}
	return pair.Leaf
}

func TestStorageClassThatDoesNotExist(t *testing.T) {
	c := newCluster(t)
	v := values{"tap.snapshots.storageClass": "gp9"}
	if _, err := c.try(v, "install", "pcapsule", chart); err == nil ||
		!strings.Contains(err.Error(), "storage class gp9 does not exist in this cluster, so the claim for snapshots would wait for ever: give one of: gp2") {
		t.Errorf("error %v", err)
	}
	// A volume that was made by hand may have a class that nobody defined.
	_, err := c.client.CoreV1().PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: c.namespace},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: "by-hand", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Capacity:               find[*corev1.PersistentVolumeClaim](t, render(t, v), "pcapsule-snapshots").Spec.Resources.Requests,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/volume"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.helm(values{"tap.snapshots.storageClass": "by-hand"}, "install", "pcapsule", chart)
}

func TestNotes(t *testing.T) {
	c := newCluster(t)
	for name, tc := range map[string]struct {
		v        values
		want     []string
		unwanted []string
	}{
		"default": {
			values{},
			[]string{"WARNING: THE ARCHIVE DIES WITH THE HUB'S POD", "everything that passes a node", "1Gi on each node, in /var/lib/pcapsule", "--hub-namespace " + c.namespace},
			nil,
		},
		"bucket": {
			values{"store.s3.bucket": "forensics", "store.s3.prefix": "prod"},
			[]string{"s3://forensics/prod"},
			[]string{"WARNING"},
		},
		"missing": {
			values{"store.s3.bucket": "forensics", "store.s3.existingSecret": "keys"},
			[]string{"the hub cannot start before there is, in namespace " + c.namespace + ": Secret keys"},
			[]string{"DIES"},
		},
		"claim that is not there": {
			values{"store.existingClaim": "archive"},
			[]string{"claim archive", "cannot start before there is, in namespace " + c.namespace + ": claim archive"},
			[]string{"DIES", "it stays"},
		},
		"targeting": {
			values{"tap.regex": "^api", "tap.namespaces": "{prod}", "tap.excludedNamespaces": "{kube-system}", "store.s3.bucket": "forensics"},
			[]string{"records    pods like ^api of prod, not of kube-system\n"},
			[]string{"WARNING"},
		},
		"no capture": {
			values{"tap.capture.raw.enabled": "false", "store.s3.bucket": "forensics"},
			[]string{"tap.capture.raw.enabled is false, so there are no agents"},
			[]string{"daemonset", "ring"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := &cluster{t, c.client, c.kubeconfig, c.namespace}
			_, notes, _ := strings.Cut(c.helm(tc.v, "install", "pcapsule", chart, "--dry-run=server"), "\nNOTES:")
			for _, s := range tc.want {
				if !strings.Contains(notes, s) {
					t.Errorf("%q is not in\n%s", s, notes)
				}
			}
			for _, s := range tc.unwanted {
				if strings.Contains(notes, s) {
					t.Errorf("%q is in\n%s", s, notes)
				}
			}
		})
	}
}

// The hub and the test pod are what the strictest pod security level allows;
// agents need the loosest, and NOTES say so where the namespace has another.
func TestPodSecurity(t *testing.T) {
	c := newCluster(t)
	running := pods(render(t, values{"tap.snapshots.storageClass": "gp2"}))
	c.helm(values{"store.s3.bucket": "forensics"}, "install", "pcapsule", chart) // the service accounts
	for _, level := range []string{"privileged", "baseline", "restricted"} {
		patch := `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"` + level + `"}}}`
		if _, err := c.client.CoreV1().Namespaces().Patch(t.Context(), c.namespace, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, p := range running {
			agent := strings.HasSuffix(p.name, "-agent")
			var err error
			// The API server's admission learns of the level a moment later.
			for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
				_, err = c.client.CoreV1().Pods(c.namespace).Create(t.Context(),
					&corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: p.name + "-"}, Spec: p.spec}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
				if err != nil || !agent || level == "privileged" || time.Now().After(end) {
					break
				}
			}
			switch {
			case err != nil && !strings.Contains(err.Error(), "violates PodSecurity"):
				t.Fatal(err)
			case agent && level != "privileged" && err == nil:
				t.Errorf("level %s lets agents in: then NOTES need not warn", level)
			case (!agent || level == "privileged") && err != nil:
				t.Errorf("level %s refuses %s: %v", level, p.name, err)
			}
		}
		notes := c.helm(values{"store.s3.bucket": "forensics"}, "upgrade", "pcapsule", chart, "--dry-run=server")
		warned := strings.Contains(notes, "kubectl label --overwrite namespace "+c.namespace+" pod-security.kubernetes.io/enforce=privileged")
		if want := level != "privileged"; warned != want {
			t.Errorf("with level %s, NOTES warn: %v, want %v", level, warned, want)
		}
	}
}

// Who may do what, as Kubernetes itself sees it.
func TestPermissions(t *testing.T) {
	c := newCluster(t)
	c.helm(values{
		"store.s3.bucket":          "forensics",
		"access.viewers[0].kind":   "User",
		"access.viewers[0].name":   "ann",
		"access.operators[0].kind": "Group",
		"access.operators[0].name": "sre",
	}, "install", "pcapsule", chart)
	account := func(name string) string { return "system:serviceaccount:" + c.namespace + ":pcapsule-" + name }
	own := func(group, resource, name, verb string) authorizationv1.ResourceAttributes {
		resource, sub, _ := strings.Cut(resource, "/")
		return authorizationv1.ResourceAttributes{Namespace: c.namespace, Group: group, Resource: resource, Subresource: sub, Name: name, Verb: verb}
	}
	anywhere := func(group, resource, verb string) authorizationv1.ResourceAttributes {
		return authorizationv1.ResourceAttributes{Group: group, Resource: resource, Verb: verb}
	}
	for _, tc := range []struct {
		user, group string
		what        authorizationv1.ResourceAttributes
		want        bool
	}{
		{account("viewer"), "", own("hub.pcapsule", "viewer", "", "use"), true},
		{account("viewer"), "", own("hub.pcapsule", "exporter", "", "use"), false},
		{account("viewer"), "", own("hub.pcapsule", "operator", "", "use"), false},
		{account("exporter"), "", own("hub.pcapsule", "exporter", "", "use"), true},
		{account("exporter"), "", own("hub.pcapsule", "viewer", "", "use"), true},
		{account("exporter"), "", own("hub.pcapsule", "operator", "", "use"), false},
		{account("operator"), "", own("hub.pcapsule", "operator", "", "use"), true},
		{account("operator"), "", own("hub.pcapsule", "viewer", "", "use"), true},
		{account("operator"), "", own("hub.pcapsule", "exporter", "", "use"), false},
		{account("operator"), "", own("", "pods", "", "get"), false}, // no power over Kubernetes
		{account("agent"), "", own("hub.pcapsule", "viewer", "", "use"), false},

		{account("hub"), "", anywhere("authentication.k8s.io", "tokenreviews", "create"), true},
		{account("hub"), "", anywhere("authorization.k8s.io", "subjectaccessreviews", "create"), true},
		{account("hub"), "", own("", "pods", "", "get"), true},
		{account("hub"), "", anywhere("", "pods", "get"), false},
		{account("hub"), "", anywhere("", "nodes", "get"), true},
		{account("hub"), "", anywhere("", "nodes", "list"), false},
		{account("hub"), "", own("", "secrets", "", "get"), false},

		{account("agent"), "", anywhere("", "pods", "watch"), true},
		{account("agent"), "", anywhere("", "events", "list"), true},
		{account("agent"), "", anywhere("discovery.k8s.io", "endpointslices", "watch"), true},
		{account("agent"), "", anywhere("apps", "replicasets", "list"), true},
		{account("agent"), "", anywhere("batch", "cronjobs", "list"), true},
		{account("agent"), "", anywhere("", "secrets", "get"), false},
		{account("agent"), "", anywhere("", "configmaps", "get"), false},
		{account("agent"), "", own("", "secrets", "", "list"), false},
		{account("agent"), "", anywhere("", "pods", "create"), false},
		{account("agent"), "", own("coordination.k8s.io", "leases", "", "create"), true},
		{account("agent"), "", own("coordination.k8s.io", "leases", "pcapsule-kubernetes", "update"), true},
		{account("agent"), "", own("coordination.k8s.io", "leases", "another", "update"), false},
		{account("agent"), "", anywhere("coordination.k8s.io", "leases", "create"), false},

		{"ann", "", own("", "serviceaccounts/token", "pcapsule-viewer", "create"), true},
		{"ann", "", own("", "serviceaccounts/token", "pcapsule-exporter", "create"), false},
		{"ann", "", own("", "serviceaccounts/token", "pcapsule-hub", "create"), false},
		{"ann", "", own("", "pods/portforward", "", "create"), true},
		{"ann", "", own("", "configmaps", "pcapsule-hub-ca", "get"), true},
		{"ann", "", own("", "services", "", "list"), true},
		{"ann", "", own("", "secrets", "", "get"), false},
		{"ann", "", own("hub.pcapsule", "viewer", "", "use"), false}, // the token is for that
		{"bob", "", own("", "serviceaccounts/token", "pcapsule-viewer", "create"), false},
		{"bob", "sre", own("", "serviceaccounts/token", "pcapsule-operator", "create"), true},
		{"bob", "sre", own("", "serviceaccounts/token", "pcapsule-viewer", "create"), true},
		{"bob", "sre", own("", "serviceaccounts/token", "pcapsule-exporter", "create"), false},
	} {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: tc.user, ResourceAttributes: &tc.what}}
		if tc.group != "" {
			review.Spec.Groups = []string{tc.group}
		}
		answer, err := c.client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if answer.Status.Allowed != tc.want {
			t.Errorf("%s %s may %+v: %v, want %v", tc.user, tc.group, tc.what, answer.Status.Allowed, tc.want)
		}
	}
	// The commands find a role's account by this label.
	for _, role := range []string{"viewer", "exporter", "operator"} {
		found, err := c.client.CoreV1().ServiceAccounts(c.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "pcapsule.role=" + role})
		if err != nil || len(found.Items) != 1 || found.Items[0].Name != "pcapsule-"+role {
			t.Errorf("accounts of role %s: %v, %v", role, found.Items, err)
		}
	}
	// Whoever made roles here must not have made them for everybody.
	bindings, err := c.client.RbacV1().RoleBindings(c.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bindings.Items {
		for _, s := range b.Subjects {
			if s.Kind == rbacv1.GroupKind && strings.HasPrefix(s.Name, "system:") {
				t.Errorf("%s is bound to %s", b.RoleRef.Name, s.Name)
			}
		}
	}
}

// Whoever may forward ports to the hub may not forward them to agents: those are in
// the network of their nodes, with all that listens on its loopback.
func TestNobodyForwardsPortsToAgents(t *testing.T) {
	c := newCluster(t)
	c.helm(values{}, "install", "pcapsule", chart)
	// Neither pod is there: admission is before that is looked at.
	forward := func(pod string) error {
		return c.client.CoreV1().RESTClient().Post().Namespace(c.namespace).Resource("pods").Name(pod).SubResource("portforward").
			MaxRetries(0).Do(t.Context()).Error()
	}
	refused := func() error {
		err := forward("pcapsule-agent-x7k2p")
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "agents listen on no port") {
			return fmt.Errorf("to an agent: %w", err)
		}
		return nil
	}
	// The API server learns of a policy a moment after it was made.
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := refused()
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	for _, pod := range []string{"pcapsule-hub-5888d45967-7t9rl", "pcapsule-agent-hub-5888d45967-7t9rl"} {
		if err := forward(pod); !apierrors.IsNotFound(err) {
			t.Errorf("to %s: %v", pod, err)
		}
	}
}
