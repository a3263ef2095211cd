package capfile

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/internal/pcapng"
)

// bigEndian makes pcapng of the other byte order.
type bigEndian []byte

func (b bigEndian) block(typ uint32, body ...byte) bigEndian {
	be := binary.BigEndian
	body = append(body, make([]byte, -len(body)&3)...)
	b = be.AppendUint32(be.AppendUint32(b, typ), uint32(len(body)+12))
	return be.AppendUint32(append(b, body...), uint32(len(body)+12))
}

func (b bigEndian) section() bigEndian {
	return b.block(pcapng.BlockSHB, 0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255)
}

func option(code, n uint16, v ...byte) []byte {
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, code), n)
	return append(append(b, v...), make([]byte, -len(v)&3)...)
}

func one() []byte { return pcapng.AppendOption(nil, pcapng.OptComment, []byte("one")) }

// otherSection is one section of each byte order, with interfaces and options of
// their own.
func otherSection() bigEndian {
	b := pcapng.AppendSectionHeader(nil, pcapng.SectionHeader{})
	b = pcapng.AppendInterface(b, pcapng.Interface{LinkType: 1, TSResol: 9, Name: "little", SnapLen: 96})
	b = pcapng.AppendPacket(b, &pcapng.Packet{Time: 5, OrigLen: 2, Flags: 1, Options: one(), Data: []byte("ab")})
	big := bigEndian(b).section()
	big = big.block(pcapng.BlockIDB, append(append([]byte{0x01, 0x14, 0, 0, 0, 0, 0, 0},
		option(pcapng.OptIfName, 4, []byte("gr\xfcn")...)...), option(pcapng.OptIfTSResol, 1, 3)...)...)
	packet := []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 9, 'c', 0, 0, 0}
	for _, o := range [][]byte{
		option(pcapng.OptComment, 3, []byte("two")...), option(pcapng.OptFlags, 4, 0, 0, 0, 2),
		option(pcapng.OptDropCount, 8, 0, 0, 0, 0, 0, 0, 0, 3), option(pcapng.OptQueue, 4, 0, 0, 0, 4),
		option(pcapng.OptProcess, 8, 0, 0, 0, 5, 0, 0, 0, 6), option(0x7777, 4, 1, 2, 3, 4),
		option(pcapng.OptHash, 5, 2, 1, 2, 3, 4), {0, 0, 0, 0},
	} {
		packet = append(packet, o...)
	}
	return big.block(pcapng.BlockEPB, packet...)
}

func TestOtherSection(t *testing.T) {
	r, err := NewReader(bytes.NewReader(otherSection()))
	if err != nil {
		t.Fatal(err)
	}
	var got []Packet
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		q := *p
		q.Data, q.Options = bytes.Clone(p.Data), bytes.Clone(p.Options)
		got = append(got, q)
	}
	le := binary.LittleEndian
	options := pcapng.AppendOption(nil, pcapng.OptComment, []byte("two"))
	options = pcapng.AppendOption(options, pcapng.OptDropCount, le.AppendUint64(nil, 3))
	options = pcapng.AppendOption(options, pcapng.OptQueue, le.AppendUint32(nil, 4))
	options = pcapng.AppendOption(options, pcapng.OptProcess, le.AppendUint32(le.AppendUint32(nil, 5), 6))
	want := []Packet{
		{Interface: 0, Time: 5, OrigLen: 2, Flags: 1, Options: one(), Data: []byte("ab")},
		{Interface: 1, Time: 7e6, OrigLen: 9, Flags: 2, Options: options, Data: []byte("c")},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("packets (-want +got):\n%s", d)
	}
	interfaces := []Interface{{Name: "little", LinkType: 1, SnapLen: 96}, {Name: "gr?n", LinkType: 276, Says: Says{Resolution: "10^-3"}}}
	if d := cmp.Diff(interfaces, []Interface{r.Interface(0), r.Interface(1)}); d != "" {
		t.Errorf("interfaces (-want +got):\n%s", d)
	}
	skipped := map[string]int{"hash or verdict of a packet": 1, "option of a packet, of unknown byte order": 1}
	if d := cmp.Diff(skipped, r.Skipped()); d != "" {
		t.Errorf("skipped (-want +got):\n%s", d)
	}
}

