package pcapgen

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"math"
	"slices"
	"sync"
)

// How far ahead of the merge fetching and decoding run.
const (
	fetchers   = 8        // chunks being fetched at once, at most
	aheadCount = 8        // chunks fetched before they are needed, at most
	aheadBytes = 16 << 20 // and their stored bytes, where that is more than one chunk
	aheadBatch = 16       // batches decoded before they are needed, at most, for each worker
)

// A scheduler brings the batches of all inputs to the merge in the order in
// which it will need them, which is known: an input needs its next batch when
// the merge reaches the last time of the one before. So workers always decode
// for the input whose last batch ends first, and chunks are fetched in the order
// of their first records.
//
// What runs ahead is bounded. What the merge waits for is never held up by these
// bounds, or it would wait forever.
type scheduler struct {
	depot  *depot
	stages []stage
	plan   *plan
	limit  int // of ahead

	mu      sync.Mutex
	toFetch sync.Cond // a fetcher may find something to do
	toWork  sync.Cond // a worker may
	toMerge sync.Cond // the merge may find what it waits for

	// Guarded by mu.
	err    error     // ends everything
	urgent int64     // the merge waits for inputs that need a batch by this time
	opened int       // of the plan's chunks: how many are inputs, or were
	due    []*input  // that the merge has reached, and nobody fetches yet
	early  []*input  // that were fetched, or are being, before the merge has reached them
	bytes  int64     // stored, of early
	ready  readyHeap // fetched, and able to decode their next batch
	ahead  int       // batches that are being decoded or in a queue
	spare  []*batch

	goroutines sync.WaitGroup
}

// notWaiting is the urgent time while the merge does not wait.
const notWaiting = math.MinInt64

var errStopped = errors.New("the merge has ended")

// startScheduler begins to fetch and decode. stop must follow.
func startScheduler(ctx context.Context, d *depot, p *plan, stages []stage, workers int) *scheduler {
	s := &scheduler{depot: d, stages: stages, plan: p, limit: aheadBatch * workers, urgent: notWaiting}
	s.toFetch.L, s.toWork.L, s.toMerge.L = &s.mu, &s.mu, &s.mu
	for range min(fetchers, len(p.chunks)) {
		s.goroutines.Go(func() { s.fetch(ctx) })
	}
	for range min(workers, len(p.chunks)) {
		s.goroutines.Go(s.decode)
	}
	return s
}

// fail ends everything with err, unless it has ended already.
func (s *scheduler) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.toFetch.Broadcast()
	s.toWork.Broadcast()
	s.toMerge.Broadcast()
}

// stop ends everything, and returns when all goroutines have. Those that fetch
// may need the context to be cancelled.
func (s *scheduler) stop() {
	s.fail(errStopped)
	s.goroutines.Wait()
}

// fetch takes chunks in the order of the plan.
func (s *scheduler) fetch(ctx context.Context) {
	for {
		in := s.nextFetch()
		if in == nil {
			return
		}
		o, err := s.depot.fetch(ctx, in.key(), in.size)
		if err != nil {
			s.fail(err)
			return
		}
		in.object = o
		s.mu.Lock()
		heap.Push(&s.ready, in)
		s.mu.Unlock()
		s.toWork.Signal()
	}
}

func (s *scheduler) nextFetch() *input {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil {
		if len(s.due) > 0 {
			in := s.due[0]
			s.due = slices.Delete(s.due, 0, 1)
			return in
		}
		if s.opened == len(s.plan.chunks) {
			return nil
		}
		n, size := len(s.early), s.plan.chunks[s.opened].size
		if n == 0 || (n < aheadCount && s.bytes+size <= aheadBytes) {
			in := s.open()
			s.early = append(s.early, in)
			s.bytes += size
			return in
		}
		s.toFetch.Wait()
	}
	return nil
}

// open makes the plan's next chunk an input. Called with mu held.
func (s *scheduler) open() *input {
	c := &s.plan.chunks[s.opened]
	s.opened++
	return &input{chunk: *c, node: &s.plan.nodes[c.node], need: c.begin}
}

// decode decodes batches for whichever input needs one first.
func (s *scheduler) decode() {
	for {
		in, b := s.nextDecode()
		if in == nil {
			return
		}
		err := in.decode(b, s.stages)
		if err != nil && err != errDone {
			s.fail(err)
			return
		}
		if err == errDone {
			in.close()
		}
		s.decoded(in, b, err == errDone)
	}
}

func (s *scheduler) nextDecode() (*input, *batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil {
		if len(s.ready) > 0 && (s.ahead < s.limit || s.ready[0].need <= s.urgent) {
			in := heap.Pop(&s.ready).(*input)
			s.ahead++
			n := len(s.spare)
			if n == 0 {
				return in, new(batch)
			}
			b := s.spare[n-1]
			s.spare = s.spare[:n-1]
			return in, b
		}
		s.toWork.Wait()
	}
	return nil, nil
}

// decoded puts b into the queue of in, or ends in.
func (s *scheduler) decoded(in *input, b *batch, done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if done {
		in.done = true
		s.ahead--
		s.spare = append(s.spare, b)
	} else {
		in.queue = append(in.queue, b)
		in.need = b.Times[len(b.Times)-1]
		heap.Push(&s.ready, in)
	}
	if s.urgent != notWaiting {
		s.toMerge.Signal()
	}
}

// admit returns the plan's next n chunks, which the merge has reached.
func (s *scheduler) admit(n int) []*input {
	s.mu.Lock()
	defer s.mu.Unlock()
	early := min(n, len(s.early))
	reached := slices.Clone(s.early[:early])
	s.early = slices.Delete(s.early, 0, early)
	for _, in := range reached {
		s.bytes -= in.size
	}
	for range n - early {
		in := s.open()
		s.due = append(s.due, in)
		reached = append(reached, in)
	}
	s.toFetch.Broadcast()
	return reached
}

// next takes back old, which was merged, and returns the next batch of in, or
// nil at its end. When there is none yet it calls idle and waits; meanwhile
// everything that is needed up to time t is urgent.
func (s *scheduler) next(in *input, old *batch, t int64, idle func() error) (*batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old != nil {
		s.spare = append(s.spare, old)
	}
	if s.err == nil && len(in.queue) == 0 && !in.done {
		s.mu.Unlock()
		err := idle()
		s.mu.Lock()
		if err != nil {
			return nil, err
		}
		s.urgent = t
		s.toWork.Broadcast()
		for s.err == nil && len(in.queue) == 0 && !in.done {
			s.toMerge.Wait()
		}
		s.urgent = notWaiting
	}
	if s.err != nil || len(in.queue) == 0 {
		return nil, s.err
	}
	b := in.queue[0]
	in.queue = slices.Delete(in.queue, 0, 1)
	s.ahead--
	s.toWork.Signal()
	return b, nil
}

// readyHeap is a heap of inputs by need.
type readyHeap []*input

func (h readyHeap) Len() int { return len(h) }
func (h readyHeap) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[i].need, h[j].need), cmp.Compare(h[i].order, h[j].order)) < 0
}
func (h readyHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *readyHeap) Push(x any)   { *h = append(*h, x.(*input)) }
func (h *readyHeap) Pop() any {
	old := *h
	in := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return in
}
