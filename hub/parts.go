package hub

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"time"

	"golang.org/x/sync/errgroup"

	"pcapsule/archive"
	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
)

const (
	// grantTime is how long an upload may be begun after it was granted.
	grantTime = 15 * time.Minute

	parallel   = 16 // requests to the store at a time, for one request here
	storeTurns = 4  // of these at a time: a thousand agents ask at once, and each is to get its answer soon after its turn comes

	maxPartBody  = 8 << 20 // of a complete answer: a node of 16,000 interfaces and gaps
	maxGrantBody = 256 << 10
)

// sessionPart finds the session and the part that a request is for. A session
// that has ended, here or in a process before this one, is an error that says
// how.
func (h *Hub) sessionPart(r *http.Request) (*session, string, error) {
	id, name := r.PathValue("id"), r.PathValue("node")
	if err := manifest.CheckID(id); err != nil {
		return nil, "", invalid("%v", err)
	}
	if err := manifest.CheckNode(name); err != nil {
		return nil, "", invalid("%v", err)
	}
	if err := h.awaitReady(r.Context()); err != nil {
		return nil, "", err
	}
	s := h.sessionByID(id)
	if s == nil {
		return nil, "", h.ended(r.Context(), id)
	}
	if err := checkHand(r, s); err != nil {
		return nil, "", err
	}
	if s.parts[name] == nil { // the set of parts never changes
		return nil, "", refuse(http.StatusNotFound, api.CodeUnknownNode, "session %s has no node %s", id, name)
	}
	return s, name, nil
}

// ended says how a session ended that is not one of this process.
func (h *Hub) ended(ctx context.Context, id string) error {
	o, err := h.archive.Outcome(ctx, id)
	if err != nil {
		return err
	}
	switch o.State {
	case archive.Voided:
		return gone(id, o.Successor, o.Reason)
	case archive.Committed:
		return refuse(http.StatusConflict, api.CodeNotCompleted, "session %s has ended: its snapshot is complete", id)
	case archive.Undecided:
		return refuse(http.StatusConflict, api.CodeNotCompleted, "session %s belongs to another process", id)
	default:
		return refuse(http.StatusNotFound, api.CodeNotFound, "there is no session %s", id)
	}
}

// gone says that a session was ended from outside.
func gone(id, successor, reason string) *api.Error {
	e := refuse(http.StatusGone, api.CodeSuperseded, "snapshot %s was never finished", id)
	if reason != "" {
		e.Message += ": " + reason
	}
	if successor != "" {
		e.Message += "; it carries on as " + successor
		e.Successor = successor
	} else {
		e.Message += "; create it again"
	}
	return e
}

// open returns the part of a session that still takes answers, and notes that
// its node was heard of. The caller holds s.mu.
func (s *session) open(name string, now time.Time) (*part, error) {
	p := s.parts[name]
	switch {
	case s.failure != nil && s.failure.Code == api.CodeSuperseded:
		return nil, s.failure
	case s.failure != nil:
		return nil, refuse(http.StatusConflict, api.CodeNotCompleted, "session %s has failed: %s", s.id, s.failure.Message)
	case s.closing:
		return nil, refuse(http.StatusConflict, api.CodeNotCompleted, "session %s takes no more answers", s.id)
	case p.progress.State == stateUnreachable:
		return nil, refuse(http.StatusConflict, api.CodeNotCompleted, "session %s has gone on without node %s, which was late", s.id, name)
	}
	s.heard = now
	if !p.answered {
		p.last = now
	}
	p.answered = true
	return p, nil
}

