package chunker

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"pcapsule/internal/pcapng"
)

// A Header says who wrote a packets chunk. It is text for people and for
// whoever finds a chunk without its manifest.
type Header struct {
	Node        string // the machine whose traffic it is
	OS          string // and its operating system
	Application string // that wrote the chunk
}

// maxName is how many bytes of an interface's name or description, and of each
// part of a Header, a chunk keeps.
const maxName = 1024

// room is what must be left of MaxSize for each interface and for the frame's
// end: an ISB is 76 bytes at most, the first and its block's size come on top.
const (
	roomInterface = 80
	roomEnd       = 1024
)

// A Writer writes one chunk, and with Reset the next. It gathers records in lz4
// blocks, so nothing but Flush and Close brings the last of them out.
//
// A Writer is not safe for concurrent use. It holds records in time order and
// refuses others; Cutter puts them in order.
type Writer struct {
	frame  frame
	stream string
	header Header

	ids        map[Interface]uint32
	interfaces []Interface // by registered number
	numbers    []int32     // registered to this chunk's number; -1 when it has none yet
	counts     []uint64    // records, by this chunk's number

	raw  []byte // of the block that is being filled
	meta Meta
	err  error
}

// NewWriter begins a chunk of stream on w. Of the header, events chunks keep
// nothing.
func NewWriter(w io.Writer, stream string, h Header) (*Writer, error) {
	switch stream {
	case Packets, OS, Kubernetes:
	default:
		return nil, fmt.Errorf("write a chunk: no stream is called %q", stream)
	}
	z := newWriter(stream, h)
	z.Reset(w)
	return z, nil
}

func newWriter(stream string, h Header) *Writer {
	w := &Writer{
		stream: stream,
		header: Header{clip(h.Node), clip(h.OS), clip(h.Application)},
		ids:    map[Interface]uint32{},
		raw:    make([]byte, 0, BlockSize),
	}
	w.frame.packets = stream == Packets
	return w
}

// clip makes s what a chunk can hold: UTF-8 of at most maxName bytes.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxName {
		return s
	}
	n := maxName
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Reset begins the next chunk on out. Interfaces keep their numbers, and the
// writer its buffers.
func (w *Writer) Reset(out io.Writer) {
	w.frame.start(out)
	w.meta = Meta{Stream: w.stream}
	w.raw = w.raw[:0]
	w.counts = w.counts[:0]
	for i := range w.numbers {
		w.numbers[i] = -1
	}
	w.err = nil
	if w.stream == Packets {
		w.raw = appendHeader(w.raw, w.header)
	}
}

// nodeKey opens the section's comment, which names the node.
const nodeKey = "node="

func appendHeader(dst []byte, h Header) []byte {
	s := pcapng.SectionHeader{OS: h.OS, Application: h.Application}
	if h.Node != "" {
		s.Comment = nodeKey + h.Node
	}
	return pcapng.AppendSectionHeader(dst, s)
}

// Interface numbers an interface for Record.Interface. The same one has the same
// number always. Its strings are kept as valid UTF-8 of at most 1024 bytes each.
// A chunk describes an interface only if it has a record of it.
func (w *Writer) Interface(i Interface) uint32 {
	i.Name, i.Description = clip(i.Name), clip(i.Description)
	id, ok := w.ids[i]
	if !ok {
		id = w.addInterface(i)
		w.ids[i] = id
	}
	return id
}

// addInterface registers i under the next number.
func (w *Writer) addInterface(i Interface) uint32 {
	w.interfaces = append(w.interfaces, i)
	w.numbers = append(w.numbers, -1)
	return uint32(len(w.interfaces) - 1)
}

// SetStored makes the writer store blocks uncompressed, which is several times
// as fast, or compress them again.
func (w *Writer) SetStored(stored bool) { w.frame.stored = stored }

// Size is the number of bytes stored so far. Records of the block that is being
// filled do not count yet.
func (w *Writer) Size() int64 { return w.frame.size }

