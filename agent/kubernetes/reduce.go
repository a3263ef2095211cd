package kubernetes

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"pcapsule/cluster"
)

// maxMessage bounds the message of an event, of which Kubernetes keeps 1024 bytes.
const maxMessage = 4096

// reduce makes a record of an object of the API, with the little of it that is
// ever recorded. It is nil for an object of a kind that is not. Only time and op
// are left to set.
func reduce(o runtime.Object) *cluster.Record {
	switch o := o.(type) {
	case *corev1.Pod:
		return &cluster.Record{Pod: reducePod(o)}
	case *corev1.Service:
		return &cluster.Record{Service: reduceService(o)}
	case *discoveryv1.EndpointSlice:
		return &cluster.Record{Endpoints: reduceEndpoints(o)}
	case *corev1.Node:
		return &cluster.Record{Node: reduceNode(o)}
	case *corev1.Namespace:
		return &cluster.Record{Namespace: &cluster.Namespace{Meta: reduceMeta(&o.ObjectMeta), Phase: string(o.Status.Phase)}}
	case *corev1.Event:
		return &cluster.Record{Event: reduceEvent(o)}
	}
	if w := reduceWorkload(o); w != nil {
		return &cluster.Record{Workload: w}
	}
	return nil
}

func reduceMeta(m *metav1.ObjectMeta) cluster.Meta {
	out := cluster.Meta{
		UID: string(m.UID), Namespace: m.Namespace, Name: m.Name, Created: timeOf(m.CreationTimestamp), Labels: m.Labels,
	}
	if m.DeletionTimestamp != nil { // by when it is to be gone
		asked := m.DeletionTimestamp.Time
		if s := m.DeletionGracePeriodSeconds; s != nil {
			asked = asked.Add(-time.Duration(*s) * time.Second)
		}
		out.Deleted = plainTime(asked)
	}
	if owner := metav1.GetControllerOfNoCopy(m); owner != nil {
		out.Owner = &cluster.Ref{Kind: owner.Kind, Name: owner.Name, UID: string(owner.UID)}
	}
	return out
}

// timeOf is a time of the API; none when a record cannot tell it.
func timeOf(t metav1.Time) time.Time { return plainTime(t.Time) }

func plainTime(t time.Time) time.Time {
	if t.IsZero() || !cluster.Representable(t) {
		return time.Time{}
	}
	return t.UTC()
}

