package pcapgen

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"pcapsule/cluster"
	"pcapsule/internal/pcapng"
	"pcapsule/manifest"
)

// naming is the stage that chooses packets by the names of a cluster and says in
// a comment who they are from and to. Both are as of each packet's time.
//
// Whose an address was changes seldom, and few addresses send most packets: what
// is known of an address, with the time for which that holds, is kept in a cache.
type naming struct {
	table    *cluster.Table
	choice   *choice // nil: all packets
	given    kinds   // that packets must have
	annotate bool
	nodes    []vantage // by their number in the plan
	caches   sync.Pool // of *cache: one for each worker
}

// A vantage is where packets were seen.
type vantage struct {
	node   string
	offset int64 // of its clock, where that is known to be off
}

func newNaming(t *cluster.Table, c *choice, annotate bool, m *manifest.Manifest, p *plan) *naming {
	n := &naming{table: t, choice: c, given: c.given(), annotate: annotate}
	for _, node := range p.nodes {
		n.nodes = append(n.nodes, vantage{node.name, offsetOf(m, node.name)})
	}
	n.caches.New = func() any { return new(cache) }
	return n
}

// offsetOf is how far a node's clock is ahead of the hub's, where that is known.
func offsetOf(m *manifest.Manifest, node string) int64 {
	for i := range m.Nodes {
		if m.Nodes[i].Name == node {
			return int64(m.Nodes[i].Clock.Window(manifest.Interval{}).From)
		}
	}
	return 0
}

// A span is a time: from is in it, to is not.
type span struct{ from, to int64 }

func (s *span) narrow(from, to int64) { s.from, s.to = max(s.from, from), min(s.to, to) }

// A cache is of a fixed size: an entry is replaced by the next of its place.
type cache struct {
	entries [1 << cacheBits]entry
	comment []byte // of the packet that is being written, as an encoded option
}

const cacheBits = 12

// An entry is what is known of an address, seen on one node in a time by its
// clock.
type entry struct {
	addr   [16]byte
	node   uint32
	used   bool
	known  bool  // it has a name
	has    kinds // of which it has chosen names
	atPort kinds // of which it may have, depending on the port
	valid  span
	name   []byte // or the address
}

// apply is a stage.
func (n *naming) apply(in *input, b *batch) error {
	c := n.caches.Get().(*cache)
	defer n.caches.Put(c)
	le := binary.LittleEndian
	out := b.other[:0]
	start, kept := b.start(b.next), 0
	interfaces := in.reader.Interfaces()
	local, number := 0, int64(-1)
	var t nested
	for i := b.next; i < len(b.Ends); i++ {
		block := b.Buf[start:b.Ends[i]]
		start = b.Ends[i]
		if int64(b.interfaces[i]) != number {
			number = int64(b.interfaces[i])
			local = slices.Index(in.numbers, int32(number))
		}
		caplen := le.Uint32(block[pcapng.OffsetCapLen:])
		dissect(interfaces[local].LinkType, block[pcapng.OffsetData:pcapng.OffsetData+caplen], &t)
		wanted, comment := n.look(c, in.chunk.node, b.Times[i], &t)
		if !wanted {
			in.counts[local]--
			continue
		}
		if len(comment) > 0 {
			out = pcapng.AppendWithOption(out, block, comment)
		} else {
			out = append(out, block...)
		}
		b.Ends[kept], b.Times[kept], b.interfaces[kept] = uint32(len(out)), b.Times[i], b.interfaces[i]
		kept++
	}
	b.Buf, b.other = out, b.Buf
	b.Ends, b.Times, b.interfaces = b.Ends[:kept], b.Times[:kept], b.interfaces[:kept]
	b.next = 0
	return nil
}

// look decides on one packet. The comment is that of the innermost ends of which
// something is known, and valid until the next look.
func (n *naming) look(c *cache, node uint32, at int64, t *nested) (wanted bool, comment []byte) {
	wanted = n.given == 0
	for i := range t.n {
		e := &t.all[i]
		src := n.find(c, node, at, &e.src)
		has, perhaps, from := src.has, src.atPort, src
		var kept [96]byte // both may have the same place
		if e.src != e.dst && c.place(node, &e.src) == c.place(node, &e.dst) {
			copied := *src
			copied.name = append(kept[:0], src.name...)
			from = &copied
		}
		dst := n.find(c, node, at, &e.dst)
		has, perhaps = has|dst.has, perhaps|dst.atPort
		switch {
		case has == n.given:
			wanted = true
		case has|perhaps == n.given && !wanted:
			wanted = n.atPort(node, at, e)
		}
		if n.annotate && wanted && (from.known || dst.known) {
			comment = c.say(from.name, dst.name)
		}
	}
	return wanted, comment
}

const arrow = " → "

