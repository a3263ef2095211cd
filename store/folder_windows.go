package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

const openNonblock = 0

func isNoSpace(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) ||
		errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED)
}

func isReadOnlyFS(err error) bool { return errors.Is(err, windows.ERROR_WRITE_PROTECT) }

func isNotDir(err error) bool {
	return errors.Is(err, windows.ERROR_DIRECTORY) || errors.Is(err, windows.ERROR_PATH_NOT_FOUND)
}

// moveNew gives the file temp in tmp the name name in dir, durably, and never
// replaces one: then the error is fs.ErrExist.
func moveNew(tmp *os.File, temp string, dir *os.File, name string) error {
	from, err := windows.UTF16PtrFromString(filepath.Join(tmp.Name(), temp))
	if err != nil {
		return err
	}
	to, err := windows.UTF16PtrFromString(filepath.Join(dir.Name(), name))
	if err != nil {
		return err
	}
	if err := windows.MoveFileEx(from, to, windows.MOVEFILE_WRITE_THROUGH); err != nil {
		return &os.LinkError{Op: "rename", Old: "temporary file", New: "object", Err: err}
	}
	return nil
}

// syncDir has nothing to do: moveNew writes through, and a folder cannot be
// flushed.
func syncDir(*os.File) error { return nil }

// removeDirAt removes the empty folder name in parent, and nothing else.
func removeDirAt(parent *os.File, name string) error {
	path, err := windows.UTF16PtrFromString(filepath.Join(parent.Name(), name))
	if err != nil {
		return err
	}
	return windows.RemoveDirectory(path)
}

// ownerOf would name the user whose a file is.
func ownerOf(fs.FileInfo) string { return "" }
