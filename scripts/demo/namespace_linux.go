package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// enter runs the demo in a network namespace of its own, and without root in a
// user namespace around it.
func enter(pcapsule string) error {
	cmd := exec.Command("/proc/self/exe", "recorded", pcapsule)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	otherNamespace(cmd)
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make a network namespace: %w (without root this needs user namespaces; with root: sudo make demo)", err)
	}
	return cmd.Wait()
}

func otherNamespace(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
}
