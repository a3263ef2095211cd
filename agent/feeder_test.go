package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"pcapsule/agent/packets"
	"pcapsule/chunker"
)

// feeder is a source of made-up packets: what a test tells it.
type feeder struct {
	cfg  packets.Config
	work []chan func(packets.Consumer) error
	done chan struct{}
}

const feederWorkers = 2

func newFeeder(cfg packets.Config) *feeder {
	f := &feeder{cfg: cfg, done: make(chan struct{})}
	for range feederWorkers {
		f.work = append(f.work, make(chan func(packets.Consumer) error))
	}
	return f
}

func (f *feeder) Run(ctx context.Context) error {
	defer close(f.done)
	var g errgroup.Group
	for i, work := range f.work {
		c := f.cfg.NewConsumer(i)
		g.Go(func() error {
			for {
				select {
				case do := <-work:
					if err := do(c); err != nil {
						return err
					}
				case <-ctx.Done():
					return c.Close()
				}
			}
		})
	}
	return g.Wait()
}

// do runs something on a worker, and waits for its end.
func (f *feeder) do(ctx context.Context, worker int, do func(packets.Consumer) error) error {
	answer := make(chan error, 1)
	select {
	case f.work[worker] <- func(c packets.Consumer) error { err := do(c); answer <- err; return err }:
		return <-answer
	case <-f.done:
		return packets.ErrNotRunning
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *feeder) Cut(ctx context.Context) error {
	for i := range f.work {
		if err := f.do(ctx, i, packets.Consumer.Cut); err != nil {
			return err
		}
	}
	return nil
}

func (f *feeder) Stats() packets.Stats { return packets.Stats{Drops: 3} }

func (f *feeder) Interfaces() []packets.Interface {
	return []packets.Interface{{Interface: eth1, Index: 2, Up: true}, {Interface: eth0, Index: 1, Up: true}}
}

func (f *feeder) Close() error { return nil }

var (
	eth0 = chunker.Interface{Name: "eth0", LinkType: 1}
	eth1 = chunker.Interface{Name: "eth1", Description: "a\tveth", LinkType: 1}
)

// feed records packets of n bytes, one a step from first on, spread over the
// workers, and returns their times.
func (f *feeder) feed(t *testing.T, first time.Time, count int, step time.Duration, n int) (times []int64) {
	t.Helper()
	for worker := range f.work {
		err := f.do(t.Context(), worker, func(c packets.Consumer) error {
			id := c.Interface(eth0)
			for i := worker; i < count; i += len(f.work) {
				at := first.Add(time.Duration(i) * step).UnixNano()
				data := make([]byte, n)
				r := rand.NewChaCha8([32]byte{byte(at), byte(at >> 8), byte(at >> 16), byte(at >> 24), byte(at >> 32)})
				_, _ = r.Read(data)
				if err := c.Add(&chunker.Record{Time: at, Interface: id, OrigLen: uint32(n), Data: data}); err != nil {
					return err
				}
			}
			return c.Tick(time.Now().UnixNano())
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range count {
		times = append(times, first.Add(time.Duration(i)*step).UnixNano())
	}
	return times
}

// running is an agent at work.
type running struct {
	*feeder
	ready  Ready
	cancel context.CancelFunc
	once   sync.Once
	ended  chan error
}

// start runs an agent with a feeder.
func startAgent(t *testing.T, h *testHub, dir string, change func(*Config)) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{cancel: cancel, ended: make(chan error, 1)}
	ready := make(chan Ready, 1)
	cfg := Config{
		HubURL: h.srv.URL, Node: "n1", Dir: dir, RingSize: 64 << 20, Version: "v1",
		OnReady: func(v Ready) { ready <- v },
	}
	if change != nil {
		change(&cfg)
	}
	go func() {
		r.ended <- run(ctx, cfg, func(c packets.Config) (source, error) { r.feeder = newFeeder(c); return r.feeder, nil }, time.Now)
	}()
	select {
	case r.ready = <-ready:
	case err := <-r.ended:
		t.Fatal(err)
	}
	t.Cleanup(func() { r.stop(t) })
	return r
}

// stop ends an agent, and waits for its end.
func (r *running) stop(t *testing.T) {
	r.once.Do(func() {
		r.cancel()
		if err := <-r.ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("agent: %v", err)
		}
	})
}
