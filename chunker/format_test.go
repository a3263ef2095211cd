package chunker_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pierrec/lz4/v4"

	"pcapsule/chunker"
)

var update = flag.Bool("update", false, "rewrite the golden chunks in testdata")

// samplePackets has one of each thing that a packets chunk can hold.
func samplePackets() []packet {
	cni := chunker.Interface{Name: "cni0", LinkType: 1}
	raw := chunker.Interface{Name: "tün0", Description: "a tunnel", LinkType: 101}
	syn := "\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01\x08\x00" +
		"\x45\x00\x00\x28\x00\x01\x00\x00\x40\x06\x66\xcd\x0a\x00\x00\x01\x0a\x00\x00\x02" +
		"\x04\xd2\x00\x50\x00\x00\x00\x01\x00\x00\x00\x00\x50\x02\x20\x00\x8f\x2f\x00\x00"
	ping := "\x45\x00\x00\x1c\x00\x01\x00\x00\x40\x01\x66\xde\x0a\x00\x00\x01\x0a\x00\x00\x02\x08\x00\xf7\xfd\x00\x01\x00\x01"
	t := int64(1_764_000_000_123_456_789)
	list := []packet{
		{Time: t, Interface: eth0, OrigLen: 54, Flags: chunker.FlagOutbound | chunker.FlagChecksumNotReady, Data: syn},
		{Time: t, Interface: cni, OrigLen: 54, Flags: chunker.FlagInbound | chunker.FlagChecksumValid, Data: syn},
		{Time: t + 1, Interface: raw, OrigLen: 28, Data: ping},
		{Time: t + 1_000_000_000, Interface: eth0, OrigLen: 1514, Data: syn[:33]},
		{Time: t + 1_000_000_001, Interface: eth0, OrigLen: 54, Flags: chunker.FlagInbound, Options: "\x01\x00\x05\x00hello\x00\x00\x00", Data: syn},
	}
	for i := range 40 {
		list = append(list, packet{Time: t + 2_000_000_000 + int64(i), Interface: cni, OrigLen: 54, Data: syn})
	}
	return list
}

var sampleEvents = []string{
	`{"ts":"1764000000123456789","kind":"exec","argv":["ls","-l"],"pid":42}`,
	`{"ts":"1764000000123456789","kind":"exit","pid":42,"code":0}`,
	`{"ts":"1764000001000000000"}`,
}

