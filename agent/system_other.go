//go:build !linux

package agent

import (
	"runtime"

	"pcapsule/manifest"
)

func system() manifest.Versions {
	return manifest.Versions{OS: runtime.GOOS, Arch: runtime.GOARCH}
}

func mayCapture() error { return nil }
