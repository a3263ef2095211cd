package ring

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

const (
	stateFormat  = "pcapsule.ring"
	stateVersion = 1
	maxState     = 16 << 20 // bytes of state.json
)

// Limits that keep the state small. What goes beyond is merged, so that a count
// is never lost, or else becomes a time that was not recorded.
const (
	maxGaps = 4096
	maxRuns = 1024
	maxPins = 256
	maxSeen = 4096 // interfaces

	maxEvicting = 64
	maxTime     = 1 << 62 // in 2116; keeps sums from overflow
)

// state is what the ring remembers beside its chunks: state.json. Times are the
// node's.
type state struct {
	Format   string                    `json:"format"`
	Version  int                       `json:"version"`
	Runs     []run                     `json:"runs"`              // when capture ran; of each stream in order of time of recording
	Gaps     []Gap                     `json:"gaps"`              // in order of time of recording
	Evicted  map[string]manifest.Nanos `json:"evicted"`           // by stream: the last time of what was evicted
	Crowded  map[string]manifest.Nanos `json:"crowded,omitempty"` // by stream: the last time of what was evicted since the disk was full, not the ring
	Evicting []string                  `json:"evicting"`          // chunks that may have been evicted, and count as that once they are gone
	Pins     map[string]pin            `json:"pins"`              // by session

	Interfaces []sighting         `json:"interfaces"`         // that packets were recorded on
	Captures   []manifest.Capture `json:"captures,omitempty"` // what was to be recorded of packets, in order of time of recording
}

// sighting is when packets of an interface were recorded: some time between.
type sighting struct {
	chunker.Interface
	From manifest.Nanos `json:"from"`
	To   manifest.Nanos `json:"to"` // inclusive
}

// run is a time during which a stream was captured: From until To, everything
// is in the ring, or was, but for the gaps.
type run struct {
	Stream string         `json:"stream"`
	From   manifest.Nanos `json:"from"`
	To     manifest.Nanos `json:"to"`
}

// pin holds the chunks that overlap a window: of some streams, or of all.
type pin struct {
	Window  manifest.Interval         `json:"window"`
	Streams []string                  `json:"streams,omitempty"` // all when empty
	Expires time.Time                 `json:"expires"`
	Evicted map[string]manifest.Nanos `json:"evicted"` // as it was when the pin was made: later evictions spare the window
}

// decodeState reads state.json and checks that it makes sense.
func decodeState(b []byte) (state, error) {
	var s state
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&s); err != nil {
		return state{}, fmt.Errorf("read ledger: %w", err)
	}
	if s.Format != stateFormat || s.Version != stateVersion {
		return state{}, fmt.Errorf("ledger has format %.40q, version %d: want %q, version %d", s.Format, s.Version, stateFormat, stateVersion)
	}
	if len(s.Gaps) > maxGaps || len(s.Runs) > maxRuns || len(s.Pins) > maxPins || len(s.Interfaces) > maxSeen {
		return state{}, fmt.Errorf("ledger has %d gaps, %d runs, %d pins, %d interfaces: more than are ever written", len(s.Gaps), len(s.Runs), len(s.Pins), len(s.Interfaces))
	}
	for _, r := range s.Runs {
		if err := checkStream(r.Stream); err != nil || r.To < r.From || r.To > maxTime {
			return state{}, fmt.Errorf("ledger has a run of %.40q from %d to %d", r.Stream, r.From, r.To)
		}
	}
	if len(s.Evicting) > maxEvicting {
		return state{}, fmt.Errorf("ledger has %d chunks that are being evicted: more than are ever written", len(s.Evicting))
	}
	for stream, e := range s.Evicted {
		if err := checkStream(stream); err != nil || e > maxTime {
			return state{}, fmt.Errorf("ledger has evicted %.40q through %d", stream, e)
		}
	}
	for _, key := range s.Evicting {
		if _, err := parseKey(key); err != nil {
			return state{}, fmt.Errorf("ledger: %w", err)
		}
	}
	if err := manifest.CheckCaptures(manifest.ClipCaptures(s.Captures, manifest.Interval{From: math.MinInt64, To: math.MaxInt64})); err != nil {
		return state{}, fmt.Errorf("ledger: %w", err)
	}
	for _, g := range s.Gaps {
		if err := checkStream(g.Stream); err != nil || g.To < g.From || g.To > maxTime {
			return state{}, fmt.Errorf("ledger has a gap of %.40q from %d to %d", g.Stream, g.From, g.To)
		}
	}
	return s, nil
}

// evictionDone says that nothing is being evicted.
func (s *state) evictionDone() { s.Evicting = nil }

// pinned tells whether a pin that holds at now covers a chunk.
func (s *state) pinned(m chunker.Meta, now time.Time) bool {
	for _, p := range s.Pins {
		if p.of(m.Stream) && p.Window.From <= manifest.Nanos(m.Last) && manifest.Nanos(m.First) < p.Window.To && now.Before(p.Expires) {
			return true
		}
	}
	return false
}

// of tells whether the pin is of a stream.
func (p pin) of(stream string) bool { return len(p.Streams) == 0 || slices.Contains(p.Streams, stream) }

// oldest is the time from which on nothing was evicted; 0 when nothing was ever
// captured.
func (s *state) oldest() int64 {
	var t manifest.Nanos
	for i, r := range s.Runs {
		if i == 0 || r.From < t {
			t = r.From
		}
	}
	for _, e := range s.Evicted {
		t = max(t, e+1)
	}
	return int64(t)
}

