//go:build linux

package packets

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestRoles tells what interfaces are, as networks of several makes have them.
func TestRoles(t *testing.T) {
	const up = unix.IFF_UP
	lo := link{index: 1, name: "lo", flags: up | unix.IFF_LOOPBACK, hatype: arphrdLoopback}
	eth0 := link{index: 2, name: "eth0", flags: up}
	prefix := netip.MustParsePrefix
	universe := func(i int, p string) ifaddr { return ifaddr{i, prefix(p), unix.RT_SCOPE_UNIVERSE} }
	roles := []string{"none", "all", "lo", "pod", "uplink", "tunnel", "between"}

	tests := []struct {
		name      string
		view      view
		want      string // by index
		pods      string
		ports     []uint16
		protocols uint64
		wireguard bool
		edge      uint8
	}{
		{
			name: "flannel",
			view: view{
				links: []link{lo, eth0,
					{index: 3, name: "flannel.1", kind: "vxlan", port: 8472, flags: up},
					{index: 4, name: "cni0", kind: "bridge", flags: up},
					{index: 5, name: "veth1", kind: "veth", parent: 2, foreign: true, master: 4, flags: up},
					{index: 6, name: "docker0", kind: "bridge", flags: up},
					{index: 7, name: "kube-ipvs0", kind: "dummy"},
					{index: 8, name: "tunl0", kind: "ipip"},
				},
				addresses: []ifaddr{universe(2, "192.0.2.1/24"), universe(4, "10.1.1.1/24")},
				routes:    []route{{2, prefix("0.0.0.0/0")}, {4, prefix("10.1.1.0/24")}, {6, prefix("172.17.0.0/16")}, {3, prefix("10.1.2.0/24")}},
			},
			want: "lo uplink tunnel between pod between between tunnel", pods: "10.1.1.0/24", ports: []uint16{8472},
		},
		{
			name: "Calico, IPIP and WireGuard",
			view: view{
				links: []link{lo, eth0,
					{index: 3, name: "tunl0", kind: "ipip", flags: up},
					{index: 4, name: "wireguard.cali", kind: "wireguard", flags: up},
					{index: 5, name: "cali1", kind: "veth", parent: 2, foreign: true, flags: up},
				},
				routes: []route{{5, prefix("10.1.1.2/32")}, {5, prefix("fd01::2/128")}, {3, prefix("10.1.2.0/26")}},
			},
			want: "lo uplink tunnel tunnel pod", pods: "10.1.1.2/32 fd01::2/128", protocols: 1 << 4, wireguard: true,
		},
		{
			name: "Cilium",
			view: view{links: []link{lo, eth0,
				{index: 3, name: "cilium_net", kind: "veth", parent: 4},
				{index: 4, name: "cilium_host", kind: "veth", parent: 3},
				{index: 5, name: "cilium_vxlan", kind: "vxlan", port: 8472, flags: up},
				{index: 6, name: "lxc1", kind: "netkit", parent: 2, foreign: true, flags: up},
			}},
			want: "lo uplink between between tunnel pod", ports: []uint16{8472}, edge: edgeArriving,
		},
		{
			name: "a node that is a container",
			view: view{
				links: []link{lo,
					{index: 2, name: "eth0", kind: "veth", parent: 9, foreign: true, flags: up},
					{index: 3, name: "eth1", kind: "veth", parent: 10, foreign: true, flags: up},
					{index: 4, name: "eth2", kind: "veth", parent: 11, foreign: true, flags: up},
					{index: 5, name: "veth1", kind: "veth", parent: 2, foreign: true, flags: up},
				},
				addresses: []ifaddr{
					universe(3, "172.18.0.2/16"), universe(4, "192.0.2.9/32"),
					universe(5, "10.1.1.1/32"), {5, prefix("fe80::1/64"), unix.RT_SCOPE_LINK},
				},
				routes:   []route{{2, prefix("0.0.0.0/0")}, {5, prefix("10.1.1.2/32")}},
				internal: []netip.Addr{netip.MustParseAddr("192.0.2.9")},
			},
			want: "lo uplink uplink uplink pod", pods: "10.1.1.2/32",
		},
		{
			name: "bonds, VLANs and virtual machines",
			view: view{links: []link{lo,
				{index: 2, name: "eth0", master: 4, flags: up},
				{index: 3, name: "eth1", master: 4, flags: up},
				{index: 4, name: "bond0", kind: "bond", flags: up},
				{index: 5, name: "bond0.7", kind: "vlan", parent: 4, flags: up},
				{index: 6, name: "br0", kind: "bridge", flags: up},
				{index: 7, name: "eth2", master: 6, flags: up},
				{index: 8, name: "vnet0", kind: "tun", tap: true, master: 6, flags: up},
				{index: 9, name: "tun0", kind: "tun", flags: up},
				{index: 10, name: "moved", kind: "vlan", parent: 3, foreign: true, flags: up},
				{index: 11, name: "new", kind: "not known to us", flags: up},
				{index: 12, name: "mac0", kind: "macvlan", parent: 4, flags: up},
				{index: 13, name: "gre1", kind: "gretap", flags: up},
			}},
			want: "lo between between uplink between between uplink pod tunnel uplink uplink between tunnel", protocols: 1 << 47,
		},
		{
			name: "no pods' interfaces",
			view: view{links: []link{lo, eth0}},
			want: "lo uplink", edge: edgeBoth,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := tt.view.plan()
			var got, pods []string
			for _, l := range tt.view.links {
				got = append(got, roles[p.roles[l.index]])
			}
			if diff := cmp.Diff(strings.Fields(tt.want), got); diff != "" {
				t.Errorf("roles (-want +got):\n%s", diff)
			}
			for r := range p.pods {
				pods = append(pods, r.String())
			}
			slices.Sort(pods)
			if got := strings.Join(pods, " "); got != tt.pods {
				t.Errorf("pods are at %q, want %q", got, tt.pods)
			}
			if !slices.Equal(p.ports, tt.ports) || p.protocols != tt.protocols || p.wireguard != tt.wireguard || p.edge != tt.edge {
				t.Errorf("ports %v protocols %#x wireguard %v edge %d", p.ports, p.protocols, p.wireguard, p.edge)
			}
			if len(p.node) != len(tt.view.addresses) {
				t.Errorf("the node has %v", p.node)
			}
		})
	}

	var many view
	for i := range 10 {
		many.links = append(many.links, link{index: 20 - i, kind: "vxlan", port: uint16(110 - i), flags: up})
	}
	if p := many.plan(); !slices.Equal(p.tooManyPortsFor, []uint16{109, 110}) || len(p.ports) != 8 {
		t.Errorf("ports %v and %v", p.ports, p.tooManyPortsFor)
	}
}

