package pcapgen

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"pcapsule/cluster"
)

// A choice is which packets are wanted, by the names of a cluster: those that
// have, for each kind of name that was given, an end of one of these names.
type choice struct {
	table      *cluster.Table
	pods       map[*cluster.Object]bool
	hosts      bool // some of pods are on their node's network
	namespaces map[string]bool
	services   map[string]bool // by path
}

// maxNames bounds the names of one request.
const maxNames = 1000

// ErrManyNames is wrapped by the error for a request with too many names.
var ErrManyNames = errors.New("too many names of pods, namespaces and services")

// UnknownNameError is the error for a name that nothing in the snapshot has.
type UnknownNameError struct {
	Kind   string // pod, namespace or service
	Name   string
	Within bool     // it was looked for in the chosen namespaces alone
	Near   []string // names there are, the most similar first
	Total  int      // how many there are
}

func (e *UnknownNameError) Error() string {
	no := fmt.Sprintf("the snapshot knows no %s %q", e.Kind, e.Name)
	if e.Within {
		no += " in the chosen namespaces"
	}
	switch {
	case e.Total == 0:
		return no + ", nor any other"
	case e.Total == len(e.Near):
		return fmt.Sprintf("%s; there is %s", no, enumerate(e.Near, len(e.Near)))
	}
	return fmt.Sprintf("%s; the nearest of %d are %s", no, e.Total, enumerate(e.Near, len(e.Near)))
}

// byName tells whether the request chooses by the names of a cluster.
func (r *Request) byName() bool { return len(r.Pods)+len(r.Namespaces)+len(r.Services) > 0 }

// newChoice resolves the names of a request; it is nil when there are none.
func newChoice(t *cluster.Table, req *Request) (*choice, error) {
	if !req.byName() {
		return nil, nil
	}
	if n := len(req.Pods) + len(req.Namespaces) + len(req.Services); n > maxNames {
		return nil, fmt.Errorf("%w: %d, at most %d (* stands for many)", ErrManyNames, n, maxNames)
	}
	c := &choice{table: t}
	if len(req.Namespaces) > 0 {
		c.namespaces = map[string]bool{}
		known := namespaces(t)
		for _, name := range req.Namespaces {
			found := matching(known, name, func(n string) string { return n })
			if len(found) == 0 {
				return nil, unknownName("namespace", name, known)
			}
			for _, n := range found {
				c.namespaces[n] = true
			}
		}
	}
	if len(req.Pods) > 0 {
		c.pods = map[*cluster.Object]bool{}
		for _, name := range req.Pods {
			found, err := c.find(cluster.KindPod, "pod", name)
			if err != nil {
				return nil, err
			}
			for _, o := range found {
				c.pods[o] = true
				c.hosts = c.hosts || o.HostNetwork
			}
		}
	}
	if len(req.Services) > 0 {
		c.services = map[string]bool{}
		for _, name := range req.Services {
			found, err := c.find(cluster.KindService, "service", name)
			if err != nil {
				return nil, err
			}
			for _, o := range found {
				c.services[o.Path()] = true
			}
		}
	}
	return c, nil
}

// find resolves NAMESPACE/NAME, or NAME in the chosen namespaces, if any, or else
// in all.
func (c *choice) find(kind, what, name string) ([]*cluster.Object, error) {
	all := c.table.Objects(kind)
	known := all
	within := !strings.Contains(name, "/") && c.namespaces != nil
	if within {
		known = slices.DeleteFunc(slices.Clone(all), func(o *cluster.Object) bool { return !c.namespaces[o.Namespace] })
	}
	as := func(o *cluster.Object) string { return o.Name }
	if strings.Contains(name, "/") {
		as = func(o *cluster.Object) string { return o.Path() }
	}
	if found := matching(known, name, as); len(found) > 0 {
		return found, nil
	}
	var names []string
	for _, o := range known {
		names = append(names, o.Path())
	}
	unknown := unknownName(what, name, names)
	unknown.Within = within
	return nil, unknown
}

// matching are those whose name is pattern, in which * stands for any characters.
func matching[T any](all []T, pattern string, name func(T) string) (out []T) {
	for _, o := range all {
		n := name(o)
		ok := n == pattern
		if !ok && strings.ContainsRune(pattern, '*') {
			ok, _ = path.Match(pattern, n) // what is no pattern is no name
		}
		if ok {
			out = append(out, o)
		}
	}
	return out
}

