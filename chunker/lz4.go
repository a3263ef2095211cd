package chunker

import (
	"encoding/binary"
	"math/bits"

	"pcapsule/internal/pcapng"
)

// A compressor makes lz4 blocks of pcapng blocks, twice as fast as one that does
// not know what it compresses.
//
// Most bytes of a packet's headers are those of an earlier packet of the same
// two hosts and of the same length, at the same place. So the compressor walks
// the pcapng blocks, looks up the last one that is like the next, and compares
// the two, 64 bytes at a time: every run of equal bytes becomes a match. Only
// where nothing is equal any more, in the payload, it searches as others do, by
// a hash of the bytes ahead, in steps that grow while nothing is found.
//
// What it makes depends on src alone.
type compressor struct {
	alike [1 << alikeBits]uint16 // position of a pcapng block, by its length and hosts
	sized [1 << sizedBits]uint16 // the same, by its length
	words [1 << wordBits]uint16  // position of any six bytes, by their hash

	// Of the block in the making.
	src, dst []byte
	anchor   int // src[:anchor] is compressed
	out      int // into dst[:out]
}

const (
	alikeBits = 11
	sizedBits = 7
	wordBits  = 13

	// hosts is where an IPv4 packet in Ethernet has its two addresses, and other
	// packets something that is as good.
	hosts = pcapng.OffsetData + 14 + 12

	// margin is left uncompressed at the end of src, so that no read goes over it.
	// lz4 wants the last match to begin 12 bytes before the end, and to end 5.
	margin = 80
	stop   = 5

	minMatch = 4

	// worthSearch is how many bytes without an equal in an earlier block must be
	// left of a block for a search in them to pay.
	worthSearch = 64

	skipLog = 6 // after 64 bytes without a match, every second position is tried
)

// compress compresses src, of at most BlockSize bytes, into dst. It returns the
// block's length, or 0 when dst is too short for it. When packets is set, src
// holds whole pcapng blocks; if it does not, it is compressed less well.
func (c *compressor) compress(dst, src []byte, packets bool) int {
	c.src, c.dst, c.anchor, c.out = src, dst, 0, 0
	c.words = [1 << wordBits]uint16{}
	limit := len(src) - margin
	ok := true
	if packets {
		c.alike = [1 << alikeBits]uint16{}
		c.sized = [1 << sizedBits]uint16{}
		for p := 0; p < limit && ok; {
			n := int(binary.LittleEndian.Uint32(src[p+4:]))
			if n < pcapng.OffsetData || n > len(src)-p {
				n = len(src) - p
			}
			like := c.like(p, n)
			next := p + n
			si := max(p, c.anchor)
			if like > 0 {
				si, ok = c.compare(si, min(next, limit), p-like)
			}
			if ok && next-si > worthSearch {
				ok = c.search(si, min(next, limit))
			}
			p = next
		}
	} else {
		ok = c.search(0, limit)
	}
	if !ok {
		return 0
	}
	return c.last()
}

// like returns the position of an earlier pcapng block that should have much in
// common with that at p, of n bytes; 0 when there is none.
func (c *compressor) like(p, n int) int {
	h := (binary.LittleEndian.Uint64(c.src[p+hosts:]) ^ uint64(n)<<3) * 0x9E3779B97F4A7C15 >> (64 - alikeBits)
	s := n / 4 % len(c.sized)
	like := int(c.alike[h])
	if like == 0 {
		like = int(c.sized[s])
	}
	c.alike[h] = uint16(p)
	c.sized[s] = uint16(p)
	return like
}

// compare matches src from si to end with what is off bytes before. It returns
// the position from which on they have nothing in common.
func (c *compressor) compare(si, end, off int) (int, bool) {
	src, dst, di, anchor := c.src, c.dst, c.out, c.anchor
	for si < end {
		equal := equalBytes((*[64]byte)(src[si:]), (*[64]byte)(src[si-off:]))
		runs := equal & (equal >> 1)
		runs &= runs >> 2 // a bit for each place at which minMatch bytes are equal
		if runs == 0 {
			break
		}
		next := si + 64 - minMatch + 1
		for runs != 0 {
			from := bits.TrailingZeros64(runs)
			to := from + bits.TrailingZeros64(^(equal >> from))
			start, stop := si+from, si+to
			if start >= end {
				c.out, c.anchor = di, anchor
				return end, true
			}
			if to == 64 {
				stop = matchEnd(src, stop, off)
			}
			// As sequence does, with all in registers, for what is most frequent.
			literals, match := start-anchor, stop-start-minMatch
			if literals < 15 && match < 15+255 && di+20 <= len(dst) {
				d := dst[di : di+20]
				*(*[16]byte)(d[1:]) = *(*[16]byte)(src[anchor:])
				binary.LittleEndian.PutUint16(d[1+literals:], uint16(off))
				if match < 15 {
					d[0] = byte(literals<<4 | match)
					di += literals + 3
				} else {
					d[0] = byte(literals<<4 | 15)
					d[3+literals] = byte(match - 15)
					di += literals + 4
				}
			} else {
				c.out, c.anchor = di, anchor
				if !c.sequence(start, stop, off) {
					return 0, false
				}
				di = c.out
			}
			anchor = stop
			next = max(next, stop)
			runs = runs >> to << to
		}
		si = next
	}
	c.out, c.anchor = di, anchor
	return si, true
}