// begin opens a run of stream. A watermark that is later comes from a time when
// the clock was ahead; it must not make all that is recorded from now on look
// evicted.
func (s *state) begin(stream string, at manifest.Nanos) {
	if e, ok := s.Evicted[stream]; ok && e >= at {
		s.addGap(Gap{Stream: stream, Reason: manifest.GapEvicted, From: at, To: e + 1, Detail: aheadDetail})
		s.Evicted[stream] = at - 1
	}
	s.Runs = append(s.Runs, run{stream, at, at})
	s.bound()
}

const aheadDetail = "recorded while the clock was ahead"

// step ends the stream's run at from, and begins another at to: the clock was
// set. Of the moment before that was noticed the run has times of the new clock.
func (s *state) step(stream string, from, to manifest.Nanos) {
	if i := s.last(stream); i >= 0 {
		r := &s.Runs[i]
		if to > from {
			r.To = min(r.To, from)
		}
		r.To = max(r.To, r.From)
	}
	s.extend(stream, from)
	s.begin(stream, to)
	if n := len(s.Captures); n > 0 && stream == chunker.Packets {
		s.Captures[n-1].From = min(s.Captures[n-1].From, to)
	}
}

// last is the index of the stream's latest run, -1 when there is none.
func (s *state) last(stream string) int {
	for i := len(s.Runs) - 1; i >= 0; i-- {
		if s.Runs[i].Stream == stream {
			return i
		}
	}
	return -1
}

// extend moves the end of the stream's run.
func (s *state) extend(stream string, through manifest.Nanos) {
	if i := s.last(stream); i >= 0 {
		s.Runs[i].To = max(s.Runs[i].To, through)
	}
	if n := len(s.Captures); n > 0 && stream == chunker.Packets {
		s.Captures[n-1].To = max(s.Captures[n-1].To, through)
	}
}

// capturing notes what is recorded of packets from at on. What the ring holds
// nothing of any more is forgotten, and so is the oldest of too many.
func (s *state) capturing(what manifest.Selection, at manifest.Nanos) {
	s.Captures = slices.DeleteFunc(s.Captures, func(c manifest.Capture) bool { return c.To <= s.past(chunker.Packets) })
	n := len(s.Captures)
	switch {
	case n > 0 && s.Captures[n-1].Equal(what):
		last := &s.Captures[n-1]
		last.From, last.To = min(last.From, at), max(last.To, at+1)
	default:
		s.Captures = append(s.Captures, manifest.Capture{From: at, To: at + 1, Selection: what})
	}
	s.Captures = slices.Delete(s.Captures, 0, max(0, len(s.Captures)-manifest.MaxCaptures))
}

// bound forgets what nobody can ask for any more, when the state grows too
// large. Runs that must go although they are not that old become times that were
// not recorded.
func (s *state) bound() {
	if len(s.Runs) > maxRuns {
		s.Runs = slices.DeleteFunc(s.Runs, func(r run) bool { return r.To <= s.past(r.Stream) })
		s.Runs = slices.Delete(s.Runs, 0, max(0, len(s.Runs)-maxRuns))
	}
	if len(s.Gaps) > maxGaps {
		s.Gaps = slices.DeleteFunc(s.Gaps, func(g Gap) bool { return g.To <= s.past(g.Stream) })
		if len(s.Gaps) > maxGaps {
			s.Gaps = mergeOldest(s.Gaps, len(s.Gaps)-maxGaps/2)
		}
	}
}

// saw notes that packets of an interface were recorded.
func (s *state) saw(i chunker.Interface, from, to manifest.Nanos) {
	for j := range s.Interfaces {
		if o := &s.Interfaces[j]; o.Interface == i {
			o.From, o.To = min(o.From, from), max(o.To, to)
			return
		}
	}
	if len(s.Interfaces) >= maxSeen { // the one not seen for longest
		old := 0
		for j, o := range s.Interfaces {
			if o.To < s.Interfaces[old].To {
				old = j
			}
		}
		s.Interfaces = slices.Delete(s.Interfaces, old, old+1)
	}
	s.Interfaces = append(s.Interfaces, sighting{i, from, to})
}

// past is the time before which a stream has nothing in the ring, nor pinned.
func (s *state) past(stream string) manifest.Nanos {
	t := s.Evicted[stream]
	for _, p := range s.Pins {
		t = min(t, p.Window.From)
	}
	return t
}

// encode is the present state, as it will stand on disk, and its number; r.mu is
// held.
func (r *Ring) encode() ([]byte, uint64) {
	r.state.Format, r.state.Version = stateFormat, stateVersion
	b, err := json.MarshalIndent(&r.state, "", " ")
	if err != nil {
		panic(err) // only times and strings
	}
	r.seq++
	r.dirty = false
	r.saved = r.opt.Now()
	return append(b, '\n'), r.seq
}

// write puts an encoded state on disk, unless a later one is there already.
func (r *Ring) write(b []byte, seq uint64) error {
	r.saveMu.Lock()
	defer r.saveMu.Unlock()
	if seq <= r.savedSeq {
		return nil
	}
	if err := r.disk.replace(filepath.Join(r.dir, "state.json"), b); err != nil {
		return fmt.Errorf("save ledger: %w", err)
	}
	r.savedSeq = seq
	return nil
}

// save makes the present state durable.
func (r *Ring) save() error {
	r.mu.Lock()
	b, seq := r.encode()
	r.mu.Unlock()
	err := r.write(b, seq)
	if err != nil {
		r.mu.Lock()
		r.dirty = true
		r.mu.Unlock()
	}
	return err
}
