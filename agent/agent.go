// Package agent is the node daemon: it captures what passes the node's
// interfaces into a bounded ring on disk, and when the hub asks for a time
// window, uploads the chunks of it that the store lacks.
//
// What always holds: capture never waits for the hub, the network or an upload.
// The agent holds no credentials of the store and listens on no port; it dials
// the hub, and puts bytes where the hub's grants say. What it hands in for a
// window accounts for all of it: recorded, or a gap with its reason.
//
// A packet's way: packets.Capture (kernel to worker), chunker.Cutter (records to
// chunks), ring.Ring (chunks on disk), and from there, if a session wants it, up.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"pcapsule/agent/kubernetes"
	"pcapsule/agent/packets"
	"pcapsule/agent/ring"
	"pcapsule/agent/targets"
	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
)

// Defaults of Config.
const (
	DefaultRingSize = 1 << 30
	DefaultChunkAge = time.Minute
)

// minRing is the smallest ring that makes sense: some chunks of the least size.
const minRing = 32 << 20

// Config of an agent. Only HubURL, Node and Dir have to be set.
type Config struct {
	HubURL     string           // as api.NewClient takes it
	HubOptions []api.Option     // likewise
	Node       string           // this node's name; see manifest.CheckNode
	Dir        string           // of the ring, which belongs to this agent alone
	RingSize   int64            // bytes of disk, at most; DefaultRingSize when 0
	KeepFree   int64            // bytes of the ring's volume that are left to the store there; none when 0
	RingOwner  string           // whose ring it is, on one line: a release of the chart, say. Another's is refused
	TakeOver   bool             // make another's ring this one's
	Fair       float64          // the share of the ring, up to 1, that an address may have at once and again each hour; no bound when 0
	RingWarn   time.Duration    // warn when the ring reaches back less; never when 0
	Interfaces []string         // to capture on; all when empty
	ChunkAge   time.Duration    // at which a chunk is cut; DefaultChunkAge when 0
	ChunkSize  int64            // stored bytes at which a chunk is cut; chosen to fit the ring when 0
	Workers    int              // that capture; chosen by the number of CPUs when 0
	Exclude    []netip.AddrPort // TCP traffic that is left out, beside that with the hub

	Kubernetes *rest.Config // the API server of the cluster that this node is one of; none when nil
	Lease      string       // namespace/name: says which of the cluster's agents records the stream kubernetes

	Pods          targets.Selection // whose packets are recorded, on a node of a cluster
	Own           *packets.Own      // connections that are not recorded; the agent adds its own. May be nil
	CaptureBuffer int               // bytes of memory in which packets wait; chosen when 0

	NoPromiscuous bool // leave the named interfaces as they are; see packets.Config

	Version string       // of this program
	Logger  *slog.Logger // none when nil

	cluster func(*ring.Ring) clusterSource // in place of agent/kubernetes, in tests

	// OnReady is told once when capture runs, before the hub is dialled.
	OnReady func(Ready)
}

// Ready says what an agent does that has started.
type Ready struct {
	Interfaces []packets.Interface // that are captured on
	Ring       ring.Usage
	ChunkSize  int64
}

// source is where packets come from: a packets.Capture, but in tests.
type source interface {
	Run(context.Context) error
	Cut(context.Context) error
	Stats() packets.Stats
	Interfaces() []packets.Interface
	Close() error
}

func openCapture(cfg packets.Config) (source, error) { return packets.New(cfg) }

// An agent is one run of the daemon.
type agent struct {
	cfg    Config
	log    *slog.Logger
	now    func() time.Time
	ring   *ring.Ring
	rec    *recorder
	named  *interfaces
	source source
	client *api.Client
	pods   *targets.Watcher // nil when this node is of no cluster

	cluster clusterSource // nil when this node is of no cluster
	events  sealMark      // of the stream kubernetes
	clock   clock

	clockSet  atomic.Bool // since the last beat
	overShare atomic.Pointer[overShare]
	work      sessions
	warn      *warnings
	depths    depths // the beat's

	versions manifest.Versions
}

// Check tells whether this process may capture here, and what to do if not.
func Check() error {
	if runtime.GOOS != "linux" {
		return errors.New("capturing works on Linux only; elsewhere, import capture files into a snapshot")
	}
	return mayCapture()
}

// Run captures and serves the hub until the context ends; then everything that
// was captured is sealed in the ring, and it returns nil. It returns an error
// when it cannot start, and when capture fails. A hub that is away is no error.
func Run(ctx context.Context, cfg Config) error {
	if err := Check(); err != nil {
		return err
	}
	return run(ctx, cfg, openCapture, time.Now)
}

