// Package hub makes snapshots of what agents have recorded, and serves them.
//
// A Hub is stateless over its store: sessions are announced there by an intent
// before anything else is done, and a hub that starts carries on what its
// predecessor left. What it holds in memory, such as the nodes it has heard of,
// comes back by itself. Agents dial the hub and wait (poll); the hub dials
// nobody. It handles metadata only; chunks go from agents to the store, through
// the hub just where the store has no server of its own.
//
// Who may do what, Config.Authorise says, which all requests pass: on one machine
// by a token in a file (cmd/pcapsule), in a cluster by the API server (package
// kubeauth). What web pages make a browser send is refused in any case.
package hub

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"pcapsule/archive"
	"pcapsule/manifest"
	"pcapsule/store"
)

// Config is what a hub needs.
type Config struct {
	Store   store.Store
	Signer  *manifest.Signer // of the manifests; also tells a hub which sessions its predecessor left
	Trust   *manifest.Trust  // whose snapshots it serves beside its own; its predecessors' first of all
	Version string           // of this program
	Logger  *slog.Logger
	Now     func() time.Time // time.Now when nil

	// Hosts are the names, beside "localhost" and IP addresses, by which clients
	// may address the hub.
	Hosts []string

	// Authorise tells who sends a request to a route that needs a role, and
	// whether they may: nil, or the error to answer, an *api.Error; whom it has
	// recognised it names in either case. For an Agent the hub checks that the
	// route is of its node. Without Authorise everybody who can connect may do
	// everything.
	Authorise func(*http.Request, Role) (*Identity, error)

	Audit *slog.Logger // of who did what; Logger when nil

	// Certificate is the hub's now, for TLS. Without it the hub serves plain HTTP.
	Certificate func() *tls.Certificate

	// Local is the certificate by which clients on this machine know the hub, for
	// api.LocalName. They speak TLS to it at the same port; without Certificate
	// others speak plain HTTP there.
	Local *tls.Certificate

	// Cluster says that agents come from the nodes of a cluster. A hub that has
	// just started does not know how many they are: it waits for Settle before it
	// takes those it has heard of for all.
	Cluster bool

	// NodeGone tells whether a machine that is silent has left the cluster: whether it
	// is no node of it any more. None is asked about without it.
	NodeGone func(ctx context.Context, node string) (bool, error)

	FirstAnswer    time.Duration // how long a node has to answer at all; 30 s when 0
	SessionTimeout time.Duration // how long a node may make no progress; 2 min when 0
	SessionLimit   time.Duration // how long a session may take in all; 6 h when 0
	Settle         time.Duration // how long after its start the hub waits for agents that it expects; 25 s when 0, which is more than agents pause
}

// keepEnded is how long a session that has ended can be asked about in memory.
// The store knows of the successful and the superseded for ever.
const keepEnded = 15 * time.Minute

// A Hub serves one store. Run must be running for anything to be made.
type Hub struct {
	cfg      Config
	log      *slog.Logger
	archive  *archive.Archive
	metrics  *metrics
	refusals refusals
	owner    string // of this process's intents: ownerKey and a random number

	signers, signersSig string // what api.Hub has of them
	began               time.Time

	turns    chan struct{} // a place for each agent's request that may be asking the store
	ready    chan struct{} // closed when predecessors' sessions are taken over
	stopping chan struct{} // closed when Run ends

	mu       sync.Mutex
	nodes    map[string]*node
	expected expected            // who will report again, to a hub that has just started
	arrived  chan struct{}       // closed, and made anew, when a node reports for the first time
	sessions map[string]*session // by id; ended ones stay for keepEnded
	awaited  map[string]int      // sweeps under way that wait for a session, by its id
	strays   string              // what the log has of what is in no list
	watching bool                // some goroutine looks whether sessions were ended in the store
	watched  time.Time           // when that last began
	ctx      context.Context     // of work that outlives its request; set by Run
	stopped  bool
	work     sync.WaitGroup
}

