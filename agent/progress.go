package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"pcapsule/agent/ring"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store"
)

// reportEvery is how often progress is reported, at most.
const reportEvery = 500 * time.Millisecond

// maxReport is how often it is reported at least, while it changes: hubs give up
// on nodes that say nothing for minutes.
const maxReport = 30 * time.Second

// States of a part, as api.Progress has them.
const (
	stateSealing   = "sealing"
	stateUploading = "uploading"
)

// reporter tells the hub how far a part is, while that changes, and what holds it
// up. A report that does not arrive is no matter: the next one says it all.
type reporter struct {
	cancel context.CancelFunc
	ended  chan struct{}

	mu sync.Mutex
	p  api.Progress
}

// reporter reports until it is stopped, no more often than the hub wants it.
func (a *agent) reporter(ctx context.Context, task api.Task) *reporter {
	every := max(reportEvery, min(time.Duration(task.Report), maxReport))
	ctx, cancel := context.WithCancel(ctx)
	r := &reporter{cancel: cancel, ended: make(chan struct{}), p: api.Progress{Node: a.cfg.Node, State: stateSealing}}
	go func() {
		defer close(r.ended)
		var last api.Progress
		for ctx.Err() == nil {
			if p := r.now(); p != last && a.client.Progress(ctx, task.Session, p) == nil {
				last = p
			}
			sleep(ctx, every)
		}
	}()
	return r
}

func (r *reporter) stop() {
	r.cancel()
	<-r.ended
}

func (r *reporter) now() api.Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.p
}

// again says that the part is made anew.
func (r *reporter) again() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.p = api.Progress{Node: r.p.Node, State: stateSealing, Error: r.p.Error}
}

// begin says what is to be in the store.
func (r *reporter) begin(chunks []ring.Chunk) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.p.State, r.p.Chunks = stateUploading, len(chunks)
	for _, c := range chunks {
		r.p.Bytes += c.Size
	}
}

// trouble says what holds the part up, until it goes on, and tells whether that
// is news.
func (r *reporter) trouble(err error) (news bool) {
	e := describe(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.p.Error != nil && *r.p.Error == *e {
		return false
	}
	r.p.Error = e
	return true
}

// describe is an error for the hub, and for the people who wait there.
func describe(err error) *api.Error {
	e := &api.Error{Code: api.CodeUnavailable, Message: manifest.Clean(err.Error())}
	var said *api.Error
	switch {
	case errors.Is(err, store.ErrNoSpace):
		e.Code = api.CodeNoSpace
	case errors.Is(err, api.ErrGrantOver):
		e.Code = api.CodeForbidden
	case errors.As(err, &said):
		e.Code = said.Code
	}
	return e
}

// done says that size bytes more are in the store, sent of them by this session.
func (r *reporter) done(size, sent int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.p.Done += size
	r.p.Sent += sent
	r.p.Error = nil
}

// without says that a chunk of size bytes will not be in the store.
func (r *reporter) without(size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.p.Chunks--
	r.p.Bytes -= size
}
