package chunker

import (
	"errors"
	"fmt"
	"io"
	"time"

	"pcapsule/internal/pcapng"
)

// A Part is a chunk in the making. What was written to it is to survive the
// writer's death. It ends with one call of Seal or Abort.
type Part interface {
	io.Writer

	// Seal makes the chunk whole under its address, after its last byte.
	Seal(Meta) error

	// Abort throws away what was written.
	Abort() error
}

// A Sink is where chunks go.
type Sink interface {
	Create(stream string) (Part, error)
}

// CutterConfig says what a Cutter cuts, and when.
type CutterConfig struct {
	Stream     string
	Header     Header
	TargetSize int64         // stored bytes at which a chunk is cut; 0 is the package's TargetSize
	MaxAge     time.Duration // age of a chunk's first record at which Tick cuts; 0 is never
	Hold       int           // bytes held back at most to put records in order; 0 is DefaultHold

	// OnLost is told of records that a sink refused, once for each chunk: how
	// many they were, the first and the last of their times, and why. When it is
	// nil, the error is what the call that met it returns, and all later ones.
	OnLost func(records uint64, first, last int64, err error)
}

// DefaultHold suits live capture: it stays in the cache, and a Tick is what
// releases records.
const DefaultHold = 1 << 20

// The open chunk may outgrow the target by a block, and must not reach MaxSize.
const maxTarget = MaxSize - (1 << 20)

// A Cutter puts the records of one stream in order of time and cuts them into
// chunks. One goroutine owns it.
//
// Records are held back in two generations. At each Tick, or when Hold bytes are
// held, everything up to the newest time of the older generation is released to
// the open chunk, in order of time and then of arrival, and the younger one
// becomes the older. So what arrives within one Tick of its turn is put in
// order. A released record that is earlier than the last one written starts a
// new chunk, at most one a release. A clock that steps back does no more: it
// never leaves records behind.
//
// A chunk whose sink fails is given up: its records are lost, and reported. The
// next chunk, after the next Tick at the latest, tries again.
type Cutter struct {
	cfg    CutterConfig
	sink   Sink
	w      *Writer
	part   Part // of the open chunk; nil when there is none
	old    *generation
	young  *generation
	merged []ref // reused by mergeRelease
	run    []held
	drops  uint64

	lost loss  // of the chunk that was given up
	err  error // of the sink, when nobody is told by OnLost
}

// A loss is what a chunk that was given up has lost so far.
type loss struct {
	err         error // nil when no chunk is being given up
	bytes       int64
	records     uint64
	first, last int64
}

// NewCutter makes a cutter that puts its chunks into sink.
func NewCutter(cfg CutterConfig, sink Sink) *Cutter {
	if cfg.TargetSize <= 0 {
		cfg.TargetSize = TargetSize
	}
	cfg.TargetSize = min(cfg.TargetSize, maxTarget)
	if cfg.Hold <= 0 {
		cfg.Hold = DefaultHold
	}
	cfg.Hold = min(cfg.Hold, 1<<30)
	return &Cutter{
		cfg: cfg, sink: sink, w: newWriter(cfg.Stream, cfg.Header),
		old: new(generation), young: new(generation),
	}
}

// Interface numbers an interface for Record.Interface; see Writer.Interface.
func (c *Cutter) Interface(i Interface) uint32 { return c.w.Interface(i) }

// SetStored makes the cutter store blocks uncompressed, or compress them again.
func (c *Cutter) SetStored(stored bool) { c.w.SetStored(stored) }

// Drops counts n packets or events that were lost before they could be added.
// The chunk that is sealed next carries the count.
func (c *Cutter) Drops(n uint64) { c.drops += n }

// Add takes a packet, and copies what it keeps of it. It fails with ErrTooLong,
// or another error for a record that makes no sense, and then keeps nothing.
func (c *Cutter) Add(r *Record) error {
	if err := c.w.checkRecord(r); err != nil {
		return err
	}
	g := c.young
	off := len(g.buf)
	p := pcapng.Packet{Interface: r.Interface, Time: r.Time, OrigLen: r.OrigLen, Flags: r.Flags, Options: r.Options, Data: r.Data}
	g.buf = pcapng.AppendPacket(g.buf, &p)
	g.add(r.Time, off)
	return c.added()
}

// Event takes an event; see Writer.Event.
func (c *Cutter) Event(time int64, line []byte) error {
	if err := c.w.checkEvent(time, line); err != nil {
		return err
	}
	g := c.young
	off := len(g.buf)
	g.buf = append(append(g.buf, line...), '\n')
	g.add(time, off)
	return c.added()
}

func (c *Cutter) added() error {
	if len(c.young.buf) >= c.cfg.Hold/2 {
		c.rotate()
	}
	return c.err
}

