package pcapgen

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"pcapsule/chunker"
	"pcapsule/internal/pcapng"
	"pcapsule/manifest"
	"pcapsule/store"
)

// objects is a store that reads from memory, as a stream, as a bucket does.
type objects struct {
	store.Store // nil: an export only gets

	mu    sync.Mutex
	bytes map[string][]byte
	get   func(ctx context.Context, key string) error // called before each Get, when set
}

func (o *objects) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	o.mu.Lock()
	b, ok := o.bytes[key]
	get := o.get
	o.mu.Unlock()
	if !ok {
		return nil, store.ErrNotExist
	}
	if get != nil {
		if err := get(ctx, key); err != nil {
			return nil, err
		}
	}
	b = b[min(off, int64(len(b))):]
	if n >= 0 {
		b = b[:min(n, int64(len(b)))]
	}
	return io.NopCloser(bytes.NewBuffer(b)), nil
}

// A snapshot is what tests export: chunks as the writer makes them, in a store
// in memory.
type snapshot struct {
	t           testing.TB
	m           manifest.Manifest
	store       *objects
	inventories map[string][]manifest.Entry
	stored      bool // chunks are not compressed
}

const (
	t0     = 1700000000000000000
	second = 1000000000
)

// newSnapshot has a window of an hour from t0 on.
func newSnapshot(t testing.TB) *snapshot {
	return &snapshot{
		t: t,
		m: manifest.Manifest{
			Format: manifest.Format, Version: manifest.Version,
			ID: "20231114t221320z-test", Name: "outage", Status: manifest.Completed,
			Window: manifest.Interval{From: t0, To: t0 + 3600*second},
		},
		store:       &objects{bytes: map[string][]byte{}},
		inventories: map[string][]manifest.Entry{},
	}
}

func ethernet(name string) chunker.Interface { return chunker.Interface{Name: name, LinkType: 1} }

// node adds a node. Records number its interfaces in the order given here.
func (s *snapshot) node(name string, ifs ...chunker.Interface) *manifest.Node {
	sorted := slices.SortedFunc(slices.Values(ifs), compareInterfaces)
	s.m.Nodes = append(s.m.Nodes, manifest.Node{
		Name: name, Status: manifest.Completed, Interfaces: sorted,
		Streams: []manifest.Stream{{Stream: chunker.Packets, Inventory: name}},
	})
	return &s.m.Nodes[len(s.m.Nodes)-1]
}

// chunk adds a chunk of a node's records and returns its key.
func (s *snapshot) chunk(node string, ifs []chunker.Interface, records []chunker.Record) string {
	s.t.Helper()
	var b bytes.Buffer
	w, err := chunker.NewWriter(&b, chunker.Packets, chunker.Header{Node: node})
	if err != nil {
		s.t.Fatal(err)
	}
	w.SetStored(s.stored)
	for _, i := range ifs {
		w.Interface(i)
	}
	for i := range records {
		if err := w.Record(&records[i]); err != nil {
			s.t.Fatal(err)
		}
	}
	meta, err := w.Close(3)
	if err != nil {
		s.t.Fatal(err)
	}
	key := manifest.ObjectKey{Kind: manifest.KindChunk, Hash: meta.Hash, Ext: chunker.PacketsExt}.String()
	sum := sha256.Sum256(b.Bytes())
	s.store.bytes[key] = b.Bytes()
	s.inventories[node] = append(s.inventories[node], manifest.Entry{
		Key: key, Size: meta.Size, RawSize: meta.RawSize, SHA256: hex.EncodeToString(sum[:]),
		First: manifest.Nanos(meta.First), Last: manifest.Nanos(meta.Last), Records: meta.Records, Drops: meta.Drops,
	})
	slices.SortFunc(s.inventories[node], func(a, b manifest.Entry) int {
		return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last), cmp.Compare(a.Key, b.Key))
	})
	return key
}

// clone is a snapshot that can be damaged.
func (s *snapshot) clone(t testing.TB) *snapshot {
	c := *s
	c.t = t
	c.store = &objects{bytes: maps.Clone(s.store.bytes)}
	c.inventories = map[string][]manifest.Entry{}
	for node, entries := range s.inventories {
		c.inventories[node] = slices.Clone(entries)
	}
	return &c
}

func (s *snapshot) source() Source {
	return Source{
		Manifest: &s.m, Store: s.store,
		Inventory: func(_ context.Context, st manifest.Stream) ([]manifest.Entry, error) {
			return s.inventories[st.Inventory], nil
		},
	}
}

// export must succeed.
func (s *snapshot) export(req Request) ([]byte, Stats) {
	s.t.Helper()
	var b bytes.Buffer
	stats, err := Export(s.t.Context(), &b, s.source(), req)
	if err != nil {
		s.t.Fatal(err)
	}
	if stats.Bytes != int64(b.Len()) {
		s.t.Errorf("Stats.Bytes is %d, and %d were written", stats.Bytes, b.Len())
	}
	return b.Bytes(), stats
}

// packet is a record whose data says who it is.
func packet(time int64, ifc uint32, tag uint64, size int) chunker.Record {
	data := make([]byte, 14+8, 14+8+size)
	data[12], data[13] = 0x88, 0xb5 // an EtherType for experiments
	binary.BigEndian.PutUint64(data[14:], tag)
	rnd := rand.NewChaCha8([32]byte{byte(tag), byte(tag >> 8)})
	data = data[:14+8+size]
	rnd.Read(data[14+8:])
	return chunker.Record{Time: time, Interface: ifc, OrigLen: uint32(len(data)), Data: data}
}

