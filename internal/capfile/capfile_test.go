package capfile

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	_ "github.com/google/gopacket" // for its test captures
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"pcapsule/internal/pcapng"
)

// realCaptures are the test captures of the gopacket module: pcap of three link
// types, and pcapng of both byte orders with every kind of block.
func realCaptures(tb testing.TB) []string {
	tb.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/gopacket").Output()
	if err != nil {
		tb.Fatalf("find the gopacket module: %v", err)
	}
	var files []string
	for _, glob := range []string{"pcap/*.pcap", "pcapgo/tests/*/*.pcapng"} {
		m, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), glob))
		if err != nil {
			tb.Fatal(err)
		}
		files = append(files, m...)
	}
	if len(files) < 50 {
		tb.Fatalf("%d captures in the gopacket module, want at least 50", len(files))
	}
	return files
}

type sum struct {
	Packets, Bytes int
	Start, End     string
}

// TestAgainstCapinfos reads real captures and holds number, size and times of the
// packets against what Wireshark's capinfos reads.
func TestAgainstCapinfos(t *testing.T) {
	files := realCaptures(t)
	// It fails on files that hold what it does not know, after listing all.
	out, _ := exec.Command("capinfos", append([]string{"-T", "-r", "-B", "-c", "-d", "-a", "-e", "-S"}, files...)...).Output()
	compared := 0
	for line := range strings.Lines(string(out)) {
		col := strings.Split(strings.TrimSpace(line), "\t")
		if len(col) != 5 {
			continue
		}
		t.Run(filepath.Base(filepath.Dir(col[0]))+"/"+filepath.Base(col[0]), func(t *testing.T) {
			var want sum
			want.Packets, _ = strconv.Atoi(col[1])
			want.Bytes, _ = strconv.Atoi(col[2])
			want.Start, want.End = col[3], col[4]
			got, timed := sumUp(t, col[0])
			if !timed || want.Start == "n/a" { // simple packet blocks have no time
				got.Start, got.End, want.Start, want.End = "", "", "", ""
			} else {
				// capinfos cuts times to the file's resolution.
				got.Start, got.End = got.Start[:min(len(got.Start), len(want.Start))], got.End[:min(len(got.End), len(want.End))]
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("capinfos and this reader differ (-capinfos +got):\n%s", d)
			}
			compared++
		})
	}
	if compared < 50 {
		t.Errorf("compared %d captures, want at least 50", compared)
	}
}

func sumUp(t *testing.T, name string) (s sum, timed bool) {
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	first, last := int64(math.MaxInt64), int64(0)
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		s.Packets++
		s.Bytes += int(p.OrigLen)
		first, last = min(first, p.Time), max(last, p.Time)
	}
	s.Start, s.End = fmt.Sprintf("%d.%09d", first/1e9, first%1e9), fmt.Sprintf("%d.%09d", last/1e9, last%1e9)
	return s, s.Packets > 0
}

// file is a pcap of two packets in the given byte order and magic.
func file(order binary.AppendByteOrder, magic uint32, frac uint32) []byte {
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(b, 2)
	b = order.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = order.AppendUint32(b, 65535)
	b = order.AppendUint32(b, 113)
	for i := range uint32(2) {
		b = order.AppendUint32(b, 1700000000+i)
		b = order.AppendUint32(b, frac)
		b = order.AppendUint32(b, 4)
		b = order.AppendUint32(b, 60)
		if magic == magicModified {
			b = append(b, 9, 9, 9, 9, 9, 9, 9, 9)
		}
		b = append(b, 0xde, 0xad, 0xbe, byte(i))
	}
	return b
}

// errPromise says that a packet is not what Packet promises.
var errPromise = errors.New("no chunk can hold this packet")

func readAll(b []byte) (times []int64, data [][]byte, err error) {
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, nil, err
	}
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return times, data, nil
		}
		if err != nil {
			return times, data, err
		}
		if int(p.OrigLen) < len(p.Data) || p.Time < 0 || pcapng.CheckOptions(p.Options) != nil {
			return nil, nil, fmt.Errorf("%w: %+v", errPromise, p)
		}
		r.Interface(p.Interface)
		times, data = append(times, p.Time), append(data, bytes.Clone(p.Data))
	}
}

