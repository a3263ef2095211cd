package pcapng

import "encoding/binary"

// Statistics is an interface statistics block. A nil field is not known and
// writes no option.
type Statistics struct {
	Interface    uint32
	Time         int64 // ticks, as of a Packet: when the counters were read
	Comment      string
	Start, End   *int64  // ticks: of the capture
	Received     *uint64 // packets that the interface received
	IfDrop       *uint64 // packets dropped by the interface for lack of resources
	FilterAccept *uint64 // packets that the filter accepted
	OSDrop       *uint64 // packets dropped by the operating system
	Delivered    *uint64 // packets delivered to the user
}

// AppendStatistics appends an ISB.
func AppendStatistics(dst []byte, s *Statistics) []byte {
	start := len(dst)
	dst = begin(dst, BlockISB)
	dst = binary.LittleEndian.AppendUint32(dst, s.Interface)
	dst = appendTime(dst, s.Time)
	opts := len(dst)
	dst = appendString(dst, OptComment, s.Comment)
	dst = appendTimeOption(dst, OptStartTime, s.Start)
	dst = appendTimeOption(dst, OptEndTime, s.End)
	dst = appendCount(dst, OptReceived, s.Received)
	dst = appendCount(dst, OptIfDrop, s.IfDrop)
	dst = appendCount(dst, OptFilterAccept, s.FilterAccept)
	dst = appendCount(dst, OptOSDrop, s.OSDrop)
	dst = appendCount(dst, OptDelivered, s.Delivered)
	return finish(endOptions(dst, opts), start)
}

func appendCount(dst []byte, code uint16, n *uint64) []byte {
	if n == nil {
		return dst
	}
	return binary.LittleEndian.AppendUint64(appendOptionHeader(dst, code, 8), *n)
}

func appendTimeOption(dst []byte, code uint16, t *int64) []byte {
	if t == nil {
		return dst
	}
	return appendTime(appendOptionHeader(dst, code, 8), *t)
}

// ParseStatistics reads a little-endian ISB.
func ParseStatistics(block []byte) (Statistics, error) {
	var s Statistics
	b, err := body(block, BlockISB, 12)
	if err != nil {
		return s, err
	}
	s.Interface = binary.LittleEndian.Uint32(b)
	s.Time = parseTime(b[4:])
	err = options(b[12:], func(code uint16, value []byte) (err error) {
		switch code {
		case OptComment:
			keepFirst(&s.Comment, value)
		case OptStartTime:
			s.Start, err = timeOption(code, value)
		case OptEndTime:
			s.End, err = timeOption(code, value)
		case OptReceived:
			s.Received, err = uint64Option(code, value)
		case OptIfDrop:
			s.IfDrop, err = uint64Option(code, value)
		case OptFilterAccept:
			s.FilterAccept, err = uint64Option(code, value)
		case OptOSDrop:
			s.OSDrop, err = uint64Option(code, value)
		case OptDelivered:
			s.Delivered, err = uint64Option(code, value)
		}
		return err
	})
	return s, err
}

func timeOption(code uint16, value []byte) (*int64, error) {
	if err := want(code, value, 8); err != nil {
		return nil, err
	}
	t := parseTime(value)
	return &t, nil
}
