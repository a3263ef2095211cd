package chunker

import (
	"encoding/binary"
	"io"
	"strings"

	"pcapsule/internal/pcapng"
)

// packets checks the pcapng blocks in buf[at:] and leaves the EPBs among them
// in b.Buf, which is buf[:at] before.
func (r *Reader) packets(b *Batch, buf []byte, at int) error {
	end := at // of what is kept
	last := r.meta.Last
	le := binary.LittleEndian
	for at < len(buf) {
		block := buf[at:]
		typ, total, err := pcapng.Header(block)
		if err != nil {
			return wrap(err)
		}
		if uint64(total) > uint64(len(block)) {
			return damaged("a pcapng block of %d bytes where %d are left of its lz4 block", total, len(block))
		}
		block = block[:total]
		if typ != pcapng.BlockEPB {
			r.meta.Last = last
			if err := r.describe(typ, block); err != nil {
				return err
			}
			at += int(total)
			continue
		}
		if total < pcapng.OffsetData+4 || le.Uint32(block[total-4:]) != total {
			return damaged("a packet block of %d bytes whose lengths differ", total)
		}
		number := le.Uint32(block[pcapng.OffsetInterface:])
		time := int64(uint64(le.Uint32(block[pcapng.OffsetTime:]))<<32 | uint64(le.Uint32(block[pcapng.OffsetTime+4:])))
		caplen := le.Uint32(block[pcapng.OffsetCapLen:])
		switch {
		case int64(number) >= int64(len(r.counts)):
			return damaged("a packet of interface %d, which is not described", number)
		case len(r.stats) > 0:
			return damaged("a packet after the statistics")
		case time < last:
			return damaged("a packet at %d ns after one at %d ns", time, last)
		case caplen > SnapLen || le.Uint32(block[pcapng.OffsetOrigLen:]) < caplen:
			return damaged("a packet of %d bytes, of which %d are captured", le.Uint32(block[pcapng.OffsetOrigLen:]), caplen)
		}
		options := int(total) - pcapng.OffsetData - int(caplen+3)&^3 - 4
		if options != 0 {
			if err := checkPacketOptions(block, options); err != nil {
				return err
			}
		}
		if r.counts[number]++; r.meta.Records == 0 {
			r.meta.First = time
		}
		r.meta.Records++
		last = time
		if end != at {
			copy(buf[end:], block)
		}
		at += int(total)
		end += int(total)
		b.Ends = append(b.Ends, uint32(end))
		b.Times = append(b.Times, time)
	}
	r.meta.Last = last
	b.Buf = buf[:end]
	return nil
}

// checkPacketOptions checks the last n bytes of options in an EPB.
func checkPacketOptions(block []byte, n int) error {
	if n < 0 {
		return damaged("a packet longer than its block")
	}
	options := block[len(block)-4-n : len(block)-4]
	if n == 12 && string(options[:4]) == "\x02\x00\x04\x00" && string(options[8:]) == "\x00\x00\x00\x00" {
		return nil // only epb_flags
	}
	var p pcapng.Packet
	if err := pcapng.ParsePacket(block, &p); err != nil {
		return wrap(err)
	}
	if len(p.Options) > MaxOptions {
		return damaged("packet options of %d bytes", len(p.Options))
	}
	return nil
}

// describe takes a pcapng block that is no packet.
func (r *Reader) describe(typ uint32, block []byte) error {
	if !r.section && typ != pcapng.BlockSHB {
		return damaged("it does not start with a section header")
	}
	switch typ {
	case pcapng.BlockSHB:
		if r.section {
			return damaged("a second section")
		}
		r.section = true
		h, err := pcapng.ParseSectionHeader(block)
		if err != nil {
			return wrap(err)
		}
		node, _ := strings.CutPrefix(h.Comment, nodeKey)
		r.header = Header{Node: node, OS: h.OS, Application: h.Application}
		if binary.LittleEndian.Uint64(block[16:]) != 1<<64-1 {
			return damaged("a section with a length")
		}
	case pcapng.BlockIDB:
		i, err := pcapng.ParseInterface(block)
		if err != nil {
			return wrap(err)
		}
		switch {
		case len(r.stats) > 0:
			return damaged("an interface after the statistics")
		case len(r.counts) >= MaxInterfaces:
			return damaged("more than %d interfaces", MaxInterfaces)
		case i.SnapLen != SnapLen || i.TSResol != pcapng.Nanoseconds || i.TSOffset != 0:
			return damaged("an interface with snaplen %d, if_tsresol %d and if_tsoffset %d", i.SnapLen, i.TSResol, i.TSOffset)
		}
		if len(i.Name) > maxName || len(i.Description) > maxName {
			return damaged("an interface with a name longer than %d bytes", maxName)
		}
		r.interfaces = append(r.interfaces, Interface{Name: i.Name, Description: i.Description, LinkType: i.LinkType})
		r.counts = append(r.counts, 0)
	case pcapng.BlockISB:
		s, err := pcapng.ParseStatistics(block)
		if err != nil {
			return wrap(err)
		}
		return r.statistics(s)
	default:
		return damaged("a pcapng block of type %#x", typ)
	}
	return nil
}

// statistics takes the ISB of the next interface. The first holds the drops.
func (r *Reader) statistics(s pcapng.Statistics) error {
	n := len(r.stats)
	switch {
	case n >= len(r.counts) || s.Interface != uint32(n):
		return damaged("statistics of interface %d where those of %d belong", s.Interface, n)
	case s.Received == nil || *s.Received != r.counts[n]:
		return damaged("statistics of interface %d do not count its %d packets", n, r.counts[n])
	case (s.OSDrop != nil) != (n == 0):
		return damaged("dropped packets belong in the statistics of interface 0")
	case s.Time != r.meta.Last:
		return damaged("statistics at %d ns where the last packet is at %d ns", s.Time, r.meta.Last)
	}
	if s.OSDrop != nil {
		r.meta.Drops = *s.OSDrop
	}
	r.stats = append(r.stats, Statistics{Received: *s.Received})
	return nil
}

// finish checks what can only be told at the chunk's end.
func (r *Reader) finish() error {
	if r.meta.Records == 0 {
		return damaged("no records")
	}
	if len(r.stats) < len(r.counts) {
		return damaged("statistics of %d of %d interfaces", len(r.stats), len(r.counts))
	}
	for i, n := range r.counts {
		if n == 0 {
			return damaged("interface %d has no packets", i)
		}
	}
	return io.EOF
}
