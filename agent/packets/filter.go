package packets

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"

	"pcapsule/chunker"
)

// A Filter decides in the kernel which packets reach the ring. It is the one
// place that knows how: the capture hands it interfaces and addresses, and
// attaches the program it gets to every socket, at any time and without losing a
// packet in between.
//
// It leaves out
//   - packets of interfaces other than Indexes, when that is not nil;
//   - the outgoing copy of what loopback delivers, which comes in again;
//   - TCP over IPv4 and IPv6 from or to an address of Exclude, on Ethernet,
//     loopback, tun and WireGuard. It looks through one VLAN tag, since the
//     kernel has taken that off, and not through further tags, tunnels, IPv6
//     extension headers or later fragments.
//
// A packet too short for what the filter wants to know is kept.
type Filter struct {
	Indexes []int
	Exclude []netip.AddrPort
}

// MaxIndexes is how many interfaces a Filter can tell apart: a kernel takes
// programs of 4096 instructions.
const MaxIndexes = 1024

// maxExclude bounds Exclude for the same reason, and since a program runs for
// each packet.
const maxExclude = 64

// Offsets from the network layer, and header fields.
const (
	ipv4Len      = 20
	ipv6Len      = 40
	portsLen     = 4
	protocolTCP  = 6
	fragmentBits = 0x1fff
)

// dropAll is a program that keeps nothing.
var dropAll = []bpf.Instruction{bpf.RetConstant{Val: 0}}

// Program is the filter in classic BPF, with the kernel's extensions.
func (f Filter) Program() ([]bpf.Instruction, error) {
	if len(f.Indexes) > MaxIndexes {
		return nil, fmt.Errorf("filter: %d interfaces, and at most %d can be told apart", len(f.Indexes), MaxIndexes)
	}
	if len(f.Exclude) > maxExclude {
		return nil, fmt.Errorf("filter: %d addresses to exclude, and at most %d are possible", len(f.Exclude), maxExclude)
	}
	var v4, v6 []bpf.Instruction
	for _, a := range f.Exclude {
		addr := a.Addr().Unmap()
		if !addr.IsValid() || addr.IsUnspecified() || a.Port() == 0 {
			return nil, fmt.Errorf("filter: exclude %s: want one address and port", a)
		}
		if addr.Is4() {
			v4 = append(v4, excludeAddr(addr.AsSlice(), a.Port(), 12, 16)...)
		} else {
			v6 = append(v6, excludeAddr(addr.AsSlice(), a.Port(), 8, 24)...)
		}
	}

	var p []bpf.Instruction
	if f.Indexes != nil {
		p = append(p, bpf.LoadExtension{Num: bpf.ExtInterfaceIndex})
		// Each test is followed by the jump it makes, as a test itself reaches
		// no further than 255 instructions.
		for i, index := range f.Indexes {
			p = append(p,
				bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(index), SkipTrue: 1},
				bpf.Jump{Skip: uint32(2*(len(f.Indexes)-1-i) + 1)})
		}
		p = append(p, drop)
	}
	p = append(p,
		bpf.LoadExtension{Num: bpf.ExtLinkLayerType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: arphrdLoopback, SkipTrue: 3},
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: pktOutgoing, SkipTrue: 1},
		drop)
	if len(v4) > 0 {
		p = append(p, excludeNetwork(etherTypeIPv4, ipv4Len, v4)...)
	}
	if len(v6) > 0 {
		p = append(p, excludeNetwork(etherTypeIPv6, ipv6Len, v6)...)
	}
	return append(p, keep), nil
}

const (
	etherTypeIPv4 = 0x0800
	etherTypeIPv6 = 0x86dd
	etherLen      = 14
)

var (
	drop = bpf.RetConstant{Val: 0}
	keep = bpf.RetConstant{Val: chunker.SnapLen}
)

// Scratch memory of the program: the ports of the packet, and its length less
// that of the ports.
const (
	sourcePort = 0
	destPort   = 1
)

