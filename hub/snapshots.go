package hub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"pcapsule/archive"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store"
)

const (
	maxCreateBody = 4 << 20
	maxWait       = 30 * time.Second // of a request for a snapshot's state
	futureSlop    = time.Second      // by how much a client's clock may be ahead
)

// createSnapshot serves POST /api/v1/snapshots.
func (h *Hub) createSnapshot(w http.ResponseWriter, r *http.Request) error {
	var req api.CreateRequest
	if err := readJSON(w, r, maxCreateBody, true, &req); err != nil {
		return err
	}
	if err := h.awaitReady(r.Context()); err != nil {
		return err
	}
	if req.Name != "" {
		if err := manifest.CheckName(req.Name); err != nil {
			return invalid("%v", err)
		}
	}
	want, err := h.resolve(r.Context(), &req)
	if err != nil {
		return err
	}
	h.audit(r, "create-begins", nil, "name", req.Name)
	s, err := h.beginNamed(r.Context(), req.Name, want)
	if err != nil {
		h.audit(r, "create", err, "name", req.Name)
		return err
	}
	what, span := "window", api.Span(want.Window)
	if want.Import {
		what, span = "import", "true"
	}
	h.audit(r, "create", nil, "snapshot", s.id, "name", s.name, "nodes", len(want.Nodes), what, span)
	if r.Context().Err() != nil {
		// Whoever asked is gone, and never heard its id.
		_, err := h.giveUp(r, s)
		return err
	}
	writeJSON(w, http.StatusAccepted, s.view(h.cfg.SessionTimeout))
	return nil
}

// resolve makes a session's request, in absolute time and with names of nodes.
func (h *Hub) resolve(ctx context.Context, req *api.CreateRequest) (request, error) {
	for _, n := range req.Nodes {
		if err := manifest.CheckNode(n); err != nil {
			return request{}, invalid("%v", err)
		}
	}
	if req.Import {
		nodes := slices.Clone(req.Nodes)
		slices.Sort(nodes)
		switch {
		case req.Last != "" || !req.From.IsZero() || !req.To.IsZero():
			return request{}, invalid("the window of an import is what its files hold: leave last, from and to out")
		case len(nodes) == 0 || len(nodes) > manifest.MaxNodes:
			return request{}, invalid("an import is of 1 to %d nodes", manifest.MaxNodes)
		case len(slices.Compact(slices.Clone(nodes))) < len(nodes):
			return request{}, invalid("a node is named twice")
		}
		return request{Nodes: nodes, Import: true}, nil
	}
	window, err := resolveWindow(req, h.now())
	if err != nil {
		return request{}, err
	}
	nodes, err := h.chooseNodes(ctx, req.Nodes, window)
	if err != nil {
		return request{}, err
	}
	nodes, gone := h.leaveOutGone(ctx, nodes, len(req.Nodes) > 0, window)
	return request{Window: window, Nodes: nodes, Recorders: h.recorders(nodes), Gone: gone}, nil
}

// resolveWindow makes the window absolute.
func resolveWindow(req *api.CreateRequest, now time.Time) (manifest.Interval, error) {
	var none manifest.Interval
	from, to := req.From, req.To
	switch {
	case req.Last != "" && (!from.IsZero() || !to.IsZero()):
		return none, invalid("give either last, or from and to")
	case req.Last != "":
		d, err := time.ParseDuration(req.Last)
		if err != nil || d <= 0 {
			return none, invalid("last is %.40q: want a duration like 5m", req.Last)
		}
		from, to = now.Add(-d), now
	case from.IsZero() || to.IsZero():
		return none, invalid("say which window: either last, or from and to")
	}
	stamp := now.UTC().Format(time.RFC3339)
	switch {
	case !from.Before(to):
		return none, invalid("the window ends at %s, not after it begins at %s", to.UTC().Format(time.RFC3339Nano), from.UTC().Format(time.RFC3339Nano))
	case to.After(now.Add(futureSlop)):
		return none, invalid("the window ends at %s, which is in the future: for the hub it is %s", to.UTC().Format(time.RFC3339), stamp)
	case from.Year() < 1970 || from.Before(time.Unix(0, 0)):
		return none, invalid("the window begins at %s: want a time since 1970", from.UTC().Format(time.RFC3339))
	}
	if to.After(now) {
		to = now
	}
	if !from.Before(to) {
		return none, invalid("the window begins at %s, which is in the future: for the hub it is %s", from.UTC().Format(time.RFC3339), stamp)
	}
	return manifest.Interval{From: manifest.NanosOf(from), To: manifest.NanosOf(to)}, nil
}