func run(ctx context.Context, cfg Config, capture func(packets.Config) (source, error), now func() time.Time) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	options := append(slices.Clone(cfg.HubOptions), api.WithConnections(cfg.Own.DialContext))
	client, err := api.NewClient(cfg.HubURL, options...)
	if err != nil {
		return err
	}
	r, err := ring.Open(cfg.Dir, ring.Options{
		Limit: cfg.RingSize, PartSize: cfg.ChunkSize + partSlack, Now: now, Logger: cfg.Logger,
		KeepFree: cfg.KeepFree,
		Owner:    cfg.RingOwner, TakeOver: cfg.TakeOver,
	})
	if err != nil {
		return cfg.wayOut(err)
	}
	versions := system()
	versions.Agent = manifest.Clean(cfg.Version)
	rec := newRecorder(r, cfg, chunker.Header{Node: cfg.Node, OS: versions.OS, Application: "pcapsule " + cfg.Version}, now)
	a := &agent{cfg: cfg, log: cfg.Logger, now: now, ring: r, rec: rec, client: client, versions: versions, warn: newWarnings()}
	a.named = newInterfaces(r, cfg.Logger, a.warn, now)
	rec.flushes = a.named.noteAll
	captured := packets.Config{
		Interfaces: cfg.Interfaces, NoPromiscuous: cfg.NoPromiscuous, Workers: cfg.Workers, RingSize: cfg.CaptureBuffer,
		Own:  cfg.Own,
		Fair: int64(cfg.Fair * float64(cfg.RingSize)), OnThinned: a.thinned,
		NewConsumer: rec.consumer, OnDrops: rec.drops, OnClockStep: a.stepped, OnNamed: a.named.changed, Logger: cfg.Logger,
	}
	if cfg.Kubernetes == nil { // else capture does not wait for name servers
		captured.Exclude = a.leaveOutHub(ctx)
	}
	if err := a.followPods(&captured); err != nil {
		return errors.Join(err, r.Close())
	}
	a.source, err = capture(captured)
	if err != nil {
		return errors.Join(err, r.Close())
	}
	if err := a.joinCluster(); err != nil {
		return errors.Join(err, a.source.Close(), r.Close())
	}
	began := now().UnixNano()
	r.Begin(chunker.Packets, began)
	r.Capturing(a.selection(), began)
	a.log.Info("capturing", "node", cfg.Node, "ring", cfg.RingSize)
	if cfg.OnReady != nil {
		cfg.OnReady(Ready{Interfaces: a.source.Interfaces(), Ring: r.Usage(), ChunkSize: cfg.ChunkSize})
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := a.source.Run(ctx); err != nil {
			return fmt.Errorf("capture: %w", err)
		}
		end := now().UnixNano()
		a.named.noteAll(end)
		rec.sealedUntil(end)
		return nil
	})
	g.Go(func() error { a.serve(ctx); return nil })
	g.Go(func() error { a.beat(ctx); return nil })
	g.Go(func() error { a.named.run(ctx); return nil })
	if a.pods != nil {
		g.Go(func() error { a.pods.Run(ctx); return nil })
		g.Go(func() error { a.leaveOutHub(ctx); return nil })
		g.Go(func() error { a.logLeftOut(ctx); return nil })
	}
	if a.cluster != nil {
		g.Go(func() error { a.cluster.Run(ctx); return nil })
	}
	err = g.Wait()
	return errors.Join(err, r.Close())
}

// joinCluster makes the agent one that records the stream kubernetes when it is
// this node's turn, if this node is of a cluster.
func (a *agent) joinCluster() error {
	if a.cfg.cluster != nil {
		a.cluster = a.cfg.cluster(a.ring)
		return nil
	}
	if a.cfg.Kubernetes == nil {
		return nil
	}
	r, err := kubernetes.New(kubernetes.Config{
		API: a.cfg.Kubernetes, Node: a.cfg.Node, Lease: a.cfg.Lease,
		Ring: a.ring, Clock: a.clock.at, Now: a.now, Logger: a.log,
	})
	if err != nil {
		return err
	}
	a.cluster = r
	return nil
}

// withDefaults fills in what is not set, and checks the rest.
func (c Config) withDefaults() (Config, error) {
	if err := manifest.CheckNode(c.Node); err != nil {
		return c, err
	}
	if c.Dir == "" {
		return c, errors.New("agent needs a folder for its ring")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Own == nil {
		c.Own = new(packets.Own)
	}
	c.Kubernetes = ownConnections(c.Kubernetes, c.Own, c.Logger)
	c.RingSize = cmp.Or(c.RingSize, DefaultRingSize)
	if c.RingSize < minRing {
		return c, fmt.Errorf("ring of %d bytes is too small: give it at least %d MiB", c.RingSize, minRing>>20)
	}
	c.ChunkAge = cmp.Or(c.ChunkAge, DefaultChunkAge)
	if c.Fair < 0 || c.Fair > 1 || math.IsNaN(c.Fair) {
		return c, fmt.Errorf("share of the ring for each address is %g: want one from 0, for no bound, to 1", c.Fair)
	}
	if c.RingWarn < 0 {
		return c, fmt.Errorf("depth of the ring of %s is negative", c.RingWarn)
	}
	if c.ChunkAge < 0 {
		return c, fmt.Errorf("chunk age of %s is negative", c.ChunkAge)
	}
	// Each worker has an open part, and some wait to be sealed: all of them
	// are to be a small share of the ring.
	most := c.RingSize/32 - partSlack
	c.ChunkSize = min(cmp.Or(c.ChunkSize, chunker.TargetSize), most)
	if c.ChunkSize < 64<<10 {
		return c, fmt.Errorf("chunks of %d bytes are too small: give them at least 64 KiB", c.ChunkSize)
	}
	return c, nil
}

// partSlack is by how much a part may outgrow the size at which it is cut.
const partSlack = 256 << 10

// stepped hears that the node's clock was set.
func (a *agent) stepped(at, delta int64) {
	a.named.stepped(at, delta)
	a.rec.stepped(at, delta)
	if a.cluster != nil {
		a.cluster.Stepped(at, delta)
	}
	a.events.reset()
	a.clock.reset()
	a.clockSet.Store(true)
}
