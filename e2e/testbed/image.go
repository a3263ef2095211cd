//go:build linux

package testbed

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
)

// Images of the cluster's own, besides WorkloadImage.
const (
	pauseImage = "pcapsule.test/pause:e2e"
	dnsImage   = "pcapsule.test/coredns:e2e"
)

// writeImage writes an image of one static program, in the format of `docker
// save`, that runs it with these arguments.
func writeImage(archive, name, binary string, command []string) error {
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	layer, err := tarOf(file{filepath.Base(command[0]), 0o755, program})
	if err != nil {
		return err
	}
	digest := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Entrypoint": command, "Env": []string{"PATH=/"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(digest[:])}},
	})
	if err != nil {
		return err
	}
	index, err := json.Marshal([]map[string]any{{
		"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"},
	}})
	if err != nil {
		return err
	}
	data, err := tarOf(file{"manifest.json", 0o644, index}, file{"config.json", 0o644, config}, file{"layer.tar", 0o644, layer})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		return err
	}
	return os.WriteFile(archive, data, 0o644)
}

type file struct {
	name string
	mode int64
	data []byte
}

func tarOf(files ...file) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data))}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := io.Copy(w, bytes.NewReader(f.data)); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

// LoadImage loads an image that `docker save` or scripts/image wrote into every
// node.
func (c *Cluster) LoadImage(ctx context.Context, archive string) error {
	archive, err := filepath.Abs(archive)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, node := range c.Nodes {
		group.Go(func() error { return c.loadOn(ctx, node, archive) })
	}
	return group.Wait()
}

func (c *Cluster) loadOn(ctx context.Context, node, archive string) error {
	enter, err := c.Enter(node)
	if err != nil {
		return err
	}
	if _, err := run(ctx, append(enter, "ctr", "-n", "k8s.io", "images", "import", archive)...); err != nil {
		return fmt.Errorf("load %s into %s: %w", archive, node, err)
	}
	return nil
}
