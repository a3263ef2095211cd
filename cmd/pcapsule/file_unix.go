//go:build unix

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// descriptorFolder is where open files have names: of this process, or of any.
var descriptorFolder = regexp.MustCompile(`^(/dev/fd|/proc/([0-9]+)(/task/[0-9]+)?/fd)$`)

// isDescriptor tells whether path, without links before its last part, names a
// file that some process has open.
func isDescriptor(path string) bool { return descriptorFolder.MatchString(filepath.Dir(path)) }

// openDescriptor opens such a file to go on where its process is. Other processes'
// files are written anew.
func openDescriptor(path string) (*os.File, error) {
	m := descriptorFolder.FindStringSubmatch(filepath.Dir(path))
	n, err := strconv.Atoi(filepath.Base(path))
	if err != nil || m[2] != "" && m[2] != strconv.Itoa(os.Getpid()) {
		return os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	}
	if n, err = unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(n), path), nil
}

// planted tells whether link is one that nobody should follow: another user's, in a
// folder like /tmp. Linux says the same where fs.protected_symlinks is on (see
// proc_sys_fs(5)), but to those only who have it follow links.
func planted(folder, link fs.FileInfo) bool {
	dir, ok := folder.Sys().(*syscall.Stat_t)
	at, ok2 := link.Sys().(*syscall.Stat_t)
	if !ok || !ok2 || folder.Mode()&fs.ModeSticky == 0 || folder.Mode().Perm()&0o002 == 0 {
		return false
	}
	return int(at.Uid) != os.Geteuid() && at.Uid != dir.Uid
}
