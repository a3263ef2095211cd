package kubernetes

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"

	"pcapsule/agent/ring"
	"pcapsule/chunker"
	"pcapsule/cluster"
	"pcapsule/manifest"
)

const (
	tick       = time.Second      // a crash loses no more
	aliveEvery = 10 * time.Second // of records that say so when nothing changes

	// Watches that end and go on at once make news late by as much, and no gap.
	tolerance = 5 * time.Second
)

// A term is one time in which this agent records. It has the state of the whole
// cluster while it lasts, and one goroutine owns all of that.
type term struct {
	log      *slog.Logger
	now      func() time.Time
	client   rest.Interface
	maxAge   time.Duration
	chunks   *chunks
	views    views
	nodes    *atomic.Int64 // how many the cluster has, for others to know
	requests <-chan request

	// since is the time up to which an earlier term of this process knew
	// everything, when no other agent recorded after it; else 0.
	since int64

	began   bool  // the first keyframe was taken, and events are followed
	alive   int64 // time of the last record that said so
	tried   int64 // time of the last try to begin a chunk
	missing int64 // from when on changes were missed or late; 0 when they were not
	missed  bool  // what was missed is missed for good
	until   int64 // everything up to it is recorded, or was taken back; 0 when nothing is
}

// A request asks the term for something, between two news.
type request struct {
	cut   chan<- struct{} // end the chunk and begin a new one; then close this
	step  bool            // the clock was set
	at    int64           // to this
	delta int64           // which is by this much more than before
}

// run records until the context ends, and returns the time up to which
// everything is recorded; 0 when nothing is.
func (t *term) run(ctx context.Context) int64 {
	out := make(chan news, 64)
	ctx, cancel := context.WithCancel(ctx)
	var sources sync.WaitGroup
	defer func() { cancel(); sources.Wait() }()
	follow := func(i int) {
		s := &source{resource: t.views[i].resource, index: i, client: t.client, out: out, now: t.now}
		sources.Go(func() { s.run(ctx) })
	}
	for i, v := range t.views {
		if !v.events() {
			follow(i)
		}
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		began := t.began
		select {
		case <-ctx.Done():
			now := t.now().UnixNano()
			var unanswered errUnanswered
			if errors.As(context.Cause(ctx), &unanswered) {
				t.doubt(now - int64(unanswered.silence))
			}
			t.end(now)
			return t.until
		case n := <-out:
			t.hear(t.now().UnixNano(), n)
		case r := <-t.requests:
			t.answer(r)
		case <-ticker.C:
			t.tick(t.now().UnixNano())
		}
		if t.began && !began { // events are no part of the state: they have to wait for its keyframe
			for i, v := range t.views {
				if v.events() {
					follow(i)
				}
			}
		}
	}
}

// hear takes a news.
func (t *term) hear(now int64, n news) {
	v := t.views[n.source]
	switch n.kind {
	case began:
		v.round++
	case listed, changed:
		switch {
		case v.events():
			t.chunks.add(now, cluster.OpEvent, n.object.body)
		case v.set(n.object):
			t.change(now, cluster.OpSet, n.object)
		}
	case deleted:
		delete(v.objects, n.object.uid)
		t.change(now, cluster.OpGone, n.object)
	case ended:
		for _, o := range v.sweep() {
			t.change(now, cluster.OpGone, o)
		}
		t.settle(now, v, true)
	case resumed:
		t.settle(now, v, false)
	case skipped:
		t.log.Warn("an object cannot be recorded", "resource", v.name, "err", n.err)
		t.chunks.drop()
	case lost:
		t.lose(now, v, n.away)
		if n.err != nil {
			t.log.Debug("a watch broke off; trying again", "resource", v.name, "err", n.err)
		}
	case denied:
		if v.state != viewDenied {
			t.log.Warn("the API server does not let this agent see a resource: it is missing from the stream kubernetes (check the agent's ClusterRole)", "resource", v.name, "err", n.err)
			v.state = viewDenied
			clear(v.objects)
			t.changedViews(now)
		}
	}
	t.nodes.Store(int64(t.views.nodes()))
	if t.chunks.heavy() {
		t.cut(now)
	}
}

// change records a change of the state.
func (t *term) change(now int64, op string, o *object) {
	if t.began {
		t.chunks.add(now, op, o.body)
	}
}

// lose notes that a view is not up to date, since away ago. Until just now all
// was known: that is recorded, so that the gap begins where it does.
func (t *term) lose(now int64, v *view, away time.Duration) {
	if v.state != viewCurrent {
		return
	}
	if t.began && away == 0 && t.current() {
		t.sayAlive(now)
		t.flush(now, true)
	}
	v.state, v.since = viewAway, now-int64(away)
}

// settle notes that a view is up to date; relisted tells that changes may have
// been missed before.
func (t *term) settle(now int64, v *view, relisted bool) {
	was := v.state
	v.state = viewCurrent
	if was == viewAway && (relisted || now-v.since > int64(tolerance)) {
		if t.missing == 0 || v.since < t.missing {
			t.missing = v.since
		}
		t.missed = t.missed || relisted
	}
	if was == viewDenied {
		t.changedViews(now)
	}
	if !t.current() {
		return
	}
	if !t.began {
		t.begin(now)
	}
	t.endGap(now)
}

