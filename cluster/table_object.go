package cluster

import (
	"net/netip"
	"slices"
	"strings"
)

// An object is what is known of one, in the making.
type object struct {
	Object
	hash   uint64 // of its last state, as it stood in a line
	chunk  int    // in whose state it is
	made   int64  // when it was seen to be made; 0 when it was not
	gone   int64  // when it was seen to be deleted; 0 when it was not
	begun  int64  // its own time of creation; 0 when not told
	listed []int  // listings of its last state
	all    []listing
	latest map[item]int // in all; nil while that is short
	pod    *pod
	ready  *readiness // of a node
}

// An item is what an object lists: an address, and for an EndpointSlice whose.
type item struct {
	addr netip.Addr
	pod  string // UID
}

// A listing is a time for which an object listed an item, as far as it was seen.
type listing struct {
	item
	ports       []Port
	first, last int64
	closed      bool // it was seen to end at last
}

// object is the one that a record is of.
func (c *Chunk) object(r *Record, m *Meta) (*object, error) {
	b := c.b
	if o := b.byUID[m.UID]; o != nil {
		if r.Pod != nil && o.Kind == KindPod && o.Node == "" {
			o.Node = b.intern(clip(r.Pod.Node))
			o.HostNetwork = r.Pod.HostNetwork
		}
		if kind := kindOf(r); kind != o.Kind {
			return nil, nonsense("UID %.80q is of a %s and of a %s", m.UID, o.Kind, kind)
		}
		return o, nil
	}
	if len(b.byUID) >= maxObjects {
		return nil, nonsense("more than %d objects", maxObjects)
	}
	if len(m.UID) > maxText {
		return nil, nonsense("a UID of %d bytes", len(m.UID))
	}
	o := &object{Object: Object{Ref: Ref{
		Kind: kindOf(r), Namespace: b.intern(clip(m.Namespace)), Name: strings.Clone(clip(m.Name)), UID: strings.Clone(m.UID),
	}}}
	switch {
	case r.Pod != nil:
		o.Node, o.HostNetwork = b.intern(clip(r.Pod.Node)), r.Pod.HostNetwork
		o.pod = &pod{}
	case r.Endpoints != nil: // stands for the service
		o.Name = b.intern(clip(r.Endpoints.Service))
	case r.Node != nil:
		o.ready = &readiness{}
	}
	if m.Owner != nil {
		o.Owner = Ref{
			Kind: b.intern(clip(m.Owner.Kind)), Namespace: o.Namespace,
			Name: b.intern(clip(m.Owner.Name)), UID: b.intern(clip(m.Owner.UID)),
		}
	}
	b.byUID[o.UID] = o
	return o, nil
}

// Kinds that only the table knows by these names.
const (
	kindEndpoints = "EndpointSlice"
	kindWorkload  = "Workload"
)

func kindOf(r *Record) string {
	switch {
	case r.Pod != nil:
		return KindPod
	case r.Service != nil:
		return KindService
	case r.Endpoints != nil:
		return kindEndpoints
	case r.Node != nil:
		return KindNode
	case r.Namespace != nil:
		return KindNamespace
	}
	return kindWorkload
}

// lists says what o lists at a time.
func (c *Chunk) lists(o *object, items []item, ports []Port, at int64) error {
	before := slices.Clone(o.listed)
	o.listed = o.listed[:0]
	for _, it := range items {
		i := c.list(o, it, ports, at)
		if !slices.Contains(o.listed, i) {
			o.listed = append(o.listed, i)
		}
	}
	for _, i := range before {
		if !slices.Contains(o.listed, i) {
			c.unlist(o, i, at)
		}
	}
	if c.b.listings > maxListings {
		return nonsense("more than %d times of addresses", maxListings)
	}
	return nil
}

// unlist ends a listing, unless another recorder saw it go on.
func (c *Chunk) unlist(o *object, i int, at int64) {
	l := &o.all[i]
	if l.last <= later(at, lateness) {
		l.last, l.closed = at, true
	}
}

// list finds the listing that an item listed at a time belongs to, or begins one.
func (c *Chunk) list(o *object, it item, ports []Port, at int64) int {
	if i, ok := o.find(it); ok {
		l := &o.all[i]
		if !l.closed || l.first <= at && l.last >= at {
			l.first, l.last = min(l.first, at), max(l.last, at)
			l.closed = false
			if ports != nil {
				l.ports = ports
			}
			return i
		}
	}
	c.b.listings++
	o.all = append(o.all, listing{item: it, ports: ports, first: at, last: at})
	if o.latest != nil {
		o.latest[it] = len(o.all) - 1
	}
	return len(o.all) - 1
}

// find is the latest listing of an item.
func (o *object) find(it item) (int, bool) {
	if len(o.all) <= 8 {
		for i := len(o.all) - 1; i >= 0; i-- {
			if o.all[i].item == it {
				return i, true
			}
		}
		return 0, false
	}
	if o.latest == nil {
		o.latest = map[item]int{}
		for i, l := range o.all {
			o.latest[l.item] = i
		}
	}
	i, ok := o.latest[it]
	return i, ok
}

// gone ends an object.
func (c *Chunk) gone(r *Record, at int64) {
	o := c.b.byUID[r.Meta().UID]
	if o == nil {
		return
	}
	for _, i := range o.listed {
		c.unlist(o, i, at)
	}
	o.chunk, o.listed = 0, o.listed[:0]
	delete(c.b.states, o.hash)
	if o.Kind == KindPod {
		c.b.changed(o, "gone", "Gone", "pod gone", false, at)
	}
	if at > later(c.gapEnd, lag) {
		earliest(&o.gone, at)
		return
	}
	// It went at some time of the gap.
	for i := range o.all {
		if l := &o.all[i]; l.closed && l.last == at {
			l.last, l.closed = max(l.first, min(l.last, c.gapFrom)), false
		}
	}
}

// addresses are those that can be read, without zones.
func addresses(texts []string) []item {
	var out []item
	for _, t := range texts {
		a, err := netip.ParseAddr(t)
		if err != nil || a.Zone() != "" || a.IsUnspecified() {
			continue // a load balancer's may be a name
		}
		out = append(out, item{addr: a.Unmap()})
	}
	return out
}

// A readiness is since when a node is not ready.
type readiness struct {
	seen int64 // when that was seen last
	lost int64 // not ready from here on; 0 when it is ready
}

func (r *readiness) observe(conditions map[string]string, at int64) {
	state, told := conditions["Ready"]
	if at < r.seen || !told {
		return
	}
	r.seen = at
	switch {
	case state == "True":
		r.lost = 0
	case r.lost == 0:
		r.lost = max(at, 1)
	}
}