// TestListNetwork reads addresses and routes of a real network.
func TestListNetwork(t *testing.T) {
	namespace(t)
	veth(t, "a", "b")
	ip(t, "addr", "add", "10.0.0.1/24", "dev", "a")
	ip(t, "addr", "add", "10.0.0.9", "peer", "10.0.0.8/32", "dev", "b")
	ip(t, "addr", "add", "fd00::1/64", "dev", "a", "nodad")
	ip(t, "route", "add", "default", "via", "10.0.0.2")
	ip(t, "route", "add", "10.1.0.0/16", "nexthop", "via", "10.0.0.2", "nexthop", "dev", "b")
	ip(t, "route", "add", "10.2.0.0/16", "dev", "b", "table", "7")
	ip(t, "route", "add", "blackhole", "10.3.0.0/16")
	fd, err := openNetlink(0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	addresses, err := listAddresses(fd)
	if err != nil {
		t.Fatal(err)
	}
	name := map[int]string{1: "lo", index(t, "a"): "a", index(t, "b"): "b"}
	var got []string
	for _, a := range addresses {
		got = append(got, name[a.index]+" "+a.prefix.String())
	}
	slices.Sort(got)
	want := []string{"a 10.0.0.1/24", "a fd00::1/64", "b 10.0.0.9/32", "lo 127.0.0.1/8", "lo ::1/128"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	routes, err := listRoutes(fd)
	if err != nil {
		t.Fatal(err)
	}
	got = nil
	for _, r := range routes {
		if name[r.index] != "lo" {
			got = append(got, name[r.index]+" "+r.to.String())
		}
	}
	slices.Sort(got)
	want = []string{"a 0.0.0.0/0", "a 10.0.0.0/24", "a 10.1.0.0/16", "a fd00::/64", "b 10.0.0.8/32", "b 10.1.0.0/16", "b 10.2.0.0/16"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
}

// TestGenerated makes the filter's object files again where that can be done, as
// in CI, and compares. Another clang, or other headers, may make others.
func TestGenerated(t *testing.T) {
	out, err := exec.Command("clang-14", "--version").Output()
	if err != nil || !strings.Contains(string(out), "Debian") {
		t.Skip("no Debian clang-14 here, which made the files")
	}
	if _, err := exec.LookPath("llvm-strip-14"); err != nil {
		t.Skip(err)
	}
	source, err := os.ReadFile("kernel_linux.go")
	if err != nil {
		t.Fatal(err)
	}
	_, command, ok := strings.Cut(string(source), "//go:generate go run ")
	if !ok {
		t.Fatal("nothing to generate")
	}
	command, _, _ = strings.Cut(command, "\n")
	dir := t.TempDir()
	args := append([]string{"run"}, strings.Fields(command)...)
	args = slices.Insert(args, 2, "-output-dir", dir)
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "GOPACKAGE=packets")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 4 {
		t.Fatalf("%v are made: %v", files, err)
	}
	for _, f := range files {
		fresh, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := os.ReadFile(filepath.Base(f))
		if err != nil {
			t.Fatal(err)
		}
		if string(fresh) != string(kept) {
			t.Errorf("%s is not what `make generate` makes of filter.bpf.c", filepath.Base(f))
		}
	}
}
