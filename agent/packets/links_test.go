//go:build linux

package packets

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"pcapsule/chunker"
)

// TestTableAt finds the link that had an index at a time.
func TestTableAt(t *testing.T) {
	l := &links{log: slog.New(slog.DiscardHandler), requests: -1}
	now := int64(0)
	l.now = func() int64 { return now }
	l.current.Store(&table{})
	step := func(at int64, came []link, gone ...int) {
		now = at
		l.update(came, gone)
	}
	named := func(name string) []link { return []link{{index: 3, name: name}} }
	step(100, named("a"))
	step(150, named("a")) // nothing new
	step(200, named("b")) // renamed
	step(300, nil, 3)     // removed
	step(300, nil, 3)     // twice
	step(400, named("c")) // another with its index
	step(400, nil, 4)     // never seen
	step(500, []link{{index: 5, name: "if5", guessed: true}})
	step(501, []link{{index: 5, name: "e"}})

	for _, tt := range []struct {
		index int
		when  int64
		want  string
	}{
		{3, 0, "a"}, {3, 199, "a"}, {3, 200, "b"}, {3, 299, "b"}, {3, 300, "c"}, {3, 401, "c"}, {5, 0, "e"},
	} {
		if v, ok := l.table().at(tt.index, tt.when); !ok || v.name != tt.want {
			t.Errorf("%d at %d is %q, want %q", tt.index, tt.when, v.name, tt.want)
		}
	}
	if _, ok := l.table().at(4, 0); ok {
		t.Error("index 4 is known")
	}
	var names []string
	for _, k := range l.table().present() {
		names = append(names, k.name)
	}
	if want := []string{"c", "e"}; !slices.Equal(names, want) {
		t.Errorf("present are %v, want %v", names, want)
	}

	// What ended long ago is forgotten, and changes without end take no room.
	step(500+keepVersions, nil, 5)
	if n := len((*l.table())[3]); n != 1 {
		t.Errorf("%d versions are kept, want 1", n)
	}
	step(600+2*keepVersions, named("d"))
	if keys := slices.Sorted(maps.Keys(*l.table())); !slices.Equal(keys, []int{3}) {
		t.Errorf("links %v are kept, want 3", keys)
	}
	for i := range 100 {
		step(now+1, named(strings.Repeat("x", i%15+1)))
	}
	if n := len((*l.table())[3]); n > maxVersions {
		t.Errorf("%d versions are kept", n)
	}
}

// TestInterfacesChange follows interfaces that are renamed, removed and made
// anew while a capture runs.
func TestInterfacesChange(t *testing.T) {
	for name, classic := range map[string]bool{"eBPF": false, "classic BPF": true} {
		t.Run(name, func(t *testing.T) { testInterfacesChange(t, classic) })
	}
}

func testInterfacesChange(t *testing.T, classic bool) {
	namespace(t)
	veth(t, "a", "b")
	var mu sync.Mutex
	var told []Named
	s := begin(t, Config{Interfaces: []string{"b"}, classic: classic, OnNamed: func(_ int64, list []Named) {
		mu.Lock()
		defer mu.Unlock()
		told = list
	}})
	is := func(state NamedState, as ...string) {
		t.Helper()
		eventually(t, fmt.Sprintf("b is not told to be %d as %v", state, as), func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(told) == 1 && told[0].Name == "b" && told[0].State == state && slices.Equal(told[0].As, as)
		})
	}
	is(NamedUp, "b")
	all := begin(t, Config{classic: classic})
	knows := func(s *session, want ...string) {
		t.Helper()
		eventually(t, "interfaces are not "+strings.Join(want, ", "), func() bool {
			var names []string
			for _, i := range s.Interfaces() {
				switch {
				case i.Gone:
					names = append(names, "no "+i.Name)
				case i.Name != "lo":
					names = append(names, i.Name)
				}
			}
			slices.Sort(names)
			return slices.Equal(names, want)
		})
	}
	n := byte(0)
	send := func(from string) {
		n++
		newSender(t, from).send(ether(0x88b5, 60, n))
	}
	ids := func(recs []seen, iface string) (out []byte) {
		for _, d := range data(recs, iface) {
			out = append(out, d[5])
		}
		return out
	}

	send("a") // 1
	// Packets are named as of their time, though they are read later.
	all.cut()
	ip(t, "link", "set", "dev", "b", "down")
	is(NamedDown, "b")
	ip(t, "link", "set", "dev", "b", "name", "c")
	ip(t, "link", "set", "dev", "c", "up")
	is(NamedUp, "c")
	knows(s, "c")
	knows(all, "a", "c")
	awaitCarrier(t, "a")
	send("a") // 2, to c
	all.cut()
	ip(t, "link", "set", "dev", "c", "alias", "uplink to the lab")
	eventually(t, "no alias", func() bool {
		return slices.ContainsFunc(all.Interfaces(), func(i Interface) bool { return i.Description == "uplink to the lab" })
	})
	send("a") // 3, to c with its alias
	all.cut()
	ip(t, "link", "del", "dev", "c")
	is(NamedGone)
	knows(s, "no b")
	knows(all)
	veth(t, "a", "b")
	is(NamedUp, "b")
	knows(s, "b")
	knows(all, "a", "b")
	send("a") // 4, to the new b
	recs := s.cut()
	for iface, want := range map[string][]byte{"a": nil, "b": {1, 4}, "c": {2, 3}} {
		if diff := cmp.Diff(want, ids(recs, iface)); diff != "" {
			t.Errorf("what was named b, on %s (-sent +recorded):\n%s", iface, diff)
		}
	}
	recs = all.cut()
	for iface, want := range map[string][]byte{"a": {1, 2, 3, 4}, "b": {1, 4}, "c": {2, 3}} {
		if diff := cmp.Diff(want, ids(recs, iface)); diff != "" {
			t.Errorf("on %s (-sent +recorded):\n%s", iface, diff)
		}
	}
	for _, r := range recs {
		want := "veth"
		if r.Iface.Name == "c" && r.Data[5] == 3 {
			want = "uplink to the lab"
		}
		if r.Iface.Description != want {
			t.Errorf("packet %d on %s: description %q, want %q", r.Data[5], r.Iface.Name, r.Iface.Description, want)
		}
	}
}

