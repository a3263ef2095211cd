//go:build linux

package packets

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// A flood has its share, and as much again each hour; what others send is taken
// meanwhile, at either end.
func TestFair(t *testing.T) {
	start := time.Unix(1_700_000_000, 0).UnixNano()
	hour := int64(time.Hour)
	flood, sink, quiet, other := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("fd00::4")
	f := newFair(1_000_000)
	taken := 0
	for i := range int64(50_000) { // a second of it
		if over := f.take(flood, sink, 100, start+i*20_000); !over.IsValid() {
			taken++
		} else if over != flood && over != sink {
			t.Fatalf("%s is over its share", over)
		}
	}
	if taken < 10_000 || taken > 10_010 {
		t.Errorf("%d packets of 100 bytes were taken of a share of 1,000,000", taken)
	}
	for i := range int64(1000) {
		if over := f.take(quiet, other, 100, start+i*1_000_000); over.IsValid() {
			t.Fatalf("a quiet address is refused: %s", over)
		}
	}
	if over := f.take(quiet, flood, 100, start+1e9); over != flood {
		t.Errorf("to the one that is over its share: %v", over)
	}
	if over := f.take(flood, quiet, 100, start+1e9); over != flood {
		t.Errorf("from the one that is over its share: %v", over)
	}
	taken = 0
	for range 20_000 {
		if !f.take(flood, quiet, 100, start+hour/2).IsValid() {
			taken++
		}
	}
	if taken < 4_990 || taken > 5_010 {
		t.Errorf("%d packets of 100 bytes were taken half an hour later", taken)
	}
	for _, at := range []int64{start + hour/2 - 10*hour, start + hour/2 - 10*hour + 1} { // the clock was set back
		if over := f.take(flood, other, 100, at); over != flood {
			t.Errorf("after the clock was set back: %v", over)
		}
	}
	if newFair(0) != nil {
		t.Error("no share is no bound")
	}
}

// What is remembered is bounded, and whoever sends much is not forgotten for many
// who send little.
func TestFairIsBounded(t *testing.T) {
	start := time.Unix(1_700_000_000, 0).UnixNano()
	f := newFair(1_000_000)
	flood := netip.MustParseAddr("10.0.0.1")
	for range 20_000 {
		f.take(flood, netip.MustParseAddr("10.0.0.2"), 100, start)
	}
	for i := range uint32(10 * maxFair) {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], 0x0b000000+i)
		if over := f.take(netip.AddrFrom4(b), netip.AddrFrom4(b), 100, start); over.IsValid() {
			t.Fatalf("%s is refused", over)
		}
	}
	if len(f.table) > maxFair {
		t.Errorf("%d addresses are remembered, and %d are to be at most", len(f.table), maxFair)
	}
	if over := f.take(flood, flood, 100, start); over != flood {
		t.Errorf("the flood was forgotten: %v", over)
	}
}

