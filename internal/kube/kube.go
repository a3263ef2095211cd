// Package kube connects to a Kubernetes API server: from inside a pod with its
// service account, or from a workstation by what kubectl finds there.
//
// It is a leaf that knows nothing of pcapsule, and it keeps the client small:
// no clientset of all API groups, only a REST client of the few types that a
// caller names (NewClient). All of pcapsule is one binary, and what a package
// registers when the program starts, every agent on every node pays for.
package kube

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	_ "k8s.io/client-go/plugin/pkg/client/auth/oidc" // kubeconfigs may ask for it; exec plugins need no import
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// namespaceFile is where the kubelet tells a pod its namespace.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// ErrNoCluster is wrapped by Find's error when no kubeconfig says which cluster
// to talk to.
var ErrNoCluster = errors.New("no kubeconfig tells which cluster to talk to")

// A Location says which cluster is meant, as kubectl's flags of these names do.
// Its zero value is the current context of the user's kubeconfig ($KUBECONFIG,
// or ~/.kube/config), or the cluster of the pod that this process runs in.
type Location struct {
	Kubeconfig string // file
	Context    string // of the kubeconfig
}

// A Cluster is how to talk to one.
type Cluster struct {
	Config    *rest.Config
	Context   string // its name in the kubeconfig; "" in a pod
	Namespace string // of the context, or of the pod
}

// String names the cluster for people.
func (c *Cluster) String() string {
	if c.Context == "" {
		return "the cluster of this pod"
	}
	return fmt.Sprintf("the cluster of context %s", c.Context)
}

// Find finds the cluster that is meant. It does not connect.
func Find(at Location) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = at.Kubeconfig
	rules.WarnIfAllMissing = false
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: at.Context})
	cfg, err := loader.ClientConfig()
	switch {
	case clientcmd.IsEmptyConfig(err):
		return nil, ErrNoCluster
	case err != nil:
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	c := &Cluster{Config: prepared(cfg), Context: at.Context}
	if c.Namespace, _, err = loader.Namespace(); err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	if raw, err := loader.RawConfig(); err == nil && c.Context == "" {
		c.Context = raw.CurrentContext
	}
	return c, nil
}

// Contexts lists the names of the contexts of a kubeconfig, the given file or
// the user's.
func Contexts(kubeconfig string) ([]string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	cfg, err := rules.Load()
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	var names []string
	for name := range cfg.Contexts {
		names = append(names, name)
	}
	return names, nil
}

// InCluster is for a process in a pod: with the pod's service account, whose
// token is read again as the kubelet rotates it.
func InCluster() (*rest.Config, error) {
	cfg, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, errors.New("this process runs in no pod, or its pod has no service account token (automountServiceAccountToken)")
	}
	if err != nil {
		return nil, fmt.Errorf("talk to the API server of this pod: %w", err)
	}
	return prepared(cfg), nil
}

// Namespace is the one of the pod that this process runs in.
func Namespace() (string, error) {
	b, err := os.ReadFile(namespaceFile)
	if errors.Is(err, os.ErrNotExist) {
		return "", errors.New("this process runs in no pod, so it has no namespace of its own")
	}
	if err != nil {
		return "", fmt.Errorf("read the pod's namespace: %w", err)
	}
	ns := strings.TrimSpace(string(b))
	if ns == "" {
		return "", fmt.Errorf("%s is empty", namespaceFile)
	}
	return ns, nil
}

// prepared sets what all of pcapsule's requests have in common.
func prepared(cfg *rest.Config) *rest.Config {
	cfg.UserAgent = "pcapsule"
	cfg.WarningHandler = rest.NoWarnings{} // deprecations are for us, not for users
	return cfg
}

// NewClient is a REST client that knows the types that add registers, such as
// authenticationv1.AddToScheme. Requests say their paths in full (AbsPath).
// It makes no more than qps requests a second, a burst of twice that apart.
func NewClient(cfg *rest.Config, qps float32, add ...func(*runtime.Scheme) error) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	for _, f := range add {
		if err := f(scheme); err != nil {
			return nil, fmt.Errorf("register types: %w", err)
		}
	}
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.Burst = qps, int(2*qps)
	cfg.ContentType = runtime.ContentTypeJSON
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c, err := rest.UnversionedRESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("make a client of the API server: %w", err)
	}
	return c, nil
}

// SetLogger sends what the Kubernetes libraries log, which they do through a
// global, to logger. It is for main to call, before anything else here is.
func SetLogger(logger *slog.Logger) { klog.SetSlogLogger(logger) }