// Tick tells the time. It releases what was held back for one Tick, hands the
// sink everything released so far, so that a crash loses at most what came since
// the last Tick but one, and cuts the chunk when its first record is MaxAge old.
func (c *Cutter) Tick(now int64) error {
	c.endLoss()
	c.rotate()
	if c.part != nil {
		if err := c.w.Flush(); err != nil {
			c.giveUp(err)
		} else if age := now - c.w.meta.First; c.cfg.MaxAge > 0 && (age >= int64(c.cfg.MaxAge) || age <= -int64(c.cfg.MaxAge)) {
			c.seal()
		}
	}
	return c.err
}

// Cut releases everything and seals the open chunk.
func (c *Cutter) Cut() error {
	c.rotate()
	c.rotate()
	c.seal()
	c.endLoss()
	return c.err
}

// Close is the last Cut.
func (c *Cutter) Close() error {
	err := c.Cut()
	c.err = errors.New("cutter is closed")
	return err
}

// rotate releases the older generation, and what belongs before its end.
func (c *Cutter) rotate() {
	switch {
	case len(c.old.list) == 0:
	case c.old.sorted && (len(c.young.list) == 0 || c.young.min >= c.old.max):
		c.release(c.old.buf, c.old.list)
	default:
		c.mergeRelease()
	}
	c.old.reset()
	c.old, c.young = c.young, c.old
}

// mergeRelease releases both generations up to the older one's newest time, in
// order.
func (c *Cutter) mergeRelease() {
	c.merged = c.young.take(c.old.max, c.old.refs(c.merged[:0]))
	sortRefs(c.merged)
	for rest := c.merged; len(rest) > 0; {
		c.run = c.run[:0]
		young := rest[0].young
		for len(rest) > 0 && rest[0].young == young {
			c.run = append(c.run, rest[0].held)
			rest = rest[1:]
		}
		if young {
			c.release(c.young.buf, c.run)
		} else {
			c.release(c.old.buf, c.run)
		}
	}
}

// release writes records that are in order.
func (c *Cutter) release(buf []byte, list []held) {
	for len(list) > 0 {
		if c.lost.err == nil && c.part != nil && list[0].time < c.w.meta.Last {
			c.seal()
		}
		if c.lost.err == nil && c.part == nil {
			c.open()
		}
		if c.lost.err != nil {
			c.loseList(list)
			return
		}
		n, err := c.w.encoded(buf, list, c.cfg.TargetSize)
		list = list[n:]
		if err != nil {
			c.giveUp(err)
		} else if len(list) > 0 {
			c.seal()
		}
	}
}

func (c *Cutter) open() {
	part, err := c.sink.Create(c.cfg.Stream)
	if err != nil {
		c.fail(fmt.Errorf("create a chunk: %w", err))
		return
	}
	c.part = part
	c.w.Reset(part)
}

// seal ends the open chunk, if there is one.
func (c *Cutter) seal() {
	if c.part == nil {
		return
	}
	meta, err := c.w.Close(c.drops)
	if err != nil {
		c.giveUp(err)
		return
	}
	part := c.part
	c.part = nil
	if err := part.Seal(meta); err != nil {
		c.fail(fmt.Errorf("seal a chunk: %w", err))
		c.lose(meta)
		c.endLoss()
		return
	}
	c.drops = 0
}

// giveUp aborts the open chunk for err.
func (c *Cutter) giveUp(err error) {
	c.fail(fmt.Errorf("write a chunk: %w", errors.Join(err, c.part.Abort())))
	c.part = nil
	c.lose(c.w.meta)
}

// fail begins a loss.
func (c *Cutter) fail(err error) {
	c.lost = loss{err: err}
	if c.cfg.OnLost == nil && c.err == nil {
		c.err = err
	}
}

// lose adds the records of a chunk to the loss.
func (c *Cutter) lose(m Meta) {
	if m.Records == 0 {
		return
	}
	l := &c.lost
	if l.records == 0 {
		l.first, l.last = m.First, m.Last
	}
	l.records += m.Records
	l.first, l.last = min(l.first, m.First), max(l.last, m.Last)
}

// loseList adds released records to the loss, which ends when a chunk's worth
// of bytes is lost: without a Tick, too, the sink is tried again.
func (c *Cutter) loseList(list []held) {
	c.lose(Meta{First: list[0].time, Last: list[len(list)-1].time, Records: uint64(len(list))})
	for _, h := range list {
		c.lost.bytes += int64(h.n)
	}
	if c.lost.bytes >= c.cfg.TargetSize {
		c.endLoss()
	}
}

// endLoss reports what the chunk that was given up lost, and lets the next one
// try.
func (c *Cutter) endLoss() {
	l := c.lost
	c.lost = loss{}
	if l.records > 0 && c.cfg.OnLost != nil {
		c.cfg.OnLost(l.records, l.first, l.last, l.err)
	}
}
