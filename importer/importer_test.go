package importer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
	"pcapsule/internal/pcapng"
	"pcapsule/manifest"
)

// memory is a store for one test: objects by key.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
}

func (m *memory) upload(_ context.Context, o Object) (string, error) {
	b, err := io.ReadAll(io.NewSectionReader(o.Body, 0, o.Size))
	if err != nil {
		return "", err
	}
	if chunker.HashOf(b) != o.Hash || int64(len(b)) != o.Size {
		return "", fmt.Errorf("object %s: hash or size is wrong", o.Hash)
	}
	key := manifest.ObjectKey{Kind: o.Kind, Hash: o.Hash, Ext: o.Ext}.String()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[key] = b
	return key, nil
}

// packets are those of a node's chunks, each chunk read by the strict reader.
func (m *memory) packets(t *testing.T, n manifest.Node) (all []string, chunks int) {
	t.Helper()
	entries, err := manifest.DecodeInventory(m.objects[n.Streams[0].Inventory])
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b := m.objects[e.Key]
		r, err := chunker.Open(bytes.NewReader(b), int64(len(b)), chunker.HashOf(b), chunker.Packets)
		if err != nil {
			t.Fatal(err)
		}
		for p, err := range r.Records() {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, fmt.Sprintf("%d %d %x %s", p.Time, p.OrigLen, p.Data, r.Interfaces()[p.Interface].Name))
		}
	}
	slices.Sort(all)
	return all, len(entries)
}

func run(t *testing.T, files ...File) ([]manifest.Node, *memory, error) {
	t.Helper()
	m := &memory{objects: map[string][]byte{}}
	nodes, err := Run(t.Context(), Options{Files: files, Version: "test", Upload: m.upload})
	if err == nil {
		doc := Manifest(nodes)
		doc.ID, doc.Name, doc.Created = "20260101T000000.000000Z-0000000000", "x", 1
		doc.Creator = manifest.Tool{Name: "test", Version: "1"}
		if err := doc.Validate(); err != nil {
			t.Errorf("the manifest of this import is not valid: %v", err)
		}
	}
	return nodes, m, err
}

// capture writes a pcap of the given times, and tells what packets it holds.
func capture(t *testing.T, name string, times []int64) (path string, want []string) {
	t.Helper()
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b23c4d)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0)
	for _, ns := range times {
		data := fmt.Appendf(nil, "packet at %d", ns)
		b = le.AppendUint32(b, uint32(ns/1e9))
		b = le.AppendUint32(b, uint32(ns%1e9))
		b = le.AppendUint32(b, uint32(len(data)))
		b = le.AppendUint32(b, 1500)
		b = append(b, data...)
		want = append(want, fmt.Sprintf("%d %d %x if0", ns, 1500, data))
	}
	path = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	return path, want
}

func span(from, to, step int64) (times []int64) {
	for ns := from; ns < to; ns += step {
		times = append(times, ns)
	}
	return times
}

// TestOrder imports files that overlap, come in the wrong order and are out of
// order inside: every packet is in exactly one chunk, and chunks are few.
func TestOrder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	late, wantLate := capture(t, "late.pcap", span(5e9, 9e9, 1e5))
	early, wantEarly := capture(t, "early.pcap", span(1e9, 6e9, 1e5+1))
	shuffled := span(2e9, 4e9, 1e5+7)
	rnd.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	wild, wantWild := capture(t, "wild.pcap", shuffled)

	nodes, m, err := run(t, File{"n", late}, File{"n", early}, File{"n", wild})
	if err != nil {
		t.Fatal(err)
	}
	got, chunks := m.packets(t, nodes[0])
	want := slices.Concat(wantLate, wantEarly, wantWild)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("%d packets of %d, or other ones", len(got), len(want))
	}
	if chunks > 12 {
		t.Errorf("%d chunks for three files", chunks)
	}
	if d := cmp.Diff([]manifest.Interval{{From: 1e9, To: manifest.Nanos(9e9 - 1e5 + 1)}}, nodes[0].Coverage); d != "" {
		t.Errorf("coverage (-want +got):\n%s", d)
	}
}

func TestNodes(t *testing.T) {
	a, wantA := capture(t, "a.pcap", span(1e9, 2e9, 1e7))
	b, wantB := capture(t, "b.pcap", span(1e9, 3e9, 1e7))
	nodes, m, err := run(t, File{"zeta", a}, File{"alpha", b})
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes) != 2 || nodes[0].Name != "alpha" || nodes[1].Name != "zeta" {
		t.Fatalf("nodes %v, want alpha and zeta", nodes)
	}
	for i, want := range [][]string{wantB, wantA} {
		if got, _ := m.packets(t, nodes[i]); !slices.Equal(got, want) {
			t.Errorf("node %s: %d packets of %d, or other ones", nodes[i].Name, len(got), len(want))
		}
	}
}

