//go:build linux

package testbed

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// provisioner is what the storage class is provisioned by.
const provisioner = "pcapsule.test/folder"

// volumes is where a node keeps its volumes.
const volumes = "/var/lib/volumes"

func (c *Cluster) storageClass(ctx context.Context, client kubernetes.Interface) error {
	wait := storagev1.VolumeBindingWaitForFirstConsumer
	_, err := client.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
		ObjectMeta:        metav1.ObjectMeta{Name: StorageClass},
		Provisioner:       provisioner,
		VolumeBindingMode: &wait,
	}, metav1.CreateOptions{})
	return err
}

// provision makes a volume for each claim of the storage class whose pod has a
// node by now: a folder of that node. It removes volumes, with what they hold,
// whose claims are deleted.
func (c *Cluster) provision(ctx context.Context, log *slog.Logger) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := c.provisionOnce(ctx, client); err != nil && ctx.Err() == nil {
			log.Warn("volumes are not provisioned", "err", err) // the API server may be down for a test
		}
	}
}

func (c *Cluster) provisionOnce(ctx context.Context, client kubernetes.Interface) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	claims, err := client.CoreV1().PersistentVolumeClaims("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list claims: %w", err)
	}
	for _, claim := range claims.Items {
		class, node := claim.Spec.StorageClassName, claim.Annotations["volume.kubernetes.io/selected-node"]
		if class == nil || *class != StorageClass || claim.Spec.VolumeName != "" || !slices.Contains(c.Nodes, node) {
			continue
		}
		volume := volumeFor(&claim, node)
		if err := os.MkdirAll(c.volumeFolder(volume), 0o755); err != nil {
			return fmt.Errorf("make a volume: %w", err)
		}
		_, err := client.CoreV1().PersistentVolumes().Create(ctx, volume, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("make a volume: %w", err)
		}
	}
	made, err := client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list volumes: %w", err)
	}
	for _, volume := range made.Items {
		if volume.Status.Phase != corev1.VolumeReleased || volume.Annotations["pv.kubernetes.io/provisioned-by"] != provisioner {
			continue
		}
		if err := os.RemoveAll(c.volumeFolder(&volume)); err != nil {
			return fmt.Errorf("empty a volume: %w", err)
		}
		if err := client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{}); err != nil {
			return fmt.Errorf("delete a volume: %w", err)
		}
	}
	return nil
}

// volumeFolder returns the folder of a volume as the host sees it.
func (c *Cluster) volumeFolder(volume *corev1.PersistentVolume) string {
	return c.path("nodes", volume.Labels["kubernetes.io/hostname"], "root", volumes, volume.Name)
}

func volumeFor(claim *corev1.PersistentVolumeClaim, node string) *corev1.PersistentVolume {
	name := "pvc-" + string(claim.UID)
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Labels:      map[string]string{"kubernetes.io/hostname": node},
			Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": provisioner},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      claim.Spec.Resources.Requests,
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			StorageClassName:              StorageClass,
			ClaimRef: &corev1.ObjectReference{
				Kind: "PersistentVolumeClaim", APIVersion: "v1",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				// Unlike a hostPath, this gets the group that the pod asks for.
				Local: &corev1.LocalVolumeSource{Path: filepath.Join(volumes, name)},
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: "kubernetes.io/hostname", Operator: corev1.NodeSelectorOpIn, Values: []string{node},
				}}}},
			}},
		},
	}
}

// VolumeFolder returns the folder of a provisioned volume, as the host sees it.
func (c *Cluster) VolumeFolder(ctx context.Context, name string) (string, error) {
	client, err := c.Client()
	if err != nil {
		return "", err
	}
	volume, err := client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("find volume %s: %w", name, err)
	}
	return c.volumeFolder(volume), nil
}
