package packets

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

// fairTime is in which time an address that has taken its share of the ring may
// take as much again.
const fairTime = time.Hour

// maxFair bounds how many addresses are accounted for. What comes from or to
// others is recorded: it is the few that send much who matter.
const maxFair = 4096

// A fair bounds what one address may take of the ring: as many bytes at once, and
// as many an hour. All workers share it, since the flows of an address are spread
// over them.
type fair struct {
	share float64 // bytes

	mu    sync.Mutex
	table map[netip.Addr]*budget
}

// budget is what an address may still take.
type budget struct {
	left float64 // bytes
	at   int64   // of what time
}

// newFair is nil, which bounds nothing, when share is 0.
func newFair(share int64) *fair {
	if share <= 0 {
		return nil
	}
	return &fair{share: float64(share), table: map[netip.Addr]*budget{}}
}

// take accounts for a packet of n bytes at a time, between two addresses, to both of
// them. Over is the one that has no room left for it, which is then not taken; it is
// invalid otherwise.
func (f *fair) take(src, dst netip.Addr, n int, at int64) (over netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	from := f.of(src, at)
	to := from
	if dst != src {
		to = f.of(dst, at)
	}
	switch {
	case from != nil && from.left < float64(n):
		return src
	case to != nil && to.left < float64(n):
		return dst
	}
	if from != nil {
		from.left -= float64(n)
	}
	if to != nil && to != from {
		to.left -= float64(n)
	}
	return netip.Addr{}
}

// of is the budget of an address as of a time; nil when it has no bound.
func (f *fair) of(a netip.Addr, at int64) *budget {
	if !a.IsValid() || a.IsMulticast() {
		return nil
	}
	b := f.table[a]
	if b == nil {
		if len(f.table) >= maxFair {
			f.forget(at)
		}
		if len(f.table) >= maxFair {
			return nil
		}
		b = &budget{left: f.share, at: at}
		f.table[a] = b
	}
	f.refill(b, at)
	return b
}

// refill gives back what time has brought. A clock that was set back brings nothing.
func (f *fair) refill(b *budget, at int64) {
	if past := at - b.at; past > 0 {
		b.left = min(f.share, b.left+f.share*float64(past)/float64(fairTime))
	}
	b.at = at
}

// forget drops the addresses that have taken little of late.
func (f *fair) forget(at int64) {
	for a, b := range f.table {
		if f.refill(b, at); b.left > f.share*0.99 {
			delete(f.table, a)
		}
	}
}

// addresses are those of an IP packet as a frame of some link type holds it; invalid
// ones for all else.
func addresses(link uint16, b []byte) (src, dst netip.Addr) {
	switch link {
	case linkEthernet:
		if len(b) < macsLen+2 {
			return src, dst
		}
		b = b[macsLen:]
		for len(b) >= 2+tagLen && (binary.BigEndian.Uint16(b) == etherTypeVLAN || binary.BigEndian.Uint16(b) == 0x88a8) {
			b = b[tagLen:]
		}
		switch binary.BigEndian.Uint16(b) {
		case 0x0800, 0x86dd:
			b = b[2:]
		default:
			return src, dst
		}
	case linkRaw:
	case linkLinuxSLL2:
		if len(b) < sll2Len {
			return src, dst
		}
		b = b[sll2Len:]
	default:
		return src, dst
	}
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	case len(b) >= 40 && b[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	}
	return src, dst
}

// maxOver is how many addresses that are over their share are told by name at once.
const maxOver = 8

// thinned counts, between ticks, what was not recorded of an address.
type thinned struct {
	count    uint64
	from, to int64
}

// thin tells whether a packet is not to be recorded since one of its addresses has
// had its share, and counts it.
func (w *worker) thin(f *frame) bool {
	src, dst := addresses(linkType(f.hatype), f.data)
	if !src.IsValid() {
		return false
	}
	over := w.fair.take(src, dst, len(f.data), f.time)
	if !over.IsValid() {
		return false
	}
	t, ok := w.over[over]
	if !ok {
		if len(w.over) >= maxOver {
			over = netip.Addr{}
			t = w.over[over]
		}
		if t.count == 0 {
			t.from, t.to = f.time, f.time
		}
	}
	t.count, t.from, t.to = t.count+1, min(t.from, f.time), max(t.to, f.time)
	w.over[over] = t
	return true
}

// tellThinned tells what was thinned out since the last tick.
func (w *worker) tellThinned() {
	for a, t := range w.over {
		if w.onThinned != nil {
			w.onThinned(a, t.count, t.from, t.to+1)
		}
	}
	clear(w.over)
}
