//go:build linux

package packets

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A box is a network namespace beside that of the test: a pod, or another node.
type box struct {
	t    testing.TB
	path string // of the namespace
	work chan func()
}

func newBox(t testing.TB) *box {
	t.Helper()
	b := &box{t: t, work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		b.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		ready <- err
		for f := range b.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(b.work) })
	b.ip("link", "set", "dev", "lo", "up")
	return b
}

// do runs f in the box.
func (b *box) do(f func()) {
	done := make(chan struct{})
	b.work <- func() { defer close(done); f() }
	<-done
}

func (b *box) ip(args ...string) {
	b.t.Helper()
	var out []byte
	var err error
	b.do(func() { out, err = exec.Command("ip", args...).CombinedOutput() })
	if err != nil {
		b.t.Fatalf("ip %q: %v: %s", args, err, out)
	}
}

// A node is the namespace of the test as a node of a cluster:
//
//	pods a, b ─ bridge cni0 ─ (routing) ─ vx0, a vxlan over up0 ─ other node
//	                                    ─ up0 ───────────────────────┘
type node struct {
	t     testing.TB
	pods  map[string]*box
	other *box
	said  int
}

// Addresses of the test's cluster.
const (
	nodeAddr  = "192.168.9.1"
	otherAddr = "192.168.9.2"
	remotePod = "10.1.2.5" // on the other node
)

func newNode(t testing.TB) *node {
	t.Helper()
	namespace(t)
	testFilter(t)
	n := &node{t: t, pods: map[string]*box{}, other: newBox(t)}
	for _, file := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+file, []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	ip(t, "link", "add", "name", "up0", "type", "veth", "peer", "name", "eth0", "netns", n.other.path)
	ip(t, "addr", "add", nodeAddr+"/24", "dev", "up0")
	ip(t, "link", "set", "dev", "up0", "up")
	n.other.ip("addr", "add", otherAddr+"/24", "dev", "eth0")
	n.other.ip("link", "set", "dev", "eth0", "up")
	ip(t, "route", "add", "default", "via", otherAddr)
	vxlan := func(local, remote, dev string) []string {
		return []string{"link", "add", "name", "vx0", "type", "vxlan", "id", "1", "local", local, "remote", remote, "dstport", "8472", "dev", dev}
	}
	ip(t, vxlan(nodeAddr, otherAddr, "up0")...)
	ip(t, "addr", "add", "10.1.1.0/32", "dev", "vx0")
	ip(t, "link", "set", "dev", "vx0", "up")
	ip(t, "route", "add", "10.1.2.0/24", "via", "10.1.2.0", "dev", "vx0", "onlink")
	n.other.ip(vxlan(otherAddr, nodeAddr, "eth0")...)
	n.other.ip("addr", "add", "10.1.2.0/32", "dev", "vx0")
	n.other.ip("addr", "add", remotePod+"/32", "dev", "lo")
	n.other.ip("link", "set", "dev", "vx0", "up")
	n.other.ip("route", "add", "10.1.1.0/24", "via", "10.1.1.0", "dev", "vx0", "onlink")
	ip(t, "link", "add", "name", "cni0", "type", "bridge")
	ip(t, "addr", "add", "10.1.1.1/24", "dev", "cni0")
	ip(t, "addr", "add", "fd01::1/64", "dev", "cni0", "nodad")
	ip(t, "link", "set", "dev", "cni0", "up")
	n.pod("a", 2)
	n.pod("b", 3)
	return n
}

// pod makes one, with the host's end of its interface named after it.
func (n *node) pod(name string, number int) {
	n.t.Helper()
	b := newBox(n.t)
	n.pods[name] = b
	ip(n.t, "link", "add", "name", "veth-"+name, "type", "veth", "peer", "name", "eth0", "netns", b.path)
	ip(n.t, "link", "set", "dev", "veth-"+name, "master", "cni0")
	ip(n.t, "link", "set", "dev", "veth-"+name, "up")
	b.ip("addr", "add", fmt.Sprintf("10.1.1.%d/24", number), "dev", "eth0")
	b.ip("addr", "add", fmt.Sprintf("fd01::%d/64", number), "dev", "eth0", "nodad")
	b.ip("link", "set", "dev", "eth0", "up")
	b.ip("route", "add", "default", "via", "10.1.1.1")
	awaitCarrier(n.t, "veth-"+name)
}

// A talk is a UDP datagram and the interfaces on which it is to be recorded.
type talk struct {
	from string // a pod, "node" or "other"
	to   string // address
	want string // names of interfaces, in order of their names
	size int
}

