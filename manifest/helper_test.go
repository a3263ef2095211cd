package manifest

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pcapsule/chunker"
)

var update = flag.Bool("update", false, "write testdata anew")

// golden holds got against a file in testdata, or writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs. This format is for ever: change FORMAT.md and Version before you run with -update.\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

// tool finds a program, which is missing only where nobody could install it.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && os.Getuid() == 0 {
		t.Fatalf("%v: install it (Debian: openssh-client)", err)
	}
	if err != nil {
		t.Skip(err)
	}
	return path
}

var testTime = time.Date(2026, 11, 23, 1, 36, 14, 123456789, time.UTC)

const testID = "20261123T013614.123456Z-0123456789"

// testKey is a fixed key, so that signatures are the same in each run.
func testKey(t testing.TB) *Signer {
	t.Helper()
	s, err := GenerateKey(strings.NewReader(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testChunkKey(n byte, ext string) string {
	return ObjectKey{Kind: KindChunk, Hash: chunker.HashOf([]byte{n}), Ext: ext}.String()
}

func testEntries(ext string) []Entry {
	at := NanosOf(testTime)
	sum := strings.Repeat("ab", 32)
	return []Entry{
		{Key: testChunkKey(1, ext), Size: 8388608, RawSize: 10485760, SHA256: sum, First: at, Last: at + 5e9, Records: 12000},
		{Key: testChunkKey(2, ext), Size: 70, RawSize: 300, SHA256: sum, First: at + 1, Last: at + 1, Records: 1, Drops: 7},
		{Key: ObjectKey{Kind: KindChunk, Hash: chunker.HashOf([]byte{3}), Generation: 12, Ext: ext}.String(),
			Size: 512, RawSize: 512, SHA256: sum, First: at + 1, Last: at + 9, Records: 3},
	}
}

// testStream is a stream with its inventory, as an agent would make it.
func testStream(stream string, entries []Entry) Stream {
	b := EncodeInventory(entries)
	s := SumInventory(stream, entries)
	s.Inventory = ObjectKey{Kind: KindInventory, Hash: chunker.HashOf(b), Ext: InventoryExt}.String()
	s.InventorySize = int64(len(b))
	return s
}

func testManifest() *Manifest {
	at := NanosOf(testTime)
	m := &Manifest{
		Format:  Format,
		Version: Version,
		ID:      testID,
		Name:    "outage",
		Created: at,
		Window:  Interval{at, at + 300e9},
		Status:  Partial,
		Reasons: []string{"node-c did not answer by the deadline"},
		Creator: Tool{"pcapsule", "0.1.0"},
		Nodes: []Node{
			{
				Name:     "node-b",
				Status:   Completed,
				Clock:    Clock{Offset: -1500, Error: 200000},
				Coverage: []Interval{{at, at + 100e9}, {at + 101e9, at + 300e9}},
				Gaps: []Gap{
					{Stream: chunker.Packets, Reason: GapNotRunning, From: at + 100e9, To: at + 101e9},
					{Stream: chunker.Packets, Reason: GapKernelDrop, From: at + 1, To: at + 1, Count: 7, Interface: "eth0", Detail: "worker 1"},
				},
				Capture: []Capture{
					{From: at, To: at + 100e9, Selection: Selection{
						Interfaces: []string{"wg0", "eth0"}, Excluded: []string{"TCP with the hub"}, Filter: "not port 22",
					}},
					{From: at + 101e9, To: at + 300e9, Selection: Selection{
						Targets: &Targets{Regex: "^front", Namespaces: []string{"shop"}, Excluded: []string{"kube-system"}}, Abridged: true,
					}},
				},
				Interfaces: []chunker.Interface{{Name: "eth0", Description: "Ethernet <uplink>", LinkType: 1}, {Name: "wg0", LinkType: 101}},
				Versions:   Versions{Agent: "0.1.0", Kernel: "6.18.0", OS: "Debian GNU/Linux 12", Arch: "amd64"},
				Streams:    []Stream{testStream(chunker.Packets, testEntries(chunker.PacketsExt))},
			},
			{
				Name: "node-a", Status: Partial, Reasons: []string{"no agent ran"}, Versions: Versions{Agent: "0.1.0"},
				Gaps: []Gap{{Stream: chunker.Packets, Reason: GapNotRunning, From: at, To: at + 300e9}},
			},
			{Name: "node-c", Status: Unreachable, Gaps: []Gap{{Stream: chunker.Packets, Reason: GapUnreachable, From: at, To: at + 300e9}}},
		},
		Streams:  []Stream{testStream(chunker.Kubernetes, testEntries(chunker.EventsExt)[:1])},
		Coverage: []Interval{{at, at + 200e9}, {at + 215e9, at + 300e9}},
		Gaps:     []Gap{{Stream: chunker.Kubernetes, Reason: GapNotRunning, From: at + 200e9, To: at + 215e9}},
	}
	m.SumUp()
	return m
}

func encode(t testing.TB, m *Manifest) []byte {
	t.Helper()
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}
