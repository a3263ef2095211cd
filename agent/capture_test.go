//go:build linux

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapsule/manifest"
)

const captureEnv = "PCAPSULE_AGENT_NETNS"

// TestCapture runs a real agent in a network namespace of its own, where nothing
// moves but what the test sends, and the agent's own talk with the hub.
func TestCapture(t *testing.T) {
	if os.Getenv(captureEnv) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCapture$", "-test.v")
		cmd.Env = append(os.Environ(), captureEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if os.Getuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, syscall.EPERM) && os.Getuid() != 0 {
			t.Skip("needs root, or user namespaces")
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if out, err := exec.Command("ip", "link", "set", "dev", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h := newTestHub(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended, ready := make(chan error, 1), make(chan Ready, 1)
	dir := t.TempDir()
	go func() {
		ended <- Run(ctx, Config{
			HubURL: h.srv.URL, Node: "n1", Dir: dir, RingSize: 64 << 20, Version: "v1", OnReady: func(r Ready) { ready <- r },
		})
	}()
	select {
	case r := <-ready:
		if len(r.Interfaces) == 0 || r.Interfaces[0].Name != "lo" {
			t.Errorf("captures on %+v", r.Interfaces)
		}
	case err := <-ended:
		t.Fatal(err)
	}
	in, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	out, err := net.Dial("udp4", in.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	began := time.Now()
	const count = 300
	for i := range count {
		if _, err := fmt.Fprintf(out, "packet %d", i); err != nil {
			t.Fatal(err)
		}
	}
	h.ask("s1", began, time.Now())
	n := h.await("s1")
	h.ask("s2", began, time.Now()) // by now there was talk with the hub, and uploads
	n2 := h.await("s2")
	for _, n := range []manifest.Node{n, n2} {
		if got := len(h.packets(n)); got != count {
			t.Errorf("%d packets were recorded, %d sent", got, count)
		}
		if len(n.Interfaces) != 1 || n.Interfaces[0].Name != "lo" || len(n.Gaps) != 0 {
			t.Errorf("interfaces %+v, gaps %+v", n.Interfaces, n.Gaps)
		}
	}
	seen := 0
	for _, e := range h.inventory(t.Context(), n.Streams[0]) {
		r, err := h.store.Get(t.Context(), e.Key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		cmd := exec.Command("sh", "-c", "lz4 -dc | tcpdump -nr - 'udp and dst port "+in.LocalAddr().String()[len("127.0.0.1:"):]+"' 2>/dev/null")
		cmd.Stdin = r
		b, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		seen += bytes.Count(b, []byte("\n"))
	}
	if seen != count {
		t.Errorf("tcpdump sees %d packets, want %d", seen, count)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("agent: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "open", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("open parts are left: %s", strings.Join(left, ", "))
	}
}
