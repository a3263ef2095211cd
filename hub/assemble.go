package hub

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store"
)

// coverageSlop is how much of a window may be missing at its ends without a
// reason: agents cut it to the last packet flushed.
const coverageSlop = time.Second

func sortedInterfaces(list []chunker.Interface) []chunker.Interface {
	list = slices.Clone(list)
	slices.SortFunc(list, manifest.CompareInterfaces)
	return slices.Compact(list)
}

// judge decides a node's status and says why. An agent may find its own part
// partial; it may not call complete what its own gaps contradict, nor leave
// time unaccounted for.
func judge(n *manifest.Node, req request, words api.Words) {
	window := n.Clock.Window(req.Window)
	if req.Import {
		window = everything
	} else {
		n.Coverage, n.Capture = clip(n.Coverage, window), manifest.ClipCaptures(n.Capture, window)
		n.Gaps = slices.Clone(n.Gaps)
		slop := manifest.Nanos(coverageSlop) + n.Clock.Error
		for _, m := range n.Unexplained(window) {
			if m.To-m.From <= slop {
				continue
			}
			n.Gaps = append(n.Gaps, manifest.Gap{
				Stream: chunker.Packets, Reason: manifest.GapNotRunning, From: m.From, To: m.To,
				Detail: "the agent does not say why",
			})
		}
		slices.SortStableFunc(n.Gaps, func(a, b manifest.Gap) int { return cmp.Compare(a.From, b.From) })
	}
	reasons, _ := api.Explain(n.Gaps, window, words)
	if n.Status == manifest.Partial && len(reasons) == 0 {
		reasons = n.Reasons
	}
	n.Status, n.Reasons = manifest.Completed, nil
	for _, r := range reasons {
		n.Status = manifest.Partial
		n.Reasons = append(n.Reasons, manifest.Clean(r))
	}
}

// everything is the window of what has none.
var everything = manifest.Interval{From: -1 << 63, To: 1<<63 - 1}

// clip cuts coverage to a window.
func clip(coverage []manifest.Interval, window manifest.Interval) []manifest.Interval {
	var in []manifest.Interval
	for _, c := range coverage {
		c.From, c.To = max(c.From, window.From), min(c.To, window.To)
		if c.From < c.To {
			in = append(in, c)
		}
	}
	return in
}

