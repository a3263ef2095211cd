package manifest

import (
	"bytes"
	"errors"
	"fmt"

	"pcapsule/chunker"
)

// MaxManifest is the largest manifest in bytes. One of 5,000 nodes with 60
// interfaces each takes 30 MB; chunks do not count, they are in inventories.
const MaxManifest = 64 << 20

// ErrVoid is what Decode says of a void marker: there is no snapshot.
var ErrVoid = errors.New("void: this session ended without a snapshot")

// Encode validates m and writes it: the exact bytes to sign and to store. The
// same manifest always gives the same bytes.
func (m *Manifest) Encode() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	b, err := marshal(m.filled())
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	if len(b) > MaxManifest {
		return nil, fmt.Errorf("encode manifest: %d bytes, at most %d", len(b), MaxManifest)
	}
	if err := scan(b); err != nil { // nobody could decode it
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return b, nil
}

// Room is how much of what a manifest may be, in bytes and in objects, the node
// takes up: 1 is all of it. Its reasons count twice, since they stand at the root
// as well.
func (n *Node) Room() float64 {
	b, err := marshal(n)
	if err != nil {
		return 1
	}
	size := len(b) + 4*bytes.Count(b, []byte("\n")) // indented
	for _, r := range n.Reasons {
		size += len(r) + len(n.Name) + 32
	}
	values := bytes.Count(b, []byte("{")) + bytes.Count(b, []byte("["))
	return max(float64(size)/MaxManifest, float64(values)/MaxValues)
}

// Decode reads a manifest and validates all that it says. It is ErrVoid when b
// is a void marker.
func Decode(b []byte) (*Manifest, error) {
	if len(b) > MaxManifest {
		return nil, fmt.Errorf("decode manifest: %d bytes, at most %d", len(b), MaxManifest)
	}
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if err := unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	if head.Format == VoidFormat {
		return nil, fmt.Errorf("decode manifest: %w", ErrVoid)
	}
	if err := checkFormat(head.Format, Format, head.Version, Version); err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	m := new(Manifest)
	if err := unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	return m, nil
}

func checkFormat(format, want string, version, known int) error {
	if format != want {
		return fmt.Errorf("format is %.40q, want %q", format, want)
	}
	if version > known {
		return fmt.Errorf("version %d is newer than this program, which knows %d: update pcapsule", version, known)
	}
	if version != known {
		return fmt.Errorf("version %d, want %d", version, known)
	}
	return nil
}

// filled is a copy of m with empty lists for missing ones, since null is used
// nowhere.
func (m *Manifest) filled() *Manifest {
	c := *m
	c.Nodes = append([]Node{}, m.Nodes...)
	for i := range c.Nodes {
		n := &c.Nodes[i]
		if n.Coverage == nil {
			n.Coverage = []Interval{}
		}
		if n.Interfaces == nil {
			n.Interfaces = []chunker.Interface{}
		}
		if n.Streams == nil {
			n.Streams = []Stream{}
		}
	}
	return &c
}