// beginNamed begins a session, under a name made from the time when none is
// given.
func (h *Hub) beginNamed(ctx context.Context, name string, req request) (*session, error) {
	if name != "" {
		return h.begin(ctx, name, req)
	}
	base := "snapshot-" + h.now().UTC().Format("20060102-150405")
	var err error
	for n := 1; n <= 9; n++ {
		name = base
		if n > 1 {
			name = fmt.Sprintf("%s-%d", base, n)
		}
		var s *session
		if s, err = h.begin(ctx, name, req); !errors.Is(err, archive.ErrNameTaken) {
			return s, err
		}
	}
	return nil, err
}

// listSnapshots serves GET /api/v1/snapshots.
func (h *Hub) listSnapshots(w http.ResponseWriter, r *http.Request) error {
	// The sessions first: one that ends in between is then in the list twice,
	// not missing.
	list := []api.Snapshot{}
	for _, s := range h.creating() {
		v := s.view(h.cfg.SessionTimeout)
		v.Awaited = h.isAwaited(v.ID)
		list = append(list, v)
	}
	others, err := h.archive.UnderWay(r.Context())
	if store.AsObstacle(err) != nil {
		h.log.Warn("sessions of others are not in the list", "error", err)
	} else if err != nil {
		return err
	}
	for _, t := range others {
		if h.sessionByID(t.ID) == nil {
			v := api.UnderWay(t.ID, t.Name, t.Who(), t.Created, t.Deadline, t.Dead())
			v.Awaited = h.isAwaited(t.ID)
			list = append(list, v)
		}
	}
	stored, strays, err := h.archive.ListAll(r.Context())
	if err != nil {
		return err
	}
	h.tellStrays(strays)
	for _, s := range stored {
		list = slices.DeleteFunc(list, func(v api.Snapshot) bool { return v.ID == s.ID })
		list = append(list, shown(s))
	}
	slices.SortStableFunc(list, func(a, b api.Snapshot) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	writeJSON(w, http.StatusOK, list)
	return nil
}

// tellStrays logs what is in the store that may be a snapshot and is in no list,
// whenever that has changed.
func (h *Hub) tellStrays(strays []error) {
	all := errors.Join(strays...)
	told := ""
	if all != nil {
		told = all.Error()
	}
	h.mu.Lock()
	news := told != h.strays
	h.strays = told
	h.mu.Unlock()
	if !news || len(strays) == 0 {
		return
	}
	h.log.Error("something in the store may be a snapshot and is in no list; until it is moved, no sweep deletes anything",
		"count", len(strays), "first", strays[0])
}

// shown is a stored snapshot as lists have it, also one that cannot be read.
func shown(s *archive.Snapshot) api.Snapshot {
	if s.Err == nil {
		v := api.Of(s.Manifest)
		trusted := s.Untrusted == nil
		v.Signer, v.SignerKey, v.SignerOf, v.Trusted = s.Key.Fingerprint(), s.Key.String(), s.Whose, &trusted
		if !trusted {
			v.Distrust = s.Untrusted.Why.Error()
		}
		return v
	}
	v := api.Snapshot{ID: s.ID, Nodes: []string{}}
	if s.Manifest != nil {
		v = api.Of(s.Manifest)
	} else if t, err := manifest.IDTime(s.ID); err == nil {
		v.Created = t
	}
	e := problem(s.Err)
	v.Status, v.Error, v.Reasons = api.Damaged, e, []string{e.Message}
	return v
}

// creating is the sessions that are under way.
func (h *Hub) creating() (open []*session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sessions {
		if !s.over() {
			open = append(open, s)
		}
	}
	return open
}

// session finds a session of this process by id, or one that is under way by
// name.
func (h *Hub) session(ref string) *session {
	if s := h.sessionByID(ref); s != nil {
		return s
	}
	for _, s := range h.creating() {
		if s.name == ref {
			return s
		}
	}
	return nil
}

// getSnapshot serves GET /api/v1/snapshots/{ref}. With wait it answers when the
// snapshot is made, or when that time is over.
func (h *Hub) getSnapshot(w http.ResponseWriter, r *http.Request) error {
	ref := r.PathValue("ref")
	var wait time.Duration
	if q := r.URL.Query().Get("wait"); q != "" {
		var err error
		if wait, err = time.ParseDuration(q); err != nil || wait < 0 {
			return invalid("wait is %.40q: want a duration like 10s", q)
		}
	}
	var live []string // whoever made it just now also hears what is wrong now
	if s := h.session(ref); s != nil {
		h.follow(r.Context(), s, min(wait, maxWait))
		s.mu.Lock()
		failure, done := s.failure, s.done
		s.mu.Unlock()
		switch {
		case failure != nil && failure.Code == api.CodeSuperseded:
			return failure
		case done == nil:
			writeJSON(w, http.StatusOK, s.view(h.cfg.SessionTimeout))
			return nil
		}
		ref = s.id // it may have been deleted since
		if wait > 0 && !s.req.Import {
			live = h.warnings(s.req.Nodes)
		}
	}
	s, err := h.find(r.Context(), ref)
	if err != nil {
		return err
	}
	v := shown(s)
	v.Warnings = append(v.Warnings, live...)
	writeJSON(w, http.StatusOK, v)
	return nil
}

// follow waits until a session has ended, at most for wait.
func (h *Hub) follow(ctx context.Context, s *session, wait time.Duration) {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-s.ended:
	case <-t.C:
	case <-h.stopping:
	case <-ctx.Done():
	}
}