func reducePod(p *corev1.Pod) *cluster.Pod {
	out := &cluster.Pod{
		Meta: reduceMeta(&p.ObjectMeta), Node: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork,
		Phase: string(p.Status.Phase), Reason: p.Status.Reason, ServiceAccount: p.Spec.ServiceAccountName,
	}
	for _, ip := range p.Status.PodIPs {
		out.Addresses = append(out.Addresses, ip.IP)
	}
	if len(out.Addresses) == 0 && p.Status.PodIP != "" {
		out.Addresses = []string{p.Status.PodIP}
	}
	if t := p.Status.StartTime; t != nil {
		out.Started = timeOf(*t)
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReadyToStartContainers && c.Status == corev1.ConditionTrue {
			out.Sandboxed = timeOf(c.LastTransitionTime)
		}
	}
	for i := range p.Spec.InitContainers {
		out.Containers = append(out.Containers, reduceContainer(&p.Spec.InitContainers[i], p.Status.InitContainerStatuses))
	}
	for i := range p.Spec.Containers {
		out.Containers = append(out.Containers, reduceContainer(&p.Spec.Containers[i], p.Status.ContainerStatuses))
	}
	for i := range p.Spec.EphemeralContainers {
		c := corev1.Container(p.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		out.Containers = append(out.Containers, reduceContainer(&c, p.Status.EphemeralContainerStatuses))
	}
	return out
}

func reduceContainer(c *corev1.Container, list []corev1.ContainerStatus) cluster.Container {
	out := cluster.Container{Name: c.Name, Image: c.Image}
	for _, p := range c.Ports {
		out.Ports = append(out.Ports, cluster.Port{
			Name: p.Name, Protocol: string(p.Protocol), Port: int(p.ContainerPort), HostPort: int(p.HostPort),
		})
	}
	for i := range list {
		if list[i].Name == c.Name {
			reduceStatus(&out, &list[i])
		}
	}
	return out
}

// reduceStatus leaves out messages, in which a container can say what it likes.
func reduceStatus(out *cluster.Container, s *corev1.ContainerStatus) {
	out.ImageID, out.ID, out.Restarts = s.ImageID, s.ContainerID, int(s.RestartCount)
	switch {
	case s.State.Running != nil:
		out.State, out.Started = "running", timeOf(s.State.Running.StartedAt)
	case s.State.Terminated != nil:
		t := s.State.Terminated
		out.State, out.Reason, out.ExitCode = "terminated", t.Reason, int(t.ExitCode)
		out.Started, out.Finished = timeOf(t.StartedAt), timeOf(t.FinishedAt)
	case s.State.Waiting != nil:
		out.State, out.Reason = "waiting", s.State.Waiting.Reason
	}
	if t := s.LastTerminationState.Terminated; t != nil {
		out.Last = &cluster.LastRun{
			Reason: t.Reason, ExitCode: int(t.ExitCode), Started: timeOf(t.StartedAt), Finished: timeOf(t.FinishedAt),
		}
	}
}

func reduceService(s *corev1.Service) *cluster.Service {
	out := &cluster.Service{Meta: reduceMeta(&s.ObjectMeta), Type: string(s.Spec.Type), Selector: s.Spec.Selector}
	addresses := s.Spec.ClusterIPs
	if len(addresses) == 0 {
		addresses = []string{s.Spec.ClusterIP}
	}
	for _, ip := range addresses {
		if ip != "" && ip != corev1.ClusterIPNone {
			out.Addresses = append(out.Addresses, ip)
		}
	}
	out.External = append(out.External, s.Spec.ExternalIPs...)
	for _, in := range s.Status.LoadBalancer.Ingress {
		for _, a := range []string{in.IP, in.Hostname} {
			if a != "" {
				out.External = append(out.External, a)
			}
		}
	}
	if s.Spec.ExternalName != "" {
		out.External = append(out.External, s.Spec.ExternalName)
	}
	for _, p := range s.Spec.Ports {
		port := cluster.Port{Name: p.Name, Protocol: string(p.Protocol), Port: int(p.Port), NodePort: int(p.NodePort)}
		if t := p.TargetPort.String(); t != "0" {
			port.Target = t
		}
		out.Ports = append(out.Ports, port)
	}
	return out
}

func reduceEndpoints(s *discoveryv1.EndpointSlice) *cluster.Endpoints {
	out := &cluster.Endpoints{Meta: reduceMeta(&s.ObjectMeta), Service: s.Labels[discoveryv1.LabelServiceName]}
	for _, p := range s.Ports {
		var port cluster.Port
		if p.Name != nil {
			port.Name = *p.Name
		}
		if p.Protocol != nil {
			port.Protocol = string(*p.Protocol)
		}
		if p.Port != nil {
			port.Port = int(*p.Port)
		}
		out.Ports = append(out.Ports, port)
	}
	for _, e := range s.Endpoints {
		m := cluster.Endpoint{Addresses: e.Addresses}
		if e.NodeName != nil {
			m.Node = *e.NodeName
		}
		// No word on readiness means ready.
		m.Ready = e.Conditions.Ready == nil || *e.Conditions.Ready
		m.Terminating = e.Conditions.Terminating != nil && *e.Conditions.Terminating
		if r := e.TargetRef; r != nil && r.Kind == "Pod" {
			m.Pod = &cluster.Ref{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name, UID: string(r.UID)}
		}
		out.Members = append(out.Members, m)
	}
	return out
}

func reduceNode(n *corev1.Node) *cluster.Node {
	out := &cluster.Node{
		Meta: reduceMeta(&n.ObjectMeta), PodRanges: n.Spec.PodCIDRs, Unschedulable: n.Spec.Unschedulable,
		Kubelet: n.Status.NodeInfo.KubeletVersion, Runtime: n.Status.NodeInfo.ContainerRuntimeVersion,
	}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			out.Addresses = append(out.Addresses, a.Address)
		}
	}
	for _, c := range n.Status.Conditions {
		if out.Conditions == nil {
			out.Conditions = map[string]string{}
		}
		out.Conditions[string(c.Type)] = string(c.Status)
	}
	return out
}

