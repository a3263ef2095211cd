package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"time"

	"pcapsule/manifest"
)

// Limits of what a table takes, whoever wrote the stream. The largest clusters
// have 150,000 pods.
const (
	maxObjects  = 4 << 20 // of all times together
	maxListings = 8 << 20 // times in which an object had an address
	maxText     = 320     // bytes of a name or a UID
)

// A Builder makes a Table of the chunks of one stream, one chunk after another,
// in any order. It keeps what it knows of each object and nothing of each record.
type Builder struct {
	clocks   map[string]manifest.Clock // of nodes, against the hub's
	from, to int64                     // of notes

	byUID    map[string]*object
	states   map[uint64]*object // by the hash of the line that told its last state
	seed     maphash.Seed
	services map[[2]string]*Object // by namespace and name: EndpointSlices know no UIDs
	text     map[string]string     // each once

	covered  []span
	chunks   int
	listings int
	notes    notes
}

// NewBuilder makes the builder of an empty table. Clocks are those of the nodes
// that the snapshot knows. The notes will be those from one time until another.
func NewBuilder(clocks map[string]manifest.Clock, from, to int64) *Builder {
	return &Builder{
		clocks: clocks, from: from, to: to,
		byUID: map[string]*object{}, states: map[uint64]*object{}, seed: maphash.MakeSeed(),
		services: map[[2]string]*Object{}, text: map[string]string{},
		notes: notes{seen: map[noteKey]int{}},
	}
}

// ErrRecords is wrapped by the error for records that no recorder wrote in this
// order, or with such members.
var ErrRecords = errors.New("records that make no sense")

func nonsense(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrRecords}, args...)...)
}

// A Chunk takes the lines of one chunk.
type Chunk struct {
	b        *Builder
	n        int
	opened   bool
	complete bool
	ended    bool
	clock    manifest.Clock
	blind    bool  // who recorded it was not allowed to see pods
	start    int64 // of what is covered since
	last     int64 // by the hub's clock
	gapFrom  int64 // the last gap
	gapEnd   int64
	count    int       // of states
	objects  []*object // that were in its state
}

// Chunk begins a chunk. The one before must have ended.
func (b *Builder) Chunk() *Chunk {
	b.chunks++
	return &Chunk{b: b, n: b.chunks, gapEnd: math.MinInt64}
}

// How the lines begin that tell an object's state, after their time.
const (
	statePrefix = `","op":"state",`
	setPrefix   = `","op":"set",`
)

// Line takes the next line of the chunk, without its newline, and its time. It
// decodes what tells something new: most of a keyframe is known from the one
// before.
func (c *Chunk) Line(at int64, line []byte) error {
	hash := uint64(0)
	head := line[:min(len(line), 64)]
	if i := bytes.Index(head, []byte(statePrefix)); i > 0 && c.opened && !c.complete {
		hash = maphash.Bytes(c.b.seed, line[i+len(statePrefix):])
		if o, hub := c.b.states[hash], c.hub(at); o != nil && hub >= c.last {
			c.last = hub
			c.count++
			c.again(o, hub)
			return nil
		}
	} else if i := bytes.Index(head, []byte(setPrefix)); i > 0 {
		hash = maphash.Bytes(c.b.seed, line[i+len(setPrefix):])
	}
	r, err := Decode(line)
	if err != nil {
		return err
	}
	if err := c.Record(&r); err != nil || hash == 0 {
		return err
	}
	if m := r.Meta(); m != nil {
		if o := c.b.byUID[m.UID]; o != nil {
			delete(c.b.states, o.hash)
			o.hash = hash
			c.b.states[hash] = o
		}
	}
	return nil
}

// Record takes the next record.
func (c *Chunk) Record(r *Record) error {
	if !c.opened {
		if r.Op != OpKeyframe {
			return nonsense("a chunk begins with %q, not with a keyframe", r.Op)
		}
		c.opened = true
		c.clock = r.Keyframe.Clock
		c.blind = slices.Contains(r.Keyframe.Missing, "pods")
		c.start = c.hub(int64(r.Time))
		c.last = c.start
		return nil
	}
	at := c.hub(int64(r.Time))
	if at < c.last {
		return nonsense("a record at %d ns follows one at %d ns", at, c.last)
	}
	c.last = at
	switch r.Op {
	case OpKeyframe:
		return nonsense("a chunk has a second keyframe")
	case OpState:
		c.count++
		return c.observe(r, at, false)
	case OpComplete:
		if r.Objects != c.count {
			return nonsense("a keyframe counts %d objects and has %d", r.Objects, c.count)
		}
		c.complete = true
	case OpSet:
		return c.observe(r, at, true)
	case OpGone:
		if err := c.observe(r, at, true); err != nil || r.Meta() == nil {
			return err
		}
		c.gone(r, at)
	case OpEvent:
		c.b.event(r.Event, at)
	case OpGap:
		c.gap(c.hub(int64(r.Gap.From)), at)
	}
	return nil
}

