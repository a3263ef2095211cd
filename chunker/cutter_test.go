package chunker_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
)

func TestCutterInOrder(t *testing.T) {
	for _, stored := range []bool{false, true} {
		sink := new(memory)
		c := chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Packets, Header: header, TargetSize: 300_000}, sink)
		c.SetStored(stored)
		g := newTraffic(1)
		var want []packet
		for i := range 5000 {
			p := g.next()
			if i%1000 == 500 {
				p = g.long()
			}
			want = append(want, p)
			if err := c.Add(record(c, p)); err != nil {
				t.Fatal(err)
			}
			if i%700 == 0 {
				if err := c.Tick(p.Time); err != nil {
					t.Fatal(err)
				}
			}
		}
		c.Drops(17)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		var got []packet
		var drops uint64
		for _, k := range sink.chunks {
			got = append(got, read(t, k)...)
			drops += k.Meta.Drops
			if k.Meta.Size > 300_000+chunker.SnapLen+2*chunker.BlockSize {
				t.Errorf("a chunk of %d bytes", k.Meta.Size)
			}
		}
		if drops != 17 {
			t.Errorf("%d drops, want 17", drops)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("stored %v: %.4000s", stored, diff)
		}
	}
}

// cut takes packets through a cutter, and returns what comes out, chunk by
// chunk. Between the packets, turn may tick.
func cut(t *testing.T, cfg chunker.CutterConfig, ps []packet, turn func(c *chunker.Cutter, i int)) (chunks [][]packet) {
	t.Helper()
	sink := new(memory)
	cfg.Stream, cfg.Header = chunker.Packets, header
	c := chunker.NewCutter(cfg, sink)
	for i, p := range ps {
		if err := c.Add(record(c, p)); err != nil {
			t.Fatal(err)
		}
		if turn != nil {
			turn(c, i)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if sink.open != 0 {
		t.Fatalf("%d parts are open", sink.open)
	}
	for _, k := range sink.chunks {
		chunks = append(chunks, read(t, k))
	}
	return chunks
}

// byTime is what a stable sort by time makes of ps.
func byTime(ps []packet) []packet {
	ps = slices.Clone(ps)
	slices.SortStableFunc(ps, func(a, b packet) int { return int(min(max(a.Time-b.Time, -1), 1)) })
	return ps
}

func TestCutterOrdersWithinATick(t *testing.T) {
	g := newTraffic(2)
	var ps []packet
	for range 4000 {
		ps = append(ps, g.next())
	}
	rnd := rand.New(rand.NewPCG(4, 4))
	// CPUs hand packets on in lots, each up to 50 packets late.
	for i := 0; i+50 < len(ps); i += 25 {
		lot := ps[i : i+50]
		rnd.Shuffle(len(lot), func(a, b int) { lot[a], lot[b] = lot[b], lot[a] })
	}
	chunks := cut(t, chunker.CutterConfig{Hold: 8 << 20}, ps, func(c *chunker.Cutter, i int) {
		if i%300 == 0 {
			_ = c.Tick(ps[i].Time)
		}
	})
	if len(chunks) != 1 {
		t.Errorf("%d chunks, want 1", len(chunks))
	}
	if diff := cmp.Diff(byTime(ps), slices.Concat(chunks...)); diff != "" {
		t.Fatalf("(-want +got)\n%.3000s", diff)
	}
}

func TestCutterKeepsArrivalOrder(t *testing.T) {
	var ps []packet
	for i := range 3000 {
		ps = append(ps, packet{Time: int64(i / 1000 % 2), Interface: eth0, OrigLen: 2, Data: string([]byte{byte(i), byte(i >> 8)})})
	}
	chunks := cut(t, chunker.CutterConfig{}, ps, nil)
	if diff := cmp.Diff(byTime(ps), slices.Concat(chunks...)); diff != "" {
		t.Fatalf("(-want +got)\n%.3000s", diff)
	}
}

// TestCutterRandomOrder holds any order against what must always be: nothing is
// lost or doubled, each chunk is in order, and there are few of them.
func TestCutterRandomOrder(t *testing.T) {
	g := newTraffic(5)
	var ps []packet
	for range 3000 {
		ps = append(ps, g.next())
	}
	rnd := rand.New(rand.NewPCG(6, 6))
	for range 10 {
		rnd.Shuffle(len(ps), func(a, b int) { ps[a], ps[b] = ps[b], ps[a] })
		hold := 1 << (10 + rnd.IntN(12))
		every := 1 + rnd.IntN(500)
		ticks := 0
		chunks := cut(t, chunker.CutterConfig{Hold: hold, TargetSize: 1 << 20}, ps, func(c *chunker.Cutter, i int) {
			if i%every == 0 {
				ticks++
				_ = c.Tick(int64(i))
			}
		})
		if diff := cmp.Diff(byTime(ps), byTime(slices.Concat(chunks...))); diff != "" {
			t.Fatalf("hold %d: (-want +got)\n%.3000s", hold, diff)
		}
		bytes := 0
		for _, p := range ps {
			bytes += len(p.Data) + 60
		}
		if most := ticks + 2*bytes/hold + bytes>>20 + 8; len(chunks) > most {
			t.Errorf("hold %d: %d chunks, want at most %d", hold, len(chunks), most)
		}
	}
}

// TestClockSteps steps the clock back and forth. Nothing stays behind, and each
// step makes few chunks.
func TestClockSteps(t *testing.T) {
	g := newTraffic(7)
	const second = 1_000_000_000
	var ps []packet
	steps := []int64{0, -3600 * second, 0, 50 * 365 * 86400 * second, 0, -second, 0}
	for _, shift := range steps {
		for range 500 {
			p := g.next()
			p.Time += shift
			ps = append(ps, p)
		}
	}
	sink := new(memory)
	c := chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Packets, MaxAge: time.Minute}, sink)
	for i, p := range ps {
		if err := c.Add(record(c, p)); err != nil {
			t.Fatal(err)
		}
		if i%50 == 49 {
			if err := c.Tick(p.Time); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Two more ticks bring everything out.
	before := 0
	for range 2 {
		if err := c.Tick(ps[len(ps)-1].Time); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Tick(ps[len(ps)-1].Time + int64(time.Hour)); err != nil {
		t.Fatal(err)
	}
	for _, k := range sink.chunks {
		before += int(k.Meta.Records)
	}
	if before != len(ps) {
		t.Errorf("%d of %d packets came out after their time", before, len(ps))
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	var got []packet
	for _, k := range sink.chunks {
		got = append(got, read(t, k)...)
	}
	if diff := cmp.Diff(byTime(ps), byTime(got)); diff != "" {
		t.Fatalf("(-want +got)\n%.3000s", diff)
	}
	if len(sink.chunks) > 4*len(steps) {
		t.Errorf("%d chunks for %d steps", len(sink.chunks), len(steps))
	}
}

func TestCutterAge(t *testing.T) {
	sink := new(memory)
	c := chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Packets, MaxAge: 60}, sink)
	for now := int64(1000); now < 1200; now += 10 {
		p := packet{Time: now, Interface: eth0, OrigLen: 1, Data: "x"}
		if err := c.Add(record(c, p)); err != nil {
			t.Fatal(err)
		}
		if err := c.Tick(now); err != nil {
			t.Fatal(err)
		}
	}
	for i, k := range sink.chunks {
		// What came after the last tick is still held back when the chunk is cut.
		if want := int64(1000 + 60*i); k.Meta.First != want || k.Meta.Last != want+50 {
			t.Errorf("chunk %d: %d to %d", i, k.Meta.First, k.Meta.Last)
		}
	}
	if len(sink.chunks) != 3 {
		t.Errorf("%d chunks", len(sink.chunks))
	}
}

// TestTickSurvivesDeath recovers, after each tick, all that was added before the
// tick before.
func TestTickSurvivesDeath(t *testing.T) {
	var last *bytes.Buffer
	sink := sinkFunc(func() (chunker.Part, error) {
		p := &part{m: new(memory)}
		last = &p.buf
		return p, nil
	})
	c := chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Packets, Header: header}, sink)
	g := newTraffic(9)
	var ps []packet
	released := 0
	for range 30 {
		added := len(ps)
		for range g.rnd.IntN(30) {
			p := g.next()
			ps = append(ps, p)
			if err := c.Add(record(c, p)); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Tick(g.time); err != nil {
			t.Fatal(err)
		}
		if released = added; released == 0 {
			continue
		}
		got, ok := recoverBytes(t, last.Bytes(), chunker.Packets)
		if !ok {
			t.Fatalf("nothing recovered of %d packets", released)
		}
		if diff := cmp.Diff(ps[:released], read(t, got)); diff != "" {
			t.Fatalf("(-want +got)\n%.2000s", diff)
		}
	}
}

type sinkFunc func() (chunker.Part, error)

func (f sinkFunc) Create(string) (chunker.Part, error) { return f() }

// TestCutterSurvivesTheSink makes each operation of the sink fail for a while,
// and accounts for every packet.
func TestCutterSurvivesTheSink(t *testing.T) {
	full := errors.New("disk is full")
	for _, op := range []string{"create", "write", "seal"} {
		t.Run(op, func(t *testing.T) {
			broken := false
			fail := func() error {
				if broken {
					return full
				}
				return nil
			}
			sink := new(memory)
			switch op {
			case "create":
				sink.create = fail
			case "write":
				sink.write = func([]byte) error { return fail() }
			case "seal":
				sink.seal = fail
			}
			var lost uint64
			var last int64
			reports := 0
			c := chunker.NewCutter(chunker.CutterConfig{
				Stream: chunker.Packets, Header: header, TargetSize: 200_000,
				OnLost: func(n uint64, from, to int64, err error) {
					if !errors.Is(err, full) || n == 0 || from > to || from < last {
						t.Errorf("lost %d from %d to %d: %v", n, from, to, err)
					}
					reports++
					lost += n
					last = to
				},
			}, sink)
			g := newTraffic(11)
			total := 0
			for i := range 3000 {
				broken = i > 1000 && i < 2000
				p := g.next()
				total++
				if err := c.Add(record(c, p)); err != nil {
					t.Fatal(err)
				}
				if i%100 == 0 {
					if err := c.Tick(p.Time); err != nil {
						t.Fatal(err)
					}
				}
				c.Drops(1)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			var kept, drops uint64
			for _, k := range sink.chunks {
				kept += uint64(len(read(t, k)))
				drops += k.Meta.Drops
			}
			if kept+lost != uint64(total) || lost < 300 || lost > 2000 || drops != 3000 {
				t.Errorf("kept %d and lost %d of %d, drops %d", kept, lost, total, drops)
			}
			if reports < 1 || sink.open != 0 {
				t.Errorf("%d reports, %d parts open", reports, sink.open)
			}
		})
	}
}

// TestSinkErrorWithoutOnLost returns it, and sticks to it.
func TestSinkErrorWithoutOnLost(t *testing.T) {
	full := errors.New("disk is full")
	sink := &memory{create: func() error { return full }}
	c := chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Packets}, sink)
	p := packet{Time: 1, Interface: eth0, OrigLen: 1, Data: "x"}
	if err := c.Add(record(c, p)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Cut(); !errors.Is(err, full) {
			t.Errorf("cut: %v", err)
		}
	}
	if err := c.Add(record(c, p)); !errors.Is(err, full) {
		t.Errorf("add: %v", err)
	}
	if err := c.Close(); !errors.Is(err, full) {
		t.Errorf("close: %v", err)
	}
}

