//go:build linux

package packets

import (
	"encoding/binary"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// bridge makes a bridge that has port as its only one. A bridge takes in frames
// for other stations only while it is promiscuous.
func bridge(t testing.TB, name, port string) {
	t.Helper()
	ip(t, "link", "add", "name", name, "type", "bridge")
	ip(t, "link", "set", "dev", name, "addrgenmode", "none")
	ip(t, "link", "set", "dev", port, "master", name)
	ip(t, "link", "set", "dev", name, "up")
	awaitCarrier(t, name)
}

func promiscuity(t testing.TB, name string) string {
	t.Helper()
	out, err := exec.Command("ip", "-d", "link", "show", "dev", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(out), "promiscuity ")
	n, _, _ := strings.Cut(after, " ")
	return n
}

// TestPromiscuous records frames for other stations on interfaces that are named,
// also on one that goes and comes back.
func TestPromiscuous(t *testing.T) {
	namespace(t)
	veth(t, "a", "b")
	bridge(t, "br0", "b")
	all := begin(t, Config{})
	modest := begin(t, Config{Interfaces: []string{"br0"}, NoPromiscuous: true})
	if n := promiscuity(t, "br0"); n != "0" {
		t.Errorf("promiscuity is %s before anybody asked for it", n)
	}
	foreign := byte(0)
	send := func() {
		foreign++
		newSender(t, "a").send(ether(0x88b5, 60, foreign))
	}
	count := func(s *session) (n int) {
		for _, d := range data(s.cut(), "br0") {
			if binary.BigEndian.Uint16(d[12:]) == 0x88b5 { // the bridge has things to say, too
				n++
			}
		}
		return n
	}
	send()
	if a, m := count(all), count(modest); a != 0 || m != 0 {
		t.Fatalf("a bridge takes in frames for others by itself (%d, %d): this test tells nothing", a, m)
	}
	named := begin(t, Config{Interfaces: []string{"br0"}})
	send()
	if n := count(named); n != 1 {
		t.Errorf("%d frames for another station were recorded, want 1", n)
	}

	ip(t, "link", "del", "dev", "br0")
	bridge(t, "br0", "b")
	eventually(t, "the interface that came back is not made promiscuous", func() bool { return promiscuity(t, "br0") != "0" })
	send()
	if n := count(named); n != 2 {
		t.Errorf("%d frames for another station were recorded, want 2", n)
	}

	// One that is renamed is recorded as before.
	ip(t, "link", "set", "dev", "br0", "alias", "changed")
	ip(t, "link", "set", "dev", "br0", "name", "br1")
	eventually(t, "the new name is not known", func() bool {
		return slices.ContainsFunc(named.Interfaces(), func(i Interface) bool { return i.Name == "br1" })
	})
	if n := promiscuity(t, "br1"); n == "0" {
		t.Error("an interface that was renamed is promiscuous no more")
	}
	ip(t, "link", "set", "dev", "br1", "name", "br0")
	if err := named.stop(); err != nil {
		t.Error(err)
	}
	if n := promiscuity(t, "br0"); n != "0" {
		t.Errorf("promiscuity is %s after the capture", n)
	}
}
