package targets

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

const (
	// Watches end now and then, not all at once, so that those of many nodes
	// spread over the API servers there are.
	minWatch = 5 * time.Minute

	// Pauses grow no longer than this: when the API server is back, so is what
	// happened meanwhile, and soon.
	minPause = 100 * time.Millisecond
	maxPause = 4 * time.Second

	// A watch that held as long ends a series of failures.
	settled = 5 * time.Second
)

// A source follows a few objects of one kind: it lists them, and then watches
// what changes. The list comes from the API server's cache.
type source struct {
	client  rest.Interface
	path    string
	params  map[string]string
	list    func() runtime.Object // an empty one
	changed func(whole bool, came, gone []runtime.Object)
	log     *slog.Logger

	version string // to go on from; empty when all are listed anew
	away    bool
}

// run follows until the context ends.
func (s *source) run(ctx context.Context) {
	pause := minPause
	for ctx.Err() == nil {
		began := time.Now()
		err := s.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= settled {
			pause = minPause
		}
		if err == nil {
			continue // the server ended the watch in its time
		}
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			s.version = ""
		}
		if !s.away {
			s.away = true
			s.log.Warn("the API server cannot be asked for pods; what was known holds", "path", s.path, "error", err)
		}
		t := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		pause = min(2*pause, maxPause)
	}
}

func (s *source) request() *rest.Request {
	r := s.client.Get().AbsPath(s.path)
	for k, v := range s.params {
		r = r.Param(k, v)
	}
	return r
}

// follow lists what there is, unless it knows, and watches until that ends. It
// returns nil when the server ended the watch, having said all it knew.
func (s *source) follow(ctx context.Context) error {
	if s.version == "" {
		if err := s.relist(ctx); err != nil {
			return err
		}
	}
	seconds := int64((minWatch + rand.N(minWatch)).Seconds())
	w, err := s.request().
		Param("watch", "1").Param("allowWatchBookmarks", "true").Param("resourceVersion", s.version).
		Param("timeoutSeconds", strconv.FormatInt(seconds, 10)).Watch(ctx)
	if err != nil {
		// As of a server that was set back to an older state.
		if apierrors.IsBadRequest(err) || apierrors.IsInvalid(err) || apierrors.IsTimeout(err) {
			s.version = ""
		}
		return err
	}
	defer w.Stop()
	if s.away {
		s.away = false
		s.log.Info("the API server answers again", "path", s.path)
	}
	for heard := false; ; heard = true {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.ResultChan():
			if !ok && !heard {
				return errors.New("the API server ended a watch at once")
			}
			if !ok {
				return nil
			}
			if err := s.event(e); err != nil {
				return err
			}
		}
	}
}

func (s *source) event(e watch.Event) error {
	switch e.Type {
	case watch.Error:
		return apierrors.FromObject(e.Object)
	case watch.Added, watch.Modified:
		s.changed(false, []runtime.Object{e.Object}, nil)
	case watch.Deleted:
		s.changed(false, nil, []runtime.Object{e.Object})
	}
	m, err := meta.Accessor(e.Object)
	if err != nil {
		return err
	}
	s.version = m.GetResourceVersion()
	return nil
}

func (s *source) relist(ctx context.Context) error {
	list := s.list()
	// Version 0: as the server's cache has it.
	if err := s.request().Param("resourceVersion", "0").Do(ctx).Into(list); err != nil {
		return err
	}
	objects, err := meta.ExtractList(list)
	if err != nil {
		return err
	}
	m, err := meta.ListAccessor(list)
	if err != nil {
		return err
	}
	s.changed(true, objects, nil)
	s.version = m.GetResourceVersion()
	return nil
}
