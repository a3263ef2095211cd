package kubernetes

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

const (
	pageSize = 250 // objects of one page of a list; one page is in memory, in full

	// A watch is asked to end after some minutes, not all at once, so that the
	// load of many spreads over the API servers there are.
	minWatch = 5 * time.Minute

	// A server that streams the initial state says where it ends. One that does
	// not, in this time, does not know how.
	streamPatience = 30 * time.Second

	// A connection that is dead without a word is found out by pings after this
	// time (client-go: 30 s without a frame, and 15 s for the answer).
	silence = 45 * time.Second

	// A watch that held as long ends a series of failures.
	settled = 5 * time.Second

	minPause = 200 * time.Millisecond
	maxPause = 8 * time.Second

	// What may not be seen is asked for again, in case that changes.
	deniedPause = 2 * time.Minute

	// A place to resume at that is refused as often, by a server that answers, is
	// given up, and everything listed again.
	maxRefused = 5
)

// A news is something that a source tells the recorder.
type news struct {
	source int // index
	kind   newsKind
	object *object // of listed, changed, deleted
	away   time.Duration
	err    error // of skipped, lost, denied
}

type newsKind int

const (
	began   newsKind = iota // a list of all objects begins
	listed                  // an object of it
	ended                   // it is complete, and the source is up to date
	changed                 // an object came, or changed
	deleted                 // an object has gone; in its last state
	skipped                 // an object that no record can hold
	lost                    // the source is not up to date, since away ago
	resumed                 // it is again, and has missed nothing
	denied                  // it may not be seen, or is not there
)

// A source follows one resource: it lists all there is, and then watches what
// changes. It keeps nothing of it but a place to resume at.
type source struct {
	resource
	index  int
	client rest.Interface
	out    chan<- news
	now    func() time.Time // monotonic

	paged   bool   // this server does not stream the initial state
	version string // of the last thing it heard of: where to resume; "" is nowhere
	seen    uint64 // of events: the newest version, which a new list does not tell again
	refused int    // times that the place was, in a row
	away    bool   // it has said lost or denied
	heard   time.Time
}

// run follows the resource until the context ends.
func (s *source) run(ctx context.Context) {
	pause := minPause
	for ctx.Err() == nil {
		var w watch.Interface
		var err error
		opened := s.now()
		if s.version == "" {
			w, err = s.list(ctx)
		} else {
			w, err = s.open(ctx)
		}
		following := err == nil
		if following {
			opened = s.now()
			err = s.follow(ctx, w)
		}
		if ctx.Err() != nil {
			return
		}
		if s.now().Sub(opened) >= settled {
			pause = minPause
		}
		if !following && badPlace(err) {
			if s.refused++; s.refused >= maxRefused {
				s.version, s.refused = "", 0
			}
		}
		if s.failed(ctx, err) {
			wait(ctx, deniedPause/2+rand.N(deniedPause))
			continue
		}
		wait(ctx, pause/2+rand.N(pause))
		pause = min(2*pause, maxPause)
	}
}

// badPlace tells whether a server refused the place to resume at, as one does
// that was set back to an older state.
func badPlace(err error) bool {
	return apierrors.IsBadRequest(err) || apierrors.IsInvalid(err) || apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge)
}

// errSilent says that a connection was found dead, some time after it was.
type errSilent struct{ error }

// failed tells the recorder that the source is not up to date, and forgets the
// place to resume at when the server has. It reports whether there is no use in
// asking again soon.
func (s *source) failed(ctx context.Context, err error) bool {
	since := time.Duration(0)
	var silent errSilent
	if errors.As(err, &silent) {
		since = min(s.now().Sub(s.heard), silence)
	}
	switch {
	case isDenied(err):
		s.version = ""
		s.tell(ctx, news{kind: denied, err: err})
		s.away = true
		return true
	case apierrors.IsResourceExpired(err) || apierrors.IsGone(err):
		s.version = ""
	}
	if !s.away {
		s.away = true
		s.tell(ctx, news{kind: lost, away: since, err: err})
	}
	return false
}

// tell hands n on. It waits while the recorder is busy: a watch can.
func (s *source) tell(ctx context.Context, n news) bool {
	n.source = s.index
	select {
	case s.out <- n:
		return true
	case <-ctx.Done():
		return false
	}
}

// tellObject tells of an object that is recorded.
func (s *source) tellObject(ctx context.Context, kind newsKind, o runtime.Object) error {
	if s.events() && (kind == deleted || s.known(o, kind)) {
		return nil // Kubernetes forgets events after an hour, as a rule
	}
	r := reduce(o)
	if r == nil {
		return errors.New("the API server sent an object that was not asked for")
	}
	object, err := newObject(r)
	if err != nil {
		s.tell(ctx, news{kind: skipped, err: err})
		return nil
	}
	s.tell(ctx, news{kind: kind, object: object})
	return nil
}

// known tells whether an event that is listed was told of before. Versions are
// numbers that grow over all resources of a server.
func (s *source) known(o runtime.Object, kind newsKind) bool {
	m, err := meta.Accessor(o)
	if err != nil {
		return false
	}
	v, err := strconv.ParseUint(m.GetResourceVersion(), 10, 64)
	if err != nil {
		return false
	}
	if kind == listed {
		return v <= s.seen
	}
	s.seen = max(s.seen, v)
	return false
}

