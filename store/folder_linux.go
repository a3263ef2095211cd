package store

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// renameNew is moveNew for file systems without links, such as exFAT.
func renameNew(tmp *os.File, temp string, dir *os.File, name string) error {
	return moveError(unix.Renameat2(int(tmp.Fd()), temp, int(dir.Fd()), name, unix.RENAME_NOREPLACE))
}

// fileVersion differs when a file was written to, or is another file. Whoever
// changes a file can set back the time of its bytes, but not that of its inode.
func fileVersion(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%d:%d:%d.%d", st.Dev, st.Ino, st.Ctim.Sec, st.Ctim.Nsec)
}
