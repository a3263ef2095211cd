//go:build e2e && linux

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"pcapsule/internal/api"
	"pcapsule/manifest"
)

// roles runs commands as people to whom RBAC gives one role, or none.
func roles(t *testing.T, r *release, _ *laptop) {
	const namespace = "people"
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: namespace},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := removeNamespace(context.Background(), namespace); err != nil {
			t.Error(err)
		}
	})
	access := values{}
	for role, name := range map[string]string{"viewers": "vera", "exporters": "egon", "operators": "olga"} {
		access["access."+role+"[0].kind"] = "ServiceAccount"
		access["access."+role+"[0].name"] = name
		access["access."+role+"[0].namespace"] = namespace
	}
	r.upgrade(t, access)
	from := traffic(t, 2).UTC().Format(time.RFC3339Nano) // with all agents there
	for _, person := range []struct {
		name                 string
		list, export, create int // exit codes
	}{
		{"vera", fine, failed, failed},
		{"egon", fine, fine, failed},
		{"olga", fine, failed, fine},
		{"nobody", failed, failed, failed},
	} {
		t.Run(person.name, func(t *testing.T) {
			l := laptopOf(t, namespace, person.name)
			l.want(t, person.list, "snapshot", "list")
			l.want(t, person.export, "snapshot", "pcap", "all", "-w", os.DevNull)
			refused := l.want(t, person.create, "snapshot", "create", "by-"+person.name, "--from", from)
			if person.create == failed && refused.stderr == "" {
				t.Error("refused without a word")
			}
		})
	}
}

// laptopOf makes a service account and a laptop that has its token, and so the
// power that RBAC gives to it.
func laptopOf(t *testing.T, namespace, name string) *laptop {
	t.Helper()
	if _, err := client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Name: name},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	admin, err := clientcmd.LoadFromFile(cluster.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters = admin.Clusters
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token(t, namespace, name, nil)}
	for cluster := range admin.Clusters {
		config.Contexts[name] = &clientcmdapi.Context{Cluster: cluster, AuthInfo: name}
	}
	config.CurrentContext = name
	l := newLaptop(t)
	l.kubeconfig = filepath.Join(l.home, "kubeconfig")
	if err := clientcmd.WriteToFile(*config, l.kubeconfig); err != nil {
		t.Fatal(err)
	}
	return l
}

// token asks for a token of a service account, bound to a pod unless that is nil.
func token(t *testing.T, namespace, account string, pod *corev1.Pod, audiences ...string) string {
	t.Helper()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}
	if pod != nil {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{
			Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID,
		}
	}
	answer, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account, request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status.Token
}

// tokensOfOthers sends requests with tokens that are good for something else.
func tokensOfOthers(t *testing.T, r *release, _ *laptop) {
	const audience = "pcapsule"
	agent := r.name + "-agent"
	ns := r.namespace
	account := func(name string) *corev1.ServiceAccount {
		a, err := client.CoreV1().ServiceAccounts(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	signed := func(name string, expires time.Time) string {
		text, err := cluster.SignToken(account(name), audience, expires)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	gone, err := client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "gone"},
		Spec: corev1.PodSpec{
			NodeName: "node-1", ServiceAccountName: agent,
			Containers: []corev1.Container{{Name: "main", Image: imageRepository + ":" + imageTag, ImagePullPolicy: corev1.PullNever}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	goneToken := token(t, ns, agent, gone, audience)
	deletePod(t, ns, "gone")

	onNode1 := token(t, ns, agent, r.agent(t, "node-1"), audience)
	viewer := token(t, ns, r.name+"-viewer", nil, audience)
	const list, create, poll1, poll2 = "GET snapshots", "POST snapshots", "POST agents/node-1/poll", "POST agents/node-2/poll"
	send := hubRequests(t, r)
	for _, tc := range []struct {
		name, token, request string
		want                 int
	}{
		{"no token", "", list, http.StatusUnauthorized},
		{"rubbish", "rubbish", list, http.StatusUnauthorized},
		{"a viewer's", viewer, list, http.StatusOK},
		{"a viewer's, to create", viewer, create, http.StatusForbidden},
		{"a viewer's, as an agent", viewer, poll1, http.StatusForbidden},
		{"a viewer's, for the API server", token(t, ns, r.name+"-viewer", nil), list, http.StatusUnauthorized},
		{"another account's", token(t, ns, "default", nil, audience), list, http.StatusForbidden},
		{"an agent's", onNode1, poll1, http.StatusOK},
		{"an agent's, for another node", onNode1, poll2, http.StatusForbidden},
		{"an agent's, as a person", onNode1, list, http.StatusForbidden},
		{"an agent's of no pod", token(t, ns, agent, nil, audience), poll1, http.StatusForbidden},
		{"an agent's whose pod is gone", goneToken, poll1, http.StatusUnauthorized},
		{"signed here, valid", signed(r.name+"-viewer", time.Now().Add(time.Minute)), list, http.StatusOK},
		{"signed here, expired", signed(r.name+"-viewer", time.Now().Add(-time.Minute)), list, http.StatusUnauthorized},
	} {
		if got, text := send(tc.request, tc.token); got != tc.want {
			t.Errorf("%s: %s is answered %d, want %d: %s", tc.name, tc.request, got, tc.want, text)
		}
	}
}

// hubRequests opens a way to the hub, and returns what sends requests there.
func hubRequests(t *testing.T, r *release) (send func(request, token string) (status int, body string)) {
	t.Helper()
	addr := portForward(t, r.namespace, "service/"+r.name+"-hub", "8898")
	ca, err := client.CoreV1().ConfigMaps(r.namespace).Get(t.Context(), r.name+"-hub-ca", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(ca.Data["ca.crt"])) {
		t.Fatal("no certificate in the ConfigMap")
	}
	// One connection for all requests: containerd 1.6 loses one in a few hundred
	// that it forwards.
	hub := &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}},
	}
	return func(request, token string) (int, string) {
		t.Helper()
		method, path, _ := strings.Cut(request, " ")
		var body io.Reader
		if method == http.MethodPost {
			var message any = api.CreateRequest{Name: "refused", Last: "1s"}
			if strings.HasSuffix(path, "/poll") {
				message = api.PollRequest{Time: manifest.Nanos(time.Now().UnixNano())}
			}
			text, err := json.Marshal(message)
			if err != nil {
				t.Fatal(err)
			}
			body = bytes.NewReader(text)
		}
		req, err := http.NewRequestWithContext(t.Context(), method, "https://"+addr+api.Prefix+"/"+path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := hub.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", request, err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(answer)
	}
}

var forwarding = regexp.MustCompile(`Forwarding from (127\.0\.0\.1:\d+)`)

// portForward runs kubectl port-forward until the test ends, and returns where it
// listens.
func portForward(t *testing.T, namespace, target, port string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(cluster.Dir, "bin", "kubectl"), "--kubeconfig", cluster.Kubeconfig(),
		"-n", namespace, "port-forward", target, ":"+port)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found := make(chan string, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		scanner := bufio.NewScanner(out)
		for scanner.Scan() {
			if m := forwarding.FindStringSubmatch(scanner.Text()); m != nil {
				select {
				case found <- m[1]:
				default:
				}
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		_ = cmd.Wait()
	})
	select {
	case addr := <-found:
		return addr
	case <-ended:
		t.Fatalf("kubectl port-forward ended: %s", stderr.String())
	case <-time.After(30 * time.Second):
		t.Fatal("kubectl port-forward does not start")
	}
	return ""
}
