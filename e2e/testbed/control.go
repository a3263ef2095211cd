//go:build linux

package testbed

import (
	"context"
	"fmt"
	"os"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// controlPlane starts etcd, the API server, the controllers and the scheduler,
// and the helper by which the host reaches the API server.
func (c *Cluster) controlPlane(ctx context.Context) error {
	if err := c.makeCgroup("system"); err != nil {
		return err
	}
	if err := os.MkdirAll(c.memory(), 0o700); err != nil {
		return err
	}
	if err := c.start(daemon{name: "etcd", in: c.inNet("control"), args: []string{
		"etcd", "--data-dir", c.memory() + "/etcd", "--logger", "zap", "--log-level", "warn",
		"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
	}}); err != nil {
		return err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	if err := c.start(daemon{name: "helper", args: []string{c.path("bin", "cluster"), "help-host", c.Dir}}); err != nil {
		return err
	}
	if err := c.save(); err != nil { // the helper reads it
		return err
	}
	for _, d := range []daemon{
		{name: "kube-controller-manager", args: []string{
			"--kubeconfig=" + c.path("keys", "controller-manager.kubeconfig"),
			"--use-service-account-credentials", "--service-account-private-key-file=" + c.path("keys", "sa.key"),
			"--root-ca-file=" + c.path("keys", "ca.crt"),
			"--leader-elect=false", "--bind-address=127.0.0.1",
			"--cluster-cidr=" + podRange, "--allocate-node-cidrs=false",
		}},
		{name: "kube-scheduler", args: []string{
			"--kubeconfig=" + c.path("keys", "scheduler.kubeconfig"),
			"--leader-elect=false", "--bind-address=127.0.0.1",
		}},
	} {
		d.in, d.args = c.inNet("control"), append([]string{d.name}, d.args...)
		if err := c.start(d); err != nil {
			return err
		}
	}
	return c.AwaitAPIServer(ctx)
}

// StartAPIServer starts the API server, first or after a Kill("kube-apiserver").
func (c *Cluster) StartAPIServer(context.Context) error {
	key := func(name string) string { return c.path("keys", name) }
	return c.start(daemon{name: "kube-apiserver", in: c.inNet("control"), args: []string{
		"kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=" + controlAddr, "--secure-port=" + apiPort,
		"--service-cluster-ip-range=" + serviceNet,
		"--allow-privileged",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--client-ca-file=" + key("ca.crt"),
		"--tls-cert-file=" + key("apiserver.crt"), "--tls-private-key-file=" + key("apiserver.key"),
		"--kubelet-certificate-authority=" + key("ca.crt"),
		"--kubelet-client-certificate=" + key("apiserver-kubelet.crt"),
		"--kubelet-client-key=" + key("apiserver-kubelet.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=" + issuer,
		"--service-account-key-file=" + key("sa.key"), "--service-account-signing-key-file=" + key("sa.key"),
	}})
}

// AwaitAPIServer returns when the API server answers the host.
func (c *Cluster) AwaitAPIServer(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	return Poll(ctx, 2*time.Minute, func() error {
		if _, err := c.pid("kube-apiserver"); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	})
}

// Config returns settings of an administrator's client on the host.
func (c *Cluster) Config() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read the cluster's kubeconfig: %w", err)
	}
	config.QPS = -1
	return config, nil
}

// Client returns an administrator's client on the host.
func (c *Cluster) Client() (*kubernetes.Clientset, error) {
	config, err := c.Config()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}
