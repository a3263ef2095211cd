package packets

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// targeting keeps the maps of the filter in step with the network of a node and
// with its targets.
type targeting struct {
	c        *Capture
	requests int           // netlink socket
	stale    chan struct{} // has one when addresses and routes are to be read again

	mu      sync.Mutex
	view    view
	chosen  []int // indexes of the devices to capture on; nil for all
	targets Targets
	warned  string // of the tunnels' ports that there is no room for
}

// newTargeting reads the network of the calling thread's namespace.
func newTargeting(c *Capture, targets Targets) (*targeting, error) {
	t := &targeting{c: c, targets: targets, chosen: c.indexes, requests: -1, stale: make(chan struct{}, 1)}
	var err error
	if t.requests, err = openNetlink(0); err != nil {
		return nil, err
	}
	return t, t.reroute()
}

func (t *targeting) close() {
	if t.requests >= 0 {
		_ = unix.Close(t.requests)
		t.requests = -1
	}
}

// relink follows links that come and go, of which some are to be captured on: all
// when chosen is nil.
func (t *targeting) relink(present []link, chosen []int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.view.links, t.chosen = present, chosen
	t.mark()
	return t.apply()
}

// retarget says whose packets are wanted from now on.
func (t *targeting) retarget(targets Targets) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.targets = targets
	return t.apply()
}

// reroute reads addresses and routes.
func (t *targeting) reroute() error {
	addresses, err := listAddresses(t.requests)
	if err != nil {
		return err
	}
	routes, err := listRoutes(t.requests)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.view.addresses, t.view.routes = addresses, routes
	return t.apply()
}

// mark asks follow to read addresses and routes again.
func (t *targeting) mark() {
	select {
	case t.stale <- struct{}{}:
	default:
	}
}

const (
	// settle is for changes that come together, as when a pod gets its network.
	settle = 20 * time.Millisecond
	// reading the routes of a large router takes a while, and routes may change
	// all the time: it takes no more than this share of a CPU.
	readingShare = 50
)

// follow reads addresses and routes after each change, until the context ends.
func (t *targeting) follow(ctx context.Context) {
	pause := settle
	for {
		select {
		case <-t.stale:
		case <-ctx.Done():
			return
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		select {
		case <-t.stale: // while settling
		default:
		}
		began := time.Now()
		if err := t.reroute(); err != nil {
			t.c.log.Warn("cannot follow the node's network", "error", err)
			t.mark()
			pause = time.Second
			continue
		}
		pause = max(settle, readingShare*time.Since(began))
	}
}

// apply brings the filter in step. The caller holds mu.
func (t *targeting) apply() error {
	t.view.internal = t.targets.NodeAddresses
	p := t.view.plan()
	if ports := fmt.Sprint(p.tooManyPortsFor); len(p.tooManyPortsFor) > 0 && ports != t.warned {
		t.c.log.Warn("more tunnels than the filter can tell apart: what some of them wrap is recorded at uplinks, too", "udp_ports", p.tooManyPortsFor)
		t.warned = ports
	}
	k := t.c.kernel
	addresses := make(map[netip.Addr]uint32, len(p.node)+len(t.targets.Pods))
	for a, pod := range t.targets.Pods {
		flags := uint32(addrPod)
		switch pod {
		case Target:
			flags |= addrTarget
		case Excluded:
			flags |= addrExcluded
		case OwnPod:
			flags |= addrOwn | addrExcluded
		}
		addresses[a.Unmap()] = flags
	}
	for a := range p.node {
		addresses[a.Unmap()] = addrNode
	}
	// Whose an address is goes first, and last what more is recorded of it.
	if err := k.setAddresses(addresses); err != nil {
		return err
	}
	if err := k.setPrefixes(p.pods); err != nil {
		return err
	}
	links := make(map[uint32]filterLink, len(t.view.links))
	for _, l := range t.view.links {
		entry := filterLink{Role: p.roles[l.index]}
		if t.chosen != nil && !slices.Contains(t.chosen, l.index) {
			entry.Role = roleNone
		}
		entry.Ethernet = ethernet(l)
		links[uint32(l.index)] = entry
	}
	if err := k.setLinks(links); err != nil {
		return err
	}
	return k.configure(func(s *filterSettings) {
		s.Selective, s.Node = flag(t.targets.Selective), flag(t.targets.Node)
		s.Edge, s.Wireguard, s.TunnelProtocols = p.edge, flag(p.wireguard), p.protocols
		clear(s.TunnelPorts[:])
		copy(s.TunnelPorts[:], p.ports)
		// A new interface is a pod's nearly always, and which is not known yet.
		s.UnknownRole = rolePod
		if t.targets.Selective || t.chosen != nil {
			s.UnknownRole = roleNone
		}
	})
}

// everything is the filter of a machine in no cluster: all packets of the chosen
// devices, of all when that is nil, but those of own connections.
func (k *kernelFilter) everything(present []link, chosen []int) error {
	links := map[uint32]filterLink{}
	for _, l := range present {
		role := uint8(roleAll)
		switch {
		case chosen != nil && !slices.Contains(chosen, l.index):
			role = roleNone
		case l.flags&unix.IFF_LOOPBACK != 0:
			role = roleLoopback
		}
		links[uint32(l.index)] = filterLink{Role: role, Ethernet: ethernet(l)}
	}
	if err := k.setLinks(links); err != nil {
		return err
	}
	return k.configure(func(s *filterSettings) {
		s.Node = 1
		s.UnknownRole = roleNone
		if chosen == nil {
			s.UnknownRole = roleAll
		}
	})
}

func ethernet(l link) uint8 { return flag(linkType(l.hatype) == linkEthernet) }

func flag(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}
