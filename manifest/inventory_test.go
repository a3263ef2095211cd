package manifest

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
)

func TestInventoryGolden(t *testing.T) {
	golden(t, "inventory.ndjson", EncodeInventory(testEntries(chunker.PacketsExt)))
}

func TestInventoryRoundTrip(t *testing.T) {
	want := testEntries(chunker.PacketsExt)
	shuffled := []Entry{want[2], want[0], want[1], want[0]}
	b := EncodeInventory(shuffled)
	got, err := DecodeInventory(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if again := EncodeInventory(got); !bytes.Equal(again, b) {
		t.Errorf("encoded again:\n%s\nwant:\n%s", again, b)
	}
	if got, err := DecodeInventory(nil); err != nil || len(got) != 0 {
		t.Errorf("empty inventory: %v, %v", got, err)
	}
}

// The line that AppendEntry writes by hand is what any JSON encoder makes of an
// Entry.
func TestEntryIsJSON(t *testing.T) {
	for _, e := range testEntries(chunker.PacketsExt) {
		want, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(AppendEntry(nil, e)); got != string(want)+"\n" {
			t.Errorf("got  %swant %s", got, want)
		}
	}
}

func TestLineLengths(t *testing.T) {
	e := Entry{Key: testChunkKey(1, chunker.EventsExt), SHA256: strings.Repeat("0", 64)}
	if got := len(AppendEntry(nil, e)); got != minLine {
		t.Errorf("the shortest line has %d bytes, minLine is %d", got, minLine)
	}
	e = Entry{
		Key:  ObjectKey{Kind: KindChunk, Generation: 1<<64 - 1, Ext: chunker.PacketsExt}.String(),
		Size: -1 << 63, RawSize: -1 << 63, SHA256: e.SHA256, First: -1 << 63, Last: -1 << 63, Records: 1<<64 - 1, Drops: 1<<64 - 1,
	}
	if got := len(AppendEntry(nil, e)); got > maxLine {
		t.Errorf("the longest line has %d bytes, maxLine is %d", got, maxLine)
	}
}

func TestDecodeInventoryRefuses(t *testing.T) {
	entries := testEntries(chunker.PacketsExt)
	lines := strings.SplitAfter(string(EncodeInventory(entries)), "\n")
	other := entries[1]
	other.First++
	other.Last++
	for name, b := range map[string]string{
		"order":               lines[1] + lines[0],
		"line twice":          lines[0] + lines[0],
		"chunk twice":         lines[1] + string(AppendEntry(nil, other)),
		"no newline":          strings.TrimSuffix(lines[0], "\n"),
		"empty line":          "\n",
		"carriage return":     strings.Replace(lines[0], "\n", "\r\n", 1),
		"space":               strings.Replace(lines[0], ":", ": ", 1),
		"member order":        strings.Replace(strings.Replace(lines[0], "raw_size", "x", 1), "size", "raw_size", 1),
		"unknown member":      strings.Replace(lines[0], "}", `,"x":1}`, 1),
		"escape":              strings.Replace(lines[0], "chunks", `ch\u0075nks`, 1),
		"leading zero":        strings.Replace(lines[0], `"size":8`, `"size":08`, 1),
		"plus":                strings.Replace(lines[0], `"size":8`, `"size":+8`, 1),
		"minus zero":          strings.Replace(lines[0], `"drops":0`, `"drops":-0`, 1),
		"negative":            strings.Replace(lines[0], `"size":8`, `"size":-8`, 1),
		"giant size":          strings.Replace(lines[0], `"size":8388608`, `"size":9007199254740993`, 1),
		"giant raw size":      strings.Replace(lines[0], `"raw_size":1`, `"raw_size":10000000001`, 1),
		"overflow":            strings.Replace(lines[0], `"size":8`, `"size":99999999999999999999`, 1),
		"path":                strings.Replace(lines[0], "chunks/", "../../", 1),
		"inventory":           strings.Replace(lines[0], "chunks/", "inventories/", 1),
		"hash in upper case":  strings.Replace(lines[0], `"sha256":"ab`, `"sha256":"AB`, 1),
		"first after last":    strings.Replace(lines[0], `"first":"1`, `"first":"2`, 1),
		"no records":          strings.Replace(lines[0], `"records":12000`, `"records":0`, 1),
		"generation 0 in key": strings.Replace(lines[0], ".pcapng", ".0.pcapng", 1),
		"long line":           strings.Repeat("x", 1<<20) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := DecodeInventory([]byte(b)); err == nil || len(err.Error()) > 1000 {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestSumInventory(t *testing.T) {
	entries := testEntries(chunker.PacketsExt)
	want := Stream{
		Stream: chunker.Packets,
		Totals: Totals{Chunks: 3, Size: 8389190, RawSize: 10486572, Records: 12004, Drops: 7},
		First:  entries[0].First,
		Last:   entries[0].Last,
	}
	if diff := cmp.Diff(want, SumInventory(chunker.Packets, entries)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzDecodeInventory(f *testing.F) {
	f.Add(EncodeInventory(testEntries(chunker.PacketsExt)))
	f.Add(EncodeInventory(testEntries(chunker.EventsExt)[:1]))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := DecodeInventory(b)
		if err != nil {
			return
		}
		if again := EncodeInventory(entries); !bytes.Equal(again, b) {
			t.Errorf("two forms of one inventory:\n%s\n%s", b, again)
		}
	})
}

// A TiB in chunks of 8 MiB.
func BenchmarkDecodeInventory(b *testing.B) {
	entries := make([]Entry, 131072)
	for i := range entries {
		e := testEntries(chunker.PacketsExt)[0]
		e.Key = ObjectKey{Kind: KindChunk, Hash: chunker.HashOf([]byte{byte(i), byte(i >> 8), byte(i >> 16)}), Ext: chunker.PacketsExt}.String()
		e.First += Nanos(i)
		entries[i] = e
	}
	data := EncodeInventory(entries)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if got, err := DecodeInventory(data); err != nil || len(got) != len(entries) {
			b.Fatal(len(got), err)
		}
	}
}
