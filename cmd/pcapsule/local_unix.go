//go:build unix

package main

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

// openNoLink opens a file that is no link, and no pipe to wait for.
func openNoLink(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

// checkFolder refuses a folder in which others than root and uid could put files.
func checkFolder(dir string, uid int) error {
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		return fmt.Errorf("%s is a symbolic link, not a folder", dir)
	}
	if !st.IsDir() {
		return fmt.Errorf("%s is no folder", dir)
	}
	if err := ownedBy(st, uid); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

// ownerOf is the user whom a folder belongs to.
func ownerOf(dir string) (uid int, ok bool) {
	st, err := os.Lstat(dir)
	if err != nil {
		return 0, false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(sys.Uid), true
}

// checkOwner refuses a file that others than root and uid could have written.
func checkOwner(st fs.FileInfo, uid int) error {
	if !st.Mode().IsRegular() {
		return errors.New("it is no file")
	}
	return ownedBy(st, uid)
}

func ownedBy(st fs.FileInfo, uid int) error {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("nobody knows whose it is")
	}
	if int(sys.Uid) != uid && sys.Uid != 0 {
		return fmt.Errorf("it belongs to another user, %s", userName(sys.Uid))
	}
	if st.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("others can write it (mode %04o)", st.Mode().Perm())
	}
	return nil
}

// userName is a user's number, and name where there is one.
func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username + " (" + id + ")"
	}
	return id
}
