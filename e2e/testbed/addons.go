//go:build linux

package testbed

import (
	"context"
	_ "embed"
	"fmt"
	"os/exec"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

//go:embed coredns.yaml
var corednsManifest string

// addons installs what a cluster has besides Kubernetes: DNS and storage.
func (c *Cluster) addons(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	// The roles that every API server starts with may come a moment after it is ready.
	if err := Poll(ctx, time.Minute, func() error { return c.storageClass(ctx, client) }); err != nil {
		return err
	}
	return c.Apply(ctx, strings.NewReplacer(
		"$IMAGE", dnsImage, "$SERVICE", dnsService, "$OUTSIDE", outsideAddr+" "+outsideHost,
	).Replace(corednsManifest))
}

// Apply applies a manifest as a person would.
func (c *Cluster) Apply(ctx context.Context, manifest string) error {
	return c.apply(ctx, manifest)
}

// DryRun asks the API server whether it would take a manifest.
func (c *Cluster) DryRun(ctx context.Context, manifest string) error {
	return c.apply(ctx, manifest, "--dry-run=server")
}

func (c *Cluster) apply(ctx context.Context, manifest string, flags ...string) error {
	args := append([]string{"--kubeconfig", c.Kubeconfig(), "apply", "-f", "-"}, flags...)
	cmd := exec.CommandContext(ctx, c.path("bin", "kubectl"), args...)
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w\n%s", err, out)
	}
	return nil
}

// awaitReady returns when all nodes are ready and the cluster's DNS serves.
func (c *Cluster) awaitReady(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	return Poll(ctx, 3*time.Minute, func() error {
		for _, name := range c.Nodes {
			node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if !nodeReady(node) {
				return fmt.Errorf("%s is not ready; see %s/%s-kubelet.log", name, c.Logs(), name)
			}
		}
		dns, err := client.AppsV1().Deployments("kube-system").Get(ctx, "coredns", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if dns.Status.AvailableReplicas == 0 {
			return fmt.Errorf("coredns is not available")
		}
		return nil
	})
}

func nodeReady(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
