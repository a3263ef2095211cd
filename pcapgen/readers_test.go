package pcapgen

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
	"pcapsule/internal/capfile"

	"pcapsule/manifest"
)

// command runs an independent reader and returns what it says. A machine that
// lacks it may skip the test, unless it is one that could install it.
func command(t *testing.T, name string, arg ...string) (string, error) {
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
		err = fmt.Errorf("%s %v: %w: %s", name, arg, err, &stderr)
	}
	return string(out), err
}

func mustRun(t *testing.T, name string, arg ...string) string {
	t.Helper()
	out, err := command(t, name, arg...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func writeFile(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Wireshark, capinfos and tcpdump read both formats, with every packet at its
// nanosecond and its interface.
func TestReaders(t *testing.T) {
	s := mixed(t, 1, 2, 200)
	s.m.Status, s.m.Reasons = "partial", []string{"node d did not answer"}
	want := s.naive(int64(s.m.Window.From), int64(s.m.Window.To))
	for _, f := range []Format{PcapNG, Pcap} {
		t.Run(f.String(), func(t *testing.T) {
			b, _ := s.export(Request{Format: f})
			section, _ := parse(b)
			file := writeFile(t, "x."+f.String(), b)

			var lines strings.Builder
			for _, p := range want {
				name, flags := "", ""
				if f == PcapNG {
					name = section.interfaces[p.Interface].Name
					if p.Flags != 0 {
						flags = fmt.Sprintf("0x%08x", p.Flags)
					}
				}
				fmt.Fprintf(&lines, "%d.%09d|%s|%d|%d|%s\n", p.Time/second, p.Time%second, name, len(p.Data), p.OrigLen, flags)
			}
			got := mustRun(t, "tshark", "-n", "-r", file, "-T", "fields", "-E", "separator=|", "-e", "frame.time_epoch",
				"-e", "frame.interface_name", "-e", "frame.cap_len", "-e", "frame.len", "-e", "frame.packet_flags")
			if diff := cmp.Diff(lines.String(), got); diff != "" {
				t.Errorf("tshark (-want +got):\n%.3000s", diff)
			}

			info := mustRun(t, "capinfos", file)
			says := []string{fmt.Sprintf("Number of packets:   %d", len(want)), "Strict time order:   True", "nanoseconds"}
			if f == PcapNG {
				says = append(says, "Capture application: pcapsule", "Number of interfaces in file: 9", "Description = node b, vlan",
					"Capture comment:     snapshot outage", "partial: node d did not answer")
			}
			for _, want := range says {
				if !strings.Contains(info, want) {
					t.Errorf("capinfos does not say %q:\n%s", want, info)
				}
			}

			dump := mustRun(t, "tcpdump", "-nn", "-tt", "--time-stamp-precision=nano", "-r", file)
			if n := strings.Count(dump, "\n1700000000."); n != len(want)-1 {
				t.Errorf("tcpdump shows %d packets, want %d", n+1, len(want))
			}
		})
	}
}

// An empty export is a whole capture.
func TestReadersEmpty(t *testing.T) {
	s := mixed(t, 1, 1, 10)
	none := newSnapshot(t)
	for name, export := range map[string]func(Request) ([]byte, Stats){"window": s.export, "snapshot": none.export} {
		for _, f := range []Format{PcapNG, Pcap} {
			b, stats := export(Request{Range: manifest.Between(manifest.Nanos(t0+100*second), manifest.Nanos(t0+101*second)), Format: f})
			if stats.Records != 0 {
				t.Errorf("empty %s: %d records", name, stats.Records)
			}
			file := writeFile(t, "x."+f.String(), b)
			if info := mustRun(t, "capinfos", "-c", "-M", file); !strings.Contains(info, "Number of packets:   0") {
				t.Errorf("empty %s as %s: capinfos says\n%s", name, f, info)
			}
			mustRun(t, "tshark", "-r", file)
			if name == "window" || f == Pcap { // libpcap wants an interface
				mustRun(t, "tcpdump", "-r", file)
			}
		}
	}
}

// Readers say of what a failed export left that it is cut off.
func TestReadersOfBroken(t *testing.T) {
	s := inTurn(t, 20)
	key := s.inventories["a"][15].Key
	s.store.bytes[key] = bytes.Clone(s.store.bytes[key])
	s.store.bytes[key][1000] ^= 0x10
	for _, f := range []Format{PcapNG, Pcap} {
		var b bytes.Buffer
		if _, err := Export(t.Context(), &b, s.source(), Request{Format: f}); err == nil {
			t.Fatal("no error")
		}
		file := writeFile(t, "x."+f.String(), b.Bytes())
		for _, reader := range [][]string{{"tshark", "-n", "-r", file}, {"capinfos", "-c", file}, {"tcpdump", "-nn", "-r", file}} {
			if _, err := command(t, reader[0], reader[1:]...); err == nil {
				t.Errorf("%s finds nothing wrong with the %d bytes of a broken %s", reader[0], b.Len(), f)
			}
		}
	}
}

// mergecap, where all times differ, has the same packets in the same order.
func TestMergecap(t *testing.T) {
	s := newSnapshot(t)
	eth := ethernet("eth0")
	s.node("a", eth)
	dir := t.TempDir()
	args := []string{"-w", filepath.Join(dir, "merged.pcapng")}
	const chunks, packets = 9, 300
	for c := range chunks {
		var records []chunker.Record
		for i := range packets {
			// Strides differ, so that runs of all lengths occur.
			at := t0 + int64(i*(1+c%4)*chunks*7+c)
			records = append(records, packet(at, 0, uint64(c<<32|i), i))
		}
		key := s.chunk("a", []chunker.Interface{eth}, records)
		file := filepath.Join(dir, fmt.Sprintf("%d.pcapng.lz4", c))
		if err := os.WriteFile(file, s.store.bytes[key], 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, file)
	}
	mustRun(t, "mergecap", args...)
	merged, err := os.ReadFile(args[1])
	if err != nil {
		t.Fatal(err)
	}
	b, _ := s.export(Request{})
	want, got := readCapture(t, merged), readCapture(t, b)
	if diff := cmp.Diff(want, got); diff != "" || len(got) != chunks*packets {
		t.Errorf("%d packets (-mergecap +export):\n%.2000s", len(got), diff)
	}
}

// readCapture is a line for each packet.
func readCapture(t *testing.T, b []byte) []string {
	t.Helper()
	r, err := capfile.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for {
		p, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%d %d %s", p.Time, p.OrigLen, chunker.HashOf(p.Data)))
	}
}
