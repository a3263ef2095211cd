package reach

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"pcapsule/internal/kube"
	"pcapsule/internal/kubetest"
)

// installed is a namespace of a real API server with what the chart puts there,
// but for running pods.
type installed struct {
	t    *testing.T
	ns   string
	kube *kubernetes.Clientset
}

func install(t *testing.T) *installed {
	t.Helper()
	in := &installed{t: t, ns: kubetest.Namespace(t), kube: kubetest.Client(t)}
	for _, role := range []string{"viewer", "exporter", "operator"} {
		kubetest.ServiceAccount(t, kubetest.APIServer(t), in.ns, "r-pcapsule-"+role, map[string]string{labelRole: role, labelInstance: "r"})
	}
	in.do(in.kube.CoreV1().Services(in.ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "r-pcapsule-hub", Labels: map[string]string{
			"app.kubernetes.io/name": "pcapsule", "app.kubernetes.io/component": "hub", labelInstance: "r",
		}},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "hub"},
			Ports:    []corev1.ServicePort{{Name: "https", Port: 8898, TargetPort: intstr.FromString("web")}},
		},
	}, metav1.CreateOptions{}))
	in.do(in.kube.CoreV1().ConfigMaps(in.ns).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "r-pcapsule-hub-ca"}, Data: map[string]string{"ca.crt": "PEM"},
	}, metav1.CreateOptions{}))
	return in
}

func (in *installed) do(_ any, err error) {
	in.t.Helper()
	if err != nil {
		in.t.Fatal(err)
	}
}

// person is somebody who may do in the namespace what the chart's Role for a
// role lets people do, and nothing else.
func (in *installed) person(roles ...string) *kube.Cluster {
	in.t.Helper()
	config := kubetest.APIServer(in.t)
	name := "nobody"
	if len(roles) > 0 {
		name = strings.Join(roles, "-")
	}
	kubetest.ServiceAccount(in.t, config, in.ns, name, nil)
	for _, role := range roles {
		in.do(in.kube.RbacV1().Roles(in.ns).Create(in.t.Context(), &rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Name: name + "-as-" + role},
			Rules: []rbacv1.PolicyRule{
				{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, ResourceNames: []string{"r-pcapsule-" + role}, Verbs: []string{"create"}},
				{APIGroups: []string{""}, Resources: []string{"serviceaccounts", "services", "pods"}, Verbs: []string{"get", "list"}},
				{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"r-pcapsule-hub-ca"}, Verbs: []string{"get"}},
			},
		}, metav1.CreateOptions{}))
		in.do(in.kube.RbacV1().RoleBindings(in.ns).Create(in.t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name + "-as-" + role},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name + "-as-" + role},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: name, Namespace: in.ns}},
		}, metav1.CreateOptions{}))
	}
	// RBAC follows what is stored by watches.
	for end := time.Now().Add(20 * time.Second); len(roles) > 0; time.Sleep(20 * time.Millisecond) {
		r, err := in.kube.AuthorizationV1().SubjectAccessReviews().Create(in.t.Context(), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{
				User: "system:serviceaccount:" + in.ns + ":" + name,
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Namespace: in.ns, Verb: "create", Resource: "serviceaccounts", Subresource: "token", Name: "r-pcapsule-" + roles[len(roles)-1],
				},
			},
		}, metav1.CreateOptions{})
		in.do(nil, err)
		if r.Status.Allowed {
			break
		}
		if time.Now().After(end) {
			in.t.Fatal("RBAC does not follow")
		}
	}
	token := kubetest.Token(in.t, config, in.ns, name, nil)
	return &kube.Cluster{Config: kubetest.AsToken(config, token), Context: "test", Namespace: in.ns}
}

// whose is the user name that a token is of, for the hub's audience.
func (in *installed) whose(token string) string {
	in.t.Helper()
	r, err := in.kube.AuthenticationV1().TokenReviews().Create(in.t.Context(), &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{"pcapsule"}},
	}, metav1.CreateOptions{})
	in.do(nil, err)
	if !r.Status.Authenticated {
		return r.Status.Error
	}
	return strings.TrimPrefix(r.Status.User.Username, "system:serviceaccount:"+in.ns+":r-pcapsule-")
}