// namespaces are those that the table knows, by themselves or by what is in them.
func namespaces(t *cluster.Table) []string {
	known := map[string]bool{}
	for _, o := range t.Objects(cluster.KindNamespace) {
		known[o.Name] = true
	}
	for _, kind := range []string{cluster.KindPod, cluster.KindService} {
		for _, o := range t.Objects(kind) {
			known[o.Namespace] = true
		}
	}
	out := make([]string, 0, len(known))
	for n := range known {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// maxNear is how many names an error says that there are.
const maxNear = 10

func unknownName(kind, name string, known []string) *UnknownNameError {
	known = slices.Clone(known)
	slices.Sort(known)
	known = slices.Compact(known)
	e := &UnknownNameError{Kind: kind, Name: name, Total: len(known)}
	if len(known) > maxNear {
		want := name[:min(len(name), 300)]
		type near struct {
			name string
			far  int
		}
		var all []near
		for _, k := range known {
			all = append(all, near{k, distance(want, k)})
		}
		slices.SortFunc(all, func(a, b near) int { return cmp.Or(cmp.Compare(a.far, b.far), strings.Compare(a.name, b.name)) })
		known = known[:0]
		for _, n := range all[:maxNear] {
			known = append(known, n.name)
		}
	}
	e.Near = known
	return e
}

// distance is how many characters differ between two names. A namespace that
// only one of them tells, and an end that only one of them has, cost little.
func distance(a, b string) int {
	if !strings.Contains(a, "/") {
		b = b[strings.LastIndexByte(b, '/')+1:]
	}
	if strings.HasPrefix(b, a) || strings.HasPrefix(a, b) {
		return 1
	}
	row := make([]int, len(b)+1)
	for k := range row {
		row[k] = k
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for k := range len(b) {
			cost := diagonal
			if a[i] != b[k] {
				cost = 1 + min(diagonal, row[k], row[k+1])
			}
			diagonal, row[k+1] = row[k+1], cost
		}
	}
	return 1 + row[len(b)]
}

// Kinds of names, as bits: those of a request, and those that an end has.
type kinds uint8

const (
	byPods kinds = 1 << iota
	byNamespaces
	byServices
)

// given are the kinds of names that packets must have; none when all are wanted.
func (c *choice) given() (k kinds) {
	if c == nil {
		return 0
	}
	if c.pods != nil {
		k |= byPods
	}
	if c.namespaces != nil {
		k |= byNamespaces
	}
	if c.services != nil {
		k |= byServices
	}
	return k
}

// has tells of which kinds an end has a chosen name, and of which it has one at
// some ports only. It narrows the time for which that holds.
func (c *choice) has(e *side, s *span) (whole, atPort kinds) {
	if c == nil {
		return 0, 0
	}
	if c.pods != nil && c.isPod(e, s) {
		whole |= byPods
	}
	if c.namespaces != nil && c.inNamespace(e) {
		whole |= byNamespaces
	}
	if c.services != nil {
		servers, from, until := c.table.Serving(e.addr, e.at)
		s.narrow(from, until)
		switch serves, port := c.serves(e, servers, nil); {
		case serves:
			whole |= byServices
		case port:
			atPort |= byServices
		}
	}
	return whole, atPort
}

func (c *choice) isPod(e *side, s *span) bool {
	chosen := func(o *cluster.Object) bool { return c.pods[o] }
	if !c.hosts {
		return slices.ContainsFunc(e.Pods, chosen)
	}
	hosts, from, until := c.table.OnNode(e.addr, e.at)
	s.narrow(from, until)
	return slices.ContainsFunc(e.Pods, chosen) || slices.ContainsFunc(hosts, chosen)
}

func (c *choice) inNamespace(e *side) bool {
	in := func(o *cluster.Object) bool { return c.namespaces[o.Namespace] }
	return slices.ContainsFunc(e.Pods, in) || slices.ContainsFunc(e.Services, in)
}

// serves tells whether an end is one of the services, or serves one. What serves
// it at the address of a node does so at its ports only: then atPort is true, and
// it serves if port, where it is given, is one of these.
func (c *choice) serves(e *side, servers []cluster.Server, port *uint16) (yes, atPort bool) {
	for _, o := range e.Services {
		if c.services[o.Path()] {
			return true, false
		}
	}
	for _, v := range servers {
		switch {
		case !c.services[v.Service.Path()]:
		case e.Node == nil || len(e.Pods) > 0 || len(v.Ports) == 0:
			return true, false
		case port == nil:
			atPort = true
		case slices.ContainsFunc(v.Ports, func(p cluster.Port) bool { return p.Port == int(*port) }):
			return true, true
		}
	}
	return false, atPort
}

// A side is one end of a packet, with whose it was.
type side struct {
	cluster.Answer
	addr netip.Addr
	at   int64
}

// relevant tells whether a note is of what was chosen. Where pods or services
// were, namespaces have only helped to find these.
func (c *choice) relevant() func(n *cluster.Note) bool {
	if c.pods == nil && c.services == nil {
		return func(n *cluster.Note) bool {
			return c.namespaces[n.About.Namespace] || n.About.Kind == cluster.KindNamespace && c.namespaces[n.About.Name]
		}
	}
	chosen := map[string]bool{}
	nodes := map[string]bool{}
	add := func(o *cluster.Object) {
		chosen[o.Kind+" "+o.Path()] = true
		nodes[o.Node] = true
		for _, r := range c.table.Owners(o) {
			chosen[r.Kind+" "+r.Path()] = true
		}
	}
	for o := range c.pods {
		add(o)
	}
	for path := range c.services {
		chosen[cluster.KindService+" "+path] = true
	}
	for _, o := range c.table.Behind(func(s *cluster.Object) bool { return c.services[s.Path()] }) {
		add(o)
	}
	return func(n *cluster.Note) bool {
		return chosen[n.About.Kind+" "+n.About.Path()] || n.About.Kind == cluster.KindNode && nodes[n.About.Name]
	}
}