// place remembers where to resume.
func (s *source) place(version string) {
	s.version, s.refused = version, 0
	if v, err := strconv.ParseUint(version, 10, 64); err == nil && s.events() {
		s.seen = max(s.seen, v)
	}
}

// list tells of all objects there are, and returns the watch that goes on from
// there; nil when that has still to be opened.
func (s *source) list(ctx context.Context) (watch.Interface, error) {
	if !s.paged {
		w, err := s.stream(ctx)
		if err == nil || !cannotStream(err) {
			return w, err
		}
		s.paged = true
	}
	if err := s.pages(ctx); err != nil {
		return nil, err
	}
	return s.open(ctx)
}

var errNoEnd = errors.New("the API server does not stream the initial state")

// cannotStream tells whether a server answered that it does not stream the
// initial state, which each version and each lack says in another way.
func cannotStream(err error) bool {
	var status apierrors.APIStatus
	return errors.Is(err, errNoEnd) || errors.As(err, &status) &&
		!isDenied(err) && !apierrors.IsUnauthorized(err) && !apierrors.IsTooManyRequests(err)
}

// isDenied tells whether a resource may not be seen, or is not there.
func isDenied(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err)
}

// watchRequest asks for a watch that tells now and then how far it is.
func (s *source) watchRequest() *rest.Request {
	seconds := int64((minWatch + rand.N(minWatch)).Seconds())
	return s.client.Get().AbsPath(s.path).
		Param("watch", "1").Param("allowWatchBookmarks", "true").Param("timeoutSeconds", strconv.FormatInt(seconds, 10))
}

// stream lists by a watch: the server sends all objects, one by one from its
// cache, says that these were all, and then what changes. It is the cheapest list
// there is, for both sides.
func (s *source) stream(ctx context.Context) (watch.Interface, error) {
	w, err := s.watchRequest().Param("sendInitialEvents", "true").Param("resourceVersionMatch", "NotOlderThan").Watch(ctx)
	if err != nil {
		return nil, err
	}
	whole := false
	defer func() {
		if !whole {
			w.Stop()
		}
	}()
	s.tell(ctx, news{kind: began})
	patience := time.NewTimer(streamPatience)
	defer patience.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-patience.C:
			return nil, errNoEnd
		case e, ok := <-w.ResultChan():
			if !ok {
				return nil, errors.New("a list ended before its end")
			}
			patience.Reset(streamPatience)
			s.heard = s.now()
			switch e.Type {
			case watch.Added, watch.Modified:
				err = s.tellObject(ctx, listed, e.Object)
			case watch.Bookmark:
				var m metav1.Object
				if m, err = meta.Accessor(e.Object); err == nil && m.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true" {
					whole = true
					s.listEnded(ctx, m.GetResourceVersion())
					return w, nil
				}
			case watch.Error:
				err = apierrors.FromObject(e.Object)
			case watch.Deleted: // after it was listed
				err = s.tellObject(ctx, deleted, e.Object)
			}
			if err != nil {
				return nil, err
			}
		}
	}
}

func (s *source) listEnded(ctx context.Context, version string) {
	s.place(version)
	s.away = false
	s.heard = s.now()
	s.tell(ctx, news{kind: ended})
}

// pages lists in pages. When a list takes so long that the server forgets where
// it began, it is begun again.
func (s *source) pages(ctx context.Context) error {
	s.tell(ctx, news{kind: began})
	next := ""
	for {
		req := s.client.Get().AbsPath(s.path).Param("limit", strconv.Itoa(pageSize))
		if next != "" {
			req = req.Param("continue", next)
		}
		page := s.resource.list()
		if err := req.Do(ctx).Into(page); err != nil {
			return err
		}
		err := meta.EachListItem(page, func(o runtime.Object) error { return s.tellObject(ctx, listed, o) })
		if err != nil {
			return err
		}
		m, err := meta.ListAccessor(page)
		if err != nil {
			return err
		}
		if next = m.GetContinue(); next == "" {
			s.listEnded(ctx, m.GetResourceVersion())
			return nil
		}
	}
}

// open watches from the place where the source is.
func (s *source) open(ctx context.Context) (watch.Interface, error) {
	w, err := s.watchRequest().Param("resourceVersion", s.version).Watch(ctx)
	if err != nil {
		return nil, err
	}
	s.heard = s.now()
	if s.away {
		s.away = false
		s.tell(ctx, news{kind: resumed})
	}
	return w, nil
}

// follow tells of changes until the watch ends, and why it did; nil when the
// server ended it.
func (s *source) follow(ctx context.Context, w watch.Interface) error {
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
			kind := changed
			switch e.Type {
			case watch.Error:
				err := apierrors.FromObject(e.Object)
				if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
					return err
				}
				return errSilent{err}
			case watch.Deleted:
				kind = deleted
			}
			if e.Type != watch.Bookmark {
				if err := s.tellObject(ctx, kind, e.Object); err != nil {
					return err
				}
			}
			m, err := meta.Accessor(e.Object)
			if err != nil {
				return err
			}
			s.heard = s.now()
			s.place(m.GetResourceVersion())
		}
	}
}

// wait waits for d, or until the context ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