func writeSamplePackets(t testing.TB) chunk {
	t.Helper()
	var out bytes.Buffer
	w, err := chunker.NewWriter(&out, chunker.Packets, header)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range samplePackets() {
		if err := w.Record(record(w, p)); err != nil {
			t.Fatal(err)
		}
		if i == 3 {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	return closed(t, w, &out, 3)
}

func writeSampleEvents(t testing.TB, drops uint64) chunk {
	t.Helper()
	var out bytes.Buffer
	w, err := chunker.NewWriter(&out, chunker.OS, header)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range sampleEvents {
		var at int64
		_, _ = fmt.Sscanf(line, `{"ts":"%d"`, &at)
		if err := w.Event(at, []byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	return closed(t, w, &out, drops)
}

func closed(t testing.TB, w *chunker.Writer, out *bytes.Buffer, drops uint64) chunk {
	t.Helper()
	meta, err := w.Close(drops)
	if err != nil {
		t.Fatal(err)
	}
	if int64(out.Len()) != meta.Size || chunker.HashOf(out.Bytes()) != meta.Hash {
		t.Fatalf("the chunk is not what its meta says: %+v", meta)
	}
	return chunk{meta, out.Bytes()}
}

// TestGolden holds the bytes of small chunks. They may change when the
// compressor does; what older ones hold must be readable for ever.
func TestGolden(t *testing.T) {
	for name, c := range map[string]chunk{
		"packets.pcapng.lz4": writeSamplePackets(t),
		"events.ndjson.lz4":  writeSampleEvents(t, 2),
	} {
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, c.Bytes, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, c.Bytes) {
			t.Errorf("%s: the chunk written now differs; run with -update if that is meant", name)
		}
		golden := chunk{c.Meta, want}
		golden.Meta.Hash, golden.Meta.Size = chunker.HashOf(want), int64(len(want))
		if c.Meta.Stream == chunker.Packets {
			if diff := cmp.Diff(samplePackets(), read(t, golden)); diff != "" {
				t.Errorf("%s: (-want +got)\n%s", name, diff)
			}
		} else if diff := cmp.Diff(sampleEvents, events(t, golden)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

// TestAbout reads what a chunk says of itself.
func TestAbout(t *testing.T) {
	c := writeSamplePackets(t)
	r, err := chunker.Open(bytes.NewReader(c.Bytes), c.Meta.Size, c.Meta.Hash, chunker.Packets)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range r.Records() {
		if err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(header, r.Header()); diff != "" {
		t.Errorf("header (-want +got)\n%s", diff)
	}
	names := []string{}
	for _, i := range r.Interfaces() {
		names = append(names, i.Name)
	}
	if diff := cmp.Diff([]string{"eth0", "cni0", "tün0"}, names); diff != "" {
		t.Errorf("interfaces (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]chunker.Statistics{{Received: 3}, {Received: 41}, {Received: 1}}, r.Statistics()); diff != "" {
		t.Errorf("statistics (-want +got)\n%s", diff)
	}
	if r.Meta().Drops != 3 {
		t.Errorf("%d drops", r.Meta().Drops)
	}
}

// TestLongNames cuts what is too long, and mends what is no UTF-8, so that the
// chunk and what Interface is told of it agree.
func TestLongNames(t *testing.T) {
	var out bytes.Buffer
	w, err := chunker.NewWriter(&out, chunker.Packets, chunker.Header{Node: strings.Repeat("n", 100_000), OS: "\xff"})
	if err != nil {
		t.Fatal(err)
	}
	long := packet{Interface: chunker.Interface{Name: "a" + strings.Repeat("ü", 70_000), Description: "\xfe"}, OrigLen: 1, Data: "x"}
	if err := w.Record(record(w, long)); err != nil {
		t.Fatal(err)
	}
	got := read(t, closed(t, w, &out, 0))[0].Interface
	if got.Name != "a"+strings.Repeat("ü", 511) || got.Description != "\uFFFD" {
		t.Errorf("%d bytes of name, description %q", len(got.Name), got.Description)
	}
}

// run runs one of the tools that are to read chunks without pcapsule.
func run(t *testing.T, script string, args ...string) string {
	t.Helper()
	cmd := exec.Command("bash", append([]string{"-o", "pipefail", "-ec", script, "bash"}, args...)...)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C.UTF-8")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s\n%s(these tests need the Debian packages tshark, tcpdump, lz4 and b3sum)", script, err, out, stderr.String())
	}
	return string(out)
}

// TestOtherTools reads the golden chunks with the tools people have.
func TestOtherTools(t *testing.T) {
	packets, lines := filepath.Join("testdata", "packets.pcapng.lz4"), filepath.Join("testdata", "events.ndjson.lz4")
	for _, file := range []string{packets, lines} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		run(t, `lz4 -tq "$1"`, file)
		if got := strings.Fields(run(t, `b3sum "$1"`, file))[0]; got != chunker.HashOf(b).String() {
			t.Errorf("b3sum %s: %s", file, got)
		}
	}

	want := samplePackets()
	fields := run(t, `tshark -r "$1" -T fields -e frame.time_epoch -e frame.interface_name -e frame.interface_description -e frame.len -e frame.cap_len -e frame.packet_flags_direction -e frame.comment`, packets)
	got := strings.Split(strings.TrimSuffix(fields, "\n"), "\n")
	if len(got) != len(want) {
		t.Fatalf("tshark sees %d packets, want %d", len(got), len(want))
	}
	for i, p := range want {
		comment := ""
		if p.Options != "" {
			comment = "hello"
		}
		direction := ""
		if p.Flags != 0 {
			direction = fmt.Sprintf("0x%08x", p.Flags&3)
		}
		line := fmt.Sprintf("%d.%09d\t%s\t%s\t%d\t%d\t%s\t%s", p.Time/1e9, p.Time%1e9, p.Interface.Name, p.Interface.Description, p.OrigLen, len(p.Data), direction, comment)
		if got[i] != line {
			t.Errorf("tshark, packet %d:\n got %q\nwant %q", i, got[i], line)
		}
	}

	// libpcap reads files of one link type only, so tcpdump gets a chunk of one.
	var out bytes.Buffer
	w, err := chunker.NewWriter(&out, chunker.Packets, header)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range want {
		if p.Interface.LinkType == 1 {
			n++
			if err := w.Record(record(w, p)); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := closed(t, w, &out, 0)
	file := filepath.Join(t.TempDir(), c.Meta.Hash.String()+"."+chunker.PacketsExt)
	if err := os.WriteFile(file, c.Bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	dump := run(t, `lz4 -dcq "$1" | tcpdump -tt -n --time-stamp-precision=nano -r - 2>/dev/null`, file)
	if lines := strings.Count(dump, "\n"); lines != n || !strings.HasPrefix(dump, "1764000000.123456789 IP 10.0.0.1.1234 > 10.0.0.2.80: Flags [S]") {
		t.Errorf("tcpdump: %d lines, want %d:\n%s", lines, n, dump)
	}
	info := run(t, `capinfos -M -c -o "$1"`, file)
	for _, want := range []string{fmt.Sprintf("Number of packets:   %d", n), "Strict time order:   True"} {
		if !strings.Contains(info, want) {
			t.Errorf("capinfos does not say %q:\n%s", want, info)
		}
	}
	if all := run(t, `lz4 -dcq "$1"`, lines); all != strings.Join(sampleEvents, "\n")+"\n"+`{"ts":"1764000001000000000","lost":"2"}`+"\n" {
		t.Errorf("the events read\n%s", all)
	}
}

// open tells why a chunk is refused.
func open(b []byte, want chunker.Hash, stream string) error {
	r, err := chunker.Open(bytes.NewReader(b), int64(len(b)), want, stream)
	if err != nil {
		return err
	}
	var batch chunker.Batch
	for err == nil {
		err = r.Next(&batch)
	}
	return err
}

// TestEveryByte flips each byte of small chunks, and cuts them at each length.
func TestEveryByte(t *testing.T) {
	for _, c := range []chunk{writeSamplePackets(t), writeSampleEvents(t, 1), writeSampleEvents(t, 0)} {
		for i := range c.Bytes {
			for _, bit := range []byte{1, 0x80, 0xff} {
				b := bytes.Clone(c.Bytes)
				b[i] ^= bit
				if err := open(b, c.Meta.Hash, c.Meta.Stream); !errors.Is(err, chunker.ErrDamaged) {
					t.Fatalf("byte %d flipped by %#x: %v", i, bit, err)
				}
				_ = open(b, chunker.HashOf(b), c.Meta.Stream) // must not panic
			}
			cut := c.Bytes[:i]
			for _, hash := range []chunker.Hash{c.Meta.Hash, chunker.HashOf(cut)} {
				if err := open(cut, hash, c.Meta.Stream); !errors.Is(err, chunker.ErrDamaged) {
					t.Fatalf("cut at %d: %v", i, err)
				}
			}
		}
		longer := append(bytes.Clone(c.Bytes), 0)
		for _, hash := range []chunker.Hash{c.Meta.Hash, chunker.HashOf(longer)} {
			if err := open(longer, hash, c.Meta.Stream); !errors.Is(err, chunker.ErrDamaged) {
				t.Fatalf("one byte more: %v", err)
			}
		}
	}
}

// framed puts parts, each as a stored block, into a frame.
func framed(parts ...string) []byte {
	b := []byte("\x04\x22\x4d\x18\x60\x40\x82")
	for _, p := range parts {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(p))|1<<31)
		b = append(b, p...)
	}
	return append(b, 0, 0, 0, 0)
}

// blocks splits a chunk's pcapng blocks.
func blocks(t *testing.T, c chunk) []string {
	t.Helper()
	raw := unframe(t, c.Bytes)
	var all []string
	for len(raw) > 0 {
		n := binary.LittleEndian.Uint32(raw[4:])
		all = append(all, string(raw[:n]))
		raw = raw[n:]
	}
	return all
}

func unframe(t testing.TB, b []byte) []byte {
	t.Helper()
	var raw []byte
	for b = b[7:]; ; {
		n := binary.LittleEndian.Uint32(b)
		b = b[4:]
		if n == 0 {
			return raw
		}
		if n>>31 == 1 {
			n &^= 1 << 31
			raw = append(raw, b[:n]...)
		} else {
			out := make([]byte, chunker.BlockSize)
			m, err := lz4.UncompressBlock(b[:n], out)
			if err != nil {
				t.Fatal(err)
			}
			raw = append(raw, out[:m]...)
		}
		b = b[n:]
	}
}

// TestProfile changes one thing of a valid chunk at a time, with the address that
// follows, and wants each refused, for its reason.
func TestProfile(t *testing.T) {
	var out bytes.Buffer
	w, err := chunker.NewWriter(&out, chunker.Packets, header)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range samplePackets()[:3] {
		if err := w.Record(record(w, p)); err != nil {
			t.Fatal(err)
		}
	}
	k := blocks(t, closed(t, w, &out, 3))
	// SHB, IDB, EPB, IDB, EPB, IDB, EPB, three ISBs
	if len(k) != 10 {
		t.Fatalf("%d blocks", len(k))
	}
	put := func(s string, at int, v uint32) string {
		b := []byte(s)
		binary.LittleEndian.PutUint32(b[at:], v)
		return string(b)
	}
	with := func(changes ...any) []byte {
		c := append([]string(nil), k...)
		for i := 0; i < len(changes); i += 2 {
			c[changes[i].(int)] = changes[i+1].(string)
		}
		return framed(strings.Join(c, ""))
	}
	valid := with()
	if err := open(valid, chunker.HashOf(valid), chunker.Packets); !errors.Is(err, io.EOF) {
		t.Fatalf("the chunk to be changed: %v", err)
	}
	join := func(s ...string) string { return strings.Join(s, "") }
	for _, c := range []struct {
		name   string
		chunk  []byte
		reason string
	}{
		{"header", append([]byte("\x04\x22\x4d\x18\x64\x40\xa7"), valid[7:]...), "does not start"},
		{"two frames", append(bytes.Clone(valid), valid...), "follow its end"},
		{"skippable frame after", append(bytes.Clone(valid), "\x50\x2a\x4d\x18\x00\x00\x00\x00"...), "follow its end"},
		{"skippable frame before", append([]byte("\x50\x2a\x4d\x18\x00\x00\x00\x00"), valid...), "does not start"},
		{"no blocks", framed(), "no records"},
		{"empty stored block", framed(join(k...), ""), "lz4 block of 0 bytes"},
		{"block too long", framed(strings.Repeat("a", chunker.BlockSize+1)), "lz4 block of 65537 bytes"},
		{"block that says more than is there", append(bytes.Clone(valid[:len(valid)-4]), 0xff, 0xff, 0, 0x80, 1, 2, 3), "no end"},
		{"block that does not decompress", append([]byte("\x04\x22\x4d\x18\x60\x40\x82\x05\x00\x00\x00\xff\xff\xff\xff\xff"), 0, 0, 0, 0), "does not decompress"},
		{"record across blocks", framed(join(k[:4]...)+k[4][:20], k[4][20:]+join(k[5:]...)), "left of its lz4 block"},
		{"no section", with(0, ""), "section header"},
		{"two sections", with(1, k[0]+k[1]), "second section"},
		{"big endian", framed("\x0a\x0d\x0d\x0a\x00\x00\x00\x1c\x1a\x2b\x3c\x4d"), "damaged"},
		{"section length", with(0, put(k[0], 16, 100)), "section with a length"},
		{"unknown block", with(1, k[1]+"\x04\x00\x00\x00\x0c\x00\x00\x00\x0c\x00\x00\x00"), "type 0x4"},
		{"snaplen", with(1, put(k[1], 12, 65535)), "snaplen 65535"},
		{"resolution", with(1, strings.Replace(k[1], "\x09\x00\x01\x00\x09", "\x09\x00\x01\x00\x06", 1)), "if_tsresol 6"},
		{"interface not described", with(2, put(k[2], 8, 1)), "not described"},
		{"interface described late", with(1, "", 2, k[2]+k[1]), "not described"},
		{"interface without packets", with(6, put(k[6], 8, 0)), "do not count"},
		{"order", with(4, put(k[4], 16, 0)), "after one at"},
		{"before 1970", with(2, put(k[2], 12, 1<<31)), "after one at"},
		{"captured more than there was", with(2, put(k[2], 24, 10)), "captured"},
		{"captured more than the block has", with(2, put(put(k[2], 20, 5000), 24, 5000)), "longer than its block"},
		{"captured less than the block has", with(2, put(put(k[2], 20, 0), 24, 0)), "damaged"},
		{"lengths differ", with(2, put(k[2], len(k[2])-4, 12)), "lengths differ"},
		{"option that ends late", with(2, put(k[2], 28+56, 0xff000002)), "option"},
		{"no statistics", with(7, "", 8, "", 9, ""), "0 of 3"},
		{"statistics of two", with(9, ""), "2 of 3"},
		{"statistics twice", with(9, k[9]+k[9]), "statistics of interface"},
		{"statistics out of order", with(7, k[8], 8, k[7]), "belong"},
		{"statistics in the middle", with(4, "", 9, k[9]+k[4]), "damaged"},
		{"packet after the statistics", with(9, k[9]+k[6]), "after the statistics"},
		{"interface after the statistics", with(9, k[9]+k[1]), "after the statistics"},
		{"statistics with a wrong count", with(8, strings.Replace(k[8], "\x04\x00\x08\x00\x01", "\x04\x00\x08\x00\x02", 1)), "do not count"},
		{"drops missing", with(7, strings.Replace(k[7], "\x07\x00\x08\x00", "\x08\x00\x08\x00", 1)), "dropped packets"},
		{"drops twice", with(8, strings.Replace(k[7], "\x05\x00\x00\x00\x4c\x00\x00\x00\x00", "\x05\x00\x00\x00\x4c\x00\x00\x00\x01", 1)), "dropped packets"},
		{"statistics of another time", with(8, put(k[8], 16, 7)), "statistics at"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := open(c.chunk, chunker.HashOf(c.chunk), chunker.Packets)
			if !errors.Is(err, chunker.ErrDamaged) || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("%v, want damage with %q", err, c.reason)
			}
		})
	}
}

func TestEventsProfile(t *testing.T) {
	a, b := `{"ts":"1","x":1}`+"\n", `{"ts":"2"}`+"\n"
	lost := `{"ts":"2","lost":"5"}` + "\n"
	long := `{"ts":"1","x":"` + strings.Repeat("y", 2*chunker.BlockSize)
	valid := framed(a+b, lost)
	if err := open(valid, chunker.HashOf(valid), chunker.OS); !errors.Is(err, io.EOF) {
		t.Fatalf("the chunk to be changed: %v", err)
	}
	for _, c := range []struct {
		name   string
		chunk  []byte
		reason string
	}{
		{"order", framed(b + a), "after one at"},
		{"lost in the middle", framed(a + `{"ts":"1","lost":"5"}` + "\n" + b), "after the count"},
		{"lost twice", framed(a + b + lost + lost), "after the count"},
		{"lost at another time", framed(a + lost), "count of lost"},
		{"lost none", framed(b + `{"ts":"2","lost":"0"}` + "\n"), "count of lost"},
		{"lost what", framed(b + `{"ts":"2","lost":"x"}` + "\n"), "count of lost"},
		{"only lost", framed(lost), "damaged"},
		{"no newline", framed(a + b[:10]), "end with its lz4 block"},
		{"line across blocks", framed(a+b[:5], b[5:]), "end with its lz4 block"},
		{"long line that does not fill", framed(long[:1000], long[1000:2000]+"\"}\n"), "end with its lz4 block"},
		{"no JSON", framed(`{"ts":"1",}` + "\n"), "valid JSON"},
		{"no time", framed(`{"t":"1"}` + "\n"), "starts with"},
		{"number", framed(`{"ts":1}` + "\n"), "starts with"},
		{"leading zero", framed(`{"ts":"01"}` + "\n"), "decimal"},
		{"empty time", framed(`{"ts":""}` + "\n"), "decimal"},
		{"too late", framed(`{"ts":"9223372036854775808"}` + "\n"), "decimal"},
		{"space", framed(`{"ts":"1" ,"x":1}` + "\n"), "decimal"},
		{"two values", framed(`{"ts":"1"}{}` + "\n"), "valid JSON"},
		{"empty line", framed(a + "\n" + b), "starts with"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := open(c.chunk, chunker.HashOf(c.chunk), chunker.OS)
			if !errors.Is(err, chunker.ErrDamaged) || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("%v, want damage with %q", err, c.reason)
			}
		})
	}
}
