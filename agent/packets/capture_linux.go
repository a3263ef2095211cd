package packets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// A Capture is open packet sockets and the goroutines that read them.
type Capture struct {
	cfg     Config
	log     *slog.Logger
	clock   clock
	links   *links
	workers []*worker

	kernel  *kernelFilter // nil where eBPF is not allowed
	targets *targeting    // nil outside a cluster
	unown   func()        // no longer leaves out own connections

	named   *named      // guarded by links.mu
	indexes []int       // that the filter lets through, nil for all; guarded by links.mu
	heard   map[int]int // how often each was made promiscuous; guarded by links.mu

	started atomic.Bool
	running atomic.Bool
	done    chan struct{} // closed when nothing runs any more
	once    sync.Once
}

// New opens the sockets of a capture, in the network namespace of the calling
// thread. Packets are recorded from its return on; Run must follow soon, as the
// kernel holds no more than the ring. A capture that is not run is closed with
// Close.
func New(cfg Config) (*Capture, error) { return open(cfg, systemClock) }

func open(cfg Config, clock clock) (_ *Capture, err error) {
	c := &Capture{cfg: cfg, log: cfg.Logger, clock: clock, named: newNamed(cfg.Interfaces), heard: map[int]int{}, unown: func() {}, done: make(chan struct{})}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if cfg.NewConsumer == nil {
		return nil, errors.New("capture: no consumer")
	}
	if len(cfg.Interfaces) > MaxIndexes {
		return nil, fmt.Errorf("%d interfaces named, and at most %d can be: name none to capture on all", len(cfg.Interfaces), MaxIndexes)
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.links, err = openLinks(c.log, c.now, cfg.Cluster != nil); err != nil {
		return nil, err
	}
	if err := c.checkInterfaces(); err != nil {
		return nil, err
	}
	if err := c.loadFilter(); err != nil {
		return nil, err
	}
	n := cfg.Workers
	if n <= 0 {
		n = defaultWorkers(runtime.NumCPU())
	}
	size := cfg.RingSize
	if size <= 0 {
		size = DefaultRingSize
	}
	bound := newFair(cfg.Fair)
	var rings []*ring
	for range n {
		r, err := newRing(size / n)
		if err != nil {
			return nil, err
		}
		rings = append(rings, r)
		w := &worker{ring: r, links: c.links, onDrops: cfg.OnDrops, fair: bound, onThinned: cfg.OnThinned, over: map[netip.Addr]thinned{}, cuts: make(chan cut, 8), seen: map[int32]sighting{}}
		c.workers = append(c.workers, w)
	}
	if got, want := n*rings[0].blocks*blockSize, size/blockSize*blockSize; got < want {
		c.log.Warn("not enough memory for the packet ring, using a smaller one", "wanted", want, "bytes", got)
	}
	// Sockets that are bound and not yet in the fanout would each get every
	// packet, so none gets any before all are.
	for _, r := range rings {
		if err := r.bind(); err != nil {
			return nil, err
		}
	}
	if err := fanout(rings); err != nil {
		return nil, err
	}
	c.links.mu.Lock()
	defer c.links.mu.Unlock()
	c.choose(c.links.table())
	if err := c.prepare(); err != nil {
		return nil, err
	}
	if err := c.attach(); err != nil {
		return nil, err
	}
	c.listen()
	c.links.changed = c.refilter
	if c.targets != nil {
		c.links.rerouted = c.targets.mark
	}
	return c, nil
}

// defaultWorkers is as many as keep up with a busy machine and leave the rest of
// it alone.
func defaultWorkers(cpus int) int {
	if cpus <= 2 {
		return 1
	}
	return min(4, cpus/2)
}

func (c *Capture) now() int64 {
	wall, _, _ := c.clock()
	return wall
}

// Run captures until the context ends, and then returns nil once all packets
// that came before are in sealed chunks; or until a consumer fails, and returns
// its error. Interfaces that go down or away do not end it. It may be called
// once, and closes the capture.
func (c *Capture) Run(ctx context.Context) error {
	if c.started.Swap(true) {
		return ErrNotRunning
	}
	defer c.close()
	for i, w := range c.workers {
		w.consumer = c.cfg.NewConsumer(i)
	}
	g, ctx := errgroup.WithContext(ctx)
	stopped := make(chan struct{})
	g.Go(func() error { c.links.follow(ctx); return nil })
	if c.targets != nil {
		g.Go(func() error { c.targets.follow(ctx); return nil })
	}
	g.Go(func() error { c.watchClock(ctx); return nil })
	for _, w := range c.workers {
		g.Go(func() error { return w.run(ctx, c.now) })
	}
	go func() {
		defer close(stopped)
		<-ctx.Done()
		c.links.stop()
		for _, w := range c.workers {
			w.ring.waiter.wake()
		}
	}()
	c.links.mu.Lock()
	c.tellNamed()
	c.running.Store(true)
	c.links.mu.Unlock()
	err := g.Wait()
	c.running.Store(false)
	<-stopped
	return err
}

// watchClock tells of each time that the time of day is set.
func (c *Capture) watchClock(ctx context.Context) {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	var s stepper
	for {
		if at, delta := s.look(c.clock); delta != 0 {
			c.log.Warn("the system clock was set", "by", time.Duration(delta))
			if c.cfg.OnClockStep != nil {
				c.cfg.OnClockStep(at, delta)
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// Cut returns when every packet that the kernel had taken in as it was called is
// in a sealed chunk. It waits while the kernel holds back a block that is not
// full, for at most twice retireMillis, and not at all when nothing came.
func (c *Capture) Cut(ctx context.Context) error {
	if !c.running.Load() {
		return ErrNotRunning
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	answers := make(chan error, len(c.workers))
	for _, w := range c.workers {
		select {
		case w.cuts <- cut{answer: answers}:
			w.ring.waiter.wake()
		case <-c.done:
			return ErrNotRunning
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for range c.workers {
		select {
		case err := <-answers:
			if err != nil {
				return err
			}
		case <-c.done:
			return ErrNotRunning
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Stats are the counts so far. Those of drops are read from the kernel a few
// times a second.
func (c *Capture) Stats() Stats {
	var s Stats
	for _, w := range c.workers {
		s.Packets += w.packets.Load()
		s.Bytes += w.bytes.Load()
		s.Drops += w.drops.Load()
		s.Freezes += w.freezes.Load()
		s.Truncated += w.truncated.Load()
		s.Stored += w.stored.Load()
		s.RingSize += w.ring.blocks * blockSize
		s.Backlog += int(w.waiting.Load())
		if w.isBehind.Load() {
			s.Behind++
		}
	}
	if c.kernel != nil {
		var err error
		if s.LeftOut, err = c.kernel.leftOut(); err != nil {
			c.log.Debug("cannot read what was left out", "error", err) // closed
		}
	}
	return s
}

// Interfaces are those captured on now, in order of index, and then those that
// were named and are gone.
func (c *Capture) Interfaces() []Interface {
	c.links.mu.Lock()
	defer c.links.mu.Unlock()
	var out []Interface
	for _, l := range c.links.table().present() {
		if c.indexes != nil && !slices.Contains(c.indexes, l.index) {
			continue
		}
		i := Interface{Index: l.index, Up: l.up()}
		i.Name, i.Description, i.LinkType = l.name, l.description, linkType(l.hatype)
		if c.links.requests >= 0 {
			i.Speed = speed(c.links.requests, l.name)
		}
		out = append(out, i)
	}
	for _, n := range c.named.list {
		if n.State == NamedGone {
			out = append(out, Interface{Interface: n.Last, Gone: true})
		}
	}
	return out
}

// Close ends a capture that was never run. After Run it does nothing.
func (c *Capture) Close() error {
	if !c.started.Swap(true) {
		c.close()
	}
	return nil
}

func (c *Capture) close() {
	c.once.Do(func() {
		close(c.done)
		for _, w := range c.workers {
			if err := w.ring.close(); err != nil {
				c.log.Warn("cannot close packet socket", "error", err)
			}
		}
		if c.links != nil {
			c.links.mu.Lock()
			c.links.close()
			c.links.mu.Unlock()
		}
		c.unown()
		if c.targets != nil {
			c.targets.close()
		}
		if c.kernel != nil {
			if err := c.kernel.close(); err != nil {
				c.log.Warn("cannot close the capture filter", "error", err)
			}
		}
	})
}
