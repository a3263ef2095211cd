package hub

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
)

const (
	// livePeriod is how long after its last poll an agent counts as alive: three
	// polls of ten seconds.
	livePeriod = 30 * time.Second

	// nodeMemory is how long a node that has gone stays one of "all nodes". A
	// machine that died in an incident is thus named in the snapshot of it; one
	// that was scaled away yesterday does not make every snapshot partial.
	nodeMemory = time.Hour

	// nodeForget is how long a node that has gone stays in lists.
	nodeForget = 7 * 24 * time.Hour

	maxPollWait = 30 * time.Second

	// redeliver is how soon an agent that keeps asking is told again of a task
	// that it does not seem to know: the answer with it may have been lost.
	redeliver = time.Second
)

// node is what the hub knows of a machine. Hub.mu guards it.
type node struct {
	api.Node                      // Live is set when it is shown
	streams  []string             // of which its ring holds chunks, as it says
	wake     chan struct{}        // closed, and made anew, when a poll may have something to answer
	told     map[string]time.Time // tasks answered to the latest polls, and when
}

// poll serves POST /api/v1/agents/{node}/poll.
func (h *Hub) poll(w http.ResponseWriter, r *http.Request) error {
	received := h.now()
	name := r.PathValue("node")
	if err := manifest.CheckNode(name); err != nil {
		return invalid("%v", err)
	}
	var req api.PollRequest
	if err := readJSON(w, r, maxPollBody, false, &req); err != nil {
		return err
	}
	n, err := h.heard(name, &req, received)
	if err != nil {
		return err
	}
	wait := time.NewTimer(min(max(0, time.Duration(req.Wait)), maxPollWait))
	defer wait.Stop()
	answer := api.PollAnswer{Received: manifest.NanosOf(received)}
	for more := true; more; {
		var urgent bool
		var again time.Duration
		var wake <-chan struct{}
		answer.Tasks, answer.Unpin, urgent, again, wake = h.news(n, req.Pins)
		if urgent {
			break
		}
		var soon <-chan time.Time
		if again > 0 {
			t := time.NewTimer(again)
			defer t.Stop()
			soon = t.C
		}
		select {
		case <-wake:
		case <-soon:
		case <-wait.C:
			more = false
			answer.Tasks, answer.Unpin, _, _, _ = h.news(n, req.Pins)
		case <-h.stopping:
			more = false
		case <-r.Context().Done():
			return nil
		}
	}
	h.deliver(n, answer.Tasks)
	answer.Sent = manifest.NanosOf(h.now())
	writeJSON(w, http.StatusOK, answer)
	return nil
}

// maxStreams is more than there are kinds of streams.
const maxStreams = 32

// records tells whether the node holds chunks of a stream. Hub.mu is held.
func (n *node) records(stream string) bool { return slices.Contains(n.streams, stream) }

// maxPollBody bounds a poll: thousands of interfaces fit.
const maxPollBody = 4 << 20

