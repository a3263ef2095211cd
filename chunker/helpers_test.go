package chunker_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"pcapsule/chunker"
)

var eth0 = chunker.Interface{Name: "eth0", Description: "the first one", LinkType: 1}

var header = chunker.Header{Node: "worker-1", OS: "Linux 6.18", Application: "pcapsule test"}

// A chunk is one that a memory sink sealed.
type chunk struct {
	Meta  chunker.Meta
	Bytes []byte
}

// memory is a sink that checks the contract of Part.
type memory struct {
	chunks  []chunk
	open    int // parts
	aborted int
	create  func() error
	write   func(b []byte) error
	seal    func() error
}

func (m *memory) Create(stream string) (chunker.Part, error) {
	if m.create != nil {
		if err := m.create(); err != nil {
			return nil, err
		}
	}
	m.open++
	return &part{m: m}, nil
}

type part struct {
	m     *memory
	buf   bytes.Buffer
	ended bool
}

func (p *part) Write(b []byte) (int, error) {
	if p.ended {
		return 0, errors.New("write after the end")
	}
	if p.m.write != nil {
		if err := p.m.write(b); err != nil {
			return 0, err
		}
	}
	return p.buf.Write(b)
}

func (p *part) end() {
	if p.ended {
		panic("part ended twice")
	}
	p.ended = true
	p.m.open--
}

func (p *part) Seal(meta chunker.Meta) error {
	p.end()
	if p.m.seal != nil {
		if err := p.m.seal(); err != nil {
			return err
		}
	}
	p.m.chunks = append(p.m.chunks, chunk{meta, p.buf.Bytes()})
	return nil
}

func (p *part) Abort() error {
	p.end()
	p.m.aborted++
	return nil
}

// A packet is a record that keeps its bytes, with its interface in full.
type packet struct {
	Time      int64
	Interface chunker.Interface
	OrigLen   uint32
	Flags     uint32
	Options   string
	Data      string
}

// read returns the packets of a chunk, after it was found valid and as its meta
// says.
func read(t testing.TB, c chunk) []packet {
	t.Helper()
	r, err := chunker.Open(bytes.NewReader(c.Bytes), int64(len(c.Bytes)), c.Meta.Hash, c.Meta.Stream)
	if err != nil {
		t.Fatal(err)
	}
	var all []packet
	for rec, err := range r.Records() {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, packet{
			rec.Time, r.Interfaces()[rec.Interface], rec.OrigLen, rec.Flags, string(rec.Options), string(rec.Data),
		})
	}
	if got := r.Meta(); got != c.Meta {
		t.Fatalf("the reader computes %+v, the writer %+v", got, c.Meta)
	}
	return all
}

// events returns the lines of a chunk, after it was found valid and as its meta
// says.
func events(t testing.TB, c chunk) []string {
	t.Helper()
	r, err := chunker.Open(bytes.NewReader(c.Bytes), int64(len(c.Bytes)), c.Meta.Hash, c.Meta.Stream)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	var b chunker.Batch
	for {
		err := r.Next(&b)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range b.Len() {
			all = append(all, string(b.Event(i)))
		}
	}
	if got := r.Meta(); got != c.Meta {
		t.Fatalf("the reader computes %+v, the writer %+v", got, c.Meta)
	}
	return all
}

// traffic makes packets that look like some: flows with common headers, payloads
// of random bytes or of text, and now and then everything that a record can be.
type traffic struct {
	rnd   *rand.Rand
	time  int64
	ports []chunker.Interface
}

func newTraffic(seed uint64) *traffic {
	g := &traffic{rnd: rand.New(rand.NewPCG(seed, 1)), time: 1_700_000_000_000_000_000}
	for i := range 5 {
		g.ports = append(g.ports, chunker.Interface{Name: fmt.Sprintf("veth%d", i), LinkType: 1})
	}
	g.ports[4].LinkType = 276
	return g
}

func (g *traffic) next() packet {
	g.time += int64(g.rnd.ExpFloat64() * 20_000)
	n := 60 + g.rnd.IntN(60)
	switch g.rnd.IntN(40) {
	case 0, 1, 2, 3, 4, 5:
		n = 1514
	case 6:
		n = g.rnd.IntN(4)
	case 7:
		n = g.rnd.IntN(66_000)
	}
	data := make([]byte, n)
	for i := range data {
		data[i] = "GET / HTTP/1.1\r\nHost: "[i%22]
	}
	if g.rnd.IntN(3) == 0 {
		for i := 40; i < n; i++ {
			data[i] = byte(g.rnd.Uint32())
		}
	}
	if n > 40 {
		binary.BigEndian.PutUint32(data[26:], g.rnd.Uint32N(50))
		binary.BigEndian.PutUint64(data[32:], g.rnd.Uint64())
	}
	p := packet{
		Time: g.time, Interface: g.ports[g.rnd.IntN(len(g.ports))], OrigLen: uint32(n), Data: string(data),
	}
	switch g.rnd.IntN(20) {
	case 0:
		p.OrigLen += g.rnd.Uint32N(10000)
	case 1, 2, 3, 4, 5, 6, 7, 8:
		p.Flags = chunker.FlagInbound
	case 9:
		p.Flags = chunker.FlagOutbound | chunker.FlagChecksumNotReady
	case 10:
		p.Options = "\x01\x00\x05\x00hello\x00\x00\x00"
	}
	return p
}

// long is a packet of the greatest length.
func (g *traffic) long() packet {
	p := g.next()
	data := make([]byte, chunker.SnapLen)
	for i := range data {
		data[i] = byte(i / 100)
	}
	p.OrigLen, p.Data = uint32(len(data)), string(data)
	return p
}

// An adder is a Cutter or a Writer.
type adder interface {
	Interface(chunker.Interface) uint32
}

func record(a adder, p packet) *chunker.Record {
	return &chunker.Record{
		Time: p.Time, Interface: a.Interface(p.Interface), OrigLen: p.OrigLen, Flags: p.Flags,
		Options: []byte(p.Options), Data: []byte(p.Data),
	}
}
