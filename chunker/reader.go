package chunker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"

	"github.com/pierrec/lz4/v4"
	"github.com/zeebo/blake3"

	"pcapsule/internal/pcapng"
)

// maxBlock is the length of the longest pcapng block in a chunk: a packet of
// SnapLen bytes with MaxOptions bytes of options, and epb_flags and
// opt_endofopt.
const maxBlock = pcapng.OffsetData + SnapLen + MaxOptions + 8 + 4 + 4

// enough is how many bytes Next gathers before it returns a batch. Chunks of a
// quiet time have lz4 blocks of a few records each.
const enough = 32 << 10

// A Batch is some consecutive records of a chunk. Next reuses its memory.
type Batch struct {
	Buf   []byte   // EPBs back to back, or lines with their newlines, and nothing else
	Ends  []uint32 // where each record ends in Buf
	Times []int64  // of each record
}

// Len is the number of records.
func (b *Batch) Len() int { return len(b.Ends) }

// Block is record i as it stands in the chunk.
func (b *Batch) Block(i int) []byte {
	start := uint32(0)
	if i > 0 {
		start = b.Ends[i-1]
	}
	return b.Buf[start:b.Ends[i]:b.Ends[i]]
}

// Record decodes packet i into r, whose slices alias b.
func (b *Batch) Record(i int, r *Record) error {
	var p pcapng.Packet
	if err := pcapng.ParsePacket(b.Block(i), &p); err != nil {
		return err
	}
	*r = Record{Time: p.Time, Interface: p.Interface, OrigLen: p.OrigLen, Flags: p.Flags, Options: p.Options, Data: p.Data}
	return nil
}

// Event is event i, without its newline. It aliases b.
func (b *Batch) Event(i int) []byte {
	line := b.Block(i)
	return line[:len(line)-1]
}

// Statistics is what a chunk's ISB says of an interface.
type Statistics struct {
	Received uint64 // packets of it in this chunk
}

// A Reader reads one chunk and checks all that FORMAT.md demands of it. What it
// finds wrong is ErrDamaged, and other errors are those of the source.
//
// A Reader is not safe for concurrent use. It holds no memory of a chunk's size,
// and nothing that must be closed.
type Reader struct {
	src    io.ReaderAt
	size   int64
	off    int64  // of what is read next
	next   uint32 // size of the next lz4 block, as it stands in the frame
	ahead  bool   // next was read
	stream string
	torn   bool // the frame may end anywhere

	header     Header
	section    bool // the section header was read
	interfaces []Interface
	counts     []uint64 // packets read, by interface
	stats      []Statistics
	lost       bool // the last line of an events chunk was read

	meta Meta
	err  error
}

// Open checks that the size bytes of src are a chunk of stream with the address
// want: it reads all of them, before any is decompressed. What is then read for
// the second time is used only if it is what was read for the first: unless src is
// Fixed, that is checked, too.
func Open(src io.ReaderAt, size int64, want Hash, stream string) (*Reader, error) {
	src, err := verify(src, size, want)
	if err != nil {
		return nil, err
	}
	r := &Reader{src: src, size: size, stream: stream, meta: Meta{Stream: stream, Hash: want, Size: size}}
	if err := r.frameHeader(); err != nil {
		return nil, err
	}
	return r, nil
}

// VerifyHash reads r to its end and checks that it has size bytes of the address
// want, and is no larger than a chunk may be.
func VerifyHash(r io.Reader, size int64, want Hash) error {
	if size > MaxSize {
		return damaged("%d bytes, and a chunk has %d at most", size, MaxSize)
	}
	v := verifiers.Get().(*verifier)
	defer verifiers.Put(v)
	v.hash.Reset()
	n := int64(0)
	for {
		m, err := r.Read(v.buf[:])
		_, _ = v.hash.Write(v.buf[:m]) // never fails
		n += int64(m)
		if n > size {
			return damaged("it is longer than its %d bytes", size)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read chunk: %w", err)
		}
	}
	if n < size {
		return damaged("it ends after %d of %d bytes", n, size)
	}
	var got Hash
	v.hash.Sum(got[:0])
	if got != want {
		return damaged("the address of its bytes is %s, not %s", got, want)
	}
	return nil
}

type verifier struct {
	hash *blake3.Hasher
	buf  [64 << 10]byte
}

var verifiers = sync.Pool{New: func() any { return &verifier{hash: blake3.New()} }}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, args...)...)
}

// Header is what the section header says. It is there after the first Next.
func (r *Reader) Header() Header { return r.header }

// Interfaces are those described so far, by number. It grows with Next, and is
// complete for the records that were read.
func (r *Reader) Interfaces() []Interface { return r.interfaces }

// Statistics are those of the interfaces, by number, once Next returned io.EOF.
func (r *Reader) Statistics() []Statistics { return r.stats }

// Meta is what an inventory should say of the chunk, once Next returned io.EOF.
func (r *Reader) Meta() Meta { return r.meta }

// Next reads about 64 KiB of records into b, reusing its memory. It returns
// io.EOF only when the chunk was read to its end and found valid.
func (r *Reader) Next(b *Batch) error {
	b.Buf, b.Ends, b.Times = b.Buf[:0], b.Ends[:0], b.Times[:0]
	for r.err == nil && len(b.Buf) < enough {
		r.err = r.fill(b)
		if r.torn && r.err == nil && len(b.Ends) > 0 {
			return nil
		}
	}
	if r.err == nil || (errors.Is(r.err, io.EOF) && len(b.Ends) > 0) {
		return nil
	}
	b.Buf, b.Ends, b.Times = b.Buf[:0], b.Ends[:0], b.Times[:0]
	return r.err
}

