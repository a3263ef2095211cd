package hub

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"pcapsule/archive"
	"pcapsule/internal/api"
	"pcapsule/internal/process"
	"pcapsule/manifest"
	"pcapsule/store"
)

// begin announces a session in the store and starts it here.
func (h *Hub) begin(ctx context.Context, name string, req request) (*session, error) {
	now := h.now()
	id, err := manifest.NewID(now, rand.Reader)
	if err != nil {
		return nil, err
	}
	s := newSession(id, name, req, now, h.cfg.SessionLimit)
	in, err := h.intent(s)
	if err != nil {
		return nil, err
	}
	if s.store, err = h.archive.Begin(ctx, in); err != nil {
		h.background(func(ctx context.Context) { h.clear(ctx, id) }) //nolint:contextcheck // outlives the request
		if errors.Is(err, archive.ErrNameTaken) {
			err = fmt.Errorf("%w: %w", refuse(http.StatusConflict, api.CodeNameTaken,
				"there is a snapshot %s already, or one in the making: choose another name, or delete that one", name), err)
		}
		return nil, err
	}
	h.start(s)
	return s, nil
}

// clear sees to it that a session which could not be begun does not hold its
// name, and sweeps, until its deadline.
func (h *Hub) clear(ctx context.Context, id string) {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		o, err := h.archive.Outcome(ctx, id)
		if err == nil && o.State == archive.Undecided {
			_, err = h.archive.Void(ctx, id, "", "it could not be begun")
		}
		if err == nil || !pauseFor(ctx, pause) {
			return
		}
	}
}

// intent announces s.
func (h *Hub) intent(s *session) (archive.Intent, error) {
	kind := archive.KindHub
	if s.req.Import {
		kind = archive.KindImport
	}
	b, err := json.Marshal(s.req)
	if err != nil {
		return archive.Intent{}, err
	}
	return archive.Intent{
		ID: s.id, Name: s.name, Kind: kind, Owner: h.owner,
		Created: s.created.UTC(), Deadline: s.deadline.UTC(), Request: b, Process: process.Self(),
	}, nil
}

// start makes a session known, to agents as well.
func (h *Hub) start(s *session) {
	s.asks(h.now())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sessions[s.id] = s
	h.wakeNodes(s.req.asked())
	h.log.Info("session begins", "session", s.id, "name", s.name, "nodes", len(s.req.Nodes), "recorders", len(s.req.Recorders), "window", api.Span(s.req.Window), "carries", s.req.Carries)
}

func (h *Hub) sessionByID(id string) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[id]
}

// openSessions counts the sessions under way.
func (h *Hub) openSessions() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sessions {
		if !s.over() {
			n++
		}
	}
	return n
}

// expireSessions gives up on nodes that are late, ends the sessions which that
// settles, and forgets those that ended long ago.
func (h *Hub) expireSessions(now time.Time) {
	h.mu.Lock()
	var open []*session
	for id, s := range h.sessions {
		if !s.over() {
			open = append(open, s)
			continue
		}
		s.mu.Lock()
		if now.Sub(s.endedAt) > keepEnded {
			delete(h.sessions, id)
		}
		s.mu.Unlock()
	}
	h.mu.Unlock()
	for _, s := range open {
		late, settled := s.expire(now, h.cfg.FirstAnswer, h.cfg.SessionTimeout)
		for _, name := range late {
			h.log.Warn("node is late and left out", "session", s.id, "node", name, "its_error", s.troubleOf(name))
		}
		s.mu.Lock()
		finish := settled && s.claim()
		s.mu.Unlock()
		if finish {
			h.background(func(ctx context.Context) { h.finish(ctx, s) })
		}
	}
}

// watchEvery is how often a hub looks whether somebody else has ended one of its
// sessions.
const watchEvery = 5 * time.Second

// watchSessions ends, here too, the sessions that somebody else has ended in the
// store.
func (h *Hub) watchSessions(now time.Time) {
	h.mu.Lock()
	due := !h.watching && now.Sub(h.watched) >= watchEvery
	if due {
		h.watching, h.watched = true, now
	}
	h.mu.Unlock()
	if !due {
		return
	}
	h.background(func(ctx context.Context) {
		limited, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		for _, s := range h.creating() {
			var voided *archive.VoidedError
			if !errors.As(s.store.Standing(limited), &voided) {
				continue // what the store cannot tell now it tells later
			}
			s.mu.Lock()
			mine := s.claim()
			s.mu.Unlock()
			if mine {
				h.close(s, nil, gone(s.id, voided.Successor, voided.Reason))
			}
		}
		h.mu.Lock()
		h.watching = false
		h.mu.Unlock()
	})
}

