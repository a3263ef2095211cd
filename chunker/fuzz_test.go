package chunker_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
)

// seeds are chunks, and their pcapng or lines as stored blocks, which a fuzzer
// can change with more effect.
func seeds(f *testing.F) {
	f.Helper()
	for _, c := range []chunk{writeSamplePackets(f), writeSampleEvents(f, 2)} {
		f.Add(c.Bytes)
		f.Add(framed(string(unframe(f, c.Bytes))))
	}
	f.Add(framed("a"))
}

// FuzzReader gives anything the address that it has, as a hostile store can.
func FuzzReader(f *testing.F) {
	seeds(f)
	f.Add(unframe(f, writeSamplePackets(f).Bytes))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 0 && b[0] != 4 { // not a frame: what is in one
			b = framed(string(b))
		}
		for _, stream := range []string{chunker.Packets, chunker.OS} {
			r, err := chunker.Open(bytes.NewReader(b), int64(len(b)), chunker.HashOf(b), stream)
			if err != nil {
				if !errors.Is(err, chunker.ErrDamaged) {
					t.Fatal(err)
				}
				continue
			}
			var batch chunker.Batch
			var rec chunker.Record
			var records uint64
			last := int64(0)
			for err = r.Next(&batch); err == nil; err = r.Next(&batch) {
				if batch.Len() == 0 || len(batch.Times) != batch.Len() || int(batch.Ends[batch.Len()-1]) != len(batch.Buf) {
					t.Fatalf("a batch of %d records, %d times, %d bytes", batch.Len(), len(batch.Times), len(batch.Buf))
				}
				for i := range batch.Len() {
					records++
					if batch.Times[i] < last {
						t.Fatal("out of order")
					}
					last = batch.Times[i]
					if stream != chunker.Packets {
						continue
					}
					if err := batch.Record(i, &rec); err != nil {
						t.Fatalf("record %d of a batch that was found valid: %v", i, err)
					}
					if rec.Time != last || rec.Interface >= uint32(len(r.Interfaces())) || len(rec.Data) > chunker.SnapLen {
						t.Fatalf("record %+v", rec)
					}
				}
			}
			if !errors.Is(err, io.EOF) {
				if !errors.Is(err, chunker.ErrDamaged) {
					t.Fatal(err)
				}
				continue
			}
			if m := r.Meta(); m.Records != records || m.Last != last || m.Size != int64(len(b)) {
				t.Fatalf("meta %+v of %d records to %d", m, records, last)
			}
			// What is a whole chunk can be recovered whole.
			if c, ok := recoverBytes(t, b, stream); !ok || c.Meta.Records != records || c.Meta.Drops != r.Meta().Drops {
				t.Fatalf("recovered %+v of %+v", c.Meta, r.Meta())
			}
		}
	})
}

func FuzzRecover(f *testing.F) {
	seeds(f)
	c := writeSamplePackets(f)
	f.Add(c.Bytes[:len(c.Bytes)-30])
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, stream := range []string{chunker.Packets, chunker.Kubernetes} {
			if c, ok := recoverBytes(t, b, stream); ok {
				if stream == chunker.Packets {
					read(t, c)
				} else {
					events(t, c)
				}
			}
		}
	})
}

// FuzzCutter reads packets, in any order, out of its input, and wants back what
// it put in.
func FuzzCutter(f *testing.F) {
	f.Add([]byte("0123456789abcdef0123456789abcdef"), uint16(100), false)
	f.Add(bytes.Repeat([]byte{1, 0, 9}, 100), uint16(1), true)
	f.Fuzz(func(t *testing.T, b []byte, hold uint16, stored bool) {
		sink := new(memory)
		c := chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Packets, Header: header, Hold: int(hold), TargetSize: 1000}, sink)
		c.SetStored(stored)
		rnd := rand.New(rand.NewPCG(1, uint64(len(b))))
		var want []packet
		for len(b) >= 3 {
			n := min(int(binary.LittleEndian.Uint16(b[1:])), len(b)-3)
			p := packet{Time: int64(b[0]), Interface: eth0, OrigLen: uint32(n), Data: string(b[3 : 3+n])}
			p.Flags = uint32(b[0] & 3)
			if b[0]&4 != 0 {
				p.Interface.Name = "eth1"
			}
			b = b[3+n:]
			want = append(want, p)
			if err := c.Add(record(c, p)); err != nil {
				t.Fatal(err)
			}
			if rnd.IntN(8) == 0 {
				_ = c.Tick(p.Time)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		got := map[packet]int{}
		for _, k := range sink.chunks {
			for _, p := range read(t, k) {
				got[p]++
			}
		}
		all := map[packet]int{}
		for _, p := range want {
			all[p]++
		}
		if diff := cmp.Diff(all, got); diff != "" {
			t.Fatal(diff)
		}
	})
}
