package agent

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"time"

	"pcapsule/internal/api"
)

// pinGrace is how long after a session's deadline its chunks stay pinned, for a
// hub that was away and carries on.
const pinGrace = time.Hour

// sessions are those this agent works for.
type sessions struct {
	mu   sync.Mutex
	live map[string]*session
	busy sync.WaitGroup
}

// session is this node's part of a snapshot in the making.
type session struct {
	task   api.Task
	cancel context.CancelFunc
	done   chan struct{} // closed when nothing works on it any more

	part *api.CompleteRequest // what was handed in, to be handed in again; by its goroutine until done
}

func (s *sessions) wait() { s.busy.Wait() }

// start takes up a task, unless it is at it already. A part that was handed in
// and is asked for again, since the hub's answer and its question crossed, is
// handed in as it was.
func (a *agent) start(ctx context.Context, task api.Task) {
	a.work.mu.Lock()
	defer a.work.mu.Unlock()
	var part *api.CompleteRequest
	if s := a.work.live[task.Session]; s != nil {
		select {
		case <-s.done:
			part = s.part
		default:
			return
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &session{task: task, cancel: cancel, done: make(chan struct{}), part: part}
	if a.work.live == nil {
		a.work.live = map[string]*session{}
	}
	a.work.live[task.Session] = s
	a.work.busy.Go(func() {
		defer close(s.done)
		defer cancel()
		a.carryOut(ctx, s)
	})
}

// drop ends what concerns a session, and lets its chunks go.
func (a *agent) drop(id string) {
	a.work.mu.Lock()
	s := a.work.live[id]
	delete(a.work.live, id)
	a.work.mu.Unlock()
	if s != nil {
		s.cancel()
		<-s.done // else it could pin again
	}
	a.unpin(id)
}

// forget drops what is known of a session, but for its pin.
func (a *agent) forget(s *session) {
	a.work.mu.Lock()
	defer a.work.mu.Unlock()
	if a.work.live[s.task.Session] == s {
		delete(a.work.live, s.task.Session)
	}
}

func (a *agent) unpin(id string) {
	if err := a.ring.Unpin(id); err != nil {
		a.log.Warn("cannot unpin", "session", id, "err", err)
	}
}

// carryOut does a task, again and again until it is done, the session is over,
// or its deadline has passed.
func (a *agent) carryOut(ctx context.Context, s *session) {
	// What chunks were loaded into is not needed again until the next session, and
	// an agent that only records makes too little garbage for it to be given back
	// within minutes.
	defer debug.FreeOSMemory()
	log := a.log.With("session", s.task.Session)
	deadline := a.local(s.task.Deadline)
	ctx, cancel := context.WithTimeout(ctx, deadline.Sub(a.now()))
	defer cancel()
	report := a.reporter(ctx, s.task)
	defer report.stop()
	pause := minBackoff
	for ctx.Err() == nil {
		err := a.attempt(ctx, s, report)
		if err == nil {
			log.Info("part handed in")
			return // the hub says when to unpin
		}
		if ended, carried := over(err); ended {
			log.Info("session is over", "reason", err)
			a.forget(s)
			if !carried {
				a.unpin(s.task.Session)
			}
			return
		}
		if ctx.Err() == nil {
			if report.trouble(err) {
				log.Warn("part not handed in yet", "err", err)
			}
			pause = a.backoff(ctx, pause)
		}
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		log.Warn("part not handed in by the deadline")
		a.forget(s)
	}
}

// local is a time of the hub by this node's clock.
func (a *agent) local(t time.Time) time.Time {
	return t.Add(time.Duration(a.clock.at(a.now().UnixNano()).Offset))
}
