package pcapgen

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

// seconds is a snapshot of two nodes with a packet each at every full second,
// in chunks of ten. Node b's clock is 5 s ahead.
func seconds(t *testing.T) *snapshot {
	s := newSnapshot(t)
	eth, tun := ethernet("eth0"), chunker.Interface{Name: "tun0", LinkType: 101}
	for _, name := range []string{"a", "b"} {
		n := s.node(name, eth, tun)
		ahead := int64(0)
		if name == "b" {
			n.Clock = manifest.Clock{Offset: 5 * second, Error: second}
			ahead = 5 * second
		} else {
			n.Clock = manifest.Clock{Offset: -second, Error: second} // may be right
		}
		for c := range 4 {
			var records []chunker.Record
			for i := range 10 {
				at := int64(c*10 + i)
				records = append(records, packet(t0+ahead+at*second, uint32(at%2), uint64(at), 100))
			}
			s.chunk(name, []chunker.Interface{eth, tun}, records)
		}
	}
	return s
}

func TestWindow(t *testing.T) {
	s := seconds(t)
	tests := []struct {
		name     string
		from, to int64 // 0, or nanoseconds after t0
		nodes    []string
		want     uint64
		chunks   int
	}{
		{"all", 0, 0, nil, 80, 8},
		{"one node", 0, 0, []string{"b"}, 40, 4},
		{"from is in it, to is not", 3 * second, 5 * second, nil, 4, 2},
		{"just after and just before", 3*second + 1, 5 * second, nil, 2, 2},
		{"up to and with", 3 * second, 5*second + 1, nil, 6, 2},
		{"over a border of chunks", 9 * second, 11 * second, nil, 4, 4},
		{"open end", 38 * second, 0, nil, 4, 2},
		{"open start", 0, 2 * second, nil, 4, 2},
		{"between packets", 3*second + 1, 4 * second, nil, 0, 2},
		{"after all", 1000 * second, 2000 * second, nil, 0, 0},
		{"after the snapshot's", 4000 * second, 5000 * second, nil, 0, 0},
		{"before the snapshot's", -5 * second, -second, nil, 0, 0},
		{"a nanosecond", 7 * second, 7*second + 1, []string{"a"}, 1, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := *s
			s.t = t
			req := Request{Nodes: tt.nodes}
			if from := manifest.Nanos(t0 + tt.from); tt.from != 0 {
				req.Range.From = &from
			}
			if to := manifest.Nanos(t0 + tt.to); tt.to != 0 {
				req.Range.To = &to
			}
			b, stats := s.export(req)
			got, err := parse(b)
			if err != nil {
				t.Fatal(err)
			}
			if stats.Records != tt.want || uint64(len(got.packets)) != tt.want {
				t.Errorf("%d records, and %d in the file; want %d", stats.Records, len(got.packets), tt.want)
			}
			if stats.Chunks != tt.chunks {
				t.Errorf("%d chunks read, want %d", stats.Chunks, tt.chunks)
			}
			if stats.Drops != 3*uint64(tt.chunks) {
				t.Errorf("%d drops, want 3 a chunk", stats.Drops)
			}
		})
	}
}

// The snapshot's window holds for what its chunks have on either side of it.
func TestSnapshotWindow(t *testing.T) {
	s := seconds(t)
	s.m.Window = manifest.Interval{From: t0 + 5*second, To: t0 + 7*second}
	if _, stats := s.export(Request{Range: manifest.Between(manifest.Nanos(t0), manifest.Nanos(t0+100*second))}); stats.Records != 4 {
		t.Errorf("%d records, want 4", stats.Records)
	}
}

// An export without packets says where it looked, and for what.
func TestEmpty(t *testing.T) {
	s := seconds(t)
	at := func(d int64) *manifest.Nanos { n := manifest.Nanos(t0 + d); return &n }
	zero := manifest.Nanos(0)
	for _, tt := range []struct {
		name string
		req  Request
		says []string
	}{
		{"before the window", Request{Range: manifest.Range{To: &zero}}, []string{"to 1970-01-01T00:00:00Z", "outside", "2023-11-14T22:13:20Z"}},
		{"after the window", Request{Range: manifest.Range{From: at(5000 * second)}}, []string{"outside", "2023-11-14T23:13:20Z"}},
		{"after the packets", Request{Nodes: []string{"a"}, Range: manifest.Range{From: at(1000 * second)}},
			[]string{"node a are from 2023-11-14T22:13:20Z to 2023-11-14T22:13:59", "none is from 2023-11-14T22:30:00Z"}},
		{"between packets", Request{Range: manifest.Range{From: at(3*second + 1), To: at(3*second + 2)}}, []string{"nodes a, b recorded no packet from 2023-11-14T22:13:23.000000001Z"}},
		{"no such interface then", Request{Nodes: []string{"a"}, Interfaces: []string{"tun0"}, Range: manifest.Range{From: at(2 * second), To: at(2*second + 1)}},
			[]string{"node a", "interface tun0"}},
	} {
		_, stats := s.export(tt.req)
		if stats.Records != 0 {
			t.Errorf("%s: %d records", tt.name, stats.Records)
		}
		for _, want := range tt.says {
			if !strings.Contains(stats.Empty, want) {
				t.Errorf("%s: %q does not say %q", tt.name, stats.Empty, want)
			}
		}
	}
	if _, stats := s.export(Request{}); stats.Empty != "" {
		t.Errorf("%d records, and yet %q", stats.Records, stats.Empty)
	}
}