// TestPeople finds a hub and gets tokens as people may whom RBAC lets.
func TestPeople(t *testing.T) {
	in := install(t)
	for _, tt := range []struct {
		roles []string
		wants []string
		token string // whose it is
		says  string
	}{
		{[]string{"viewer"}, []string{"viewer", "exporter", "operator"}, "viewer", ""},
		{[]string{"exporter"}, []string{"viewer", "exporter", "operator"}, "exporter", ""},
		{[]string{"operator"}, []string{"operator"}, "operator", ""},
		{[]string{"viewer", "exporter"}, []string{"exporter"}, "exporter", ""},
		{[]string{"viewer", "operator"}, []string{"exporter"}, "", "you may not be exporter of this hub: ask for a RoleBinding in namespace " + in.ns + " to the Role r-pcapsule-exporter-access"},
		{nil, []string{"viewer"}, "", "you may not look for a hub in namespace " + in.ns},
	} {
		t.Run(fmt.Sprint(tt.roles, tt.wants), func(t *testing.T) {
			who := in.person(tt.roles...)
			hub, err := Find(t.Context(), who, in.ns)
			if err != nil {
				if tt.says == "" || !strings.Contains(err.Error(), tt.says) {
					t.Fatal(err)
				}
				return
			}
			if want := "https://r-pcapsule-hub." + in.ns + ".svc:8898"; hub.URL != want || string(hub.CA) != "PEM" {
				t.Errorf("%s with CA %q, want %s", hub.URL, hub.CA, want)
			}
			if me := hub.Whoami(t.Context()); me != "system:serviceaccount:"+in.ns+":"+strings.Join(tt.roles, "-") {
				t.Errorf("I am %q", me)
			}
			get := hub.Token("pcapsule", tt.wants...)
			token, err := get(t.Context())
			switch {
			case err != nil && (tt.says == "" || !strings.Contains(err.Error(), tt.says)):
				t.Fatal(err)
			case err == nil && in.whose(token) != tt.token:
				t.Errorf("the token is of %s, want %s", in.whose(token), tt.token)
			case err == nil:
				if again, err := get(t.Context()); err != nil || again != token {
					t.Errorf("a token that is good is not kept: %v", err)
				}
			}
		})
	}
}

// TestRenew: a token is asked for anew before it ends, and the old one is good
// enough while that does not work.
func TestRenew(t *testing.T) {
	in := install(t)
	hub, err := Find(t.Context(), in.person("viewer"), in.ns)
	in.do(nil, err)
	k := &keeper{hub: hub, audience: "pcapsule", roles: []string{"viewer"}}
	first, err := k.get(t.Context())
	in.do(nil, err)
	if left := time.Until(k.renew); left > tokenLife-tokenRest || left < tokenLife-tokenRest-time.Minute {
		t.Errorf("it is renewed in %s", left)
	}
	k.renew = time.Now()
	second, err := k.get(t.Context())
	if err != nil || second == first {
		t.Errorf("not renewed: %v", err)
	}
	k.renew = time.Now()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if third, err := k.get(gone); err != nil || third != second {
		t.Errorf("%v", err)
	}
	k.renew, k.end = time.Now(), time.Now()
	if _, err := k.get(gone); err == nil {
		t.Error("a token that has ended is used")
	}
}

