package capfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/internal/pcapng"
)

// account is what a file gave: times of packets, and what it says of the rest.
type account struct {
	Times                    []int64
	Lost, Skipped, Corrected map[string]int
	Losses                   []Loss
}

func accountOf(t *testing.T, b []byte) (a account) {
	t.Helper()
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		a.Times = append(a.Times, p.Time)
	}
	for _, m := range []struct {
		from map[string]int
		to   *map[string]int
	}{{r.Lost(), &a.Lost}, {r.Skipped(), &a.Skipped}, {r.Corrected(), &a.Corrected}} {
		if len(m.from) > 0 {
			*m.to = m.from
		}
	}
	a.Losses = r.Losses()
	return a
}

// TestOneBlock puts one block that makes no sense between two packets: those come
// out, and what the block cost is said.
func TestOneBlock(t *testing.T) {
	le := binary.LittleEndian
	words := func(typ uint32, list ...uint32) (b []byte) {
		b = le.AppendUint32(le.AppendUint32(b, typ), uint32(12+4*len(list)))
		for _, w := range list {
			b = le.AppendUint32(b, w)
		}
		return le.AppendUint32(b, uint32(12+4*len(list)))
	}
	const badOption = 0x00400005 // of 64 bytes, where fewer are left
	const interfaces = "interface statistics that make no sense"
	for name, tt := range map[string]struct {
		block         []byte
		lost, skipped string
		packet        bool // a third packet comes out, at 2
		corrected     string
	}{
		"statistics of no interface":     {block: words(pcapng.BlockISB, 3, 0, 1), skipped: interfaces},
		"short statistics":               {block: words(pcapng.BlockISB, 0), skipped: interfaces},
		"empty statistics":               {block: words(pcapng.BlockISB), skipped: interfaces},
		"options of statistics":          {block: words(pcapng.BlockISB, 0, 0, 1, badOption), skipped: interfaces},
		"empty names":                    {block: words(pcapng.BlockNRB), skipped: "name resolution"},
		"names":                          {block: words(pcapng.BlockNRB, badOption), skipped: "name resolution"},
		"secrets":                        {block: words(pcapng.BlockDSB, badOption), skipped: "decryption secrets"},
		"custom":                         {block: words(pcapng.BlockCustom), skipped: "custom"},
		"journal":                        {block: words(pcapng.BlockJournal, 0xffffffff), skipped: "systemd journal"},
		"options of an interface":        {block: words(pcapng.BlockIDB, 1, 0, badOption), skipped: "options of an interface that make no sense"},
		"resolution of an interface":     {block: words(pcapng.BlockIDB, 1, 0, 0x00020009, 9), skipped: "resolution or offset of an interface's times, which makes no sense"},
		"interface without a link type":  {block: words(pcapng.BlockIDB), skipped: "interface without a link type"},
		"packet of no interface":         {block: words(pcapng.BlockEPB, 9, 0, 2, 0, 0), lost: lostInterface},
		"packet longer than its block":   {block: words(pcapng.BlockEPB, 0, 0, 2, 5, 5, 0), lost: lostLengths},
		"packet of 4 GiB":                {block: words(pcapng.BlockEPB, 0, 0, 2, math.MaxUint32, math.MaxUint32, 0), lost: lostLengths},
		"packet of nothing":              {block: words(pcapng.BlockEPB), lost: lostLengths},
		"packet of the far future":       {block: words(pcapng.BlockEPB, 0, math.MaxUint32, 2, 0, 0), lost: lostTime},
		"old packet longer than its own": {block: words(pcapng.BlockOPB, 0, 0, 2, 5, 5, 0), lost: lostLengths},
		"simple packet of nothing":       {block: words(pcapng.BlockSPB), lost: lostLengths},
		"simple packet cut off":          {block: words(pcapng.BlockSPB, 60, 0), lost: lostLengths},
		"options of a packet":            {block: words(pcapng.BlockEPB, 0, 0, 2, 0, 0, badOption), skipped: "options of a packet that make no sense", packet: true},
		"flags of a packet":              {block: words(pcapng.BlockEPB, 0, 0, 2, 0, 0, 0x00020002, 1), skipped: "flags of a packet that make no sense", packet: true},
		"captured more than there was":   {block: words(pcapng.BlockEPB, 0, 0, 2, 4, 1, 0), corrected: "packets that are longer than their original length, which was raised", packet: true},
	} {
		b := pcapng.AppendSectionHeader(nil, pcapng.SectionHeader{})
		b = pcapng.AppendInterface(b, pcapng.Interface{LinkType: 1, TSResol: 9})
		b = pcapng.AppendPacket(b, &pcapng.Packet{Time: 1, OrigLen: 1, Data: []byte{1}})
		b = append(b, tt.block...)
		b = pcapng.AppendPacket(b, &pcapng.Packet{Time: 3, OrigLen: 1, Data: []byte{1}})
		want := account{Times: []int64{1, 3}}
		if tt.packet {
			want.Times = []int64{1, 2, 3}
		}
		for _, m := range []struct {
			kind string
			to   *map[string]int
		}{{tt.lost, &want.Lost}, {tt.skipped, &want.Skipped}, {tt.corrected, &want.Corrected}} {
			if m.kind != "" {
				*m.to = map[string]int{m.kind: 1}
			}
		}
		if d := cmp.Diff(want, accountOf(t, b)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// TestTwoLengths: where the second length of a block is wrong and the first is
// right, as what follows shows, nothing is lost; where nothing shows it, the file
// ends there.
func TestTwoLengths(t *testing.T) {
	le := binary.LittleEndian
	b := pcapng.AppendSectionHeader(nil, pcapng.SectionHeader{})
	b = pcapng.AppendInterface(b, pcapng.Interface{LinkType: 1, TSResol: 9})
	var ends []int
	for i := range int64(3) {
		b = pcapng.AppendPacket(b, &pcapng.Packet{Time: i + 1, OrigLen: 1, Data: []byte{1}})
		ends = append(ends, len(b))
	}
	for i, end := range ends {
		bad := bytes.Clone(b)
		le.PutUint32(bad[end-4:], 0x12345678)
		want := account{Times: []int64{1, 2, 3}, Skipped: map[string]int{"second lengths of blocks, that were not the first": 1}}
		if d := cmp.Diff(want, accountOf(t, bad)); d != "" {
			t.Errorf("packet %d (-want +got):\n%s", i, d)
		}
	}
	bad := bytes.Clone(b)
	le.PutUint32(bad[ends[0]+4:], 24) // the first length of the second packet
	if times, _, err := readAll(bad); !errors.Is(err, ErrFormat) || len(times) != 1 {
		t.Errorf("%d packets, error %v, want 1 and damage", len(times), err)
	}
}

// TestBadPcapPacket: a packet whose length makes no sense costs that packet, where
// it is plain where the next one begins. Where it is not, the file ends there.
func TestBadPcapPacket(t *testing.T) {
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		for _, magic := range []uint32{magicMicros, magicNanos, magicModified} {
			good := file(order, magic, 7)
			one := (len(good) - 24) / 2
			first, second := good[24:24+one], good[24+one:]
			for _, captured := range []uint32{math.MaxUint32, math.MaxInt32, 300_000, 100 << 20} {
				bad := bytes.Clone(first)
				copy(bad[8:12], order.AppendUint32(nil, captured))
				for place, b := range map[string][]byte{
					"before": append(append(append(bytes.Clone(good[:24]), bad...), first...), second...),
					"middle": append(append(append(bytes.Clone(good[:24]), first...), bad...), second...),
				} {
					a := accountOf(t, b)
					if len(a.Times) != 2 || a.Lost[lostLengths] != 1 || a.Times[1]-a.Times[0] != 1e9 {
						t.Errorf("%v %#x, %d bytes, %s: times %d, lost %v", order, magic, captured, place, a.Times, a.Lost)
					}
				}
				if times, _, err := readAll(append(bytes.Clone(good), bad...)); len(times) != 2 || err == nil {
					t.Errorf("%v %#x, %d bytes, at the end: %d packets, error %v", order, magic, captured, len(times), err)
				}
			}
		}
	}
}

// TestLateSeconds: seconds have no sign; those that may have had one are counted.
func TestLateSeconds(t *testing.T) {
	const kind = "seconds that were before 1970 if they had a sign, and were taken for times after 2038"
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		for seconds, odd := range map[uint32]bool{0: false, math.MaxInt32: false, math.MaxInt32 + 1: true, math.MaxUint32: true} {
			b := file(order, magicMicros, 7)
			copy(b[24:28], order.AppendUint32(nil, seconds))
			a := accountOf(t, b)
			if want := int64(seconds)*1e9 + 7000; a.Times[0] != want || (a.Corrected[kind] == 1) != odd {
				t.Errorf("%v, %d seconds: time %d, want %d; corrected %v", order, seconds, a.Times[0], want, a.Corrected)
			}
		}
	}
}

// TestPackedOtherwise: what is packed by a program that is not known here is named.
func TestPackedOtherwise(t *testing.T) {
	for name, b := range map[string]string{"xz": "\xfd7zXZ\x00\x00", "bzip2": "BZh91AY&SY", "zip": "PK\x03\x04\x14\x00", "7-Zip": "7z\xbc\xaf\x27\x1c"} {
		if _, err := NewReader(strings.NewReader(b)); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// TestNoInterface: an interface that cannot be read keeps its number, so that the
// packets of the next are not taken for its own.
func TestNoInterface(t *testing.T) {
	b := pcapng.AppendSectionHeader(nil, pcapng.SectionHeader{})
	b = append(b, 1, 0, 0, 0, 12, 0, 0, 0, 12, 0, 0, 0)
	b = pcapng.AppendInterface(b, pcapng.Interface{LinkType: 113, TSResol: 9})
	b = pcapng.AppendPacket(b, &pcapng.Packet{Interface: 0, Time: 1, OrigLen: 1, Data: []byte{1}})
	b = pcapng.AppendPacket(b, &pcapng.Packet{Interface: 1, Time: 2, OrigLen: 1, Data: []byte{1}})
	want := account{
		Times: []int64{2}, Lost: map[string]int{lostInterface: 1}, Skipped: map[string]int{"interface without a link type": 1},
	}
	if d := cmp.Diff(want, accountOf(t, b)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestLosses: what packets say was lost and what statistics say are the same
// losses, of each interface; pcapsule's own files tell the sum of all in one place.
func TestLosses(t *testing.T) {
	count := func(n uint64) *uint64 { return &n }
	dropped := func(n uint64) []byte {
		return pcapng.AppendOption(nil, pcapng.OptDropCount, binary.LittleEndian.AppendUint64(nil, n))
	}
	section := func(b []byte, application string) []byte {
		b = pcapng.AppendSectionHeader(b, pcapng.SectionHeader{Application: application})
		for range 3 {
			b = pcapng.AppendInterface(b, pcapng.Interface{LinkType: 1, TSResol: 9})
		}
		for i, n := range []uint64{5, 7, math.MaxUint64} {
			b = pcapng.AppendPacket(b, &pcapng.Packet{Interface: uint32(i), Time: 1, OrigLen: 1, Options: dropped(n), Data: []byte{1}})
			b = pcapng.AppendPacket(b, &pcapng.Packet{Interface: uint32(i), Time: 1, OrigLen: 1, Options: dropped(1), Data: []byte{1}})
		}
		return b
	}
	b := section(nil, "dumpcap")
	b = pcapng.AppendStatistics(b, &pcapng.Statistics{Interface: 0, IfDrop: count(4), OSDrop: count(6)}) // more than packets say
	b = pcapng.AppendStatistics(b, &pcapng.Statistics{Interface: 1, IfDrop: count(2), Received: count(50), FilterAccept: count(20)})
	b = section(b, "pcapsule 1.2")
	b = pcapng.AppendStatistics(b, &pcapng.Statistics{Interface: 0, OSDrop: count(15)})
	for _, n := range []byte{3, 255} { // old packet blocks; all bits set is not known
		b = append(b, 2, 0, 0, 0, 32, 0, 0, 0, 2, 0, n, n&0x80/0x80*0xff, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 32, 0, 0, 0)
	}
	want := []Loss{
		{Interface: 0, Dropped: 10}, {Interface: 1, Dropped: 8, Filtered: 30}, {Interface: 2, Dropped: 1},
		{Interface: -1, Dropped: 5 + 1 + 7 + 1 + 1 + 3},
	}
	if d := cmp.Diff(want, accountOf(t, b).Losses); d != "" {
		t.Errorf("losses (-want +got):\n%s", d)
	}
}

// TestFraction: microseconds of a second and more are added, and counted.
func TestFraction(t *testing.T) {
	const kind = "fractions of a second that are a second or more, and were added to the seconds"
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		for _, tt := range []struct {
			magic, fraction uint32
			first           int64
			corrected       bool
		}{
			{magicMicros, 999_999, 1700000000_999999000, false},
			{magicMicros, 1_000_000, 1700000001_000000000, true},
			{magicMicros, 123_456_789, 1700000123_456789000, true},
			{magicMicros, math.MaxUint32, 1700004294_967295000, true},
			{magicModified, 1_000_000, 1700000001_000000000, true},
			{magicNanos, 999_999_999, 1700000000_999999999, false},
			{magicNanos, math.MaxUint32, 1700000004_294967295, true},
		} {
			a := accountOf(t, file(order, tt.magic, tt.fraction))
			if a.Times[0] != tt.first || tt.corrected != (a.Corrected[kind] == 2) {
				t.Errorf("%v %#x, fraction %d: first at %d, want %d; corrected %v", order, tt.magic, tt.fraction, a.Times[0], tt.first, a.Corrected)
			}
		}
	}
}

// TestLinkTypes: a link type that does not fit into its 16 bits is none.
func TestLinkTypes(t *testing.T) {
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		for link, good := range map[uint32]bool{
			0: true, 1: true, 65535: true, 4<<28 | hasFCS | 1: true, 4<<28 | 1: true,
			65536: false, 65537: false, 70001: false, 1<<25 | 1: false, 1<<27 | 1: false, hasFCS | 70001: false,
		} {
			b := file(order, magicMicros, 0)
			copy(b[20:24], order.AppendUint32(nil, link))
			r, err := NewReader(bytes.NewReader(b))
			switch {
			case good && (err != nil || uint32(r.Interface(0).LinkType) != link&0xffff):
				t.Errorf("link type %#x: error %v", link, err)
			case !good && (!errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "link type")):
				t.Errorf("link type %#x: error %v, want one that names it", link, err)
			}
		}
	}
}
