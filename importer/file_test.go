package importer

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/internal/pcapng"
	"pcapsule/manifest"
)

// gapsOf are a node's gaps of some reason, as text.
func gapsOf(n manifest.Node, reason string) (list []string) {
	for _, g := range n.Gaps {
		if g.Reason == reason {
			list = append(list, strings.TrimSpace(fmt.Sprintf("%d-%d %d %s", g.From, g.To, g.Count, strings.TrimSpace(g.Interface+" "+g.Detail))))
		}
	}
	return list
}

// TestBadAmongGood: a file that is none costs itself, and is named with the reason,
// whichever node it is of.
func TestBadAmongGood(t *testing.T) {
	dir := t.TempDir()
	good, want := capture(t, "good.pcap", span(1e9, 2e9, 1e7))
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(whole)
	z.Close()
	damaged := packed.Bytes()
	damaged[12] ^= 0xff
	link := bytes.Clone(whole)
	binary.LittleEndian.PutUint32(link[20:], 70001)
	for name, bad := range map[string]string{
		"empty":        write("empty.pcap", nil),
		"header cut":   write("short.pcap", whole[:16]),
		"web page":     write("text.pcap", []byte("<!doctype html>\n<title>404</title>\n")),
		"picture":      write("photo.jpg", []byte("\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01")),
		"folder":       dir,
		"missing":      filepath.Join(dir, "missing.pcap"),
		"gzip":         write("damaged.pcap.gz", damaged),
		"link type":    write("link.pcap", link),
		"first packet": write("first.pcap", slices.Concat(whole[:24], bytes.Repeat([]byte{0xff}, 64))),
	} {
		for _, node := range []string{"n", "other"} {
			nodes, m, err := run(t, File{node, bad}, File{"n", good})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if got, _ := m.packets(t, nodes[0]); !slices.Equal(got, want) {
				t.Errorf("%s: %d packets of %d, or other ones", name, len(got), len(want))
			}
			n := nodes[len(nodes)-1]
			list := gapsOf(n, manifest.GapUnreadable)
			if n.Name != node || n.Status != manifest.Partial || len(list) != 1 || !strings.Contains(list[0], filepath.Base(bad)+": ") {
				t.Errorf("%s: node %s is %s, unreadable %q", name, n.Name, n.Status, list)
			}
			doc := Manifest(nodes)
			if doc.Status != manifest.Partial || len(doc.Reasons) != 1 || !strings.Contains(doc.Reasons[0], "not imported: "+filepath.Base(bad)) {
				t.Errorf("%s: status %s, reasons %q", name, doc.Status, doc.Reasons)
			}
			if doc.Window.From != 1e9 || n.Gaps[0].From < doc.Window.From || n.Gaps[0].To > doc.Window.To {
				t.Errorf("%s: window %v, gap %+v", name, doc.Window, n.Gaps[0])
			}
		}
	}
}

// failing reads what it has, and then fails as a disk does.
type failing struct{ r io.Reader }

func (f failing) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	if errors.Is(err, io.EOF) {
		err = &os.PathError{Op: "read", Path: "disk", Err: errors.New("input/output error")}
	}
	return n, err
}

// TestReadFails: what was read before the disk failed is imported.
func TestReadFails(t *testing.T) {
	good, want := capture(t, "good.pcap", span(1e9, 2e9, 1e7))
	b, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{objects: map[string][]byte{}}
	nodes, err := Run(t.Context(), Options{Files: []File{{"n", "-"}}, Stdin: failing{bytes.NewReader(b)}, Upload: m.upload})
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := m.packets(t, nodes[0]); !slices.Equal(got, want) || nodes[0].Status != manifest.Partial || !strings.Contains(nodes[0].Reasons[0], "input/output error") {
		t.Errorf("%d packets of %d, %s: %q", len(got), len(want), nodes[0].Status, nodes[0].Reasons)
	}
}

// TestHoldsNothing: a capture without packets is a good one, and its node says so.
func TestHoldsNothing(t *testing.T) {
	good, _ := capture(t, "good.pcap", span(1e9, 2e9, 1e7))
	none, _ := capture(t, "none.pcap", nil)
	nodes, _, err := run(t, File{"n1", none}, File{"n2", good}, File{"n3", good}, File{"n3", none})
	if err != nil {
		t.Fatal(err)
	}
	end := 1_990_000_001
	for i, want := range [][]string{{fmt.Sprintf("1000000000-%d 0 none.pcap holds no packet", end)}, nil, {"1000000000-1000000000 0 none.pcap holds no packet"}} {
		n := nodes[i]
		if d := cmp.Diff(want, gapsOf(n, manifest.GapNotImported)); d != "" || n.Status != manifest.Completed {
			t.Errorf("node %s is %s, gaps (-want +got):\n%s", n.Name, n.Status, d)
		}
	}
}

