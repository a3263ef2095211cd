package packets

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	"pcapsule/chunker"
)

const (
	// tickEvery bounds what is not on disk yet.
	tickEvery = 250 * time.Millisecond
	// drainTime bounds how long a capture that ends works off what the ring
	// holds.
	drainTime = 5 * time.Second
)

// A worker moves packets from its ring to its consumer. All but the counters and
// cuts belong to the goroutine in run.
type worker struct {
	ring     *ring
	links    *links
	consumer Consumer
	onDrops  func(count uint64, from, to int64)
	cuts     chan cut

	fair      *fair // shared by all workers; nil when nothing is bounded
	onThinned func(address netip.Addr, count uint64, from, to int64)
	over      map[netip.Addr]thinned // since the last tick

	rec    chunker.Record
	frame  frame
	table  *table // from which seen was filled
	seen   map[int32]sighting
	last   sighting // of the packet before
	newest int64    // time of the newest packet

	accepted uint64 // packets that the kernel put into the ring
	done     uint64 // of them, those read
	counted  int64  // when the kernel's counts were last read
	behind   bool   // the consumer stores without compression
	pending  []cut

	packets, bytes, drops, freezes, truncated, stored atomic.Uint64
	isBehind                                          atomic.Bool
	waiting                                           atomic.Int64 // bytes
}

// A cut is a wish that the packets accepted so far be in sealed chunks.
type cut struct {
	accepted uint64
	answer   chan<- error // has room for one
}

// A sighting is how the packets of an interface are numbered.
type sighting struct {
	index  int32
	hatype uint16
	number uint32
	until  int64 // of packets from then on nothing is known
}

// run reads until the context ends, then what the ring holds, and closes the
// consumer.
func (w *worker) run(ctx context.Context, now func() int64) (err error) {
	defer func() {
		for _, c := range w.pending {
			c.answer <- ErrNotRunning
		}
		w.tellThinned()
		if cerr := w.consumer.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close the last chunk: %w", cerr)
		}
	}()
	w.counted = now()
	tick := time.Now().Add(tickEvery)
	for ctx.Err() == nil {
		if err := w.commands(now); err != nil {
			return err
		}
		if b := w.ring.block(); b != nil {
			if err := w.read(b, now); err != nil {
				return err
			}
		} else if err := w.ring.wait(tick); err != nil {
			return err
		}
		if time.Until(tick) <= 0 {
			if err := w.tick(now); err != nil {
				return err
			}
			tick = time.Now().Add(tickEvery)
		}
	}
	return w.drain(now)
}

// drain stops the flow of packets and works off the rest.
func (w *worker) drain(now func() int64) error {
	w.links.mu.Lock()
	w.links.changed = nil // or it might put the filter back
	err := w.ring.attach(dropAll)
	w.links.mu.Unlock()
	if err != nil {
		return err
	}
	if err := w.count(now); err != nil {
		return err
	}
	for end := time.Now().Add(drainTime); w.done < w.accepted && time.Now().Before(end); {
		if b := w.ring.block(); b != nil {
			if err := w.read(b, now); err != nil {
				return err
			}
		} else if err := w.ring.wait(end); err != nil {
			return err
		}
	}
	if w.done < w.accepted {
		w.drop(w.accepted-w.done, w.newest, now())
	}
	return w.cutPending()
}

// commands takes up the cuts that were asked for, and makes those that are due.
func (w *worker) commands(now func() int64) error {
	for {
		select {
		case c := <-w.cuts:
			if err := w.count(now); err != nil {
				c.answer <- err
				return err
			}
			c.accepted = w.accepted
			w.pending = append(w.pending, c)
			continue
		default:
		}
		return w.cutPending()
	}
}

// cutPending cuts when all that was accepted before a cut was asked for has
// been read. One cut answers all that are due.
func (w *worker) cutPending() error {
	due := 0
	for due < len(w.pending) && w.pending[due].accepted <= w.done {
		due++
	}
	if due == 0 {
		return nil
	}
	err := w.consumer.Cut()
	for _, c := range w.pending[:due] {
		c.answer <- err
	}
	w.pending = w.pending[due:]
	if err != nil {
		return fmt.Errorf("cut chunk: %w", err)
	}
	return nil
}