// TestRefused holds what no chunk can hold out of it, and the rest in.
func TestRefused(t *testing.T) {
	sink := new(memory)
	c := chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Packets, Header: header}, sink)
	i := c.Interface(eth0)
	for name, r := range map[string]*chunker.Record{
		"too long":         {Interface: i, OrigLen: 1 << 20, Data: make([]byte, chunker.SnapLen+1)},
		"options too long": {Interface: i, Options: make([]byte, chunker.MaxOptions+4)},
		"options":          {Interface: i, Options: []byte("\x01\x00\x05\x00")},
		"flags twice":      {Interface: i, Options: []byte("\x02\x00\x04\x00\x00\x00\x00\x00")},
		"interface":        {Interface: 77},
		"before 1970":      {Interface: i, Time: -1},
		"original length":  {Interface: i, OrigLen: 1, Data: []byte("xx")},
	} {
		if err := c.Add(r); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if err := c.Add(&chunker.Record{Interface: i, OrigLen: 1 << 20, Data: make([]byte, chunker.SnapLen+1)}); !errors.Is(err, chunker.ErrTooLong) {
		t.Errorf("too long: %v", err)
	}
	if err := c.Event(1, []byte(`{"ts":"1"}`)); err == nil {
		t.Error("an event is accepted among packets")
	}
	longest := packet{Time: 1, Interface: eth0, OrigLen: 1 << 20, Flags: 1, Data: newTraffic(1).long().Data}
	longest.Options = "\x01\x00\xfc\xff" + strings.Repeat("c", chunker.MaxOptions-4)
	empty := packet{Time: 2, Interface: eth0}
	for _, p := range []packet{longest, empty} {
		if err := c.Add(record(c, p)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]packet{longest, empty}, read(t, sink.chunks[0])); diff != "" {
		t.Errorf("(-want +got)\n%.1000s", diff)
	}
	if err := c.Add(record(c, empty)); err == nil {
		t.Error("a closed cutter accepts packets")
	}
}

