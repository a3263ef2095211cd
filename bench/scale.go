//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pcapsule/internal/api"
	"pcapsule/manifest"
)

// What a hub may take for a snapshot of a thousand nodes.
const (
	scaleCPU    = 10  // seconds
	scaleMemory = 512 // MiB, at its peak
)

// cluster sizes of scale.
type scaleSize struct {
	nodes      int
	chunks     int // of a node
	interfaces int // of a node: its own, and one a pod
	recorders  int // nodes that have recorded the stream of the cluster, one after the other
	idle       time.Duration
}

// scale lets many agents, simulated in this process and each with connections of
// its own, take part in snapshots of a real hub.
func scale(ctx context.Context, b *bench) (s section, err error) {
	size := scaleSize{nodes: 1000, chunks: 30, interfaces: 30, recorders: 3, idle: 20 * time.Second}
	if b.quick {
		size = scaleSize{nodes: 60, chunks: 5, interfaces: 5, recorders: 2, idle: 2 * time.Second}
	}
	s.intro = fmt.Sprintf(`pcapsule hub with TLS and tokens, which it has a Kubernetes API review, over MinIO. %d agents are simulated
in another process: the same protocol over real sockets, each with connections and a token of its own.
A node has %d chunks in the window and %d interfaces. Chunks are small, since the hub sees none of
their bytes; it looks for each in the store before it is sent and after. MinIO, the agents and the hub
share the processors, so wall times say little of the hub.`, size.nodes, size.chunks, size.interfaces)
	s.columns = []string{"", "wall s", "hub's CPU s", "its peak memory so far, MiB"}

	site, err := startSite(ctx, b)
	if err != nil {
		return s, err
	}
	defer site.stop()
	flock, err := newFlock(site, size)
	if err != nil {
		return s, err
	}
	began, cpu := time.Now(), site.cpu()
	if err := flock.start(ctx); err != nil {
		return s, err
	}
	defer flock.stop()
	row := func(what string) {
		s.rows = append(s.rows, []string{what, fmt.Sprintf("%.1f", time.Since(began).Seconds()), fmt.Sprintf("%.2f", site.cpu()-cpu), fmt.Sprintf("%.0f", site.memory())})
	}
	row("all agents connect")
	began, cpu = time.Now(), site.cpu()
	select {
	case <-time.After(size.idle):
	case <-ctx.Done():
		return s, ctx.Err()
	}
	row(fmt.Sprintf("they poll for %s", size.idle))

	var first, again float64
	for i, what := range []string{"first snapshot: everything is sent", "second: nothing is", "third, of one node"} {
		req := api.CreateRequest{Name: "s" + strconv.Itoa(i), From: flock.from, To: flock.to}
		nodes := size.nodes
		if i == 2 {
			req.Nodes, nodes = []string{flock.agents[0].name}, 1
		}
		began, cpu = time.Now(), site.cpu()
		snap, err := flock.snapshot(ctx, req)
		if err != nil {
			return s, fmt.Errorf("%s: %w", what, err)
		}
		row(what)
		switch i {
		case 0:
			first = site.cpu() - cpu
		case 1:
			again = site.cpu() - cpu
		}
		if want := uint64(nodes * size.chunks * chunkPackets); snap.Status != manifest.Completed || snap.Records != want || len(snap.Nodes) != nodes {
			return s, fmt.Errorf("%s: it is %s with %d packets of %d nodes, want %d of %d: %v", what, snap.Status, snap.Records, len(snap.Nodes), want, nodes, snap.Reasons)
		}
		if len(snap.Warnings) > 0 {
			return s, fmt.Errorf("%s: %s", what, snap.Warnings)
		}
	}
	s.notes = []string{fmt.Sprintf("The agents made %d requests of the hub in all, and %d uploads.", flock.requests.Load(), flock.uploads.Load())}
	s.aims = []aim{
		atMost(fmt.Sprintf("first snapshot of %d nodes: CPU seconds of the hub", size.nodes), first, scaleCPU),
		atMost(fmt.Sprintf("second snapshot of %d nodes: CPU seconds of the hub", size.nodes), again, scaleCPU),
		atMost(fmt.Sprintf("snapshots of %d nodes: MiB of memory of the hub, at its peak", size.nodes), site.memory(), scaleMemory),
	}
	return s, site.alive()
}

// A site is a hub and what it needs: a store, and somebody to ask whose tokens
// are.
type site struct {
	dir string
	url string
	ca  []byte // that vouches for the hub

	hub     *exec.Cmd
	said    lockedBuffer
	ended   chan struct{}
	stopped []func()
}

// stop ends what was started, the last first.
func (s *site) stop() {
	for i := len(s.stopped) - 1; i >= 0; i-- {
		s.stopped[i]()
	}
}

func startSite(ctx context.Context, b *bench) (s *site, err error) {
	s = &site{ended: make(chan struct{})}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	if s.dir, err = os.MkdirTemp(b.work, "scale"); err != nil {
		return nil, err
	}
	s.stopped = append(s.stopped, func() { os.RemoveAll(s.dir) })
	env, err := s.startMinIO(ctx)
	if err != nil {
		return nil, err
	}
	kubeconfig, err := s.startReviewer()
	if err != nil {
		return nil, err
	}
	cert, key, err := s.makeCertificate(net.IPv4(127, 0, 0, 1))
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	s.url = "https://" + addr
	s.hub = exec.CommandContext(ctx, b.pcapsule, "hub", "--listen", addr, "--data-dir", filepath.Join(s.dir, "hub"), "--store", "s3://"+benchBucket+"/pcapsule",
		"--tls-cert", cert, "--tls-key", key, "--auth", "kubernetes", "--agent-account", "pcapsule/pcapsule-agent", "--hub-namespace", "pcapsule")
	s.hub.Env = append(append(os.Environ(), env...), "KUBECONFIG="+kubeconfig)
	s.hub.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	s.hub.Stdout, s.hub.Stderr = &s.said, &s.said
	if err := s.hub.Start(); err != nil {
		return nil, err
	}
	go func() { _ = s.hub.Wait(); close(s.ended) }()
	s.stopped = append(s.stopped, func() {
		_ = s.hub.Process.Signal(unix.SIGTERM)
		<-s.ended
	})
	client, err := s.client("operator")
	if err != nil {
		return nil, err
	}
	_, err = client.Hub(api.Patiently(ctx, time.Minute))
	if err != nil {
		return nil, errors.Join(err, s.alive())
	}
	return s, nil
}

// client is one with connections of its own, and a token that the reviewer knows.
func (s *site) client(token string) (*api.Client, error) {
	return api.NewClient(s.url, api.WithCACertificates(s.ca), api.WithToken(func(context.Context) (string, error) { return token, nil }))
}

// alive tells whether the hub is still there, or what it said.
func (s *site) alive() error {
	select {
	case <-s.ended:
		return fmt.Errorf("the hub has ended: %s", s.said.String())
	default:
		return nil
	}
}

// cpu is how many seconds of processors the hub has used.
func (s *site) cpu() float64 { return cpuOf(s.hub.Process.Pid) }

// memory is the most that the hub has had so far, in MiB.
func (s *site) memory() float64 { return memoryOf(s.hub.Process.Pid, "VmHWM") }

// lockedBuffer keeps what a process says.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() < 1<<20 {
		l.b.Write(p)
	}
	return len(p), nil
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
