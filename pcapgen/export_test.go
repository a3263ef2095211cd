package pcapgen

import (
	"bytes"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"pcapsule/internal/pcapng"
	"pcapsule/manifest"
)

// samePackets compares one by one: a diff of thousands takes half a minute.
func samePackets(t *testing.T, want, got []pcapng.Packet) {
	t.Helper()
	for i := range min(len(want), len(got)) {
		w, g := want[i], got[i]
		if w.Interface != g.Interface || w.Time != g.Time || w.OrigLen != g.OrigLen || w.Flags != g.Flags ||
			!bytes.Equal(w.Options, g.Options) || !bytes.Equal(w.Data, g.Data) {
			t.Fatalf("packet %d (-want +got):\n%s", i, cmp.Diff(w, g, cmpopts.EquateEmpty()))
		}
	}
	if len(want) != len(got) {
		t.Fatalf("%d packets, want %d", len(got), len(want))
	}
}

func TestOrder(t *testing.T) {
	s := mixed(t, 1, 7, 800)
	from, to := int64(s.m.Window.From), int64(s.m.Window.To)
	b, stats := s.export(Request{})
	got, err := parse(b)
	if err != nil {
		t.Fatal(err)
	}
	want := s.naive(from, to)
	samePackets(t, want, got.packets)
	if int(stats.Records) != len(want) || stats.Chunks != 21 || stats.Drops != 3*21 {
		t.Errorf("%+v, want %d records of 21 chunks and 63 drops", stats, len(want))
	}
	var names, descriptions []string
	for _, i := range got.interfaces {
		names = append(names, i.Name)
		descriptions = append(descriptions, i.Description)
	}
	if diff := cmp.Diff([]string{
		"a:eth0", "a:eth0", "a:eth1", "b:eth0", "b:eth0", "b:eth1", "c:eth0", "c:eth0", "c:eth1",
	}, names); diff != "" {
		t.Errorf("interfaces (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{
		"node a", "node a, vlan", "node a", "node b", "node b, vlan", "node b", "node c", "node c, vlan", "node c",
	}, descriptions); diff != "" {
		t.Errorf("interfaces (-want +got):\n%s", diff)
	}
	counts := map[uint32]uint64{}
	for _, p := range want {
		counts[p.Interface]++
	}
	for _, st := range got.statistics {
		if *st.Received != counts[st.Interface] {
			t.Errorf("statistics of interface %d count %d, want %d", st.Interface, *st.Received, counts[st.Interface])
		}
		if (st.OSDrop != nil) != (st.Interface%3 == 0) || (st.OSDrop != nil && *st.OSDrop != 21) {
			t.Errorf("statistics of interface %d: drops %v", st.Interface, st.OSDrop)
		}
	}
	if len(got.statistics) != 9 {
		t.Errorf("%d statistics, want 9", len(got.statistics))
	}
}

// Small merges of many shapes, over windows that cut through them.
func TestOrderOfMany(t *testing.T) {
	for seed := range uint64(60) {
		s := mixed(t, seed, 1+int(seed%5), 1+int(seed*7%40))
		from, to := t0+int64(seed%9), t0+int64(10+seed*3)
		b, _ := s.export(Request{Range: manifest.Between(manifest.Nanos(from), manifest.Nanos(to))})
		got, err := parse(b)
		if err != nil {
			t.Fatal(err)
		}
		samePackets(t, s.naive(from, to), got.packets)
	}
}

// The same request gives the same bytes, whatever runs beside it.
func TestSameBytes(t *testing.T) {
	s := mixed(t, 1, 7, 800)
	for _, f := range []Format{PcapNG, Pcap} {
		want, _ := s.export(Request{Format: f})
		for i := range 6 {
			procs := runtime.GOMAXPROCS([]int{1, 2, 8}[i%3])
			got, _ := s.export(Request{Format: f})
			runtime.GOMAXPROCS(procs)
			if !bytes.Equal(want, got) {
				t.Fatalf("%s: run %d differs", f, i)
			}
		}
	}
}
