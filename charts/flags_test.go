package charts_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The program knows every flag that the chart passes, and the values are such
// that the flag takes.
func TestFlags(t *testing.T) {
	readAll(t, "../cmd/pcapsule")
	binary := filepath.Join(t.TempDir(), "pcapsule")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../cmd/pcapsule")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	each(t, func(t *testing.T, v values, all objects) {
		for _, p := range pods(all) {
			// With --help nothing is done but to parse.
			args := append(p.spec.Containers[0].Args, "--help")
			cmd := exec.CommandContext(t.Context(), binary, args...)
			cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: pcapsule %s: %v\n%.500s", p.name, strings.Join(args, " "), err, out)
			}
		}
	})
}
