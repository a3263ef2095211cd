// Package tools finds the pinned tools that build.sh builds. It is for tests and
// for the programs beside the product, which run from a checkout.
package tools

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Path returns the binary of a module's tool: Path(ctx, "kubernetes", "kubelet"),
// or Path(ctx, "minio") of a module with but one. It is built first when that has
// not been done on this machine, which may take minutes.
func Path(ctx context.Context, module string, tool ...string) (string, error) {
	root, err := Root(ctx)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, "tools", "build.sh"), append([]string{module}, tool...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", cmd.Args[len(cmd.Args)-1], err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}

// Root returns the folder of the checkout that the working directory is in.
func Root(ctx context.Context) (string, error) {
	gomod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(gomod))), nil
}
