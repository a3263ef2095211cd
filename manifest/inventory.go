package manifest

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"pcapsule/chunker"
)

// Lengths of an inventory's line with its newline, in bytes: minLine is one with
// every number at one digit; maxLine leaves room for the longest.
const (
	minLine = 239
	maxLine = 512
)

// Compare is the order of entries in an inventory.
func (e Entry) Compare(o Entry) int {
	return cmp.Or(cmp.Compare(e.First, o.First), cmp.Compare(e.Last, o.Last), strings.Compare(e.Key, o.Key))
}

// Validate checks what one entry can show to be wrong by itself.
func (e Entry) Validate() error {
	_, err := e.validate()
	return err
}

// validate returns the chunk's hash as well.
func (e Entry) validate() (chunker.Hash, error) {
	k, err := ParseObjectKey(e.Key)
	if err == nil && k.Kind != KindChunk {
		err = fmt.Errorf("%s is not a chunk", e.Key)
	}
	if err == nil {
		err = e.validateNumbers()
	}
	return k.Hash, err
}

func (e Entry) validateNumbers() error {
	if e.Size == 0 {
		return fmt.Errorf("%s: no bytes", e.Key)
	}
	if err := e.totals().validate(); err != nil {
		return fmt.Errorf("%s: %w", e.Key, err)
	}
	if e.Records == 0 {
		return fmt.Errorf("%s: no records", e.Key)
	}
	if _, err := chunker.ParseHash(e.SHA256); err != nil {
		return fmt.Errorf("%s: sha256: %w", e.Key, err)
	}
	if e.First < 0 || e.First > e.Last {
		return fmt.Errorf("%s: first record at %d, last at %d", e.Key, e.First, e.Last)
	}
	return nil
}

// Describes holds an entry against what its chunk turned out to be when it was
// read to its end.
func (e Entry) Describes(m chunker.Meta) error {
	if m.Size == e.Size && m.RawSize == e.RawSize && m.Records == e.Records && m.Drops == e.Drops &&
		Nanos(m.First) == e.First && Nanos(m.Last) == e.Last {
		return nil
	}
	return fmt.Errorf("it has %d raw bytes and %d records from %d to %d, %d dropped; the inventory says %d, %d, %d to %d, %d",
		m.RawSize, m.Records, m.First, m.Last, m.Drops, e.RawSize, e.Records, e.First, e.Last, e.Drops)
}

func (e Entry) totals() Totals {
	return Totals{Chunks: 1, Size: e.Size, RawSize: e.RawSize, Records: e.Records, Drops: e.Drops}
}

// AppendEntry appends e as a line of an inventory, with its newline.
func AppendEntry(dst []byte, e Entry) []byte {
	dst = append(append(dst, `{"key":"`...), e.Key...)
	dst = strconv.AppendInt(append(dst, `","size":`...), e.Size, 10)
	dst = strconv.AppendInt(append(dst, `,"raw_size":`...), e.RawSize, 10)
	dst = append(append(dst, `,"sha256":"`...), e.SHA256...)
	dst = strconv.AppendInt(append(dst, `","first":"`...), int64(e.First), 10)
	dst = strconv.AppendInt(append(dst, `","last":"`...), int64(e.Last), 10)
	dst = strconv.AppendUint(append(dst, `","records":`...), e.Records, 10)
	dst = strconv.AppendUint(append(dst, `,"drops":`...), e.Drops, 10)
	return append(dst, "}\n"...)
}

// parseEntry reads a line, without its newline, as AppendEntry writes it.
func parseEntry(line []byte) (Entry, chunker.Hash, error) {
	var e Entry
	p := lineParser{rest: line}
	e.Key = p.text(`{"key":"`)
	e.Size = p.signed(`","size":`)
	e.RawSize = p.signed(`,"raw_size":`)
	e.SHA256 = p.text(`,"sha256":"`)
	e.First = Nanos(p.signed(`","first":"`))
	e.Last = Nanos(p.signed(`","last":"`))
	e.Records = p.unsigned(`","records":`)
	e.Drops = p.unsigned(`,"drops":`)
	if p.literal("}"); p.bad || len(p.rest) > 0 {
		return Entry{}, chunker.Hash{}, fmt.Errorf("line %.80q… is not in the canonical form", line)
	}
	hash, err := e.validate()
	return e, hash, err
}

// A lineParser takes a line apart from the left. Once bad it stays bad.
type lineParser struct {
	rest []byte
	bad  bool
}

func (p *lineParser) literal(s string) {
	if len(p.rest) < len(s) || string(p.rest[:len(s)]) != s {
		p.bad = true
		return
	}
	p.rest = p.rest[len(s):]
}

