package packets

// What a capture takes in: the filter of its sockets, and which interfaces are
// listened to, as they come and go.

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// loadFilter brings the eBPF filter into the kernel. Where that is not possible,
// classic BPF does for a machine that is in no cluster.
func (c *Capture) loadFilter() (err error) {
	if c.cfg.classic {
		err = ErrNoBPF
	} else {
		c.kernel, err = newKernelFilter()
	}
	switch {
	case err == nil:
	case c.cfg.Cluster != nil:
		return err
	default:
		c.log.Info("capturing without eBPF: own traffic is left out by its address alone", "error", err)
	}
	return nil
}

// prepare fills the maps of the eBPF filter, before it is attached. The caller
// holds links.mu.
func (c *Capture) prepare() (err error) {
	if c.kernel == nil {
		return nil
	}
	c.unown = c.cfg.Own.follow(func(e End, on bool) {
		if err := c.kernel.leaveOut(e, on); err != nil {
			c.log.Warn("cannot leave out own traffic", "end", e.Addr, "error", err)
		}
	})
	if c.cfg.Cluster != nil {
		if c.targets, err = newTargeting(c, *c.cfg.Cluster); err != nil {
			return err
		}
	}
	return c.relink(c.links.table())
}

// attach gives every socket the filter for the present interfaces. The caller
// holds links.mu.
func (c *Capture) attach() error {
	if c.kernel != nil {
		for _, w := range c.workers {
			if err := c.kernel.attach(w.ring); err != nil {
				return err
			}
		}
		return nil
	}
	program, err := Filter{Indexes: c.indexes, Exclude: c.cfg.Exclude}.Program()
	if err != nil {
		return err
	}
	for _, w := range c.workers {
		if err := w.ring.attach(program); err != nil {
			return err
		}
	}
	return nil
}

// checkInterfaces tells of names that no interface has.
func (c *Capture) checkInterfaces() error {
	there := c.links.table().present()
	for _, name := range c.cfg.Interfaces {
		if !slices.ContainsFunc(there, func(l link) bool { return l.name == name }) {
			var names []string
			for _, l := range there {
				names = append(names, l.name)
			}
			return fmt.Errorf("%w: %s (there are %s)", ErrNoInterface, name, strings.Join(names, ", "))
		}
	}
	return nil
}

// choose finds the devices to capture on among the present ones: c.indexes is nil
// when all are. It tells whether what was named has changed. The caller holds
// links.mu.
func (c *Capture) choose(t *table) (changed bool) {
	if !c.named.any() {
		return false
	}
	changed = c.named.update(t.present())
	c.indexes = c.named.indexes()
	return changed
}

// tellNamed tells what became of the named interfaces. The caller holds links.mu.
func (c *Capture) tellNamed() {
	if c.cfg.OnNamed != nil && c.named.any() {
		c.cfg.OnNamed(c.now(), slices.Clone(c.named.list))
	}
}

// relink tells the eBPF filter which interfaces there are. The caller holds
// links.mu.
func (c *Capture) relink(t *table) error {
	switch {
	case c.kernel == nil:
		return nil
	case c.targets != nil:
		return c.targets.relink(t.present(), c.indexes)
	}
	return c.kernel.everything(t.present(), c.indexes)
}

// refilter follows interfaces that come and go. The caller holds links.mu.
func (c *Capture) refilter(t *table) {
	old := c.indexes
	changed := c.choose(t)
	err := c.relink(t)
	if c.kernel == nil && !slices.Equal(old, c.indexes) {
		err = c.attach()
	}
	if err != nil {
		c.log.Error("cannot follow changed network interfaces", "error", err)
	}
	c.listen()
	if changed && c.running.Load() {
		c.tellNamed()
	}
}

// listen makes the named interfaces promiscuous, and those no more that are none
// of them now. The kernel ends it for an interface that goes away, and for all
// with the socket. The caller holds links.mu.
func (c *Capture) listen() {
	if c.cfg.NoPromiscuous || len(c.cfg.Interfaces) == 0 {
		return
	}
	r := c.workers[0].ring // one socket does for all
	for i, times := range c.heard {
		if !slices.Contains(c.indexes, i) {
			for range times {
				_ = r.promiscuous(i, false) // fails for one that is away
			}
			delete(c.heard, i)
		}
	}
	for _, i := range c.indexes {
		// Also what is promiscuous already: it may have been away and come back
		// under the same index before that was noticed. The kernel counts.
		err := r.promiscuous(i, true)
		switch {
		case err == nil:
			c.heard[i]++
		case errors.Is(err, unix.ENODEV): // away again
		default:
			c.log.Warn("cannot make an interface promiscuous: frames for other stations are not captured on it", "index", i, "error", err)
		}
	}
}

// SetTargets says whose packets are recorded from its return on. It is for a
// capture with Config.Cluster.
func (c *Capture) SetTargets(targets Targets) error {
	if c.targets == nil {
		return errors.New("capture: set targets of a machine that is in no cluster")
	}
	return c.targets.retarget(targets)
}
