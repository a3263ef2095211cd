package capfile

import (
	"math"
	"slices"

	"pcapsule/internal/pcapng"
)

// What a file holds beside packets, and what it says it lacks.

// Skipped counts what the file held that Next does not give, by kind: blocks,
// options and comments, but no packets.
func (f *Reader) Skipped() map[string]int { return f.skipped }

// Lost counts the packets that Next left out, by the reason.
func (f *Reader) Lost() map[string]int { return f.lost }

// Untimed counts the packets that have no time in the file (pcapng's simple packet
// blocks). They were given that of the packet before, or 0.
func (f *Reader) Untimed() int { return f.untimed }

// Corrected counts the packets for which the file says something that cannot be,
// by what it is and what Next gives instead.
func (f *Reader) Corrected() map[string]int { return f.corrected }

// A Loss is what a file says that the packets of an interface are short of.
type Loss struct {
	Interface int    // for Reader.Interface; -1: of several together
	Dropped   uint64 // packets for which there was no room
	Filtered  uint64 // packets that the capture's filter left out, on purpose
}

// Losses says which packets were lost or left out when the file was captured, up
// to the packet that Next gave last.
//
// A file tells of drops in two ways: statistics count those of an interface since
// the capture began, and packets those between them and the packet before. Both
// count the same drops, and either may be missing or stop early, so that of an
// interface the larger sum is taken. pcapsule's own files have the statistics of
// all interfaces of a node at its first: there the larger sum of all is taken.
func (f *Reader) Losses() []Loss {
	return append(slices.Clone(f.pcapng.earlier), f.pcapng.sectionLosses()...)
}

func blockName(typ uint32) string {
	switch typ {
	case pcapng.BlockNRB:
		return "name resolution"
	case pcapng.BlockJournal:
		return "systemd journal"
	case pcapng.BlockDSB:
		return "decryption secrets"
	case pcapng.BlockCustom, pcapng.BlockPrivate:
		return "custom"
	}
	return unknownBlock // one kind, or a file could make millions
}

const unknownBlock = "block of a type that is not known"

// losses are what a section says so far of one of its interfaces.
type losses struct {
	dropped  uint64 // as its last statistics say
	between  uint64 // as its packets say, added up
	filtered uint64
}

// statistics takes in an interface statistics block. The counters of one
// interface only ever grow, so that its last block is the one that counts. The
// comment that dumpcap puts there is about itself, and nobody's loss.
func (f *Reader) statistics(b []byte) {
	s := &f.pcapng
	const senseless = "interface statistics that make no sense"
	if len(b) < 12 || uint64(s.order.Uint32(b)) >= uint64(len(s.losses)) {
		f.skipped[senseless]++
		return
	}
	l := &s.losses[s.order.Uint32(b)]
	var dropped, received, accepted uint64
	filters := false
	if !eachOption(s.order, b[12:], func(code uint16, v []byte) {
		if len(v) != 8 {
			return
		}
		switch n := s.order.Uint64(v); code {
		case pcapng.OptIfDrop, pcapng.OptOSDrop:
			dropped = f.addDrops(dropped, n)
		case pcapng.OptReceived:
			received = n
		case pcapng.OptFilterAccept:
			accepted, filters = n, true
		}
	}) {
		f.skipped[senseless]++
	}
	l.dropped = dropped
	if filters && received > accepted {
		l.filtered = f.addDrops(0, received-accepted)
	}
}

// endSection ends a section: the next one numbers its interfaces anew.
func (f *Reader) endSection() {
	s := &f.pcapng
	s.earlier = append(s.earlier, s.sectionLosses()...)
	s.first, s.clocks, s.losses, s.own = len(f.interfaces), s.clocks[:0], s.losses[:0], false
	s.capture = Capture{}
}

func (s *pcapngState) sectionLosses() (list []Loss) {
	all, between := Loss{Interface: -1}, uint64(0)
	for i, l := range s.losses {
		one := Loss{Interface: s.first + i, Dropped: max(l.dropped, l.between), Filtered: l.filtered}
		if one.Dropped > 0 || one.Filtered > 0 {
			list = append(list, one)
		}
		all.Dropped, between = sumDrops(all.Dropped, l.dropped), sumDrops(between, l.between)
	}
	if s.own {
		if all.Dropped = max(all.Dropped, between); all.Dropped == 0 {
			return nil
		}
		return []Loss{all}
	}
	return list
}

// most is the largest sum of counts of packets.
const most = math.MaxInt64 / 2

// unknownCount is a count of packets that is not known.
const unknownCount = math.MaxUint64

// addDrops adds a counter as found in a file: all bits set stand for a number
// that is not known.
func (f *Reader) addDrops(sum, n uint64) uint64 {
	if n > most {
		f.skipped["counts of lost packets that are not known"]++
		return sum
	}
	return sumDrops(sum, n)
}

// sumDrops stops at the largest sum instead of wrapping.
func sumDrops(a, b uint64) uint64 { return min(a+b, most) }
