package agent

import (
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"pcapsule/agent/packets"
	"pcapsule/manifest"
)

// system describes the machine, for manifests.
func system() manifest.Versions {
	v := manifest.Versions{OS: "Linux", Arch: runtime.GOARCH}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		v.Kernel = manifest.Clean(unix.ByteSliceToString(u.Release[:]))
	}
	if b, err := os.ReadFile("/etc/os-release"); err == nil {
		v.OS = manifest.Clean(osName(string(b)))
	}
	return v
}

// osName is the name for people in an os-release file.
func osName(release string) string {
	for line := range strings.Lines(release) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"'`)
		}
	}
	return "Linux"
}

// mayCapture fails early, and with a hint, where no packet socket can be opened.
func mayCapture() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err == unix.EPERM {
		return packets.ErrPermission
	}
	if err == nil {
		_ = unix.Close(fd)
	}
	return nil
}
