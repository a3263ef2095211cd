//go:build unix && !linux && !darwin

package store

import (
	"os"

	"golang.org/x/sys/unix"
)

// renameNew has nothing to try here.
func renameNew(*os.File, string, *os.File, string) error { return moveError(unix.ENOTSUP) }
