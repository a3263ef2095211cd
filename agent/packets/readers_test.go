//go:build linux

package packets

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
)

var _ Consumer = (*chunker.Cutter)(nil)

// A folder takes chunks as files under their addresses.
type folder struct{ dir string }

type file struct {
	*os.File
	dir string
}

func (f folder) Create(string) (chunker.Part, error) {
	part, err := os.CreateTemp(f.dir, "part")
	return &file{part, f.dir}, err
}

func (f *file) Seal(m chunker.Meta) error {
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(f.dir, m.Hash.String()+"."+chunker.PacketsExt))
}

func (f *file) Abort() error {
	f.Close()
	return os.Remove(f.Name())
}

// TestReaders has tshark tell what a chunk holds of every kind of interface.
func TestReaders(t *testing.T) {
	namespace(t)
	veth(t, "a", "b")
	raw := newTun(t, "raw", arphrdNone)
	gre := newTun(t, "gre", 778)
	can := newTun(t, "can", arphrdCAN)

	dir := t.TempDir()
	c, err := New(Config{Workers: 1, RingSize: 8 << 20, NewConsumer: func(int) Consumer {
		return chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Packets}, folder{dir})
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()

	ping := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0x66, 0xde, 10, 0, 0, 1, 10, 0, 0, 3, 8, 0, 0xf7, 0xff, 0, 0, 0, 0}
	newSender(t, "a").send(
		inEther(0x0800, ping),
		tagged(inEther(0x0800, ping), 0x8100, 0),
		tagged(inEther(0x0800, ping), 0x88a8, 7, 0x8100, 8))
	raw.deliver(0x0800, ping)
	gre.deliver(0x0800, ping)
	frame := []byte{0, 0, 0, 0, 2, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0}
	native.PutUint32(frame, 0x123)
	can.deliver(protocolCAN, frame)

	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	chunks, err := filepath.Glob(filepath.Join(dir, "*."+chunker.PacketsExt))
	if err != nil || len(chunks) != 1 {
		t.Fatalf("chunks are %v: %v", chunks, err)
	}
	out, err := exec.Command("tshark", "-r", chunks[0], "-T", "fields",
		"-e", "frame.interface_name", "-e", "frame.protocols", "-e", "vlan.id", "-e", "can.id").Output()
	if err != nil {
		t.Fatalf("tshark is needed to compare with: %v", err)
	}
	got := map[string]int{}
	for line := range strings.Lines(string(out)) {
		// Versions differ in whether they name the type field as a protocol.
		got[strings.ReplaceAll(strings.TrimRight(line, "\n"), "ethertype:", "")]++
	}
	want := map[string]int{
		"raw\traw:ip:icmp\t\t": 1,
		"gre\tsll:ip:icmp\t\t": 1,
		"can\tcan:data\t\t291": 1,
	}
	for _, iface := range []string{"a", "b"} {
		want[iface+"\teth:ip:icmp\t\t"] = 1
		want[iface+"\teth:vlan:ip:icmp\t0\t"] = 1
		want[iface+"\teth:ieee8021ad:vlan:ip:icmp\t8\t"] = 1
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +tshark)\n%s", diff)
	}
}
