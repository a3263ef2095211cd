//go:build linux

package testbed

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
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

// Apply applies a manifest as a person would. Namespaces come first, and the rest
// waits for their default service accounts, which a controller makes a moment
// later: until then the API server refuses pods.
func (c *Cluster) Apply(ctx context.Context, manifest string) error {
	namespaces, first, err := namespacesOf(manifest)
	if err != nil {
		return err
	}
	if len(namespaces) > 0 {
		if err := c.apply(ctx, first); err != nil {
			return err
		}
	}
	for _, name := range namespaces {
		if err := c.AwaitNamespace(ctx, name); err != nil {
			return err
		}
	}
	return c.apply(ctx, manifest)
}

// namespacesOf names the namespaces that a manifest makes, and returns the
// documents that make them.
func namespacesOf(manifest string) (names []string, documents string, err error) {
	reader := yaml.NewYAMLReader(bufio.NewReader(strings.NewReader(manifest)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return names, documents, nil
		}
		if err != nil {
			return nil, "", fmt.Errorf("split the manifest: %w", err)
		}
		var object metav1.PartialObjectMetadata
		if err := yaml.Unmarshal(document, &object); err != nil {
			return nil, "", fmt.Errorf("read the manifest: %w", err)
		}
		if object.Kind == "Namespace" {
			names = append(names, object.Name)
			documents += "---\n" + string(document)
		}
	}
}

// AwaitNamespace returns when pods can be made in a namespace: when it has its
// default service account.
func (c *Cluster) AwaitNamespace(ctx context.Context, name string) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	err = Poll(ctx, time.Minute, func() error {
		_, err := client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for the default service account of namespace %s: %w", name, err)
	}
	return nil
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
