//go:build unix

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// lockFile waits until this process alone has f.
func lockFile(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			return err
		}
	}
}

// tryLock is lockFile that does not wait.
func tryLock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
