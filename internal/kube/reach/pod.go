package reach

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// target is where a port-forward leads.
type target struct {
	pod  string
	port int32
}

// find finds a pod of the hub that is ready. Without one, the error says what
// keeps it.
func (h *Hub) find(ctx context.Context) (*target, error) {
	var list corev1.PodList
	err := h.client.Get().AbsPath("/api/v1/namespaces/"+h.Namespace+"/pods").Param("labelSelector", h.podSelector()).Do(ctx).Into(&list)
	if err != nil {
		return nil, h.problem("look for the hub's pod", err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int { return b.CreationTimestamp.Compare(a.CreationTimestamp.Time) })
	for i := range list.Items {
		if p := &list.Items[i]; ready(p) {
			port, err := h.targetPort(p)
			return &target{p.Name, port}, err
		}
	}
	if len(list.Items) == 0 {
		return nil, fmt.Errorf("the hub has no pod in namespace %s: see `kubectl -n %s get deployment,replicaset,events`", h.Namespace, h.Namespace)
	}
	p := &list.Items[0]
	return nil, fmt.Errorf("the hub's pod %s is not ready (%s): see `kubectl -n %s describe pod %s` and `kubectl -n %s logs %s`",
		p.Name, state(p), h.Namespace, p.Name, h.Namespace, p.Name)
}

func ready(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// state says what a pod waits for, as short as kubectl does, with the reason
// where Kubernetes gives one.
func state(p *corev1.Pod) string {
	if p.DeletionTimestamp != nil {
		return "it is being deleted"
	}
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		switch w, t := c.State.Waiting, c.State.Terminated; {
		case w != nil && w.Reason != "":
			return join(w.Reason, w.Message)
		case t != nil && t.ExitCode != 0:
			return fmt.Sprintf("%s, exit code %d", t.Reason, t.ExitCode)
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status != corev1.ConditionTrue {
			return join(c.Reason, c.Message)
		}
	}
	if p.Status.Phase == corev1.PodRunning {
		return "it runs, and has yet to become ready"
	}
	return join(string(p.Status.Phase), p.Status.Message)
}

func join(reason, message string) string {
	if message = strings.Join(strings.Fields(message), " "); message == "" {
		return reason
	}
	return fmt.Sprintf("%s: %.200s", reason, message)
}

// targetPort is the port of the pod that the service leads to.
func (h *Hub) targetPort(p *corev1.Pod) (int32, error) {
	t := h.port.TargetPort
	switch {
	case t.Type == intstr.Int && t.IntVal != 0:
		return t.IntVal, nil
	case t.Type == intstr.Int:
		return h.port.Port, nil
	}
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if port.Name == t.StrVal {
				return port.ContainerPort, nil
			}
		}
	}
	return 0, fmt.Errorf("the hub's pod %s has no port of the name %s, which its service leads to", p.Name, t.StrVal)
}
