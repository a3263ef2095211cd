package kubernetes

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// newClient is a REST client of the types that are recorded, and of leases. It
// asks for protobuf, which takes the API server, the network and this process a
// fraction of what JSON takes.
func newClient(cfg *rest.Config) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, discoveryv1.AddToScheme, coordinationv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("register types: %w", err)
		}
	}
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.Burst = 20, 40
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c, err := rest.UnversionedRESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	return c, nil
}

// A resource is what the API server lists and watches under one path.
type resource struct {
	name string // as in URLs and in RBAC
	path string
	list func() runtime.Object // an empty list of it
}

func (r resource) events() bool { return r.name == eventsResource }

const (
	namespacesResource = "namespaces"
	nodesResource      = "nodes"
	eventsResource     = "events"
)

// resources are all that are recorded, in the order of keyframes. Events come
// last: they are no part of the state.
//
// Nothing else is ever asked for: no Secrets, no ConfigMaps, no subresources.
func resources() []resource {
	return []resource{
		{namespacesResource, "/api/v1/namespaces", func() runtime.Object { return new(corev1.NamespaceList) }},
		{nodesResource, "/api/v1/nodes", func() runtime.Object { return new(corev1.NodeList) }},
		{"deployments", "/apis/apps/v1/deployments", func() runtime.Object { return new(appsv1.DeploymentList) }},
		{"replicasets", "/apis/apps/v1/replicasets", func() runtime.Object { return new(appsv1.ReplicaSetList) }},
		{"statefulsets", "/apis/apps/v1/statefulsets", func() runtime.Object { return new(appsv1.StatefulSetList) }},
		{"daemonsets", "/apis/apps/v1/daemonsets", func() runtime.Object { return new(appsv1.DaemonSetList) }},
		{"jobs", "/apis/batch/v1/jobs", func() runtime.Object { return new(batchv1.JobList) }},
		{"cronjobs", "/apis/batch/v1/cronjobs", func() runtime.Object { return new(batchv1.CronJobList) }},
		{"services", "/api/v1/services", func() runtime.Object { return new(corev1.ServiceList) }},
		{"endpointslices", "/apis/discovery.k8s.io/v1/endpointslices", func() runtime.Object { return new(discoveryv1.EndpointSliceList) }},
		{"pods", "/api/v1/pods", func() runtime.Object { return new(corev1.PodList) }},
		{eventsResource, "/api/v1/events", func() runtime.Object { return new(corev1.EventList) }},
	}
}
