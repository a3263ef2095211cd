package capfile

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode"

	"pcapsule/internal/pcapng"
)

type pcapngState struct {
	order   binary.ByteOrder // nil before the first section header
	first   int              // in Reader.interfaces, the first of this section
	clocks  []clock          // of this section's interfaces
	drops   []uint64         // of this section's interfaces, as their last statistics say
	earlier uint64           // drops of the sections before
	last    int64            // time of the packet before, for packets without one
	options []byte           // of the packet, kept
}

func (f *Reader) nextPcapng(p *Packet) error {
	for {
		typ, body, err := f.block()
		if err != nil {
			return err
		}
		if packet, err := f.take(p, typ, body); packet || err != nil {
			return err
		}
	}
}

// take takes in a block, and tells whether it was a packet, which is then in p.
func (f *Reader) take(p *Packet, typ uint32, body []byte) (packet bool, err error) {
	switch typ {
	case pcapng.BlockEPB:
		return f.enhancedPacket(p, body)
	case pcapng.BlockOPB:
		return f.obsoletePacket(p, body)
	case pcapng.BlockSPB:
		return true, f.simplePacket(p, body)
	case pcapng.BlockIDB:
		return false, f.interfaceBlock(body)
	case pcapng.BlockISB:
		return false, f.statistics(body)
	case pcapng.BlockSHB:
		f.sectionComments(body)
	default:
		f.skipped[blockName(typ)]++
	}
	return false, nil
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
		s.endStatistics()
		s.first, s.clocks = len(f.interfaces), s.clocks[:0]
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
		return 0, nil, fmt.Errorf("%w: a block whose two lengths are %d and %d", ErrFormat, total, tail)
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

func (f *Reader) interfaceBlock(b []byte) error {
	s := &f.pcapng
	if len(b) < 8 {
		return fmt.Errorf("%w: an interface description of %d bytes", ErrFormat, len(b))
	}
	if len(f.interfaces) >= 1<<16 {
		return fmt.Errorf("%w: more than %d interfaces", ErrFormat, 1<<16)
	}
	i := Interface{LinkType: s.order.Uint16(b), SnapLen: s.order.Uint32(b[4:])}
	c := clock{resolution: 6}
	err := eachOption(s.order, b[8:], func(code uint16, v []byte) {
		switch {
		case code == pcapng.OptIfName:
			i.Name = text(v)
		case code == pcapng.OptIfDescription:
			i.Description = text(v)
		case code == pcapng.OptIfTSResol && len(v) == 1:
			c.resolution = v[0]
		case code == pcapng.OptIfTSOffset && len(v) == 8:
			c.offset = int64(s.order.Uint64(v))
		case code == pcapng.OptComment:
			f.skipped["comment on an interface"]++
		case code == optIfFCSLen:
			f.skipped["length of frame check sequences"]++
		}
	})
	if err != nil {
		return err
	}
	f.interfaces = append(f.interfaces, i)
	s.clocks = append(s.clocks, c)
	return nil
}

const optIfFCSLen = 13 // if_fcslen

func (f *Reader) enhancedPacket(p *Packet, b []byte) (bool, error) {
	s := &f.pcapng
	if len(b) < 20 {
		return false, fmt.Errorf("%w: a packet block of %d bytes", ErrFormat, len(b))
	}
	ticks := uint64(s.order.Uint32(b[4:]))<<32 | uint64(s.order.Uint32(b[8:]))
	return f.timedPacket(p, s.order.Uint32(b), ticks, s.order.Uint32(b[12:]), s.order.Uint32(b[16:]), b[20:])
}

func (f *Reader) obsoletePacket(p *Packet, b []byte) (bool, error) {
	s := &f.pcapng
	if len(b) < 20 {
		return false, fmt.Errorf("%w: a packet block of %d bytes", ErrFormat, len(b))
	}
	ticks := uint64(s.order.Uint32(b[4:]))<<32 | uint64(s.order.Uint32(b[8:]))
	return f.timedPacket(p, uint32(s.order.Uint16(b)), ticks, s.order.Uint32(b[12:]), s.order.Uint32(b[16:]), b[20:])
}

// timedPacket takes in a packet whose data and options are in rest, unless its
// time cannot be kept.
func (f *Reader) timedPacket(p *Packet, iface uint32, ticks uint64, captured, orig uint32, rest []byte) (bool, error) {
	s := &f.pcapng
	if uint64(iface) >= uint64(len(s.clocks)) {
		return false, fmt.Errorf("%w: a packet of interface %d, of %d that are described", ErrFormat, iface, len(s.clocks))
	}
	if uint64(captured) > uint64(len(rest)) {
		return false, fmt.Errorf("%w: a packet of %d bytes in a block with %d", ErrFormat, captured, len(rest))
	}
	time, ok := s.clocks[iface].nanoseconds(ticks)
	if !ok {
		f.lost["packets of a time before 1970 or after 2262"]++
		return false, nil
	}
	*p = Packet{Interface: s.first + int(iface), Time: time, OrigLen: max(orig, captured), Data: rest[:captured]}
	s.last = time
	if options := int(captured+3) &^ 3; options < len(rest) {
		return true, f.packetOptions(p, rest[options:])
	}
	return true, nil
}

// simplePacket takes in a packet without time, interface and options: it is of
// the section's first interface, and stands at the time of the packet before.
func (f *Reader) simplePacket(p *Packet, b []byte) error {
	s := &f.pcapng
	if len(b) < 4 || len(s.clocks) == 0 {
		return fmt.Errorf("%w: a simple packet block without an interface", ErrFormat)
	}
	orig := s.order.Uint32(b)
	captured := orig
	if snap := f.interfaces[s.first].SnapLen; snap != 0 {
		captured = min(captured, snap)
	}
	if uint64(captured) > uint64(len(b)-4) {
		return fmt.Errorf("%w: a packet of %d bytes in a block with %d", ErrFormat, captured, len(b)-4)
	}
	f.untimed++
	*p = Packet{Interface: s.first, Time: s.last, OrigLen: orig, Data: b[4 : 4+captured]}
	return nil
}

// packetOptions keeps the options of a packet that pcapsule can carry, in
// little-endian encoding. epb_hash and epb_verdict it drops: Wireshark 4.0 drops
// the one and corrupts the other when it rewrites a file.
func (f *Reader) packetOptions(p *Packet, b []byte) error {
	s := &f.pcapng
	s.options = s.options[:0]
	err := eachOption(s.order, b, func(code uint16, v []byte) {
		switch {
		case code == pcapng.OptFlags && len(v) == 4:
			p.Flags = s.order.Uint32(v)
			return
		case code == pcapng.OptFlags:
			return
		case code == pcapng.OptHash, code == pcapng.OptVerdict:
			f.skipped["hash or verdict of a packet"]++
			return
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
	})
	p.Options = s.options
	return err
}

// eachOption calls f for each option up to opt_endofopt or the end of b.
func eachOption(order binary.ByteOrder, b []byte, f func(code uint16, value []byte)) error {
	for len(b) >= 4 {
		code, n := order.Uint16(b), int(order.Uint16(b[2:]))
		if code == pcapng.OptEnd {
			return nil
		}
		b = b[4:]
		if padded := (n + 3) &^ 3; padded > len(b) {
			return fmt.Errorf("%w: an option of %d bytes where %d are left", ErrFormat, n, len(b))
		}
		f(code, b[:n])
		b = b[(n+3)&^3:]
	}
	return nil
}

// text is an interface's name or description, fit for a terminal and for a
// manifest.
func text(v []byte) string {
	s := strings.ToValidUTF8(strings.TrimRight(string(v), "\x00"), "?")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	return strings.TrimSpace(strings.ToValidUTF8(s[:min(len(s), 256)], ""))
}
