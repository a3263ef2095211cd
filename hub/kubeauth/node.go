package kubeauth

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// NodeGone tells whether the cluster has no node of this name; it is a hub's
// Config.NodeGone. An answer that is none is an error: no node is taken for gone
// because nobody could say.
func (a *Authority) NodeGone(ctx context.Context, node string) (bool, error) {
	var found corev1.Node
	err := a.cfg.Client.Get().AbsPath("/api/v1/nodes", node).MaxRetries(1).Do(ctx).Into(&found)
	var status *apierrors.StatusError
	switch {
	// An API server says what it did not find; something in its place says 404.
	case errors.As(err, &status) && apierrors.IsNotFound(err) && status.ErrStatus.Details != nil &&
		status.ErrStatus.Details.Kind == "nodes" && status.ErrStatus.Details.Name == node:
		return true, nil
	case err != nil:
		return false, fmt.Errorf("ask the API server for node %s: %w", node, err)
	case found.Name != node:
		return false, fmt.Errorf("ask the API server for node %s: it answered with %q", node, found.Name)
	}
	return false, nil
}