// reduceWorkload is nil for what is none.
func reduceWorkload(o runtime.Object) *cluster.Workload {
	switch o := o.(type) {
	case *appsv1.Deployment:
		return workload("Deployment", &o.ObjectMeta, wanted(o.Spec.Replicas), o.Status.ReadyReplicas, o.Spec.Selector)
	case *appsv1.ReplicaSet:
		return workload("ReplicaSet", &o.ObjectMeta, wanted(o.Spec.Replicas), o.Status.ReadyReplicas, o.Spec.Selector)
	case *appsv1.StatefulSet:
		return workload("StatefulSet", &o.ObjectMeta, wanted(o.Spec.Replicas), o.Status.ReadyReplicas, o.Spec.Selector)
	case *appsv1.DaemonSet:
		return workload("DaemonSet", &o.ObjectMeta, o.Status.DesiredNumberScheduled, o.Status.NumberReady, o.Spec.Selector)
	case *batchv1.Job:
		ready := int32(0)
		if o.Status.Ready != nil {
			ready = *o.Status.Ready
		}
		return workload("Job", &o.ObjectMeta, wanted(o.Spec.Parallelism), ready, o.Spec.Selector)
	case *batchv1.CronJob:
		return workload("CronJob", &o.ObjectMeta, int32(len(o.Status.Active)), 0, nil)
	}
	return nil
}

// wanted is a number of replicas, which is 1 where none is given.
func wanted(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

func workload(kind string, m *metav1.ObjectMeta, replicas, ready int32, selector *metav1.LabelSelector) *cluster.Workload {
	out := &cluster.Workload{Meta: reduceMeta(m), Kind: kind, Replicas: int(replicas), Ready: int(ready)}
	if selector != nil {
		out.Selector = selector.MatchLabels
	}
	return out
}

// reduceEvent knows both ways of writing events: with first and last time and a
// count, and with one time and a series.
func reduceEvent(e *corev1.Event) *cluster.Event {
	out := &cluster.Event{
		Meta: reduceMeta(&e.ObjectMeta), Type: e.Type, Reason: e.Reason, Message: e.Message,
		About: cluster.Ref{
			Kind: e.InvolvedObject.Kind, Namespace: e.InvolvedObject.Namespace, Name: e.InvolvedObject.Name, UID: string(e.InvolvedObject.UID),
		},
		Source: e.Source.Component, Host: e.Source.Host, Count: int(e.Count),
		First: timeOf(e.FirstTimestamp), Last: timeOf(e.LastTimestamp),
	}
	if len(out.Message) > maxMessage {
		out.Message = fmt.Sprintf("%s…", out.Message[:maxMessage-len("…")]) // what this tears, encoding mends
	}
	if out.Source == "" {
		out.Source = e.ReportingController
	}
	if out.First.IsZero() {
		out.First = plainTime(e.EventTime.Time)
	}
	if s := e.Series; s != nil {
		out.Count = max(out.Count, int(s.Count))
		if last := plainTime(s.LastObservedTime.Time); last.After(out.Last) {
			out.Last = last
		}
	}
	if out.Last.IsZero() {
		out.Last = out.First
	}
	return out
}