func TestAddresses(t *testing.T) {
	v4 := append([]byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0}, 10, 0, 0, 1, 10, 0, 0, 2)
	v6 := append(make([]byte, 8), append(netip.MustParseAddr("fd00::1").AsSlice(), netip.MustParseAddr("fd00::2").AsSlice()...)...)
	v6[0] = 0x60
	macs := make([]byte, 12)
	join := func(list ...[]byte) (out []byte) {
		for _, b := range list {
			out = append(out, b...)
		}
		return out
	}
	for name, tc := range map[string]struct {
		link     uint16
		b        []byte
		src, dst string
	}{
		"IPv4":               {linkEthernet, join(macs, []byte{8, 0}, v4), "10.0.0.1", "10.0.0.2"},
		"IPv6":               {linkEthernet, join(macs, []byte{0x86, 0xdd}, v6), "fd00::1", "fd00::2"},
		"one tag":            {linkEthernet, join(macs, []byte{0x81, 0, 0, 5, 8, 0}, v4), "10.0.0.1", "10.0.0.2"},
		"two tags":           {linkEthernet, join(macs, []byte{0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0}, v4), "10.0.0.1", "10.0.0.2"},
		"raw":                {linkRaw, v4, "10.0.0.1", "10.0.0.2"},
		"raw IPv6":           {linkRaw, v6, "fd00::1", "fd00::2"},
		"cooked":             {linkLinuxSLL2, join(make([]byte, sll2Len), v4), "10.0.0.1", "10.0.0.2"},
		"ARP":                {linkEthernet, join(macs, []byte{8, 6}, v4), "", ""},
		"short":              {linkEthernet, macs, "", ""},
		"tags without end":   {linkEthernet, join(macs, []byte{0x81, 0, 0, 5, 0x81, 0}), "", ""},
		"short IPv4":         {linkEthernet, join(macs, []byte{8, 0}, v4[:19]), "", ""},
		"short IPv6":         {linkEthernet, join(macs, []byte{0x86, 0xdd}, v6[:39]), "", ""},
		"nothing":            {linkRaw, nil, "", ""},
		"a short cooked":     {linkLinuxSLL2, make([]byte, sll2Len-1), "", ""},
		"not of the network": {linkCAN, v4, "", ""},
	} {
		src, dst := addresses(tc.link, tc.b)
		text := func(a netip.Addr) string {
			if !a.IsValid() {
				return ""
			}
			return a.String()
		}
		if text(src) != tc.src || text(dst) != tc.dst {
			t.Errorf("%s: %v, %v", name, src, dst)
		}
	}
}

// What the bound costs for each packet.
func BenchmarkFair(b *testing.B) {
	f := newFair(1 << 40)
	frame := append(make([]byte, 12), append([]byte{8, 0, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0}, 10, 0, 0, 1, 10, 0, 0, 2)...)
	at := time.Now().UnixNano()
	for i := 0; b.Loop(); i++ {
		frame[len(frame)-1] = byte(i % 100)
		src, dst := addresses(linkEthernet, frame)
		f.take(src, dst, len(frame), at+int64(i))
	}
}

// A capture records what an address may have, tells what was left out, and records
// all that others send meanwhile.
func TestFairCapture(t *testing.T) {
	namespace(t)
	veth(t, "a", "b")
	var left, tellings atomic.Uint64
	const frameLen, share = 1000, 100_000
	flood := netip.MustParseAddr("10.0.0.1")
	s := begin(t, Config{
		Interfaces: []string{"b"}, Workers: 2, Fair: share,
		OnThinned: func(a netip.Addr, count uint64, from, to int64) {
			if a != flood || from >= to {
				t.Errorf("%d of %s left out from %d to %d", count, a, from, to)
			}
			left.Add(count)
			tellings.Add(1)
		},
	})
	out := newSender(t, "a")
	const floods, others = 2000, 50
	for i := range floods {
		f := ether(0x0800, frameLen, 0)
		copy(f[14:], []byte{0x45, 0, 3, 0xda, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 1, byte(i >> 6), byte(i)})
		out.send(f)
		if i%(floods/others) == 0 {
			f := ether(0x0800, frameLen, 1)
			copy(f[14:], []byte{0x45, 0, 3, 0xda, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 9, 9, 10, 8, 8, 8})
			out.send(f)
		}
	}
	quiet := 0
	all := s.cut()
	for _, r := range all {
		if r.Data[26+1] == 9 {
			quiet++
		}
	}
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if quiet != others {
		t.Errorf("%d packets of %d are recorded of the quiet one", quiet, others)
	}
	if got := len(all) - quiet; got != share/frameLen || uint64(got)+left.Load() != floods {
		t.Errorf("%d packets of the flood are recorded and %d left out, of %d and a share of %d", got, left.Load(), floods, share/frameLen)
	}
	if st := s.Stats(); st.Packets != uint64(len(all)) || st.Drops != 0 {
		t.Errorf("%+v of %d records", st, len(all))
	}
	if n := tellings.Load(); n > 50 {
		t.Errorf("it is told %d times", n)
	}
}
