package capfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"pcapsule/internal/pcapng"
)

type pcapngState struct {
	order   binary.ByteOrder // nil before the first section header
	first   int              // in Reader.interfaces, the first of this section
	clocks  []clock          // of this section's interfaces
	losses  []losses         // of this section's interfaces
	earlier []Loss           // of the sections before
	own     bool             // the section was written by pcapsule
	capture Capture          // what the section says of itself
	last    int64            // time of the packet before, for packets without one
	options []byte           // of the packet, kept
}

func (f *Reader) nextPcapng(p *Packet) error {
	for {
		typ, body, err := f.block()
		if err != nil {
			return err
		}
		if f.take(p, typ, body) {
			return nil
		}
	}
}

// take takes in a block, and tells whether it was a packet that is now in p. What
// a block says beside packets may make no sense: that costs no packet.
func (f *Reader) take(p *Packet, typ uint32, body []byte) (packet bool) {
	switch typ {
	case pcapng.BlockEPB, pcapng.BlockOPB:
		return f.timedPacket(p, typ, body)
	case pcapng.BlockSPB:
		return f.simplePacket(p, body)
	case pcapng.BlockIDB:
		f.interfaceBlock(body)
	case pcapng.BlockISB:
		f.statistics(body)
	case pcapng.BlockSHB:
		f.sectionOptions(body)
	default:
		f.skipped[blockName(typ)]++
	}
	return false
}

// block reads one block and returns what is between its lengths. A section
// header it takes in.
func (f *Reader) block() (typ uint32, body []byte, err error) {
	s := &f.pcapng
	var h [12]byte
	if err := f.src.full(h[:8]); err != nil {
		return 0, nil, err
	}
	header := 8
	if binary.LittleEndian.Uint32(h[:]) == pcapng.BlockSHB { // a palindrome
		if err := f.src.full(h[8:]); err != nil {
			return 0, nil, ErrTruncated
		}
		header = 12
		switch {
		case binary.LittleEndian.Uint32(h[8:]) == pcapng.Magic:
			s.order = binary.LittleEndian
		case binary.BigEndian.Uint32(h[8:]) == pcapng.Magic:
			s.order = binary.BigEndian
		default:
			return 0, nil, fmt.Errorf("%w: a section header with byte-order magic % x", ErrFormat, h[8:])
		}
		f.endSection()
	}
	typ, total := s.order.Uint32(h[:]), s.order.Uint32(h[4:])
	if total < uint32(header)+4 || total%4 != 0 || total > maxBlock {
		return 0, nil, fmt.Errorf("%w: a block of %d bytes", ErrFormat, total)
	}
	rest, err := f.src.more(int(total) - header)
	if err != nil {
		return 0, nil, err
	}
	if tail := s.order.Uint32(rest[len(rest)-4:]); tail != total {
		if !f.blockFollows() {
			return 0, nil, fmt.Errorf("%w: a block whose two lengths are %d and %d", ErrFormat, total, tail)
		}
		f.skipped["second lengths of blocks, that were not the first"]++
	}
	if typ == pcapng.BlockSHB {
		if len(rest) < 16 {
			return 0, nil, fmt.Errorf("%w: a section header of %d bytes", ErrFormat, total)
		}
		if major := s.order.Uint16(rest); major != 1 {
			return 0, nil, fmt.Errorf("%w: pcapng version %d, want 1", ErrFormat, major)
		}
	}
	return typ, rest[:len(rest)-4], nil
}

// maxInterfaces bounds the memory that a file makes the reader take for
// interfaces.
const maxInterfaces = 1 << 16

// interfaceBlock takes in an interface. One whose block is too short has a number,
// too, so that those after it keep theirs; its packets are lost.
func (f *Reader) interfaceBlock(b []byte) {
	s := &f.pcapng
	if len(f.interfaces) >= maxInterfaces {
		f.skipped[fmt.Sprintf("interfaces beyond %d", maxInterfaces)]++
		return
	}
	i, c := Interface{Capture: s.capture}, clock{resolution: 6}
	if len(b) < 8 {
		f.skipped["interface without a link type"]++
		c.unknown = true
	} else {
		i.LinkType, i.SnapLen = s.order.Uint16(b), s.order.Uint32(b[4:])
		if !eachOption(s.order, b[8:], func(code uint16, v []byte) { f.interfaceOption(&i, &c, code, v) }) {
			f.skipped["options of an interface that make no sense"]++
		}
		i.Says.Resolution = c.String()
		if c.finer() {
			f.skipped["parts of a nanosecond in the times of an interface"]++
		}
	}
	f.interfaces = append(f.interfaces, i)
	s.clocks = append(s.clocks, c)
	s.losses = append(s.losses, losses{})
}

// blockFollows tells whether the file goes on with a whole block of a known type,
// or ends. That shows that the first length of the block before is right.
func (f *Reader) blockFollows() bool {
	b, err := f.src.r.Peek(12)
	if err != nil {
		return len(b) == 0 && errors.Is(err, io.EOF)
	}
	order := f.pcapng.order
	typ, total := order.Uint32(b), order.Uint32(b[4:])
	switch {
	case typ == pcapng.BlockSHB:
		return binary.LittleEndian.Uint32(b[8:]) == pcapng.Magic || binary.BigEndian.Uint32(b[8:]) == pcapng.Magic
	case blockName(typ) == unknownBlock && (typ == 0 || typ > pcapng.BlockEPB), total < 12, total%4 != 0:
		return false
	}
	b, err = f.src.r.Peek(int(min(int64(total), int64(f.src.r.Size()))))
	return err == nil && (int(total) > len(b) || order.Uint32(b[total-4:]) == total)
}

