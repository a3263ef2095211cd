package ring

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// An InUseError says that another process has the ring open.
type InUseError struct {
	Dir     string
	Process int // its number, when it is one that can be seen from here; else 0
}

func (e *InUseError) Error() string {
	if e.Process > 0 {
		return fmt.Sprintf("ring %s is in use by process %d", e.Dir, e.Process)
	}
	return fmt.Sprintf("ring %s is in use by another process", e.Dir)
}

// takeLock makes this process the only one with the ring in dir. The lock goes
// with the process, however it ends.
func takeLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := tryLock(f); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock ring: %w", err)
		}
		return nil, &InUseError{Dir: dir, Process: holder(f)}
	}
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(pid), 0) // only for people; a full disk must not keep the ring shut
	}
	return f, nil
}

// holder is the number of the process that has the lock, for people; 0 when that
// cannot be told. The number in the file may be of another namespace, where
// nearly every container's process is 1: it counts when the process that has it
// here holds the file open.
func holder(f *os.File) int {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil || pid <= 0 {
		return 0
	}
	lock, err := f.Stat()
	if err != nil {
		return 0
	}
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return 0
	}
	for _, e := range entries {
		if e.Name() == strconv.Itoa(int(f.Fd())) && pid == os.Getpid() {
			continue // this very look at it
		}
		if open, err := os.Stat(filepath.Join(folder, e.Name())); err == nil && os.SameFile(lock, open) {
			return pid
		}
	}
	return 0
}
