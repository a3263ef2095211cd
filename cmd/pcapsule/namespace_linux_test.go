package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pcapsule/tools"
)

// inNamespace runs the calling test once more in a network namespace of its own,
// as root there, and returns true in that second run. Without root it takes a
// user namespace, where the machine allows one; a machine with neither fails the
// test, since then nothing that captures is tested. The second run gets args as
// further arguments.
func inNamespace(t *testing.T, args ...string) bool {
	t.Helper()
	const inner = "PCAPSULE_TEST_NAMESPACE"
	if os.Getenv(inner) == t.Name() {
		if err := loopbackUp(); err != nil {
			t.Fatalf("bring up lo: %v", err)
		}
		return true
	}
	args = append([]string{"-test.run", "^" + t.Name() + "$", "-test.v", "-test.timeout", "5m"}, args...)
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), inner+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in a network namespace: %v\n%s", err, out)
	}
	if testing.Verbose() {
		t.Logf("%s", out)
	}
	return false
}

// buildMinIO builds the server, when that has not been done on this machine: in a
// namespace of its own a test has no network to fetch the source from.
func buildMinIO(t *testing.T) {
	t.Helper()
	if _, err := tools.Path(t.Context(), "minio"); err != nil {
		t.Fatal(err)
	}
}

// loopbackUp sets IFF_UP on lo.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// A sender sends UDP packets over lo, numbered from 0, to a socket of its own that
// nobody reads.
type sender struct {
	conn net.Conn
	next uint64
}

func newSender(t *testing.T) *sender {
	t.Helper()
	sink, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	conn, err := net.Dial("udp", sink.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &sender{conn: conn}
}

func (s *sender) send(t *testing.T) {
	t.Helper()
	if _, err := fmt.Fprintf(s.conn, "number %012d", s.next); err != nil {
		t.Fatal(err)
	}
	s.next++
}
