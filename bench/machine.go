//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// describeMachine says where and when the figures come from, and whom they
// compare.
func describeMachine(ctx context.Context, b *bench) []string {
	lines := []string{
		time.Now().UTC().Format("2006-01-02 15:04 MST"),
		fmt.Sprintf("%s, %d processors, %s of memory", field("/proc/cpuinfo", "model name"), runtime.NumCPU(), field("/proc/meminfo", "MemTotal")),
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		lines = append(lines, fmt.Sprintf("%s %s, %s", unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Release[:]), runtime.Version()))
	}
	if out, err := exec.CommandContext(ctx, b.pcapsule, "version").Output(); err == nil {
		first, _, _ := strings.Cut(string(out), "\n")
		lines = append(lines, first)
	}
	var peers []string
	for _, p := range [][]string{
		{"mergecap", "-v"}, {"dumpcap", "-v"}, {"tcpdump", "--version"}, {"netsniff-ng", "-v"}, {"lz4", "-V"}, {"b3sum", "-V"}, {"rclone", "version"},
	} {
		out, _ := exec.CommandContext(ctx, p[0], p[1:]...).CombinedOutput() // some fail, and tell their version all the same
		version := regexp.MustCompile(`\d+\.\d+(\.\d+)*`).FindString(string(out))
		if version == "" {
			version = "is not there"
		}
		peers = append(peers, p[0]+" "+version)
	}
	lines = append(lines, "peers: "+strings.Join(peers, ", "))
	for i := range b.traffics {
		lines = append(lines, "traffic: "+b.traffics[i].String())
	}
	return lines
}

// field is the value behind a name in a file of /proc.
func field(file, name string) string {
	f, err := os.Open(file)
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

// freeSpace is what this user may still write to the disk of dir, in bytes.
func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("read the free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}
