package chunker

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"
)

// Fixed marks a source whose bytes nobody else can change. What Open reads of any
// other source is checked again when a Reader reads it for the second time.
type Fixed interface {
	io.ReaderAt
	Fixed()
}

// pageSize is what a verified source is checked by. It costs sixteen bytes of
// memory a page, 32 KiB for the largest chunk, and each read is of whole pages.
const pageSize = 8 << 10

// A pageTag is a keyed hash of a page.
type pageTag struct{ hi, lo uint64 }

// pageKey is this process's, and secret.
var pageKey = sync.OnceValue(func() *[pageSize / 8]uint64 {
	var b [pageSize]byte
	_, _ = rand.Read(b[:]) // never fails
	var key [pageSize / 8]uint64
	for i := range key {
		key[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return &key
})

// tagPage computes the NH hash of UMAC (RFC 4418), with words of 64 bits: whoever
// does not know the key makes other bytes of the same length have the same tag
// with a chance of 2^-64, and nobody is told a tag. It is several times as fast as
// a hash that has to hold without a secret.
func tagPage(b []byte) (t pageTag) {
	key := pageKey()
	var u pageTag // a second sum, so that neither waits for the other
	le, at := binary.LittleEndian, 0
	for ; len(b) >= 64 && at+8 <= len(key); at += 8 {
		p, k := (*[64]byte)(b), (*[8]uint64)(key[at:at+8])
		t.add(le.Uint64(p[0:8])+k[0], le.Uint64(p[8:16])+k[1])
		u.add(le.Uint64(p[16:24])+k[2], le.Uint64(p[24:32])+k[3])
		t.add(le.Uint64(p[32:40])+k[4], le.Uint64(p[40:48])+k[5])
		u.add(le.Uint64(p[48:56])+k[6], le.Uint64(p[56:64])+k[7])
		b = b[64:]
	}
	for ; len(b) > 0 && at+2 <= len(key); at += 2 { // the last of the last page
		var p [16]byte
		b = b[copy(p[:], b):]
		t.add(le.Uint64(p[:8])+key[at], le.Uint64(p[8:])+key[at+1])
	}
	var carry uint64
	t.lo, carry = bits.Add64(t.lo, u.lo, 0)
	t.hi, _ = bits.Add64(t.hi, u.hi, carry)
	return t
}

// add adds the product of two words.
func (t *pageTag) add(x, y uint64) {
	hi, lo := bits.Mul64(x, y)
	var carry uint64
	t.lo, carry = bits.Add64(t.lo, lo, 0)
	t.hi, _ = bits.Add64(t.hi, hi, carry)
}

// A verified source gives out the bytes that were hashed when it was made, or
// ErrDamaged.
type verified struct {
	src  io.ReaderAt
	size int64
	tags []pageTag
}

// verify reads all size bytes of src, checks that they have the address want, and
// returns a source of exactly these bytes.
func verify(src io.ReaderAt, size int64, want Hash) (io.ReaderAt, error) {
	switch src.(type) {
	case Fixed, *bytes.Reader:
		return src, VerifyHash(io.NewSectionReader(src, 0, size), size, want)
	}
	if size < 0 || size > MaxSize {
		return nil, damaged("%d bytes, and a chunk has %d at most", size, MaxSize)
	}
	v := &verified{src: src, size: size, tags: make([]pageTag, 0, (size+pageSize-1)/pageSize)}
	buf := pageBuffers.Get().(*pageBuffer)
	defer pageBuffers.Put(buf)
	hasher := verifiers.Get().(*verifier)
	defer verifiers.Put(hasher)
	hash := hasher.hash
	hash.Reset()
	for off := int64(0); off < size; {
		b := buf[:min(int64(len(buf)), size-off)]
		if n, err := src.ReadAt(b, off); n < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				return nil, damaged("it ends after %d of %d bytes", off+int64(n), size)
			}
			return nil, fmt.Errorf("read chunk: %w", err)
		}
		_, _ = hash.Write(b) // never fails
		off += int64(len(b))
		for len(b) > 0 {
			page := b[:min(len(b), pageSize)]
			v.tags = append(v.tags, tagPage(page))
			b = b[len(page):]
		}
	}
	var got Hash
	hash.Sum(got[:0])
	if got != want {
		return nil, damaged("the address of its bytes is %s, not %s", got, want)
	}
	return v, nil
}

// A pageBuffer holds the pages of a block, wherever it begins, and its successor's
// size.
type pageBuffer [(BlockSize/pageSize + 2) * pageSize]byte

var pageBuffers = sync.Pool{New: func() any { return new(pageBuffer) }}

// ReadAt reads whole pages, and gives out nothing of one that has changed.
func (v *verified) ReadAt(b []byte, off int64) (n int, err error) {
	buf := pageBuffers.Get().(*pageBuffer)
	defer pageBuffers.Put(buf)
	for n < len(b) {
		at := off + int64(n)
		if at < 0 || at >= v.size {
			return n, io.EOF
		}
		first := at / pageSize
		begin := first * pageSize
		end := min((at+int64(len(b)-n)+pageSize-1)/pageSize*pageSize, begin+int64(len(buf)), v.size)
		pages := buf[:end-begin]
		if m, err := v.src.ReadAt(pages, begin); m < len(pages) {
			if err == nil || errors.Is(err, io.EOF) {
				err = damaged("it ended after %d of %d bytes when it was read again", begin+int64(m), v.size)
			}
			return n, err
		}
		for rest := pages; len(rest) > 0; first++ {
			page := rest[:min(len(rest), pageSize)]
			if tagPage(page) != v.tags[first] {
				return n, damaged("it was changed while it was read")
			}
			rest = rest[len(page):]
		}
		n += copy(b[n:], pages[at-begin:])
	}
	return n, nil
}
