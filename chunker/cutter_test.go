package chunker_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
)

func TestCutterInOrder(t *testing.T) {
	for _, stored := range []bool{false, true} {
		sink := new(memory)
		c := chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Packets, Header: header, TargetSize: 300_000}, sink)
		c.SetStored(stored)
		g := newTraffic(1)
		var want []packet
		for i := range 5000 {
			p := g.next()
			if i%1000 == 500 {
				p = g.long()
			}
			want = append(want, p)
			if err := c.Add(record(c, p)); err != nil {
				t.Fatal(err)
			}
			if i%700 == 0 {
				if err := c.Tick(p.Time); err != nil {
					t.Fatal(err)
				}
			}
		}
		c.Drops(17)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		var got []packet
		var drops uint64
		for _, k := range sink.chunks {
			got = append(got, read(t, k)...)
			drops += k.Meta.Drops
			if k.Meta.Size > 300_000+chunker.SnapLen+2*chunker.BlockSize {
				t.Errorf("a chunk of %d bytes", k.Meta.Size)
			}
		}
		if drops != 17 {
			t.Errorf("%d drops, want 17", drops)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("stored %v: %.4000s", stored, diff)
		}
	}
}
