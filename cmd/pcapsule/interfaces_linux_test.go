package main

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"pcapsule/internal/api"
	"pcapsule/manifest"
)

// ip runs ip(8) in the test's namespace.
func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %q: %v: %s", args, err, out)
	}
}

// addVeth makes a pair v0 and p0, and sends all for 10.99.0.2 there.
func addVeth(t *testing.T) {
	t.Helper()
	ip(t, "link", "add", "v0", "type", "veth", "peer", "name", "p0")
	ip(t, "addr", "add", "10.99.0.1/24", "dev", "v0")
	ip(t, "link", "set", "p0", "up")
	ip(t, "link", "set", "v0", "up")
	ip(t, "neigh", "replace", "10.99.0.2", "lladdr", "02:00:00:00:00:09", "dev", "v0", "nud", "permanent")
}

// TestNamedInterface records an interface that was named under any name, and says
// what it could not record while it was gone.
func TestNamedInterface(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	m := newMachine(t)
	addVeth(t)
	daemon := m.start("up", "--interface", "v0", "--data-dir", "data", "--ring-size", "64MiB")
	m.ready(daemon)
	until := func(what string, ok func(api.Node) bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			out, _ := m.run(0, "nodes", "-o", "json")
			var list []api.Node
			if err := json.Unmarshal([]byte(out), &list); err != nil {
				t.Fatal(err)
			}
			if len(list) == 1 && ok(list[0]) {
				return
			}
		}
		t.Fatalf("no node that %s", what)
	}
	state := func(n api.Node, name string) string {
		for _, i := range n.Interfaces {
			if i.Name == name {
				return i.State
			}
		}
		return "none"
	}
	create := func(want int, name string, from time.Time) string {
		t.Helper()
		_, stderr := m.run(want, "snapshot", "create", name, "--from", from.Format(time.RFC3339Nano))
		return stderr
	}
	says := func(text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("it does not say %q:\n%s", want, text)
			}
		}
	}
	sent := func(name string) {
		t.Helper()
		m.run(0, "snapshot", "pcap", name, "-w", name+".pcapng")
		if n := len(m.numbers(name + ".pcapng")); n != 20 {
			t.Errorf("%s: %d of 20 packets", name, n)
		}
	}

	send := func() {
		t.Helper()
		conn, err := net.Dial("udp", "10.99.0.2:9999")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		s := &sender{conn: conn}
		for range 20 {
			s.send(t)
		}
	}

	ip(t, "link", "set", "v0", "down")
	ip(t, "link", "set", "v0", "name", "w0")
	ip(t, "link", "set", "w0", "up")
	ip(t, "neigh", "replace", "10.99.0.2", "lladdr", "02:00:00:00:00:09", "dev", "w0", "nud", "permanent")
	until("records w0", func(n api.Node) bool { return state(n, "w0") == api.InterfaceUp && len(n.Warnings) == 1 })
	from := time.Now()
	send()
	says(create(0, "renamed", from), "interface v0 was renamed and is w0 now")
	sent("renamed")

	ip(t, "link", "del", "w0")
	until("misses v0", func(n api.Node) bool { return state(n, "v0") == api.InterfaceGone })
	from = time.Now()
	says(create(exitPartial, "gone", from), "interface v0 was gone", "nothing of it is recorded until one of that name is there")
	out, _ := m.run(0, "snapshot", "show", "gone")
	says(out, "missing:", manifest.GapInterfaceGone, "TO BE RECORDED")
	out, _ = m.run(0, "snapshot", "show", "gone", "-o", "json")
	var shown manifest.Manifest
	if err := json.Unmarshal([]byte(out), &shown); err != nil {
		t.Fatal(err)
	}
	if n := shown.Nodes[0]; len(n.Coverage) > 0 || len(n.Capture) != 1 || strings.Join(n.Capture[0].Interfaces, ",") != "v0" {
		t.Errorf("covered %v, to be recorded %+v", n.Coverage, n.Capture)
	}

	addVeth(t)
	until("records v0 again", func(n api.Node) bool { return state(n, "v0") == api.InterfaceUp && len(n.Warnings) == 0 })
	from = time.Now()
	send()
	create(0, "back", from)
	sent("back")
	out, _ = m.run(0, "verify", "gone")
	says(out, "good  gone")
	if err := daemon.end(os.Interrupt); err != nil {
		t.Error(err)
	}
	says(daemon.out.String(), "is gone since", "recorded again")
}
