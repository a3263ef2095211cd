package pcapng

import (
	"encoding/binary"
	"unicode/utf8"
)

// Option codes. Those of one kind of block mean something else in another.
const (
	OptEnd     = 0 // opt_endofopt
	OptComment = 1 // opt_comment, of every block

	OptHardware    = 2 // shb_hardware
	OptOS          = 3 // shb_os
	OptApplication = 4 // shb_userappl

	OptIfName        = 2  // if_name
	OptIfDescription = 3  // if_description
	OptIfIPv4        = 4  // if_IPv4addr: address and mask
	OptIfIPv6        = 5  // if_IPv6addr: address and length of its prefix
	OptIfMAC         = 6  // if_MACaddr
	OptIfEUI         = 7  // if_EUIaddr
	OptIfSpeed       = 8  // if_speed, bits a second
	OptIfTSResol     = 9  // if_tsresol
	OptIfFilter      = 11 // if_filter
	OptIfOS          = 12 // if_os
	OptIfFCSLen      = 13 // if_fcslen
	OptIfTSOffset    = 14 // if_tsoffset
	OptIfHardware    = 15 // if_hardware

	OptFlags     = 2 // epb_flags
	OptHash      = 3 // epb_hash
	OptDropCount = 4 // epb_dropcount
	OptPacketID  = 5 // epb_packetid
	OptQueue     = 6 // epb_queue
	OptVerdict   = 7 // epb_verdict
	OptProcess   = 8 // epb_processid_threadid

	OptStartTime    = 2 // isb_starttime
	OptEndTime      = 3 // isb_endtime
	OptReceived     = 4 // isb_ifrecv
	OptIfDrop       = 5 // isb_ifdrop
	OptFilterAccept = 6 // isb_filteraccept
	OptOSDrop       = 7 // isb_osdrop
	OptDelivered    = 8 // isb_usrdeliv
)

const maxOption = 65535

// AppendOption appends one option, padded to four bytes. A value longer than
// 65535 bytes is cut off.
func AppendOption(dst []byte, code uint16, value []byte) []byte {
	value = value[:min(len(value), maxOption)]
	dst = appendOptionHeader(dst, code, len(value))
	return appendPadding(append(dst, value...), len(value))
}

// appendString appends an option unless s is empty. What is too long is cut off
// between characters.
func appendString(dst []byte, code uint16, s string) []byte {
	if s == "" {
		return dst
	}
	s = cut(s, maxOption)
	dst = appendOptionHeader(dst, code, len(s))
	return appendPadding(append(dst, s...), len(s))
}

// cut is s, or as many of its characters as fit in limit bytes.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	n := limit
	for n > limit-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func appendOptionHeader(dst []byte, code uint16, n int) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, code)
	return binary.LittleEndian.AppendUint16(dst, uint16(n))
}

// appendPadding appends what n bytes lack to a multiple of four.
func appendPadding(dst []byte, n int) []byte {
	var zero [4]byte
	return append(dst, zero[:-n&3]...)
}

// endOptions ends the options that began at offset start, when there are any.
func endOptions(dst []byte, start int) []byte {
	if len(dst) == start {
		return dst
	}
	return binary.LittleEndian.AppendUint32(dst, OptEnd)
}

// NextOption splits the first option off encoded options b. The value aliases b
// and is without its padding. At the end of the options (opt_endofopt, or b is
// empty) code is OptEnd and rest is what follows, which should be nothing.
func NextOption(b []byte) (code uint16, value, rest []byte, err error) {
	if len(b) == 0 {
		return OptEnd, nil, nil, nil
	}
	if len(b) < 4 {
		return 0, nil, nil, malformed("%d bytes are no option", len(b))
	}
	code = binary.LittleEndian.Uint16(b)
	n := int(binary.LittleEndian.Uint16(b[2:]))
	padded := 4 + (n+3)&^3
	switch {
	case code == OptEnd && n != 0:
		return 0, nil, nil, malformed("opt_endofopt has a value of %d bytes", n)
	case padded > len(b):
		return 0, nil, nil, malformed("option %d of %d bytes ends after its block", code, n)
	}
	return code, b[4 : 4+n], b[padded:], nil
}

// CheckOptions tells whether b is what Packet.Options may be: whole options,
// each padded to four bytes, without opt_endofopt and without epb_flags.
func CheckOptions(b []byte) error {
	for len(b) > 0 {
		code, _, rest, err := NextOption(b)
		if err != nil {
			return err
		}
		if code == OptEnd || code == OptFlags {
			return malformed("option %d does not belong among a packet's further options", code)
		}
		b = rest
	}
	return nil
}

// options calls f for each option of a block. Nothing may follow opt_endofopt.
func options(b []byte, f func(code uint16, value []byte) error) error {
	for {
		code, value, rest, err := NextOption(b)
		if err != nil {
			return err
		}
		if code == OptEnd {
			if len(rest) > 0 {
				return malformed("%d bytes after opt_endofopt", len(rest))
			}
			return nil
		}
		if err := f(code, value); err != nil {
			return err
		}
		b = rest
	}
}

// want checks the length of a fixed-size option.
func want(code uint16, value []byte, n int) error {
	if len(value) != n {
		return malformed("option %d has %d bytes, want %d", code, len(value), n)
	}
	return nil
}

func uint64Option(code uint16, value []byte) (*uint64, error) {
	if err := want(code, value, 8); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(value)
	return &n, nil
}

// A timestamp stands in blocks as two 32-bit halves, the high one first,
// whatever the byte order.
func appendTime(dst []byte, t int64) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(uint64(t)>>32))
	return binary.LittleEndian.AppendUint32(dst, uint32(t))
}

func parseTime(b []byte) int64 {
	return int64(uint64(binary.LittleEndian.Uint32(b))<<32 | uint64(binary.LittleEndian.Uint32(b[4:])))
}
