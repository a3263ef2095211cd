package chunker_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
)

// torn makes a chunk, and tells how many of its packets are whole when it ends
// at the end of one of its lz4 blocks.
func torn(t testing.TB) (c chunk, want []packet, whole map[int]int) {
	t.Helper()
	var out bytes.Buffer
	w, err := chunker.NewWriter(&out, chunker.Packets, header)
	if err != nil {
		t.Fatal(err)
	}
	g := newTraffic(3)
	for i := range 60 {
		p := g.next()
		if i == 30 {
			p.Data, p.OrigLen = g.long().Data[:70_000], 70_000
		}
		want = append(want, p)
		if err := w.Record(record(w, p)); err != nil {
			t.Fatal(err)
		}
		if i%7 == 6 {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	c = closed(t, w, &out, 9)

	whole = map[int]int{}
	const epb = 6
	records, missing := 0, 0 // bytes that the last pcapng block lacks
	for at := 7; ; {
		n := int(binary.LittleEndian.Uint32(c.Bytes[at:]) &^ (1 << 31))
		if n == 0 {
			return c, want, whole
		}
		raw := unframe(t, append(append(bytes.Clone(c.Bytes[:7]), c.Bytes[at:at+4+n]...), 0, 0, 0, 0))
		if missing > 0 {
			if missing -= len(raw); missing == 0 {
				records++
			}
			raw = nil
		}
		for len(raw) > 0 {
			total := int(binary.LittleEndian.Uint32(raw[4:]))
			if total > len(raw) {
				missing = total - len(raw)
				break
			}
			if raw[0] == epb {
				records++
			}
			raw = raw[total:]
		}
		at += 4 + n
		whole[at] = records
	}
}

func recoverBytes(t testing.TB, b []byte, stream string) (chunk, bool) {
	t.Helper()
	sink := new(memory)
	meta, err := chunker.Recover(bytes.NewReader(b), int64(len(b)), stream, sink)
	if err != nil {
		t.Fatal(err)
	}
	if sink.open != 0 || len(sink.chunks) > 1 || (len(sink.chunks) == 1) != (meta.Records > 0) {
		t.Fatalf("%d parts open, %d chunks, %+v", sink.open, len(sink.chunks), meta)
	}
	if meta.Records == 0 {
		return chunk{}, false
	}
	if sink.chunks[0].Meta != meta {
		t.Fatalf("sealed as %+v, returned %+v", sink.chunks[0].Meta, meta)
	}
	return sink.chunks[0], true
}

// TestRecover cuts a chunk at every length, and recovers exactly the packets of
// the lz4 blocks that are whole.
func TestRecover(t *testing.T) {
	c, want, whole := torn(t)
	count, at := 0, 0
	for n := range c.Bytes {
		if k, ok := whole[n]; ok {
			count, at = k, n
		}
		// The length itself matters at the ends of lz4 blocks, and hardly between.
		if n > at+20 && n%97 != 0 {
			continue
		}
		got, ok := recoverBytes(t, c.Bytes[:n], chunker.Packets)
		if ok != (count > 0) {
			t.Fatalf("cut at %d: recovered %v, want %d packets", n, ok, count)
		}
		if !ok {
			continue
		}
		if diff := cmp.Diff(want[:count], read(t, got)); diff != "" {
			t.Fatalf("cut at %d: (-want +got)\n%.2000s", n, diff)
		}
	}
	if count != len(want) || len(whole) < 12 {
		t.Fatalf("met %d of %d packets in %d lz4 blocks", count, len(want), len(whole))
	}

	got, _ := recoverBytes(t, c.Bytes, chunker.Packets)
	if diff := cmp.Diff(want, read(t, got)); diff != "" || got.Meta.Drops != 9 {
		t.Errorf("of a chunk that only was not sealed: %+v\n%s", got.Meta, diff)
	}

	rnd := rand.New(rand.NewPCG(1, 1))
	for n, k := range whole {
		for range 20 {
			garbage := make([]byte, rnd.IntN(5000))
			for i := range garbage {
				garbage[i] = byte(rnd.Uint32())
			}
			if rnd.IntN(2) == 0 && len(garbage) > 4 { // what looks like a block
				binary.LittleEndian.PutUint32(garbage, uint32(rnd.IntN(len(garbage)-3))|rnd.Uint32()<<31)
			}
			garbled := append(bytes.Clone(c.Bytes[:n]), garbage...)
			if got, ok := recoverBytes(t, garbled, chunker.Packets); !ok && k > 0 || ok && !cmp.Equal(want[:k], read(t, got)) {
				t.Fatalf("garbage after %d bytes, which hold %d packets: %v %+v", n, k, ok, got.Meta)
			}
		}
		zeros := append(bytes.Clone(c.Bytes[:n]), make([]byte, 100)...)
		if got, ok := recoverBytes(t, zeros, chunker.Packets); !ok && k > 0 || ok && !cmp.Equal(want[:k], read(t, got)) {
			t.Fatalf("zeros after %d bytes, which hold %d packets: %v %+v", n, k, ok, got.Meta)
		}
	}
}

func TestRecoverEvents(t *testing.T) {
	c := writeSampleEvents(t, 5)
	got, _ := recoverBytes(t, c.Bytes, chunker.OS)
	if diff := cmp.Diff(sampleEvents, events(t, got)); diff != "" || got.Meta.Drops != 5 {
		t.Errorf("%+v\n%s", got.Meta, diff)
	}
	for n := range c.Bytes {
		recoverBytes(t, c.Bytes[:n], chunker.OS)
	}
}

// TestRecoverKeepsSize recovers chunks that are as large as they get.
func TestRecoverKeepsSize(t *testing.T) {
	for _, stored := range []bool{false, true} {
		var out bytes.Buffer
		w, err := chunker.NewWriter(&out, chunker.Packets, header)
		if err != nil {
			t.Fatal(err)
		}
		w.SetStored(stored)
		rnd := rand.New(rand.NewPCG(1, 1))
		data := make([]byte, 1400)
		p := packet{Interface: eth0, OrigLen: uint32(len(data))}
		n := 0
		for {
			for i := range data {
				data[i] = byte(rnd.Uint32())
			}
			p.Time++
			p.Data = string(data)
			err := w.Record(record(w, p))
			if errors.Is(err, chunker.ErrFull) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		c := closed(t, w, &out, 0)
		if c.Meta.Size > chunker.MaxSize || c.Meta.Size < chunker.MaxSize-100_000 {
			t.Fatalf("a full chunk has %d bytes", c.Meta.Size)
		}
		got, _ := recoverBytes(t, c.Bytes, chunker.Packets)
		if got.Meta.Records != uint64(n) || got.Meta.Size > c.Meta.Size {
			t.Errorf("recovered %+v of %+v", got.Meta, c.Meta)
		}
	}
}

func TestRecoverFaults(t *testing.T) {
	c := writeSamplePackets(t)
	full := errors.New("disk is full")
	fail := func() error { return full }
	for name, sink := range map[string]*memory{
		"create": {create: fail},
		"write":  {write: func([]byte) error { return full }},
		"seal":   {seal: fail},
	} {
		_, err := chunker.Recover(bytes.NewReader(c.Bytes), c.Meta.Size, chunker.Packets, sink)
		if !errors.Is(err, full) || sink.open != 0 {
			t.Errorf("%s: %v, %d parts open", name, err, sink.open)
		}
	}
	broken := errors.New("disk is broken")
	_, err := chunker.Recover(failingReader{broken}, c.Meta.Size, chunker.Packets, new(memory))
	if !errors.Is(err, broken) {
		t.Errorf("read: %v", err)
	}
}

type failingReader struct{ err error }

func (r failingReader) ReadAt([]byte, int64) (int, error) { return 0, r.err }
