package pcapng

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// MaxName is how long a name in a name resolution block may be, in bytes:
// Wireshark cuts off what is longer.
const MaxName = 63

// A Name is what an address is called.
type Name struct {
	Addr netip.Addr // without a zone; an IPv4 address in IPv6 form is written as IPv4
	Name string
}

// Types of records in a name resolution block.
const (
	nameEnd  = 0 // nrb_record_end
	nameIPv4 = 1 // nrb_record_ipv4
	nameIPv6 = 2 // nrb_record_ipv6
)

// maxNameBlock is the length from which on names go into a further block. Every
// reader takes blocks of this size.
const maxNameBlock = 64 << 10

// AppendNameResolution appends as many NRBs as the names take, and none for none.
// A name that is empty is left out, with its address; of one that is too long,
// or holds a zero byte, the first part is written.
func AppendNameResolution(dst []byte, names []Name) []byte {
	start := -1
	for _, n := range names {
		name := n.Name
		if i := indexZero(name); i >= 0 {
			name = name[:i]
		}
		name = cut(name, MaxName)
		addr := n.Addr.Unmap()
		if name == "" || !addr.IsValid() {
			continue
		}
		if start < 0 {
			start = len(dst)
			dst = begin(dst, BlockNRB)
		}
		kind := uint16(nameIPv6)
		if addr.Is4() {
			kind = nameIPv4
		}
		size := addr.BitLen()/8 + len(name) + 1
		dst = appendOptionHeader(dst, kind, size)
		if addr.Is4() {
			b := addr.As4()
			dst = append(dst, b[:]...)
		} else {
			b := addr.As16()
			dst = append(dst, b[:]...)
		}
		dst = append(append(dst, name...), 0)
		dst = appendPadding(dst, size)
		if len(dst)-start >= maxNameBlock {
			dst = endNames(dst, start)
			start = -1
		}
	}
	if start >= 0 {
		dst = endNames(dst, start)
	}
	return dst
}

func endNames(dst []byte, start int) []byte {
	return finish(binary.LittleEndian.AppendUint32(dst, nameEnd), start)
}

func indexZero(s string) int {
	for i := range len(s) {
		if s[i] == 0 {
			return i
		}
	}
	return -1
}

// ParseNameResolution reads a little-endian NRB. An address that has several
// names is there once for each; records of other kinds and options are skipped.
func ParseNameResolution(block []byte) ([]Name, error) {
	b, err := body(block, BlockNRB, 4)
	if err != nil {
		return nil, err
	}
	var names []Name
	for {
		kind, value, rest, err := nextName(b)
		if err != nil {
			return nil, err
		}
		if kind == nameEnd {
			return names, options(rest, func(uint16, []byte) error { return nil })
		}
		b = rest
		size := 0
		switch kind {
		case nameIPv4:
			size = 4
		case nameIPv6:
			size = 16
		default:
			continue
		}
		if len(value) < size+2 || value[len(value)-1] != 0 {
			return nil, malformed("a name record of %d bytes without a name", len(value))
		}
		addr, _ := netip.AddrFromSlice(value[:size])
		for name := range bytes.SplitSeq(value[size:len(value)-1], []byte{0}) {
			names = append(names, Name{addr, string(name)})
		}
	}
}

// nextName splits the first record off b.
func nextName(b []byte) (kind uint16, value, rest []byte, err error) {
	if len(b) < 4 {
		return 0, nil, nil, malformed("name records without an end")
	}
	kind = binary.LittleEndian.Uint16(b)
	n := int(binary.LittleEndian.Uint16(b[2:]))
	padded := 4 + (n+3)&^3
	switch {
	case kind == nameEnd && n != 0:
		return 0, nil, nil, malformed("the end of name records has a value of %d bytes", n)
	case padded > len(b):
		return 0, nil, nil, malformed("a name record of %d bytes ends after its block", n)
	}
	return kind, b[4 : 4+n], b[padded:], nil
}