// Records yields the packets of a chunk, each valid until the next. It stops at
// the first error, which it yields.
func (r *Reader) Records() iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		var b Batch
		var rec Record
		for {
			err := r.Next(&b)
			if errors.Is(err, io.EOF) {
				return
			}
			for i := 0; err == nil && i < b.Len(); i++ {
				if err = b.Record(i, &rec); err == nil && !yield(&rec, nil) {
					return
				}
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// frameHeader checks the beginning of the frame.
func (r *Reader) frameHeader() error {
	var b [len(frameHeader) + sizeLen]byte
	if err := r.read(b[:], len(frameHeader)); err != nil {
		return err
	}
	if string(b[:len(frameHeader)]) != frameHeader {
		return damaged("it does not start as a chunk does")
	}
	return nil
}

// read reads the next n bytes into b, and the size of the lz4 block after them,
// for which b has room, too: one call of the source for each lz4 block.
func (r *Reader) read(b []byte, n int) error {
	left := r.size - r.off
	if left < int64(n) {
		return damaged("its frame has no end")
	}
	b = b[:min(int64(n+sizeLen), left)]
	if m, err := r.src.ReadAt(b, r.off); m < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			return damaged("it ends after %d of %d bytes", r.off+int64(m), r.size)
		}
		return fmt.Errorf("read chunk: %w", err)
	}
	r.off += int64(len(b))
	if r.ahead = len(b) == n+sizeLen; r.ahead {
		r.next = binary.LittleEndian.Uint32(b[n:])
	}
	return nil
}

// fill appends the records of one lz4 block to b, or of as many as one long
// record takes. It returns io.EOF at the end of a valid chunk.
func (r *Reader) fill(b *Batch) error {
	at := len(b.Buf)
	buf, err := r.block(b.Buf)
	if errors.Is(err, io.EOF) {
		return r.finish()
	}
	if err != nil {
		return err
	}
	for {
		more, err := r.short(buf[at:])
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if buf, err = r.block(buf); errors.Is(err, io.EOF) {
			return damaged("it ends inside a record")
		} else if err != nil {
			return err
		}
	}
	r.meta.RawSize += int64(len(buf) - at)
	if r.meta.RawSize > MaxRawSize {
		return damaged("it decompresses to more than %d bytes", MaxRawSize)
	}
	if r.stream == Packets {
		return r.packets(b, buf, at)
	}
	return r.events(b, buf, at)
}

// storedBlocks are buffers for compressed blocks, each in use during one call.
var storedBlocks = sync.Pool{New: func() any { return new([BlockSize + sizeLen]byte) }}

// block appends what the next lz4 block holds to dst. It returns io.EOF at the
// frame's end, which is that of the chunk.
func (r *Reader) block(dst []byte) ([]byte, error) {
	if !r.ahead {
		return dst, damaged("its frame has no end")
	}
	if r.next == 0 {
		if r.off != r.size && !r.torn {
			return dst, damaged("%d bytes follow its end", r.size-r.off)
		}
		return dst, io.EOF
	}
	stored := r.next&storedFlag != 0
	n := int(r.next &^ storedFlag)
	if n == 0 || n > BlockSize {
		return dst, damaged("an lz4 block of %d bytes", n)
	}
	at := len(dst)
	dst = slices.Grow(dst, BlockSize+sizeLen)
	room := dst[at : at+BlockSize+sizeLen]
	if stored {
		return dst[:at+n], r.read(room, n)
	}
	z := storedBlocks.Get().(*[BlockSize + sizeLen]byte)
	defer storedBlocks.Put(z)
	if err := r.read(z[:], n); err != nil {
		return dst, err
	}
	m, err := lz4.UncompressBlock(z[:n], room[:BlockSize])
	if err != nil || m == 0 {
		return dst, damaged("an lz4 block that does not decompress")
	}
	return dst[:at+m], nil
}

// short tells whether buf, which begins a record, is only the first part of a
// long one. Only a record longer than an lz4 block may go on in the next.
func (r *Reader) short(buf []byte) (bool, error) {
	if r.stream != Packets {
		if buf[len(buf)-1] == '\n' {
			return false, nil
		}
		if len(buf)%BlockSize != 0 {
			return false, damaged("an event that does not end with its lz4 block")
		}
		if len(buf) > MaxEvent {
			return false, damaged("an event longer than %d bytes", MaxEvent)
		}
		return true, nil
	}
	_, total, err := pcapng.Header(buf)
	if err != nil {
		return false, wrap(err)
	}
	if total <= BlockSize || len(buf) == int(total) {
		return false, nil
	}
	if total > maxBlock {
		return false, damaged("a pcapng block of %d bytes", total)
	}
	if len(buf)%BlockSize != 0 || len(buf) > int(total) {
		return false, damaged("a long pcapng block that does not fill its lz4 blocks")
	}
	return true, nil
}

func wrap(err error) error { return fmt.Errorf("%w: %w", ErrDamaged, err) }
