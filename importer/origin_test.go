package importer

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
	"pcapsule/internal/pcapng"
	"pcapsule/manifest"
)

// TestOrigins: what captures say of interfaces and of themselves is in the
// manifest: once, of each that says something else, and of those without packets.
func TestOrigins(t *testing.T) {
	section := func(b []byte, hardware, filter string) []byte {
		b = pcapng.AppendSectionHeader(b, pcapng.SectionHeader{Hardware: hardware, Application: "dumpcap"})
		b = pcapng.AppendInterface(b, pcapng.Interface{LinkType: 1, TSResol: 9, Name: "eth0", Filter: filter, Hardware: "NIC"})
		b = pcapng.AppendInterface(b, pcapng.Interface{LinkType: 1, TSResol: 6, Name: "silent"})
		return pcapng.AppendPacket(b, &pcapng.Packet{Time: 5, OrigLen: 2, Data: []byte("ab")})
	}
	path := filepath.Join(t.TempDir(), "two.pcapng")
	b := section(section(section(nil, "laptop", "tcp port 80"), "laptop", "tcp port 80"), "server", "udp")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	nodes, _, err := run(t, File{"n", path})
	if err != nil {
		t.Fatal(err)
	}
	eth, silent := chunker.Interface{Name: "eth0", LinkType: 1}, chunker.Interface{Name: "silent", LinkType: 1}
	want := []manifest.Origin{
		{Interface: eth, Filter: "tcp port 80", Hardware: "NIC", CaptureHardware: "laptop", Application: "dumpcap"},
		{Interface: eth, Filter: "udp", Hardware: "NIC", CaptureHardware: "server", Application: "dumpcap"},
		{Interface: silent, Resolution: "10^-6", CaptureHardware: "laptop", Application: "dumpcap"},
		{Interface: silent, Resolution: "10^-6", CaptureHardware: "server", Application: "dumpcap"},
	}
	if d := cmp.Diff(want, nodes[0].Origins); d != "" {
		t.Errorf("origins (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]chunker.Interface{eth}, nodes[0].Interfaces); d != "" {
		t.Errorf("interfaces (-want +got):\n%s", d)
	}
}