// find is a snapshot that is made, by name or id, or an error that says what
// became of it.
func (h *Hub) find(ctx context.Context, ref string) (*archive.Snapshot, error) {
	s, err := h.archive.Find(ctx, ref)
	if err == nil || !errors.Is(err, archive.ErrNotFound) {
		return s, err
	}
	if open := h.session(ref); open != nil && !open.over() {
		return nil, refuse(http.StatusConflict, api.CodeNotCompleted, "snapshot %s is still being made: wait for it", open.name)
	}
	if manifest.CheckID(ref) != nil {
		return nil, err
	}
	// A session of an earlier hub is known by what became of it, once that is
	// seen to.
	if ready := h.awaitReady(ctx); ready != nil {
		return nil, ready
	}
	o, oerr := h.archive.Outcome(ctx, ref)
	switch {
	case oerr != nil:
		return nil, oerr
	case o.State == archive.Voided:
		return nil, gone(ref, o.Successor, o.Reason)
	case o.State == archive.Undecided:
		return nil, refuse(http.StatusConflict, api.CodeNotCompleted, "snapshot %s is being made by another process: wait for it", ref)
	default:
		return nil, err
	}
}

// findTrusted is find for what leaves with the hub's word for it: a snapshot that a
// stranger put into the store is refused.
func (h *Hub) findTrusted(ctx context.Context, ref string) (*archive.Snapshot, error) {
	s, err := h.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	if s.Untrusted != nil {
		return nil, refuse(http.StatusForbidden, api.CodeUntrusted,
			"the hub does not trust who signed snapshot %s: %v; whoever runs the hub lets it by adding this line to the hub's --trust file: %s", s.Name(), s.Untrusted.Why, s.Key.SignersLine())
	}
	return s, nil
}

// deleteSnapshot serves DELETE /api/v1/snapshots/{ref}. A snapshot in the making
// is given up.
func (h *Hub) deleteSnapshot(w http.ResponseWriter, r *http.Request) error {
	ref := r.PathValue("ref")
	h.audit(r, "delete-begins", nil, "snapshot", manifest.Clean(ref))
	if s := h.session(ref); s != nil {
		if mine, err := h.giveUp(r, s); mine {
			h.audit(r, "delete", err, "snapshot", s.id, "name", s.name, "unfinished", true)
			if err == nil {
				ended := s.gaveUp()
				ended.Uploaded = content(h.archive.Left(r.Context(), s.created))
				writeJSON(w, http.StatusOK, ended)
			}
			return err
		}
	}
	// Sessions of a predecessor are carried on before anything is said of them.
	if err := h.awaitReady(r.Context()); err != nil {
		return err
	}
	did, err := h.archive.Remove(r.Context(), ref, sender(r))
	if errors.Is(err, archive.ErrNotFound) {
		if _, why := h.find(r.Context(), ref); why != nil {
			err = why // what became of it
		}
	}
	switch {
	case err != nil:
		h.audit(r, "delete", err, "snapshot", manifest.Clean(ref))
		return err
	case did.Session == nil:
		h.audit(r, "delete", nil, "snapshot", did.ID, "name", did.Name)
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	h.audit(r, "delete", nil, "snapshot", did.ID, "name", did.Name, "unfinished", true)
	ended := api.Ended{ID: did.ID, Name: did.Name, Owner: did.Session.Who(), Created: did.Session.Created, Dead: did.Session.Dead()}
	ended.Uploaded = content(did.Objects, did.Bytes, did.Counted)
	writeJSON(w, http.StatusOK, ended)
	return nil
}

// content is an amount of content, or nil where nobody could count it.
func content(objects int, bytes int64, counted bool) *api.Content {
	if !counted {
		return nil
	}
	return &api.Content{Objects: objects, Bytes: bytes}
}

// giveUp ends a session on request, unless it is about to end by itself. A store
// that does not take that is told again until it does.
func (h *Hub) giveUp(r *http.Request, s *session) (mine bool, err error) {
	s.mu.Lock()
	mine = s.claim()
	s.mu.Unlock()
	if !mine {
		return false, nil
	}
	why := refuse(http.StatusConflict, api.CodeNotCompleted, "snapshot %s was deleted while it was being made", s.name)
	h.background(func(ctx context.Context) { h.fail(ctx, s, why) }) //nolint:contextcheck // it is to end also when whoever asked has gone
	select {
	case <-s.ended:
		return true, nil
	case <-h.stopping:
		return true, stopping()
	case <-r.Context().Done():
		return true, r.Context().Err()
	}
}