// finish ends a session whose parts are all settled, as its claimant. When ctx
// ends before, the session is left as it is in the store, for the next hub.
func (h *Hub) finish(ctx context.Context, s *session) {
	if err := s.settleRecordings(ctx); err != nil && ctx.Err() == nil {
		h.fail(ctx, s, problem(err))
		return
	}
	m, cluster, failure := h.assemble(s)
	if failure == nil {
		if _, err := m.Encode(); err != nil { // too large, perhaps
			failure = refuse(http.StatusInternalServerError, api.CodeInternal, "%v", err)
		}
	}
	if failure != nil {
		h.fail(ctx, s, failure)
		return
	}
	began := h.now()
	whole := len(cluster) == 0
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		limited, cancel := context.WithTimeout(ctx, h.cfg.SessionTimeout)
		var err error
		if !whole {
			err = s.putCluster(limited, m, cluster)
			whole = err == nil
		}
		if whole {
			err = s.store.Commit(limited, m, h.cfg.Signer)
		}
		cancel()
		var voided *archive.VoidedError
		switch {
		case err == nil:
			h.close(s, m, nil)
			return
		case errors.As(err, &voided):
			h.close(s, nil, gone(s.id, voided.Successor, voided.Reason))
			return
		case ctx.Err() != nil:
			return
		case whole && !errors.Is(err, archive.ErrUndecided):
			h.log.Error("snapshot cannot be committed", "session", s.id, "error", err)
			h.fail(ctx, s, problem(err))
			return
		}
		// Once whole, whether it is committed is open: only the store can tell.
		h.log.Warn("the store does not take the snapshot, trying again", "session", s.id, "error", err)
		why, patience := problem(err), h.cfg.SessionTimeout
		switch {
		case errors.Is(err, store.ErrNoSpace):
			why, patience = h.noSpace(), min(patience, hopeless)
		case errors.Is(err, store.ErrForbidden):
			patience = min(patience, hopeless)
		}
		s.holdUp(why)
		if h.now().Sub(began) > patience {
			h.fail(ctx, s, why)
			return
		}
		if !pauseFor(ctx, pause) {
			return
		}
	}
}

// holdUp notes what keeps a session from its end, for those who wait.
func (s *session) holdUp(why *api.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = why
}

// fail ends a session without a snapshot, as its claimant. When the store does
// not take that soon, whoever waits is told all the same: nothing but this
// process could still commit the session.
func (h *Hub) fail(ctx context.Context, s *session, why *api.Error) {
	soon, cancel := context.WithTimeout(ctx, failTime)
	err := s.store.Fail(soon, why.Message)
	cancel()
	if errors.Is(err, archive.ErrDecided) { // a commit whose answer was lost, perhaps
		if snap, err := h.archive.Load(ctx, s.id); err == nil {
			h.close(s, snap.Manifest, nil)
			return
		}
	}
	h.close(s, nil, why)
	for pause := 100 * time.Millisecond; err != nil && !errors.Is(err, archive.ErrDecided); pause = min(2*pause, 5*time.Second) {
		h.log.Warn("the store does not take that a session failed, trying again", "session", s.id, "error", err)
		if !pauseFor(ctx, pause) {
			return // the next hub, or a sweep, ends it
		}
		err = s.store.Fail(ctx, why.Message)
	}
}

// failTime is how long whoever waits is kept for the store to take that a session
// failed.
const failTime = 3 * time.Second

// close ends a session here, as its claimant.
func (h *Hub) close(s *session, m *manifest.Manifest, failure *api.Error) {
	status := api.Failed
	switch {
	case m != nil:
		status = m.Status
	case failure.Code == api.CodeSuperseded:
		status = api.CodeSuperseded
	}
	s.end(m, failure, h.now())
	h.metrics.sessions.WithLabelValues(status).Inc()
	args := []any{"session", s.id, "name", s.name, "status", status}
	if m != nil {
		args = append(args, "records", m.Totals.Records, "bytes", m.Totals.Size)
	} else {
		args = append(args, "error", failure)
	}
	h.log.Info("session has ended", args...)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wakeNodes(s.req.asked())
}

// takeOver ends the sessions that hubs with this key left undecided, and carries
// each on under a new id, which those who wait find. Imports it only ends: what
// their clients have read is with nobody, so no part could ever be handed in. It
// may be called again after an error.
func (h *Hub) takeOver(ctx context.Context) error {
	mine := func(in archive.Intent) bool {
		var req request
		return strings.HasPrefix(in.Owner, h.ownerKey()+"/") && h.sessionByID(in.ID) == nil &&
			json.Unmarshal(in.Request, &req) == nil && len(req.Nodes) > 0
	}
	next := func(old archive.Intent) (archive.Intent, error) {
		var req request
		if err := json.Unmarshal(old.Request, &req); err != nil {
			return archive.Intent{}, err
		}
		if req.Import {
			return archive.Intent{}, &archive.VoidedError{ID: old.ID, Reason: importLeft}
		}
		req.Carries = old.ID
		now := h.now()
		id, err := manifest.NewID(now, rand.Reader)
		if err != nil {
			return archive.Intent{}, err
		}
		return h.intent(newSession(id, old.Name, req, now, h.cfg.SessionLimit))
	}
	begun, err := h.archive.TakeOver(ctx, mine, next)
	for _, b := range begun {
		var req request
		if err := json.Unmarshal(b.Intent.Request, &req); err != nil {
			return err // next wrote it
		}
		s := newSession(b.Intent.ID, b.Intent.Name, req, b.Intent.Created, b.Intent.Deadline.Sub(b.Intent.Created))
		s.store = b
		h.start(s)
	}
	return err
}

// importLeft is why an import is ended by a hub that starts.
const importLeft = "the hub that took the import has ended, and no other can carry an import on"