// say sends a datagram with a payload that nothing else has.
func (n *node) say(k talk) (payload []byte) {
	n.t.Helper()
	n.said++
	payload = fmt.Appendf(nil, "from %s to %s, number %d", k.from, k.to, n.said)
	payload = append(bytes.Repeat([]byte("."), max(k.size-len(payload), 0)), payload...)
	send := func() {
		to := netip.AddrPortFrom(netip.MustParseAddr(k.to), 9)
		family := unix.AF_INET6
		if to.Addr().Is4() {
			family = unix.AF_INET
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			n.t.Error(err)
			return
		}
		defer unix.Close(fd)
		// Fragments, rather than an error.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
		if k.from == "other" && strings.HasPrefix(k.to, "10.") {
			_ = unix.Bind(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(remotePod).As4()})
		}
		if err := unix.Sendto(fd, payload, 0, sockaddr(to)); err != nil {
			n.t.Errorf("%s to %s: %v", k.from, k.to, err)
		}
	}
	switch k.from {
	case "node":
		send()
	case "other":
		n.other.do(send)
	default:
		n.pods[k.from].do(send)
	}
	return payload
}

// check sends datagrams and looks where each is recorded. Each is sent twice, as
// with the first come ARP and neighbour discovery, which takes a moment.
func (n *node) check(s *session, talks []talk) {
	n.t.Helper()
	for _, k := range talks {
		n.say(k)
	}
	var payloads [][]byte
	for _, k := range talks {
		payloads = append(payloads, n.say(k))
	}
	got := make([]string, len(talks))
	find := func() bool {
		recs := s.cut()
		same := true
		for i, k := range talks {
			var on []string
			for _, r := range recs {
				if udp := len(r.Data) > 40 && (r.Data[23] == UDP || r.Data[20] == UDP); udp && bytes.HasSuffix(r.Data, payloads[i]) {
					on = append(on, r.Iface.Name)
				}
			}
			slices.Sort(on)
			got[i] = strings.Join(on, " ")
			same = same && got[i] == k.want
		}
		return same
	}
	// A busy machine delivers some of them later.
	for end := time.Now().Add(5 * time.Second); !find() && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	for i, k := range talks {
		if got[i] != k.want {
			n.t.Errorf("from %s to %s: recorded on %q, want %q", k.from, k.to, got[i], k.want)
		}
	}
}

// targets with pods at the addresses that pod gives them.
func targets(selective, node bool, pods map[int]Pod) Targets {
	t := Targets{Selective: selective, Node: node, Pods: map[netip.Addr]Pod{}, NodeAddresses: []netip.Addr{netip.MustParseAddr(nodeAddr)}}
	for i, p := range pods {
		t.Pods[netip.MustParseAddr(fmt.Sprintf("10.1.1.%d", i))] = p
		t.Pods[netip.MustParseAddr(fmt.Sprintf("fd01::%d", i))] = p
	}
	return t
}