// read hands the packets of the next block to the consumer and returns it to
// the kernel.
func (w *worker) read(block []byte, now func() int64) error {
	if table := w.links.table(); table != w.table {
		w.table, w.last = table, sighting{}
		clear(w.seen)
	}
	if err := w.adapt(); err != nil {
		return err
	}
	n := native.Uint32(block[blockPackets:])
	off := native.Uint32(block[blockFirst:])
	used := block[:min(native.Uint32(block[blockUsed:]), blockSize)]
	var bytes, truncated, left uint64
	i := uint32(0)
	for ; i < n; i++ {
		f := &w.frame
		if err := f.parse(used, off); err != nil {
			break
		}
		if f.index != w.last.index || f.hatype != w.last.hatype || f.time >= w.last.until {
			w.last = w.sight(f)
		}
		if w.fair != nil && w.thin(f) {
			left++
		} else {
			w.rec = chunker.Record{Time: f.time, Interface: w.last.number, OrigLen: f.origLen, Flags: f.flags, Data: f.data}
			if err := w.consumer.Add(&w.rec); err != nil {
				return fmt.Errorf("record packets: %w", err)
			}
			bytes += uint64(len(f.data))
			if f.cut {
				truncated++
			}
		}
		w.newest = max(f.time, w.newest)
		if f.next < frameHeaderLen {
			i++
			break
		}
		off += f.next
	}
	w.done += uint64(n)
	w.packets.Add(uint64(i) - left)
	w.bytes.Add(bytes)
	if truncated > 0 {
		w.truncated.Add(truncated)
	}
	if w.behind {
		w.stored.Add(uint64(i) - left)
	}
	if i < n {
		w.drop(uint64(n-i), w.newest, now())
	}
	w.ring.release()
	return nil
}

// sight finds the number of a packet's interface.
func (w *worker) sight(f *frame) sighting {
	if s, ok := w.seen[f.index]; ok && s.hatype == f.hatype && f.time < s.until {
		return s
	}
	link, until := w.links.at(int(f.index), f.time)
	s := sighting{f.index, f.hatype, w.consumer.Interface(chunker.Interface{
		Name:        link.name,
		Description: link.description,
		LinkType:    linkType(f.hatype),
	}), until}
	w.seen[f.index] = s
	return s
}

// adapt does without compression while more than half of the ring waits, until
// less than an eighth does.
func (w *worker) adapt() error {
	switch {
	case !w.behind && w.ring.ready(w.ring.blocks/2):
		w.behind = true
	case w.behind && !w.ring.ready(max(w.ring.blocks/8, 1)):
		w.behind = false
	default:
		return nil
	}
	w.isBehind.Store(w.behind)
	w.consumer.SetStored(w.behind)
	return nil
}

func (w *worker) tick(now func() int64) error {
	if err := w.count(now); err != nil {
		return err
	}
	backlog := w.ring.backlog()
	w.waiting.Store(int64(backlog) * blockSize)
	at := now()
	if backlog > 0 {
		at = min(at, w.newest)
	}
	if err := w.consumer.Tick(at); err != nil {
		return fmt.Errorf("write packets: %w", err)
	}
	return nil
}

// count reads the kernel's counts, which begins them anew.
func (w *worker) count(now func() int64) error {
	c, err := w.ring.counts()
	if err != nil {
		return err
	}
	w.tellThinned()
	from := w.counted
	w.counted = now()
	w.accepted += c.accepted
	if c.freezes > 0 {
		w.freezes.Add(c.freezes)
	}
	if c.dropped > 0 {
		w.drop(c.dropped, from, w.counted)
	}
	return nil
}

func (w *worker) drop(n uint64, from, to int64) {
	w.drops.Add(n)
	w.consumer.Drops(n)
	if w.onDrops != nil {
		w.onDrops(n, min(from, to), to)
	}
}

// forever is the until of what is true as of now.
const forever = math.MaxInt64
