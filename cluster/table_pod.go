package cluster

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"sort"
	"time"
)

// How late, and how coarse, the cluster's news are. Table says why.
const (
	second   = int64(time.Second)     // to which Kubernetes cuts times
	setup    = 2 * int64(time.Second) // a sandbox's, before something of it shows in a time
	lag      = 2 * int64(time.Second) // of a status behind the truth
	teardown = 3 * int64(time.Second) // from the time when the last container finished to the sandbox's end
	lateness = 5 * int64(time.Second) // more than any of these, for what is only told apart
)

// A pod is what is known of a pod's times, by the hub's clock; 0 where they are
// not told. Its observations may come in any order.
type pod struct {
	started  int64 // its node took it up
	shown    int64 // something of its sandbox shows: it, or the first container
	finished int64 // the last container, of a pod that is finished
	told     int64 // when it was first told that it is finished
	terminal int64 // when it was first told to be in a terminal phase
	running  int64 // when it was last told to be neither
	runs     bool  // neither, in its last state
	clocked  bool  // how its node's clock goes is known
}

// extend says that a pod's last state still holds.
func (p *pod) extend(at int64) {
	if p.runs {
		p.running = max(p.running, at)
	}
}

// observePod sees a pod's state, which may be its last.
func (b *Builder) observePod(o *object, p *Pod, at int64, last bool) {
	_, o.pod.clocked = b.clocks[o.Node]
	own := func(t time.Time) int64 { return b.own(o.Node, t) }
	earliest(&o.pod.started, own(p.Started))
	earliest(&o.pod.shown, own(p.Sandboxed))
	finished := int64(0)
	left := false
	for _, c := range p.Containers {
		earliest(&o.pod.shown, own(c.Started))
		if c.Last != nil {
			earliest(&o.pod.shown, own(c.Last.Started))
		}
		switch c.State {
		case "running":
			left = true
		case "terminated":
			finished = max(finished, own(c.Finished))
		}
	}
	terminal := p.Phase == "Succeeded" || p.Phase == "Failed"
	o.pod.runs = false
	switch {
	case !left && finished != 0 && (terminal || !p.Deleted.IsZero()):
		o.pod.finished = max(o.pod.finished, finished)
		earliest(&o.pod.told, at)
	case terminal:
		earliest(&o.pod.terminal, at)
	case !last:
		o.pod.running = max(o.pod.running, at)
		o.pod.runs = true
	}
	b.lifecycle(o, p, at)
	if terminal {
		b.changed(o, p.Phase, p.Phase, phaseMessage(p), p.Phase == "Failed", at)
	}
}

// earliest is the earlier one of times that are told.
func earliest(t *int64, u int64) {
	if u != 0 && (*t == 0 || u < *t) {
		*t = u
	}
}

// hold is when a pod had the address of its listing i, on a node that is lost
// from then on, if ever. Table says how.
func (o *object) hold(i int, lost int64) hold {
	p, l := o.pod, o.all[i]
	first := !slices.ContainsFunc(o.all[:i], func(m listing) bool { return m.addr.Is4() == l.addr.Is4() })
	h := hold{Object: &o.Object, made: o.made, gone: o.gone}

	// From when.
	h.from = l.first
	switch {
	case !first: // another one than before: its own times are of that
		h.maybeFrom = later(l.first, -setup)
	case p.shown != 0:
		h.from = min(h.from, later(p.shown, second))
		h.maybeFrom = max(later(p.shown, -setup), p.started)
	case p.started != 0:
		h.maybeFrom = p.started
	case o.begun != 0:
		h.maybeFrom = o.begun
	default:
		h.maybeFrom = later(l.first, -setup)
	}
	if o.made != 0 { // clocks may be wrong
		h.from = max(h.from, min(o.made, l.first))
		h.maybeFrom = max(h.maybeFrom, later(o.made, -second))
	}
	h.maybeFrom = min(h.maybeFrom, h.from)

	// Until when.
	switch {
	case p.finished != 0:
		end := min(p.finished, p.told)
		if p.running != 0 && !p.clocked { // its clock may be wrong
			end = max(end, later(p.running, -lateness))
		}
		h.to, h.maybeTo = end, later(end, teardown)
	case o.gone != 0:
		h.to, h.maybeTo = min(later(o.gone, -lag), p.running), o.gone
	case l.closed:
		h.to, h.maybeTo = later(l.last, -lag), l.last
	case p.terminal != 0:
		h.to, h.maybeTo = p.terminal, later(l.last, lag)
	default:
		h.to, h.maybeTo = l.last, later(l.last, lag)
	}
	if l.closed {
		h.to = min(h.to, l.last)
		h.maybeTo = min(h.maybeTo, l.last)
	}
	if o.gone != 0 {
		h.maybeTo = min(h.maybeTo, o.gone)
	}
	if lost != 0 {
		h.to = min(h.to, lost)
	}
	h.to = max(h.to, h.from)
	h.maybeTo = max(h.maybeTo, h.to)
	return h
}

