package store

import (
	"os"

	"golang.org/x/sys/unix"
)

// renameNew is moveNew for file systems without links, such as exFAT.
func renameNew(tmp *os.File, temp string, dir *os.File, name string) error {
	return moveError(unix.RenameatxNp(int(tmp.Fd()), temp, int(dir.Fd()), name, unix.RENAME_EXCL))
}
