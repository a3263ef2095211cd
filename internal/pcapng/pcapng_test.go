package pcapng

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func ptr[T any](v T) *T { return &v }

// A UDP packet from 127.0.0.1:5353 to 127.0.0.1:53, with five bytes.
var udp = []byte{
	0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00,
	0x45, 0, 0, 33, 0, 1, 0, 0, 64, 17, 0x7c, 0xc9, 127, 0, 0, 1, 127, 0, 0, 1,
	0x14, 0xe9, 0, 53, 0, 13, 0, 0, 'h', 'e', 'l', 'l', 'o',
}

// golden is one section with every block that the package writes.
func golden() []byte {
	b := AppendSectionHeader(nil, SectionHeader{
		Hardware: "a machine", OS: "Linux", Application: "pcapsule", Comment: "a comment",
	})
	b = AppendInterface(b, Interface{
		LinkType: 1, SnapLen: 262144, Name: "eth0", Description: "of the test", TSResol: Nanoseconds,
		Filter: "udp", OS: "Linux 6", Hardware: "virtio",
	})
	b = AppendInterface(b, Interface{LinkType: 101, SnapLen: 262144, Name: "tun0", TSResol: Nanoseconds})
	b = AppendPacket(b, &Packet{Time: 1700000000123456789, OrigLen: uint32(len(udp)), Data: udp})
	b = AppendPacket(b, &Packet{
		Interface: 1, Time: 1700000000123456790, OrigLen: 1400, Flags: 2 | 1<<9,
		Options: AppendOption(AppendOption(nil, OptComment, []byte("one")), OptComment, []byte("second")),
		Data:    udp[14:],
	})
	b = AppendPacket(b, &Packet{
		Time: 1700000001000000000, OrigLen: 4, Data: udp[:4],
		Options: AppendOption(nil, OptComment, []byte("without flags")),
	})
	b = AppendStatistics(b, &Statistics{
		Time: 1700000002000000000, Start: ptr(int64(1700000000000000000)), End: ptr(int64(1700000002000000000)),
		Received: ptr(uint64(2)), IfDrop: ptr(uint64(7)), OSDrop: ptr(uint64(8)),
		FilterAccept: ptr(uint64(9)), Delivered: ptr(uint64(2)),
	})
	return AppendStatistics(b, &Statistics{Interface: 1, Time: 1700000002000000000, Received: ptr(uint64(1))})
}

var goldenFile = filepath.Join("testdata", "section.pcapng")

func TestGolden(t *testing.T) {
	got := golden()
	if *update {
		if err := os.WriteFile(goldenFile, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("bytes (-golden +written):\n%s", diff)
	}
}

// run runs an independent reader. A machine that lacks it may skip the test,
// unless it is one that could install it.
func run(t *testing.T, name string, arg ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getuid() == 0 {
			t.Fatalf("%s is needed: %v", name, err)
		}
		t.Skipf("%s is needed: %v", name, err)
	}
	cmd := exec.Command(name, arg...)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, arg, err, &stderr)
	}
	return string(out)
}

func TestTshark(t *testing.T) {
	got := run(t, "tshark", "-n", "-r", goldenFile, "-T", "fields", "-E", "occurrence=a", "-E", "separator=|",
		"-e", "frame.time_epoch", "-e", "frame.interface_name", "-e", "frame.interface_description",
		"-e", "frame.cap_len", "-e", "frame.len", "-e", "frame.packet_flags", "-e", "frame.comment",
		"-e", "udp.dstport")
	want := strings.Join([]string{
		"1700000000.123456789|eth0|of the test|47|47|||53",
		"1700000000.123456790|tun0||33|1400|0x00000202|one,second|53",
		"1700000001.000000000|eth0|of the test|4|4||without flags|",
		"",
	}, "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tshark (-want +got):\n%s", diff)
	}
}

func TestCapinfos(t *testing.T) {
	got := run(t, "capinfos", goldenFile)
	for _, want := range []string{
		"File timestamp precision:  nanoseconds",
		"Number of packets:   3",
		"Capture application: pcapsule",
		"Capture oper-sys:    Linux",
		"Capture hardware:    a machine",
		"Capture comment:     a comment",
		"Number of interfaces in file: 2",
		"Name = eth0", "Description = of the test", "Capture length = 262144", "Filter string = udp",
		"Operating system = Linux 6", "Hardware = virtio", "Encapsulation = Raw IP",
		"Number of stat entries = 1", "Number of packets = 2",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("capinfos does not say %q:\n%s", want, got)
		}
	}
}