// hub is a time of the recorder by the hub's clock.
func (c *Chunk) hub(ns int64) int64 { return HubTime(c.clock, ns) }

// HubTime is a time by a node's clock in the hub's. An offset that is within its
// own error says nothing, as in manifest.Clock.Window.
func HubTime(c manifest.Clock, ns int64) int64 {
	if c.Offset <= c.Error && c.Offset.Add(c.Error) >= 0 {
		return ns
	}
	return int64(manifest.Nanos(ns).Add(-c.Offset))
}

// own is one of the cluster's own times, told by a clock of node, in the hub's
// time; 0 when it is not told.
func (b *Builder) own(node string, t time.Time) int64 {
	if t.IsZero() || !Representable(t) {
		return 0
	}
	return max(HubTime(b.clocks[node], t.UnixNano()), 1)
}

// gap takes note that what is listed between two times may have changed unseen.
func (c *Chunk) gap(from, to int64) {
	if c.complete && !c.blind && from > c.start {
		c.b.covered = append(c.b.covered, span{c.start, from})
	}
	c.start = to
	c.gapFrom, c.gapEnd = from, to
}

// End ends the chunk: what is in its state was so until its last record.
func (c *Chunk) End() {
	if c.ended || !c.opened {
		return
	}
	c.ended = true
	if c.complete {
		if !c.blind {
			c.b.covered = append(c.b.covered, span{c.start, c.last})
		}
		for _, o := range c.objects {
			if o.chunk == c.n {
				c.extend(o, c.last)
			}
		}
	}
	for _, o := range c.objects {
		o.chunk = 0
	}
	c.objects = nil
}

// again sees an object in the state that it was seen in last.
func (c *Chunk) again(o *object, at int64) {
	if o.chunk != c.n {
		c.enter(o)
		for k, i := range o.listed {
			o.listed[k] = c.list(o, o.all[i].item, o.all[i].ports, at)
		}
	}
	c.extend(o, at)
}

// extend says that o is at a time as it was.
func (c *Chunk) extend(o *object, at int64) {
	for _, i := range o.listed {
		l := &o.all[i]
		l.last = max(l.last, at)
		l.first = min(l.first, at)
	}
	if o.pod != nil {
		o.pod.extend(at)
	}
}

// enter puts o into the state of the chunk.
func (c *Chunk) enter(o *object) {
	o.chunk = c.n
	c.objects = append(c.objects, o)
}

// observe sees an object as a record tells it.
func (c *Chunk) observe(r *Record, at int64, watched bool) error {
	m := r.Meta()
	if m == nil {
		return nil // a kind that a later version added
	}
	o, err := c.object(r, m)
	if err != nil {
		return err
	}
	if o.chunk != c.n {
		// What it listed before this chunk ended at a time that nobody saw.
		c.enter(o)
		o.listed = o.listed[:0]
		if watched && c.complete && r.Op == OpSet && at > later(c.gapEnd, lateness) && (o.made == 0 || at < o.made) {
			o.made = at
		}
	} else if o.pod != nil && at > later(c.gapEnd, lag) {
		o.pod.extend(at) // it was as before until now
	}
	if o.begun == 0 {
		o.begun = c.b.own("", m.Created)
	}
	switch {
	case r.Pod != nil:
		c.b.observePod(o, r.Pod, at, r.Op == OpGone)
		return c.lists(o, addresses(r.Pod.Addresses), nil, at)
	case r.Service != nil:
		return c.lists(o, append(addresses(r.Service.Addresses), addresses(r.Service.External)...), nil, at)
	case r.Node != nil:
		o.ready.observe(r.Node.Conditions, at)
		return c.lists(o, addresses(r.Node.Addresses), nil, at)
	case r.Endpoints != nil:
		var items []item
		for _, e := range r.Endpoints.Members {
			for _, it := range addresses(e.Addresses) {
				if e.Pod != nil && len(e.Pod.UID) <= maxText {
					it.pod = c.b.intern(e.Pod.UID)
				}
				items = append(items, it)
			}
		}
		return c.lists(o, items, r.Endpoints.Ports, at)
	}
	return nil
}

// intern is s, of which the builder keeps one copy.
func (b *Builder) intern(s string) string {
	if s == "" {
		return ""
	}
	if kept, ok := b.text[s]; ok {
		return kept
	}
	s = strings.Clone(s)
	b.text[s] = s
	return s
}

// clip is as much of a name as any can have, without what would end a line.
func clip(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return '?'
			}
			return r
		}, s)
	}
	return s
}
