package chunker

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

// A changing source gives out other bytes once it was read through.
type changing struct {
	now, then []byte
	read      int
}

func (c *changing) ReadAt(b []byte, off int64) (int, error) {
	from := c.now
	if c.read >= len(c.now) {
		from = c.then
	}
	c.read += len(b)
	return bytes.NewReader(from).ReadAt(b, off)
}

// stored is a chunk of random packets, which lz4 leaves as they are.
func stored(t testing.TB, packets int) (Meta, []byte) {
	t.Helper()
	var buf bytes.Buffer
	w, err := NewWriter(&buf, Packets, Header{})
	if err != nil {
		t.Fatal(err)
	}
	eth := w.Interface(Interface{Name: "eth0", LinkType: 1})
	data := make([]byte, 1400)
	rnd := rand.NewChaCha8([32]byte{1})
	for i := range packets {
		_, _ = rnd.Read(data)
		if err := w.Record(&Record{Time: int64(i), Interface: eth, OrigLen: uint32(len(data)), Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	m, err := w.Close(0)
	if err != nil {
		t.Fatal(err)
	}
	return m, buf.Bytes()
}

// TestChangedWhileRead: whatever byte changes after the chunk was verified, no
// record comes of it, and the reader says so.
func TestChangedWhileRead(t *testing.T) {
	m, b := stored(t, 500)
	read := func(then []byte) (records int, err error) {
		r, err := Open(&changing{now: b, then: then}, m.Size, m.Hash, Packets)
		if err != nil { // it has read the frame's header again
			return 0, err
		}
		var batch Batch
		for {
			if err := r.Next(&batch); errors.Is(err, io.EOF) {
				return records, nil
			} else if err != nil {
				return records, err
			}
			records += batch.Len()
		}
	}
	records, err := read(b)
	if err != nil || records != 500 {
		t.Fatalf("unchanged: %d records, %v", records, err)
	}
	for at := 0; at < len(b); at += 1 + len(b)/300 {
		for _, change := range []byte{1, 0x80} {
			then := bytes.Clone(b)
			then[at] ^= change
			if _, err := read(then); !errors.Is(err, ErrDamaged) {
				t.Errorf("byte %d of %d changed: %v", at, len(b), err)
			}
		}
	}
	if _, err := read(b[:len(b)-1]); !errors.Is(err, ErrDamaged) {
		t.Errorf("cut short: %v", err)
	}
	// Two pages trade places.
	then := bytes.Clone(b)
	copy(then[pageSize:2*pageSize], b[3*pageSize:])
	copy(then[3*pageSize:4*pageSize], b[pageSize:])
	if _, err := read(then); !errors.Is(err, ErrDamaged) {
		t.Errorf("pages changed places: %v", err)
	}
}

// TestVerifiedReadsAlike: a verified source reads as the bytes do.
func TestVerifiedReadsAlike(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{1, 15, 16, 17, pageSize - 1, pageSize, pageSize + 1, 25*pageSize + 3} {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		src, err := verify(&changing{now: b, then: b}, int64(size), HashOf(b))
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			off := rnd.IntN(size + 10)
			got, want := make([]byte, rnd.IntN(size+20)), []byte(nil)
			n, err := src.ReadAt(got, int64(off))
			if off < size {
				want = b[off:min(off+len(got), size)]
			}
			if !bytes.Equal(got[:n], want) || (n < len(got)) != (err != nil) || err != nil && !errors.Is(err, io.EOF) {
				t.Fatalf("%d bytes at %d of %d: %d, %v", len(got), off, size, n, err)
			}
		}
	}
	if _, err := verify(&changing{now: []byte("a")}, 1, HashOf([]byte("b"))); !errors.Is(err, ErrDamaged) {
		t.Errorf("other bytes: %v", err)
	}
}

func BenchmarkTagPage(b *testing.B) {
	page := make([]byte, pageSize)
	b.SetBytes(pageSize)
	for b.Loop() {
		tagPage(page)
	}
}
