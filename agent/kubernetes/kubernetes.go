// Package kubernetes records the stream kubernetes: what there is in a cluster,
// and what changes, into the agent's ring. The records are those of the package
// cluster.
//
// One agent of a cluster does that at a time. A Lease says which; the others
// read it now and then, and keep nothing. The one that records lists what there
// is and watches what changes, keeps of each object what stands in a record, and
// writes chunks that each open with all of it.
//
// What always holds: the recorder knows when it has missed something, or may
// have, and says so in the stream and in the ring's ledger. It never waits in the
// way of packets. It asks for no Secrets and no ConfigMaps, and what it does ask
// for it reduces before anything is kept: no environment, no arguments, no
// annotations.
//
// What it costs: see the comment on the Lease for requests. A keyframe of 1,000
// pods, with 400 workloads, 100 services and 40 nodes, is 2 MB, 245 kB stored.
//
// A change's way: source (API server to object), term (what is known, and until
// when), chunks (records in chunks, or a gap), ring.
package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"

	"pcapsule/agent/ring"
	"pcapsule/cluster"
	"pcapsule/manifest"
)

// DefaultMaxAge is the age at which a chunk is cut.
const DefaultMaxAge = 10 * time.Minute

// Config of a Recorder. Only MaxAge, Now and Logger may be missing.
type Config struct {
	API    *rest.Config                   // how to reach the API server
	Node   string                         // this node's name, by which the Lease names it; no two agents have the same
	Lease  string                         // namespace/name
	Ring   *ring.Ring                     // where chunks go
	Clock  func(now int64) manifest.Clock // this node's clock against the hub's
	MaxAge time.Duration                  // at which a chunk is cut; DefaultMaxAge when 0
	Now    func() time.Time
	Logger *slog.Logger
}

// A Recorder takes part in the election, and records while it is elected. Its
// methods may be called at any time, concurrently.
type Recorder struct {
	cfg    Config
	lease  leaseName
	client rest.Interface
	nodes  atomic.Int64

	mu   sync.Mutex
	term *running // nil while another agent records
}

// running is a term as others see it.
type running struct {
	requests chan request
	ended    chan struct{} // closed when its chunk is on its way into the ring
}

// ParseLease splits the name of a Lease, as in monitoring/pcapsule.
func ParseLease(s string) (namespace, name string, err error) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok || len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return "", "", fmt.Errorf("lease %.80q: want NAMESPACE/NAME", s)
	}
	return namespace, name, nil
}

// New checks what it is given. It does not connect.
func New(cfg Config) (*Recorder, error) {
	cfg.MaxAge = cmp.Or(cfg.MaxAge, DefaultMaxAge)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.API == nil || cfg.Ring == nil || cfg.Clock == nil || cfg.Node == "" {
		return nil, errors.New("recording the stream kubernetes needs an API server, a ring, a clock and a node's name")
	}
	namespace, name, err := ParseLease(cfg.Lease)
	if err != nil {
		return nil, err
	}
	client, err := newClient(cfg.API)
	if err != nil {
		return nil, err
	}
	return &Recorder{cfg: cfg, lease: leaseName{namespace, name}, client: client}, nil
}

// Run takes part in the election until the context ends; then what was recorded is
// on its way into the ring, and the Lease is given back. An API server that does
// not answer is asked again and again.
func (r *Recorder) Run(ctx context.Context) {
	e := elector{client: r.client, log: r.cfg.Logger, now: r.cfg.Now, name: r.lease, node: r.cfg.Node, nodes: r.nodes.Load}
	until := int64(0) // everything before is recorded
	e.run(ctx, func(ctx context.Context, kept bool) {
		if !kept {
			until = 0
		}
		until = max(until, r.lead(ctx, until))
	})
}

// lead records until the context ends; since is the time from which on it was not
// recorded by anyone, 0 when that is not known. It returns the time up to which
// everything is recorded.
func (r *Recorder) lead(ctx context.Context, since int64) int64 {
	run := &running{requests: make(chan request, 64), ended: make(chan struct{})}
	views := newViews()
	t := &term{
		log: r.cfg.Logger, now: r.cfg.Now, client: r.client, maxAge: r.cfg.MaxAge, nodes: &r.nodes, requests: run.requests, since: since,
		views: views,
		chunks: &chunks{ring: r.cfg.Ring, views: views, keyframe: func() *cluster.Keyframe {
			return views.keyframe(r.cfg.Node, r.cfg.Clock(r.cfg.Now().UnixNano()))
		}},
	}
	r.setTerm(run)
	defer func() {
		r.setTerm(nil)
		close(run.ended)
		r.nodes.Store(0)
	}()
	return t.run(ctx)
}

func (r *Recorder) setTerm(t *running) {
	r.mu.Lock()
	r.term = t
	r.mu.Unlock()
}

func (r *Recorder) current() *running {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.term
}

// Recording tells whether this agent is the one that records.
func (r *Recorder) Recording() bool { return r.current() != nil }

// Cut ends the open chunk, and begins the next: what was recorded until now is
// then on its way into the ring, whose Drain waits for it, and the ring's ledger
// knows. While another agent records there is nothing to do.
func (r *Recorder) Cut(ctx context.Context) error {
	t := r.current()
	if t == nil {
		return nil
	}
	done := make(chan struct{})
	select {
	case t.requests <- request{cut: done}:
	case <-t.ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-done:
	case <-t.ended:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// Stepped hears that the node's clock was set: it jumped by delta nanoseconds and
// is now at.
func (r *Recorder) Stepped(at, delta int64) {
	t := r.current()
	if t == nil {
		return
	}
	select {
	case t.requests <- request{step: true, at: at, delta: delta}:
	case <-t.ended:
	}
}
