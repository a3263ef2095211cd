package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Self is this process.
var Self = sync.OnceValue(func() ID {
	p := ID{Boot: readLine("/proc/sys/kernel/random/boot_id"), PID: os.Getpid()}
	p.Host, _ = os.Hostname()
	if id := readLine("/etc/machine-id"); id != "" && id != "uninitialized" {
		// Not the id itself, which machine-id(5) wants kept from others.
		p.Machine = hash("pcapsule machine " + id)[:32]
	}
	// A /proc of other processes than this one's tells nothing of them.
	if link, err := os.Readlink("/proc/self"); err != nil || link != strconv.Itoa(p.PID) {
		return p
	}
	pids, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return p
	}
	times, err := os.Readlink("/proc/self/ns/time")
	if err != nil {
		times = "time:none" // kernels before 5.6 have none
	}
	p.Space = pids + " " + times
	_, p.Start, _ = stat(p.PID)
	return p
})

func readLine(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// ended tells whether the process pid of this boot and these namespaces that
// began at start has ended for certain.
func ended(pid int, start uint64) bool {
	// Also where /proc hides the processes of other users, the kernel tells
	// whether there is one.
	if errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		return true
	}
	state, now, err := stat(pid)
	if err != nil {
		return false
	}
	// A zombie is what is left until its parent looks.
	return now != start || state == 'Z' || state == 'X'
}

// stat reads state and start of a process, fields 3 and 22 of proc_pid_stat(5).
func stat(pid int) (state byte, start uint64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The name before them may hold anything, spaces and brackets too.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 20 || len(f[0]) != 1 {
		return 0, 0, errors.New("stat of a process cannot be read")
	}
	start, err = strconv.ParseUint(string(f[19]), 10, 64)
	return f[0][0], start, err
}