// TestLosses: what cannot be carried is a gap, never silence.
func TestLosses(t *testing.T) {
	b := pcapng.AppendSectionHeader(nil, pcapng.SectionHeader{})
	b = pcapng.AppendInterface(b, pcapng.Interface{LinkType: 1, TSResol: 9, Name: "eth0"})
	b = append(b, 10, 0, 0, 0, 12, 0, 0, 0, 12, 0, 0, 0) // decryption secrets, empty
	long := make([]byte, chunker.SnapLen+100)
	b = pcapng.AppendPacket(b, &pcapng.Packet{Time: 5, OrigLen: uint32(len(long)), Data: long})
	b = pcapng.AppendPacket(b, &pcapng.Packet{Time: 6, OrigLen: 3, Data: []byte("end")})
	path := filepath.Join(t.TempDir(), "odd.pcapng")
	if err := os.WriteFile(path, b[:len(b)-2], 0o600); err != nil {
		t.Fatal(err)
	}
	nodes, m, err := run(t, File{"n", path})
	if err != nil {
		t.Fatal(err)
	}
	n := nodes[0]
	if n.Status != manifest.Partial {
		t.Errorf("status %s, want partial", n.Status)
	}
	var gaps []string
	for _, g := range n.Gaps {
		gaps = append(gaps, fmt.Sprintf("%s %d %s", g.Reason, g.Count, g.Detail))
	}
	want := []string{
		"skipped 1 odd.pcapng: decryption secrets",
		"truncated 1 odd.pcapng ends inside a packet",
		"truncated 1 odd.pcapng holds packets of more than 262144 bytes",
	}
	if d := cmp.Diff(want, gaps); d != "" {
		t.Errorf("gaps (-want +got):\n%s", d)
	}
	if got, _ := m.packets(t, n); len(got) != 1 || !strings.HasPrefix(got[0], fmt.Sprintf("5 %d ", len(long))) {
		t.Errorf("%d packets, want one that knows its length", len(got))
	}
}

// TestDamage: what stands before damage is imported, and the node says that the
// rest is not. What the file says was lost before is a gap, too, and a number in
// a chunk.
func TestDamage(t *testing.T) {
	drops := uint64(7)
	b := pcapng.AppendSectionHeader(nil, pcapng.SectionHeader{})
	b = pcapng.AppendInterface(b, pcapng.Interface{LinkType: 1, TSResol: 9, Name: "eth0"})
	b = pcapng.AppendPacket(b, &pcapng.Packet{Time: 5, OrigLen: 2, Data: []byte("ab")})
	b = pcapng.AppendStatistics(b, &pcapng.Statistics{OSDrop: &drops})
	b = append(b, "and here the disk had something else"...)
	name := strings.Repeat("\xff", 240) // each byte of which becomes three
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	nodes, m, err := run(t, File{strings.Repeat("n", 253), path})
	if err != nil {
		t.Fatal(err)
	}
	n := nodes[0]
	if got, _ := m.packets(t, n); len(got) != 1 {
		t.Errorf("%d packets, want 1", len(got))
	}
	if n.Status != manifest.Partial || len(n.Gaps) != 2 || !strings.Contains(n.Reasons[0], "damaged") {
		t.Errorf("status %s, reasons %q, gaps %+v", n.Status, n.Reasons, n.Gaps)
	}
	if g := n.Gaps[0]; g.Reason != manifest.GapKernelDrop || g.Count != 7 || n.Streams[0].Drops != 7 {
		t.Errorf("gap %+v and %d drops, want 7 in both", g, n.Streams[0].Drops)
	}
}

func TestGivenTwice(t *testing.T) {
	a, want := capture(t, "a.pcap", span(1e9, 2e9, 1e7))
	nodes, m, err := run(t, File{"n", a}, File{"n", a})
	if err != nil {
		t.Fatal(err)
	}
	// Held back together, the two are one chunk with each packet twice; what may
	// not be is a chunk that stands twice in the inventory.
	got, _ := m.packets(t, nodes[0])
	if got = slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("%d packets of %d, or other ones", len(got), len(want))
	}
}

func TestRefused(t *testing.T) {
	good, _ := capture(t, "good.pcap", span(1e9, 2e9, 1e7))
	empty, _ := capture(t, "empty.pcap", nil)
	noise := filepath.Join(t.TempDir(), "noise")
	if err := os.WriteFile(noise, []byte("no capture at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string][]File{
		"nothing":  nil,
		"no file":  {{"n", filepath.Join(t.TempDir(), "missing")}},
		"folder":   {{"n", t.TempDir()}},
		"noise":    {{"n", noise}},
		"empty":    {{"n", empty}},
		"all bad":  {{"n", noise}, {"m", empty}, {"m", t.TempDir()}},
		"bad node": {{"no/de", good}},
	} {
		if _, _, err := run(t, files...); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want one line", name, err)
		}
	}
}

// TestSilentPipe: an import ends with its context even while its input is silent.
func TestSilentPipe(t *testing.T) {
	silent, speaker := io.Pipe()
	defer speaker.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		speaker.Write([]byte{0xd4, 0xc3}) // returns when it was read
		cancel()
	}()
	_, err := Run(ctx, Options{Files: []File{{"n", "-"}}, Stdin: silent})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
}

// TestUploadFails: the upload's error is the import's, and no file is left.
func TestUploadFails(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	path, _ := capture(t, "a.pcap", span(1e9, 2e9, 1e6))
	broken := errors.New("no space left in store")
	_, err := Run(t.Context(), Options{Files: []File{{"n", path}}, Upload: func(context.Context, Object) (string, error) { return "", broken }})
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want the upload's", err)
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "*")); len(left) != 0 {
		t.Errorf("left in the temporary folder: %v", left)
	}
}
