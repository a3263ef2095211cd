//go:build unix

package importer

import (
	"os"
	"syscall"
)

// ownFolder tells whether name is a folder of this user, and no link to one.
func ownFolder(name string) bool {
	info, err := os.Lstat(name)
	if err != nil || !info.IsDir() {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}
