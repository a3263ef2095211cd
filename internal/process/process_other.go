//go:build !linux

package process

import "os"

// Self is this process, in a way that tells nobody whether it has died.
func Self() ID {
	host, _ := os.Hostname()
	return ID{Host: host, PID: os.Getpid()}
}

func ended(int, uint64) bool { return false }
