//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// inNamespace runs a command of this program in a network namespace that is made
// for it, and reads what it found from its standard output.
func inNamespace(ctx context.Context, found any, stdin io.Reader, args ...string) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Stdin = stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("in a network namespace: %w: %.2000s", err, errs.String())
	}
	return json.Unmarshal(out, found)
}

// recorded runs a command of this program as inNamespace does, for what records
// size bytes of the mix of all sizes in each of b.runs: COMMAND PCAPSULE DIR RUNS
// BYTES, with the mix on its standard input. recordedArgs reads them there.
func (b *bench) recorded(ctx context.Context, found any, command string, size int64) error {
	dir, err := os.MkdirTemp(b.work, command)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "mix.pcap")
	if err := b.traffics[1].writeFile(file); err != nil {
		return err
	}
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	return inNamespace(ctx, found, in, command, b.pcapsule, dir, strconv.Itoa(b.runs), strconv.FormatInt(size, 10))
}

// recordedArgs are the arguments of a command behind its name, and its traffic.
func recordedArgs(args []string) (d daemon, runs int, size int64, t traffic, err error) {
	if len(args) != 4 {
		return d, 0, 0, t, errors.New("not for people")
	}
	d = daemon{pcapsule: args[0], dir: args[1]}
	runs, rerr := strconv.Atoi(args[2])
	size, serr := strconv.ParseInt(args[3], 10, 64)
	if err := errors.Join(rerr, serr); err != nil {
		return d, 0, 0, t, err
	}
	return d, runs, size, t, t.add("/dev/stdin")
}

// A process is a program that runs until it is stopped, or this one ends.
type process struct {
	pid  int
	stop func()
}

// startProcess starts a command, and returns when it has said until on its
// standard output. What begun does, unless it is nil, it may wait for.
func startProcess(cmd *exec.Cmd, until string, begun func(pid int) error) (*process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var errs lockedBuffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if begun != nil {
		if err := begun(cmd.Process.Pid); err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return nil, err
		}
	}
	var said []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(said, []byte(until)) {
		n, err := out.Read(buf)
		if err != nil {
			_ = cmd.Wait()
			return nil, fmt.Errorf("%s ended: %s", strings.Join(cmd.Args[:min(len(cmd.Args), 2)], " "), errs.String())
		}
		said = append(said, buf[:n]...)
	}
	go io.Copy(io.Discard, out)
	return &process{pid: cmd.Process.Pid, stop: func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
	}}, nil
}

// cpuOf is how many seconds of processors a process has used.
func cpuOf(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// Behind the name of the program, which may hold anything, in brackets.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100 // USER_HZ, which is 100 wherever this runs
}

// memoryOf is a line of a process's status that is a size, in MiB.
func memoryOf(pid int, line string) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "\n"+line+":")
	var kib float64
	_, _ = fmt.Sscan(rest, &kib)
	return kib / 1024
}
