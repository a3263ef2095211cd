//go:build unix

package manifest

import (
	"io/fs"
	"syscall"
)

// ownedByRoot tells whether root owns a file.
func ownedByRoot(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && s.Uid == 0
}
