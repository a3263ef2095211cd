package ring

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
)

func TestFileName(t *testing.T) {
	m := chunker.Meta{
		Stream: chunker.Packets, Hash: chunker.HashOf([]byte("x")),
		First: 1_700_000_000_000_000_000, Last: 1_700_000_001_000_000_000, Records: 42, RawSize: 4242, Drops: 7,
	}
	name, err := fileName(m)
	if err != nil {
		t.Fatal(err)
	}
	want := "1700000000000000000_1700000001000000000_000000000042_000000004242_000000000007_" + m.Hash.String() + ".pcapng.lz4"
	if name != want {
		t.Errorf("name is %s, want %s", name, want)
	}
	got, err := parseName(chunker.Packets, name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(m, got); d != "" {
		t.Errorf("parsed (-want +got):\n%s", d)
	}
	for what, bad := range map[string]chunker.Meta{
		"before 1970":       {First: -1, Last: 1},
		"backwards":         {First: 2, Last: 1},
		"too many records":  {Records: maxCount + 1},
		"too many raw byte": {RawSize: maxCount + 1},
	} {
		if name, err := fileName(bad); err == nil {
			t.Errorf("%s: named %s", what, name)
		}
	}
}

func FuzzParseName(f *testing.F) {
	good, err := fileName(chunker.Meta{Stream: chunker.Packets, First: 1, Last: 2, Records: 3, RawSize: 4, Drops: 5})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(chunker.Packets, good)
	f.Add(chunker.OS, good)
	f.Add(chunker.Packets, "+"+good[1:])
	f.Add(chunker.Packets, good[:len(good)-1])
	f.Add(chunker.Packets, "")
	f.Fuzz(func(t *testing.T, stream, name string) {
		m, err := parseName(stream, name)
		if err != nil {
			return
		}
		if again, err := fileName(m); err != nil || again != name {
			t.Errorf("%q is read as the chunk named %q, %v", name, again, err)
		}
	})
}
