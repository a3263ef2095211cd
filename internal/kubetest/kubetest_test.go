package kubetest_test

import (
	"errors"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pcapsule/internal/kubetest"
)

// A token is bound to its audience and to its pod's node, and gives no power that
// RBAC does not.
func TestTokens(t *testing.T) {
	config := kubetest.APIServer(t)
	client := kubetest.Client(t)
	ns := kubetest.Namespace(t)
	kubetest.ServiceAccount(t, config, ns, "agent", nil)
	kubetest.Node(t, config, ns+"-node")
	pod := kubetest.Pod(t, config, ns, "agent-x", "agent", ns+"-node")
	token := kubetest.Token(t, config, ns, "agent", pod, "pcapsule")

	for _, tc := range []struct {
		audience string
		want     bool
	}{{"pcapsule", true}, {"another", false}} {
		review, err := client.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{tc.audience}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if review.Status.Authenticated != tc.want {
			t.Errorf("audience %s: authenticated %v, want %v", tc.audience, review.Status.Authenticated, tc.want)
		}
		if !tc.want {
			continue
		}
		if got, want := review.Status.User.Username, "system:serviceaccount:"+ns+":agent"; got != want {
			t.Errorf("user %q, want %q", got, want)
		}
		if got := review.Status.User.Extra["authentication.kubernetes.io/node-name"]; len(got) != 1 || got[0] != ns+"-node" {
			t.Errorf("node %q, want %q", got, ns+"-node")
		}
	}

	own := kubetest.AsToken(config, kubetest.Token(t, config, ns, "agent", nil))
	if _, err := kubetest.ClientOf(t, own).CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("list without a role: %v, want forbidden", err)
	}
}

func TestStopAndStart(t *testing.T) {
	server := kubetest.New(t)
	client := kubetest.ClientOf(t, server.Config())
	ns := kubetest.NamespaceIn(t, server.Config())
	server.Stop(t)
	var status apierrors.APIStatus
	if _, err := client.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{}); err == nil || errors.As(err, &status) {
		t.Errorf("stopped server: %v, want no answer", err)
	}
	server.Start(t)
	if _, err := client.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{}); err != nil {
		t.Errorf("started again: %v", err)
	}
	if !strings.HasPrefix(server.Config().Host, "https://127.0.0.1:") {
		t.Errorf("host %s is not on the loopback", server.Config().Host)
	}
}
