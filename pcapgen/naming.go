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
// is known of two addresses, with the comment as it stands in a block and the
// time for which all that holds, is kept in a cache.
type naming struct {
	table    *cluster.Table
	choice   *choice // nil: all packets
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
	n := &naming{table: t, choice: c, annotate: annotate}
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

// cache is of a fixed size: an entry is replaced by the next of its place.
type cache struct {
	entries [1 << 11]entry
}

// An entry is what is known of packets from one address to another, seen on one
// node in a time by its clock.
type entry struct {
	src, dst [16]byte
	node     uint32
	verdict  verdict
	used     bool
	valid    span
	comment  []byte // as an encoded option; empty when nothing is known
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
// something is known.
func (n *naming) look(c *cache, node uint32, at int64, t *nested) (wanted bool, comment []byte) {
	wanted = n.choice == nil
	for i := range t.n {
		e := &t.all[i]
		entry := c.find(node, e)
		if !entry.used || entry.node != node || entry.src != e.src || entry.dst != e.dst || at < entry.valid.from || at >= entry.valid.to {
			n.fill(entry, node, at, e)
		}
		switch entry.verdict {
		case keep:
			wanted = true
		case byPort:
			wanted = wanted || n.byPort(node, at, e)
		}
		if len(entry.comment) > 0 {
			comment = entry.comment
		}
	}
	return wanted, comment
}

// find is the place of two addresses.
func (c *cache) find(node uint32, e *ends) *entry {
	le := binary.LittleEndian
	const prime = 0x9e3779b97f4a7c15
	h := (le.Uint64(e.src[:]) ^ le.Uint64(e.src[8:])*prime ^ uint64(node)) * prime
	h = (h ^ h>>29 ^ le.Uint64(e.dst[:]) ^ le.Uint64(e.dst[8:])*prime) * prime
	return &c.entries[h>>(64-11)]
}

// fill makes an entry anew.
func (n *naming) fill(e *entry, node uint32, at int64, of *ends) {
	src, dst, v, valid := n.resolve(node, at, of, false)
	e.src, e.dst, e.node, e.used = of.src, of.dst, node, true
	e.verdict, e.valid = v, valid
	e.comment = e.comment[:0]
	if n.annotate && v != drop {
		if text := n.text(&src, &dst); text != "" {
			e.comment = pcapng.AppendOption(e.comment, pcapng.OptComment, []byte(text))
		}
	}
}

// byPort decides where it depends on the ports.
func (n *naming) byPort(node uint32, at int64, of *ends) bool {
	_, _, v, _ := n.resolve(node, at, of, true)
	return v == keep
}

// resolve tells whose the addresses of two ends were at a time by a node's clock,
// whether such a packet is wanted, and for which time all that holds.
func (n *naming) resolve(node uint32, at int64, of *ends, ports bool) (src, dst side, v verdict, valid span) {
	from := n.nodes[node]
	hub := at - from.offset
	src.addr, dst.addr = netip.AddrFrom16(of.src).Unmap(), netip.AddrFrom16(of.dst).Unmap()
	src.at, dst.at = hub, hub
	src.Answer, dst.Answer = n.table.At(src.addr, hub, from.node), n.table.At(dst.addr, hub, from.node)
	valid = span{max(src.From, dst.From), min(src.Until, dst.Until)}
	v = keep
	if n.choice != nil {
		v = n.choice.wants(&src, &dst, of.srcPort, of.dstPort, ports, &valid)
	}
	valid.from, valid.to = shift(valid.from, from.offset), shift(valid.to, from.offset)
	return src, dst, v, valid
}

// shift is a time and a span. The ends of time stay.
func shift(t, by int64) int64 {
	if t == math.MinInt64 || t == math.MaxInt64 {
		return t
	}
	return int64(manifest.Nanos(t).Add(manifest.Nanos(by)))
}

// text says who a packet is from and to, where something of that is known.
func (n *naming) text(src, dst *side) string {
	from, knownFrom := n.name(src)
	to, knownTo := n.name(dst)
	if !knownFrom && !knownTo {
		return ""
	}
	return from + " → " + to
}

// maxSaid is how many of those that may have had an address are named.
const maxSaid = 3

// name says whose an address was; otherwise it is the address.
func (n *naming) name(s *side) (name string, known bool) {
	var names []string
	switch {
	case len(s.Pods) > 0:
		for _, p := range s.Pods {
			names = append(names, p.Path())
		}
	case s.Node != nil:
		return s.Node.Name + " (node)", true
	case len(s.Services) > 0:
		for _, o := range s.Services {
			names = append(names, o.Path()+" (service)")
		}
	case !s.Recorded && n.table.Ever(s.addr):
		return s.addr.String() + " (not recorded)", true
	default:
		return s.addr.String(), false
	}
	if len(names) > maxSaid {
		names = append(names[:maxSaid], "others")
	}
	return strings.Join(names, " or "), true
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
