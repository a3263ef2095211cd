package cluster

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"sort"
	"strings"
)

// A Table answers whose an address was at a nanosecond, from the records of all
// chunks of a cluster's stream. All its times are the hub's.
//
// # Whose an address was
//
// What a cluster tells of an address is late and coarse. A pod sends packets for
// about a second before the API says which address it has. Its object goes after
// its sandbox, and the address with it, was given up; that of a finished job may
// stay for days. Kubernetes' own times are cut to the second, by the clock of
// the pod's node. And a recorder learns of all that a moment later, by another
// clock, or never, when nobody recorded. So for each pod and address the table
// works out a time in which the pod surely had the address, and a longer one in
// which it may have had it:
//
//   - It may have it from two seconds before its first container started, or its
//     sandbox was seen, whichever is told to be earlier: setting up a sandbox
//     takes a moment, and is noticed once a second. That is not before its node
//     took it up, and not a second before its object was seen to be made, which
//     bounds what wrong clocks can do: kubelets learn of it no earlier than a
//     recorder does, give or take.
//   - It surely has it one second after that (the second the time was cut to),
//     and in any case from when the cluster listed it.
//   - It surely has it until its last container finished, where it is finished
//     (phase, or deletion asked for, and no container left running); until the
//     address was no longer listed, or the object gone, less two seconds by which
//     a status may be late; until its node was no longer ready; or until nobody
//     recorded any more.
//   - It may have it three seconds longer when it is finished (the second the
//     time was cut to, and the sandbox's end), but not after its object was gone;
//     otherwise until it was gone, or until two seconds after the last that was
//     recorded.
//
// Of the pods that may have an address, one that surely has it is the answer. Of
// two that surely had it on one node, which only errors make of the times, it is
// the one that got it later, since a node gives no address to two. A pod whose
// object was made after another's was gone gets nothing of the other's time, so
// that a StatefulSet's pod that is made again under its name has a sharp
// beginning. What is left are times in which the address changed hands and nobody
// can say when, within the second in which one pod finished and the next was
// started: there the answer is both.
//
// Addresses of one value on several nodes, where pod networks are not routed, are
// told apart by where the packet was seen: see At.
//
// Pods on their node's network have no address of their own. What they send is
// their node's.
//
// # What was not recorded
//
// A pod that is listed with the same address before and after a time in which
// nobody recorded had it all that time. One that came within it, had it from when
// its own times tell. One that was there before and is not after, went at a time
// that is not known: from then on its address is "not recorded", until somebody is
// known to have it. So is every address that nobody is known to have had at a
// time of which there are no records.
type Table struct {
	pods     map[netip.Addr]track // that have addresses of their own
	hosts    map[netip.Addr]track // pods on their node's network
	nodes    map[netip.Addr]track
	services map[netip.Addr]track
	serving  map[netip.Addr]track // services, by the addresses of those who serve them
	covered  []span

	objects []*Object // pods, services, nodes and namespaces, in order of kind, namespace, name and UID
	byUID   map[string]*Object
	owners  map[string]Ref // of workloads, by their UID
	notes   []Note
	lost    int // notes for which there was no room
}

// An Object is what the stream tells of one thing for as long as it exists.
type Object struct {
	Ref
	Node        string // where a pod ran
	HostNetwork bool   // of a pod
	Owner       Ref    // that controls a pod
}

// Path is namespace/name, or the name of what is in no namespace.
func (r Ref) Path() string {
	if r.Namespace == "" {
		return r.Name
	}
	return r.Namespace + "/" + r.Name
}

// Ref names the record's object; it is zero when it has none.
func (r *Record) Ref() Ref {
	m := r.Meta()
	if m == nil {
		return Ref{}
	}
	kind := kindOf(r)
	if r.Workload != nil {
		kind = r.Workload.Kind
	}
	return Ref{Kind: kind, Namespace: m.Namespace, Name: m.Name, UID: m.UID}
}

// compare is by kind, namespace, name and UID.
func (o *Object) compare(p *Object) int {
	return cmp.Or(strings.Compare(o.Kind, p.Kind), strings.Compare(o.Namespace, p.Namespace),
		strings.Compare(o.Name, p.Name), strings.Compare(o.UID, p.UID))
}

// Kinds of objects.
const (
	KindPod       = "Pod"
	KindService   = "Service"
	KindNode      = "Node"
	KindNamespace = "Namespace"
)

// An Answer says whose an address was. Its slices are shared: nobody changes
// them.
type Answer struct {
	Pods     []*Object // one; several when it cannot be told which
	Node     *Object   // whose own address it is
	Services []*Object // whose address it is

	// Recorded tells whether Pods is all there is to know: where it is false and
	// there are none, there may have been one.
	Recorded bool

	// From and Until bound the time of which all this holds: From is in it, Until
	// is not.
	From, Until int64
}

// Known tells whether the address has a name.
func (a *Answer) Known() bool { return len(a.Pods) > 0 || a.Node != nil || len(a.Services) > 0 }

// At tells whose addr was at a time. Node is where a packet of it was seen, or
// empty: where pods of several nodes have the same address at once, it is that of
// the pod on this node.
func (t *Table) At(addr netip.Addr, ns int64, node string) Answer {
	addr = addr.Unmap()
	a := Answer{From: math.MinInt64, Until: math.MaxInt64}
	a.Pods = pick(a.look(t.pods, addr, ns), node)
	if nodes := a.look(t.nodes, addr, ns); len(nodes) > 0 {
		a.Node = nodes[0].Object
	}
	a.Services = objects(a.look(t.services, addr, ns))
	var s span
	s, a.Recorded = spanAt(t.covered, ns)
	a.narrow(s)
	return a
}