// text takes what stands between prefix and the next quote, which it leaves.
func (p *lineParser) text(prefix string) string {
	p.literal(prefix)
	i := bytes.IndexByte(p.rest, '"')
	if i < 0 || bytes.IndexByte(p.rest[:i], '\\') >= 0 {
		p.bad = true
		return ""
	}
	s := string(p.rest[:i])
	p.rest = p.rest[i:]
	return s
}

// digits takes a decimal without leading zeros; minus tells whether one may be
// before it, which 0 never has.
func (p *lineParser) digits(prefix string, minus bool) []byte {
	p.literal(prefix)
	n := 0
	if minus && len(p.rest) > 0 && p.rest[0] == '-' {
		n++
	}
	first := n
	for n < len(p.rest) && p.rest[n] >= '0' && p.rest[n] <= '9' {
		n++
	}
	if n == first || p.rest[first] == '0' && n > 1 {
		p.bad = true
		return nil
	}
	s := p.rest[:n]
	p.rest = p.rest[n:]
	return s
}

func (p *lineParser) signed(prefix string) int64 {
	v, err := strconv.ParseInt(string(p.digits(prefix, true)), 10, 64)
	p.bad = p.bad || err != nil
	return v
}

func (p *lineParser) unsigned(prefix string) uint64 {
	v, err := strconv.ParseUint(string(p.digits(prefix, false)), 10, 64)
	p.bad = p.bad || err != nil
	return v
}

// EncodeInventory writes an inventory in its one canonical form. It sorts
// entries in place and leaves out an entry that is there twice. The entries
// must be valid.
func EncodeInventory(entries []Entry) []byte {
	slices.SortFunc(entries, Entry.Compare)
	b := make([]byte, 0, len(entries)*320)
	for i, e := range entries {
		if i == 0 || e != entries[i-1] {
			b = AppendEntry(b, e)
		}
	}
	return b
}

// DecodeInventory reads what EncodeInventory wrote, and nothing else: one form,
// in order, no chunk twice.
func DecodeInventory(b []byte) ([]Entry, error) {
	if len(b) > MaxInventory {
		return nil, fmt.Errorf("decode inventory: %d bytes, at most %d", len(b), MaxInventory)
	}
	entries := make([]Entry, 0, len(b)/minLine)
	r := NewInventoryReader(bytes.NewReader(b))
	for {
		e, err := r.Next()
		if err == io.EOF {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
}

// An InventoryReader reads an inventory entry by entry. It checks each as
// DecodeInventory does; the inventory's hash is the caller's to check.
type InventoryReader struct {
	r    *bufio.Reader
	line int
	last Entry
	seen map[chunker.Hash]struct{}
	err  error
}

// NewInventoryReader reads from r, which the caller has limited in size.
func NewInventoryReader(r io.Reader) *InventoryReader {
	return &InventoryReader{r: bufio.NewReaderSize(r, 64<<10), seen: map[chunker.Hash]struct{}{}}
}

// Next returns the next entry, io.EOF after the last. Errors are final.
func (r *InventoryReader) Next() (Entry, error) {
	if r.err != nil {
		return Entry{}, r.err
	}
	e, err := r.next()
	if err != nil && err != io.EOF {
		err = fmt.Errorf("decode inventory: line %d: %w", r.line+1, err)
	}
	r.line, r.last, r.err = r.line+1, e, err
	return e, err
}

func (r *InventoryReader) next() (Entry, error) {
	line, err := r.r.ReadSlice('\n')
	switch {
	case err == io.EOF && len(line) == 0:
		return Entry{}, io.EOF
	case err == io.EOF:
		return Entry{}, errors.New("the last line has no end")
	case err == bufio.ErrBufferFull || len(line) > maxLine:
		return Entry{}, fmt.Errorf("longer than %d bytes", maxLine)
	case err != nil:
		return Entry{}, err
	}
	e, hash, err := parseEntry(line[:len(line)-1])
	if err != nil {
		return Entry{}, err
	}
	if r.line > 0 && r.last.Compare(e) >= 0 {
		return Entry{}, fmt.Errorf("%s is twice or out of order", e.Key)
	}
	if _, ok := r.seen[hash]; ok {
		return Entry{}, fmt.Errorf("%s: the same chunk is listed before", e.Key)
	}
	r.seen[hash] = struct{}{}
	return e, nil
}

// SumInventory sums up entries as a Stream, in which Inventory and InventorySize
// are left to be filled in.
func SumInventory(stream string, entries []Entry) Stream {
	s := Stream{Stream: stream}
	for _, e := range entries {
		s.Count(e)
	}
	return s
}

// Count adds one more chunk to a sum.
func (s *Stream) Count(e Entry) {
	if s.Chunks == 0 || e.First < s.First {
		s.First = e.First
	}
	if s.Chunks == 0 || e.Last > s.Last {
		s.Last = e.Last
	}
	s.Totals = s.Totals.Add(e.totals())
}