// TestApart: between files that do not follow each other nothing is imported, and
// the node says so; captures that rotate have no such gaps.
func TestApart(t *testing.T) {
	const second, month = int64(1e9), int64(30 * 86400e9)
	for _, tt := range []struct {
		name  string
		files [][]int64
		want  []string
	}{
		{"months", [][]int64{{5 * month, 5*month + second}, {month, month + second}},
			[]string{fmt.Sprintf("%d-%d 0", month+second+1, 5*month)}},
		{"overlapping", [][]int64{span(1, 9*second, second/2), span(5*second, 20*second, second/2)}, nil},
		{"one within the other", [][]int64{span(1, 100*second, second/2), {5 * second}, span(200*second, 201*second, second/2)},
			[]string{fmt.Sprintf("%d-%d 0", 1+199*second/2+1, 200*second)}},
		{"rotated", [][]int64{span(second, 9*second, 3*second), span(10*second, 19*second, 3*second)}, nil},
		{"rotated and quiet", [][]int64{{second, 31 * second}, {55 * second, 56 * second}}, nil},
		{"busy, then nothing", [][]int64{span(second, 9*second, second/10), span(30*second, 39*second, second/10)},
			[]string{fmt.Sprintf("%d-%d 0", 89*second/10+1, 30*second)}},
	} {
		var files []File
		for i, times := range tt.files {
			path, _ := capture(t, fmt.Sprintf("%d.pcap", i), times)
			files = append(files, File{"n", path})
		}
		nodes, _, err := run(t, files...)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(tt.want, gapsOf(nodes[0], manifest.GapNotImported)); d != "" || nodes[0].Status != manifest.Completed {
			t.Errorf("%s: %s (-want +got):\n%s", tt.name, nodes[0].Status, d)
		}
	}
}

// TestClockStep: times that go back within a file are told of.
func TestClockStep(t *testing.T) {
	path, want := capture(t, "step.pcap", []int64{10e9, 11e9, 3e9, 4e9, 3_500_000_000, 12e9, 8e9})
	nodes, m, err := run(t, File{"n", path})
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := m.packets(t, nodes[0]); !slices.Equal(got, want) {
		t.Errorf("%d packets of %d, or other ones", len(got), len(want))
	}
	step := []string{"3000000000-12000000000 8000000000 step.pcap: its times go back 2 times, by up to 8s"}
	if d := cmp.Diff(step, gapsOf(nodes[0], manifest.GapClockStep)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestTwiceNamed: a file that is given twice, by whatever names, is imported once.
func TestTwiceNamed(t *testing.T) {
	path, want := capture(t, "a.pcap", span(1e9, 2e9, 1e7))
	link := filepath.Join(t.TempDir(), "b.pcap")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	nodes, m, err := run(t, File{"n", path}, File{"n", link}, File{"o", path})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if got, _ := m.packets(t, n); !slices.Equal(got, want) {
			t.Errorf("node %s: %d packets of %d, or other ones", n.Name, len(got), len(want))
		}
	}
	if got := gapsOf(nodes[0], manifest.GapSkipped); len(got) != 1 || !strings.Contains(got[0], "b.pcap was given twice") {
		t.Errorf("skipped %q", got)
	}
}

// TestSameNames: of files that end alike, the one that is bad is the one named.
func TestSameNames(t *testing.T) {
	good, _ := capture(t, "x.pcap", span(1e9, 2e9, 1e7))
	bad := filepath.Join(t.TempDir(), "x.pcap")
	if err := os.WriteFile(bad, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	nodes, _, err := run(t, File{"n", good}, File{"n", bad})
	if err != nil {
		t.Fatal(err)
	}
	if got := gapsOf(nodes[0], manifest.GapUnreadable); len(got) != 1 || !strings.Contains(got[0], bad) {
		t.Errorf("unreadable %q, want %s", got, bad)
	}
}

// TestDropsOfPackets: what packets say was dropped before them is in the ledger, by
// interface, and in the chunks.
func TestDropsOfPackets(t *testing.T) {
	b := pcapng.AppendSectionHeader(nil, pcapng.SectionHeader{})
	for _, name := range []string{"eth0", "eth1"} {
		b = pcapng.AppendInterface(b, pcapng.Interface{LinkType: 1, TSResol: 9, Name: name})
	}
	for i, n := range []uint64{17, 4} {
		option := pcapng.AppendOption(nil, pcapng.OptDropCount, binary.LittleEndian.AppendUint64(nil, n))
		b = pcapng.AppendPacket(b, &pcapng.Packet{Interface: uint32(i), Time: 5, OrigLen: 2, Options: option, Data: []byte("ab")})
	}
	path := filepath.Join(t.TempDir(), "drops.pcapng")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	nodes, _, err := run(t, File{"n", path})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"5-6 17 eth0 drops.pcapng: as it says itself", "5-6 4 eth1 drops.pcapng: as it says itself"}
	if d := cmp.Diff(want, gapsOf(nodes[0], manifest.GapKernelDrop)); d != "" || nodes[0].Streams[0].Drops != 21 {
		t.Errorf("%d drops (-want +got):\n%s", nodes[0].Streams[0].Drops, d)
	}
}
