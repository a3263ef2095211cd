package agent

import (
	"math"
	"slices"
	"sync"
	"time"

	"pcapsule/agent/packets"
	"pcapsule/agent/ring"
	"pcapsule/chunker"
	"pcapsule/manifest"
)

// recorder is what stands between capture and the ring: a cutter a worker, and
// the ledger of what all of them have flushed.
type recorder struct {
	ring *ring.Ring
	cfg  chunker.CutterConfig
	now  func() time.Time

	// flushes, when set, is told what is about to count as recorded, so that the
	// ledger knows of the gaps until then: a process may die at any moment.
	flushes func(through int64)

	mu      sync.Mutex
	flushed []int64 // by worker: everything before is in the ring
	sealed  int64   // everything before is in sealed chunks
	refused refusal // the latest
}

// refusal is that the ring did not take packets.
type refusal struct {
	at  time.Time
	err error
}

func newRecorder(r *ring.Ring, cfg Config, header chunker.Header, now func() time.Time) *recorder {
	rec := &recorder{ring: r, now: now, sealed: math.MinInt64}
	rec.cfg = chunker.CutterConfig{
		Stream: chunker.Packets, Header: header, TargetSize: cfg.ChunkSize, MaxAge: cfg.ChunkAge, OnLost: rec.lost,
	}
	return rec
}

// consumer makes the consumer of a worker; workers are numbered from 0.
func (r *recorder) consumer(worker int) packets.Consumer {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.flushed) <= worker {
		r.flushed = append(r.flushed, math.MinInt64)
	}
	return &consumer{Cutter: chunker.NewCutter(r.cfg, r.ring), rec: r, worker: worker, tick: math.MinInt64}
}

// lost hears of records that the ring did not take.
func (r *recorder) lost(records uint64, first, last int64, err error) {
	g := ring.Gap{
		Stream: chunker.Packets, Reason: ring.Reason(err), From: manifest.Nanos(first), To: manifest.Nanos(last) + 1, Count: records,
	}
	if g.Reason == manifest.GapDamaged {
		g.Detail = "could not be written to the ring"
	}
	r.ring.AddGap(g)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = refusal{r.now(), err}
}

// lastRefusal is when the ring last did not take packets, and why; nil when it
// always did.
func (r *recorder) lastRefusal() (time.Time, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused.at, r.refused.err
}

// through is the time before which all workers have brought everything into the
// ring; not ok before each has done so once.
func (r *recorder) through() (t int64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.flushed) == 0 {
		return 0, false
	}
	t = slices.Min(r.flushed)
	return t, t > math.MinInt64
}

// drops hears of packets that the kernel dropped.
func (r *recorder) drops(count uint64, from, to int64) {
	r.ring.AddGap(ring.Gap{
		Stream: chunker.Packets, Reason: manifest.GapKernelDrop, From: manifest.Nanos(from), To: manifest.Nanos(to), Count: count,
	})
}

// stepped hears that the clock was set.
func (r *recorder) stepped(at, delta int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.flushed {
		r.flushed[i] = at
	}
	r.sealed = math.MinInt64
	r.ring.Step(chunker.Packets, at, delta)
}

// flush hears that a worker has flushed what came before through.
func (r *recorder) flush(worker int, through int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flushed[worker] = min(through, r.now().UnixNano()) // less, when the clock has just stepped back
	all := int64(math.MaxInt64)
	for _, t := range r.flushed {
		all = min(all, t)
	}
	if all > math.MinInt64 {
		if r.flushes != nil {
			r.flushes(all)
		}
		r.ring.Flushed(chunker.Packets, all)
	}
}

// sealedUntil says that everything before t is in sealed chunks.
func (r *recorder) sealedUntil(t int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sealed = max(r.sealed, t)
	r.ring.Flushed(chunker.Packets, t)
}

func (r *recorder) sealedThrough() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sealed
}

// consumer is a worker's cutter. It fails never: what cannot be kept is a gap.
type consumer struct {
	*chunker.Cutter
	rec    *recorder
	worker int
	tick   int64 // time of the last one
	seen   []seen
	bad    uint64 // records that no chunk can hold, since the last tick
}

// seen is an interface, and the times of its records since the last tick.
type seen struct {
	chunker.Interface
	first, last int64 // first > last when there were none
}

func (c *consumer) Interface(i chunker.Interface) uint32 {
	n := c.Cutter.Interface(i)
	if int(n) == len(c.seen) { // numbers count up
		c.seen = append(c.seen, seen{i, math.MaxInt64, math.MinInt64})
	}
	return n
}

func (c *consumer) Add(r *chunker.Record) error {
	if err := c.Cutter.Add(r); err != nil {
		c.bad++
		c.Cutter.Drops(1)
		return nil
	}
	if s := &c.seen[r.Interface]; r.Time > s.last || r.Time < s.first {
		s.first, s.last = min(s.first, r.Time), max(s.last, r.Time)
	}
	return nil
}

// kernelHold is more than how long the kernel keeps a packet before a worker sees
// it, while the worker keeps up.
const kernelHold = 250 * time.Millisecond

// Tick flushes. What was added before the last tick is then in the ring, and
// what was added then was all but what the kernel still held.
func (c *consumer) Tick(now int64) error {
	if err := c.Cutter.Tick(now); err != nil {
		return err
	}
	c.note(now)
	if c.tick != math.MinInt64 {
		c.rec.flush(c.worker, c.tick-int64(kernelHold))
	}
	c.tick = now
	return nil
}

func (c *consumer) Cut() error {
	c.note(c.rec.now().UnixNano())
	return c.Cutter.Cut()
}

func (c *consumer) Close() error {
	c.note(c.rec.now().UnixNano())
	return c.Cutter.Close()
}

// note tells the ledger what was seen and refused since the last time.
func (c *consumer) note(now int64) {
	for i := range c.seen {
		if s := &c.seen[i]; s.first <= s.last {
			c.rec.ring.Saw(s.Interface, s.first, s.last)
			s.first, s.last = math.MaxInt64, math.MinInt64
		}
	}
	if c.bad > 0 {
		c.rec.ring.AddGap(ring.Gap{
			Stream: chunker.Packets, Reason: manifest.GapDamaged, From: manifest.Nanos(max(c.tick, now-int64(time.Minute))), To: manifest.Nanos(now),
			Count: c.bad, Detail: "no chunk can hold such a packet",
		})
		c.bad = 0
	}
}