// TestBeside: what is not a packet is counted, drops are added up over interfaces
// and sections, and unknown blocks are one kind however many types they have.
func TestBeside(t *testing.T) {
	count := func(n uint64) *uint64 { return &n }
	var b []byte
	for range 2 {
		b = pcapng.AppendSectionHeader(b, pcapng.SectionHeader{Comment: "why"})
		b = pcapng.AppendInterface(b, pcapng.Interface{LinkType: 1, TSResol: 9})
		b = pcapng.AppendInterface(b, pcapng.Interface{LinkType: 1, TSResol: 9, TSOffset: math.MaxInt64})
		b = pcapng.AppendPacket(b, &pcapng.Packet{Time: 1, OrigLen: 1, Data: []byte{1}})
		b = pcapng.AppendPacket(b, &pcapng.Packet{Interface: 1, Time: 1, OrigLen: 1, Data: []byte{1}})
		b = append(b, 3, 0, 0, 0, 20, 0, 0, 0, 2, 0, 0, 0, 'h', 'i', 0, 0, 20, 0, 0, 0)
		b = pcapng.AppendStatistics(b, &pcapng.Statistics{IfDrop: count(3), OSDrop: count(4)})
		b = pcapng.AppendStatistics(b, &pcapng.Statistics{IfDrop: count(10), OSDrop: count(20)})
		b = pcapng.AppendStatistics(b, &pcapng.Statistics{Interface: 1, OSDrop: count(math.MaxUint64)})
		for _, typ := range []byte{9, 10, 0x42, 0x43} {
			b = append(b, typ, 0, 0, 0, 12, 0, 0, 0, 12, 0, 0, 0)
		}
	}
	times, _, err := readAll(b)
	if d := cmp.Diff([]int64{1, 1, 1, 1}, times); d != "" || err != nil {
		t.Errorf("times (-want +got), error %v:\n%s", err, d)
	}
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = r.Next()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	skipped := map[string]int{
		"systemd journal": 2, "decryption secrets": 2, "block of a type that is not known": 4,
		"counts of lost packets that are not known": 2,
	}
	if d := cmp.Diff(skipped, r.Skipped()); d != "" {
		t.Errorf("skipped (-want +got):\n%s", d)
	}
	if d := cmp.Diff(map[string]int{"packets of a time before 1970 or after 2262": 2}, r.Lost()); d != "" {
		t.Errorf("lost (-want +got):\n%s", d)
	}
	if r.Untimed() != 2 {
		t.Errorf("%d packets without a time, want 2", r.Untimed())
	}
	if d := cmp.Diff([]Loss{{Interface: 0, Dropped: 30}, {Interface: 2, Dropped: 30}}, r.Losses()); d != "" {
		t.Errorf("losses (-want +got):\n%s", d)
	}
}

func TestFCSLength(t *testing.T) {
	b := file(binary.LittleEndian, magicMicros, 0)
	binary.LittleEndian.PutUint32(b[20:], 2<<28|hasFCS|1)
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if r.Interface(0).LinkType != 1 || len(r.Skipped()) != 1 {
		t.Errorf("link type %d, skipped %v, want 1 and a note", r.Interface(0).LinkType, r.Skipped())
	}
}

// TestVariants: files that pass for pcap and are not are refused by name, and no
// other is.
func TestVariants(t *testing.T) {
	le := binary.LittleEndian
	variant := func(minor uint16, link uint32, extra []byte) []byte {
		b := file(le, magicMicros, 0)[:24]
		le.PutUint16(b[6:], minor)
		le.PutUint32(b[20:], link)
		for i := range uint32(3) {
			for _, n := range []uint32{1700000000 + i, 123456, 60, 60} {
				b = le.AppendUint32(b, n)
			}
			b = append(append(b, extra...), bytes.Repeat([]byte{0x80 + byte(i)}, 60)...)
		}
		return b
	}
	for _, tt := range []struct {
		name  string
		file  []byte
		maker string
	}{
		{"plain", variant(4, 1, nil), ""},
		{"old", variant(2, 1, nil), ""},
		{"AIX", variant(2, 6, nil), "AIX"},
		{"Nokia", variant(4, 1, []byte{0, 0, 0, 1}), "Nokia"},
		{"patched", variant(4, 1, []byte{1, 0, 0, 0, 0, 8, 0, 0}), "modified tcpdump"},
		{"one packet", variant(4, 1, []byte{0, 0, 0, 1})[:24+16+60], ""},
	} {
		_, err := NewReader(bytes.NewReader(tt.file))
		if refused := err != nil; refused != (tt.maker != "") || refused && !strings.Contains(err.Error(), tt.maker) {
			t.Errorf("%s: error %v, want %q", tt.name, err, tt.maker)
		}
	}
}