// heard notes what an agent says of itself.
func (h *Hub) heard(name string, req *api.PollRequest, at time.Time) (*node, error) {
	interfaces, plain := sortedStates(req.Interfaces)
	trial := manifest.Node{Name: name, Status: manifest.Completed, Clock: req.Clock, Versions: req.Versions, Interfaces: plain}
	if err := trial.Validate(); err != nil {
		return nil, invalid("%v", err)
	}
	if err := checkWarnings(req.Warnings); err != nil {
		return nil, invalid("node %s: %v", name, err)
	}
	if err := checkClock(req.Clock); err != nil {
		return nil, err
	}
	if len(req.Streams) > maxStreams {
		return nil, invalid("node %s says that it holds %d streams: there are not that many", name, len(req.Streams))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.nodes[name]
	if n == nil {
		if len(h.nodes) >= manifest.MaxNodes {
			return nil, unavailable("the hub knows %d nodes already, which is all it can hold", len(h.nodes))
		}
		n = &node{wake: make(chan struct{}), told: map[string]time.Time{}}
		n.Name = name
		h.nodes[name] = n
		close(h.arrived)
		h.arrived = make(chan struct{})
		h.log.Info("node reports for the first time", "node", name)
	}
	n.LastSeen = at.UTC()
	n.Clock, n.Versions, n.Interfaces, n.Ring, n.streams = req.Clock, req.Versions, interfaces, req.Ring, req.Streams
	n.Warnings = append([]string{}, req.Warnings...)
	return n, nil
}

// sortedStates puts interfaces in the order of manifests, each once, and returns
// them without their states, too. A state that this hub does not know is none.
func sortedStates(list []api.Interface) (states []api.Interface, plain []chunker.Interface) {
	states = append([]api.Interface{}, list...)
	slices.SortStableFunc(states, func(a, b api.Interface) int { return manifest.CompareInterfaces(a.Interface, b.Interface) })
	states = slices.CompactFunc(states, func(a, b api.Interface) bool { return a.Interface == b.Interface })
	plain = []chunker.Interface{}
	for i := range states {
		switch states[i].State {
		case api.InterfaceUp, api.InterfaceDown, api.InterfaceGone:
		default:
			states[i].State = ""
		}
		plain = append(plain, states[i].Interface)
	}
	return states, plain
}

// checkWarnings holds what an agent warns of to its bounds.
func checkWarnings(list []string) error {
	if len(list) > api.MaxWarnings {
		return fmt.Errorf("%d warnings: at most %d", len(list), api.MaxWarnings)
	}
	for _, w := range list {
		if len(w) > api.MaxWarning || w != manifest.Clean(w) {
			return fmt.Errorf("warning %.40q: want at most %d bytes of printable text", w, api.MaxWarning)
		}
	}
	return nil
}

// warnings are what live ones of some nodes warn of now.
func (h *Hub) warnings(names []string) (list []string) {
	for _, n := range h.knownNodes() {
		if !n.Live || !slices.Contains(names, n.Name) {
			continue
		}
		for _, w := range n.Warnings {
			list = append(list, "node "+n.Name+", now: "+w)
		}
	}
	return list
}

// news is what there is to tell a node now, and whether it is urgent. Tasks that
// the agent was told a moment ago are not: it has yet to act on them, and comes
// back for more. They are again after the time given.
func (h *Hub) news(n *node, pins []string) (tasks []api.Task, unpin []string, urgent bool, again time.Duration, wake <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	tasks, unpin = []api.Task{}, []string{}
	carried := false
	for _, s := range h.sessions {
		if !s.awaits(n.Name) {
			continue
		}
		carried = carried || s.req.Carries != ""
		tasks = append(tasks, s.task(n.Name))
		if slices.Contains(pins, s.id) {
			continue
		}
		if left := redeliver - now.Sub(n.told[s.id]); left > 0 {
			if again == 0 || left < again {
				again = left
			}
			continue
		}
		urgent = true
	}
	slices.SortFunc(tasks, func(a, b api.Task) int { return strings.Compare(a.Session, b.Session) })
	// While a session is being carried on here under a new id, its pins under
	// the old one are what keeps the ring from recycling its chunks. And a hub
	// that has just started does not know yet which sessions it will carry on.
	if carried || !h.isReady() {
		return tasks, unpin, urgent, again, n.wake
	}
	for _, p := range pins {
		if s := h.sessions[p]; s == nil || s.over() {
			unpin = append(unpin, p)
		}
	}
	// The agent may have pinned for what it was told after it sent this poll.
	for id := range n.told {
		if s := h.sessions[id]; (s == nil || s.over()) && !slices.Contains(unpin, id) {
			unpin = append(unpin, id)
		}
	}
	slices.Sort(unpin)
	urgent = urgent || len(unpin) > 0
	return tasks, unpin, urgent, again, n.wake
}

// deliver notes what a node is told.
func (h *Hub) deliver(n *node, tasks []api.Task) {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(n.told)
	for _, t := range tasks {
		n.told[t.Session] = h.now()
	}
}

// wakeNodes makes the polls of these nodes look for news. The caller holds h.mu.
func (h *Hub) wakeNodes(names []string) {
	for _, name := range names {
		if n := h.nodes[name]; n != nil {
			close(n.wake)
			n.wake = make(chan struct{})
		}
	}
}

// listNodes serves GET /api/v1/nodes.
func (h *Hub) listNodes(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, h.knownNodes())
	return nil
}

