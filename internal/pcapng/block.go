// Package pcapng encodes and decodes the blocks of pcapng, the capture format of
// draft-ietf-opsawg-pcapng, in little-endian byte order.
//
// The Append functions write whole blocks and allocate nothing when the
// destination has room. The Parse functions read one whole block, are strict
// (every length is checked, a block that is not well formed is ErrMalformed) and
// alias its bytes where they say so.
//
// The package does no I/O, keeps no state between blocks and knows nothing of
// interfaces' time resolutions: what it calls ticks is what stands in the block.
// pcapsule writes nanoseconds everywhere (TSResol 9), so that its ticks are
// nanoseconds since the Unix epoch. Foreign files, in either byte order, are
// read by package capfile.
package pcapng

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Types of blocks.
const (
	BlockSHB     = 0x0A0D0D0A // section header
	BlockIDB     = 1          // interface description
	BlockOPB     = 2          // packet, obsolete
	BlockSPB     = 3          // simple packet
	BlockNRB     = 4          // name resolution
	BlockISB     = 5          // interface statistics
	BlockEPB     = 6          // enhanced packet
	BlockJournal = 9          // systemd journal export
	BlockDSB     = 10         // decryption secrets
	BlockCustom  = 0x0BAD     // custom, may be copied
	BlockPrivate = 0x40000BAD // custom, must not be copied
)

// Magic is the byte-order magic of a section header, as read in the section's
// own byte order.
const Magic = 0x1A2B3C4D

// Nanoseconds is the TSResol of ticks of 10^-9 seconds.
const Nanoseconds = 9

// ErrMalformed is wrapped by the error for every block that is not well formed.
var ErrMalformed = errors.New("malformed pcapng block")

// overhead is what each block spends on its type and its two total lengths.
const overhead = 12

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

// Header reads the type and the total length of the block that b starts with. It
// needs 8 bytes. The length is at least 12 and a multiple of 4; nothing else is
// known of it, so callers limit it before they allocate.
func Header(b []byte) (typ, total uint32, err error) {
	if len(b) < 8 {
		return 0, 0, malformed("%d bytes are no block header", len(b))
	}
	typ, total = binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	if total < overhead || total%4 != 0 {
		return 0, 0, malformed("total length %d of block type %#x", total, typ)
	}
	return typ, total, nil
}

// body checks that block is one whole block of type want, and returns what is
// between its lengths, of at least fixed bytes.
func body(block []byte, want uint32, fixed int) ([]byte, error) {
	typ, total, err := Header(block)
	if err != nil {
		return nil, err
	}
	if typ != want {
		return nil, malformed("type %#x, want %#x", typ, want)
	}
	if uint64(total) != uint64(len(block)) {
		return nil, malformed("total length %d of a block of %d bytes", total, len(block))
	}
	if tail := binary.LittleEndian.Uint32(block[len(block)-4:]); tail != total {
		return nil, malformed("total lengths %d and %d differ", total, tail)
	}
	if len(block) < overhead+fixed {
		return nil, malformed("total length %d of block type %#x", total, typ)
	}
	return block[8 : len(block)-4], nil
}

// begin appends a block's type and room for its total length.
func begin(dst []byte, typ uint32) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, typ)
	return binary.LittleEndian.AppendUint32(dst, 0)
}

// finish completes the block that began at offset start.
func finish(dst []byte, start int) []byte {
	total := uint32(len(dst) - start + 4)
	binary.LittleEndian.PutUint32(dst[start+4:], total)
	return binary.LittleEndian.AppendUint32(dst, total)
}
