package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	tarBlock       = 512
	maxTarEntries  = 1 << 21
	maxTarExtended = 1 << 20 // bytes of an extended header
)

// A tarHeader is what a file or folder entry says, extended headers applied.
type tarHeader struct {
	name     string // without a leading "./" or a trailing slash
	folder   bool
	off      int64 // of the entry's data
	size     int64
	modified time.Time
}

// scanTar calls visit for each file and folder of a tar archive in the formats
// ustar, pax and GNU. When strict it also reads what no reader needs (padding, and
// what follows the end) and insists that it is zero, and on the one spelling of a
// checksum that tar programs write.
//
// The parser is our own because archive/tar accepts damage: it ignores padding
// and trailer, and reads several spellings of a checksum.
func scanTar(r io.ReaderAt, size int64, strict bool, visit func(*tarHeader) error) error {
	s := tarScanner{r: r, size: size, strict: strict}
	var head [tarBlock]byte
	if n, err := r.ReadAt(head[:min(size, tarBlock)], 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read: %w", err)
	} else if c := compressed(head[:n]); c != "" {
		return fmt.Errorf("it is compressed with %s: unpack that first", c)
	}
	if size < 2*tarBlock {
		return fmt.Errorf("%d bytes are no tar archive", size)
	}
	for n := 0; ; n++ {
		h, err := s.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && n >= maxTarEntries {
			err = fmt.Errorf("more than %d entries", maxTarEntries)
		}
		if err == nil {
			err = visit(h)
		}
		if err != nil {
			return err
		}
	}
}

type tarScanner struct {
	r      io.ReaderAt
	size   int64
	strict bool
	pos    int64 // of the next header

	buf [2 * tarBlock]byte
}

// next returns the next file or folder, or io.EOF after a good end.
func (s *tarScanner) next() (*tarHeader, error) {
	var ext tarExtended
	for {
		at := s.pos
		block, err := s.header()
		if err != nil {
			return nil, err // io.EOF too, also when extended headers belong to nothing
		}
		h, err := s.entry(block, &ext)
		if err != nil {
			return nil, fmt.Errorf("header at byte %d: %w", at, err)
		}
		if h != nil {
			return h, nil
		}
	}
}

// header reads the block at pos, or returns io.EOF at the end marker.
func (s *tarScanner) header() ([]byte, error) {
	block, err := s.read(s.pos, tarBlock)
	if err != nil {
		return nil, fmt.Errorf("it is cut off at byte %d: %w", s.pos, err)
	}
	if isZero(block) {
		return nil, s.end()
	}
	if err := s.checksum(block); err != nil {
		return nil, fmt.Errorf("header at byte %d: %w", s.pos, err)
	}
	s.pos += tarBlock
	return block, nil
}

// read returns n bytes at off, n up to two blocks; valid until the next read.
func (s *tarScanner) read(off, n int64) ([]byte, error) {
	if n > s.size-off {
		return nil, io.ErrUnexpectedEOF
	}
	m, err := s.r.ReadAt(s.buf[:n], off)
	if int64(m) == n {
		err = nil
	} else if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return s.buf[:n], err
}

func isZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

// end is called at the first block of the end marker.
func (s *tarScanner) end() error {
	if _, err := s.read(s.pos, 2*tarBlock); err != nil {
		return fmt.Errorf("its end is cut off at byte %d: %w", s.pos, err)
	}
	if !s.strict {
		return io.EOF
	}
	if err := s.zero(s.pos, s.size-s.pos, "after the end marker"); err != nil {
		return err
	}
	if s.size%tarBlock != 0 {
		return fmt.Errorf("its size of %d bytes is no multiple of %d", s.size, tarBlock)
	}
	return io.EOF
}

// zero insists on n zero bytes at off.
func (s *tarScanner) zero(off, n int64, where string) error {
	for n > 0 {
		b, err := s.read(off, min(n, int64(len(s.buf))))
		if err != nil {
			return fmt.Errorf("read at byte %d: %w", off, err)
		}
		if !isZero(b) {
			return fmt.Errorf("byte %d, %s, is not zero", off+int64(bytes.IndexFunc(b, func(c rune) bool { return c != 0 })), where)
		}
		off += int64(len(b))
		n -= int64(len(b))
	}
	return nil
}