// progress serves POST /api/v1/sessions/{id}/nodes/{node}/progress.
func (h *Hub) progress(w http.ResponseWriter, r *http.Request) error {
	s, name, err := h.sessionPart(r)
	if err != nil {
		return err
	}
	var req api.Progress
	if err := readJSON(w, r, 64<<10, false, &req); err != nil {
		return err
	}
	switch req.State {
	case stateWaiting, stateSealing, stateUploading:
	case stateDone:
		req.State = stateUploading // it is done when the hub has checked it
	default:
		return invalid("progress: state %.40q is none of %s, %s, %s, %s", req.State, stateWaiting, stateSealing, stateUploading, stateDone)
	}
	if req.Node != name {
		return invalid("progress of node %.80q is reported for node %s", req.Node, name)
	}
	if req.Chunks < 0 || req.Bytes < 0 || req.Done < 0 || req.Sent < 0 || req.Done > req.Bytes || req.Sent > req.Done {
		return invalid("progress: want 0 ≤ sent ≤ done ≤ bytes")
	}
	if e := req.Error; e != nil { // for people, and perhaps in a manifest
		e.Code, e.Message, e.Successor = manifest.Clean(e.Code), manifest.Clean(e.Message), ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parts[name].node != nil {
		s.heard = h.now()                   // of an import: the client may be at another node
		w.WriteHeader(http.StatusNoContent) // overtaken by complete
		return nil
	}
	p, err := s.open(name, h.now())
	if err != nil {
		return err
	}
	if p.advance(req, h.now()) {
		p.last = h.now()
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// grant serves POST /api/v1/sessions/{id}/nodes/{node}/grants.
func (h *Hub) grant(w http.ResponseWriter, r *http.Request) error {
	s, name, err := h.sessionPart(r)
	if err != nil {
		return err
	}
	var req api.GrantRequest
	if err := readJSON(w, r, maxGrantBody, false, &req); err != nil {
		return err
	}
	if len(req.Objects) > api.MaxGrants {
		return invalid("%d objects in one request: at most %d", len(req.Objects), api.MaxGrants)
	}
	for i, o := range req.Objects {
		if err := checkObject(o); err != nil {
			return invalid("object %d: %v", i, err)
		}
	}
	s.mu.Lock()
	p, err := s.open(name, h.now())
	if err == nil && len(p.placed)+len(req.Objects) > maxPlaced {
		err = invalid("node %s asks for more than %d objects in one snapshot: choose a shorter window", name, maxPlaced)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	for i, o := range req.Objects {
		if p.extra && o.Ext == chunker.PacketsExt {
			return invalid("object %d: node %s is asked for stream %s only", i, name, chunker.Kubernetes)
		}
	}

	done, err := h.turn(r.Context(), s, p)
	if err != nil {
		return err
	}
	defer done()
	answer := api.GrantAnswer{Placements: make([]api.Placement, len(req.Objects))}
	g, ctx := errgroup.WithContext(r.Context())
	g.SetLimit(parallel)
	for i, o := range req.Objects {
		g.Go(func() (err error) {
			answer.Placements[i], err = h.place(ctx, s, o)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.open(name, h.now()); err != nil {
		return err
	}
	for i, o := range req.Objects {
		l := answer.Placements[i]
		_, again := p.placed[l.Key]
		if !again {
			p.last = h.now()
		}
		p.placed[l.Key] = placed{size: o.Size, sha256: o.SHA256, have: l.Grant == nil}
		if o.Kind == manifest.KindChunk && !again {
			h.metrics.placed.WithLabelValues(fmt.Sprint(l.Grant == nil)).Add(float64(o.Size))
		}
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

// maxPlaced is how many objects one node may place in a session: as many chunks
// as an inventory can list, roughly.
const maxPlaced = 1 << 20

// turn waits for the request's turn to ask the store, in the order in which
// requests came. Until done, its node is not late.
func (h *Hub) turn(ctx context.Context, s *session, p *part) (done func(), err error) {
	count := func(n int) {
		s.mu.Lock()
		p.asking += n
		s.mu.Unlock()
	}
	count(1)
	select {
	case h.turns <- struct{}{}:
		return func() { <-h.turns; count(-1) }, nil
	case <-ctx.Done():
		count(-1)
		return nil, ctx.Err()
	}
}

// place finds the key of an object, and a grant when it is not in the store. Of a
// new chunk it does not look: half of all that the store is asked for a first
// snapshot would be in vain. Should something be there after all, its upload says
// so, and the agent asks again, not as of a new one.
func (h *Hub) place(ctx context.Context, s *session, o api.Object) (api.Placement, error) {
	sum, err := parseSHA256(o.SHA256)
	if err != nil {
		return api.Placement{}, err
	}
	var key string
	var have bool
	if o.New {
		key, err = s.store.Fresh(o.Kind, o.Hash, o.Ext)
	} else {
		key, have, err = s.store.Place(ctx, archive.Object{Kind: o.Kind, Hash: o.Hash, Ext: o.Ext, Size: o.Size, SHA256: sum})
	}
	if err != nil {
		return api.Placement{}, err
	}
	l := api.Placement{Key: key}
	if have {
		return l, nil
	}
	expires := h.now().Add(grantTime)
	if expires.After(s.deadline) {
		expires = s.deadline
	}
	grant, err := h.cfg.Store.Grant(ctx, key, o.Size, sum, expires)
	if err != nil {
		return api.Placement{}, fmt.Errorf("grant upload of %s: %w", key, err)
	}
	l.Grant = &grant
	return l, nil
}

// complete serves POST /api/v1/sessions/{id}/nodes/{node}/complete.
func (h *Hub) complete(w http.ResponseWriter, r *http.Request) error {
	s, name, err := h.sessionPart(r)
	if err != nil {
		return err
	}
	var req api.CompleteRequest
	if err := readJSON(w, r, maxPartBody, false, &req); err != nil {
		return err
	}
	if req.Node.Name != name {
		return invalid("the part of node %.80q is handed in for node %s", req.Node.Name, name)
	}

	s.mu.Lock()
	p := s.parts[name]
	if p.handed != nil {
		same := reflect.DeepEqual(*p.handed, req)
		s.mu.Unlock()
		if !same {
			return invalid("node %s has handed in another part of session %s already", name, s.id)
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if _, err := s.open(name, h.now()); err != nil {
		s.mu.Unlock()
		return err
	}
	if p.checking {
		s.mu.Unlock()
		return unavailable("the part of node %s is being checked already", name)
	}
	p.checking = true
	s.mu.Unlock()

	var node *manifest.Node
	var cluster *recording
	done, err := h.turn(r.Context(), s, p)
	if err == nil {
		node, cluster, err = h.checkPart(r.Context(), s, p, &req)
		done()
	}

	s.mu.Lock()
	p.checking = false
	if err != nil && problem(err).Status >= 500 && !p.unsure {
		p.unsure, p.last = true, h.now() // a slow store is not the node's fault, once
	}
	if err != nil {
		if e := problem(err); e.Status < 500 {
			p.refused = refuse(e.Status, e.Code, "the hub refused its part: %s", e.Message)
		}
	}
	if err == nil && s.closing {
		_, err = s.open(name, h.now()) // says why
	}
	if err != nil {
		s.mu.Unlock()
		h.log.Warn("part refused", "session", s.id, "node", name, "error", err)
		return err
	}
	p.node, p.cluster, p.handed = node, cluster, &req
	p.progress.State, p.progress.Error = stateDone, nil
	p.progress.Done = p.progress.Bytes
	finish := s.settled() && s.claim()
	s.mu.Unlock()

	w.WriteHeader(http.StatusNoContent)
	if finish {
		h.background(func(ctx context.Context) { h.finish(ctx, s) }) //nolint:contextcheck // outlives the request
	}
	return nil
}