// New makes a hub. It does nothing yet.
func New(cfg Config) (*Hub, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("hub: no store")
	case cfg.Signer == nil:
		return nil, errors.New("hub: no signing key")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Audit == nil {
		cfg.Audit = cfg.Logger
	}
	for _, d := range []struct {
		d        *time.Duration
		fallback time.Duration
	}{
		{&cfg.FirstAnswer, 30 * time.Second},
		{&cfg.SessionTimeout, 2 * time.Minute},
		{&cfg.SessionLimit, 6 * time.Hour},
		{&cfg.Settle, 25 * time.Second},
	} {
		if *d.d == 0 {
			*d.d = d.fallback
		}
	}
	trust, signers, signersSig, err := servedKeys(cfg)
	if err != nil {
		return nil, err
	}
	var nonce [8]byte
	rand.Read(nonce[:])
	h := &Hub{
		cfg:      cfg,
		log:      cfg.Logger,
		archive:  archive.New(cfg.Store).Trusting(trust),
		began:    cfg.Now(),
		turns:    make(chan struct{}, storeTurns),
		ready:    make(chan struct{}),
		stopping: make(chan struct{}),
		nodes:    map[string]*node{},
		arrived:  make(chan struct{}),
		sessions: map[string]*session{},
		awaited:  map[string]int{},

		signers: signers, signersSig: signersSig,
	}
	h.owner = h.ownerKey() + "/" + hex.EncodeToString(nonce[:])
	h.metrics = newMetrics(h)
	return h, nil
}

// servedKeys are the hub's own key and those that it was told to trust; of the
// latter also what it says of them to clients.
func servedKeys(cfg Config) (trust *manifest.Trust, signers, sig string, err error) {
	trust = new(manifest.Trust)
	own := cfg.Signer.Public()
	trust.Add(own)
	if cfg.Trust == nil {
		return trust, "", "", nil
	}
	trust.Join(cfg.Trust)
	for _, line := range cfg.Trust.Lines() {
		signers += line + "\n"
	}
	if signers == "" {
		return trust, "", "", nil
	}
	b, err := cfg.Signer.Sign([]byte(signers))
	return trust, signers, string(b), err
}

// ownerKey is how the intents of all hubs with this key begin.
func (h *Hub) ownerKey() string { return h.cfg.Signer.Public().Fingerprint() }

func (h *Hub) now() time.Time { return h.cfg.Now() }

// Run takes over what predecessors left, then watches over deadlines, until ctx
// ends. Sessions that are under way then are carried on by the next hub. It is
// called once.
func (h *Hub) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	h.mu.Lock()
	h.ctx = ctx
	h.mu.Unlock()
	defer h.work.Wait()
	defer func() {
		h.mu.Lock()
		h.stopped = true
		h.mu.Unlock()
		cancel()
		close(h.stopping)
	}()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := h.takeOver(ctx)
		if err == nil {
			break
		}
		if errors.Is(err, archive.ErrRequires) {
			h.log.Warn("this hub only serves what is there, and makes and deletes nothing", "error", err)
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		h.log.Warn("cannot see yet what an earlier hub left", "error", err)
		if !pauseFor(ctx, pause) {
			return nil
		}
	}
	h.expect(ctx)
	close(h.ready)
	tick := time.NewTicker(tickPeriod)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.tick() //nolint:contextcheck // background has it
		case <-ctx.Done():
			return nil
		}
	}
}

// tickPeriod is how exactly deadlines are kept.
const tickPeriod = time.Second

// tick does what is due.
func (h *Hub) tick() {
	h.expireSessions(h.now())
	h.watchSessions(h.now())
	h.forgetNodes()
}

// pauseFor waits, and tells whether it did so to the end.
func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// background does work that outlives the request it came with, until Run ends.
func (h *Hub) background(work func(ctx context.Context)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped || h.ctx == nil {
		return // the next hub does it
	}
	ctx := h.ctx
	h.work.Go(func() { work(ctx) })
}

func (h *Hub) isReady() bool {
	select {
	case <-h.ready:
		return true
	default:
		return false
	}
}

// awaitReady waits until predecessors' sessions are taken over, for a few
// seconds.
func (h *Hub) awaitReady(ctx context.Context) error {
	if h.isReady() {
		return nil
	}
	t := time.NewTimer(5 * time.Second)
	defer t.Stop()
	select {
	case <-h.ready:
		return nil
	case <-t.C:
		return unavailable("the hub is still looking at what an earlier one left in the store: try again, and see its log if this lasts")
	case <-h.stopping:
		return stopping()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Serve runs the hub and serves its API on l, until ctx ends. Streams to clients
// get a moment to end, then they are broken off.
func (h *Hub) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := &http.Server{
		Handler:           h.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(h.log.Handler(), slog.LevelDebug),
		// No WriteTimeout: polls wait and exports are long. Each handler bounds
		// what it waits for.
	}
	ran := make(chan error, 1)
	go func() { ran <- h.Run(ctx) }()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(h.secured(l)) }()
	select {
	case err := <-served:
		cancel()
		return errors.Join(fmt.Errorf("serve %s: %w", l.Addr(), err), <-ran)
	case <-ctx.Done():
	}
	err := <-ran // also ends the polls
	last, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	if srv.Shutdown(last) != nil {
		err = errors.Join(err, srv.Close())
	}
	if end := <-served; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, end)
	}
	return err
}
