package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"pcapsule/internal/kubetest"
	"pcapsule/internal/kubetest/pki"
	"pcapsule/tools"
)

// TestTokens runs a hub with TLS that wants tokens, agents that have some, and
// commands of people in each role, with a real API server. What only a whole
// cluster has (port-forwards, projected volumes) is in e2e.
func TestTokens(t *testing.T) {
	if _, err := tools.Path(t.Context(), "kubernetes", "kube-apiserver"); err != nil { // while there is a network
		t.Fatal(err)
	}
	if !inNamespace(t) {
		return
	}
	m := newMachine(t)
	k := newKubeSite(t, m.dir)
	const hubURL = "https://127.0.0.1:8898"
	ca, next := k.authority(), k.authority()
	k.write("ca.crt", ca.CertPEM)
	k.certificate(ca)
	t.Setenv("KUBECONFIG", k.kubeconfig("hub"))
	start := func(args ...string) *daemon {
		d := m.start(args...)
		t.Cleanup(func() { d.cmd.Process.Kill() })
		return d
	}
	hub := start("hub", "--data-dir", "hub", "--tls-cert", "tls.crt", "--tls-key", "tls.key",
		"--auth", "kubernetes", "--agent-account", k.ns+"/agent", "--hub-namespace", k.ns)
	as := func(role string, args ...string) []string {
		args = append(args, "--hub", hubURL, "--hub-ca", "ca.crt")
		if role != "" {
			args = append(args, "--hub-token-file", k.token(role, nil))
		}
		return args
	}
	agent := func(node, token string) *daemon {
		return start("agent", "--data-dir", "agent-"+node, "--node", node, "--ring-size", "64MiB", "--hub", hubURL, "--hub-ca", "ca.crt", "--hub-token-file", token)
	}
	n1, n2 := k.agentPod("n1"), k.agentPod("n2")
	agent("n1", k.token("agent", n1))
	agent("n2", k.token("agent", n2))
	impostor := agent("n3", k.token("agent", n1))
	stranger := agent("n4", k.token("viewer", nil))

	// Nodes are there when a snapshot of both can be taken.
	take := func(name string) (string, error) {
		cmd := m.command(t.Context(), as("operator", "snapshot", "create", name, "--last", "1s", "--node", "n1", "--node", "n2")...)
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code == exitPartial {
			err = nil // of a moment before the start
		}
		return string(out), err
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		out, err := take("both")
		if err == nil {
			break
		}
		if time.Now().After(end) {
			hub.end(syscall.SIGKILL)
			t.Fatalf("%v: %s\n%s", err, out, hub.out.String())
		}
	}

	says := func(want int, pattern string, args []string) {
		t.Helper()
		stdout, stderr := m.run(want, args...)
		if !regexp.MustCompile(pattern).MatchString(stdout + stderr) {
			t.Errorf("%s: %s%s\nwant %s", strings.Join(args, " "), stdout, stderr, pattern)
		}
	}
	says(exitOK, "both", as("viewer", "snapshot", "list"))
	says(exitOK, `"pcapsule.manifest"`, as("viewer", "snapshot", "show", "both", "-o", "json"))
	says(exitOK, "wrote", as("exporter", "snapshot", "pcap", "both", "-w", "both.pcapng"))
	says(exitOK, "verified", as("exporter", "verify", "both"))
	says(exitFailed, "viewer may not use exporter.hub.pcapsule in namespace", as("viewer", "snapshot", "pcap", "both", "-w", "x.pcapng"))
	says(exitFailed, "exporter may not use operator", as("exporter", "snapshot", "delete", "both"))
	says(exitFailed, "agent may not use", as("agent", "snapshot", "list"))
	says(exitFailed, "this hub wants to know who asks", as("", "snapshot", "list"))
	k.write("vault", []byte(kubetest.Token(t, k.config, k.ns, "viewer", nil, "vault")))
	says(exitFailed, `made for the audience "vault", not for "pcapsule"`, as("", "snapshot", "list", "--hub-token-file", "vault"))
	m.run(exitOK, as("operator", "snapshot", "import", "imported", "n1=both.pcapng")...)

	// The certificate is renewed by another CA; who knows both goes on.
	k.write("ca.crt", ca.CertPEM, next.CertPEM)
	k.certificate(next)
	k.write("next.crt", next.CertPEM)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		cmd := m.command(t.Context(), append(as("viewer", "snapshot", "list"), "--hub-ca", "next.crt")...)
		out, err := cmd.CombinedOutput()
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the new certificate is not served: %s", out)
		}
	}
	if out, err := take("after"); err != nil {
		t.Errorf("agents do not go on: %v: %s", err, out)
	}

	for d, want := range map[*daemon]string{
		impostor: `this token is of the agent on node n1, which cannot speak for node \\"n3\\"`,
		stranger: `:viewer, and agents are system:serviceaccount:` + k.ns + `:agent`,
		hub:      `"action":"create".*"user":"system:serviceaccount:` + k.ns + `:operator","role":"operator","credential":"JTI=[^"]+".*"name":"both"`,
	} {
		d.end(syscall.SIGTERM)
		if out := d.out.String(); !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
}

