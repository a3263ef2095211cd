//go:build e2e && linux

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pcapsule/internal/api"
	"pcapsule/manifest"
)

// Exit codes of pcapsule.
const (
	fine         = 0
	failed       = 1
	notVerified  = 3
	partial      = 4
	commandLimit = 4 * time.Minute
)

// A laptop is a person's machine: a home of its own, and a kubeconfig.
type laptop struct {
	home, kubeconfig string
	env              []string
}

func newLaptop(t *testing.T) *laptop {
	return &laptop{home: t.TempDir(), kubeconfig: cluster.Kubeconfig()}
}

// A result is how a command ended.
type result struct {
	code           int
	stdout, stderr string
}

// run runs pcapsule to its end.
func (l *laptop) run(t *testing.T, args ...string) result {
	t.Helper()
	r, err := l.start(t, args...)()
	if err != nil {
		t.Fatalf("pcapsule %s: %v\n%s", strings.Join(args, " "), err, r.stderr)
	}
	return r
}

// start runs pcapsule in the background; the function it returns waits for its end.
func (l *laptop) start(t *testing.T, args ...string) (wait func() (result, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	cmd := exec.CommandContext(ctx, pcapsule, args...)
	cmd.Env = append([]string{
		"HOME=" + l.home, "PATH=/usr/bin:/bin", "KUBECONFIG=" + l.kubeconfig, "XDG_CONFIG_HOME=" + filepath.Join(l.home, "config"),
		"PCAPSULE_RUNTIME_DIR=" + filepath.Join(l.home, "run"), // hubs of this machine are nothing to this user
	}, l.env...)
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Start()
	return func() (result, error) {
		defer cancel()
		if err != nil {
			return result{}, err
		}
		err := cmd.Wait()
		r := result{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.Exited() {
			err = nil
		}
		if ctx.Err() != nil {
			err = errors.Join(ctx.Err(), err)
		}
		return r, err
	}
}

// want runs pcapsule and requires its exit code.
func (l *laptop) want(t *testing.T, code int, args ...string) result {
	t.Helper()
	r := l.run(t, args...)
	if r.code != code {
		t.Fatalf("pcapsule %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.stdout, r.stderr)
	}
	return r
}

// create makes a snapshot of the time since from, and requires the exit code.
func (l *laptop) create(t *testing.T, code int, name string, from time.Time, more ...string) api.Snapshot {
	t.Helper()
	args := append([]string{"snapshot", "create", name, "-o", "json", "--from", from.UTC().Format(time.RFC3339Nano)}, more...)
	r := l.want(t, code, args...)
	return decode[api.Snapshot](t, r.stdout)
}

// manifest returns the signed manifest of a snapshot.
func (l *laptop) manifest(t *testing.T, ref string) manifest.Manifest {
	t.Helper()
	return decode[manifest.Manifest](t, l.want(t, fine, "snapshot", "show", ref, "-o", "json").stdout)
}

// export exports a snapshot and returns the file.
func (l *laptop) export(t *testing.T, ref string, more ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "export.pcapng")
	l.want(t, fine, append([]string{"snapshot", "pcap", ref, "-w", file}, more...)...)
	return file
}

func decode[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("decode: %v\n%s", err, text)
	}
	return v
}

// tshark returns the lines that tshark prints of a capture.
func tshark(t *testing.T, file string, args ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "tshark", append([]string{"-r", file}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark %s: %v\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	text := strings.TrimRight(string(out), "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
