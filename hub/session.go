package hub

import (
	"slices"
	"sync"
	"time"

	"pcapsule/archive"
	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
)

// States of a part, as api.Progress has them.
const (
	stateWaiting     = "waiting"
	stateSealing     = "sealing"
	stateUploading   = "uploading"
	stateDone        = "done"
	stateUnreachable = "unreachable"
)

// request is what a session's intent holds: all that a successor needs to carry
// on.
type request struct {
	Window manifest.Interval `json:"window"` // in the hub's time; empty for an import
	Nodes  []string          `json:"nodes"`  // sorted
	Import bool              `json:"import,omitempty"`

	// Recorders held chunks of the stream kubernetes when the session began;
	// sorted. Those that are not of Nodes are asked for that stream alone.
	Recorders []string `json:"recorders,omitempty"`

	// Gone are those of Nodes that had left the cluster, and are not waited for;
	// sorted.
	Gone []string `json:"gone,omitempty"`

	Carries string `json:"carries,omitempty"` // the session of a dead hub that this one carries on
}

// asked lists whoever owes a part: the nodes, then the other recorders.
func (r *request) asked() []string {
	list := slices.Clone(r.Nodes)
	for _, name := range r.Recorders {
		if !slices.Contains(r.Nodes, name) {
			list = append(list, name)
		}
	}
	return list
}

// A session is one attempt at creating a snapshot, in this process. It ends by
// exactly one of done, failed and superseded; then ended is closed.
type session struct {
	id, name string
	req      request
	created  time.Time
	deadline time.Time // no answer is taken after it
	store    *archive.Session
	ended    chan struct{}

	mu      sync.Mutex
	parts   map[string]*part
	closing bool       // some goroutine is ending the session: no more answers are taken
	heard   time.Time  // when whoever plays the nodes of an import last gave a sign of life, by any request
	trouble *api.Error // what keeps the one who ends it from that
	done    *manifest.Manifest
	failure *api.Error // of a failed or superseded session
	endedAt time.Time
}

// A part is what one node owes a session. The session's lock guards it.
type part struct {
	extra    bool // it is of a recorder that is not of the snapshot's nodes
	progress api.Progress
	best     api.Progress // the most of each that was reported: what is above is progress
	answered bool         // the node has been heard of in this session
	last     time.Time    // when it last made progress
	stuck    time.Time    // since when it has told of an error that no patience mends; zero when it has not
	unsure   bool         // its answer could not be checked, for the store's sake
	refused  *api.Error   // why its answer was not taken
	placed   map[string]placed
	checking bool // a complete answer is being checked: the node is not late
	asking   int  // requests that wait for the store, neither
	node     *manifest.Node
	cluster  *recording           // of the stream kubernetes, when it handed in one
	handed   *api.CompleteRequest // both, as they were handed in
}

// placed is an object for which this session has found a key.
type placed struct {
	size   int64
	sha256 string
	have   bool // it was in the store already; else it has to be checked
}

func newSession(id, name string, req request, now time.Time, lifetime time.Duration) *session {
	s := &session{
		id: id, name: name, req: req, created: now, deadline: now.Add(lifetime),
		ended: make(chan struct{}), parts: map[string]*part{}, heard: now,
	}
	for i, n := range req.asked() {
		s.parts[n] = &part{
			extra:    i >= len(req.Nodes),
			progress: api.Progress{Node: n, State: stateWaiting},
			last:     now,
			placed:   map[string]placed{},
		}
		if slices.Contains(req.Gone, n) {
			s.parts[n].progress.State = stateUnreachable
		}
	}
	return s
}

// asks notes when nodes are asked: that the store took long to note the intent is
// nothing that they are late by.
func (s *session) asks(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = now
	for _, p := range s.parts {
		p.last = now
	}
}

// reportShare is how long a report of progress is worth, so that those of a
// thousand nodes are a hundred a second.
const reportShare = 10 * time.Millisecond

// reportEvery is how often a node is to report progress, at most.
func (s *session) reportEvery() time.Duration { return time.Duration(len(s.parts)) * reportShare }

// task is what the agent of a node is asked for.
func (s *session) task(name string) api.Task {
	t := api.Task{
		Session: s.id, Window: s.req.Window, Deadline: s.deadline.UTC(),
		Report: manifest.Nanos(s.reportEvery()),
	}
	if s.parts[name].extra { // which never changes
		t.Streams = []string{chunker.Kubernetes}
	}
	return t
}

