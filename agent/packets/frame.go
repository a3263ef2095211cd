package packets

import (
	"encoding/binary"
	"errors"

	"pcapsule/chunker"
)

// The layout of a ring block of TPACKET_V3, from linux/if_packet.h: a block
// descriptor, then frames, each of them a tpacket3_hdr, a sockaddr_ll, a gap, and
// the packet. All are in the byte order of the machine but sll_protocol.
const (
	blockHeaderLen = 48 // tpacket_block_desc
	blockStatus    = 8
	blockPackets   = 12
	blockFirst     = 16 // offset of the first frame
	blockUsed      = 20 // bytes of the block in use

	frameHeaderLen = 48 + 20 // tpacket3_hdr, sockaddr_ll
	frameNext      = 0
	frameSec       = 4
	frameNsec      = 8
	frameSnap      = 12
	frameLen       = 16
	frameStatus    = 20
	frameMAC       = 24
	frameNet       = 26
	frameTCI       = 32
	frameTPID      = 36
	sllProtocol    = 48 + 2
	sllIndex       = 48 + 4
	sllHatype      = 48 + 8
	sllPkttype     = 48 + 10
	sllHalen       = 48 + 11
	sllAddr        = 48 + 12
)

// Bits of tp_status.
const (
	statusUser         = 1 << 0 // of a block: it is ours
	statusCsumNotReady = 1 << 3
	statusVLAN         = 1 << 4 // a tag was taken off
	statusTPID         = 1 << 6 // and its TPID is known
	statusCsumValid    = 1 << 7
)

// Values of sll_pkttype. Those from 5 on have no direction.
const (
	pktOtherHost = 3
	pktOutgoing  = 4
)

const (
	macsLen = 12 // two Ethernet addresses
	tagLen  = 4
	sll2Len = 20

	etherTypeVLAN  = 0x8100
	protocolCAN    = 0x000c
	protocolCANFD  = 0x000d
	canFDFlags     = 5    // offset of fd_flags
	canFDF         = 0x04 // this is a CAN FD frame
	canHeaderBytes = 8
)

var errFrame = errors.New("a frame reaches beyond its block")

// A frame is one packet in a block.
type frame struct {
	next    uint32 // offset of the next frame, from this one
	index   int32
	hatype  uint16
	time    int64
	origLen uint32
	flags   uint32
	data    []byte // within the block, which parse may have changed
	cut     bool   // the packet is longer than data
}

// parse reads the frame at off of block, which is as long as its used part, and
// makes the packet whole again. It does so within the block: a VLAN tag or a
// made-up header goes into the gap in front of the packet, so that nothing of the
// packet is copied but two addresses. The kernel is trusted to mean well, yet
// every offset is checked.
func (f *frame) parse(block []byte, off uint32) error {
	if uint64(off)+frameHeaderLen > uint64(len(block)) {
		return errFrame
	}
	b := block[off:]
	h := b[:frameHeaderLen:frameHeaderLen]
	status := native.Uint32(h[frameStatus:])
	mac, network := uint32(native.Uint16(h[frameMAC:])), uint32(native.Uint16(h[frameNet:]))
	snap, orig := native.Uint32(h[frameSnap:]), native.Uint32(h[frameLen:])
	if mac < frameHeaderLen || network < mac || snap > orig ||
		uint64(mac)+uint64(snap) > uint64(len(b)) {
		return errFrame
	}
	f.next = native.Uint32(h[frameNext:])
	f.index = int32(native.Uint32(h[sllIndex:]))
	f.hatype = native.Uint16(h[sllHatype:])
	f.time = int64(native.Uint32(h[frameSec:]))*1e9 + int64(native.Uint32(h[frameNsec:]))

	f.flags = 0
	switch kind := h[sllPkttype]; {
	case kind <= pktOtherHost:
		f.flags = chunker.FlagInbound
	case kind == pktOutgoing:
		f.flags = chunker.FlagOutbound
	}
	if status&statusCsumNotReady != 0 {
		f.flags |= chunker.FlagChecksumNotReady
	} else if status&statusCsumValid != 0 {
		f.flags |= chunker.FlagChecksumValid
	}

	start, end := mac, mac+snap
	switch link := linkType(f.hatype); link {
	case linkEthernet:
		if status&statusVLAN != 0 && snap >= macsLen && mac >= frameHeaderLen+tagLen {
			start -= tagLen
			orig += tagLen
			putTag(b[start:], h, status)
		}
	case linkRaw, linkLinuxSLL2:
		// From the network layer, when the packet reaches that far.
		skip := min(network-mac, snap)
		start += skip
		orig -= skip
		if link == linkLinuxSLL2 && start >= frameHeaderLen+sll2Len {
			start -= sll2Len
			orig += sll2Len
			putSLL2(b[start:], h)
		}
	case linkCAN:
		fixCAN(b[start:end], binary.BigEndian.Uint16(h[sllProtocol:]))
	}
	f.cut = orig > end-start
	if end-start > chunker.SnapLen {
		end = start + chunker.SnapLen
		f.cut = true
	}
	f.origLen = orig
	f.data = b[start:end:end]
	return nil
}

// native is the byte order of ring headers.
var native = binary.NativeEndian

// putTag moves the addresses, which start tagLen into b, to its start and puts
// the VLAN tag in between that the kernel took off. A TCI of 0 is a tag too.
func putTag(b, h []byte, status uint32) {
	tpid := uint16(etherTypeVLAN)
	if status&statusTPID != 0 {
		tpid = native.Uint16(h[frameTPID:])
	}
	copy(b[:macsLen], b[tagLen:])
	binary.BigEndian.PutUint16(b[macsLen:], tpid)
	binary.BigEndian.PutUint16(b[macsLen+2:], uint16(native.Uint32(h[frameTCI:])))
}

// putSLL2 writes the header of LINKTYPE_LINUX_SLL2 to b, from what the kernel
// told in h.
func putSLL2(b, h []byte) {
	_ = b[sll2Len-1]
	copy(b[0:2], h[sllProtocol:])
	b[2], b[3] = 0, 0
	binary.BigEndian.PutUint32(b[4:], native.Uint32(h[sllIndex:]))
	binary.BigEndian.PutUint16(b[8:], native.Uint16(h[sllHatype:]))
	b[10] = h[sllPkttype]
	b[11] = min(h[sllHalen], 8)
	copy(b[12:20], h[sllAddr:sllAddr+8])
}

// fixCAN brings a frame from the form of the kernel to that of
// LINKTYPE_CAN_SOCKETCAN: the identifier in network order, and a flag that tells
// CAN FD from classic CAN.
func fixCAN(b []byte, protocol uint16) {
	if len(b) < canHeaderBytes {
		return
	}
	binary.BigEndian.PutUint32(b, native.Uint32(b))
	switch protocol {
	case protocolCAN:
		b[canFDFlags] = 0
	case protocolCANFD:
		b[canFDFlags] |= canFDF
	}
}
