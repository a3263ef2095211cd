package pcapng

import (
	"encoding/binary"
	"slices"
)

// A Packet is an enhanced packet block.
type Packet struct {
	Interface uint32 // number of its interface in the section
	Time      int64  // ticks; nanoseconds since the Unix epoch in all that pcapsule writes
	OrigLen   uint32 // bytes on the wire
	Flags     uint32 // epb_flags; 0 writes no such option
	Options   []byte // further options, as CheckOptions wants them
	Data      []byte // as captured, from the link layer up
}

// Offsets in an enhanced packet block, from its first byte.
const (
	OffsetInterface = 8
	OffsetTime      = 12
	OffsetCapLen    = 20
	OffsetOrigLen   = 24
	OffsetData      = 28
)

// PacketSize is the length of the block that AppendPacket appends for p.
func PacketSize(p *Packet) int {
	n := OffsetData + (len(p.Data)+3)&^3 + 4
	if p.Flags != 0 {
		n += 8
	}
	n += len(p.Options)
	if p.Flags != 0 || len(p.Options) > 0 {
		n += 4
	}
	return n
}

// AppendPacket appends an EPB. epb_flags comes first among its options.
func AppendPacket(dst []byte, p *Packet) []byte {
	n := PacketSize(p)
	start := len(dst)
	dst = slices.Grow(dst, n)[:start+n]
	b := dst[start:]
	le := binary.LittleEndian
	le.PutUint32(b, BlockEPB)
	le.PutUint32(b[4:], uint32(n))
	le.PutUint32(b[OffsetInterface:], p.Interface)
	le.PutUint32(b[OffsetTime:], uint32(uint64(p.Time)>>32))
	le.PutUint32(b[OffsetTime+4:], uint32(p.Time))
	le.PutUint32(b[OffsetCapLen:], uint32(len(p.Data)))
	le.PutUint32(b[OffsetOrigLen:], p.OrigLen)
	at := OffsetData + copy(b[OffsetData:], p.Data)
	for at&3 != 0 {
		b[at] = 0
		at++
	}
	if p.Flags != 0 {
		le.PutUint32(b[at:], OptFlags|4<<16)
		le.PutUint32(b[at+4:], p.Flags)
		at += 8
	}
	at += copy(b[at:], p.Options)
	if at != n-4 {
		le.PutUint32(b[at:], OptEnd)
	}
	le.PutUint32(b[n-4:], uint32(n))
	return dst
}

// ParsePacket reads a little-endian EPB into p, whose slices then alias block.
// Only where epb_flags is not the first option, as it is in what AppendPacket
// wrote, are the others copied.
func ParsePacket(block []byte, p *Packet) error {
	b, err := body(block, BlockEPB, 20)
	if err != nil {
		return err
	}
	caplen := uint64(binary.LittleEndian.Uint32(b[12:]))
	padded := (caplen + 3) &^ 3
	if 20+padded > uint64(len(b)) {
		return malformed("captured length %d in a packet block of %d bytes", caplen, len(block))
	}
	*p = Packet{
		Interface: binary.LittleEndian.Uint32(b),
		Time:      parseTime(b[4:]),
		OrigLen:   binary.LittleEndian.Uint32(b[16:]),
		Data:      b[20 : 20+caplen : 20+caplen],
	}
	if opts := b[20+padded:]; len(opts) > 0 {
		return p.parseOptions(opts)
	}
	return nil
}

func (p *Packet) parseOptions(opts []byte) error {
	kept := opts // what p.Options will be, from here to the end of the options
	seen := false
	rest := opts
	for {
		at := rest
		code, value, next, err := NextOption(rest)
		if err != nil {
			return err
		}
		rest = next
		if code == OptEnd {
			if len(rest) > 0 {
				return malformed("%d bytes after opt_endofopt", len(rest))
			}
			if n := len(kept) - len(at); n > 0 {
				p.Options = kept[:n:n]
			}
			return nil
		}
		if code != OptFlags {
			continue
		}
		if err := want(code, value, 4); err != nil {
			return err
		}
		if seen {
			return malformed("epb_flags is there twice")
		}
		seen = true
		p.Flags = binary.LittleEndian.Uint32(value)
		if len(at) == len(opts) {
			kept = rest
			continue
		}
		kept = slices.Concat(opts[:len(opts)-len(at)], rest)
	}
}

// AppendWithOption appends an EPB with one more encoded option after those that
// it has. Where the block's options are not well formed it is appended as it is.
// The block is whole: its lengths were checked.
func AppendWithOption(dst, block, option []byte) []byte {
	le := binary.LittleEndian
	opts := OffsetData + (int(le.Uint32(block[OffsetCapLen:]))+3)&^3
	end := len(block) - 4
	at := opts
	for at < end {
		code, _, rest, err := NextOption(block[at:end])
		if err != nil {
			return append(dst, block...)
		}
		if code == OptEnd {
			break
		}
		at = end - len(rest)
	}
	total := uint32(at + len(option) + 4 + 4)
	dst = append(dst, block[:at]...)
	le.PutUint32(dst[len(dst)-at+4:], total)
	dst = append(dst, option...)
	dst = le.AppendUint32(dst, OptEnd)
	return le.AppendUint32(dst, total)
}
