//go:build linux

package packets

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// benchFilter is in the kernel, as on a node with a pod's interface, an uplink and
// connections of ours.
func benchFilter(b *testing.B) (k *kernelFilter, packet []byte) {
	k = testFilter(b)
	fillAddresses(b, k)
	for i := range 1000 {
		if err := k.leaveOut(End{TCP, netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(40000+i))}, true); err != nil {
			b.Fatal(err)
		}
	}
	target, remote := netip.AddrPortFrom(modelAddrs[2], 8080), netip.AddrPortFrom(modelAddrs[12], 39999)
	frame := append(inEther(0x0800, ipPacket(target, remote, TCP, 0, 0)), make([]byte, 1000)...)
	return k, append(ether(0x88b5, 14, 1), frame...) // testRun's way
}

// cpuTime is that of this thread, which other programs on the machine do not
// lengthen.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFilter is the time that the filter takes for a packet, by what the
// packet's interface is. The kernel takes it.
func BenchmarkFilter(b *testing.B) {
	for _, role := range []struct {
		name      string
		role      uint8
		selective uint8
	}{
		{"everything", roleAll, 0}, {"pod", rolePod, 0}, {"pod, targets", rolePod, 1}, {"uplink", roleUplink, 0}, {"bridge", roleBetween, 0},
	} {
		b.Run(role.name, func(b *testing.B) {
			k, packet := benchFilter(b)
			if err := k.setLinks(map[uint32]filterLink{1: {Role: role.role, Ethernet: 1}}); err != nil {
				b.Fatal(err)
			}
			if err := k.configure(func(s *filterSettings) { s.Selective, s.Node = role.selective, 1 }); err != nil {
				b.Fatal(err)
			}
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			began := cpuTime(b)
			if _, err := k.objects.Choose.Run(&ebpf.RunOptions{Data: packet, Repeat: uint32(b.N)}); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(cpuTime(b)-began)/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkSend is the time that a packet takes over a veth pair that is captured
// on, with each filter.
func BenchmarkSend(b *testing.B) {
	hub := netip.MustParseAddrPort("10.0.0.1:8898")
	for _, classic := range []bool{true, false} {
		b.Run(fmt.Sprintf("classic=%v", classic), func(b *testing.B) {
			namespace(b)
			veth(b, "a", "b")
			own := new(Own)
			own.LeaveOut(TCP, hub)
			s := begin(b, Config{classic: classic, Exclude: []netip.AddrPort{hub}, Own: own, RingSize: 64 << 20})
			for _, r := range s.recs {
				r.keep = false
			}
			frame := append(inEther(0x0800, ipPacket(netip.AddrPortFrom(modelAddrs[2], 8080), netip.AddrPortFrom(modelAddrs[12], 39999), TCP, 0, 0)), make([]byte, 1000)...)
			out := newSender(b, "a")
			b.ResetTimer()
			began := cpuTime(b)
			for range b.N {
				out.send(frame)
			}
			b.ReportMetric(float64(cpuTime(b)-began)/float64(b.N), "cpu-ns/op")
		})
	}
}