// excludeNetwork runs tests on TCP packets over one network protocol. Before
// them, X is the offset of the network header and the scratch memory holds the
// ports. It ends at its end, whatever the packet.
func excludeNetwork(etherType uint32, headerLen uint32, tests []bpf.Instruction) []bpf.Instruction {
	// Loads are from the start of the packet, since those find the bytes
	// wherever the kernel keeps them; one beyond the end would drop the packet,
	// hence the look at the length before each.
	p := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtProto},
		otherwise{bpf.JumpEqual, etherType},
		// X: 14 on Ethernet and loopback, 0 without a link layer.
		bpf.LoadConstant{Dst: bpf.RegX, Val: etherLen},
		bpf.LoadExtension{Num: bpf.ExtLinkLayerType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: arphrdEther, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: arphrdLoopback, SkipTrue: 2},
		otherwise{bpf.JumpEqual, arphrdNone},
		bpf.LoadConstant{Dst: bpf.RegX, Val: 0},
		bpf.LoadExtension{Num: bpf.ExtLen},
		otherwise{bpf.JumpGreaterOrEqual, etherLen + headerLen + portsLen},
	}
	if etherType == etherTypeIPv4 {
		p = append(p,
			bpf.LoadIndirect{Off: 9, Size: 1},
			otherwise{bpf.JumpEqual, protocolTCP},
			bpf.LoadIndirect{Off: 6, Size: 2},
			otherwise{bpf.JumpBitsNotSet, fragmentBits},
			// Options may move the ports: M[0] = X, then X += header length.
			bpf.StoreScratch{Src: bpf.RegX, N: sourcePort},
			bpf.LoadIndirect{Off: 0, Size: 1},
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf},
			bpf.ALUOpConstant{Op: bpf.ALUOpShiftLeft, Val: 2},
			bpf.ALUOpX{Op: bpf.ALUOpAdd},
			bpf.TAX{},
			bpf.LoadExtension{Num: bpf.ExtLen},
			bpf.ALUOpConstant{Op: bpf.ALUOpSub, Val: portsLen},
			otherwise{cond: jumpAtLeastX},
			bpf.LoadIndirect{Off: 2, Size: 2},
			bpf.StoreScratch{Src: bpf.RegA, N: destPort},
			bpf.LoadIndirect{Off: 0, Size: 2},
			bpf.LoadScratch{Dst: bpf.RegX, N: sourcePort},
			bpf.StoreScratch{Src: bpf.RegA, N: sourcePort})
	} else {
		p = append(p,
			bpf.LoadIndirect{Off: 6, Size: 1},
			otherwise{bpf.JumpEqual, protocolTCP},
			bpf.LoadIndirect{Off: ipv6Len, Size: 2},
			bpf.StoreScratch{Src: bpf.RegA, N: sourcePort},
			bpf.LoadIndirect{Off: ipv6Len + 2, Size: 2},
			bpf.StoreScratch{Src: bpf.RegA, N: destPort})
	}
	return resolve(append(p, tests...))
}

// excludeAddr drops the packet when it is from or to addr and port. The
// addresses are src and dst bytes into the network header.
func excludeAddr(addr []byte, port uint16, src, dst uint32) []bpf.Instruction {
	side := func(n int, off uint32) []bpf.Instruction {
		words := len(addr) / 4
		p := []bpf.Instruction{
			bpf.LoadScratch{Dst: bpf.RegA, N: n},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(port), SkipTrue: uint8(2*words + 1)},
		}
		for i := range words {
			p = append(p,
				bpf.LoadIndirect{Off: off + uint32(4*i), Size: 4},
				bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(addr[4*i:]), SkipTrue: uint8(2*(words-1-i) + 1)})
		}
		return append(p, drop)
	}
	return append(side(sourcePort, src), side(destPort, dst)...)
}

// otherwise leaves the instructions it stands in, to behind their last, unless
// its test of A holds. It is two instructions once resolved.
type otherwise struct {
	cond bpf.JumpTest
	val  uint32
}

// jumpAtLeastX is A >= X.
const jumpAtLeastX bpf.JumpTest = 0x100

// Assemble makes otherwise a bpf.Instruction; resolve replaces it before.
func (o otherwise) Assemble() (bpf.RawInstruction, error) {
	return bpf.RawInstruction{}, fmt.Errorf("filter: unresolved jump")
}

// resolve puts real jumps in place of each otherwise. Jumps over one must be
// counted as if it were a single instruction, and are widened here.
func resolve(p []bpf.Instruction) []bpf.Instruction {
	at := make([]int, len(p)+1) // position of each instruction once resolved
	for i, ins := range p {
		at[i+1] = at[i] + 1
		if _, ok := ins.(otherwise); ok {
			at[i+1]++
		}
	}
	out := make([]bpf.Instruction, 0, at[len(p)])
	for i, ins := range p {
		switch ins := ins.(type) {
		case otherwise:
			if ins.cond == jumpAtLeastX {
				out = append(out, bpf.JumpIfX{Cond: bpf.JumpGreaterOrEqual, SkipTrue: 1})
			} else {
				out = append(out, bpf.JumpIf{Cond: ins.cond, Val: ins.val, SkipTrue: 1})
			}
			out = append(out, bpf.Jump{Skip: uint32(at[len(p)] - at[i] - 2)})
		case bpf.JumpIf:
			ins.SkipTrue = uint8(at[i+1+int(ins.SkipTrue)] - at[i+1])
			ins.SkipFalse = uint8(at[i+1+int(ins.SkipFalse)] - at[i+1])
			out = append(out, ins)
		default:
			out = append(out, ins)
		}
	}
	return out
}
