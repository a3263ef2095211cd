package pcapng

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// annotated is a section with names before its packets and journal entries
// between them.
func annotated() []byte {
	b := AppendSectionHeader(nil, SectionHeader{Application: "pcapsule"})
	b = AppendInterface(b, Interface{LinkType: 1, SnapLen: 262144, Name: "eth0", TSResol: Nanoseconds})
	b = AppendNameResolution(b, []Name{
		{netip.MustParseAddr("127.0.0.1"), "web-1.shop"},
		{netip.MustParseAddr("fd00::3"), strings.Repeat("n", 70)},
		{netip.MustParseAddr("10.0.0.9"), ""},
		{netip.Addr{}, "nobody"},
	})
	b = AppendJournal(b, 1700000000100000, []Field{
		{"MESSAGE", "OOMKilled: container db of shop/db-0"},
		{"PRIORITY", "3"},
		{"SYSLOG_IDENTIFIER", "kubelet"},
		{"KUBERNETES_NAMESPACE", "shop"},
	})
	b = AppendPacket(b, &Packet{Time: 1700000000123456789, OrigLen: uint32(len(udp)), Data: udp})
	b = AppendJournal(b, 1700000000200000, []Field{
		{"MESSAGE", "two\nlines\x00 and an umlaut: ä"},
		{"SYSLOG_IDENTIFIER", "kubelet"},
		{"PRIORITY", "6"},
	})
	b = AppendPacket(b, &Packet{Time: 1700000000223456789, OrigLen: uint32(len(udp)), Data: udp})
	return AppendStatistics(b, &Statistics{Time: 1700000002000000000, Received: ptr(uint64(2))})
}

func writeAnnotated(t *testing.T) string {
	name := filepath.Join(t.TempDir(), "annotated.pcapng")
	if err := os.WriteFile(name, annotated(), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// tshark shows names instead of addresses and a row for each journal entry, and
// what rewrites a file keeps the packets.
func TestAnnotatedInTshark(t *testing.T) {
	file := writeAnnotated(t)
	got := run(t, "tshark", "-N", "n", "-r", file, "-T", "fields", "-E", "separator=|", "-e", "frame.time_epoch",
		"-e", "frame.protocols", "-e", "ip.src_host", "-e", "systemd_journal.message", "-e", "systemd_journal.priority",
		"-e", "systemd_journal.syslog_id")
	want := strings.Join([]string{
		"1700000000.100000000|systemd_journal||OOMKilled: container db of shop/db-0|3|kubelet",
		"1700000000.123456789|eth:ethertype:ip:udp:dns|web-1.shop|||",
		"1700000000.200000000|systemd_journal||two\\nlines|6|kubelet",
		"1700000000.223456789|eth:ethertype:ip:udp:dns|web-1.shop|||",
		"",
	}, "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tshark (-want +got):\n%s", diff)
	}
	info := run(t, "capinfos", file)
	for _, says := range []string{"Strict time order:   True", "Number of resolved IPv4 addresses in file: 1", "Number of resolved IPv6 addresses in file: 1"} {
		if !strings.Contains(info, says) {
			t.Errorf("capinfos does not say %q:\n%s", says, info)
		}
	}
	if n := strings.Count(run(t, "tcpdump", "-nn", "-r", file), "> 127.0.0.1.53: "); n != 2 {
		t.Errorf("tcpdump shows %d packets", n)
	}
	for _, arg := range [][]string{{"editcap", file}, {"mergecap", "-w", "-", file, file}} {
		out := filepath.Join(t.TempDir(), "out.pcapng")
		if arg[0] == "editcap" {
			run(t, "editcap", file, out)
		} else if err := os.WriteFile(out, []byte(run(t, arg[0], arg[1:]...)), 0o644); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(run(t, "tshark", "-n", "-r", out, "-Y", "udp"), "127.0.0.1"); n == 0 {
			t.Errorf("no packet is left after %s", arg[0])
		}
	}
}

func TestNameResolution(t *testing.T) {
	var names []Name
	for i := range 5000 {
		addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		if i%3 == 0 {
			a := addr.As16()
			a[0] = 0xfd
			addr = netip.AddrFrom16(a)
		}
		names = append(names, Name{addr, strings.Repeat("x", i%MaxName+1)})
	}
	var got []Name
	blocks := 0
	for b := AppendNameResolution(nil, names); len(b) > 0; blocks++ {
		_, total, err := Header(b)
		if err != nil || total > maxNameBlock+200 {
			t.Fatalf("a block of %d bytes: %v", total, err)
		}
		more, err := ParseNameResolution(b[:total])
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, more...)
		b = b[total:]
	}
	if diff := cmp.Diff(names, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || blocks < 2 {
		t.Errorf("%d blocks (-want +got):\n%.1000s", blocks, diff)
	}
	if b := AppendNameResolution(nil, nil); b != nil {
		t.Errorf("no names make %d bytes", len(b))
	}
	got, err := ParseNameResolution(AppendNameResolution(nil, []Name{
		{netip.MustParseAddr("::ffff:10.0.0.1"), "mapped"},
		{netip.MustParseAddr("10.0.0.2"), "zero\x00byte"},
		{netip.MustParseAddr("10.0.0.3"), strings.Repeat("ä", 40)},
	}))
	want := []Name{
		{netip.MustParseAddr("10.0.0.1"), "mapped"},
		{netip.MustParseAddr("10.0.0.2"), "zero"},
		{netip.MustParseAddr("10.0.0.3"), strings.Repeat("ä", 31)},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
		t.Errorf("odd names: %v (-want +got):\n%s", err, diff)
	}
}

func TestJournal(t *testing.T) {
	fields := []Field{
		{"MESSAGE", "plain, with = and a\ttab"}, {"EMPTY", ""}, {"LINES", "one\ntwo\n"}, {"BINARY", "\x00\xff"},
		{"LONG", strings.Repeat("ä", maxField)},
	}
	b := AppendJournal(nil, 1700000000123456, fields)
	got, err := ParseJournal(b)
	if err != nil {
		t.Fatal(err)
	}
	want := append([]Field{{JournalTime, "1700000000123456"}}, fields...)
	want[5].Value = want[5].Value[:maxField]
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields (-want +got):\n%.2000s", diff)
	}
	var many []Field
	for range 100 {
		many = append(many, Field{"X", strings.Repeat("x", 20000)})
	}
	b = AppendJournal(nil, 0, many)
	if got, err = ParseJournal(b); err != nil || len(b) > MaxJournal || len(got) != 14 {
		t.Errorf("%d fields in %d bytes: %v", len(got), len(b), err)
	}
}