// A clock that is off by centuries is nonsense, and no more.
func TestWildClock(t *testing.T) {
	for _, off := range []manifest.Nanos{math.MaxInt64, math.MinInt64 + 1, math.MinInt64} {
		s := seconds(t)
		s.m.Nodes[1].Clock.Offset = off
		if _, stats := s.export(Request{}); stats.Records != 40 {
			t.Errorf("offset %d: %d records, want the 40 of the other node", off, stats.Records)
		}
	}
}

func TestChooseInterface(t *testing.T) {
	s := seconds(t)
	b, stats := s.export(Request{Nodes: []string{"a"}, Interfaces: []string{"tun0"}})
	got, err := parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if stats.Records != 20 || len(got.interfaces) != 1 || got.interfaces[0].Name != "tun0" || got.interfaces[0].LinkType != 101 {
		t.Errorf("%d records of %+v, want 20 of tun0", stats.Records, got.interfaces)
	}
	for i, p := range got.packets {
		if want := packet(t0+int64(2*i+1)*second, 0, uint64(2*i+1), 100); p.Time != want.Time || !slices.Equal(p.Data, want.Data) {
			t.Fatalf("packet %d is another one", i)
		}
	}
	if diff := cmp.Diff("snapshot outage (20231114t221320z-test), from 2023-11-14T22:13:20Z to 2023-11-14T23:13:20Z",
		got.header.Comment); diff != "" {
		t.Errorf("comment (-want +got):\n%s", diff)
	}
}

func TestRefused(t *testing.T) {
	s := seconds(t)
	var (
		node  *UnknownNodeError
		ifc   *UnknownInterfaceError
		mixed *MixedLinkTypesError
	)
	tests := []struct {
		name string
		req  Request
		as   func(error) bool
		says []string
	}{
		{"node", Request{Nodes: []string{"a", "z"}},
			func(err error) bool { return errors.As(err, &node) && node.Node == "z" },
			[]string{`no node "z"`, "a, b"}},
		{"interface", Request{Interfaces: []string{"eth0", "eth9"}},
			func(err error) bool { return errors.As(err, &ifc) && ifc.Interface == "eth9" },
			[]string{`"eth9"`, "eth0, tun0"}},
		{"mixed link types", Request{Format: Pcap},
			func(err error) bool { return errors.As(err, &mixed) && len(mixed.Interfaces) == 4 },
			[]string{"Ethernet on a:eth0, b:eth0", "raw IP on a:tun0, b:tun0", "--format pcapng", "--interface", "--node"}},
		{"window", Request{Range: manifest.Between(manifest.Nanos(t0+2), manifest.Nanos(t0+1))},
			func(err error) bool { return errors.Is(err, ErrWindow) }, []string{"2023-11-14T22:13:20.000000002Z"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var w strings.Builder
			_, err := Export(t.Context(), &w, s.source(), tt.req)
			if err == nil || !tt.as(err) {
				t.Fatalf("error %v", err)
			}
			for _, want := range tt.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if w.Len() > 0 {
				t.Errorf("%d bytes were written", w.Len())
			}
		})
	}
}

// What is left of a node's interfaces decides whether a classic pcap can be.
func TestClassicOfOneLinkType(t *testing.T) {
	s := seconds(t)
	b, stats := s.export(Request{Format: Pcap, Interfaces: []string{"tun0"}})
	if stats.Records != 40 || b[20] != 101 {
		t.Errorf("%d records of link type %d, want 40 of 101", stats.Records, b[20])
	}
}

func TestParseFormat(t *testing.T) {
	for _, f := range []Format{PcapNG, Pcap} {
		if got, err := ParseFormat(f.String()); err != nil || got != f {
			t.Errorf("%s: %v, %v", f, got, err)
		}
	}
	if _, err := ParseFormat("erf"); err == nil {
		t.Error("erf is accepted")
	}
}
