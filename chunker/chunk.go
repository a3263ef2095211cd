// Package chunker is the chunk format: immutable objects that hold consecutive
// records of one stream, named by the BLAKE3-256 of their stored bytes.
//
// A packets chunk is one lz4 frame around one pcapng section; an events chunk
// is one lz4 frame of NDJSON. FORMAT.md beside this file specifies both. The
// package cuts records into chunks (Cutter), writes one chunk (Writer), and
// reads one back, verified (Reader).
//
// It knows no sockets, no environment and no wall clock: time is passed in.
// Every time is in nanoseconds since the Unix epoch, every size in bytes.
package chunker

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"
)

// Limits of the format. FORMAT.md gives the reason for each.
const (
	SnapLen       = 262144    // of every interface description, and the longest packet a chunk holds
	BlockSize     = 64 << 10  // raw bytes of one lz4 block, at most
	TargetSize    = 8 << 20   // stored bytes at which a chunk is cut
	MaxSize       = 16 << 20  // stored bytes that no chunk exceeds
	MaxRawSize    = 128 << 20 // bytes before compression that no chunk exceeds
	MaxOptions    = 64 << 10  // encoded options of one packet
	MaxEvent      = 4 << 20   // one event
	MaxInterfaces = 1 << 16   // interfaces in one chunk
)

// Streams, as they stand in manifests.
const (
	Packets    = "packets"
	OS         = "os"
	Kubernetes = "kubernetes"
)

// Extensions of stored chunks, without the leading dot.
const (
	PacketsExt = "pcapng.lz4"
	EventsExt  = "ndjson.lz4"
)

// Ext is the extension of a stream's chunks.
func Ext(stream string) string {
	if stream == Packets {
		return PacketsExt
	}
	return EventsExt
}

// ErrDamaged is wrapped by the error for everything that is not a valid chunk,
// or not the one that was asked for.
var ErrDamaged = errors.New("damaged chunk")

// ErrFull says that a record does not fit into a chunk any more, and belongs
// into the next.
var ErrFull = errors.New("chunk is full")

// ErrTooLong is wrapped by the error for a record that no chunk can hold: a
// packet longer than SnapLen, options longer than MaxOptions, an event longer
// than MaxEvent.
var ErrTooLong = errors.New("longer than a chunk can hold")

// ErrOrder is wrapped by the error for a record that is earlier than the one
// before it.
var ErrOrder = errors.New("records out of order")

// A Hash is the BLAKE3-256 of an object's stored bytes: its address.
type Hash [32]byte

// HashOf is the address of b.
func HashOf(b []byte) Hash { return blake3.Sum256(b) }

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText writes the 64 lower-case hex digits.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads what MarshalText wrote, and nothing else.
func (h *Hash) UnmarshalText(b []byte) (err error) {
	*h, err = ParseHash(string(b))
	return err
}

// ParseHash reads 64 lower-case hex digits.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) != 2*len(h) {
		return h, fmt.Errorf("address %.80q: want %d hex digits", s, 2*len(h))
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return h, fmt.Errorf("address %q: want lower-case hex digits", s)
		}
	}
	_, err := hex.Decode(h[:], []byte(s))
	return h, err
}

// An Interface is where packets were seen. Two are the same interface when they
// are equal.
type Interface struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	LinkType    uint16 `json:"link_type"` // of tcpdump.org/linktypes.html; 1 is Ethernet
}

// Packet flags: the bits of pcapng's epb_flags that pcapsule sets. Others that
// an import carries are kept.
const (
	FlagInbound          = 1
	FlagOutbound         = 2
	FlagChecksumNotReady = 1 << 9  // of a locally sent packet: not filled in yet
	FlagChecksumValid    = 1 << 10 // checked by the hardware or the kernel
)

// A Record is one packet.
type Record struct {
	Time      int64  // nanoseconds since the Unix epoch
	Interface uint32 // as Cutter.Interface or Writer.Interface numbered it
	OrigLen   uint32 // bytes on the wire; at least len(Data)
	Flags     uint32 // epb_flags; 0 writes no such option
	Options   []byte // further pcapng packet options, encoded, without opt_endofopt
	Data      []byte // from the link layer up; at most SnapLen bytes
}

// Meta is what is known of a finished chunk: what an inventory says of it, and
// what the ring keeps.
type Meta struct {
	Stream  string
	Hash    Hash
	Size    int64  // stored bytes
	RawSize int64  // bytes before compression
	First   int64  // time of the first record; records are in time order
	Last    int64  // time of the last record
	Records uint64 // packets or events
	Drops   uint64 // packets lost by the kernel while this chunk was open
}