// Record adds a packet. It fails with ErrTooLong or ErrOrder for a record that
// can not be in this chunk, with ErrFull when the chunk is, and changes nothing
// then. Any other error is the underlying writer's, and sticks.
func (w *Writer) Record(r *Record) error {
	if err := w.checkRecord(r); err != nil {
		return err
	}
	p := pcapng.Packet{Time: r.Time, OrigLen: r.OrigLen, Flags: r.Flags, Options: r.Options, Data: r.Data}
	n := pcapng.PacketSize(&p)
	if err := w.admit(r.Time, n); err != nil {
		return err
	}
	number, err := w.number(r.Interface)
	if err != nil {
		return err
	}
	p.Interface = number
	w.makeRoom(n)
	w.raw = pcapng.AppendPacket(w.raw, &p)
	w.splitLong()
	w.counts[number]++
	w.count(r.Time)
	return w.frame.err
}

// checkRecord tells whether r can be in any packets chunk.
func (w *Writer) checkRecord(r *Record) error {
	switch {
	case w.stream != Packets:
		return fmt.Errorf("write a packet into a chunk of stream %s: it holds events", w.stream)
	case r.Interface >= uint32(len(w.interfaces)):
		return fmt.Errorf("write a packet of interface %d: only %d are known", r.Interface, len(w.interfaces))
	case len(r.Data) > SnapLen:
		return fmt.Errorf("packet of %d bytes: %w (%d)", len(r.Data), ErrTooLong, SnapLen)
	case len(r.Options) > MaxOptions:
		return fmt.Errorf("packet options of %d bytes: %w (%d)", len(r.Options), ErrTooLong, MaxOptions)
	case r.Time < 0:
		return fmt.Errorf("packet at %d ns: %w: before 1970", r.Time, ErrOrder)
	case uint64(r.OrigLen) < uint64(len(r.Data)):
		return fmt.Errorf("packet of %d bytes: original length is %d", len(r.Data), r.OrigLen)
	}
	if len(r.Options) > 0 {
		return pcapng.CheckOptions(r.Options)
	}
	return nil
}

// admit tells whether n more bytes at time fit into the chunk, whatever they
// compress to.
func (w *Writer) admit(time int64, n int) error {
	if err := w.failed(); err != nil {
		return err
	}
	if w.meta.Records > 0 && time < w.meta.Last {
		return fmt.Errorf("record at %d ns after one at %d ns: %w", time, w.meta.Last, ErrOrder)
	}
	if w.full(n) {
		return ErrFull
	}
	return nil
}

// full tells whether n more bytes could make the chunk too large, with room for
// one more interface and for the end.
func (w *Writer) full(n int) bool {
	interfaces := int64(len(w.counts)+1) * roomInterface
	more := int64(len(w.raw)+n) + 3*maxName
	blocks := more/BlockSize + 3
	return w.frame.size+more+blocks*sizeLen+interfaces+roomEnd > MaxSize ||
		w.meta.RawSize+more+interfaces+roomEnd > MaxRawSize || len(w.counts) >= MaxInterfaces
}

func (w *Writer) failed() error {
	if w.err != nil {
		return w.err
	}
	return w.frame.err
}

// number is the number in this chunk of a registered interface. One that is new
// here is described first.
func (w *Writer) number(id uint32) (uint32, error) {
	if n := w.numbers[id]; n >= 0 {
		return uint32(n), nil
	}
	i := w.interfaces[id]
	block := pcapng.AppendInterface(nil, pcapng.Interface{
		LinkType: i.LinkType, SnapLen: SnapLen,
		Name: i.Name, Description: i.Description, TSResol: pcapng.Nanoseconds,
	})
	w.makeRoom(len(block))
	w.raw = append(w.raw, block...)
	n := uint32(len(w.counts))
	w.numbers[id] = int32(n)
	w.counts = append(w.counts, 0)
	return n, w.frame.err
}

// makeRoom ends the lz4 block unless n more bytes fit into it.
func (w *Writer) makeRoom(n int) {
	if len(w.raw)+n > BlockSize {
		w.endBlock()
	}
}

// splitLong writes what was added when it alone is longer than an lz4 block.
func (w *Writer) splitLong() {
	if len(w.raw) > BlockSize {
		w.writeBlocks(w.raw)
		w.raw = w.raw[:0]
	}
}

