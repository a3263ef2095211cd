package pcapgen

import (
	"strings"
	"testing"

	"pcapsule/chunker"
	"pcapsule/internal/pcapng"
	"pcapsule/manifest"
)

// TestOrigins: an export says again what captures said of an interface. What they
// said of some of its packets only is in a comment, and not of the interface.
func TestOrigins(t *testing.T) {
	s := seconds(t)
	n := &s.m.Nodes[0]
	var eth, tun chunker.Interface
	for _, i := range n.Interfaces {
		if i.Name == "eth0" {
			eth = i
		} else {
			tun = i
		}
	}
	n.Origins = []manifest.Origin{
		{
			Interface: eth, Filter: "tcp port 80", OS: "Linux", Hardware: "NIC", MAC: "02:00:00:00:00:01",
			Addresses: "10.0.0.1/24 fe80::1/64", Speed: "1000000000", CaptureHardware: "laptop", Application: "dumpcap",
		},
		{Interface: tun, Filter: "tcp", CaptureHardware: "laptop", CaptureComment: "why"},
		{Interface: tun, Filter: "udp", CaptureHardware: "server"},
	}
	b, _ := s.export(Request{Nodes: []string{"a"}})
	got, err := parse(b)
	if err != nil {
		t.Fatal(err)
	}
	h := got.header
	if h.Hardware != "laptop; server" || !strings.Contains(h.Comment, "; captured by dumpcap; with the comment why") {
		t.Errorf("the section says %+v", h)
	}
	for _, i := range got.interfaces {
		switch i.Name {
		case "eth0":
			if i.Filter != "tcp port 80" || i.OS != "Linux" || i.Hardware != "NIC" {
				t.Errorf("eth0 is described as %+v", i)
			}
		default:
			if i.Filter != "" {
				t.Errorf("a filter of some packets is that of all: %+v", i)
			}
		}
	}
	info := mustRun(t, "capinfos", writeFile(t, "origins.pcapng", b))
	for _, want := range []string{"Filter string = tcp port 80", "Speed = 1000000000", "Hardware = NIC", "laptop; server"} {
		if !strings.Contains(info, want) {
			t.Errorf("capinfos does not say %q:\n%s", want, info)
		}
	}
	for _, option := range [][]byte{
		pcapng.AppendOption(nil, pcapng.OptIfMAC, []byte{2, 0, 0, 0, 0, 1}),
		pcapng.AppendOption(nil, pcapng.OptIfIPv4, []byte{10, 0, 0, 1, 255, 255, 255, 0}),
		pcapng.AppendOption(nil, pcapng.OptIfIPv6, append(append([]byte{0xfe, 0x80}, make([]byte, 13)...), 1, 64)),
		pcapng.AppendOption(nil, pcapng.OptComment, []byte("filter of some of its packets: tcp; udp")),
	} {
		if !strings.Contains(string(b), string(option)) {
			t.Errorf("the export lacks the option % x", option)
		}
	}
}