func TestPcapVariants(t *testing.T) {
	want := []int64{1700000000123456000, 1700000001123456000}
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		for magic, frac := range map[uint32]uint32{magicMicros: 123456, magicNanos: 123456000, magicModified: 123456} {
			times, data, err := readAll(file(order, magic, frac))
			if err != nil {
				t.Fatalf("%v %#x: %v", order, magic, err)
			}
			if d := cmp.Diff(want, times); d != "" {
				t.Errorf("%v %#x: times (-want +got):\n%s", order, magic, d)
			}
			if d := cmp.Diff([][]byte{{0xde, 0xad, 0xbe, 0}, {0xde, 0xad, 0xbe, 1}}, data); d != "" {
				t.Errorf("%v %#x: data (-want +got):\n%s", order, magic, d)
			}
		}
	}
}

func TestCompressed(t *testing.T) {
	plain := file(binary.LittleEndian, magicMicros, 1)
	wrap := map[string]func(io.Writer) io.WriteCloser{
		"gzip": func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"lz4":  func(w io.Writer) io.WriteCloser { return lz4.NewWriter(w) },
		"zstd": func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z },
		"old lz4": func(w io.Writer) io.WriteCloser {
			z := lz4.NewWriter(w)
			z.Apply(lz4.LegacyOption(true))
			return z
		},
	}
	pack := func(kind string, b []byte) []byte {
		var out bytes.Buffer
		w := wrap[kind](&out)
		w.Write(b)
		w.Close()
		return out.Bytes()
	}
	for kind := range wrap {
		packed := pack(kind, plain)
		if _, data, err := readAll(packed); err != nil || len(data) != 2 {
			t.Errorf("%s: %d packets, %v", kind, len(data), err)
		}
		if _, data, err := readAll(pack("gzip", packed)); err != nil || len(data) != 2 {
			t.Errorf("gzip of %s: %d packets, %v", kind, len(data), err)
		}
		if _, _, err := readAll(packed[:len(packed)-3]); err == nil {
			t.Errorf("%s: a file cut off reads as whole", kind)
		}
		// pzstd begins its files with a frame to be skipped, and anyone may.
		skippable := []byte{0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'}
		if _, data, err := readAll(slices.Concat(skippable, packed)); err != nil || len(data) != 2 {
			t.Errorf("%s after a skippable frame: %d packets, %v", kind, len(data), err)
		}
		if _, _, err := readAll(skippable[:10]); !errors.Is(err, ErrFormat) {
			t.Errorf("a skippable frame cut off: %v", err)
		}
	}
}

// TestCutOff cuts captures at every byte: all whole packets come out, then
// ErrTruncated, unless the cut is between packets.
func TestCutOff(t *testing.T) {
	ng := pcapng.AppendSectionHeader(nil, pcapng.SectionHeader{})
	ng = pcapng.AppendInterface(ng, pcapng.Interface{LinkType: 1, TSResol: 9})
	head := len(ng)
	for i := range 3 {
		ng = pcapng.AppendPacket(ng, &pcapng.Packet{Time: int64(i), OrigLen: 5, Flags: 1, Data: []byte("hello")})
	}
	pcap := file(binary.BigEndian, magicMicros, 0)
	for _, tt := range []struct {
		name       string
		b          []byte
		head, each int
	}{{"pcapng", ng, head, (len(ng) - head) / 3}, {"pcap", pcap, 24, 20}} {
		for n := tt.head; n <= len(tt.b); n++ {
			_, data, err := readAll(tt.b[:n])
			if want := (n - tt.head) / tt.each; len(data) != want {
				t.Fatalf("%s cut at %d: %d packets, want %d", tt.name, n, len(data), want)
			}
			if clean := (n-tt.head)%tt.each == 0; clean != (err == nil) || !clean && !errors.Is(err, ErrTruncated) {
				t.Fatalf("%s cut at %d: error %v", tt.name, n, err)
			}
		}
	}
}

