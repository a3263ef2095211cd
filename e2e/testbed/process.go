//go:build linux

package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cgroupBase is the parent of all clusters' control groups.
const cgroupBase = "pcapsule-e2e"

// hierarchies returns the roots of the control group file systems: several with
// version 1, one with version 2.
func hierarchies() ([]string, error) {
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err == nil {
		return []string{root}, nil
	}
	procs, err := filepath.Glob(filepath.Join(root, "*", "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	if len(procs) == 0 {
		return nil, errors.New("no control groups are mounted under " + root)
	}
	dirs := make([]string, len(procs))
	for i, p := range procs {
		dirs[i] = filepath.Dir(p)
	}
	return dirs, nil
}

// makeCgroup makes a control group of the cluster in every hierarchy.
func (c *Cluster) makeCgroup(name string) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		if err := os.MkdirAll(filepath.Join(root, cgroupBase, c.Name, name), 0o755); err != nil {
			return fmt.Errorf("make a control group: %w", err)
		}
	}
	return nil
}

// A daemon is a process that outlives the one that starts it.
type daemon struct {
	name string   // of its log
	in   []string // how to get into its machine: nsenter and its flags, or nothing
	env  []string // besides PATH
	dir  string   // its working folder; the cluster's when empty
	args []string
}

// start starts a daemon, in the cluster's control group from its first
// instruction on, so that nothing it starts is ever lost sight of.
func (c *Cluster) start(d daemon) error {
	if err := os.MkdirAll(c.Logs(), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(c.Logs(), d.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	var join strings.Builder
	for _, root := range roots {
		if filepath.Base(root) == "cpuset" {
			continue // a new one has no processors: nobody may join it
		}
		fmt.Fprintf(&join, "echo $$ >%s/cgroup.procs\n", filepath.Join(root, cgroupBase, c.Name, "system"))
	}
	script := "set -e\n" + join.String() + `exec "$@"`
	args := append([]string{"-c", script, "sh"}, d.in...)
	cmd := exec.Command("sh", append(args, d.args...)...)
	cmd.Env = append([]string{"PATH=" + c.path("bin") + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + c.Dir}, d.env...)
	cmd.Dir = d.dir
	if cmd.Dir == "" {
		cmd.Dir = c.Dir
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	go func() { _ = cmd.Wait() }() // reaped here as long as this process lives, by init after that
	if err := os.MkdirAll(c.path("pids"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(c.path("pids", d.name), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644)
}

// pid returns the process of a daemon, after a look that it is still ours.
func (c *Cluster) pid(name string) (int, error) {
	data, err := os.ReadFile(c.path("pids", name))
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", name, err)
	}
	pid, err := strconv.Atoi(string(data))
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", name, err)
	}
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !bytes.Contains(groups, []byte("/"+cgroupBase+"/"+c.Name+"/")) {
		return 0, fmt.Errorf("%s does not run any more; see %s", name, filepath.Join(c.Logs(), name+".log"))
	}
	return pid, nil
}

// Kill ends a daemon of the cluster, such as kube-apiserver, by SIGKILL, and
// returns when it is gone.
func (c *Cluster) Kill(ctx context.Context, name string) error {
	pid, err := c.pid(name)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %s: %w", name, err)
	}
	return Poll(ctx, time.Minute, func() error {
		if _, err := c.pid(name); err == nil {
			return fmt.Errorf("%s does not end", name)
		}
		return nil
	})
}

// killAll ends all processes of the cluster and removes its control groups.
func (c *Cluster) killAll(ctx context.Context) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		err := Poll(ctx, time.Minute, func() error { return emptyCgroup(filepath.Join(root, cgroupBase, c.Name)) })
		if err != nil {
			return err
		}
	}
	return nil
}

// emptyCgroup kills who is in a tree of control groups and removes the tree. It
// fails as long as somebody is there.
func emptyCgroup(top string) error {
	var groups []string
	running := 0
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		groups = append(groups, path)
		procs, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return err
		}
		for _, field := range strings.Fields(string(procs)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return err
			}
			running++
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may just have ended
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
		return err
	}
	if running > 0 {
		return fmt.Errorf("%d processes in %s do not end", running, top)
	}
	for i := len(groups) - 1; i >= 0; i-- {
		if err := syscall.Rmdir(groups[i]); err != nil && err != syscall.ENOENT {
			return fmt.Errorf("remove control group %s: %w", groups[i], err)
		}
	}
	return nil
}

// run runs a command to its end, and returns what it printed.
func run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Poll calls try until it returns nil, and at most for limit.
func Poll(ctx context.Context, limit time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", limit, err)
		case <-tick.C:
		}
	}
}