// look finds who has an address at a time, and narrows the answer's time.
func (a *Answer) look(m map[netip.Addr]track, addr netip.Addr, ns int64) []candidate {
	tr, ok := m[addr]
	if !ok {
		return nil
	}
	found, s := tr.at(ns)
	a.narrow(s)
	return found
}

func (a *Answer) narrow(s span) { a.From, a.Until = max(a.From, s.from), min(a.Until, s.to) }

// pick chooses between the pods that have one address on several nodes.
func pick(found []candidate, node string) []*Object {
	if len(found) == 0 {
		return nil
	}
	sure := func(c candidate) bool { return c.sure }
	here := slices.DeleteFunc(slices.Clone(found), func(c candidate) bool { return c.Node != node })
	switch {
	case slices.ContainsFunc(here, sure), len(here) > 0 && !slices.ContainsFunc(found, sure):
		found = here
	case len(here) == 0 && slices.ContainsFunc(found, sure):
		found = slices.DeleteFunc(slices.Clone(found), func(c candidate) bool { return !c.sure })
	}
	return objects(found)
}

func objects(found []candidate) []*Object {
	if len(found) == 0 {
		return nil
	}
	out := make([]*Object, 0, len(found))
	for _, c := range found {
		if !slices.Contains(out, c.Object) {
			out = append(out, c.Object)
		}
	}
	return out
}

// A Server is an address in its part of serving a service.
type Server struct {
	Service *Object
	Ports   []Port // at which it serves, by number; none where it is not told
}

// Serving tells which services addr served at a time, with the time of which that
// holds. A pod counts for as long as its EndpointSlice lists it, ready or not,
// and from when it got its address, or until it gave it up, if that is seconds
// before, or after.
func (t *Table) Serving(addr netip.Addr, ns int64) (servers []Server, from, until int64) {
	a := Answer{From: math.MinInt64, Until: math.MaxInt64}
	for _, c := range a.look(t.serving, addr.Unmap(), ns) {
		servers = append(servers, Server{c.Object, c.ports})
	}
	return servers, a.From, a.Until
}

// OnNode tells which pods on its node's network there were on the node whose
// address addr was, with the time of which that holds.
func (t *Table) OnNode(addr netip.Addr, ns int64) (pods []*Object, from, until int64) {
	a := Answer{From: math.MinInt64, Until: math.MaxInt64}
	pods = objects(a.look(t.hosts, addr.Unmap(), ns))
	return pods, a.From, a.Until
}

// Objects are those of a kind, in order of namespace, name and UID.
func (t *Table) Objects(kind string) []*Object {
	from := sort.Search(len(t.objects), func(i int) bool { return t.objects[i].Kind >= kind })
	to := sort.Search(len(t.objects), func(i int) bool { return t.objects[i].Kind > kind })
	return t.objects[from:to]
}

// Object is the one with this UID, or nil.
func (t *Table) Object(uid string) *Object { return t.byUID[uid] }

// Owners are those that control o, the nearest first: of a Deployment's pod the
// ReplicaSet and the Deployment.
func (t *Table) Owners(o *Object) []Ref {
	var chain []Ref
	for at := o.Owner; at.Name != ""; at = t.owners[at.UID] {
		if len(chain) == maxOwners {
			break // who owns himself
		}
		chain = append(chain, at)
	}
	return chain
}

// maxOwners is more than there are kinds of workloads.
const maxOwners = 8

// A Naming is what an address was called in a time.
type Naming struct {
	Addr   netip.Addr
	Object *Object // who had it longest
	Others bool    // it was not the only one
}

// Names are those of all addresses that somebody had from a time until another,
// in order of addresses. Of several kinds that have an address a pod comes first,
// then a node, then a service.
func (t *Table) Names(from, to int64) []Naming {
	named := map[netip.Addr]Naming{}
	for _, m := range []map[netip.Addr]track{t.pods, t.nodes, t.services} {
		for addr, tr := range m {
			if _, ok := named[addr]; ok {
				continue
			}
			if n := tr.longest(from, to); n.Object != nil {
				n.Addr = addr
				named[addr] = n
			}
		}
	}
	out := make([]Naming, 0, len(named))
	for _, n := range named {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b Naming) int { return a.Addr.Compare(b.Addr) })
	return out
}

// Ever tells whether addr was a pod's, ever.
func (t *Table) Ever(addr netip.Addr) bool {
	_, ok := t.pods[addr.Unmap()]
	return ok
}

// Behind are the pods that served one of the chosen services at some time, in no
// order.
func (t *Table) Behind(service func(*Object) bool) []*Object {
	var out []*Object
	seen := map[*Object]bool{}
	for addr, tr := range t.serving {
		pods := t.pods[addr]
		for i, set := range tr.sets {
			if !slices.ContainsFunc(set, func(c candidate) bool { return service(c.Object) }) {
				continue
			}
			until := int64(math.MaxInt64)
			if i+1 < len(tr.starts) {
				until = tr.starts[i+1]
			}
			for _, o := range pods.within(tr.starts[i], until) {
				if !seen[o] {
					seen[o] = true
					out = append(out, o)
				}
			}
		}
	}
	return out
}