// walk parses every block of a section and writes it again.
func walk(b []byte) ([]byte, error) {
	var out []byte
	for len(b) > 0 {
		typ, total, err := Header(b)
		if err != nil {
			return nil, err
		}
		if uint64(total) > uint64(len(b)) {
			return nil, malformed("block ends after the file")
		}
		block := b[:total]
		b = b[total:]
		switch typ {
		case BlockSHB:
			h, err := ParseSectionHeader(block)
			if err != nil {
				return nil, err
			}
			out = AppendSectionHeader(out, h)
		case BlockIDB:
			i, err := ParseInterface(block)
			if err != nil {
				return nil, err
			}
			out = AppendInterface(out, i)
		case BlockISB:
			s, err := ParseStatistics(block)
			if err != nil {
				return nil, err
			}
			out = AppendStatistics(out, &s)
		case BlockEPB:
			var p Packet
			if err := ParsePacket(block, &p); err != nil {
				return nil, err
			}
			if err := CheckOptions(p.Options); err != nil {
				return nil, err
			}
			if n := PacketSize(&p); len(AppendPacket(nil, &p)) != n {
				return nil, errors.New("PacketSize is wrong")
			}
			out = AppendPacket(out, &p)
		default:
			return nil, malformed("type %d", typ)
		}
	}
	return out, nil
}

func TestRoundTrip(t *testing.T) {
	want := golden()
	got, err := walk(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("parsed and written again (-want +got):\n%s", diff)
	}
}

func TestInterfaceDefaults(t *testing.T) {
	want := Interface{LinkType: 276, SnapLen: 0, TSResol: 6, TSOffset: -3600}
	got, err := ParseInterface(AppendInterface(nil, want))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("with an offset (-want +got):\n%s", diff)
	}
	bare := finish(append(begin(nil, BlockIDB), 1, 0, 0, 0, 0, 0, 4, 0), 0)
	got, err = ParseInterface(bare)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Interface{LinkType: 1, SnapLen: 262144, TSResol: 6}, got); diff != "" {
		t.Errorf("without options (-want +got):\n%s", diff)
	}
}

func TestLongStringsAreCut(t *testing.T) {
	got, err := ParseInterface(AppendInterface(nil, Interface{
		Name: strings.Repeat("ä", 40000), Filter: strings.Repeat("x", 70000),
	}))
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Repeat("ä", 32767); got.Name != want {
		t.Errorf("name of %d bytes, want %d", len(got.Name), len(want))
	}
	if len(got.Filter) != 65534 {
		t.Errorf("filter of %d bytes, want 65534", len(got.Filter))
	}
}

