//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	idleNamespace = "pcapsule"
	idleAccount   = "pcapsule-agent"
	idlePerson    = "pcapsule-viewer"
	idleLease     = "pcapsule-kubernetes"

	podsOfWorkload = 10
)

// An idleCluster is an API server that tells of nodes and pods, behind which is
// nothing.
type idleCluster struct {
	config *rest.Config // an administrator's
	client *kubernetes.Clientset
	agents map[string]*corev1.Pod // by node
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i) }

func newIdleCluster(ctx context.Context, config *rest.Config) (*idleCluster, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	c := &idleCluster{config: config, client: client, agents: map[string]*corev1.Pod{}}
	for _, step := range []func(context.Context) error{c.addAccounts, c.addNodes, c.addWorkloads, c.addServices} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("fill the cluster: %w", err)
		}
	}
	return c, nil
}

func (c *idleCluster) addAccounts(ctx context.Context) error {
	for _, name := range []string{idleNamespace, "shop"} {
		_, err := c.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
	}
	for _, name := range []string{idleAccount, idlePerson} {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := c.client.CoreV1().ServiceAccounts(idleNamespace).Create(ctx, account, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	_, err := c.client.RbacV1().Roles(idleNamespace).Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: idlePerson},
		Rules:      []rbacv1.PolicyRule{{Verbs: []string{"use"}, APIGroups: []string{"hub.pcapsule"}, Resources: []string{"viewer"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = c.client.RbacV1().RoleBindings(idleNamespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: idlePerson},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: idlePerson},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: idlePerson, Namespace: idleNamespace}},
	}, metav1.CreateOptions{})
	return err
}

// addNodes also adds the pods of the agents, to which their tokens are bound.
func (c *idleCluster) addNodes(ctx context.Context) error {
	for i := range idleNodes {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), Labels: map[string]string{
			"kubernetes.io/hostname": nodeName(i), "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": "zone-a",
		}}}
		node, err := c.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: agentIn(i).String()}}
		if _, err := c.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
			return err
		}
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "pcapsule-agent-" + nodeName(i), Namespace: idleNamespace},
			Spec: corev1.PodSpec{ServiceAccountName: idleAccount, NodeName: nodeName(i), HostNetwork: true, Containers: []corev1.Container{
				{Name: "agent", Image: "pcapsule"},
			}},
		}
		if c.agents[nodeName(i)], err = c.addPod(ctx, pod, agentIn(i)); err != nil {
			return err
		}
	}
	return nil
}

// addPod adds one that runs.
func (c *idleCluster) addPod(ctx context.Context, pod *corev1.Pod, addr net.IP) (*corev1.Pod, error) {
	pod, err := c.client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, HostIP: "10.77.0.2", PodIP: addr.String(), PodIPs: []corev1.PodIP{{IP: addr.String()}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	for _, container := range pod.Spec.Containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: container.Name, Image: container.Image, Ready: true, ContainerID: "containerd://" + string(pod.UID) + container.Name,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}},
		})
	}
	return c.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
}

// addWorkloads adds the pods, and what they belong to.
func (c *idleCluster) addWorkloads(ctx context.Context) error {
	apps := c.client.AppsV1()
	for w := range idlePods / podsOfWorkload {
		name := fmt.Sprintf("workload-%d", w)
		labels := map[string]string{"app": name}
		template := corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{Containers: []corev1.Container{
				{Name: "main", Image: "registry.test/shop/" + name + ":1.0"}, {Name: "proxy", Image: "registry.test/proxy:1.0"},
			}},
		}
		deployment, err := apps.Deployments("shop").Create(ctx, &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
			Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		set, err := apps.ReplicaSets("shop").Create(ctx, &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Name: name + "-7d9f", Labels: labels, OwnerReferences: []metav1.OwnerReference{
				*metav1.NewControllerRef(deployment, appsv1.SchemeGroupVersion.WithKind("Deployment")),
			}},
			Spec: appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		for i := range podsOfWorkload {
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", set.Name, i), Namespace: "shop", Labels: labels, OwnerReferences: []metav1.OwnerReference{
					*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet")),
				}},
				Spec: template.Spec,
			}
			node := (w*podsOfWorkload + i) % idleNodes
			pod.Spec.NodeName = nodeName(node)
			if _, err := c.addPod(ctx, pod, net.IPv4(10, 78, byte(node), byte(10+w))); err != nil {
				return err
			}
		}
	}
	return nil
}

// addServices adds services of the workloads, by turns.
func (c *idleCluster) addServices(ctx context.Context) error {
	ready, port := true, int32(80)
	for i := range idleServices {
		w := i % (idlePods / podsOfWorkload)
		service, err := c.client.CoreV1().Services("shop").Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("service-%d", i)},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": fmt.Sprintf("workload-%d", w)}, Ports: []corev1.ServicePort{{Port: port}}},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: service.Name + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: service.Name}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}},
		}
		for n := range podsOfWorkload {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses:  []string{net.IPv4(10, 78, byte(n), byte(10+w)).String()},
				Conditions: discoveryv1.EndpointConditions{Ready: &ready},
				TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: fmt.Sprintf("workload-%d-7d9f-%d", w, n)},
			})
		}
		if _, err := c.client.DiscoveryV1().EndpointSlices("shop").Create(ctx, slice, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// elected is who records the stream kubernetes; "" while nobody does.
func (c *idleCluster) elected(ctx context.Context) (string, error) {
	lease, err := c.client.CoordinationV1().Leases(idleNamespace).Get(ctx, idleLease, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil || lease.Spec.HolderIdentity == nil {
		return "", err
	}
	return *lease.Spec.HolderIdentity, nil
}

// agentToken is one that a hub knows as that of the agent on a node.
func (c *idleCluster) agentToken(ctx context.Context, node string) (string, error) {
	pod := c.agents[node]
	return c.token(ctx, idleAccount, &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID})
}

// personToken is that of somebody who may look.
func (c *idleCluster) personToken(ctx context.Context) (string, error) {
	return c.token(ctx, idlePerson, nil)
}

func (c *idleCluster) token(ctx context.Context, account string, of *authenticationv1.BoundObjectReference) (string, error) {
	seconds := int64(time.Hour / time.Second)
	answer, err := c.client.CoreV1().ServiceAccounts(idleNamespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"pcapsule"}, ExpirationSeconds: &seconds, BoundObjectRef: of},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("token of %s: %w", account, err)
	}
	return answer.Status.Token, nil
}

// writeKubeconfig writes an administrator's, for whoever reaches the API server at
// addr.
func (c *idleCluster) writeKubeconfig(file string, addr net.IP) error {
	_, port, err := net.SplitHostPort(c.config.Host[len("https://"):])
	if err != nil {
		return err
	}
	k := clientcmdapi.NewConfig()
	k.Clusters["bench"] = &clientcmdapi.Cluster{
		Server: "https://" + net.JoinHostPort(addr.String(), port), TLSServerName: "localhost", CertificateAuthorityData: c.config.CAData,
	}
	k.AuthInfos["bench"] = &clientcmdapi.AuthInfo{ClientCertificateData: c.config.CertData, ClientKeyData: c.config.KeyData}
	k.Contexts["bench"] = &clientcmdapi.Context{Cluster: "bench", AuthInfo: "bench"}
	k.CurrentContext = "bench"
	return clientcmd.WriteToFile(*k, file)
}