// A tun is a network interface whose packets the test reads and writes.
type tun struct {
	t testing.TB
	*os.File
}

// newTun makes an interface of a hardware type.
func newTun(t testing.TB, name string, hatype int) tun {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		if os.Getuid() == 0 && os.Getenv(insideEnv) == "" {
			t.Fatalf("cannot make a tun interface: %v", err)
		}
		t.Skipf("cannot make a tun interface: %v", err)
	}
	f := os.NewFile(uintptr(fd), "tun")
	t.Cleanup(func() { f.Close() })
	var req struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(req.name[:], name)
	req.flags = unix.IFF_TUN
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&req))); errno != 0 {
		t.Fatalf("make %s: %v", name, errno)
	}
	if hatype != arphrdNone {
		if err := unix.IoctlSetInt(fd, unix.TUNSETLINK, hatype); err != nil {
			t.Fatalf("make %s a link of type %d: %v", name, hatype, err)
		}
	}
	ip(t, "link", "set", "dev", name, "addrgenmode", "none")
	ip(t, "link", "set", "dev", name, "up")
	return tun{t, f}
}

// deliver lets the interface receive a packet of a protocol.
func (f tun) deliver(protocol uint16, packet []byte) {
	f.t.Helper()
	b := append([]byte{0, 0, byte(protocol >> 8), byte(protocol)}, packet...)
	if _, err := f.Write(b); err != nil {
		f.t.Fatal(err)
	}
}

// TestLinkTypes records interfaces that are not Ethernet.
func TestLinkTypes(t *testing.T) {
	namespace(t)
	v4 := append([]byte{0x45, 0, 0, 24, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}, 1, 2, 3, 4)
	can := []byte{0, 0, 0, 0, 8, 0, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 7, 8}
	native.PutUint32(can, 0x123)
	tests := []struct {
		name     string
		hatype   int
		protocol uint16
		packet   []byte
		link     uint16
		want     func(index byte) []byte
	}{
		{"raw", arphrdNone, 0x0800, v4, 101, func(byte) []byte { return v4 }},
		{"ipip", arphrdTunnel, 0x0800, v4, 101, func(byte) []byte { return v4 }},
		{"gre", 778, 0x0800, v4, 276, func(index byte) []byte {
			return append([]byte{8, 0, 0, 0, 0, 0, 0, index, 3, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, v4...)
		}},
		{"can", arphrdCAN, 0x000c, can, 227, func(byte) []byte {
			return []byte{0, 0, 1, 0x23, 8, 0, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 7, 8}
		}},
	}
	tuns := map[string]tun{}
	for _, tt := range tests {
		tuns[tt.name] = newTun(t, tt.name, tt.hatype)
	}
	s := begin(t, Config{})
	for _, tt := range tests {
		tuns[tt.name].deliver(tt.protocol, tt.packet)
	}
	recs := s.cut()
	for _, tt := range tests {
		got := data(recs, tt.name)
		if len(got) != 1 {
			t.Errorf("%s: %d packets", tt.name, len(got))
			continue
		}
		if diff := cmp.Diff(tt.want(byte(index(t, tt.name))), got[0]); diff != "" {
			t.Errorf("%s (-want +recorded):\n%s", tt.name, diff)
		}
		for _, r := range recs {
			want := chunker.Interface{Name: tt.name, Description: "tun", LinkType: tt.link}
			if r.Iface.Name == tt.name && (r.Iface != want || r.Flags&3 != chunker.FlagInbound || int(r.OrigLen) != len(r.Data)) {
				t.Errorf("%s: %+v flags %#x, %d bytes; want %+v", tt.name, r.Iface, r.Flags, r.OrigLen, want)
			}
		}
	}
	for _, i := range s.Interfaces() {
		if i.Name == "raw" && (!i.Up || i.Speed == 0 || i.Index != index(t, "raw") || i.LinkType != 101) {
			t.Errorf("%+v", i)
		}
	}
}
