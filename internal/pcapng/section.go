package pcapng

import "encoding/binary"

// A SectionHeader opens a section. Empty fields write no option.
type SectionHeader struct {
	Hardware, OS, Application, Comment string
}

// AppendSectionHeader appends an SHB: version 1.0, section length unknown.
func AppendSectionHeader(dst []byte, h SectionHeader) []byte {
	start := len(dst)
	dst = begin(dst, BlockSHB)
	dst = binary.LittleEndian.AppendUint32(dst, Magic)
	dst = binary.LittleEndian.AppendUint16(dst, 1)
	dst = binary.LittleEndian.AppendUint16(dst, 0)
	dst = binary.LittleEndian.AppendUint64(dst, 1<<64-1)
	opts := len(dst)
	dst = appendString(dst, OptComment, h.Comment)
	dst = appendString(dst, OptHardware, h.Hardware)
	dst = appendString(dst, OptOS, h.OS)
	dst = appendString(dst, OptApplication, h.Application)
	return finish(endOptions(dst, opts), start)
}

// ParseSectionHeader reads a little-endian SHB of version 1.0 (or 1.2, which is
// the same). Of several comments it keeps the first.
func ParseSectionHeader(block []byte) (SectionHeader, error) {
	var h SectionHeader
	b, err := body(block, BlockSHB, 16)
	if err != nil {
		return h, err
	}
	if m := binary.LittleEndian.Uint32(b); m != Magic {
		return h, malformed("byte-order magic %#08x", m)
	}
	major, minor := binary.LittleEndian.Uint16(b[4:]), binary.LittleEndian.Uint16(b[6:])
	if major != 1 || (minor != 0 && minor != 2) {
		return h, malformed("version %d.%d", major, minor)
	}
	err = options(b[16:], func(code uint16, value []byte) error {
		switch code {
		case OptComment:
			keepFirst(&h.Comment, value)
		case OptHardware:
			keepFirst(&h.Hardware, value)
		case OptOS:
			keepFirst(&h.OS, value)
		case OptApplication:
			keepFirst(&h.Application, value)
		}
		return nil
	})
	return h, err
}

// An Interface describes where packets were seen. Interfaces are numbered from 0
// in the order of their blocks. Empty strings write no option.
type Interface struct {
	LinkType    uint16 // of tcpdump.org/linktypes.html
	SnapLen     uint32 // longest captured length; 0 is no limit
	Name        string
	Description string
	Filter      string // in tcpdump's language
	OS          string
	Hardware    string
	TSResol     uint8 // if_tsresol: 10^-n seconds a tick, or 2^-n with the high bit set
	TSOffset    int64 // seconds to add to every time

	Options []byte // further options, each padded to four bytes, to be written; ParseInterface leaves them out
}

// FilterText is the kind of an if_filter that holds tcpdump's language.
const FilterText = 0

// AppendInterface appends an IDB. if_tsresol is always written, if_tsoffset when
// it is not 0.
func AppendInterface(dst []byte, i Interface) []byte {
	start := len(dst)
	dst = begin(dst, BlockIDB)
	dst = binary.LittleEndian.AppendUint16(dst, i.LinkType)
	dst = binary.LittleEndian.AppendUint16(dst, 0)
	dst = binary.LittleEndian.AppendUint32(dst, i.SnapLen)
	opts := len(dst)
	dst = appendString(dst, OptIfName, i.Name)
	dst = appendString(dst, OptIfDescription, i.Description)
	dst = AppendOption(dst, OptIfTSResol, []byte{i.TSResol})
	if i.Filter != "" {
		f := cut(i.Filter, maxOption-1)
		dst = append(appendOptionHeader(dst, OptIfFilter, 1+len(f)), FilterText)
		dst = appendPadding(append(dst, f...), 1+len(f))
	}
	dst = appendString(dst, OptIfOS, i.OS)
	if i.TSOffset != 0 {
		dst = appendOptionHeader(dst, OptIfTSOffset, 8)
		dst = binary.LittleEndian.AppendUint64(dst, uint64(i.TSOffset))
	}
	dst = appendString(dst, OptIfHardware, i.Hardware)
	dst = append(dst, i.Options...)
	return finish(endOptions(dst, opts), start)
}

// ParseInterface reads a little-endian IDB. Without if_tsresol, TSResol is 6, the
// format's default. A filter that is not in tcpdump's language is left out.
func ParseInterface(block []byte) (Interface, error) {
	i := Interface{TSResol: 6}
	b, err := body(block, BlockIDB, 8)
	if err != nil {
		return i, err
	}
	i.LinkType = binary.LittleEndian.Uint16(b)
	i.SnapLen = binary.LittleEndian.Uint32(b[4:])
	err = options(b[8:], func(code uint16, value []byte) error {
		switch code {
		case OptIfName:
			keepFirst(&i.Name, value)
		case OptIfDescription:
			keepFirst(&i.Description, value)
		case OptIfTSResol:
			if err := want(code, value, 1); err != nil {
				return err
			}
			i.TSResol = value[0]
		case OptIfFilter:
			if len(value) == 0 {
				return malformed("if_filter has no kind")
			}
			if value[0] == FilterText {
				keepFirst(&i.Filter, value[1:])
			}
		case OptIfOS:
			keepFirst(&i.OS, value)
		case OptIfTSOffset:
			if err := want(code, value, 8); err != nil {
				return err
			}
			i.TSOffset = int64(binary.LittleEndian.Uint64(value))
		case OptIfHardware:
			keepFirst(&i.Hardware, value)
		}
		return nil
	})
	return i, err
}

func keepFirst(s *string, value []byte) {
	if *s == "" {
		*s = string(value)
	}
}
