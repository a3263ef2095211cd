package capfile

import (
	"encoding/binary"
	"fmt"
)

// Magic numbers of pcap, as read in the file's own byte order.
const (
	magicMicros   = 0xa1b2c3d4
	magicNanos    = 0xa1b23c4d
	magicModified = 0xa1b2cd34 // microseconds, packet headers of 24 bytes
)

type pcapState struct {
	order    binary.ByteOrder
	scale    int64 // nanoseconds a unit of the fraction
	header   int   // bytes of a packet header
	swapped  bool  // the two lengths may stand the other way round
	lastPart [24]byte
}

func isPcap(magic []byte) bool {
	_, _, ok := pcapMagic(magic)
	return ok
}

func pcapMagic(b []byte) (order binary.ByteOrder, magic uint32, ok bool) {
	if len(b) < 4 {
		return nil, 0, false
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch m := order.Uint32(b); m {
		case magicMicros, magicNanos, magicModified:
			return order, m, true
		}
	}
	return nil, 0, false
}

func (f *Reader) openPcap() error {
	var h [24]byte
	if err := f.src.full(h[:]); err != nil {
		return fmt.Errorf("%w: the file ends inside its header", ErrFormat)
	}
	order, magic, _ := pcapMagic(h[:])
	s := &f.pcap
	s.order, s.scale, s.header = order, 1000, 16
	switch magic {
	case magicNanos:
		s.scale = 1
	case magicModified:
		s.header = 24
	}
	major, minor := order.Uint16(h[4:]), order.Uint16(h[6:])
	if major != 2 {
		return fmt.Errorf("%w: pcap version %d.%d, want 2.x", ErrFormat, major, minor)
	}
	s.swapped = minor <= 3
	f.interfaces = []Interface{{
		LinkType: uint16(order.Uint32(h[20:])), // the upper half tells of frame check sequences
		SnapLen:  order.Uint32(h[16:]),
	}}
	return nil
}

func (f *Reader) nextPcap(p *Packet) error {
	s := &f.pcap
	h := s.lastPart[:s.header]
	if err := f.src.full(h); err != nil {
		return err
	}
	captured, orig := s.order.Uint32(h[8:]), s.order.Uint32(h[12:])
	if s.swapped && captured > orig {
		captured, orig = orig, captured
	}
	if captured > maxBlock {
		return fmt.Errorf("%w: a packet of %d bytes", ErrFormat, captured)
	}
	data, err := f.src.more(int(captured))
	if err != nil {
		return err
	}
	*p = Packet{
		Time:    int64(s.order.Uint32(h))*1e9 + int64(s.order.Uint32(h[4:]))*s.scale,
		OrigLen: max(orig, captured),
		Data:    data,
	}
	return nil
}
