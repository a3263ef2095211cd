//go:build linux

package packets

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// A model is filter.bpf.c again, in plain Go and on its own terms, to compare
// verdicts with. It reads what the kernel's maps hold from the kernelFilter.
type model struct {
	*kernelFilter
	heard map[uint32]uint32 // by interface: generation
}

// A modelPacket is what the kernel tells the filter of a packet.
type modelPacket struct {
	index    uint32
	outgoing bool
	data     []byte // from the start of the packet
	network  []byte // from the network header
	protocol uint16 // of what is there
}

// Verdicts other than to leave a packet out for a reason.
const (
	kept    = -1
	dropped = -2 // and not counted
)

func (m *model) verdict(p modelPacket) int {
	s := m.settings
	l, known := m.links[p.index]
	if !known {
		l = filterLink{Role: s.UnknownRole, Ethernet: 1}
	}
	node := outUntargeted
	if s.Node != 0 {
		node = kept
	}
	h := dissect(p, l.Ethernet != 0)
	switch l.Role {
	case roleNone:
		if !known && s.Selective != 0 {
			return outUnknown
		}
		return dropped
	case roleLoopback:
		if p.outgoing {
			return dropped
		}
	case roleBetween:
		return outBetween
	}
	if h.ported && (m.isOwn(h.protocol, h.from, h.source) || m.isOwn(h.protocol, h.to, h.dest)) {
		return outOwn
	}
	if l.Role == roleAll || l.Role == roleLoopback {
		return node
	}
	from, to := m.addresses[h.from], m.addresses[h.to]
	if (from|to)&addrOwn != 0 {
		return outOwn
	}
	if l.Role == rolePod {
		if s.Selective == 0 {
			return kept
		}
		side, other := from, to
		if p.outgoing {
			side, other = to, from
		}
		switch {
		case side&addrTarget != 0:
			if !p.outgoing && known {
				m.heard[p.index] = s.Generation
			}
			return kept
		case side&addrExcluded != 0:
			return outUntargeted
		case side&addrPod != 0:
			if s.Node != 0 && other&addrNode != 0 {
				return kept
			}
			return outUntargeted
		case known && m.heard[p.index] == s.Generation:
			return kept
		}
		return outUnknown
	}
	if l.Role == roleUplink {
		if m.wraps(h) {
			return outBetween
		}
		if h.from.IsValid() && (from|to)&(addrNode|addrPod) == 0 {
			for p := range m.prefixes {
				if p.Contains(h.from) {
					from = addrPod
				}
				if p.Contains(h.to) {
					to = addrPod
				}
			}
		}
	}
	if (from|to)&addrPod != 0 {
		if s.Edge == edgeNo || s.Edge == edgeArriving && (p.outgoing || to&addrPod == 0) {
			return outBetween
		}
		if s.Selective != 0 && (from|to)&addrTarget == 0 {
			return outUntargeted
		}
		return kept
	}
	if l.Role == roleTunnel && (from|to)&addrNode == 0 {
		return outBetween
	}
	return node
}

func (m *model) isOwn(protocol byte, a netip.Addr, port uint16) bool {
	_, ok := m.own[End{protocol, netip.AddrPortFrom(a, port)}]
	return ok
}

// wraps tells whether a packet on an uplink carries one of a tunnel.
func (m *model) wraps(h headers) bool {
	if !h.from.IsValid() {
		return false
	}
	if h.protocol < 64 && m.settings.TunnelProtocols>>h.protocol&1 == 1 {
		return true
	}
	if h.protocol != UDP || !h.ported {
		return false
	}
	if h.dest != 0 && slices.Contains(m.settings.TunnelPorts[:], h.dest) {
		return true
	}
	if m.settings.Wireguard == 0 || len(h.transport) < 12 || h.transport[9]|h.transport[10]|h.transport[11] != 0 {
		return false
	}
	n := int(binary.BigEndian.Uint16(h.transport[4:])) - 8
	switch h.transport[8] {
	case 1:
		return n == 148
	case 2:
		return n == 92
	case 3:
		return n == 64
	case 4:
		return n >= 32 && n%16 == 0
	}
	return false
}

// headers are what matters in those of a packet. From and to are invalid without
// addresses.
type headers struct {
	from, to     netip.Addr
	protocol     byte
	ported       bool
	source, dest uint16
	transport    []byte
}