func TestClock(t *testing.T) {
	for _, tt := range []struct {
		ticks      uint64
		resolution byte
		offset     int64
		want       int64 // -1: refused
	}{
		{1, 0, 0, 1e9},
		{1700000000123456, 6, 0, 1700000000123456000},
		{1700000000123456789, 9, 0, 1700000000123456789},
		{170000000012345678, 8, 5, 1700000005123456780},
		{5_000, 12, 0, 5},
		{3 << 20, 0x80 | 20, 0, 3e9},
		{1700000000 << 31, 0x80 | 31, 0, 1700000000e9},
		{7, 0x80, 0, 7e9},
		{1, 0xff, 0, 0},
		{10, 0, -3, 7e9},
		{1, 0, -2, -1},
		{math.MaxUint64, 9, 0, -1},
		{math.MaxUint64, 0, 0, -1},
		{math.MaxUint64, 0x80, 0, -1},
		{1, 9, math.MaxInt64, -1},
		{math.MaxInt64, 9, 1, -1},
		{math.MaxInt64, 9, 0, -1}, // no interval could end after it
		{math.MaxInt64 - 1, 9, 0, math.MaxInt64 - 1},
		{10_000_000_000, 0, -10_000_000_000 + 5, -1},
		{18_000_000_000, 0, -9_000_000_000, 9_000_000_000e9},
		{18_000_000_000_000_000_000, 9, -9_000_000_000, 9_000_000_000e9},
		{1 << 63, 0x80 | 64, 0, 5e8},
	} {
		got, ok := clock{resolution: tt.resolution, offset: tt.offset}.nanoseconds(tt.ticks)
		if !ok {
			got = -1
		}
		if got != tt.want {
			t.Errorf("%d ticks of resolution %#x, offset %d: %d, want %d", tt.ticks, tt.resolution, tt.offset, got, tt.want)
		}
	}
}

func TestOptionsKept(t *testing.T) {
	comment := pcapng.AppendOption(nil, pcapng.OptComment, []byte("look here"))
	opts := pcapng.AppendOption(comment, pcapng.OptHash, []byte{2, 1, 2, 3, 4})
	b := pcapng.AppendSectionHeader(nil, pcapng.SectionHeader{})
	b = pcapng.AppendInterface(b, pcapng.Interface{LinkType: 1, TSResol: 9, Name: "eth0\x1b[2J"})
	b = pcapng.AppendPacket(b, &pcapng.Packet{Time: 1, OrigLen: 1, Flags: 0x602, Options: opts, Data: []byte{1}})
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	p, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	if p.Flags != 0x602 || !bytes.Equal(p.Options, comment) {
		t.Errorf("flags %#x, options % x, want 0x602 and the comment alone", p.Flags, p.Options)
	}
	if got := r.Interface(0).Name; got != "eth0?[2J" {
		t.Errorf("interface %q: what a terminal would obey must not come through", got)
	}
}

func TestNoCapture(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":         {},
		"three bytes":   {1, 2, 3},
		"text":          []byte("#!/bin/sh\necho\n"),
		"header only":   file(binary.LittleEndian, magicMicros, 0)[:20],
		"odd magic":     append([]byte{0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0}, make([]byte, 20)...),
		"giant packet":  giant(),
		"gzip of noise": {0x1f, 0x8b, 9, 9, 9, 9, 9, 9, 9, 9, 9},
	} {
		if _, _, err := readAll(b); err == nil || !errors.Is(err, ErrFormat) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want one line that wraps ErrFormat", name, err)
		}
	}
}

func giant() []byte {
	b := file(binary.LittleEndian, magicMicros, 0)
	binary.LittleEndian.PutUint32(b[24+8:], math.MaxUint32)
	return b
}

func FuzzReader(f *testing.F) {
	f.Add(file(binary.LittleEndian, magicMicros, 1))
	f.Add(file(binary.BigEndian, magicModified, 1))
	f.Add([]byte(otherSection()))
	for _, name := range realCaptures(f) {
		if b, err := os.ReadFile(name); err == nil && len(b) < 10_000 {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, err := readAll(b)
		if errors.Is(err, errPromise) || err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrTruncated) {
			t.Fatal(err)
		}
	})
}