// kubeSite is what a hub and its people are in a cluster.
type kubeSite struct {
	t      *testing.T
	config *rest.Config
	ns     string
	dir    string
	files  int
}

func newKubeSite(t *testing.T, dir string) *kubeSite {
	t.Helper()
	k := &kubeSite{t: t, config: kubetest.APIServer(t), ns: kubetest.Namespace(t), dir: dir}
	for _, name := range []string{"hub", "agent", "viewer", "exporter", "operator"} {
		kubetest.ServiceAccount(t, k.config, k.ns, name, nil)
	}
	rbac := kubetest.Client(t).RbacV1()
	_, err := rbac.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: k.ns},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:auth-delegator"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "hub", Namespace: k.ns}},
	}, metav1.CreateOptions{})
	for _, role := range []string{"viewer", "exporter", "operator"} {
		_, rerr := rbac.Roles(k.ns).Create(t.Context(), &rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Name: role},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"hub.pcapsule"}, Resources: []string{"viewer", role}, Verbs: []string{"use"}}},
		}, metav1.CreateOptions{})
		_, berr := rbac.RoleBindings(k.ns).Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: role, Namespace: k.ns}},
		}, metav1.CreateOptions{})
		err = errors.Join(err, rerr, berr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// write makes a file at once, as volumes do, and returns its name.
func (k *kubeSite) write(name string, contents ...[]byte) string {
	k.t.Helper()
	var all []byte
	for _, b := range contents {
		all = append(all, b...)
	}
	path := filepath.Join(k.dir, name)
	if err := errors.Join(os.WriteFile(path+".new", all, 0o600), os.Rename(path+".new", path)); err != nil {
		k.t.Fatal(err)
	}
	return path
}

func (k *kubeSite) authority() *pki.Authority {
	k.t.Helper()
	ca, err := pki.NewAuthority("test", time.Now())
	if err != nil {
		k.t.Fatal(err)
	}
	return ca
}

// certificate makes the hub's.
func (k *kubeSite) certificate(ca *pki.Authority) {
	k.t.Helper()
	pair, err := ca.Server("127.0.0.1")
	if err != nil {
		k.t.Fatal(err)
	}
	k.write("tls.key", pair.Key)
	k.write("tls.crt", pair.Cert)
}

// agentPod is a pod of the agents, on a node that it makes.
func (k *kubeSite) agentPod(node string) *corev1.Pod {
	k.t.Helper()
	kubetest.Node(k.t, k.config, node)
	return kubetest.Pod(k.t, k.config, k.ns, "agent-"+node, "agent", node)
}

// token is a file with a token for the hub.
func (k *kubeSite) token(account string, pod *corev1.Pod) string {
	k.t.Helper()
	k.files++
	return k.write(fmt.Sprintf("token-%d", k.files), []byte(kubetest.Token(k.t, k.config, k.ns, account, pod, defaultAudience)))
}

// kubeconfig is a file with which a service account talks to the API server.
func (k *kubeSite) kubeconfig(account string) string {
	k.t.Helper()
	hour := int64(3600)
	answer, err := kubetest.Client(k.t).CoreV1().ServiceAccounts(k.ns).CreateToken(k.t.Context(), account, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour},
	}, metav1.CreateOptions{})
	if err != nil {
		k.t.Fatal(err)
	}
	c := clientcmdapi.NewConfig()
	c.Clusters["c"] = &clientcmdapi.Cluster{Server: k.config.Host, CertificateAuthorityData: k.config.CAData}
	c.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: answer.Status.Token}
	c.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u", Namespace: k.ns}
	c.CurrentContext = "x"
	path := filepath.Join(k.dir, "kubeconfig-"+account)
	if err := clientcmd.WriteToFile(*c, path); err != nil {
		k.t.Fatal(err)
	}
	return path
}