func TestCutterEvents(t *testing.T) {
	sink := new(memory)
	c := chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Kubernetes, TargetSize: 100_000}, sink)
	rnd := rand.New(rand.NewPCG(1, 9))
	var want []string
	for i := range 300 {
		at := int64(1000 + i)
		filler := make([]byte, rnd.IntN(200))
		if i%50 == 0 {
			filler = make([]byte, chunker.BlockSize*(i/50))
		}
		for j := range filler {
			filler[j] = "0123456789abcdef"[rnd.IntN(16)]
		}
		line := fmt.Sprintf(`{"ts":"%d","x":"%s"}`, at, filler)
		want = append(want, line)
		if err := c.Event(at, []byte(line)); err != nil {
			t.Fatal(err)
		}
		if i%20 == 0 {
			_ = c.Tick(at)
		}
	}
	for _, line := range []string{`{"ts":"1300","lost":"1"}`, `{"ts":"1301"}`, "{\"ts\":\"1300\"\n}", `{"ts":"1300"`, ``} {
		if err := c.Event(1300, []byte(line)); err == nil {
			t.Errorf("%q is accepted", line)
		}
	}
	c.Drops(3)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	var drops uint64
	for _, k := range sink.chunks {
		got = append(got, events(t, k)...)
		drops += k.Meta.Drops
	}
	if diff := cmp.Diff(want, got); diff != "" || drops != 3 {
		t.Errorf("%d drops, (-want +got)\n%.1000s", drops, diff)
	}
}