// knownNodes is all nodes that are in lists, by name.
func (h *Hub) knownNodes() []api.Node {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	list := make([]api.Node, 0, len(h.nodes))
	for _, n := range h.nodes {
		shown := n.Node
		shown.Live = now.Sub(n.LastSeen) < livePeriod
		list = append(list, shown)
	}
	slices.SortFunc(list, func(a, b api.Node) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// forgetNodes drops the nodes that have been gone for long.
func (h *Hub) forgetNodes() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, n := range h.nodes {
		if h.now().Sub(n.LastSeen) > nodeForget {
			delete(h.nodes, name)
		}
	}
}

// chooseNodes resolves the nodes of a request: those named, or all that were
// there in the window or a short while ago.
func (h *Hub) chooseNodes(ctx context.Context, named []string, window manifest.Interval) ([]string, error) {
	var known []api.Node
	there := func(seen time.Time) bool {
		return h.now().Sub(seen) <= nodeMemory || !seen.Before(window.From.Time())
	}
	choose := func() (chosen, missing []string) {
		known = h.knownNodes()
		if len(named) > 0 {
			for _, name := range named {
				if slices.ContainsFunc(known, func(n api.Node) bool { return n.Name == name }) {
					chosen = append(chosen, name)
				} else {
					missing = append(missing, name)
				}
			}
			slices.Sort(chosen)
			return slices.Compact(chosen), missing
		}
		for _, n := range known {
			if there(n.LastSeen) {
				chosen = append(chosen, n.Name)
			}
		}
		if len(chosen) > 0 { // else no agent runs, and the error says so
			for name, seen := range h.unheard() {
				if there(seen) {
					chosen = append(chosen, name)
				}
			}
			slices.Sort(chosen)
		}
		return chosen, nil
	}
	if err := h.settle(ctx, named); err != nil {
		return nil, err
	}
	chosen, missing := choose()
	switch {
	case len(missing) > 0 && len(known) == 0:
		return nil, refuse(http.StatusUnprocessableEntity, api.CodeNotRecorded, "no agent has reported to this hub yet, also not that of %s: see whether it runs, and its log", strings.Join(missing, ", "))
	case len(missing) > 0:
		var names []string
		for _, n := range known {
			names = append(names, n.Name)
		}
		return nil, refuse(http.StatusNotFound, api.CodeUnknownNode, "unknown node %s: known are %s", strings.Join(missing, ", "), shortList(names))
	case len(chosen) == 0:
		return nil, refuse(http.StatusUnprocessableEntity, api.CodeNotRecorded, "no agent has reported to this hub, so there is nothing to take a snapshot of: start one with `pcapsule agent`, or use `pcapsule up`")
	}
	return chosen, nil
}

// recorders lists who holds chunks of the stream kubernetes and can be asked for
// them: live nodes, and chosen ones whose part is asked for anyway.
func (h *Hub) recorders(chosen []string) (names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, n := range h.nodes {
		if !n.records(chunker.Kubernetes) {
			continue
		}
		if h.now().Sub(n.LastSeen) < livePeriod || slices.Contains(chosen, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// expected is who a hub that has just started has yet to hear of.
type expected struct {
	nodes    []string // of the newest snapshot
	recorder bool     // one of a cluster, which recorded its stream

	// seen is when nodes of a cluster handed in parts of snapshots, of the time
	// that a hub which had not been started anew would remember. It may have been
	// the death of a node that ended the last hub.
	seen map[string]time.Time
}

// unheard are the nodes that the last hub heard of a while ago, and this one has
// not, with when that was at the latest known.
func (h *Hub) unheard() map[string]time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[string]time.Time{}
	for name, seen := range h.expected.seen {
		if h.nodes[name] == nil {
			out[name] = seen
		}
	}
	return out
}

// expect looks up which nodes a hub that has just started has yet to hear of:
// those of the newest snapshot that agents recorded, and whether one of them
// recorded the stream kubernetes; and those of all snapshots of late.
func (h *Hub) expect(ctx context.Context) {
	all, err := h.archive.List(ctx)
	if err != nil {
		h.log.Warn("cannot see which nodes there were", "error", err)
		return
	}
	next := expected{seen: map[string]time.Time{}}
	defer func() {
		h.mu.Lock()
		h.expected = next
		h.mu.Unlock()
	}()
	for _, s := range slices.Backward(all) {
		if s.Err != nil {
			continue
		}
		created := s.Manifest.Created.Time()
		late := h.cfg.Cluster && h.now().Sub(created) <= nodeMemory
		if !late && len(next.nodes) > 0 {
			return
		}
		var names []string
		for _, n := range s.Manifest.Nodes {
			if n.Versions.Kernel == "" {
				continue // of an import
			}
			names = append(names, n.Name)
			if late && (len(n.Coverage) > 0 || watched(&n)) && next.seen[n.Name].IsZero() {
				next.seen[n.Name] = created
			}
		}
		if len(next.nodes) == 0 && len(names) > 0 {
			next.nodes, next.recorder = names, s.Manifest.Clustered()
		}
	}
}

// settle lets agents find a hub that has just started: those that are named, or
// expected, or at least one; and in a cluster one that has recorded its stream.
// Of a cluster nobody can tell who is yet to come, so all are given their time.
func (h *Hub) settle(ctx context.Context, named []string) error {
	all := h.cfg.Cluster && len(named) == 0
	left := h.cfg.Settle - h.now().Sub(h.began)
	limit := time.NewTimer(left)
	defer limit.Stop()
	for {
		h.mu.Lock()
		want, arrived := h.expected.nodes, h.arrived
		if len(named) > 0 {
			want = named
		}
		here := len(h.nodes) > 0 && !all
		if here && h.expected.recorder {
			here = false
			for _, n := range h.nodes {
				here = here || n.records(chunker.Kubernetes)
			}
		}
		for _, name := range want {
			here = here && h.nodes[name] != nil
		}
		h.mu.Unlock()
		if here || left <= 0 {
			return nil
		}
		select {
		case <-arrived:
		case <-limit.C:
			return nil
		case <-h.stopping:
			return stopping()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// shortList joins names, the first twenty.
func shortList(names []string) string {
	if len(names) > 20 {
		names = append(slices.Clone(names[:20]), "…")
	}
	return strings.Join(names, ", ")
}
