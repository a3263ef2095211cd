// Package reach finds the hub of a cluster, a way to it, and a token to go with:
// what a person with a kubeconfig needs, and nothing that they must set up.
//
// The hub is found by its labels; the way is a port-forward to its pod, through
// the API server; the token is one of the service account of a role, made for
// the hub alone and for ten minutes. So Kubernetes decides, and records, who may
// be what, and no password of the hub's is kept anywhere.
package reach

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"

	"pcapsule/internal/kube"
)

// DefaultNamespace is where a hub is looked for first.
const DefaultNamespace = "pcapsule"

// Labels that the chart gives.
const (
	selector      = "app.kubernetes.io/name=pcapsule,app.kubernetes.io/component=hub"
	labelInstance = "app.kubernetes.io/instance"
	labelRole     = "pcapsule.role"
)

// A Hub is one that was found in a cluster. Its methods may be called
// concurrently.
type Hub struct {
	Namespace string
	Service   string
	URL       string // for which its certificate is good; only Dial leads there
	CA        []byte // PEM: who vouches for it

	cluster *kube.Cluster
	client  rest.Interface
	service *corev1.Service
	port    *corev1.ServicePort

	mu  sync.Mutex
	pod *target // that the last Dial led to
}

// Find finds the hub of a cluster: in the namespace, or with none in
// DefaultNamespace or that of the cluster's context. Its error tells a person
// what to do.
func Find(ctx context.Context, cluster *kube.Cluster, namespace string) (*Hub, error) {
	client, err := kube.NewClient(cluster.Config, 50, corev1.AddToScheme, authenticationv1.AddToScheme)
	if err != nil {
		return nil, err
	}
	h := &Hub{cluster: cluster, client: client}
	where := []string{namespace}
	if namespace == "" {
		where = slices.Compact([]string{DefaultNamespace, cluster.Namespace})
	}
	var refused error
	for _, ns := range where {
		found, err := h.services(ctx, ns)
		switch {
		case apierrors.IsForbidden(err):
			refused = cmp.Or(refused, err)
		case err != nil:
			return nil, h.problem("look for a hub in namespace "+ns, err)
		case len(found) > 1:
			var names []string
			for _, s := range found {
				names = append(names, s.Name)
			}
			return nil, fmt.Errorf("namespace %s has several hubs (%s): forward a port of one, and name it with --hub", ns, strings.Join(names, ", "))
		case len(found) == 1:
			return h, h.take(ctx, found[0])
		}
	}
	if refused != nil {
		return nil, fmt.Errorf("you may not look for a hub in namespace %s: name its namespace with --hub-namespace, or ask for a RoleBinding there to the Role that ends in -viewer-access (Kubernetes says: %w)",
			strings.Join(where, " or "), refused)
	}
	return nil, h.none(ctx, where)
}

// services are those of hubs in a namespace, or with none in all.
func (h *Hub) services(ctx context.Context, namespace string) ([]corev1.Service, error) {
	path := "/api/v1/services"
	if namespace != "" {
		path = "/api/v1/namespaces/" + namespace + "/services"
	}
	var list corev1.ServiceList
	err := h.client.Get().AbsPath(path).Param("labelSelector", selector).Do(ctx).Into(&list)
	return list.Items, err
}

// none says that there is no hub, and what there is instead.
func (h *Hub) none(ctx context.Context, where []string) error {
	in := strings.Join(where, " or ")
	elsewhere, err := h.services(ctx, "")
	if err == nil && len(elsewhere) > 0 {
		var at []string
		for _, s := range elsewhere {
			at = append(at, s.Namespace)
		}
		return fmt.Errorf("there is no hub in namespace %s of %s, but in %s: name that with --hub-namespace", in, h.cluster, strings.Join(slices.Compact(at), ", "))
	}
	return fmt.Errorf("there is no hub in namespace %s of %s: name another with --hub-namespace or --kube-context, or install one with `helm install pcapsule charts/pcapsule -n %s --create-namespace`",
		in, h.cluster, DefaultNamespace)
}

// take fills in what there is to know of a hub's service.
func (h *Hub) take(ctx context.Context, s corev1.Service) error {
	h.service, h.Namespace, h.Service = &s, s.Namespace, s.Name
	for i := range s.Spec.Ports {
		if p := &s.Spec.Ports[i]; p.Name == "https" {
			h.port = p
		}
	}
	if h.port == nil {
		return fmt.Errorf("service %s in namespace %s has no port of the name https: is it a hub that pcapsule's chart installed?", s.Name, s.Namespace)
	}
	h.URL = fmt.Sprintf("https://%s.%s.svc:%d", s.Name, s.Namespace, h.port.Port)
	var bundle corev1.ConfigMap
	name := s.Name + "-ca"
	err := h.client.Get().AbsPath("/api/v1/namespaces/" + s.Namespace + "/configmaps/" + name).Do(ctx).Into(&bundle)
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("there is no ConfigMap %s in namespace %s to know the hub's certificate by: did the installation complete?", name, s.Namespace)
	case err != nil:
		return h.problem("read the hub's CA", err)
	case bundle.Data["ca.crt"] == "":
		return fmt.Errorf("the ConfigMap %s in namespace %s has no ca.crt yet to know the hub's certificate by: try again in a moment", name, s.Namespace)
	}
	h.CA = []byte(bundle.Data["ca.crt"])
	return nil
}

// Name says which hub it is, whatever the user calls its cluster.
func (h *Hub) Name() string {
	return fmt.Sprintf("%s/%s in %s", h.Namespace, h.Service, h.cluster.Config.Host)
}

// ID names the hub in one word, by which a user knows it again: its cluster, by
// the address and the CA of the API server, its namespace and its service.
func (h *Hub) ID() string {
	ca := h.cluster.Config.CAData
	if len(ca) == 0 && h.cluster.Config.CAFile != "" {
		ca, _ = os.ReadFile(h.cluster.Config.CAFile) // without it no request would have come this far
	}
	id := strings.TrimRight(h.cluster.Config.Host, "/")
	if len(ca) > 0 {
		sum := sha256.Sum256(bytes.TrimSpace(ca))
		id += "#" + hex.EncodeToString(sum[:6])
	}
	return id + "/" + h.Namespace + "/" + h.Service
}

// Whoami is the user that the kubeconfig makes somebody, or "" when that cannot
// be told.
func (h *Hub) Whoami(ctx context.Context) string {
	var self authenticationv1.SelfSubjectReview
	err := h.client.Post().AbsPath("/apis/authentication.k8s.io/v1/selfsubjectreviews").Body(&authenticationv1.SelfSubjectReview{}).Do(ctx).Into(&self)
	if err != nil {
		return ""
	}
	return self.Status.UserInfo.Username
}

// problem says for people why the API server does not do what a person wants.
func (h *Hub) problem(what string, err error) error {
	plugin := kube.PluginFailure(h.cluster, err)
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case plugin != nil: // the cluster was not even asked
		return fmt.Errorf("%w (to %s)", plugin, what)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s: %s does not know you: log in again as you do for kubectl (%w)", what, h.cluster, err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%s: you may not: ask for a RoleBinding in namespace %s to the Role of the hub that ends in -access (Kubernetes says: %w)",
			what, cmp.Or(h.Namespace, "of the hub"), err)
	case apierrors.ReasonForError(err) == "":
		return fmt.Errorf("%s: %s does not answer: does kubectl reach it? (%w)", what, h.cluster, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// podSelector selects the hub's pods.
func (h *Hub) podSelector() string { return labels.SelectorFromSet(h.service.Spec.Selector).String() }