// afterOthers cuts a hold's beginning where another's object had gone before its
// own was made: it has nothing of the other's time. Holds are of one address.
func afterOthers(holds []hold) {
	type end struct{ gone, until int64 }
	var ends []end // by gone; until is the latest of all so far
	for _, h := range holds {
		if h.gone != 0 {
			ends = append(ends, end{h.gone, min(h.maybeTo, h.gone)})
		}
	}
	slices.SortFunc(ends, func(a, b end) int { return cmp.Compare(a.gone, b.gone) })
	for i := 1; i < len(ends); i++ {
		ends[i].until = max(ends[i].until, ends[i-1].until)
	}
	for i := range holds {
		h := &holds[i]
		n := sort.Search(len(ends), func(k int) bool { return ends[k].gone > h.made })
		if h.made == 0 || n == 0 || ends[n-1].until <= h.maybeFrom {
			continue
		}
		h.maybeFrom = ends[n-1].until
		h.from = max(h.from, h.maybeFrom)
		h.to = max(h.to, h.from)
		h.maybeTo = max(h.maybeTo, h.to)
	}
}

// Table ends building. The builder must not be used after it.
func (b *Builder) Table() *Table {
	t := &Table{
		covered: joined(b.covered, lateness), byUID: map[string]*Object{}, owners: map[string]Ref{},
	}
	lost := map[string]int64{}
	for _, o := range b.byUID {
		if o.ready != nil && o.ready.lost != 0 {
			lost[o.Name] = o.ready.lost
		}
	}
	var pods, hosts, nodes, services, serving = holdsOf{}, holdsOf{}, holdsOf{}, holdsOf{}, holdsOf{}
	for _, o := range b.byUID {
		switch o.Kind {
		case KindPod:
			to := pods
			if o.HostNetwork {
				to = hosts
			}
			for i, l := range o.all {
				to.add(l.addr, o.hold(i, lost[o.Node]))
			}
		case KindService:
			b.byName(&o.Object)
			o.plain(services, false)
		case KindNode:
			o.plain(nodes, true)
		case kindWorkload:
			t.owners[o.UID] = o.Owner
			continue
		case kindEndpoints:
			continue
		}
		t.objects = append(t.objects, &o.Object)
		t.byUID[o.UID] = &o.Object
	}
	for _, o := range b.byUID {
		if o.Kind == kindEndpoints {
			b.serve(o, serving)
		}
	}
	for _, s := range b.services {
		if s.UID == "" { // told of by its endpoints only
			t.objects = append(t.objects, s)
		}
	}
	slices.SortFunc(t.objects, (*Object).compare)
	t.pods, t.hosts, t.nodes = pods.tracks(true), hosts.tracks(false), nodes.tracks(false)
	t.services, t.serving = services.tracks(false), serving.tracks(false)
	t.notes, t.lost = b.notes.sorted(t, b.from, b.to)
	*b = Builder{}
	return t
}

// byName is the object that stands for all services of one name, one after
// another.
func (b *Builder) byName(s *Object) *Object {
	key := [2]string{s.Namespace, s.Name}
	if known := b.services[key]; known != nil && known.UID >= s.UID {
		return known
	}
	b.services[key] = s
	return s
}

// plain adds what a service or a node listed. There is nothing uncertain in these
// but what was not recorded.
func (o *object) plain(to holdsOf, always bool) {
	for i, l := range o.all {
		from := l.first
		if i == 0 && o.made == 0 {
			switch {
			case always: // a node has its address before the cluster knows it
				from = math.MinInt64
			case o.begun != 0:
				from = min(from, o.begun)
			}
		}
		end := l.last
		if !l.closed {
			end = later(l.last, lag)
		}
		to.add(l.addr, hold{Object: &o.Object, maybeFrom: from, from: from, to: end, maybeTo: end})
	}
}

// serve adds what an EndpointSlice listed.
func (b *Builder) serve(o *object, to holdsOf) {
	service := b.byName(&Object{Ref: Ref{Kind: KindService, Namespace: o.Namespace, Name: o.Name}})
	for _, l := range o.all {
		h := hold{Object: service, ports: l.ports, from: l.first, to: l.last}
		if !l.closed {
			h.to = later(l.last, lag)
		}
		if p := b.byUID[l.pod]; p != nil && p.pod != nil {
			for i, pl := range p.all {
				if pl.addr != l.addr {
					continue
				}
				had := p.hold(i, 0)
				if later(pl.first, lateness) >= l.first {
					h.from = min(h.from, had.maybeFrom)
				}
				if had.maybeTo <= later(l.last, lateness) && had.maybeTo > l.first {
					h.to = max(h.to, had.maybeTo)
				}
			}
		}
		h.maybeFrom, h.maybeTo = h.from, h.to
		to.add(l.addr, h)
	}
}

// holdsOf are the holds of addresses.
type holdsOf map[netip.Addr][]hold

func (m holdsOf) add(a netip.Addr, h hold) { m[a] = append(m[a], h) }

func (m holdsOf) tracks(exclusive bool) map[netip.Addr]track {
	out := make(map[netip.Addr]track, len(m))
	for a, holds := range m {
		if exclusive {
			afterOthers(holds)
		}
		slices.SortFunc(holds, func(a, b hold) int {
			return cmp.Or(cmp.Compare(a.from, b.from), a.compare(b.Object), cmp.Compare(a.to, b.to))
		})
		out[a] = newTrack(holds, exclusive)
	}
	return out
}
