//go:build unix

package main

import (
	"os"
	"syscall"
)

// sameVolume tells whether two folders lie on one file system.
func sameVolume(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	if err != nil {
		return false
	}
	s, ok := x.Sys().(*syscall.Stat_t)
	t, tok := y.Sys().(*syscall.Stat_t)
	return ok && tok && s.Dev == t.Dev
}