// TestNode records each packet where it leaves and where it arrives.
func TestNode(t *testing.T) {
	n := newNode(t)
	all := targets(false, true, map[int]Pod{2: Untargeted, 3: Untargeted})
	s := begin(t, Config{Cluster: &all})
	check := func(name string, now Targets, talks []talk) {
		t.Helper()
		if err := s.SetTargets(now); err != nil {
			t.Fatal(err)
		}
		t.Log(name)
		n.check(s, talks)
	}
	toB, toB6 := "10.1.1.3", "fd01::3"
	check("no targets", all, []talk{
		{from: "a", to: toB, want: "veth-a veth-b"},
		{from: "a", to: toB6, want: "veth-a veth-b"},
		{from: "a", to: remotePod, want: "veth-a"},
		{from: "other", to: "10.1.1.2", want: "veth-a"},
		{from: "a", to: otherAddr, want: "veth-a"},
		{from: "a", to: "10.1.1.1", want: "veth-a"}, // the node
		{from: "node", to: toB, want: "veth-b"},
		{from: "node", to: otherAddr, want: "up0"},
		{from: "node", to: remotePod, want: "vx0"},
		{from: "other", to: nodeAddr, want: "up0"},
		{from: "node", to: "127.0.0.1", want: "lo"},
		{from: "node", to: nodeAddr, want: "lo"},
	})
	check("pods not known yet", targets(false, true, nil), []talk{
		{from: "a", to: toB, want: "veth-a veth-b"},
		{from: "a", to: remotePod, want: "veth-a"},
		{from: "a", to: otherAddr, want: "veth-a"},
	})
	check("a is a target", targets(true, false, map[int]Pod{2: Target, 3: Untargeted}), []talk{
		{from: "a", to: toB, want: "veth-a"},
		{from: "a", to: toB6, want: "veth-a"},
		{from: "b", to: "10.1.1.2", want: "veth-a"},
		{from: "b", to: remotePod},
		{from: "a", to: remotePod, want: "veth-a"},
		{from: "a", to: "10.1.1.1", want: "veth-a"},
		{from: "node", to: toB},
		{from: "node", to: otherAddr},
		{from: "node", to: "127.0.0.1"},
	})
	check("b is, and the node; a is excluded", targets(true, true, map[int]Pod{2: Excluded, 3: Target}), []talk{
		{from: "a", to: toB, want: "veth-b"},
		{from: "b", to: "10.1.1.2", want: "veth-b"},
		{from: "a", to: "10.1.1.1"},
		{from: "a", to: otherAddr},
		{from: "node", to: toB, want: "veth-b"},
		{from: "node", to: otherAddr, want: "up0"},
		{from: "node", to: remotePod, want: "vx0"},
		{from: "node", to: "127.0.0.1", want: "lo"},
	})
	check("the node is, and what it says to pods that are not excluded", targets(true, true, map[int]Pod{2: Excluded, 3: Untargeted}), []talk{
		{from: "node", to: toB, want: "veth-b"},
		{from: "node", to: "10.1.1.2"},
		{from: "b", to: "10.1.1.1", want: "veth-b"},
		{from: "b", to: remotePod},
	})
	check("nothing is known", targets(true, false, nil), []talk{
		{from: "a", to: toB},
		{from: "a", to: toB6},
		{from: "node", to: otherAddr},
	})
	check("b is ours", targets(false, true, map[int]Pod{2: Untargeted, 3: OwnPod}), []talk{
		{from: "a", to: toB},
		{from: "b", to: "10.1.1.2"},
		{from: "b", to: remotePod},
		{from: "b", to: otherAddr},
		{from: "node", to: toB},
		{from: "a", to: remotePod, want: "veth-a"},
	})

	// Pods that come and go while capture runs.
	if err := s.SetTargets(targets(false, true, nil)); err != nil {
		t.Fatal(err)
	}
	n.pod("c", 4)
	n.check(s, []talk{{from: "c", to: toB, want: "veth-b veth-c"}, {from: "c", to: otherAddr, want: "veth-c"}})
	if err := s.SetTargets(targets(true, false, nil)); err != nil {
		t.Fatal(err)
	}
	n.pod("d", 5)
	n.check(s, []talk{{from: "d", to: toB}})
	check("d is known", targets(true, false, map[int]Pod{5: Target}), []talk{
		{from: "d", to: toB, want: "veth-d"},
		{from: "d", to: "224.0.0.251", want: "veth-d"}, // no address of a pod, and from d
	})
	check("d is gone, and its interface not yet", targets(true, false, nil), []talk{
		{from: "d", to: toB},
		{from: "d", to: "224.0.0.251"},
	})
	if out := s.Stats().LeftOut; out.Between == 0 || out.Untargeted == 0 || out.Unknown == 0 || out.Own == 0 {
		t.Errorf("left out %+v", out)
	}
}

// TestFragments records all fragments of a datagram of a target, and only those.
func TestFragments(t *testing.T) {
	n := newNode(t)
	now := targets(true, false, map[int]Pod{2: Target, 3: Untargeted})
	s := begin(t, Config{Cluster: &now})
	n.check(s, []talk{{from: "a", to: "10.1.1.3", want: "veth-a"}})
	before := len(s.cut())
	n.say(talk{from: "a", to: "10.1.1.3", size: 4000})
	n.say(talk{from: "a", to: "fd01::3", size: 4000})
	fragments := 0
	eventually(t, "fragments are missing", func() bool {
		fragments = 0
		for _, r := range s.cut()[before:] {
			if r.Iface.Name != "veth-a" {
				t.Errorf("recorded on %s", r.Iface.Name)
			}
			v4 := r.Data[12] == 8 && r.Data[13] == 0 && r.Data[23] == UDP
			if v4 || r.Data[12] == 0x86 && r.Data[20] == 44 {
				fragments++
			}
		}
		return fragments >= 6
	})
	if fragments != 6 {
		t.Errorf("%d fragments are recorded, want 3 of each datagram", fragments)
	}
}