// assemble makes the manifest of a session whose parts are all settled, or says
// why there will be none. The same parts make the same manifest. It lacks the
// stream of the cluster, for which the chunks are returned: putCluster adds it.
func (h *Hub) assemble(s *session) (*manifest.Manifest, []manifest.Entry, *api.Error) {
	clocks := map[string]api.Node{}
	for _, n := range h.knownNodes() {
		clocks[n.Name] = n
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &manifest.Manifest{
		Format: manifest.Format, Version: manifest.Version,
		ID: s.id, Name: s.name, Created: manifest.NanosOf(s.created), Window: s.req.Window,
		Status:  manifest.Completed,
		Creator: manifest.Tool{Name: "pcapsule", Version: h.cfg.Version},
	}
	answered, covered := 0, false
	troubles := map[string]*api.Error{}
	for _, name := range s.req.Nodes {
		if n := s.parts[name].node; n != nil {
			answered++
			covered = covered || len(n.Coverage) > 0 || records(n) > 0 || watched(n)
			m.Nodes = append(m.Nodes, *n)
		} else {
			trouble := cmp.Or(s.parts[name].progress.Error, s.parts[name].refused)
			if trouble != nil {
				troubles[name] = trouble
			}
			n := unreachable(name, clocks[name], s.req.Window, trouble)
			if slices.Contains(s.req.Gone, name) {
				n = unreachable(name, clocks[name], s.req.Window, &api.Error{Code: codeGone})
			}
			m.Nodes = append(m.Nodes, n)
		}
	}
	for _, name := range makeRoom(m, clocks, s.req.Window) {
		h.log.Warn("the part of a node is left out: it takes too much of the manifest", "session", s.id, "node", name)
	}
	m.SumUp()
	cluster := s.cluster(m)
	switch {
	case s.req.Import && answered < len(s.req.Nodes):
		why := fmt.Sprintf("its client gave no sign of life for %s", h.cfg.SessionTimeout)
		if h.now().After(s.deadline) {
			why = fmt.Sprintf("it took longer than %s", h.cfg.SessionLimit)
		}
		return nil, nil, refuse(http.StatusGatewayTimeout, api.CodeUnreachable, "the import of %s was ended: %s: start it again; what was sent already is not sent twice", s.name, why)
	case s.req.Import && m.Totals.Records == 0:
		return nil, nil, refuse(http.StatusUnprocessableEntity, api.CodeNotRecorded, "there are no packets in what was imported")
	case s.req.Import:
		m.Window = span(m.Nodes)
		for i := range m.Nodes {
			m.Nodes[i].NotImported(m.Window)
		}
	case answered == 0 && len(troubles) > 0:
		return nil, nil, h.blocked(troubles)
	case answered == 0:
		return nil, nil, refuse(http.StatusGatewayTimeout, api.CodeUnreachable, "no node answered in time (%s): see whether their agents run, and their logs", shortList(s.req.Nodes))
	case !covered:
		return nil, nil, refuse(http.StatusUnprocessableEntity, api.CodeNotRecorded, "nothing of %s was recorded: %s", api.Span(s.req.Window), holds(s.req.Nodes, clocks))
	}
	for _, n := range m.Nodes {
		for _, r := range n.Reasons {
			m.Status = manifest.Partial
			m.Reasons = append(m.Reasons, manifest.Clean("node "+n.Name+": "+r))
		}
	}
	return m, cluster, nil
}

// maxRoom is how much of a manifest its nodes may take up.
const maxRoom = 0.95

// makeRoom takes the largest parts out of a manifest that nobody could read: one
// node must not be the end of a snapshot of all. It returns their names.
func makeRoom(m *manifest.Manifest, known map[string]api.Node, window manifest.Interval) (out []string) {
	rooms := make([]float64, len(m.Nodes))
	bySize := make([]int, len(m.Nodes))
	taken := 0.0
	for i := range m.Nodes {
		rooms[i], bySize[i] = m.Nodes[i].Room(), i
		taken += rooms[i]
	}
	slices.SortStableFunc(bySize, func(a, b int) int { return cmp.Compare(rooms[b], rooms[a]) })
	for _, i := range bySize {
		if taken <= maxRoom {
			break
		}
		n := &m.Nodes[i]
		*n = unreachable(n.Name, known[n.Name], window, &api.Error{Message: fmt.Sprintf(
			"it takes up %.0f %% of a manifest, which has no room for that: choose a shorter window, or fewer nodes", 100*rooms[i])})
		taken -= rooms[i]
		out = append(out, n.Name)
	}
	return out
}

// cluster gives m its account of the stream of the cluster, if there is one, and
// returns the stream's chunks. The caller holds s.mu.
func (s *session) cluster(m *manifest.Manifest) []manifest.Entry {
	var recordings []*recording
	var vain []string
	for _, name := range s.req.asked() {
		switch p := s.parts[name]; {
		case p.cluster != nil:
			recordings = append(recordings, p.cluster)
		case p.node == nil && slices.Contains(s.req.Recorders, name):
			vain = append(vain, name)
		}
	}
	if len(recordings)+len(vain) == 0 {
		return nil // there is no cluster
	}
	slices.Sort(vain)
	a := accountFor(m.Window, recordings, vain)
	m.Coverage, m.Gaps = a.coverage, a.gaps
	return mergeRecordings(recordings)
}

// watched tells whether an agent ran and could record nothing, since what it was
// to record was not there: a snapshot of that is an answer.
func watched(n *manifest.Node) bool {
	return len(manifest.Dark(n.Capture, n.Gaps)) > 0
}

func records(n *manifest.Node) (sum uint64) {
	for _, s := range n.Streams {
		sum += s.Records
	}
	return sum
}

// blocked says why no node could hand in its part: by the worst that one told.
func (h *Hub) blocked(troubles map[string]*api.Error) *api.Error {
	for _, name := range slices.Sorted(maps.Keys(troubles)) {
		if troubles[name].Code == api.CodeNoSpace {
			return h.noSpace()
		}
	}
	name := slices.Min(slices.Collect(maps.Keys(troubles)))
	line := fmt.Sprintf("node %s: %s", name, troubles[name].Message)
	if n := len(troubles) - 1; n > 0 {
		line += fmt.Sprintf(" (and %d nodes more)", n)
	}
	if troubles[name].Code == api.CodeForbidden {
		line += ": check what the hub's credentials for the store allow"
	}
	return refuse(http.StatusGatewayTimeout, api.CodeUnreachable, "no node could hand in what it recorded: %s", line)
}

func (h *Hub) noSpace() *api.Error {
	return refuse(http.StatusInsufficientStorage, api.CodeNoSpace,
		"no space left in store %s: free some, delete snapshots and sweep, or choose another store", store.Describe(h.cfg.Store))
}

// codeGone marks, within the hub, a node that has left the cluster.
const codeGone = "gone"

// unreachable is the part of a node that did not answer, or could not hand in
// what it has.
func unreachable(name string, known api.Node, window manifest.Interval, trouble *api.Error) manifest.Node {
	n := manifest.Node{Name: name, Status: manifest.Unreachable, Clock: known.Clock, Versions: known.Versions}
	w := n.Clock.Window(window)
	gap := manifest.Gap{Stream: chunker.Packets, Reason: manifest.GapUnreachable, From: w.From, To: w.To}
	heard := "last heard of at " + known.LastSeen.UTC().Format(time.DateTime) + " UTC"
	switch {
	case trouble != nil && trouble.Code == codeGone:
		gap.Detail = "it has left the cluster"
		if !known.LastSeen.IsZero() {
			gap.Detail += ", " + heard
		}
	case trouble != nil:
		gap.Detail = manifest.Clean("its last error: " + trouble.Message)
	case !known.LastSeen.IsZero():
		gap.Detail = heard + ", and waited for until " + known.LastSeen.Add(nodeMemory).UTC().Format(time.DateTime) + " UTC, unless --node names others"
	}
	n.Gaps = []manifest.Gap{gap}
	n.Reasons, _ = api.Explain(n.Gaps, w, api.FlagWords)
	return n
}

// span is the window of an import: from the first record to the last.
func span(nodes []manifest.Node) (w manifest.Interval) {
	empty := true
	for _, n := range nodes {
		for _, s := range n.Streams {
			if s.Records == 0 {
				continue
			}
			if empty || s.First < w.From {
				w.From = s.First
			}
			if end := s.Last.Add(1); empty || end > w.To {
				w.To = end
			}
			empty = false
		}
	}
	return w
}

// holds says from when on the rings of nodes hold data.
func holds(names []string, known map[string]api.Node) string {
	var list []string
	for _, name := range names {
		n, ok := known[name]
		switch {
		case !ok || n.Ring.Oldest.IsZero():
			list = append(list, fmt.Sprintf("the ring of node %s is empty", name))
		default:
			list = append(list, fmt.Sprintf("the ring of node %s holds packets from %s UTC on", name, n.Ring.Oldest.UTC().Format(time.DateTime)))
		}
		if len(list) == 5 && len(names) > 5 {
			list = append(list, fmt.Sprintf("and %d nodes more", len(names)-5))
			break
		}
	}
	return strings.Join(list, ", ")
}
