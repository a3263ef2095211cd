package chunker

import (
	"encoding/binary"
	"io"

	"github.com/zeebo/blake3"
)

// The frame around every chunk, of the LZ4 frame format 1.6: version 1, blocks
// independent and of at most 64 KiB, no checksums, no content size, no
// dictionary. Its header is therefore always the same.
const (
	frameHeader = "\x04\x22\x4d\x18\x60\x40\x82"
	frameEnd    = "\x00\x00\x00\x00"
	storedFlag  = 1 << 31 // in a block's size: its bytes are not compressed
	sizeLen     = 4       // bytes of a block's size
)

const (
	// outSize is how much gathers before it is hashed and written. It holds
	// several blocks, and stays in the second-level cache.
	outSize = 256 << 10

	// A block is kept compressed when that saves at least a 1/minSaving of it;
	// less is not worth decompressing.
	minSaving = 32

	// maxSkip is how many blocks are stored untried, at most, when compression
	// does not pay.
	maxSkip = 15
)

// A frame writes one lz4 frame, and hashes what it writes. Errors stick.
type frame struct {
	dst     io.Writer
	hash    *blake3.Hasher
	out     []byte // to be hashed and written
	size    int64  // bytes so far, those in out included
	lz4     compressor
	packets bool // blocks hold pcapng
	stored  bool // compress nothing
	always  bool // try every block
	poor    int  // blocks in a row for which compression did not pay
	skip    int  // blocks to store before compression is tried again
	err     error
}

// start begins a frame on dst.
func (f *frame) start(dst io.Writer) {
	if f.hash == nil {
		f.hash = blake3.New()
		f.out = make([]byte, 0, outSize)
	}
	f.hash.Reset()
	f.dst, f.err = dst, nil
	f.out = append(f.out[:0], frameHeader...)
	f.size = int64(len(f.out))
	f.poor, f.skip = 0, 0
}

// block writes one block of 1 to BlockSize bytes.
func (f *frame) block(raw []byte) {
	if cap(f.out)-len(f.out) < sizeLen+len(raw) {
		f.drain()
	}
	head := len(f.out)
	dst := f.out[head+sizeLen : head+sizeLen+len(raw)]
	n := f.compress(dst, raw)
	size := uint32(n)
	if n == 0 {
		n = copy(dst, raw)
		size = uint32(n) | storedFlag
	}
	f.out = f.out[:head+sizeLen+n]
	binary.LittleEndian.PutUint32(f.out[head:], size)
	f.size += int64(sizeLen + n)
}

// compress compresses raw, or returns 0 when it is to be stored. When blocks
// stop shrinking, as encrypted traffic does not shrink, it tries only a sample,
// one of two, of four, and at last one of sixteen, until one pays again. What it
// does depends on the blocks before in this frame, and on nothing else.
func (f *frame) compress(dst, raw []byte) int {
	if f.stored {
		return 0
	}
	if f.skip > 0 && !f.always {
		f.skip--
		return 0
	}
	n := f.lz4.compress(dst[:len(raw)-1-len(raw)/minSaving], raw, f.packets)
	if n > 0 {
		f.poor = 0
		return n
	}
	f.skip = min(1<<f.poor-1, maxSkip)
	f.poor = min(f.poor+1, 8)
	return 0
}

// drain hashes and writes what has gathered.
func (f *frame) drain() {
	if len(f.out) == 0 {
		return
	}
	if f.err == nil {
		_, _ = f.hash.Write(f.out) // never fails
		_, f.err = f.dst.Write(f.out)
	}
	f.out = f.out[:0]
}

// finish ends the frame.
func (f *frame) finish() (h Hash, size int64, err error) {
	if cap(f.out)-len(f.out) < len(frameEnd) {
		f.drain()
	}
	f.out = append(f.out, frameEnd...)
	f.size += int64(len(frameEnd))
	f.drain()
	f.hash.Sum(h[:0])
	return h, f.size, f.err
}