// over tells whether the session has ended.
func (s *session) over() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// awaits tells whether the agent of a node has yet to hand in its part.
func (s *session) awaits(name string) bool {
	if s.req.Import {
		return false // whoever imports knows
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.parts[name]
	return !s.closing && p != nil && !p.settled()
}

// hopeless is how long a node may tell of an error that waiting does not mend: a
// few tries.
const hopeless = 10 * time.Second

// advance notes how far a node says it is, and tells whether it ever was as far.
// An agent that begins again and again gets nowhere.
func (p *part) advance(now api.Progress, at time.Time) bool {
	p.progress = now
	switch e := now.Error; {
	case e == nil || e.Code != api.CodeNoSpace && e.Code != api.CodeForbidden:
		p.stuck = time.Time{}
	case p.stuck.IsZero():
		p.stuck = at
	}
	b := &p.best
	further := now.Done > b.Done || now.Bytes > b.Bytes || now.Chunks > b.Chunks
	b.Done, b.Bytes, b.Chunks = max(b.Done, now.Done), max(b.Bytes, now.Bytes), max(b.Chunks, now.Chunks)
	return further
}

// settled tells whether nothing more is expected of a part.
func (p *part) settled() bool {
	return p.node != nil || p.progress.State == stateUnreachable
}

// settled tells whether nothing more is expected of any part. The caller holds
// s.mu.
func (s *session) settled() bool {
	for _, p := range s.parts {
		if !p.settled() {
			return false
		}
	}
	return true
}

// settledNodes tells whether nothing more is expected of the snapshot's nodes.
// The caller holds s.mu.
func (s *session) settledNodes() bool {
	for _, p := range s.parts {
		if !p.extra && !p.settled() {
			return false
		}
	}
	return true
}

// extraPatience is how long a snapshot whose nodes have all handed in their parts
// waits for the next step of a node that is asked for the stream kubernetes only.
const extraPatience = 10 * time.Second

// claim makes the caller the one who ends the session. The caller holds s.mu.
func (s *session) claim() bool {
	if s.closing {
		return false
	}
	s.closing = true
	return true
}

// end ends the session as the one who claimed it.
func (s *session) end(m *manifest.Manifest, failure *api.Error, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done, s.failure, s.endedAt = m, failure, now
	for _, p := range s.parts {
		p.placed, p.cluster = nil, nil // tens of megabytes in a large one
	}
	close(s.ended)
}

// expire gives up on nodes that are late at now, and tells whether that, or what
// came before, settles the session. A node that has not answered at all gets
// first, then patience after each step; a node that the snapshot is not of gets no
// more than that, and once it is the last no more than extraPatience.
func (s *session) expire(now time.Time, first, patience time.Duration) (late []string, settled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, false
	}
	if s.req.Import {
		return s.expireImport(now, patience), s.settled()
	}
	last := s.settledNodes()
	for name, p := range s.parts {
		if p.settled() || p.checking || p.asking > 0 {
			continue
		}
		limit := patience
		if !p.answered {
			limit = first
		}
		if p.extra && last {
			limit = min(limit, max(extraPatience, 2*s.reportEvery()))
		}
		stuck := !p.stuck.IsZero() && now.Sub(p.stuck) > hopeless && now.Sub(p.last) > hopeless
		if stuck || now.Sub(p.last) > limit || now.After(s.deadline) {
			p.progress.State = stateUnreachable
			late = append(late, name)
		}
	}
	slices.Sort(late)
	return late, s.settled()
}

// expireImport gives up on all unfinished parts of an import at once: one client
// plays its nodes, one after another. That client is alive as long as any request
// of it comes within patience of the one before, or waits for the store. The
// caller holds s.mu.
func (s *session) expireImport(now time.Time, patience time.Duration) (late []string) {
	for _, p := range s.parts {
		if p.checking || p.asking > 0 {
			s.heard = now
			return nil
		}
	}
	if now.Sub(s.heard) <= patience && !now.After(s.deadline) {
		return nil
	}
	for name, p := range s.parts {
		if !p.settled() {
			p.progress.State = stateUnreachable
			late = append(late, name)
		}
	}
	slices.Sort(late)
	return late
}

// troubleOf is what a node last told of what holds it up; empty when nothing does.
func (s *session) troubleOf(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.parts[name].progress.Error; e != nil {
		return e.Message
	}
	return ""
}

// view is the session as a snapshot in the making, or one that failed. An import
// expires when its client gives no sign of life for patience.
func (s *session) view(patience time.Duration) api.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done != nil {
		return api.Of(s.done)
	}
	v := api.Snapshot{
		ID: s.id, Name: s.name, Status: api.Creating,
		Created: s.created.UTC(), Nodes: s.req.Nodes,
	}
	if s.failure == nil {
		v.Owner, v.Deadline = s.store.Intent.Who(), s.deadline.UTC()
	}
	if !s.req.Import {
		v.Start, v.End = s.req.Window.From.Time(), s.req.Window.To.Time()
	}
	if s.failure != nil {
		v.Status, v.Error, v.Reasons = api.Failed, s.failure, []string{s.failure.Message}
		return v
	}
	if s.req.Import && !s.settled() {
		v.Heard, v.Expires = s.heard.UTC(), s.heard.Add(patience).UTC()
		if v.Expires.After(v.Deadline) {
			v.Expires = v.Deadline
		}
	}
	v.Error = s.trouble
	for _, name := range s.req.asked() {
		p := s.parts[name].progress
		v.Progress = append(v.Progress, p)
		v.Size += p.Bytes
	}
	return v
}

// gaveUp is the answer to whoever had the session ended.
func (s *session) gaveUp() api.Ended {
	s.mu.Lock()
	defer s.mu.Unlock()
	return api.Ended{ID: s.id, Name: s.name, Owner: s.store.Intent.Who(), Created: s.created.UTC()}
}
