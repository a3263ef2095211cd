package ring

import (
	"fmt"
	"slices"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

// lookAhead is how many chunks more are announced on disk when one is to be
// evicted, so that this is written once for several.
const lookAhead = 8

// futureSlack is how far in the future a chunk may lie before it is taken for
// one that was recorded while the clock was wrong.
const futureSlack = time.Minute

// reserve makes n more bytes of a ring of at most limit the caller's, and evicts
// what must go for that. It waits while chunks are about to be sealed, of which
// one may go. ErrFull when pins hold too much.
func (r *Ring) reserve(n, limit int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.used+n > limit {
		switch {
		case r.evict() > 0:
		case r.sealing > 0:
			r.progress.Wait()
		default:
			return ErrFull
		}
	}
	r.used += n
	return nil
}

// makeRoom evicts so that n bytes of a ring of at most limit are free, if it can.
func (r *Ring) makeRoom(n, limit int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.used+n > limit && r.evict() > 0 {
	}
}

// makeWay evicts what is needed for the volume to have KeepFree left when n bytes
// more are taken. It stops where the ring holds no more than that itself: others
// who fill a disk are not to end the recording.
func (r *Ring) makeWay(n int64) {
	if r.opt.KeepFree <= 0 {
		return
	}
	free, err := freeSpace(r.dir)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for short := r.opt.KeepFree + n - free; short > 0 && r.used > r.opt.KeepFree; {
		f := r.evict()
		if f == 0 {
			return
		}
		short -= f
		for stream, t := range r.state.Evicted {
			raise(&r.state.Crowded, stream, int64(t))
		}
	}
}

// release gives back n bytes.
func (r *Ring) release(n int64) {
	r.mu.Lock()
	r.used -= n
	r.mu.Unlock()
}

// withRoom does what needs at most n bytes of the file system, and when that is
// full evicts as much and does it once more.
func (r *Ring) withRoom(n int64, do func() error) error {
	r.makeWay(n)
	err := do()
	if !noSpace(err) {
		return err
	}
	r.mu.Lock()
	for freed := int64(0); freed < n; {
		f := r.evict()
		if f == 0 {
			break
		}
		freed += f
		for stream, t := range r.state.Evicted {
			raise(&r.state.Crowded, stream, int64(t))
		}
	}
	r.mu.Unlock()
	if err = do(); noSpace(err) {
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return err
}

// evict removes the chunk that is to go next and that no pin holds, and returns how many bytes
// that freed; 0 when there is none. r.mu is held.
func (r *Ring) evict() int64 {
	for {
		next := r.evictable()
		if len(next) == 0 {
			return 0
		}
		c := next[0]
		if c.Last > r.opt.Now().Add(futureSlack).UnixNano() {
			r.state.addGap(Gap{
				Stream: c.Stream, Reason: manifest.GapEvicted, From: manifest.Nanos(c.First), To: manifest.Nanos(c.Last) + 1,
				Count: c.Records, Detail: aheadDetail,
			})
		} else {
			// That it goes is on disk before it goes: a crash must not leave a
			// time that looks recorded and empty.
			if !slices.Contains(r.state.Evicting, c.key()) {
				r.state.Evicting = nil
				for _, n := range next {
					r.state.Evicting = append(r.state.Evicting, n.key())
				}
				if err := r.write(r.encode()); err != nil && !noSpace(err) { // room is what this makes
					r.opt.Logger.Warn("cannot save the ring's ledger", "err", err)
				}
			}
			raise(&r.state.Evicted, c.Stream, c.Last)
		}
		r.dirty = true
		if err := r.drop(c); err != nil {
			r.opt.Logger.Warn("cannot remove a chunk from the ring", "err", err)
			c.stuck = true
			continue
		}
		return c.disk
	}
}

// evictable lists the chunk that is to go next, and up to lookAhead after it. What
// has grown beyond its share goes first, then what has none, then the rest; and of
// these the oldest.
func (r *Ring) evictable() []*chunk {
	now := r.opt.Now()
	// What was recorded while the clock was ahead would otherwise stay for ever.
	future := now.Add(futureSlack).UnixNano()
	for i := len(r.sealed) - 1; i >= 0 && r.sealed[i].Last > future; i-- {
		if c := r.sealed[i]; !c.stuck && !r.state.pinned(c.Meta, now) {
			return []*chunk{c}
		}
	}
	for _, mayGo := range []func(stream string) bool{
		func(stream string) bool { return r.share(stream) > 0 && r.bytes[stream] > r.share(stream) },
		func(stream string) bool { return r.share(stream) == 0 },
		func(string) bool { return true },
	} {
		var next []*chunk
		for _, c := range r.sealed {
			if mayGo(c.Stream) && !c.stuck && !r.state.pinned(c.Meta, now) {
				if next = append(next, c); len(next) > lookAhead {
					break
				}
			}
		}
		if len(next) > 0 {
			return next
		}
	}
	return nil
}

// shareOf is the part of a ring's limit that each stream but that of packets has
// for its own: as much of it no other stream drives out, so that a flood of packets
// leaves the events that explain it. More of it goes before any packet does, so
// that a flood of events costs no packets beyond that.
const shareOf = 8

// share is how many bytes of a stream no other drives out.
func (r *Ring) share(stream string) int64 {
	if stream == chunker.Packets {
		return 0
	}
	return r.opt.Limit / shareOf
}

// drop removes a chunk's file and takes it off the list. r.mu is held.
func (r *Ring) drop(c *chunk) error {
	if err := r.disk.remove(r.path(c)); err != nil && !isNotExist(err) {
		return err
	}
	r.unlist(c)
	r.used -= c.disk
	return nil
}

// raise sets a watermark of stream to at least t.
func raise(marks *map[string]manifest.Nanos, stream string, t int64) {
	if *marks == nil {
		*marks = map[string]manifest.Nanos{}
	}
	(*marks)[stream] = max((*marks)[stream], manifest.Nanos(t))
}