type failing struct{ r io.Reader }

func (f failing) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	if errors.Is(err, io.EOF) {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// TestReadFails: a disk that fails is no damaged capture, below gzip either.
func TestReadFails(t *testing.T) {
	plain := file(binary.LittleEndian, magicMicros, 0)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(plain)
	z.Close()
	for name, b := range map[string][]byte{
		"plain": plain, "gzip": packed.Bytes()[:packed.Len()-6], "gzip header": packed.Bytes()[:5], "nothing": nil,
	} {
		r, err := NewReader(failing{bytes.NewReader(b)})
		for err == nil {
			_, err = r.Next()
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ErrFormat) || errors.Is(err, ErrTruncated) {
			t.Errorf("%s: error %v, want that of the disk", name, err)
		}
	}
}

// TestSays: what a section and its interfaces say is kept, of either byte order;
// what makes no sense is counted.
func TestSays(t *testing.T) {
	ipv6 := make([]byte, 16, 17)
	copy(ipv6, []byte{0xfe, 0x80})
	var section, iface []byte
	for _, o := range [][]byte{
		option(pcapng.OptHardware, 2, 'H', 'W'), option(pcapng.OptOS, 2, 'O', 'S'), option(pcapng.OptApplication, 3, 'A', 'p', 'p'),
		option(pcapng.OptComment, 1, 'a'), option(pcapng.OptComment, 1, 'b'), option(99, 1, 1),
	} {
		section = append(section, o...)
	}
	for _, o := range [][]byte{
		option(pcapng.OptIfName, 4, []byte("eth0")...), option(pcapng.OptIfFilter, 12, []byte("\x00tcp port 80")...),
		option(pcapng.OptIfOS, 5, []byte("Linux")...), option(pcapng.OptIfHardware, 3, []byte("NIC")...),
		option(pcapng.OptIfSpeed, 8, 0, 0, 0, 0, 0x3b, 0x9a, 0xca, 0), option(pcapng.OptIfMAC, 6, 2, 0, 0, 0, 0, 1),
		option(pcapng.OptIfIPv4, 8, 10, 0, 0, 1, 255, 255, 255, 0), option(pcapng.OptIfIPv6, 17, append(ipv6, 64)...),
		option(pcapng.OptComment, 3, []byte("why")...), option(pcapng.OptIfTSResol, 1, 0x80|20),
		option(pcapng.OptIfIPv4, 8, 10, 0, 0, 1, 0, 255, 0, 255), option(pcapng.OptIfMAC, 5, 2, 0, 0, 0, 0), option(99, 1, 1),
	} {
		iface = append(iface, o...)
	}
	b := bigEndian(nil).block(pcapng.BlockSHB, append([]byte{0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255}, section...)...)
	b = b.block(pcapng.BlockIDB, append([]byte{0, 1, 0, 0, 0, 0, 0, 96}, iface...)...)
	b = b.block(pcapng.BlockIDB, append([]byte{0, 1, 0, 0, 0, 0, 0, 96}, option(pcapng.OptIfFilter, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0)...)...)
	b = b.section() // and another, which says nothing
	b = b.block(pcapng.BlockIDB, 0, 1, 0, 0, 0, 0, 0, 96)
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	capture := Capture{Comment: "a; b", Hardware: "HW", OS: "OS", Application: "App"}
	want := []Interface{
		{Name: "eth0", LinkType: 1, SnapLen: 96, Capture: capture, Says: Says{
			Comment: "why", Filter: "tcp port 80", OS: "Linux", Hardware: "NIC", MAC: "02:00:00:00:00:01",
			Addresses: "10.0.0.1/24 fe80::/64", Speed: "1000000000", Resolution: "2^-20",
		}},
		{LinkType: 1, SnapLen: 96, Capture: capture, Says: Says{Resolution: "10^-6"}},
		{LinkType: 1, SnapLen: 96, Says: Says{Resolution: "10^-6"}},
	}
	var got []Interface
	for i := range r.Interfaces() {
		got = append(got, r.Interface(i))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("interfaces (-want +got):\n%s", d)
	}
	skipped := map[string]int{
		"option of a section that is not known": 1, "option of an interface that is not known": 1,
		"address of an interface that makes no sense": 2, "capture filter that is not text": 1,
	}
	if d := cmp.Diff(skipped, r.Skipped()); d != "" {
		t.Errorf("skipped (-want +got):\n%s", d)
	}
}