// TestNoHub: the error says what to do.
func TestNoHub(t *testing.T) {
	in := install(t)
	empty := kubetest.Namespace(t)
	admin := &kube.Cluster{Config: kubetest.APIServer(t), Context: "test", Namespace: empty}
	find := func(c *kube.Cluster, ns, want string) {
		t.Helper()
		if _, err := Find(t.Context(), c, ns); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	find(admin, empty, "name that with --hub-namespace")
	find(admin, "", "there is no hub in namespace pcapsule or "+empty+" of the cluster of context test")
	who := in.person("viewer")
	who.Namespace = empty
	find(who, "", "you may not look for a hub in namespace pcapsule or "+empty)
	if _, err := Find(t.Context(), &kube.Cluster{Config: admin.Config, Namespace: in.ns}, ""); err != nil {
		t.Errorf("in the namespace of the context: %v", err)
	}
	stranger := kubetest.AsToken(admin.Config, "nonsense")
	find(&kube.Cluster{Config: stranger, Context: "test"}, in.ns, "does not know you")
	nowhere := kubetest.AsToken(admin.Config, "x")
	nowhere.Host = "https://127.0.0.1:1"
	find(&kube.Cluster{Config: nowhere, Context: "test"}, in.ns, "does not answer")

	in.do(nil, in.kube.CoreV1().ConfigMaps(in.ns).Delete(t.Context(), "r-pcapsule-hub-ca", metav1.DeleteOptions{}))
	find(admin, in.ns, "there is no ConfigMap r-pcapsule-hub-ca")
	in.do(in.kube.CoreV1().Services(in.ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "second", Labels: map[string]string{"app.kubernetes.io/name": "pcapsule", "app.kubernetes.io/component": "hub"}},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "https", Port: 8898}}},
	}, metav1.CreateOptions{}))
	find(admin, in.ns, "has several hubs (r-pcapsule-hub, second)")
}

// TestPods: what keeps a hub's pod from being ready is said.
func TestPods(t *testing.T) {
	in := install(t)
	hub, err := Find(t.Context(), in.person("viewer"), in.ns)
	in.do(nil, err)
	if _, err := hub.find(t.Context()); err == nil || !strings.Contains(err.Error(), "the hub has no pod") {
		t.Error(err)
	}
	pods := in.kube.CoreV1().Pods(in.ns)
	pod, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "hub-1", Labels: map[string]string{"app": "hub"}},
		Spec: corev1.PodSpec{ServiceAccountName: "r-pcapsule-viewer", Containers: []corev1.Container{{
			Name: "hub", Image: "x", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 9443}},
		}}},
	}, metav1.CreateOptions{})
	in.do(nil, err)
	ready := func(yes corev1.ConditionStatus) []corev1.PodCondition {
		return []corev1.PodCondition{{Type: corev1.PodReady, Status: yes}}
	}
	container := func(s corev1.ContainerState) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{Name: "hub", State: s}}
	}
	for _, tt := range []struct {
		status corev1.PodStatus
		says   string
	}{
		{corev1.PodStatus{Phase: corev1.PodPending}, "hub-1 is not ready (Pending): see `kubectl -n " + in.ns + " describe pod hub-1`"},
		{corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes\nhave a volume"}}}, "(Unschedulable: 0/3 nodes have a volume)"},
		{corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: container(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 10s"}})}, "(CrashLoopBackOff: back-off 10s)"},
		{corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: container(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Error", ExitCode: 2}})}, "(Error, exit code 2)"},
		{corev1.PodStatus{Phase: corev1.PodRunning, Conditions: ready(corev1.ConditionFalse)}, "has yet to become ready"},
		{corev1.PodStatus{Phase: corev1.PodRunning, Conditions: ready(corev1.ConditionTrue)}, ""},
	} {
		pod.Status = tt.status
		pod, err = pods.UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
		in.do(nil, err)
		to, err := hub.find(t.Context())
		switch {
		case tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)):
			t.Errorf("%v, want %s", err, tt.says)
		case tt.says == "" && (err != nil || *to != target{"hub-1", 9443}):
			t.Errorf("%v, %v", to, err)
		}
	}
	// No kubelet is here, and this person may not forward ports anyway.
	if _, err := hub.Dial(t.Context(), "tcp", "x"); err == nil || !strings.Contains(err.Error(), "you may not forward ports") {
		t.Error(err)
	}
}
