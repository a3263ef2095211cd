package agent

import (
	"sync"

	"pcapsule/manifest"
)

// samples is how many exchanges with the hub the clock is estimated from.
const samples = 8

// drift is by how much two clocks may come apart: 15 parts in a million, as in
// RFC 5905.
func drift(span int64) int64 { return span / 1_000_000 * 15 }

// unknownError is the error bound of a clock that was never compared: a day.
const unknownError = 24 * 3600 * 1_000_000_000

// clock estimates how far this node's clock is ahead of the hub's, from the four
// timestamps of each exchange. The one with the least delay tells best, since
// what queues delay adds to only one way counts in full against it.
type clock struct {
	mu   sync.Mutex
	list []sample // the last ones, oldest first
}

type sample struct {
	offset int64 // node's clock minus hub's
	err    int64 // at most, when it was taken
	at     int64 // by the node's clock
}

// add takes an exchange: sent and answered by this node's clock, received and
// replied by the hub's.
func (c *clock) add(sent, received, replied, answered int64) {
	delay := (answered - sent) - (replied - received)
	if answered < sent || replied < received || delay < -drift(answered-sent)-1 {
		return // a clock was set in between
	}
	s := sample{
		offset: ((sent - received) + (answered - replied)) / 2,
		err:    max(delay, 0)/2 + drift(answered-sent) + 1,
		at:     answered,
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// A sample that contradicts the older ones says that a clock was set.
	for _, o := range c.list {
		if d := s.offset - o.offset; max(d, -d) > s.err+o.err+drift(s.at-o.at) {
			c.list = nil
			break
		}
	}
	if len(c.list) == samples {
		c.list = append(c.list[:0], c.list[1:]...)
	}
	c.list = append(c.list, s)
}

// reset forgets everything, because this node's clock was set.
func (c *clock) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = nil
}

// at is the estimate at a time of this node's clock.
func (c *clock) at(now int64) manifest.Clock {
	c.mu.Lock()
	defer c.mu.Unlock()
	best := manifest.Clock{Error: unknownError}
	for _, s := range c.list {
		if err := s.err + drift(max(now-s.at, 0)); manifest.Nanos(err) <= best.Error {
			best = manifest.Clock{Offset: manifest.Nanos(s.offset), Error: manifest.Nanos(err)}
		}
	}
	return best
}