// current tells whether all that there is to know is known. Events count from the
// first keyframe on.
func (t *term) current() bool {
	for _, v := range t.views {
		switch v.state {
		case viewAway:
			return false
		case viewWaiting:
			if t.began || !v.events() {
				return false
			}
		}
	}
	return true
}

// begin takes the first keyframe.
func (t *term) begin(now int64) {
	t.began = true
	t.chunks.ring.Begin(chunker.Kubernetes, now)
	t.alive, t.tried = now, now
	t.chunks.open(now)
	if t.since > 0 && t.since < now {
		t.missing, t.missed = t.since, true
	}
	t.log.Info("recording the stream kubernetes", "nodes", t.views.nodes())
	// What listing took is not needed again until the next election.
	debug.FreeOSMemory()
}

const unasked = "the API server could not be asked"

// endGap records that changes were missed, or are late, when that is over.
func (t *term) endGap(now int64) {
	if t.missing == 0 {
		return
	}
	from := min(t.missing, now)
	t.missing = 0
	detail := unasked
	if t.missed {
		detail += ", and changes were missed"
	}
	t.missed = false
	t.log.Warn("the stream kubernetes has a gap", "for", time.Duration(now-from), "why", detail)
	t.chunks.addRecord(&cluster.Record{
		Time: manifest.Nanos(now), Op: cluster.OpGap, Gap: &cluster.Gap{From: manifest.Nanos(from), Reason: manifest.GapWatchLost},
	})
	t.chunks.ring.AddGap(ring.Gap{
		Stream: chunker.Kubernetes, Reason: manifest.GapWatchLost, From: manifest.Nanos(from), To: manifest.Nanos(now), Detail: detail,
	})
}

// changedViews begins a new chunk when another set of resources is recorded.
func (t *term) changedViews(now int64) {
	switch {
	case t.began:
		t.cut(now)
	case t.current():
		t.begin(now)
	}
}

// tick does what time asks for.
func (t *term) tick(now int64) {
	if !t.began {
		return
	}
	if !t.chunks.isOpen() {
		retry := int64(tick)
		if t.chunks.tooLarge() {
			retry = int64(t.maxAge)
		}
		if now-t.tried >= retry || now < t.tried {
			t.tried = now
			t.chunks.open(now)
		}
	}
	current := t.current()
	if current && now-t.alive >= int64(aliveEvery) {
		t.sayAlive(now)
	}
	t.flush(now, current)
	if age := now - t.chunks.first; t.chunks.isOpen() && (age >= int64(t.maxAge) || age < 0) {
		t.cut(now)
	}
}

func (t *term) flush(now int64, current bool) {
	t.chunks.flush(now, current)
	if current && t.chunks.isOpen() {
		t.until = t.chunks.last
	}
}

func (t *term) sayAlive(now int64) {
	t.alive = now
	t.chunks.addRecord(&cluster.Record{Time: manifest.Nanos(now), Op: cluster.OpAlive})
}

// seal ends the chunk, with a record of that moment when everything is known
// until then.
func (t *term) seal(now int64) {
	current := t.current()
	if current {
		t.sayAlive(now)
	}
	t.flush(now, current)
	t.chunks.seal(now)
}

// cut ends the chunk and begins the next with a new keyframe of the same moment.
func (t *term) cut(now int64) {
	if !t.chunks.isOpen() {
		return
	}
	t.seal(now)
	t.tried = now
	t.chunks.open(now)
}

// doubt notes that the API server has not answered since, while watches that
// heard nothing took that for a time in which nothing happened.
func (t *term) doubt(since int64) {
	for _, v := range t.views {
		if v.state == viewCurrent {
			v.state, v.since = viewAway, since
		}
	}
}

// end is the last seal.
func (t *term) end(now int64) {
	if t.began {
		t.takeBack(now)
		t.seal(now)
		t.chunks.report(now)
	}
}

// takeBack records that less is known than was said, of a term that ends before
// it knows more.
func (t *term) takeBack(now int64) {
	from := t.until
	if t.missing != 0 {
		from = min(from, t.missing)
	}
	for _, v := range t.views {
		if v.state == viewAway {
			from = min(from, v.since)
		}
	}
	if from >= t.until {
		return
	}
	t.chunks.addRecord(&cluster.Record{
		Time: manifest.Nanos(now), Op: cluster.OpGap, Gap: &cluster.Gap{From: manifest.Nanos(from), Reason: manifest.GapWatchLost},
	})
	t.chunks.ring.AddGap(ring.Gap{
		Stream: chunker.Kubernetes, Reason: manifest.GapWatchLost, From: manifest.Nanos(from), To: manifest.Nanos(t.until), Detail: unasked,
	})
}

// answer does what was asked for.
func (t *term) answer(r request) {
	switch {
	case r.step && t.began:
		// The times of this chunk are by the clock as it was.
		t.chunks.seal(t.chunks.last)
		t.chunks.ring.Step(chunker.Kubernetes, r.at, r.delta)
		t.missing, t.alive, t.tried = shifted(t.missing, r.delta), r.at, r.at
		t.until = 0
		t.chunks.failedAt += r.delta
		for _, v := range t.views {
			v.since += r.delta
		}
		t.chunks.open(max(r.at, t.now().UnixNano()))
	case r.cut != nil:
		if t.began {
			t.cut(t.now().UnixNano())
		}
		close(r.cut)
	}
}

// shifted is a time after the clock was set, unless it is none.
func shifted(at, delta int64) int64 {
	if at == 0 {
		return 0
	}
	return at + delta
}
