package capfile

import (
	"fmt"
	"math"

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

// Drops is how many packets the file says were lost when it was captured: the
// drop counters of its interfaces, up to the packet that Next gave last.
func (f *Reader) Drops() uint64 { return f.pcapng.allDrops() }

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
	return "block of a type that is not known" // one kind, or a file could make millions
}

// statistics takes in an interface statistics block. The counters of one
// interface only ever grow, so that its last block is the one that counts. The
// comment that dumpcap puts there is about itself, and nobody's loss.
func (f *Reader) statistics(b []byte) error {
	s := &f.pcapng
	if len(b) < 12 {
		return fmt.Errorf("%w: interface statistics of %d bytes", ErrFormat, len(b))
	}
	i := s.order.Uint32(b)
	if uint64(i) >= uint64(len(s.clocks)) {
		return fmt.Errorf("%w: statistics of interface %d, of %d that are described", ErrFormat, i, len(s.clocks))
	}
	var drops uint64
	err := eachOption(s.order, b[12:], func(code uint16, v []byte) {
		if (code == pcapng.OptIfDrop || code == pcapng.OptOSDrop) && len(v) == 8 {
			drops = addDrops(drops, s.order.Uint64(v))
		}
	})
	for len(s.drops) <= int(i) {
		s.drops = append(s.drops, 0)
	}
	s.drops[i] = drops
	return err
}

// endStatistics ends those of a section: the next one numbers its interfaces anew.
func (s *pcapngState) endStatistics() {
	s.earlier, s.drops = s.allDrops(), s.drops[:0]
}

func (s *pcapngState) allDrops() uint64 {
	all := s.earlier
	for _, n := range s.drops {
		all = addDrops(all, n)
	}
	return all
}

// addDrops adds a counter as found in a file: all bits set stand for a number
// that is not known, and no sum overflows.
func addDrops(sum, n uint64) uint64 {
	const most = math.MaxInt64 / 2
	if n > most {
		return sum
	}
	return min(sum+n, most)
}

// sectionComments counts the comments of a section header. What is wrong with its
// options does not matter, since nothing else is read of them.
func (f *Reader) sectionComments(b []byte) {
	const fixed = 12 // version and section length
	if len(b) < fixed {
		return
	}
	_ = eachOption(f.pcapng.order, b[fixed:], func(code uint16, _ []byte) {
		if code == pcapng.OptComment {
			f.skipped["comment on the capture"]++
		}
	})
}