// checksum checks the sum of a header block: of its bytes, with the sum's own
// field read as spaces. A change of any one byte changes it.
func (s *tarScanner) checksum(b []byte) error {
	sum := 8 * int64(' ')
	for i, c := range b {
		if i < 148 || i >= 156 {
			sum += int64(c)
		}
	}
	field := b[148:156]
	if string(field) == fmt.Sprintf("%06o\x00 ", sum) {
		return nil
	}
	if n, err := tarNumber(field); err != nil || n != sum || s.strict {
		return errors.New("its checksum does not match: the archive is damaged, or is no tar")
	}
	return nil
}

// entry interprets a header block whose data starts at pos, and moves pos behind
// the data. It returns nil for an extended header, which it puts into ext.
func (s *tarScanner) entry(b []byte, ext *tarExtended) (*tarHeader, error) {
	typ := b[156]
	h := &tarHeader{name: tarString(b[:100]), off: s.pos}
	if string(b[257:263]) == "ustar\x00" {
		if prefix := tarString(b[345:500]); prefix != "" {
			h.name = prefix + "/" + h.name
		}
	}
	var err error
	if h.size, err = tarNumber(b[124:136]); err != nil {
		return nil, fmt.Errorf("size: %w", err)
	}
	mtime, err := tarNumber(b[136:148])
	if err != nil {
		return nil, fmt.Errorf("time of change: %w", err)
	}
	h.modified = time.Unix(mtime, 0)
	extended := typ == 'x' || typ == 'g' || typ == 'L'
	if !extended {
		ext.apply(h)
	}
	switch typ {
	case 0, '0', '7':
		h.folder = strings.HasSuffix(h.name, "/") // as before ustar
	case '5':
		h.folder = true
	case 'x', 'g', 'L':
	case '1', '2', 'K':
		return nil, fmt.Errorf("%.300q is a link: only files and folders are allowed", h.name)
	default:
		return nil, fmt.Errorf("%.300q is of type %q: only files and folders are allowed", h.name, typ)
	}
	if h.folder {
		h.size = 0
	}
	if h.size < 0 || h.size > s.size-s.pos {
		return nil, fmt.Errorf("%.300q of %d bytes does not fit into the archive: it is cut off or damaged", h.name, h.size)
	}
	s.pos += h.size
	pad := -h.size & (tarBlock - 1)
	if s.strict {
		if err := s.zero(s.pos, pad, "padding"); err != nil {
			return nil, err
		}
	}
	s.pos += pad
	if extended {
		return nil, s.extended(typ, h, ext)
	}
	return h, checkTarName(h)
}

// checkTarName refuses a name that leads anywhere but down, and takes from it
// what says nothing.
func checkTarName(h *tarHeader) error {
	name := strings.TrimSuffix(h.name, "/")
	for strings.HasPrefix(name, "./") {
		name = name[2:]
	}
	switch {
	case name == "." && h.folder:
	case name == "", strings.HasPrefix(name, "/"), strings.ContainsAny(name, "\\\x00"):
		return fmt.Errorf("name %.300q is not allowed: it does not lead into the archive", h.name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." || len(part) == 2 && part[1] == ':' {
			return fmt.Errorf("name %.300q is not allowed: it does not lead into the archive", h.name)
		}
	}
	h.name = name
	return nil
}

