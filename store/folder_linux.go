package store

import (
	"errors"
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

// volumeSpace tells how much room there is where d lies.
func volumeSpace(d *os.File) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return Space{}, err
	}
	if st.Blocks == 0 {
		return Space{}, errors.ErrUnsupported // a file system that does not tell
	}
	unit := st.Frsize
	if unit == 0 {
		unit = st.Bsize
	}
	s := Space{Total: int64(st.Blocks) * unit, Free: int64(st.Bavail) * unit}
	if st.Files > 0 {
		s.TotalFiles, s.FreeFiles = int64(st.Files), int64(st.Ffree)
	}
	return s, nil
}

// preallocate takes size bytes of the volume for file.
func preallocate(file *os.File, size int64) error {
	err := unix.Fallocate(int(file.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return errors.ErrUnsupported
	}
	return err
}
