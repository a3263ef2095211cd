//go:build linux

package testbed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// OnNode runs a command on a node to its end and returns what it printed.
func (c *Cluster) OnNode(ctx context.Context, node string, args ...string) (string, error) {
	enter, err := c.Enter(node)
	if err != nil {
		return "", err
	}
	return run(ctx, append(enter, args...)...)
}

// ContainerEnvironment returns the environment of a running container's first
// process, a variable a line.
func (c *Cluster) ContainerEnvironment(pod *corev1.Pod, container string) (string, error) {
	pids, err := c.running(pod, container)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pids[0]))
	return strings.ReplaceAll(string(data), "\x00", "\n"), err
}

// running returns the processes of a running container of a pod, the first first.
func (c *Cluster) running(pod *corev1.Pod, container string) ([]int, error) {
	id := containerID(pod, container)
	if id == "" {
		return nil, fmt.Errorf("container %s of %s does not run", container, pod.Name)
	}
	pids, err := c.containerProcesses(pod.Spec.NodeName, id)
	if err == nil && len(pids) == 0 {
		err = fmt.Errorf("container %s of %s has no process", container, pod.Name)
	}
	return pids, err
}

func containerID(pod *corev1.Pod, container string) string {
	for _, status := range pod.Status.ContainerStatuses {
		if status.Name == container && status.State.Running != nil {
			_, id, _ := strings.Cut(status.ContainerID, "://")
			return id
		}
	}
	return ""
}

// KillContainer sends SIGKILL to the processes of a running container of a pod, as
// a crash would, and returns when they are gone. The kubelet starts another.
func (c *Cluster) KillContainer(ctx context.Context, pod *corev1.Pod, container string) error {
	pids, err := c.running(pod, container)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill %s of %s: %w", container, pod.Name, err)
		}
	}
	id := containerID(pod, container)
	return Poll(ctx, 30*time.Second, func() error {
		left, err := c.containerProcesses(pod.Spec.NodeName, id)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%s of %s does not end", container, pod.Name)
		}
		return err
	})
}

// containerProcesses reads the control group of a container, whose folder has the
// container's id for a name.
func (c *Cluster) containerProcesses(node, id string) (pids []int, err error) {
	roots, err := hierarchies()
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		if base := filepath.Base(root); base != "pids" && len(roots) > 1 {
			continue
		}
		err = filepath.WalkDir(filepath.Join(root, cgroupBase, c.Name, node), func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // another pod's, just removed
			}
			if err != nil || filepath.Base(path) != id {
				return err
			}
			procs, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
				return filepath.SkipDir // it ends right now
			}
			if err != nil {
				return err
			}
			for _, field := range strings.Fields(string(procs)) {
				pid, err := strconv.Atoi(field)
				if err != nil {
					return err
				}
				pids = append(pids, pid)
			}
			return filepath.SkipDir
		})
	}
	return pids, err
}

// NextPodAddress makes the next pod of a node get this address, once the pod that
// had it has given it back. Addresses are given out in a circle, which could take
// long to come round.
func (c *Cluster) NextPodAddress(ctx context.Context, node string, addr netip.Addr) error {
	given := c.path("nodes", node, "root/var/lib/cni/networks/pods")
	if err := Poll(ctx, time.Minute, func() error {
		_, err := os.Stat(filepath.Join(given, addr.String()))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("address %s is still a pod's", addr))
	}); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(given, "last_reserved_ip.0"), []byte(addr.Prev().String()), 0o644); err != nil {
		return fmt.Errorf("choose the next pod's address: %w", err)
	}
	return nil
}

// CutOff drops what a node and its pods send to an address, until heal is called.
func (c *Cluster) CutOff(ctx context.Context, node, addr string) (heal func(context.Context) error, err error) {
	rule := func(ctx context.Context, op string) error {
		// After the addresses of services are translated, and for connections that
		// are under way as well.
		_, err := c.OnNode(ctx, node, "iptables", "-w", "-t", "mangle", op, "POSTROUTING", "-d", addr, "-j", "DROP")
		return err
	}
	if err := rule(ctx, "-A"); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return rule(ctx, "-D") }, nil
}

// SlowDown limits what a node sends to other machines to a rate such as 2mbit,
// until restore is called.
func (c *Cluster) SlowDown(ctx context.Context, node, rate string) (restore func(context.Context) error, err error) {
	if _, err := c.OnNode(ctx, node, "tc", "qdisc", "replace", "dev", "eth0", "root", "tbf",
		"rate", rate, "burst", "64kb", "latency", "400ms"); err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		_, err := c.OnNode(ctx, node, "tc", "qdisc", "del", "dev", "eth0", "root")
		return err
	}, nil
}