// tarString is a field up to its first zero byte.
func tarString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// tarNumber reads an octal field, or a binary one as GNU tar writes what octal
// digits cannot hold.
func tarNumber(b []byte) (int64, error) {
	if len(b) > 8 && b[0]&0x80 != 0 {
		// Two's complement over the whole field, the top bit apart.
		if !(b[0] == 0x80 || b[0] == 0xff) {
			return 0, errors.New("number is too large")
		}
		high := b[1 : len(b)-8]
		n := int64(binary.BigEndian.Uint64(b[len(b)-8:]))
		want := byte(0)
		if b[0] == 0xff {
			want = 0xff
		}
		if len(bytes.Trim(high, string([]byte{want}))) != 0 || n < 0 != (want == 0xff) {
			return 0, errors.New("number is too large")
		}
		return n, nil
	}
	s := strings.Trim(tarString(b), " ")
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 8, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is no octal number", s)
	}
	return int64(n), nil
}

// tarExtended is what extended headers say about the entry after them.
type tarExtended struct {
	name     string // "" when not said
	size     int64
	hasSize  bool
	modified time.Time
}

func (x *tarExtended) apply(h *tarHeader) {
	if x.name != "" {
		h.name = x.name
	}
	if x.hasSize {
		h.size = x.size
	}
	if !x.modified.IsZero() {
		h.modified = x.modified
	}
}

// extended reads the data of an extended header.
func (s *tarScanner) extended(typ byte, h *tarHeader, x *tarExtended) error {
	if h.size > maxTarExtended {
		return fmt.Errorf("extended header of %d bytes is too long", h.size)
	}
	data := make([]byte, h.size)
	if _, err := s.r.ReadAt(data, h.off); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read extended header: %w", err)
	}
	if typ == 'L' {
		name, ok := bytes.CutSuffix(data, []byte{0})
		if !ok || bytes.IndexByte(name, 0) >= 0 {
			return errors.New("long name does not end in one zero byte")
		}
		x.name = string(name)
		return nil
	}
	return s.pax(data, typ == 'g', x)
}

// pax reads records of the form "<length> <keyword>=<value>\n".
func (s *tarScanner) pax(data []byte, global bool, x *tarExtended) error {
	for len(data) > 0 {
		digits, _, ok := bytes.Cut(data[:min(len(data), 20)], []byte{' '})
		n, err := strconv.Atoi(string(digits))
		if !ok || err != nil || n <= len(digits)+1 || n > len(data) || data[n-1] != '\n' ||
			strconv.Itoa(n) != string(digits) {
			return errors.New("extended header is damaged")
		}
		keyword, value, ok := strings.Cut(string(data[len(digits)+1:n-1]), "=")
		data = data[n:]
		if !ok || keyword == "" {
			return errors.New("extended header is damaged")
		}
		if err := s.paxRecord(keyword, value, global, x); err != nil {
			return err
		}
	}
	return nil
}

func (s *tarScanner) paxRecord(keyword, value string, global bool, x *tarExtended) error {
	switch {
	case strings.HasPrefix(keyword, "GNU.sparse."):
		return errors.New("sparse files are not allowed: write the archive without --sparse")
	case global && (keyword == "path" || keyword == "size"):
		return fmt.Errorf("%s for all entries is not allowed", keyword)
	case keyword == "path":
		if value == "" || strings.ContainsRune(value, 0) {
			return errors.New("extended header has a bad path")
		}
		x.name = value
	case keyword == "size":
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < 0 || strconv.FormatInt(n, 10) != value {
			return fmt.Errorf("extended header has a bad size %.30q", value)
		}
		x.size, x.hasSize = n, true
	case keyword == "mtime":
		t, err := strconv.ParseFloat(value, 64)
		if err != nil || math.Abs(t) > 1e12 || strings.Trim(value, "0123456789.-") != "" {
			return fmt.Errorf("extended header has a bad time %.30q", value)
		}
		if !global {
			x.modified = time.UnixMicro(int64(t * 1e6))
		}
	case strings.ContainsRune(keyword, '.'): // of a vendor: LIBARCHIVE.*, SCHILY.*
	default:
		switch keyword {
		case "atime", "ctime", "uid", "gid", "uname", "gname", "linkpath", "comment", "charset", "hdrcharset":
		default:
			if s.strict {
				return fmt.Errorf("extended header has an unknown keyword %.60q", keyword)
			}
		}
	}
	return nil
}
