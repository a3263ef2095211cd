package ring

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"pcapsule/manifest"
)

// A Pinned is what Pin holds: the chunks, until Unpin or expiry, and what there
// is to know of a stream's window, as it was when the pin was made.
type Pinned struct {
	Chunks []Chunk // in order of First, Last and Hash

	r       *Ring
	window  manifest.Interval
	evicted map[string]manifest.Nanos
}

// Ledger tells what the pinned chunks have of stream.
func (p Pinned) Ledger(stream string) Ledger {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	return p.r.state.ledger(stream, p.window, p.evicted[stream])
}

// Pin keeps the sealed chunks of some streams, or of all when none is named, that
// overlap the half-open window for a session, until it is unpinned or expires,
// over restarts too, as long as the disk has room for the ledger; for a week at
// most. A session that has a pin keeps the window and the streams of the first
// time, and the expiry is set anew.
func (r *Ring) Pin(session string, from, to int64, expires time.Time, streams ...string) (Pinned, error) {
	r.mu.Lock()
	r.expire()
	p, have := r.state.Pins[session]
	if !have {
		if len(r.state.Pins) >= maxPins {
			r.mu.Unlock()
			return Pinned{}, fmt.Errorf("pin chunks for %s: %d sessions have pins already", session, maxPins)
		}
		p.Window = manifest.Interval{From: manifest.Nanos(from), To: manifest.Nanos(to)}
		p.Streams = slices.Clone(streams)
		p.Evicted = maps.Clone(r.state.Evicted)
	}
	p.Expires = within(r.opt.Now(), expires).UTC().Round(0)
	if r.state.Pins == nil {
		r.state.Pins = map[string]pin{}
	}
	r.state.Pins[session] = p
	chunks := r.overlapping(int64(p.Window.From), int64(p.Window.To))
	chunks = slices.DeleteFunc(chunks, func(c Chunk) bool { return !p.of(c.Stream) })
	r.mu.Unlock()
	err := r.withRoom(4096, r.save)
	switch {
	case errors.Is(err, ErrDiskFull): // which is when a snapshot may be wanted most
		r.opt.Logger.Warn("pins are not saved: until there is room on the disk, a restart forgets them", "err", err)
	case err != nil:
		return Pinned{}, fmt.Errorf("pin chunks for %s: %w", session, err)
	}
	return Pinned{chunks, r, p.Window, p.Evicted}, nil
}

// maxPin is how long a pin can hold chunks, whatever is asked for.
const maxPin = 7 * 24 * time.Hour

// within is t, or the end of what a pin made now may last.
func within(now, t time.Time) time.Time {
	if last := now.Add(maxPin); t.After(last) {
		return last
	}
	if t.Before(now) {
		return now
	}
	return t
}

// Unpin lets a session's chunks go. A session without a pin is no error.
func (r *Ring) Unpin(session string) error {
	r.mu.Lock()
	_, ok := r.state.Pins[session]
	delete(r.state.Pins, session)
	r.mu.Unlock()
	if !ok {
		return nil
	}
	if err := r.withRoom(4096, r.save); err != nil {
		return fmt.Errorf("unpin chunks of %s: %w", session, err) // until saved, a restart brings the pin back
	}
	return nil
}

// Pins lists the sessions with pins, in order.
func (r *Ring) Pins() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire()
	return slices.Sorted(maps.Keys(r.state.Pins))
}

// expire forgets the pins whose time is over; r.mu is held.
func (r *Ring) expire() {
	now := r.opt.Now()
	for session, p := range r.state.Pins {
		if !now.Before(p.Expires) {
			delete(r.state.Pins, session)
			r.changed()
		}
	}
}
