package capfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
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
	link := order.Uint32(h[20:])
	if link&reservedLink != 0 {
		return fmt.Errorf("%w: link type %d is none: those of pcap end at %d", ErrFormat, link&^fcsBits, math.MaxUint16)
	}
	f.interfaces = []Interface{{LinkType: uint16(link), SnapLen: order.Uint32(h[16:])}}
	if s.scale != 1 {
		f.interfaces[0].Says.Resolution = clock{resolution: 6}.String()
	}
	if link&fcsBits != 0 {
		f.skipped["length of frame check sequences"]++
	}
	if maker := f.variant(minor); magic == magicMicros && maker != "" {
		return fmt.Errorf("%w: it looks like pcap as %s writes it: let Wireshark's editcap convert it first", ErrFormat, maker)
	}
	return nil
}

// The link type is the lower half of its field. Above stand the length of the
// frame check sequences that packets end with, and whether that is known; what
// the other bits mean nobody has said yet.
const (
	hasFCS       = 1 << 26
	fcsBits      = 0xf0000000 | hasFCS
	reservedLink = ^uint32(fcsBits) &^ math.MaxUint16
)

// variant names the maker of a file with the magic number and version of pcap but
// other packet headers, as far as the beginning of the file tells. Wireshark
// tells these files by the same signs.
func (f *Reader) variant(minor uint16) string {
	if minor == 2 {
		switch f.interfaces[0].LinkType { // of RFC 1573: Ethernet, token ring, FDDI, loopback
		case 6, 9, 15, 24:
			return "AIX"
		}
	}
	b, _ := f.src.r.Peek(f.src.r.Size())
	switch {
	case f.pcap.secondFits(b, 16):
	case f.pcap.secondFits(b, 20):
		return "Nokia's IPSO"
	case f.pcap.secondFits(b, 24):
		return "a modified tcpdump"
	}
	return ""
}

// secondFits tells whether b, the packets of a file, has a sensible second packet
// header where it should be if headers have so many bytes.
func (s *pcapState) secondFits(b []byte, header int) bool {
	if len(b) < header {
		return false
	}
	at := uint64(header) + uint64(s.order.Uint32(b[8:]))
	if at+16 > uint64(len(b)) {
		return false
	}
	second := b[at:]
	captured, orig := s.order.Uint32(second[8:]), s.order.Uint32(second[12:])
	apart := int64(s.order.Uint32(second)) - int64(s.order.Uint32(b))
	return s.order.Uint32(second[4:]) < 1e6 && captured > 0 && captured <= orig && orig <= longest && apart > -day && apart < day
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
		if f.skipPacket() {
			return f.nextPcap(p)
		}
		return fmt.Errorf("%w: a packet of %d bytes", ErrFormat, captured)
	}
	data, err := f.src.more(int(captured))
	const tries = 100 // each may read the rest of the file once more
	if errors.Is(err, ErrTruncated) && captured > longest && captured > f.interfaces[0].SnapLen && f.lost[lostLengths] < tries {
		f.src.unread()
		if f.skipPacket() {
			return f.nextPcap(p)
		}
	}
	if err != nil {
		return err
	}
	fraction := int64(s.order.Uint32(h[4:])) * s.scale
	if fraction >= 1e9 {
		f.corrected["fractions of a second that are a second or more, and were added to the seconds"]++
	}
	seconds := s.order.Uint32(h)
	if seconds > math.MaxInt32 {
		f.corrected["seconds that were before 1970 if they had a sign, and were taken for times after 2038"]++
	}
	*p = Packet{
		Time:    int64(seconds)*1e9 + fraction,
		OrigLen: f.original(orig, captured),
		Data:    data,
	}
	return nil
}

// longest is what no packet of most files exceeds: the snaplen of the usual tools.
const longest = 262144

// skipPacket goes on to the next packet after the header of one whose length makes
// no sense, where one is near: where two headers in a row are sensible or, after
// the first packet, one and the file's end.
func (f *Reader) skipPacket() bool {
	b, err := f.src.r.Peek(f.src.r.Size())
	for at := range b {
		if next, ok := f.pcap.sensible(b[at:]); ok {
			next += at
			_, ok = f.pcap.sensible(b[min(next, len(b)):])
			if apart := f.pcap.seconds(b, next) - f.pcap.seconds(b, at); ok && apart < day && apart > -day || next == len(b) && errors.Is(err, io.EOF) && f.packets > 0 {
				f.lost[lostLengths]++
				f.src.skip(at)
				return true
			}
		}
	}
	return false
}

const day = 24 * 60 * 60

// sensible tells whether b begins with the header of a packet as most are, and
// where the next one begins.
func (s *pcapState) sensible(b []byte) (next int, ok bool) {
	if len(b) < s.header {
		return 0, false
	}
	captured, orig := s.order.Uint32(b[8:]), s.order.Uint32(b[12:])
	if int64(s.order.Uint32(b[4:]))*s.scale >= 1e9 || captured == 0 || captured > orig || orig > longest || s.order.Uint32(b) == 0 {
		return 0, false
	}
	return s.header + int(captured), true
}

// seconds are those of the header at some place in b; 0 when it is not there.
func (s *pcapState) seconds(b []byte, at int) int64 {
	if at+4 > len(b) {
		return 0
	}
	return int64(s.order.Uint32(b[at:]))
}

// original is the length of a packet on the wire. Some files say that more was
// captured than there was.
func (f *Reader) original(orig, captured uint32) uint32 {
	if captured > orig {
		f.corrected["packets that are longer than their original length, which was raised"]++
	}
	return max(orig, captured)
}
