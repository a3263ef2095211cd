// Package capfile reads the capture files of other programs: pcap and pcapng, of
// either byte order and any time resolution, plain or compressed with gzip, zstd
// or lz4. What a file is, its first bytes tell, not its name.
//
// It reads forward only, holds one packet in memory, and gives every packet as
// pcapsule keeps it: time in nanoseconds since the Unix epoch, options in
// little-endian encoding. It does not order packets and does not look into them.
//
// Sources: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng, and for the
// modified format with longer packet headers the notes of libpcap's sf-pcap.c.
package capfile

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Errors that callers branch on. All whole packets before them have been returned.
// An error that wraps neither is that of reading the file.
var (
	// ErrTruncated says that the file ends inside a packet or a block.
	ErrTruncated = errors.New("capture ends inside a packet")
	// ErrFormat says that this is no capture file, or that it is damaged from here
	// on.
	ErrFormat = errors.New("not a readable capture")
)

// maxBlock bounds the bytes that a length field makes the reader allocate. The
// longest packets that exist (USB, D-Bus) have 128 MiB.
const maxBlock = 128<<20 + 4096

// An Interface is where packets of a file were seen.
type Interface struct {
	Name        string // empty in pcap files
	Description string
	LinkType    uint16
	SnapLen     uint32 // 0: no limit
	Says        Says
	Capture     Capture // of which it is an interface
}

// A Packet is valid until the next call of Next.
type Packet struct {
	Interface int    // for Reader.Interface
	Time      int64  // nanoseconds since the Unix epoch
	OrigLen   uint32 // bytes on the wire, at least len(Data)
	Flags     uint32 // epb_flags, 0 when the file has none
	Options   []byte // further pcapng options, little endian, without opt_endofopt
	Data      []byte
}

// A Reader reads one capture file. One goroutine uses it.
type Reader struct {
	src        source
	format     func(*Reader, *Packet) error
	interfaces []Interface
	skipped    map[string]int
	lost       map[string]int
	corrected  map[string]int
	untimed    int
	packet     Packet
	packets    uint64
	err        error // sticky

	pcap   pcapState
	pcapng pcapngState
}

// NewReader reads as much of r as it takes to know what it is.
func NewReader(r io.Reader) (*Reader, error) {
	in := &input{r: r}
	br, err := decompressed(bufio.NewReaderSize(in, 1<<16))
	if in.err != nil {
		return nil, fmt.Errorf("read capture: %w", in.err)
	}
	if err != nil {
		return nil, err
	}
	f := &Reader{src: source{r: br, input: in}, skipped: map[string]int{}, lost: map[string]int{}, corrected: map[string]int{}}
	magic, err := br.Peek(4)
	if err != nil {
		if len(magic) == 0 && errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: the file is empty", ErrFormat)
		}
		if in.err != nil {
			return nil, fmt.Errorf("read capture: %w", in.err)
		}
		if !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: it does not decompress here: %w: try the program that compressed it", ErrFormat, err)
		}
	}
	switch {
	case bytes.Equal(magic, []byte{0x0a, 0x0d, 0x0d, 0x0a}):
		f.format = (*Reader).nextPcapng
	case isPcap(magic):
		f.format = (*Reader).nextPcap
		if err := f.openPcap(); err != nil {
			return nil, err
		}
	case packedBy(magic) != "":
		return nil, fmt.Errorf("%w: it is packed by %s: unpack it first", ErrFormat, packedBy(magic))
	default:
		return nil, fmt.Errorf("%w: it starts with % x, neither pcap nor pcapng, also not in gzip, zstd or lz4", ErrFormat, magic)
	}
	return f, nil
}

// decompressed unwraps at most two layers of compression.
func decompressed(br *bufio.Reader) (*bufio.Reader, error) {
	for range 2 {
		if err := skipFrames(br); err != nil {
			return nil, err
		}
		magic, err := br.Peek(4)
		if err != nil {
			return br, nil // too short to be compressed: NewReader says so
		}
		var r io.Reader
		switch {
		case magic[0] == 0x1f && magic[1] == 0x8b:
			if r, err = gzip.NewReader(br); err != nil {
				return nil, fmt.Errorf("%w: gzip: %w", ErrFormat, err)
			}
		case binary.LittleEndian.Uint32(magic) == 0xFD2FB528:
			d, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
			if err != nil {
				return nil, fmt.Errorf("%w: zstd: %w", ErrFormat, err)
			}
			r = d
		case binary.LittleEndian.Uint32(magic) == 0x184D2204, binary.LittleEndian.Uint32(magic) == 0x184C2102:
			r = lz4.NewReader(br)
		default:
			return br, nil
		}
		br = bufio.NewReaderSize(r, 1<<16)
	}
	return br, nil
}

