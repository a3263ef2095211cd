// Package kubetest runs a real Kubernetes API server, with etcd behind it, for
// tests and benchmarks: no mock decides there who may do what, or which watch has
// to start over.
//
// There are no nodes and no controllers, so pods that a test makes stay as the
// test makes them. A whole cluster is in e2e.
package kubetest

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// shared is the API server of the test process.
var shared = sync.OnceValues(func() (*Server, error) {
	return Launch(context.Background())
})

// APIServer returns the settings of an administrator's client of the API server
// that all tests of this process share: with RBAC, service accounts and
// TokenRequest, and etcd behind it. It is started by the first call, listens on
// the loopback only, and ends with the process, however that ends. One that
// cannot be started fails the test.
//
// The caller owns the settings.
func APIServer(t testing.TB) *rest.Config {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return s.Config()
}

// New starts an API server that is this test's alone, for tests that stop it, or
// that need flags of their own, such as --audit-log-path. It ends with the test.
func New(t testing.TB, flags ...string) *Server {
	t.Helper()
	s, err := Launch(t.Context(), flags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Client returns an administrator's client of the shared API server.
func Client(t testing.TB) *kubernetes.Clientset {
	t.Helper()
	return ClientOf(t, APIServer(t))
}

// ClientOf returns a client with these settings.
func ClientOf(t testing.TB, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// Namespace makes a namespace of its own in the shared API server, and returns
// its name.
func Namespace(t testing.TB) string {
	t.Helper()
	return NamespaceIn(t, APIServer(t))
}

// NamespaceIn is Namespace for another API server.
func NamespaceIn(t testing.TB, config *rest.Config) string {
	t.Helper()
	ns, err := ClientOf(t, config).CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

// ServiceAccount makes a service account.
func ServiceAccount(t testing.TB, config *rest.Config, namespace, name string, labels map[string]string) {
	t.Helper()
	_, err := ClientOf(t, config).CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// Token returns a token of a service account, for these audiences (or for the API
// server's own, without any) and ten minutes. With a pod, which has to be there
// and to run as that account, it is bound to the pod and says on which node that is.
func Token(t testing.TB, config *rest.Config, namespace, account string, pod *corev1.Pod, audiences ...string) string {
	t.Helper()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}
	seconds := int64((10 * time.Minute).Seconds())
	request.Spec.ExpirationSeconds = &seconds
	if pod != nil {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{
			Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID,
		}
	}
	answer, err := ClientOf(t, config).CoreV1().ServiceAccounts(namespace).
		CreateToken(t.Context(), account, request, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("token of %s/%s for %s: %v", namespace, account, strings.Join(audiences, ","), err)
	}
	return answer.Status.Token
}

// AsToken returns settings of a client that knows nothing but a token.
func AsToken(config *rest.Config, token string) *rest.Config {
	bare := rest.AnonymousClientConfig(config)
	bare.BearerToken = token
	return bare
}

// Node makes a node object. No kubelet stands behind it.
func Node(t testing.TB, config *rest.Config, name string) *corev1.Node {
	t.Helper()
	node, err := ClientOf(t, config).CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return node
}

// Pod makes a pod of an account on a node, which has to be there for tokens that
// name it.
func Pod(t testing.TB, config *rest.Config, namespace, name, account, node string) *corev1.Pod {
	t.Helper()
	pod, err := ClientOf(t, config).CoreV1().Pods(namespace).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			ServiceAccountName: account,
			NodeName:           node,
			Containers:         []corev1.Container{{Name: "main", Image: "test"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}