// A section is a parsed export.
type section struct {
	header     pcapng.SectionHeader
	interfaces []pcapng.Interface
	packets    []pcapng.Packet
	statistics []pcapng.Statistics
}

func parse(b []byte) (section, error) {
	var s section
	for len(b) > 0 {
		typ, total, err := pcapng.Header(b)
		if err != nil {
			return s, err
		}
		if int(total) > len(b) {
			return s, io.ErrUnexpectedEOF
		}
		block := b[:total]
		b = b[total:]
		switch typ {
		case pcapng.BlockSHB:
			s.header, err = pcapng.ParseSectionHeader(block)
		case pcapng.BlockIDB:
			var i pcapng.Interface
			i, err = pcapng.ParseInterface(block)
			s.interfaces = append(s.interfaces, i)
		case pcapng.BlockEPB:
			var p pcapng.Packet
			err = pcapng.ParsePacket(block, &p)
			s.packets = append(s.packets, p)
		case pcapng.BlockISB:
			var st pcapng.Statistics
			st, err = pcapng.ParseStatistics(block)
			s.statistics = append(s.statistics, st)
		default:
			err = fmt.Errorf("block type %d", typ)
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// naive merges the records of the snapshot as the package comment says, the slow
// way: look at the next record of every chunk, take the lowest.
func (s *snapshot) naive(from, to int64) []pcapng.Packet {
	type queue struct {
		order   int
		numbers []uint32
		records []chunker.Record
	}
	var queues []queue
	base := uint32(0)
	nodes := slices.SortedFunc(slices.Values(s.m.Nodes), func(a, b manifest.Node) int { return cmp.Compare(a.Name, b.Name) })
	for _, n := range nodes {
		for _, e := range s.inventories[n.Name] {
			q := queue{order: len(queues)}
			for _, i := range chunkInterfaces(s.t, s.store.bytes[e.Key]) {
				q.numbers = append(q.numbers, base+uint32(slices.Index(n.Interfaces, i)))
			}
			for _, r := range chunkRecords(s.t, s.store.bytes[e.Key]) {
				if r.Time >= from && r.Time < to {
					r.Interface = q.numbers[r.Interface]
					q.records = append(q.records, r)
				}
			}
			queues = append(queues, q)
		}
		base += uint32(len(n.Interfaces))
	}
	var out []pcapng.Packet
	for {
		queues = slices.DeleteFunc(queues, func(q queue) bool { return len(q.records) == 0 })
		if len(queues) == 0 {
			return out
		}
		at := slices.MinFunc(seq(len(queues)), func(i, j int) int {
			a, b := queues[i], queues[j]
			return cmp.Or(
				cmp.Compare(a.records[0].Time, b.records[0].Time),
				cmp.Compare(a.records[0].Interface, b.records[0].Interface),
				cmp.Compare(a.order, b.order),
			)
		})
		r := queues[at].records[0]
		queues[at].records = queues[at].records[1:]
		out = append(out, pcapng.Packet{
			Interface: r.Interface, Time: r.Time, OrigLen: r.OrigLen, Flags: r.Flags, Options: r.Options, Data: r.Data,
		})
	}
}

func seq(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

func readChunk(t testing.TB, b []byte) *chunker.Reader {
	t.Helper()
	r, err := chunker.Open(bytes.NewReader(b), int64(len(b)), chunker.HashOf(b), chunker.Packets)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func chunkRecords(t testing.TB, b []byte) []chunker.Record {
	t.Helper()
	var out []chunker.Record
	for r, err := range readChunk(t, b).Records() {
		if err != nil {
			t.Fatal(err)
		}
		c := *r
		c.Data, c.Options = slices.Clone(r.Data), slices.Clone(r.Options)
		out = append(out, c)
	}
	return out
}

func chunkInterfaces(t testing.TB, b []byte) []chunker.Interface {
	t.Helper()
	r := readChunk(t, b)
	for range r.Records() {
	}
	return r.Interfaces()
}

// mixed is a snapshot of several nodes and interfaces whose chunks overlap and
// whose times often coincide.
func mixed(t testing.TB, seed uint64, chunks, packets int) *snapshot {
	rnd := rand.New(rand.NewPCG(seed, 2))
	s := newSnapshot(t)
	for _, name := range []string{"b", "a", "c"} {
		ifs := []chunker.Interface{ethernet("eth1"), ethernet("eth0"), {Name: "eth0", Description: "vlan", LinkType: 1}}
		s.node(name, ifs...)
		for c := range chunks {
			var records []chunker.Record
			at := t0 + rnd.Int64N(int64(packets))
			for n := range packets {
				at += rnd.Int64N(3)
				if rnd.IntN(50) == 0 {
					at += rnd.Int64N(1000)
				}
				r := packet(at, uint32(rnd.IntN(len(ifs))), uint64(c)<<32|uint64(n), rnd.IntN(1500))
				r.OrigLen += uint32(rnd.IntN(2))
				r.Flags = uint32(rnd.IntN(3))
				if rnd.IntN(20) == 0 {
					r.Options = pcapng.AppendOption(nil, pcapng.OptComment, []byte("a comment"))
				}
				records = append(records, r)
			}
			s.chunk(name, ifs, records)
		}
	}
	return s
}