func dissect(p modelPacket, ethernet bool) (h headers) {
	b, typ := p.network, p.protocol
	if ethernet {
		if len(p.data) < 14 {
			return h
		}
		b, typ = p.data[14:], binary.BigEndian.Uint16(p.data[12:])
	}
	for range 3 {
		if typ != 0x8100 && typ != 0x88a8 {
			break
		}
		if len(b) < 4 {
			return h
		}
		b, typ = b[4:], binary.BigEndian.Uint16(b[2:])
	}
	addr := func(b []byte) netip.Addr { a, _ := netip.AddrFromSlice(b); return a.Unmap() }
	switch {
	case typ == 0x0806 && len(b) >= 28 && [4]byte(b[2:6]) == [4]byte{8, 0, 6, 4}:
		h.from, h.to = addr(b[14:18]), addr(b[24:28])
		return h
	case typ == 0x0800 && len(b) >= 20 && b[0]>>4 == 4 && b[0]&15 >= 5:
		h.from, h.to, h.protocol = addr(b[12:16]), addr(b[16:20]), b[9]
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return h
		}
		b = tail(b, 4*int(b[0]&15))
	case typ == 0x86dd && len(b) >= 40 && b[0]>>4 == 6:
		h.from, h.to, h.protocol = addr(b[8:24]), addr(b[24:40]), b[6]
		b = b[40:]
		for range 6 {
			if !slices.Contains([]byte{0, 43, 44, 51, 60}, h.protocol) {
				break
			}
			if len(b) < 8 {
				return h
			}
			next, n := b[0], 8*(int(b[1])+1)
			switch h.protocol {
			case 44:
				if binary.BigEndian.Uint16(b[2:])&^7 != 0 {
					h.protocol = next
					return h
				}
				n = 8
			case 51:
				n = 4 * (int(b[1]) + 2)
			}
			h.protocol, b = next, tail(b, n)
		}
	}
	if (h.protocol == TCP || h.protocol == UDP) && len(b) >= 4 {
		h.ported, h.transport = true, b
		h.source, h.dest = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	}
	return h
}

func tail(b []byte, n int) []byte { return b[min(n, len(b)):] }

// testFilter loads the filter, and fills its maps at random but for what packets
// made by randomFrame meet now and then.
func testFilter(t testing.TB) *kernelFilter {
	t.Helper()
	k, err := newKernelFilter()
	if err != nil {
		if os.Getuid() == 0 && os.Getenv(insideEnv) == "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	t.Cleanup(func() { k.close() })
	return k
}

var modelAddrs = []netip.Addr{
	netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1"), // node
	netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd01::2"), // target
	netip.MustParseAddr("10.1.0.3"), netip.MustParseAddr("fd01::3"), // another pod
	netip.MustParseAddr("10.1.0.4"), netip.MustParseAddr("fd01::4"), // excluded
	netip.MustParseAddr("10.1.0.5"), netip.MustParseAddr("fd01::5"), // ours
	netip.MustParseAddr("10.1.0.9"), netip.MustParseAddr("fd01::9"), // not known yet
	netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), // elsewhere
	netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("fe80::1"),
}

var modelPorts = []uint16{8898, 4789, 40000, 53, 51820}

// fillAddresses says whose modelAddrs are.
func fillAddresses(t testing.TB, k *kernelFilter) {
	t.Helper()
	flags := []uint32{addrNode, addrPod | addrTarget, addrPod, addrPod | addrExcluded, addrPod | addrExcluded | addrOwn}
	addresses := map[netip.Addr]uint32{}
	for i, f := range flags {
		addresses[modelAddrs[2*i]], addresses[modelAddrs[2*i+1]] = f, f
	}
	if err := k.setAddresses(addresses); err != nil {
		t.Fatal(err)
	}
	prefixes := map[netip.Prefix]struct{}{netip.MustParsePrefix("10.1.0.0/16"): {}, netip.MustParsePrefix("fd01::/64"): {}}
	if err := k.setPrefixes(prefixes); err != nil {
		t.Fatal(err)
	}
	for _, e := range []End{
		{TCP, netip.AddrPortFrom(modelAddrs[0], 40000)}, {TCP, netip.AddrPortFrom(modelAddrs[1], 40000)},
		{UDP, netip.AddrPortFrom(modelAddrs[12], 53)},
	} {
		if err := k.leaveOut(e, true); err != nil {
			t.Fatal(err)
		}
	}
}

