package ring

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

// Load reads a chunk whole into buf, which it grows as needed, and returns its
// bytes and their SHA-256. They are those the chunk is named by: anything else,
// a file that is gone and one that the disk cannot read are chunker.ErrDamaged.
func (r *Ring) Load(c Chunk, buf []byte) ([]byte, [sha256.Size]byte, error) {
	var none [sha256.Size]byte
	name, err := fileName(c.Meta)
	if err != nil {
		return buf, none, err
	}
	f, err := os.Open(r.path(&chunk{Chunk: c, name: name}))
	if isNotExist(err) {
		return buf, none, fmt.Errorf("%w: %w", chunker.ErrDamaged, err)
	}
	if err != nil {
		return buf, none, fmt.Errorf("read chunk: %w", err)
	}
	defer f.Close()
	if c.Size < 0 || c.Size > chunker.MaxSize {
		return buf, none, fmt.Errorf("%w: it has %d bytes", chunker.ErrDamaged, c.Size)
	}
	buf = slices.Grow(buf[:0], int(c.Size)+1)[:c.Size+1] // one more finds a file that is longer
	n, err := io.ReadFull(f, buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.EIO) {
		return buf, none, fmt.Errorf("read chunk: %w", err)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) || int64(n) != c.Size {
		return buf, none, fmt.Errorf("%w: read %d of %d bytes: %w", chunker.ErrDamaged, n, c.Size, err)
	}
	buf = buf[:n]
	if got := chunker.HashOf(buf); got != c.Hash {
		return buf, none, fmt.Errorf("%w: its bytes have the address %s, not %s", chunker.ErrDamaged, got, c.Hash)
	}
	sum, ok := r.SHA256(c)
	if ok {
		return buf, sum, nil
	}
	sum = sha256.Sum256(buf)
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.byName[name]; k != nil {
		k.sum = &sum
	}
	return buf, sum, nil
}

// SHA256 is the SHA-256 of a chunk that Load has read before.
func (r *Ring) SHA256(c Chunk) (sum [sha256.Size]byte, ok bool) {
	name, err := fileName(c.Meta)
	if err != nil {
		return sum, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.byName[name]; k != nil && k.sum != nil {
		return *k.sum, true
	}
	return sum, false
}

// Unseen tells whether nobody has loaded a chunk since it was sealed, by this
// process: it cannot have been offered to a hub.
func (r *Ring) Unseen(c Chunk) bool {
	name, err := fileName(c.Meta)
	if err != nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.byName[name]
	return k != nil && k.made && k.sum == nil
}

// Damaged takes a chunk that Load refused out of the ring, and notes the gap.
func (r *Ring) Damaged(c Chunk) {
	name, err := fileName(c.Meta)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.byName[name]
	if k == nil {
		return // noted before
	}
	r.state.addGap(damagedGap(k.Meta))
	if err := r.drop(k); err != nil {
		r.opt.Logger.Warn("cannot remove a damaged chunk from the ring", "err", err)
		r.unlist(k) // its bytes still count
	}
	r.changed()
}

func damagedGap(m chunker.Meta) Gap {
	return Gap{
		Stream: m.Stream, Reason: manifest.GapDamaged, From: manifest.Nanos(m.First), To: manifest.Nanos(m.Last) + 1,
		Count: m.Records, Detail: "a chunk in the ring lost its bytes",
	}
}
