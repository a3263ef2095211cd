package packets

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
)

// A layout is a frame as the kernel lays it into a block.
type layout struct {
	hatype   uint16
	protocol uint16
	kind     byte
	status   uint32
	tci      uint32
	tpid     uint16
	mac, net uint16
	snap     uint32
	orig     uint32
	packet   []byte // at mac
}

// block is a block with this one frame at blockHeaderLen.
func (l layout) block() []byte {
	if l.mac == 0 {
		l.mac = 86 // for 14 bytes of link layer, and tagLen more than needed
	}
	if l.net == 0 {
		l.net = l.mac + 14
	}
	if l.snap == 0 {
		l.snap = uint32(len(l.packet))
	}
	if l.orig == 0 {
		l.orig = l.snap
	}
	b := make([]byte, blockHeaderLen+int(l.mac)+len(l.packet))
	h := b[blockHeaderLen:]
	native.PutUint32(h[frameSec:], 1700000000)
	native.PutUint32(h[frameNsec:], 123456789)
	native.PutUint32(h[frameSnap:], l.snap)
	native.PutUint32(h[frameLen:], l.orig)
	native.PutUint32(h[frameStatus:], l.status)
	native.PutUint16(h[frameMAC:], l.mac)
	native.PutUint16(h[frameNet:], l.net)
	native.PutUint32(h[frameTCI:], l.tci)
	native.PutUint16(h[frameTPID:], l.tpid)
	binary.BigEndian.PutUint16(h[sllProtocol:], l.protocol)
	native.PutUint32(h[sllIndex:], 7)
	native.PutUint16(h[sllHatype:], l.hatype)
	h[sllPkttype] = l.kind
	h[sllHalen] = 6
	copy(h[sllAddr:], []byte{2, 0, 0, 0, 0, 9})
	copy(h[l.mac:], l.packet)
	return b
}

// TestFrame covers what no interface of a test machine delivers at will.
func TestFrame(t *testing.T) {
	eth := inEther4()
	big := make([]byte, chunker.SnapLen)
	copy(big, eth)
	tests := []struct {
		name string
		layout
		want  []byte
		orig  int // 0: as long as want
		flags uint32
		cut   bool
	}{
		{"plain", layout{hatype: arphrdEther, packet: eth}, eth, 0, chunker.FlagInbound, false},
		{"broadcast", layout{hatype: arphrdEther, packet: eth, kind: 1}, eth, 0, chunker.FlagInbound, false},
		{"other host", layout{hatype: arphrdEther, packet: eth, kind: 3}, eth, 0, chunker.FlagInbound, false},
		{"outgoing, no checksum", layout{hatype: arphrdEther, packet: eth, kind: 4, status: statusCsumNotReady}, eth, 0, chunker.FlagOutbound | chunker.FlagChecksumNotReady, false},
		{"checksum checked", layout{hatype: arphrdEther, packet: eth, status: statusCsumValid}, eth, 0, chunker.FlagInbound | chunker.FlagChecksumValid, false},
		{"to user space", layout{hatype: arphrdEther, packet: eth, kind: 6}, eth, 0, 0, false},
		{"tag", layout{hatype: arphrdEther, packet: eth, status: statusVLAN | statusTPID, tci: 0x6005, tpid: 0x88a8}, tagged4(eth, 0x88a8, 0x6005), 0, chunker.FlagInbound, false},
		{"tag of 0", layout{hatype: arphrdEther, packet: eth, status: statusVLAN | statusTPID, tpid: 0x8100}, tagged4(eth, 0x8100, 0), 0, chunker.FlagInbound, false},
		{"tag, no TPID", layout{hatype: arphrdEther, packet: eth, status: statusVLAN, tci: 5}, tagged4(eth, 0x8100, 5), 0, chunker.FlagInbound, false},
		{"tag, cut", layout{hatype: arphrdEther, packet: eth, orig: 9000, status: statusVLAN, tci: 5}, tagged4(eth, 0x8100, 5), 9004, chunker.FlagInbound, true},
		{"longest", layout{hatype: arphrdEther, packet: big}, big, 0, chunker.FlagInbound, false},
		{"tag, longest", layout{hatype: arphrdEther, packet: big, status: statusVLAN, tci: 5}, tagged4(big, 0x8100, 5)[:chunker.SnapLen], chunker.SnapLen + 4, chunker.FlagInbound, true},
		{"tag, no addresses", layout{hatype: arphrdEther, packet: eth[:11], status: statusVLAN, tci: 5}, eth[:11], 0, chunker.FlagInbound, false},
		{"empty", layout{hatype: arphrdEther}, []byte{}, 0, chunker.FlagInbound, false},
		{"raw with link layer", layout{hatype: arphrdSIT, packet: eth}, eth[14:], 0, chunker.FlagInbound, false},
		{"raw, cut short", layout{hatype: arphrdSIT, packet: eth[:9], orig: 100}, []byte{}, 91, chunker.FlagInbound, true},
		{
			"infiniband", layout{hatype: 32, protocol: 0x0800, kind: 4, packet: eth},
			append([]byte{8, 0, 0, 0, 0, 0, 0, 7, 0, 32, 4, 6, 2, 0, 0, 0, 0, 9, 0, 0}, eth[14:]...), 0, chunker.FlagOutbound, false,
		},
		{"802.11", layout{hatype: arphrdRadiotap, packet: eth}, eth, 0, chunker.FlagInbound, false},
		{
			"CAN FD", layout{hatype: arphrdCAN, protocol: protocolCANFD, packet: canFrame(8)},
			[]byte{0x80, 0, 1, 0x23, 8, 0x0f, 3, 4, 9, 9}, 0, chunker.FlagInbound, false,
		},
		{"CAN, cut short", layout{hatype: arphrdCAN, protocol: protocolCAN, packet: canFrame(0)[:7]}, canFrame(0)[:7], 0, chunker.FlagInbound, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var f frame
			if err := f.parse(tt.block(), blockHeaderLen); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(f.data, tt.want) {
				t.Errorf("(-want +got)\n%s", cmp.Diff(tt.want, f.data))
			}
			if tt.orig == 0 {
				tt.orig = len(tt.want)
			}
			if int(f.origLen) != tt.orig || f.flags != tt.flags || f.cut != tt.cut || f.index != 7 || f.time != 1700000000123456789 {
				t.Errorf("%+v", f)
			}
		})
	}
}