// configureFrom sets settings by the bits of a seed.
func configureFrom(t testing.TB, k *kernelFilter, seed uint16) {
	t.Helper()
	err := k.configure(func(s *filterSettings) {
		b := func(i int) uint8 { return uint8(seed >> i & 1) }
		s.Selective, s.Node, s.Wireguard = b(0), b(1), b(2)
		s.Edge = uint8(seed>>3&3) % 3
		s.UnknownRole = []uint8{roleNone, roleAll, rolePod, roleUplink}[seed>>5&3]
		s.TunnelPorts = [8]uint16{}
		s.TunnelProtocols = 0
		if b(7) == 1 {
			s.TunnelPorts[0], s.TunnelPorts[7] = 4789, 8472
		}
		if b(8) == 1 {
			s.TunnelProtocols = 1<<4 | 1<<47
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}

// randomFrame makes an Ethernet frame of all that the filter looks at, sometimes
// cut short or damaged.
func randomFrame(r *rand.Rand) []byte {
	pick := func(b ...byte) byte { return b[r.IntN(len(b))] }
	f := ether(0, 14, byte(r.Uint32()))[:12]
	for r.IntN(4) == 0 {
		f = binary.BigEndian.AppendUint16(f, []uint16{0x8100, 0x88a8}[r.IntN(2)])
		f = binary.BigEndian.AppendUint16(f, uint16(r.Uint32()))
	}
	v6 := r.IntN(2)
	addr := func() []byte { return modelAddrs[2*r.IntN(len(modelAddrs)/2)+v6].AsSlice() }
	protocol := pick(6, 6, 17, 17, 17, 1, 4, 47, 58)
	switch kind := r.IntN(12); {
	case kind == 0:
		v6 = 0
		f = append(f, 8, 6, 0, 1, 8, 0, 6, pick(4, 4, 4, 5), 0, 1)
		f = append(append(append(append(f, make([]byte, 6)...), addr()...), make([]byte, 6)...), addr()...)
	case kind == 1:
		f = append(f, 0x88, 0xb5, 1, 2, 3)
	case v6 == 0:
		options := r.IntN(3)
		f = append(f, 8, 0, pick(0x45, 0x45, 0x45, 0x44, 0x65)+byte(options), 0, 0, 0, 0, 0, pick(0, 0, 0x20, 0x40, 1), pick(0, 0, 0, 3), 64, protocol, 0, 0)
		f = append(append(append(f, addr()...), addr()...), make([]byte, 4*options)...)
	default:
		chain := make([]byte, r.IntN(8)*r.IntN(2))
		for i := range chain {
			chain[i] = pick(0, 43, 44, 51, 60)
		}
		f = append(f, 0x86, 0xdd, pick(0x60, 0x60, 0x60, 0x40), 0, 0, 0, 0, 0, append(chain, protocol)[0], 64)
		f = append(append(f, addr()...), addr()...)
		for i, c := range chain {
			length, offset := byte(r.IntN(2)), byte(0)
			if c == 44 && r.IntN(4) == 0 {
				offset = 8
			}
			size := 8 * (int(length) + 1)
			switch c {
			case 44:
				size = 8
			case 51:
				size = 4 * (int(length) + 2)
			}
			x := make([]byte, max(size, 8))[:size]
			x[0] = append(chain, protocol)[i+1]
			if c == 44 {
				x[3] = offset | 1
			} else {
				x[1] = length
			}
			f = append(f, x...)
		}
	}
	port := func() uint16 {
		if r.IntN(3) == 0 {
			return uint16(r.Uint32())
		}
		return modelPorts[r.IntN(len(modelPorts))]
	}
	f = binary.BigEndian.AppendUint16(f, port())
	f = binary.BigEndian.AppendUint16(f, port())
	f = binary.BigEndian.AppendUint16(f, []uint16{8 + 148, 8 + 92, 8 + 64, 8 + 32, 8 + 33, 8 + 16}[r.IntN(6)])
	f = append(f, 0, 0, pick(1, 2, 3, 4, 5, 4), 0, 0, pick(0, 0, 0, 1))
	f = append(f, make([]byte, r.IntN(40))...)
	switch r.IntN(16) {
	case 0:
		f = f[:max(r.IntN(len(f)), 20)] // the kernel drops shorter ones with a tag
	case 1:
		f[12+r.IntN(len(f)-12)] = byte(r.Uint32())
	}
	return f
}

// testRun asks the kernel's copy of the filter about a packet that arrives on an
// interface: the Ethernet header goes, and the rest is the packet.
func testRun(t testing.TB, k *kernelFilter, index uint32, frame []byte) (keeps, ok bool) {
	t.Helper()
	ctx := struct {
		_       [10]uint32
		Ifindex uint32 // of struct __sk_buff
		_       [37]uint32
	}{Ifindex: index}
	verdict, err := k.objects.Choose.Run(&ebpf.RunOptions{Data: frame, Context: ctx})
	if errors.Is(err, unix.EINVAL) && len(frame) < 14+40 {
		return false, false // an IP header that is not whole cannot be tried this way
	}
	if err != nil {
		t.Fatalf("run the filter on % x: %v", frame, err)
	}
	return verdict != 0, true
}

// arriving is how testRun shows a frame to the filter.
func arriving(index uint32, frame []byte) modelPacket {
	p := modelPacket{index: index, data: frame[14:], network: frame[14:], protocol: binary.BigEndian.Uint16(frame[12:])}
	if p.protocol < 0x600 {
		p.protocol = 4 // a length
	}
	return p
}

// modelNetwork makes interfaces, two of each role, with and without an Ethernet
// header.
func modelNetwork(t testing.TB, k *kernelFilter) (indexes []uint32) {
	t.Helper()
	namespace(t)
	links := map[uint32]filterLink{}
	for role := roleNone; role <= roleBetween; role++ {
		for ethernet := range 2 {
			name := string([]byte{'d', byte('0' + role), byte('0' + ethernet)})
			ip(t, "link", "add", "name", name, "type", "bridge")
			i := uint32(index(t, name))
			indexes = append(indexes, i)
			links[i] = filterLink{Role: uint8(role), Ethernet: uint8(ethernet)}
		}
	}
	ip(t, "link", "add", "name", "unknown", "type", "bridge")
	indexes = append(indexes, uint32(index(t, "unknown")))
	if err := k.setLinks(links); err != nil {
		t.Fatal(err)
	}
	return indexes
}

// compare runs the filter and the model on a frame.
func compare(t testing.TB, m *model, index uint32, frame []byte) (verdict int, ok bool) {
	t.Helper()
	if m.links[index].Ethernet != 0 || m.links[index] == (filterLink{}) {
		frame = append(ether(0x88b5, 14, 1), frame...) // testRun takes it off
	}
	got, ok := testRun(t, m.kernelFilter, index, frame)
	if !ok {
		return 0, false
	}
	verdict = m.verdict(arriving(index, frame))
	if got != (verdict == kept) {
		t.Errorf("interface %+v settings %+v: the filter says %v, the model %d of\n% x", m.links[index], m.settings, got, verdict, frame[14:])
	}
	return verdict, true
}

// TestModel compares the filter with the model on random packets.
func TestModel(t *testing.T) {
	k := testFilter(t)
	indexes := modelNetwork(t, k)
	fillAddresses(t, k)
	m := &model{k, map[uint32]uint32{}}
	r := rand.New(rand.NewPCG(1, 2))
	verdicts := map[int]int{}
	n := 40000
	if testing.Short() {
		n = 4000
	}
	for i := range n {
		if i%64 == 0 {
			configureFrom(t, k, uint16(r.Uint32()))
		}
		if i%512 == 0 { // as when a target is gone
			if err := k.configure(func(s *filterSettings) { s.Generation++ }); err != nil {
				t.Fatal(err)
			}
		}
		if v, ok := compare(t, m, indexes[r.IntN(len(indexes))], randomFrame(r)); ok {
			verdicts[v]++
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	for v := dropped; v <= outUnknown; v++ {
		if verdicts[v] < n/200 {
			t.Errorf("verdict %d came only %d times: %v", v, verdicts[v], verdicts)
		}
	}
	// What was left out is counted by reason.
	counts, err := k.leftOut()
	if err != nil {
		t.Fatal(err)
	}
	want := LeftOut{Own: uint64(verdicts[outOwn]), Between: uint64(verdicts[outBetween]), Untargeted: uint64(verdicts[outUntargeted]), Unknown: uint64(verdicts[outUnknown])}
	if counts != want {
		t.Errorf("left out %+v, want %+v", counts, want)
	}
}

// FuzzModel compares the filter with the model on any packet.
func FuzzModel(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 40 {
		f.Add(uint16(r.Uint32()), byte(i), randomFrame(r))
	}
	k := testFilter(f)
	// Fuzzing moves between goroutines, and interfaces stay in the namespace of
	// this thread: only loopback, which every namespace has as 1.
	fillAddresses(f, k)
	f.Fuzz(func(t *testing.T, seed uint16, role byte, frame []byte) {
		if len(frame) < 15 || len(frame) > 2000 {
			return
		}
		l := filterLink{Role: role % (roleBetween + 1), Ethernet: role >> 7}
		if err := k.setLinks(map[uint32]filterLink{1: {}}); err != nil { // forgets what was heard
			t.Fatal(err)
		}
		if err := k.setLinks(map[uint32]filterLink{1: l}); err != nil {
			t.Fatal(err)
		}
		configureFrom(t, k, seed)
		compare(t, &model{k, map[uint32]uint32{}}, 1, frame)
	})
}

// TestModelOnTheWire compares verdicts on frames that a packet socket sees, in
// both directions.
func TestModelOnTheWire(t *testing.T) {
	for _, role := range []uint8{roleAll, rolePod, roleUplink, roleTunnel} {
		namespace(t)
		veth(t, "a", "b")
		s := begin(t, Config{Interfaces: []string{"a", "b"}})
		if s.kernel == nil {
			if os.Getenv(insideEnv) == "" {
				t.Fatal("no eBPF for root")
			}
			t.Skip("no eBPF in a user namespace")
		}
		// What the test puts into the maps is to stay.
		s.links.mu.Lock()
		s.links.changed = nil
		s.links.mu.Unlock()
		k := s.kernel
		fillAddresses(t, k)
		ia, ib := uint32(index(t, "a")), uint32(index(t, "b"))
		l := filterLink{Role: role, Ethernet: 1}
		if err := k.setLinks(map[uint32]filterLink{ia: l, ib: l}); err != nil {
			t.Fatal(err)
		}
		m := &model{k, map[uint32]uint32{}}
		r := rand.New(rand.NewPCG(5, uint64(role)))
		out := newSender(t, "a")
		var wantA, wantB []int
		for round := range 8 {
			configureFrom(t, k, uint16(r.Uint32())&^1|uint16(round&1))
			for i := range 100 {
				f := randomFrame(r)
				binary.BigEndian.PutUint32(f[2:], uint32(100*round+i))
				out.send(f)
				// What the kernel took off, a tag, the filter does not see.
				seen := modelPacket{index: ia, outgoing: true, data: f}
				if m.verdict(seen) == kept {
					wantA = append(wantA, 100*round+i)
				}
				seen = modelPacket{index: ib, data: untagged(f)}
				if m.verdict(seen) == kept {
					wantB = append(wantB, 100*round+i)
				}
			}
		}
		recs := s.cut()
		for iface, want := range map[string][]int{"a": wantA, "b": wantB} {
			var got []int
			for _, d := range data(recs, iface) {
				got = append(got, int(binary.BigEndian.Uint32(d[2:])))
			}
			if !slices.Equal(got, want) {
				t.Errorf("role %d: on %s %d packets are recorded, want %d", role, iface, len(got), len(want))
			}
			if len(want) == 0 {
				t.Errorf("role %d: nothing was to be recorded on %s", role, iface)
			}
		}
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	}
}

// untagged is a frame as the kernel shows it on arrival: without its outer tag.
func untagged(f []byte) []byte {
	if typ := binary.BigEndian.Uint16(f[12:]); len(f) >= 18 && (typ == 0x8100 || typ == 0x88a8) {
		return append(slices.Clone(f[:12]), f[16:]...)
	}
	return f
}

// TestLeastPower loads the filter with CAP_BPF, and nothing more.
func TestLeastPower(t *testing.T) {
	testFilter(t)
	runtime.LockOSThread() // and never unlock: the thread ends with the test
	const capBPF = 39
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{1: {Effective: 1 << (capBPF - 32), Permitted: 1 << (capBPF - 32)}}
	if err := unix.Capset(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	k, err := newKernelFilter()
	if err != nil {
		t.Fatalf("with CAP_BPF: %v", err)
	}
	defer k.close()
	if err := k.leaveOut(End{TCP, netip.MustParseAddrPort("10.0.0.1:1")}, true); err != nil {
		t.Fatal(err)
	}
	if _, err := k.leftOut(); err != nil {
		t.Fatal(err)
	}
	data = [2]unix.CapUserData{}
	if err := unix.Capset(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile("/proc/sys/kernel/unprivileged_bpf_disabled"); err == nil && b[0] == '0' {
		t.Skip("this machine lets anybody load filters")
	}
	if _, err := newKernelFilter(); err != ErrNoBPF {
		t.Errorf("without capabilities: %v, want %v", err, ErrNoBPF)
	}
}
