package capfile

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"

	"pcapsule/internal/pcapng"
)

// Says is what a file says of an interface beside what its packets need. What it
// does not tell is empty.
type Says struct {
	Comment    string
	Filter     string // in tcpdump's language
	OS         string
	Hardware   string
	MAC        string // or EUI-64
	Addresses  string // with their prefixes, and spaces between them
	Speed      string // bits a second
	Resolution string // of times, where it is not that of nanoseconds
}

// Capture is what a file, or a section of it, says of itself.
type Capture struct {
	Comment, Hardware, OS, Application string
}

// says takes in an option of an interface that tells nothing of its packets.
func (f *Reader) says(s *Says, code uint16, v []byte) {
	switch {
	case code == pcapng.OptComment:
		s.Comment = f.also(s.Comment, f.longText(v), "; ")
	case code == pcapng.OptIfFilter && len(v) > 0 && v[0] == pcapng.FilterText:
		s.Filter = f.longText(v[1:])
	case code == pcapng.OptIfFilter:
		f.skipped["capture filter that is not text"]++
	case code == pcapng.OptIfOS:
		s.OS = f.longText(v)
	case code == pcapng.OptIfHardware:
		s.Hardware = f.longText(v)
	case code == pcapng.OptIfMAC && len(v) == 6, code == pcapng.OptIfEUI && len(v) == 8:
		s.MAC = f.also(s.MAC, net.HardwareAddr(v).String(), " ")
	case code == pcapng.OptIfIPv4 && len(v) == 8:
		if ones, bits := net.IPMask(v[4:]).Size(); bits == 0 {
			f.skipped["address of an interface that makes no sense"]++
		} else {
			s.Addresses = f.also(s.Addresses, netip.PrefixFrom(netip.AddrFrom4([4]byte(v)), ones).String(), " ")
		}
	case code == pcapng.OptIfIPv6 && len(v) == 17 && v[16] <= 128:
		s.Addresses = f.also(s.Addresses, netip.PrefixFrom(netip.AddrFrom16([16]byte(v)), int(v[16])).String(), " ")
	case code == pcapng.OptIfIPv4, code == pcapng.OptIfIPv6, code == pcapng.OptIfMAC, code == pcapng.OptIfEUI:
		f.skipped["address of an interface that makes no sense"]++
	case code == pcapng.OptIfSpeed && len(v) == 8:
		s.Speed = strconv.FormatUint(f.pcapng.order.Uint64(v), 10)
	case code == pcapng.OptIfFCSLen:
		f.skipped["length of frame check sequences"]++
	default:
		f.skipped["option of an interface that is not known"]++
	}
}

// sectionOptions takes in what a section header says beside its version. What is
// wrong there does not matter to packets.
func (f *Reader) sectionOptions(b []byte) {
	const fixed = 12 // version and section length
	s := &f.pcapng.capture
	if !eachOption(f.pcapng.order, b[fixed:], func(code uint16, v []byte) {
		switch code {
		case pcapng.OptComment:
			s.Comment = f.also(s.Comment, f.longText(v), "; ")
		case pcapng.OptHardware:
			s.Hardware = f.longText(v)
		case pcapng.OptOS:
			s.OS = f.longText(v)
		case pcapng.OptApplication:
			s.Application = f.longText(v)
			f.pcapng.own = strings.HasPrefix(s.Application, "pcapsule")
		default:
			f.skipped["option of a section that is not known"]++
		}
	}) {
		f.skipped["options of a section that make no sense"]++
	}
}

// maxText is how many bytes of a text are kept.
const maxText = 1000

// also is list with one more text.
func (f *Reader) also(list, text, separator string) string {
	switch {
	case list == "" || text == "":
		return list + text
	case len(list)+len(separator)+len(text) > maxText:
		f.skipped["texts that are longer than 1,000 bytes, cut off there"]++
		return list
	}
	return list + separator + text
}

// longText is text, and noted where it had to be cut.
func (f *Reader) longText(v []byte) string {
	if len(v) > maxText {
		f.skipped["texts that are longer than 1,000 bytes, cut off there"]++
	}
	return printable(v, maxText)
}

// text is an interface's name or description.
func text(v []byte) string { return printable(v, 256) }

// printable is a text, fit for a terminal and for a manifest.
func printable(v []byte, limit int) string {
	s := strings.ToValidUTF8(strings.TrimRight(string(v), "\x00"), "?")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	return strings.TrimSpace(strings.ToValidUTF8(s[:min(len(s), limit)], ""))
}
