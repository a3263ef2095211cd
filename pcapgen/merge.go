package pcapgen

import (
	"math"
	"sort"
)

// A merger takes the batches of a plan's inputs from a scheduler and writes
// their records in order.
type merger struct {
	plan    *plan
	sched   *scheduler
	out     *output
	journal *journal // or nil
	tree    tree
	taken   int // of the plan's chunks: how many are in the tree, or were
	chunks  int // of them, those that were read to their end
}

// run merges everything.
func (m *merger) run() error {
	if m.journal != nil {
		in := m.journal.input()
		if b := m.journal.batch(nil); b != nil {
			m.tree.heads = append(m.tree.heads, head{in, b})
			m.tree.build()
		}
	}
	for {
		if err := m.admit(); err != nil {
			return err
		}
		if len(m.tree.heads) == 0 {
			return nil
		}
		if err := m.until(m.horizon()); err != nil {
			return err
		}
	}
}

// horizon is when the next chunk begins. Before that time the tree has all
// records that there are.
func (m *merger) horizon() int64 {
	if m.taken == len(m.plan.chunks) {
		return math.MaxInt64
	}
	return m.plan.chunks[m.taken].begin
}

// admit adds the chunks that begin no later than the next record to the tree, or
// while the tree is empty those that begin first.
func (m *merger) admit() error {
	for m.taken < len(m.plan.chunks) {
		begin := m.horizon()
		if len(m.tree.heads) > 0 {
			begin = m.tree.winner.time
		}
		n := 0
		for _, c := range m.plan.chunks[m.taken:] {
			if c.begin > begin {
				break
			}
			n++
		}
		if n == 0 {
			return nil
		}
		m.taken += n
		for _, in := range m.sched.admit(n) {
			b, err := m.sched.next(in, nil, begin, m.out.pause)
			if err != nil {
				return err
			}
			if b == nil {
				m.finish(in)
				continue
			}
			m.tree.heads = append(m.tree.heads, head{in, b})
		}
		m.tree.build()
	}
	return nil
}

// until writes records up to the horizon, and returns early when the number of
// inputs changes.
func (m *merger) until(horizon int64) error {
	t := &m.tree
	for runs := false; t.winner.time < horizon; {
		leaf := t.winner.leaf
		h := &t.heads[leaf]
		b := h.batch
		i := b.next
		end := i + 1
		if runs {
			// The same input has won twice: look how far it stays ahead.
			bound := rank{horizon, 0}
			if len(t.heads) > 1 {
				if second := t.second(); second.less(bound) {
					bound = second
				}
			}
			end = h.run(i, bound)
		}
		if err := m.out.write(b.Buf[b.start(i):b.Ends[end-1]]); err != nil {
			return err
		}
		if h.in.journal == nil {
			m.out.records += uint64(end - i)
		}
		b.next = end
		if end == len(b.Ends) {
			next, err := m.next(h.in, b, b.Times[end-1])
			if err != nil {
				return err
			}
			if next == nil {
				m.finish(h.in)
				m.remove(leaf)
				return nil
			}
			h.batch, b = next, next
		}
		t.replace(h.rank(b.next))
		runs = t.winner.leaf == leaf
	}
	return nil
}

// next takes the next batch of an input.
func (m *merger) next(in *input, old *batch, t int64) (*batch, error) {
	if in.journal != nil {
		return in.journal.batch(old), nil
	}
	return m.sched.next(in, old, t, m.out.idle)
}

// run returns the end of the records from i on, which is one of them, that rank
// below bound.
func (h *head) run(i int, bound rank) int {
	times := h.batch.Times
	// Most runs are short: step, then leap, then search.
	step := 1
	lo, hi := i, i+1
	for hi < len(times) && times[hi] < bound.time {
		lo = hi
		hi += step
		step *= 2
	}
	hi = min(hi, len(times))
	n := lo + 1 + sort.Search(hi-lo-1, func(k int) bool { return times[lo+1+k] >= bound.time })
	for n < len(times) && times[n] == bound.time && h.rank(n).less(bound) {
		n++
	}
	return n
}

// remove takes an input that has ended from the tree.
func (m *merger) remove(leaf int32) {
	t := &m.tree
	last := len(t.heads) - 1
	t.heads[leaf] = t.heads[last]
	t.heads[last] = head{}
	t.heads = t.heads[:last]
	t.build()
}

// finish adds up what an input contributed.
func (m *merger) finish(in *input) {
	if in.journal != nil {
		return
	}
	m.chunks++
	for local, n := range in.counts {
		if number := in.numbers[local]; number != notWanted {
			m.plan.interfaces[number].records += n
		}
	}
	in.numbers, in.counts = nil, nil
}