// packedBy names a kind of compression that is not read here.
func packedBy(magic []byte) string {
	for name, begins := range map[string]string{"xz": "\xfd7zX", "bzip2": "BZh", "zip": "PK\x03\x04", "7-Zip": "7z\xbc\xaf"} {
		if bytes.HasPrefix(magic, []byte(begins)) {
			return name
		}
	}
	return ""
}

// skipFrames skips skippable frames, with which files of zstd and lz4 may begin;
// those of pzstd do.
func skipFrames(br *bufio.Reader) error {
	for {
		h, err := br.Peek(8)
		if err != nil || binary.LittleEndian.Uint32(h)&^0xf != 0x184D2A50 {
			return nil
		}
		n := int64(binary.LittleEndian.Uint32(h[4:]))
		if _, err := io.CopyN(io.Discard, br, 8+n); err != nil {
			return fmt.Errorf("%w: the file ends inside a skippable frame", ErrFormat)
		}
	}
}

// Next returns the next packet, io.EOF after the last, and ErrTruncated (wrapped)
// when the file ends early. Packets that make no sense, or whose time cannot be
// kept, it leaves out; see Lost.
func (f *Reader) Next() (*Packet, error) {
	if f.err != nil {
		return nil, f.err
	}
	if err := f.format(f, &f.packet); err != nil {
		if !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("after packet %d, at byte %d: %w", f.packets, f.src.offset, err)
		}
		f.err = err
		return nil, err
	}
	f.packets++
	return &f.packet, nil
}

// Interfaces is how many interfaces were described so far.
func (f *Reader) Interfaces() int { return len(f.interfaces) }

// Interface describes interface i of a Packet.
func (f *Reader) Interface(i int) Interface { return f.interfaces[i] }

// input is the file as it is, and remembers its error, for decompression reports
// what fails below it in words of its own.
type input struct {
	r   io.Reader
	err error // other than io.EOF
}

func (i *input) Read(b []byte) (int, error) {
	n, err := i.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		i.err = err
	}
	return n, err
}

// source reads exact lengths and tells a clean end from an early one.
type source struct {
	r      *bufio.Reader
	input  *input
	offset int64 // uncompressed bytes read
	buf    []byte
}

// full fills b. At a clean end it returns io.EOF, inside b ErrTruncated. What
// goes wrong in decompression is an early end, too, or damage.
func (s *source) full(b []byte) error {
	n, err := io.ReadFull(s.r, b)
	s.offset += int64(n)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF) && n == 0 && !errors.Is(err, io.ErrUnexpectedEOF):
		return io.EOF
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return ErrTruncated
	}
	if s.input.err != nil {
		return fmt.Errorf("read capture: %w", s.input.err)
	}
	return fmt.Errorf("%w: %w", ErrFormat, err)
}

// more returns n more bytes, valid until the next call. There must be as many:
// the end is an early one. Memory grows with what is really there.
func (s *source) more(n int) ([]byte, error) {
	const step = 1 << 20
	s.buf = s.buf[:0]
	for len(s.buf) < n {
		have := len(s.buf)
		want := min(n-have, step)
		if cap(s.buf) < have+want {
			s.buf = append(make([]byte, 0, min(n, 2*have+want)), s.buf...)
		}
		s.buf = s.buf[:have+want]
		at := s.offset
		if err := s.full(s.buf[have:]); err != nil {
			s.buf = s.buf[:have+int(s.offset-at)]
			if errors.Is(err, io.EOF) {
				err = ErrTruncated
			}
			return nil, err
		}
	}
	return s.buf, nil
}

// unread gives back what more read last, up to the end of the file.
func (s *source) unread() {
	s.offset -= int64(len(s.buf))
	s.r = bufio.NewReaderSize(bytes.NewReader(bytes.Clone(s.buf)), 1<<16)
}

// skip skips n bytes that were peeked at.
func (s *source) skip(n int) {
	n, _ = s.r.Discard(n) // they are there
	s.offset += int64(n)
}