func TestFlagsAnywhere(t *testing.T) {
	comment := AppendOption(nil, OptComment, []byte("c"))
	queue := AppendOption(nil, OptQueue, []byte{1, 0, 0, 0})
	flags := AppendOption(nil, OptFlags, []byte{5, 0, 0, 0})
	end := []byte{0, 0, 0, 0}
	cat := func(bs ...[]byte) []byte { return bytes.Join(bs, nil) }
	tests := []struct {
		name    string
		options []byte
		want    Packet
		bad     bool
	}{
		{"none", nil, Packet{}, false},
		{"end alone", end, Packet{}, false},
		{"first", cat(flags, comment, queue, end), Packet{Flags: 5, Options: cat(comment, queue)}, false},
		{"between", cat(comment, flags, queue, end), Packet{Flags: 5, Options: cat(comment, queue)}, false},
		{"last", cat(comment, queue, flags, end), Packet{Flags: 5, Options: cat(comment, queue)}, false},
		{"alone", cat(flags, end), Packet{Flags: 5}, false},
		{"no end", cat(comment, flags), Packet{Flags: 5, Options: comment}, false},
		{"twice", cat(flags, flags, end), Packet{}, true},
		{"after the end", cat(end, flags), Packet{}, true},
		{"end with a value", []byte{0, 0, 1, 0, 0, 0, 0, 0}, Packet{}, true},
		{"too long", []byte{1, 0, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8}, Packet{}, true},
		{"flags of two bytes", []byte{2, 0, 2, 0, 1, 0, 0, 0}, Packet{}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := AppendPacket(nil, &Packet{Data: []byte{1, 2, 3}})
			b = finish(append(b[:len(b)-4], tt.options...), 0)
			var p Packet
			err := ParsePacket(b, &p)
			if tt.bad {
				if !errors.Is(err, ErrMalformed) {
					t.Fatalf("error %v, want ErrMalformed", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tt.want.Data = []byte{1, 2, 3}
			if diff := cmp.Diff(tt.want, p); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestMalformed(t *testing.T) {
	packet := AppendPacket(nil, &Packet{OrigLen: 5, Flags: 1, Data: []byte("abcde")})
	set := func(b []byte, at int, v uint32) []byte {
		b = bytes.Clone(b)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	shb := AppendSectionHeader(nil, SectionHeader{})
	isb := AppendStatistics(nil, &Statistics{Received: ptr(uint64(1))})
	idb := AppendInterface(nil, Interface{})
	anyPacket := func(b []byte) error { return ParsePacket(b, new(Packet)) }
	anySection := func(b []byte) error { _, err := ParseSectionHeader(b); return err }
	anyStatistics := func(b []byte) error { _, err := ParseStatistics(b); return err }
	anyInterface := func(b []byte) error { _, err := ParseInterface(b); return err }
	tests := []struct {
		name  string
		parse func([]byte) error
		block []byte
	}{
		{"nothing", anyPacket, nil},
		{"another type", anyPacket, shb},
		{"cut short", anyPacket, packet[:len(packet)-4]},
		{"one too many", anyPacket, append(bytes.Clone(packet), 0, 0, 0, 0)},
		{"total lengths differ", anyPacket, set(packet, len(packet)-4, 12)},
		{"total length odd", anyPacket, set(packet, 4, uint32(len(packet)+1))},
		{"no room for the fields", anyPacket, finish(begin(nil, BlockEPB), 0)},
		{"captured length too long", anyPacket, set(packet, OffsetCapLen, 100)},
		{"captured length wraps", anyPacket, set(packet, OffsetCapLen, 1<<32-1)},
		{"big-endian section", anySection, set(shb, 8, 0x4D3C2B1A)},
		{"version 2", anySection, set(shb, 12, 2)},
		{"counter of four bytes", anyStatistics, set(isb, 20, OptReceived|4<<16)},
		{"resolution of no bytes", anyInterface, set(idb, 16, OptIfTSResol)},
		{"filter without kind", anyInterface, set(idb, 16, OptIfFilter)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.parse(tt.block); !errors.Is(err, ErrMalformed) {
				t.Errorf("error %v, want ErrMalformed", err)
			}
		})
	}
}

func TestNoAllocations(t *testing.T) {
	buf := make([]byte, 0, 4096)
	p := Packet{Time: 1, OrigLen: 60, Flags: 1, Data: udp, Options: AppendOption(nil, OptComment, []byte("c"))}
	n := uint64(1)
	s := Statistics{Received: &n}
	i := Interface{Name: "eth0", Filter: "udp", TSResol: 9}
	h := SectionHeader{Application: "pcapsule"}
	var q Packet
	got := testing.AllocsPerRun(100, func() {
		b := AppendStatistics(AppendInterface(AppendSectionHeader(buf, h), i), &s)
		b = AppendPacket(b, &p)
		if err := ParsePacket(b[len(b)-PacketSize(&p):], &q); err != nil {
			t.Fatal(err)
		}
	})
	if got != 0 {
		t.Errorf("%v allocations, want none", got)
	}
}

func FuzzWalk(f *testing.F) {
	f.Add(golden())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		once, err := walk(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		twice, err := walk(once)
		if err != nil {
			t.Fatalf("cannot parse what it wrote: %v", err)
		}
		if !bytes.Equal(once, twice) {
			t.Fatal("written again, it differs")
		}
	})
}

func FuzzPacket(f *testing.F) {
	f.Add(uint32(0), int64(1700000000123456789), uint32(47), uint32(2), []byte{}, udp)
	f.Add(uint32(9), int64(-1), uint32(0), uint32(0), AppendOption(nil, OptComment, []byte("c")), []byte{})
	f.Fuzz(func(t *testing.T, ifc uint32, tm int64, orig, flags uint32, opts, data []byte) {
		if CheckOptions(opts) != nil {
			opts = nil
		}
		want := Packet{ifc, tm, orig, flags, opts, data}
		prefix := []byte("before")
		b := AppendPacket(prefix, &want)
		if !bytes.HasPrefix(b, prefix) {
			t.Fatal("what was there is changed")
		}
		var got Packet
		if err := ParsePacket(b[len(prefix):], &got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Options, want.Options) || !bytes.Equal(got.Data, want.Data) {
			t.Fatal("options or data differ")
		}
		got.Options, got.Data = want.Options, want.Data
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func BenchmarkAppendPacket(b *testing.B) {
	p := Packet{Time: 1, OrigLen: 1400, Flags: 1, Data: make([]byte, 1400)}
	buf := make([]byte, 0, 1<<16)
	b.SetBytes(int64(PacketSize(&p)))
	for b.Loop() {
		if cap(buf)-len(buf) < 2048 {
			buf = buf[:0]
		}
		buf = AppendPacket(buf, &p)
	}
}

func BenchmarkParsePacket(b *testing.B) {
	p := Packet{Time: 1, OrigLen: 1400, Flags: 1, Data: make([]byte, 1400)}
	buf := AppendPacket(nil, &p)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if err := ParsePacket(buf, &p); err != nil {
			b.Fatal(err)
		}
	}
}