// Whatever stands in a block, parsing it neither panics nor takes more memory
// than the block; what is well formed can be written again.
func FuzzAnnotations(f *testing.F) {
	for b := annotated(); len(b) > 0; {
		_, total, _ := Header(b)
		f.Add(b[:total])
		b = b[total:]
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if names, err := ParseNameResolution(b); err == nil {
			again := AppendNameResolution(nil, names)
			for len(again) > 0 {
				_, total, _ := Header(again)
				if _, err := ParseNameResolution(again[:total]); err != nil {
					t.Fatal(err)
				}
				again = again[total:]
			}
		} else if !errors.Is(err, ErrMalformed) {
			t.Fatal(err)
		}
		fields, err := ParseJournal(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		for _, f := range fields {
			if !bytes.Contains(b, []byte(f.Name)) || !bytes.Contains(b, []byte(f.Value)) {
				t.Fatalf("%q is not in the block", f)
			}
		}
	})
}

// An option more is what it would be if the packet had been written with it.
func TestAppendWithOption(t *testing.T) {
	comment := AppendOption(nil, OptComment, []byte("shop/web → shop/db"))
	for _, p := range []Packet{
		{Time: 1, OrigLen: 4, Data: udp[:4]},
		{Time: 1, OrigLen: 47, Data: udp, Flags: 1},
		{Time: 1, OrigLen: 3, Data: udp[:3], Options: AppendOption(nil, OptComment, []byte("before"))},
		{Time: 1, OrigLen: 3, Data: nil, Flags: 1 << 9, Options: AppendOption(nil, OptPacketID, make([]byte, 8))},
	} {
		got := AppendWithOption([]byte("before"), AppendPacket(nil, &p), comment)
		p.Options = append(bytes.Clone(p.Options), comment...)
		if diff := cmp.Diff(AppendPacket([]byte("before"), &p), got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", p, diff)
		}
	}
	p := Packet{Data: udp}
	block := AppendPacket(nil, &p)
	start := len(block) - 4
	block = append(block[:start], 1, 0, 99, 0) // a comment of 99 bytes that are not there
	block = finish(block, 0)
	if got := AppendWithOption(nil, block, comment); !bytes.Equal(got, block) {
		t.Errorf("options that end after their block: %x", got)
	}
}
