package kubernetes

import (
	"errors"
	"fmt"

	"pcapsule/agent/ring"
	"pcapsule/chunker"
	"pcapsule/cluster"
	"pcapsule/manifest"
)

const (
	// Changes may take as much room as the keyframe, and this much in any case,
	// before they are worth a new keyframe.
	minChanges = 1 << 20

	// A keyframe leaves a quarter of a chunk for changes; else a large state
	// would be written again and again for a few of them.
	maxKeyframeRaw    = chunker.MaxRawSize / 4 * 3
	maxKeyframeStored = chunker.MaxSize / 4 * 3
)

// errState says that the state is too large for a chunk.
var errState = errors.New("the state of the cluster is larger than a chunk can hold")

// A keeper is where chunks and the account of them go: a ring.Ring, but in tests.
type keeper interface {
	chunker.Sink
	Begin(stream string, at int64)
	Flushed(stream string, through int64)
	Step(stream string, at, delta int64)
	AddGap(ring.Gap)
}

// chunks writes records into chunks, each of which opens with a keyframe. What
// cannot be written is a gap, never an error. One goroutine owns it.
type chunks struct {
	ring     keeper
	keyframe func() *cluster.Keyframe
	views    views

	w    *chunker.Writer
	part chunker.Part // of the open chunk; nil when there is none
	line []byte       // reused

	first   int64  // time of the open chunk's keyframe
	last    int64  // time of its last record
	records uint64 // in it
	base    int64  // bytes of its keyframe
	changes int64  // bytes after it
	drops   uint64 // records that no chunk can hold, since the last chunk was sealed
	pending bool   // some records were not flushed

	failed   error  // why there is no open chunk
	failedAt int64  // since when
	missed   uint64 // records since then
}

// isOpen tells whether records can be written.
func (c *chunks) isOpen() bool { return c.part != nil }

// open begins a chunk with the whole state at now.
func (c *chunks) open(now int64) {
	part, err := c.ring.Create(chunker.Kubernetes)
	if err != nil {
		c.fail(now, fmt.Errorf("create a chunk: %w", err))
		return
	}
	c.part = part
	c.first, c.last, c.records, c.base, c.changes = now, now, 0, 0, 0
	if c.w == nil {
		c.w, err = chunker.NewWriter(part, chunker.Kubernetes, chunker.Header{})
	} else {
		c.w.Reset(part)
	}
	if err == nil {
		err = c.state(now)
	}
	if err != nil {
		c.abort(now, err)
		return
	}
	c.base, c.changes = c.changes, 0
	c.report(now)
}

// state writes the keyframe.
func (c *chunks) state(now int64) error {
	r := cluster.Record{Time: manifest.Nanos(now), Op: cluster.OpKeyframe, Keyframe: c.keyframe()}
	if err := c.put(&r); err != nil {
		return err
	}
	n := 0
	for _, v := range c.views {
		for _, o := range v.all() {
			n++
			if err := c.append(now, cluster.OpState, o.body); err != nil {
				return err
			}
			if c.changes > maxKeyframeRaw || c.w.Size() > maxKeyframeStored {
				return errState
			}
		}
	}
	return c.put(&cluster.Record{Time: manifest.Nanos(now), Op: cluster.OpComplete, Objects: n})
}

// put writes a record as it is.
func (c *chunks) put(r *cluster.Record) error {
	body, err := r.Body()
	if err != nil {
		return err
	}
	return c.append(int64(r.Time), r.Op, string(body))
}

// append writes a line into the open chunk.
func (c *chunks) append(now int64, op, body string) error {
	line, err := cluster.AppendLine(c.line[:0], now, op, []byte(body))
	if err != nil {
		return err
	}
	c.line = line
	if err := c.w.Event(now, line); err != nil {
		if errors.Is(err, chunker.ErrFull) && c.base == 0 {
			return errState
		}
		return err
	}
	c.last = now
	c.records++
	c.changes += int64(len(line)) + 1
	c.pending = true
	return nil
}

// add writes a record that follows a keyframe. One for which there is no room, or
// that is earlier than the last, begins a new chunk; that its object stands in the
// keyframe there already does no harm.
func (c *chunks) add(now int64, op, body string) {
	if c.part == nil {
		if op == cluster.OpEvent {
			c.missed++
		}
		return
	}
	err := c.append(now, op, body)
	if errors.Is(err, chunker.ErrFull) || errors.Is(err, chunker.ErrOrder) {
		c.seal(now)
		c.open(now)
		if err = nil; c.part != nil {
			err = c.append(now, op, body)
		}
	}
	if err != nil && c.part != nil {
		c.abort(now, err)
	}
}

// addRecord is add for a record that is no object.
func (c *chunks) addRecord(r *cluster.Record) {
	body, err := r.Body()
	if err != nil {
		c.drop()
		return
	}
	c.add(int64(r.Time), r.Op, string(body))
}

// drop counts a record that no chunk can hold.
func (c *chunks) drop() { c.drops++ }

// tooLarge tells whether there is no chunk because none can hold the state.
func (c *chunks) tooLarge() bool { return errors.Is(c.failed, errState) }

// heavy tells whether it is time for a new keyframe.
func (c *chunks) heavy() bool { return c.part != nil && c.changes > max(c.base, minChanges) }

// flush brings out what was written: it survives this process, and the ledger
// knows. When records are no more than late the ledger must not know more: then
// current is false.
func (c *chunks) flush(now int64, current bool) {
	if c.part == nil {
		return
	}
	if c.pending {
		if err := c.w.Flush(); err != nil {
			c.abort(now, err)
			return
		}
		c.pending = false
	}
	if current {
		c.ring.Flushed(chunker.Kubernetes, c.last)
	}
}

// seal ends the open chunk.
func (c *chunks) seal(now int64) {
	if c.part == nil {
		return
	}
	meta, err := c.w.Close(c.drops)
	if err != nil {
		c.abort(now, err)
		return
	}
	part := c.part
	c.part, c.drops, c.pending = nil, 0, false
	if err := part.Seal(meta); err != nil {
		c.lose(now, fmt.Errorf("seal a chunk: %w", err))
	}
}

// abort gives up the open chunk, with all its records.
func (c *chunks) abort(now int64, err error) {
	err = errors.Join(err, c.part.Abort())
	c.part, c.pending = nil, false
	c.lose(now, fmt.Errorf("write a chunk: %w", err))
}

// lose notes that the records of the last chunk are lost.
func (c *chunks) lose(now int64, err error) {
	if c.base > 0 {
		c.gap(err, c.first, max(c.last, now)+1, c.records)
	}
	c.fail(now, err)
}

// fail begins a time in which there is no chunk.
func (c *chunks) fail(now int64, err error) {
	if c.failed == nil {
		c.failedAt = now
	}
	c.failed = err
}

// report ends a time in which there was no chunk.
func (c *chunks) report(now int64) {
	if c.failed != nil {
		c.gap(c.failed, c.failedAt, max(now, c.failedAt+1), c.missed)
		c.failed, c.missed = nil, 0
	}
}

// gap notes in the ledger what could not be kept.
func (c *chunks) gap(err error, from, to int64, count uint64) {
	g := ring.Gap{
		Stream: chunker.Kubernetes, Reason: ring.Reason(err), From: manifest.Nanos(from), To: manifest.Nanos(to), Count: count,
	}
	switch {
	case errors.Is(err, errState):
		g.Reason, g.Detail = manifest.GapTruncated, "the state of the cluster is larger than a chunk can hold"
	case g.Reason == manifest.GapDamaged:
		g.Detail = "could not be written to the ring"
	}
	c.ring.AddGap(g)
}
