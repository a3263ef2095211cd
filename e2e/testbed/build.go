//go:build linux

package testbed

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"pcapsule/tools"
)

// pinned are the modules and tools that the cluster is made of.
var pinned = [][]string{
	{"kubernetes", "kube-apiserver"}, {"kubernetes", "kube-controller-manager"}, {"kubernetes", "kube-scheduler"},
	{"etcd"}, {"kubernetes", "kubelet"}, {"kubernetes", "kube-proxy"}, {"kubernetes", "kubectl"},
	{"coredns"}, {"minio"}, {"helm"},
}

// build collects all programs in the folder bin, under their plain names.
func (c *Cluster) build(ctx context.Context) error {
	if err := os.MkdirAll(c.path("bin"), 0o755); err != nil {
		return err
	}
	for _, tool := range pinned {
		binary, err := tools.Path(ctx, tool[0], tool[1:]...)
		if err != nil {
			return err
		}
		if err := os.Symlink(binary, c.path("bin", tool[len(tool)-1])); err != nil {
			return err
		}
	}
	root, err := tools.Root(ctx)
	if err != nil {
		return err
	}
	for _, program := range []string{"cluster", "workload"} {
		if err := GoBuild(ctx, root, "./e2e/"+program, c.path("bin", program)); err != nil {
			return err
		}
	}
	for image, entry := range map[string]struct{ binary, archive string }{
		pauseImage:    {"workload", "pause.tar"},
		WorkloadImage: {"workload", "workload.tar"},
		dnsImage:      {"coredns", "coredns.tar"},
	} {
		command := []string{"/" + entry.binary}
		if image == pauseImage {
			command = append(command, "pause")
		}
		if err := writeImage(c.path("images", entry.archive), image, c.path("bin", entry.binary), command); err != nil {
			return fmt.Errorf("make image %s: %w", image, err)
		}
	}
	return nil
}

// GoBuild builds a static program of the checkout.
func GoBuild(ctx context.Context, root, pkg, binary string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", filepath.Base(pkg), err, out)
	}
	return nil
}
