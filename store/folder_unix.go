//go:build unix

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const openNonblock = unix.O_NONBLOCK

func isNoSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

func isReadOnlyFS(err error) bool { return errors.Is(err, unix.EROFS) }

func isNotDir(err error) bool { return errors.Is(err, unix.ENOTDIR) }

// moveNew gives the file temp in tmp the name name in dir, and never replaces
// one: then the error is fs.ErrExist. It links where it can, because that is
// atomic on every file system that has it, NFS included.
func moveNew(tmp *os.File, temp string, dir *os.File, name string) error {
	err := unix.Linkat(int(tmp.Fd()), temp, int(dir.Fd()), name, 0)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EEXIST):
		// Over NFS a link that was done and answered twice looks taken.
		var st unix.Stat_t
		if unix.Fstatat(int(tmp.Fd()), temp, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Nlink == 2 {
			return nil
		}
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EOPNOTSUPP),
		errors.Is(err, unix.ENOSYS):
		return renameNew(tmp, temp, dir, name)
	}
	return moveError(err)
}

func moveError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOTSUP),
		errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("this file system can neither link files nor rename them without replacing: "+
			"use another one for the store: %w", err)
	case errors.Is(err, unix.EXDEV):
		return fmt.Errorf("another file system is mounted inside the folder: mount it over the whole of it: %w", err)
	}
	return &os.LinkError{Op: "link", Old: "temporary file", New: "object", Err: err}
}

// syncDir makes the entries of a folder durable.
func syncDir(d *os.File) error {
	err := d.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return nil // network file systems that know no such thing
	}
	return err
}

// removeDirAt removes the empty folder name in parent, and nothing else.
func removeDirAt(parent *os.File, name string) error {
	return unix.Unlinkat(int(parent.Fd()), name, unix.AT_REMOVEDIR)
}

// ownerOf names the user whose a file is.
func ownerOf(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	id := strconv.FormatUint(uint64(st.Uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "user " + id
}