// equalBytes has a bit for each byte that is the same in a and b.
func equalBytes(a, b *[64]byte) uint64 {
	le := binary.LittleEndian
	return zeroBytes(le.Uint64(a[0:])^le.Uint64(b[0:])) |
		zeroBytes(le.Uint64(a[8:])^le.Uint64(b[8:]))<<8 |
		zeroBytes(le.Uint64(a[16:])^le.Uint64(b[16:]))<<16 |
		zeroBytes(le.Uint64(a[24:])^le.Uint64(b[24:]))<<24 |
		zeroBytes(le.Uint64(a[32:])^le.Uint64(b[32:]))<<32 |
		zeroBytes(le.Uint64(a[40:])^le.Uint64(b[40:]))<<40 |
		zeroBytes(le.Uint64(a[48:])^le.Uint64(b[48:]))<<48 |
		zeroBytes(le.Uint64(a[56:])^le.Uint64(b[56:]))<<56
}

// zeroBytes has a bit for each byte of x that is 0.
func zeroBytes(x uint64) uint64 {
	const low = 0x7f7f7f7f7f7f7f7f
	zero := ^((x&low + low) | x | low) // the high bit of each
	return (zero >> 7) * 0x0102040810204080 >> 56
}

// search matches src from si to end with anything before.
func (c *compressor) search(si, end int) bool {
	src := c.src
	for si < end {
		v := binary.LittleEndian.Uint64(src[si:])
		h := wordHash(v)
		ref := int(c.words[h])
		c.words[h] = uint16(si)
		if ref >= si || binary.LittleEndian.Uint32(src[ref:]) != uint32(v) {
			si += 1 + (si-c.anchor)>>skipLog
			continue
		}
		off := si - ref
		stop := matchEnd(src, si+minMatch, off)
		for si > c.anchor && ref > 0 && src[si-1] == src[ref-1] {
			si--
			ref--
		}
		if !c.sequence(si, stop, off) {
			return false
		}
		if si = stop; si < end {
			c.words[wordHash(binary.LittleEndian.Uint64(src[si-2:]))] = uint16(si - 2)
		}
	}
	return true
}

func wordHash(v uint64) uint64 { return v << 16 * 227718039650203 >> (64 - wordBits) }

// matchEnd returns where src, from m on, no longer equals what is off bytes
// before.
func matchEnd(src []byte, m, off int) int {
	for m+8 <= len(src)-stop {
		if x := binary.LittleEndian.Uint64(src[m:]) ^ binary.LittleEndian.Uint64(src[m-off:]); x != 0 {
			return m + bits.TrailingZeros64(x)>>3
		}
		m += 8
	}
	return m
}

// sequence writes the literals up to start and the match from there to end. It
// tells whether dst had room for them.
func (c *compressor) sequence(start, end, off int) bool {
	literals, match := start-c.anchor, end-start-minMatch
	dst, di := c.dst, c.out
	if di+literals+literals/255+match/255+24 > len(dst) {
		return false
	}
	token := di
	di++
	if literals < 15 {
		dst[token] = byte(literals << 4)
		*(*[16]byte)(dst[di:]) = *(*[16]byte)(c.src[c.anchor:])
	} else {
		dst[token] = 15 << 4
		di = appendLength(dst, di, literals-15)
		copy(dst[di:], c.src[c.anchor:start])
	}
	di += literals
	binary.LittleEndian.PutUint16(dst[di:], uint16(off))
	di += 2
	if match < 15 {
		dst[token] |= byte(match)
	} else {
		dst[token] |= 15
		di = appendLength(dst, di, match-15)
	}
	c.anchor, c.out = end, di
	return true
}

// last writes what is left as literals, and returns the block's length, or 0.
func (c *compressor) last() int {
	rest := c.src[c.anchor:]
	dst, di := c.dst, c.out
	if di+len(rest)+len(rest)/255+2 > len(dst) {
		return 0
	}
	token := di
	di++
	if len(rest) < 15 {
		dst[token] = byte(len(rest) << 4)
	} else {
		dst[token] = 15 << 4
		di = appendLength(dst, di, len(rest)-15)
	}
	return di + copy(dst[di:], rest)
}

// appendLength writes what of a length exceeds the token's 15.
func appendLength(dst []byte, di, n int) int {
	for ; n >= 255; n -= 255 {
		dst[di] = 255
		di++
	}
	dst[di] = byte(n)
	return di + 1
}
