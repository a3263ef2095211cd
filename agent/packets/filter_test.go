//go:build linux

package packets

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// ipPacket makes an IP packet. Options are more bytes of an IPv4 header.
func ipPacket(from, to netip.AddrPort, protocol byte, fragment uint16, options int) []byte {
	ports := binary.BigEndian.AppendUint16(nil, from.Port())
	ports = append(binary.BigEndian.AppendUint16(ports, to.Port()), make([]byte, 16)...)
	var b []byte
	if from.Addr().Is4() {
		b = []byte{0x45 + byte(options/4), 0, 0, byte(40 + options), 0, 0, 0, 0, 64, protocol, 0, 0}
		binary.BigEndian.PutUint16(b[6:], fragment)
	} else {
		b = []byte{0x60, 0, 0, 0, 0, 20, protocol, 64}
	}
	b = append(b, from.Addr().AsSlice()...)
	b = append(b, to.Addr().AsSlice()...)
	b = append(b, make([]byte, options)...)
	return append(b, ports...)
}

func inEther(etherType uint16, packet []byte) []byte {
	f := ether(etherType, 14, 0)
	return append(f, packet...)
}

// TestExclude runs the filter in the kernel, on packets that it leaves out and
// on those that only look similar.
func TestExclude(t *testing.T) {
	namespace(t)
	veth(t, "a", "b")
	hub4, hub6 := netip.MustParseAddrPort("10.0.0.1:8898"), netip.MustParseAddrPort("[fd00::1:1]:8898")
	other4, other6 := netip.MustParseAddrPort("10.0.0.2:40000"), netip.MustParseAddrPort("[fd00::1:2]:40000")
	port4, port6 := netip.MustParseAddrPort("10.0.0.1:8899"), netip.MustParseAddrPort("[fd00::1:1]:8899")
	const tcp, udp = 6, 17
	tests := []struct {
		name  string
		frame []byte
		kept  bool
	}{
		{"to hub", inEther(0x0800, ipPacket(other4, hub4, tcp, 0, 0)), false},
		{"from hub", inEther(0x0800, ipPacket(hub4, other4, tcp, 0, 0)), false},
		{"options", inEther(0x0800, ipPacket(hub4, other4, tcp, 0, 24)), false},
		{"first fragment", inEther(0x0800, ipPacket(hub4, other4, tcp, 0x2000, 0)), false},
		{"to hub, IPv6", inEther(0x86dd, ipPacket(other6, hub6, tcp, 0, 0)), false},
		{"from hub, IPv6", inEther(0x86dd, ipPacket(hub6, other6, tcp, 0, 0)), false},
		{"behind a tag", tagged(inEther(0x0800, ipPacket(hub4, other4, tcp, 0, 0)), 0x8100, 7), false},

		{"other port", inEther(0x0800, ipPacket(port4, other4, tcp, 0, 0)), true},
		{"other port, IPv6", inEther(0x86dd, ipPacket(port6, other6, tcp, 0, 0)), true},
		{"hub's port elsewhere", inEther(0x0800, ipPacket(other4, netip.MustParseAddrPort("10.0.0.3:8898"), tcp, 0, 0)), true},
		{"hub's port elsewhere, IPv6", inEther(0x86dd, ipPacket(other6, netip.MustParseAddrPort("[fd00::2:1]:8898"), tcp, 0, 0)), true},
		{"UDP", inEther(0x0800, ipPacket(other4, hub4, udp, 0, 0)), true},
		{"UDP, IPv6", inEther(0x86dd, ipPacket(other6, hub6, udp, 0, 0)), true},
		{"later fragment", inEther(0x0800, ipPacket(hub4, other4, tcp, 0x2003, 0)), true},
		{"ends before ports", inEther(0x0800, ipPacket(hub4, other4, tcp, 0, 0)[:22]), true},
		{"ends before addresses", inEther(0x0800, ipPacket(hub4, other4, tcp, 0, 0)[:12]), true},
		{"header longer than packet", inEther(0x0800, append([]byte{0x4f}, ipPacket(hub4, other4, tcp, 0, 0)[1:]...)), true},
		{"ends before ports, IPv6", inEther(0x86dd, ipPacket(hub6, other6, tcp, 0, 0)[:42]), true},
		{"nothing but a header", ether(0x0800, 14, 1), true},
		{"not IP", inEther(0x88b5, ipPacket(hub4, other4, tcp, 0, 0)), true},
	}
	s := begin(t, Config{classic: true, Interfaces: []string{"b"}, Exclude: []netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.1:1"), hub4, netip.MustParseAddrPort("[2001:db8::1]:1"),
		netip.AddrPortFrom(hub6.Addr(), hub6.Port()),
	}})
	out := newSender(t, "a")
	done := 0
	for _, tt := range tests {
		out.send(tt.frame)
		all := s.cut()
		kept := len(all) > done
		done = len(all)
		if kept != tt.kept {
			t.Errorf("%s: kept %v, want %v", tt.name, kept, tt.kept)
		}
	}
}

// TestFilterLimits keeps programs within what kernels take.
func TestFilterLimits(t *testing.T) {
	f := Filter{Indexes: make([]int, MaxIndexes)}
	for range maxExclude {
		var a [16]byte
		binary.NativeEndian.PutUint64(a[8:], rand.Uint64())
		a[0] = 0xfd
		f.Exclude = append(f.Exclude, netip.AddrPortFrom(netip.AddrFrom16(a), 1))
	}
	r, err := newRing(0)
	switch {
	case err != nil && os.Getuid() == 0:
		t.Fatal(err)
	case err != nil:
		t.Skip(err)
	}
	defer func() { _ = r.close() }()
	p, err := f.Program()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.attach(p); err != nil {
		t.Errorf("%d instructions: %v", len(p), err)
	}
	for want, f := range map[string]Filter{
		"interfaces":            {Indexes: make([]int, MaxIndexes+1)},
		"to exclude":            {Exclude: append(f.Exclude, f.Exclude[0])},
		"want one address":      {Exclude: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:1")}},
		"exclude 1.2.3.4:0":     {Exclude: []netip.AddrPort{netip.MustParseAddrPort("1.2.3.4:0")}},
		"exclude invalid AddrP": {Exclude: []netip.AddrPort{{}}},
	} {
		if _, err := f.Program(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, not %v", want, err)
		}
	}
}
