package hub

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"pcapsule/manifest"
)

const (
	// goneTimeout is how long a snapshot waits for the answer whether silent nodes
	// have left the cluster. Without an answer they count as before.
	goneTimeout = 3 * time.Second

	// goneAtOnce is about how many nodes it is asked at once.
	goneAtOnce = 16
)

// leaveOutGone looks which of the nodes that do not report have left the cluster.
// One that had gone before the window is no node of the snapshot, unless it was
// named. Of one that was there in the window packets are lost with it: it stays,
// and is returned as gone, too, so that nobody waits for it.
func (h *Hub) leaveOutGone(ctx context.Context, nodes []string, named bool, window manifest.Interval) (left, gone []string) {
	if h.cfg.NodeGone == nil {
		return nodes, nil
	}
	seen := h.unheard()
	silent := slices.Clone(nodes)
	for _, n := range h.knownNodes() {
		seen[n.Name] = n.LastSeen
		if n.Live {
			silent = slices.DeleteFunc(silent, func(name string) bool { return name == n.Name })
		}
	}
	ctx, cancel := context.WithTimeout(ctx, goneTimeout)
	defer cancel()
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(goneAtOnce)
	for _, name := range silent {
		group.Go(func() error {
			is, err := h.cfg.NodeGone(ctx, name)
			if err != nil {
				h.log.Warn("cannot see whether a silent node has left the cluster: it is waited for", "node", name, "error", err)
			} else if is {
				mu.Lock()
				defer mu.Unlock()
				gone = append(gone, name)
			}
			return nil
		})
	}
	_ = group.Wait() // none fails
	slices.Sort(gone)
	if named || len(gone) == len(nodes) { // whoever named it wants to hear of it, and so does who has nothing else
		return nodes, gone
	}
	before := func(name string) bool {
		return slices.Contains(gone, name) && seen[name].Before(window.From.Time())
	}
	left = slices.DeleteFunc(slices.Clone(nodes), before)
	return left, slices.DeleteFunc(gone, before)
}