// TestManyInterfaces has more of them than an lz4 block can describe.
func TestManyInterfaces(t *testing.T) {
	var ps []packet
	for i := range 5000 {
		ps = append(ps, packet{
			Time: int64(i), OrigLen: 1, Data: "x",
			Interface: chunker.Interface{Name: fmt.Sprintf("veth%d", i%2000), Description: strings.Repeat("d", i%2000), LinkType: uint16(i % 3)},
		})
		if n := len(ps[i].Interface.Description); n > 1024 {
			ps[i].Interface.Description = ps[i].Interface.Description[:1024]
		}
	}
	chunks := cut(t, chunker.CutterConfig{TargetSize: 50_000}, ps, nil)
	if diff := cmp.Diff(ps, slices.Concat(chunks...)); diff != "" {
		t.Fatalf("(-want +got)\n%.3000s", diff)
	}
	if len(chunks) < 2 {
		t.Errorf("%d chunks", len(chunks))
	}
}

func TestAMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second")
	}
	sink := new(memory)
	c := chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Packets, Header: header}, sink)
	i := c.Interface(eth0)
	data := make([]byte, 90)
	const n = 1_000_000
	allocs := testing.AllocsPerRun(1, func() {
		for k := range n / 2 {
			binary.BigEndian.PutUint64(data[30:], uint64(k)*0x9e3779b97f4a7c15)
			if err := c.Add(&chunker.Record{Time: int64(k) << 10, Interface: i, OrigLen: 90, Data: data[:60+k%30]}); err != nil {
				t.Fatal(err)
			}
		}
	})
	if allocs > 3000 { // chunks, and their buffers in memory
		t.Errorf("%v allocations", allocs)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	records := uint64(0)
	for _, k := range sink.chunks {
		last := int64(-1)
		r, err := chunker.Open(bytes.NewReader(k.Bytes), k.Meta.Size, k.Meta.Hash, chunker.Packets)
		if err != nil {
			t.Fatal(err)
		}
		for rec, err := range r.Records() {
			if err != nil {
				t.Fatal(err)
			}
			if rec.Time < last {
				t.Fatalf("%d after %d", rec.Time, last)
			}
			last = rec.Time
			records++
		}
		if r.Meta() != k.Meta {
			t.Fatalf("%+v", r.Meta())
		}
	}
	if records != n {
		t.Errorf("%d records, want %d", records, n)
	}
}