// writeBlocks writes b as lz4 blocks of its own.
func (w *Writer) writeBlocks(b []byte) {
	w.meta.RawSize += int64(len(b))
	for len(b) > 0 {
		n := min(len(b), BlockSize)
		w.frame.block(b[:n])
		b = b[n:]
	}
}

func (w *Writer) endBlock() {
	w.writeBlocks(w.raw)
	w.raw = w.raw[:0]
}

func (w *Writer) count(time int64) {
	if w.meta.Records == 0 {
		w.meta.First = time
	}
	w.meta.Last = time
	w.meta.Records++
}

// encoded adds records that are encoded already, at the places in buf that list
// tells and in its order, which must be that of time; packets have registered
// interface numbers, which it overwrites. It stops when the chunk is full, or
// has grown to target, and returns how many it added.
//
// Runs of neighbours are copied, or compressed where they are, as a whole.
func (w *Writer) encoded(buf []byte, list []held, target int64) (int, error) {
	if len(list) == 0 {
		return 0, w.failed()
	}
	start := int(list[0].off) // of the run that is not written yet
	end := start
	for i, h := range list {
		off, n := int(h.off), int(h.n)
		if w.full(end-start+n) || (w.frame.size >= target && w.meta.Records > 0) {
			w.copyRun(buf[start:end])
			return i, w.failed()
		}
		if off != end {
			w.copyRun(buf[start:end])
			start, end = off, off
		}
		if w.stream == Packets {
			id := buf[off+pcapng.OffsetInterface:][:4]
			number := w.numbers[binary.LittleEndian.Uint32(id)]
			if number < 0 {
				w.copyRun(buf[start:end])
				start = off
				n, err := w.number(binary.LittleEndian.Uint32(id))
				if err != nil {
					return i, err
				}
				number = int32(n)
			}
			binary.LittleEndian.PutUint32(id, uint32(number))
			w.counts[number]++
		}
		if len(w.raw)+off+n-start > BlockSize {
			w.endRun(buf[start:off])
			start = off
			if n > BlockSize {
				w.writeBlocks(buf[off : off+n])
				start = off + n
			}
		}
		end = off + n
		w.count(h.time)
	}
	w.copyRun(buf[start:end])
	return len(list), w.failed()
}

// copyRun adds run, which fits, to the lz4 block.
func (w *Writer) copyRun(run []byte) { w.raw = append(w.raw, run...) }

// endRun adds run, which fits, to the lz4 block, and ends it.
func (w *Writer) endRun(run []byte) {
	if len(w.raw) == 0 {
		w.writeBlocks(run)
		return
	}
	w.copyRun(run)
	w.endBlock()
}

// Flush ends the lz4 block and hands everything to the underlying writer: a
// chunk that is torn after it can be recovered up to here.
func (w *Writer) Flush() error {
	if err := w.failed(); err != nil {
		return err
	}
	w.endBlock()
	w.frame.drain()
	return w.frame.err
}

// Close ends the chunk, in which drops packets or events were lost before they
// could be recorded, and returns all that is known of it. It does not close the
// underlying writer. A chunk has at least one record.
func (w *Writer) Close(drops uint64) (Meta, error) {
	if err := w.failed(); err != nil {
		return Meta{}, err
	}
	w.err = fmt.Errorf("chunk is closed")
	if w.meta.Records == 0 {
		return Meta{}, fmt.Errorf("close a chunk: it has no records")
	}
	w.meta.Drops = drops
	w.endBlock()
	if w.stream == Packets {
		w.statistics()
	} else if drops > 0 {
		w.raw = appendLost(w.raw, w.meta.Last, drops)
	}
	w.endBlock()
	var err error
	w.meta.Hash, w.meta.Size, err = w.frame.finish()
	return w.meta, err
}

// statistics adds the ISB of each interface.
func (w *Writer) statistics() {
	for i := range w.counts {
		s := pcapng.Statistics{
			Interface: uint32(i), Time: w.meta.Last,
			Start: &w.meta.First, End: &w.meta.Last, Received: &w.counts[i],
		}
		if i == 0 {
			s.OSDrop = &w.meta.Drops
		}
		w.makeRoom(roomInterface)
		w.raw = pcapng.AppendStatistics(w.raw, &s)
	}
}