func (f *Reader) interfaceOption(i *Interface, c *clock, code uint16, v []byte) {
	switch {
	case code == pcapng.OptIfName:
		i.Name = text(v)
	case code == pcapng.OptIfDescription:
		i.Description = text(v)
	case code == pcapng.OptIfTSResol && len(v) == 1:
		c.resolution = v[0]
	case code == pcapng.OptIfTSOffset && len(v) == 8:
		c.offset = int64(f.pcapng.order.Uint64(v))
	case code == pcapng.OptIfTSResol, code == pcapng.OptIfTSOffset:
		f.skipped["resolution or offset of an interface's times, which makes no sense"]++
	default:
		f.says(&i.Says, code, v)
	}
}

// Reasons why a packet is lost.
const (
	lostLengths   = "packets whose lengths make no sense"
	lostInterface = "packets of an interface that is not described"
	lostTime      = "packets of a time before 1970 or after 2262"
)

// timedPacket takes in a packet of an EPB or of its predecessor.
func (f *Reader) timedPacket(p *Packet, typ uint32, b []byte) bool {
	s := &f.pcapng
	if len(b) < 20 {
		f.lost[lostLengths]++
		return false
	}
	iface := uint64(s.order.Uint32(b))
	var dropped uint64 // between the packet before and this one
	if typ == pcapng.BlockOPB {
		iface = uint64(s.order.Uint16(b))
		if dropped = uint64(s.order.Uint16(b[2:])); dropped == math.MaxUint16 {
			dropped = unknownCount
		}
	}
	if iface >= uint64(len(s.clocks)) || s.clocks[iface].unknown {
		f.lost[lostInterface]++
		return false
	}
	s.losses[iface].between = f.addDrops(s.losses[iface].between, dropped)
	ticks := uint64(s.order.Uint32(b[4:]))<<32 | uint64(s.order.Uint32(b[8:]))
	captured, orig, rest := s.order.Uint32(b[12:]), s.order.Uint32(b[16:]), b[20:]
	if uint64(captured) > uint64(len(rest)) {
		f.lost[lostLengths]++
		return false
	}
	time, ok := s.clocks[iface].nanoseconds(ticks)
	if !ok {
		f.lost[lostTime]++
		return false
	}
	*p = Packet{Interface: s.first + int(iface), Time: time, OrigLen: f.original(orig, captured), Data: rest[:captured]}
	s.last = time
	if options := (int64(captured) + 3) &^ 3; options < int64(len(rest)) {
		f.packetOptions(p, &s.losses[iface], rest[options:])
	}
	return true
}

// simplePacket takes in a packet without time, interface and options: it is of
// the section's first interface, and stands at the time of the packet before.
func (f *Reader) simplePacket(p *Packet, b []byte) bool {
	s := &f.pcapng
	if len(s.clocks) == 0 || s.clocks[0].unknown {
		f.lost[lostInterface]++
		return false
	}
	if len(b) < 4 {
		f.lost[lostLengths]++
		return false
	}
	orig := s.order.Uint32(b)
	captured := orig
	if snap := f.interfaces[s.first].SnapLen; snap != 0 {
		captured = min(captured, snap)
	}
	if uint64(captured) > uint64(len(b)-4) {
		f.lost[lostLengths]++
		return false
	}
	f.untimed++
	*p = Packet{Interface: s.first, Time: s.last, OrigLen: orig, Data: b[4 : 4+captured]}
	return true
}

// packetOptions keeps the options of a packet that pcapsule can carry, in
// little-endian encoding. epb_hash and epb_verdict it drops: Wireshark 4.0 drops
// the one and corrupts the other when it rewrites a file.
func (f *Reader) packetOptions(p *Packet, l *losses, b []byte) {
	s := &f.pcapng
	s.options = s.options[:0]
	if !eachOption(s.order, b, func(code uint16, v []byte) {
		switch {
		case code == pcapng.OptFlags && len(v) == 4:
			p.Flags = s.order.Uint32(v)
			return
		case code == pcapng.OptFlags:
			f.skipped["flags of a packet that make no sense"]++
			return
		case code == pcapng.OptHash, code == pcapng.OptVerdict:
			f.skipped["hash or verdict of a packet"]++
			return
		case code == pcapng.OptDropCount && len(v) == 8:
			l.between = f.addDrops(l.between, s.order.Uint64(v))
		}
		native := s.order == binary.ByteOrder(binary.LittleEndian)
		var le [8]byte
		switch {
		case native || code == pcapng.OptComment:
		case (code == pcapng.OptDropCount || code == pcapng.OptPacketID) && len(v) == 8:
			v = binary.LittleEndian.AppendUint64(le[:0], s.order.Uint64(v))
		case code == pcapng.OptQueue && len(v) == 4:
			v = binary.LittleEndian.AppendUint32(le[:0], s.order.Uint32(v))
		case code == pcapng.OptProcess && len(v) == 8:
			process, thread := s.order.Uint32(v), s.order.Uint32(v[4:])
			v = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(le[:0], process), thread)
		default: // its byte order is not known
			f.skipped["option of a packet, of unknown byte order"]++
			return
		}
		s.options = pcapng.AppendOption(s.options, code, v)
	}) {
		f.skipped["options of a packet that make no sense"]++
	}
	p.Options = s.options
}

// eachOption calls f for each option up to opt_endofopt or the end of b, and
// tells whether all of them are within b.
func eachOption(order binary.ByteOrder, b []byte, f func(code uint16, value []byte)) bool {
	for len(b) >= 4 {
		code, n := order.Uint16(b), int(order.Uint16(b[2:]))
		if code == pcapng.OptEnd {
			return true
		}
		b = b[4:]
		if padded := (n + 3) &^ 3; padded > len(b) {
			return false
		}
		f(code, b[:n])
		b = b[(n+3)&^3:]
	}
	return true
}