// say makes a comment.
func (c *cache) say(src, dst []byte) []byte {
	le := binary.LittleEndian
	n := len(src) + len(arrow) + len(dst)
	b := le.AppendUint16(c.comment[:0], pcapng.OptComment)
	b = le.AppendUint16(b, uint16(n))
	b = append(append(append(b, src...), arrow...), dst...)
	var zero [4]byte
	c.comment = append(b, zero[:-n&3]...)
	return c.comment
}

// place is where an address has its entry.
func (c *cache) place(node uint32, addr *[16]byte) uint64 {
	le := binary.LittleEndian
	const prime = 0x9e3779b97f4a7c15
	h := (le.Uint64(addr[:]) ^ uint64(node)) * prime
	h = (h ^ h>>29 ^ le.Uint64(addr[8:])) * prime
	return h >> (64 - cacheBits)
}

// find is the entry of an address, which it fills if it must.
func (n *naming) find(c *cache, node uint32, at int64, addr *[16]byte) *entry {
	e := &c.entries[c.place(node, addr)]
	if e.used && e.addr == *addr && e.node == node && at >= e.valid.from && at < e.valid.to {
		return e
	}
	s := n.side(node, at, addr)
	e.addr, e.node, e.used = *addr, node, true
	e.valid = span{s.From, s.Until}
	e.has, e.atPort = n.choice.has(&s, &e.valid)
	offset := n.nodes[node].offset
	e.valid.from, e.valid.to = shift(e.valid.from, offset), shift(e.valid.to, offset)
	e.name = e.name[:0]
	if n.annotate {
		e.name, e.known = n.appendName(e.name, &s)
	}
	return e
}

// side is whose an address was at a time by a node's clock.
func (n *naming) side(node uint32, at int64, addr *[16]byte) side {
	from := n.nodes[node]
	s := side{addr: netip.AddrFrom16(*addr).Unmap(), at: at - from.offset}
	s.Answer = n.table.At(s.addr, s.at, from.node)
	return s
}

// atPort decides on ends for which it depends on the ports, whether they serve a
// chosen service. All else is as it must be.
func (n *naming) atPort(node uint32, at int64, e *ends) bool {
	for _, end := range []struct {
		addr *[16]byte
		port *uint16
	}{{&e.src, &e.srcPort}, {&e.dst, &e.dstPort}} {
		s := n.side(node, at, end.addr)
		servers, _, _ := n.table.Serving(s.addr, s.at)
		if yes, _ := n.choice.serves(&s, servers, end.port); yes {
			return true
		}
	}
	return false
}

// shift is a time and a span. The ends of time stay.
func shift(t, by int64) int64 {
	if t == math.MinInt64 || t == math.MaxInt64 {
		return t
	}
	return int64(manifest.Nanos(t).Add(manifest.Nanos(by)))
}

// maxSaid is how many of those that may have had an address are named.
const maxSaid = 3

// appendName appends whose an address was; otherwise the address, and false.
func (n *naming) appendName(b []byte, s *side) (name []byte, known bool) {
	said, what := s.Pods, ""
	switch {
	case len(s.Pods) > 0:
	case s.Node != nil:
		return append(append(b, s.Node.Name...), " (node)"...), true
	case len(s.Services) > 0:
		said, what = s.Services, " (service)"
	case !s.Recorded && n.table.Ever(s.addr):
		return append(s.addr.AppendTo(b), " (not recorded)"...), true
	default:
		return s.addr.AppendTo(b), false
	}
	for i, o := range said {
		if i > 0 {
			b = append(b, " or "...)
		}
		if i == maxSaid {
			b = append(b, "others"...)
			break
		}
		if o.Namespace != "" {
			b = append(append(b, o.Namespace...), '/')
		}
		b = append(append(b, o.Name...), what...)
	}
	return b, true
}

// hostNames are what addresses were called from one time until another, as a name
// resolution block says it: name.namespace of a pod, name.namespace.svc of a
// service, the name of a node. A block knows no times: an address that several
// had has the name of who had it longest, with a + after it.
func hostNames(t *cluster.Table, from, to int64) []pcapng.Name {
	var out []pcapng.Name
	for _, n := range t.Names(from, to) {
		o := n.Object
		suffix := ""
		if o.Namespace != "" {
			suffix = "." + o.Namespace
		}
		if o.Kind == cluster.KindService {
			suffix += ".svc"
		}
		if n.Others {
			suffix += "+"
		}
		out = append(out, pcapng.Name{Addr: n.Addr, Name: shorten(o.Name, pcapng.MaxName-len(suffix)) + suffix})
	}
	return out
}

// shorten leaves out the middle of a name that is too long: its end tells pods of
// one kind apart.
func shorten(name string, limit int) string {
	if len(name) <= limit {
		return name
	}
	const tail = 12
	if limit < 2*tail {
		return name[:max(limit, 1)]
	}
	return strings.ToValidUTF8(name[:limit-tail-1]+"~"+name[len(name)-tail:], "")
}