func inEther4() []byte {
	b := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}
	for i := range byte(46) {
		b = append(b, i)
	}
	return b
}

func tagged4(f []byte, tpid, tci uint16) []byte {
	out := bytes.Clone(f[:12])
	out = binary.BigEndian.AppendUint16(out, tpid)
	out = binary.BigEndian.AppendUint16(out, tci)
	return append(out, f[12:]...)
}

// canFrame is a frame in the kernel's form, with the flags 0x0b.
func canFrame(n byte) []byte {
	b := []byte{0, 0, 0, 0, n, 0x0b, 3, 4, 9, 9}
	native.PutUint32(b, 0x80000123)
	return b
}

// TestFrameBeyond refuses frames that reach beyond their block.
func TestFrameBeyond(t *testing.T) {
	packet := inEther4()
	for name, l := range map[string]layout{
		"packet in the header":  {packet: packet, mac: frameHeaderLen - 1, net: 90},
		"network before link":   {packet: packet, mac: 90, net: 89},
		"longer than its block": {packet: packet, snap: uint32(len(packet) + 1)},
		"much longer":           {packet: packet, snap: 1<<32 - 1, orig: 1<<32 - 1},
		"longer than the wire":  {packet: packet, orig: 1},
	} {
		if err := new(frame).parse(l.block(), blockHeaderLen); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	b := layout{packet: packet}.block()
	for _, off := range []uint32{uint32(len(b)), uint32(len(b)) - frameHeaderLen + 1, 1<<32 - 1} {
		if err := new(frame).parse(b, off); err == nil {
			t.Errorf("at %d: no error", off)
		}
	}
}

// FuzzFrame looks for a frame that makes the parser panic, or reach out of its
// block.
func FuzzFrame(f *testing.F) {
	for _, l := range []layout{
		{hatype: arphrdEther, packet: inEther4(), status: statusVLAN},
		{hatype: 778, protocol: 0x0800, packet: inEther4()},
		{hatype: arphrdCAN, protocol: protocolCAN, packet: canFrame(8)},
		{hatype: arphrdNone, packet: inEther4()},
	} {
		f.Add(l.block(), uint32(blockHeaderLen))
	}
	f.Fuzz(func(t *testing.T, block []byte, off uint32) {
		var fr frame
		if fr.parse(block, off) != nil {
			return
		}
		if len(fr.data) > chunker.SnapLen || int64(fr.origLen) < int64(len(fr.data)) {
			t.Errorf("%d bytes of %d", len(fr.data), fr.origLen)
		}
		if fr.cut != (int64(fr.origLen) > int64(len(fr.data))) {
			t.Errorf("%d bytes of %d, cut %v", len(fr.data), fr.origLen, fr.cut)
		}
	})
}
