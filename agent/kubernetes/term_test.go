package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/agent/ring"
	"pcapsule/chunker"
	"pcapsule/cluster"
	"pcapsule/manifest"
)

const (
	t0  = 1764000000 * int64(time.Second)
	sec = int64(time.Second)
)

// recorded are the chunks of the stream in a ring, verified, in order of time.
func recorded(t testing.TB, r *ring.Ring, dir string) (chunks [][]cluster.Record) {
	t.Helper()
	if err := r.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Sealed() {
		if c.Stream != chunker.Kubernetes {
			continue
		}
		files, err := filepath.Glob(filepath.Join(dir, chunker.Kubernetes, "*"+c.Hash.String()+"*"))
		if err != nil || len(files) != 1 {
			t.Fatalf("chunk %s is in %d files, %v", c.Hash, len(files), err)
		}
		b, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		chunks = append(chunks, decodeChunk(t, b, c.Hash))
	}
	return chunks
}

func decodeChunk(t testing.TB, b []byte, hash chunker.Hash) (records []cluster.Record) {
	t.Helper()
	r, err := chunker.Open(strings.NewReader(string(b)), int64(len(b)), hash, chunker.Kubernetes)
	if err != nil {
		t.Fatal(err)
	}
	var batch chunker.Batch
	for {
		err := r.Next(&batch)
		if errors.Is(err, io.EOF) {
			return records
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range batch.Len() {
			rec, err := cluster.Decode(batch.Event(i))
			if err != nil {
				t.Fatal(err)
			}
			records = append(records, rec)
		}
	}
}

// ops are records in short: seconds since t0, op, and the name of the object.
func ops(records []cluster.Record) (out []string) {
	for _, r := range records {
		s := fmt.Sprintf("%g %s", float64(int64(r.Time)-t0)/1e9, r.Op)
		if m := r.Meta(); m != nil {
			s += " " + m.Name
		}
		if r.Gap != nil {
			s += fmt.Sprintf(" from %g", float64(int64(r.Gap.From)-t0)/1e9)
		}
		if r.Keyframe != nil && len(r.Keyframe.Missing) > 0 {
			s += " without " + strings.Join(r.Keyframe.Missing, ",")
		}
		out = append(out, s)
	}
	return out
}

// A bench is a term without an API server: its news and its clock come from the
// test.
type bench struct {
	*term
	ring *ring.Ring
	dir  string
	at   int64 // what the clock shows
}

func newBench(t testing.TB, limit int64) *bench {
	t.Helper()
	b := &bench{dir: t.TempDir(), at: t0}
	var err error
	b.ring, err = ring.Open(b.dir, ring.Options{Limit: limit, PartSize: 1 << 20, Now: func() time.Time { return time.Unix(0, t0+3600*sec) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.ring.Close() })
	b.term = b.newTerm(b.ring)
	return b
}

func (b *bench) newTerm(k keeper) *term {
	views := newViews()
	return &term{
		log: slog.New(slog.DiscardHandler), now: func() time.Time { return time.Unix(0, b.at) },
		maxAge: DefaultMaxAge, nodes: new(atomic.Int64), views: views,
		chunks: &chunks{ring: k, views: views, keyframe: func() *cluster.Keyframe { return views.keyframe("n1", manifest.Clock{Error: 1}) }},
	}
}

// index of a resource.
func index(name string) int {
	for i, r := range resources() {
		if r.name == name {
			return i
		}
	}
	panic(name)
}

// hears gives the term a news of a resource at a second after t0.
func (b *bench) hears(second float64, name string, kind newsKind, objects ...cluster.Record) {
	b.at = t0 + int64(second*1e9)
	if len(objects) == 0 {
		b.hear(b.at, news{source: index(name), kind: kind, err: errors.New("because")})
	}
	for _, r := range objects {
		o, err := newObject(&r)
		if err != nil {
			panic(err)
		}
		b.hear(b.at, news{source: index(name), kind: kind, object: o})
	}
}

// listAll lists every resource of the state, with these pods, and events.
func (b *bench) listAll(second float64, pods ...cluster.Record) {
	for _, r := range resources() {
		b.hears(second, r.name, began)
		if r.name == "pods" && len(pods) > 0 {
			b.hears(second, r.name, listed, pods...)
		}
		b.hears(second, r.name, ended)
	}
}

func (b *bench) ticks(second float64) {
	b.at = t0 + int64(second*1e9)
	b.tick(b.at)
}

func podOf(name, node string) cluster.Record {
	return cluster.Record{Pod: &cluster.Pod{Meta: cluster.Meta{UID: "uid-" + name, Namespace: "shop", Name: name}, Node: node}}
}

func eventOf(name string, count int) cluster.Record {
	return cluster.Record{Event: &cluster.Event{Meta: cluster.Meta{UID: "uid-" + name, Namespace: "shop", Name: name}, Count: count}}
}

func (b *bench) ledger(t testing.TB, from, to float64) ring.Ledger {
	t.Helper()
	return b.ring.Ledger(chunker.Kubernetes, t0+int64(from*1e9), t0+int64(to*1e9))
}

// seconds are intervals in seconds since t0.
func seconds(list []manifest.Interval) (out [][2]float64) {
	for _, i := range list {
		out = append(out, [2]float64{float64(int64(i.From)-t0) / 1e9, float64(int64(i.To)-t0) / 1e9})
	}
	return out
}

func gapList(list []manifest.Gap) (out []string) {
	for _, g := range list {
		out = append(out, fmt.Sprintf("%s %g-%g", g.Reason, float64(int64(g.From)-t0)/1e9, float64(int64(g.To)-t0)/1e9))
	}
	return out
}

func wantOps(t testing.TB, b *bench, want [][]string) {
	t.Helper()
	var got [][]string
	for _, c := range recorded(t, b.ring, b.dir) {
		got = append(got, ops(c))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("chunks (-want +got):\n%s", d)
	}
}

// Chunks follow each other without a gap, and each has the whole state.
func TestChunksFollow(t *testing.T) {
	b := newBench(t, 64<<20)
	b.listAll(0, podOf("a", ""), podOf("b", ""))
	b.hears(1, "pods", changed, podOf("a", "n1"))
	b.hears(1.5, "pods", changed, podOf("a", "n1")) // nothing that is recorded
	b.hears(2, "events", changed, eventOf("pulled", 1), eventOf("pulled", 2))
	b.hears(3, "pods", deleted, podOf("b", ""))
	for s := 4; s <= 65; s++ {
		b.ticks(float64(s))
	}
	done := make(chan struct{})
	b.at = t0 + 70*sec
	b.answer(request{cut: done})
	<-done
	b.hears(71, "pods", changed, podOf("c", ""))
	b.end(t0 + 80*sec)
	wantOps(t, b, [][]string{
		{
			"0 keyframe", "0 state a", "0 state b", "0 complete", "1 set a", "2 event pulled", "2 event pulled", "3 gone b",
			"10 alive", "20 alive", "30 alive", "40 alive", "50 alive", "60 alive", "70 alive",
		},
		{"70 keyframe", "70 state a", "70 complete", "71 set c", "80 alive"},
	})
	l := b.ledger(t, 0, 80)
	if d := cmp.Diff([][2]float64{{0, 80}}, seconds(l.Coverage)); d != "" || len(l.Gaps) > 0 {
		t.Errorf("coverage (-want +got):\n%s\n%v", d, gapList(l.Gaps))
	}
}

// A watch that comes back with all that happened, soon, leaves no trace; later,
// or after a new list, it leaves a gap of just that time.
func TestWatchLost(t *testing.T) {
	b := newBench(t, 64<<20)
	b.listAll(0, podOf("a", ""), podOf("b", ""))
	b.hears(10, "pods", lost)
	b.hears(11, "pods", resumed)
	b.hears(20, "services", lost)
	b.hears(20.5, "pods", lost)
	for s := 21; s < 40; s++ {
		b.ticks(float64(s)) // nobody is alive
	}
	b.hears(40, "services", resumed)
	b.hears(41, "pods", began)
	b.hears(41, "pods", listed, podOf("b", "n2"), podOf("c", ""))
	b.hears(42, "pods", ended)
	b.hears(50, "pods", lost)
	b.hears(50.5, "pods", began)
	b.hears(50.5, "pods", listed, podOf("b", "n2"), podOf("c", ""))
	b.hears(51, "pods", ended) // nothing has changed, but who knows
	b.end(t0 + 60*sec)
	wantOps(t, b, [][]string{{
		"0 keyframe", "0 state a", "0 state b", "0 complete", "10 alive", "20 alive",
		"41 set b", "41 set c", "42 gone a", "42 gap from 20",
		"50 alive", "51 gap from 50", "60 alive",
	}})
	l := b.ledger(t, 0, 60)
	if d := cmp.Diff([][2]float64{{0, 20}, {42, 50}, {51, 60}}, seconds(l.Coverage)); d != "" {
		t.Errorf("coverage (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"watch-lost 20-42", "watch-lost 50-51"}, gapList(l.Gaps)); d != "" {
		t.Errorf("gaps (-want +got):\n%s", d)
	}
}

// A connection that was dead for a while takes back what was said meanwhile.
func TestSilentWatch(t *testing.T) {
	b := newBench(t, 64<<20)
	b.listAll(0)
	b.ticks(31)
	b.at = t0 + 60*sec
	b.hear(b.at, news{source: index("pods"), kind: lost, away: 45 * time.Second})
	b.hears(61, "pods", resumed)
	b.end(t0 + 70*sec)
	wantOps(t, b, [][]string{{"0 keyframe", "0 complete", "31 alive", "61 gap from 15", "70 alive"}})
	if d := cmp.Diff([][2]float64{{0, 15}, {61, 70}}, seconds(b.ledger(t, 0, 70).Coverage)); d != "" {
		t.Errorf("coverage (-want +got):\n%s", d)
	}
}

// Who dies or loses the Lease during an outage claims nothing of it.
func TestEndsDuringOutage(t *testing.T) {
	b := newBench(t, 64<<20)
	b.listAll(0, podOf("a", ""))
	b.hears(7, "pods", lost)
	b.end(t0 + 20*sec)
	if b.until != t0+7*sec {
		t.Errorf("recorded until %d", (b.until-t0)/sec)
	}
	next := b.newTerm(b.ring)
	next.since = b.until
	b.term = next
	b.listAll(30, podOf("b", ""))
	b.end(t0 + 40*sec)
	wantOps(t, b, [][]string{
		{"0 keyframe", "0 state a", "0 complete", "7 alive"},
		{"30 keyframe", "30 state b", "30 complete", "30 gap from 7", "40 alive"},
	})
	l := b.ledger(t, 0, 40)
	if d := cmp.Diff([][2]float64{{0, 7}, {30, 40}}, seconds(l.Coverage)); d != "" {
		t.Errorf("coverage (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"watch-lost 7-30"}, gapList(l.Gaps)); d != "" {
		t.Errorf("gaps (-want +got):\n%s", d)
	}
}

// Who loses the Lease because the API server says nothing any more, claims nothing
// of the time in which no watch had noticed that.
func TestEndsInSilence(t *testing.T) {
	b := newBench(t, 64<<20)
	b.listAll(0, podOf("a", ""))
	for s := 1; s <= 23; s++ {
		b.ticks(float64(s))
	}
	b.at = t0 + 24*sec
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("lost: %w", errUnanswered{14 * time.Second}))
	until := b.run(ctx)
	next := b.newTerm(b.ring)
	next.since = until
	b.term = next
	b.listAll(40, podOf("b", ""))
	b.end(t0 + 50*sec)
	wantOps(t, b, [][]string{
		{"0 keyframe", "0 state a", "0 complete", "10 alive", "20 alive", "24 gap from 10"},
		{"40 keyframe", "40 state b", "40 complete", "40 gap from 20", "50 alive"},
	})
	l := b.ledger(t, 0, 50)
	if d := cmp.Diff([][2]float64{{0, 10}, {40, 50}}, seconds(l.Coverage)); d != "" {
		t.Errorf("coverage (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"watch-lost 10-20", "watch-lost 20-40"}, gapList(l.Gaps)); d != "" {
		t.Errorf("gaps (-want +got):\n%s", d)
	}
}

// A watch that was found silent, and is not heard of again, takes back as much.
func TestEndsAfterSilentWatch(t *testing.T) {
	b := newBench(t, 64<<20)
	b.listAll(0)
	b.ticks(31)
	b.at = t0 + 60*sec
	b.hear(b.at, news{source: index("pods"), kind: lost, away: 45 * time.Second})
	b.end(t0 + 70*sec)
	wantOps(t, b, [][]string{{"0 keyframe", "0 complete", "31 alive", "70 gap from 15"}})
	if d := cmp.Diff([][2]float64{{0, 15}}, seconds(b.ledger(t, 0, 70).Coverage)); d != "" {
		t.Errorf("coverage (-want +got):\n%s", d)
	}
}

// What may not be seen is named, and comes back when it may.
func TestDenied(t *testing.T) {
	b := newBench(t, 64<<20)
	for _, r := range resources() {
		if r.name == "pods" || r.name == "events" {
			continue
		}
		b.hears(0, r.name, began)
		b.hears(0, r.name, ended)
	}
	b.hears(1, "pods", denied)
	b.hears(1, "events", began)
	b.hears(1, "events", ended)
	b.hears(2, "pods", denied)
	b.hears(5, "pods", began)
	b.hears(5, "pods", listed, podOf("a", ""))
	b.hears(5, "pods", ended)
	b.end(t0 + 6*sec)
	wantOps(t, b, [][]string{
		{"1 keyframe without pods", "1 complete", "5 set a", "5 alive"},
		{"5 keyframe", "5 state a", "5 complete", "6 alive"},
	})
}

// A clock that is set begins a new chunk, and a gap in the ledger.
func TestClockStep(t *testing.T) {
	b := newBench(t, 64<<20)
	b.listAll(100, podOf("a", ""))
	b.hears(101, "pods", changed, podOf("a", "n1"))
	b.at = t0 + 42*sec
	b.answer(request{step: true, at: t0 + 42*sec, delta: -60 * sec})
	b.hears(43, "pods", changed, podOf("b", ""))
	// One that nobody has told of.
	b.hears(20, "pods", changed, podOf("c", ""))
	b.end(t0 + 50*sec)
	var got [][]string
	for _, c := range recorded(t, b.ring, b.dir) {
		got = append(got, ops(c))
	}
	want := [][]string{
		{"20 keyframe", "20 state a", "20 state b", "20 state c", "20 complete", "20 set c", "50 alive"},
		{"42 keyframe", "42 state a", "42 complete", "43 set b"},
		{"100 keyframe", "100 state a", "100 complete", "101 set a"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("chunks (-want +got):\n%s", d)
	}
	if gaps := gapList(b.ledger(t, 0, 200).Gaps); !strings.Contains(strings.Join(gaps, ","), "clock-step 42-102") {
		t.Errorf("gaps %q have no clock step", gaps)
	}
}

// Changes that outweigh the keyframe, and age, are worth a new keyframe.
func TestCutByWeightAndAge(t *testing.T) {
	b := newBench(t, 64<<20)
	b.listAll(0, podOf("a", ""))
	long := strings.Repeat("x", 1000)
	for i := range 1100 {
		b.hears(1, "pods", changed, podOf("a", fmt.Sprint(long, i)))
	}
	b.ticks(2)
	b.ticks(float64(DefaultMaxAge/time.Second) + 2)
	b.end(t0 + 1000*sec)
	chunks := recorded(t, b.ring, b.dir)
	if len(chunks) != 3 {
		t.Fatalf("%d chunks", len(chunks))
	}
	for i, want := range []int64{0, 1, 602} {
		if got := (int64(chunks[i][0].Time) - t0) / sec; got != want {
			t.Errorf("chunk %d begins at %d s, want %d", i, got, want)
		}
		if i > 0 && chunks[i-1][len(chunks[i-1])-1].Time != chunks[i][0].Time {
			t.Errorf("chunk %d does not end where the next begins", i-1)
		}
	}
}

// brokenRing fails while told to.
type brokenRing struct {
	*ring.Ring
	err error
}

func (r *brokenRing) Create(stream string) (chunker.Part, error) {
	if r.err != nil {
		return nil, r.err
	}
	p, err := r.Ring.Create(stream)
	return &brokenPart{p, r}, err
}

type brokenPart struct {
	chunker.Part
	r *brokenRing
}

func (p *brokenPart) Write(b []byte) (int, error) {
	if p.r.err != nil {
		return 0, p.r.err
	}
	return p.Part.Write(b)
}

// What the ring does not take is a gap, and the next chunk is whole again.
func TestRingFails(t *testing.T) {
	b := newBench(t, 64<<20)
	broken := &brokenRing{Ring: b.ring}
	b.term = b.newTerm(broken)
	b.listAll(0, podOf("a", ""))
	b.ticks(1)
	broken.err = ring.ErrDiskFull
	b.hears(2, "pods", changed, podOf("b", ""))
	b.ticks(3) // writes
	b.hears(4, "events", changed, eventOf("x", 1))
	b.hears(4, "pods", changed, podOf("c", ""))
	b.ticks(5)
	b.ticks(6)
	broken.err = nil
	b.ticks(7)
	b.end(t0 + 10*sec)
	wantOps(t, b, [][]string{{"7 keyframe", "7 state a", "7 state b", "7 state c", "7 complete", "10 alive"}})
	l := b.ledger(t, 0, 10)
	if d := cmp.Diff([]string{"disk-full 0-7"}, gapList(l.Gaps)); d != "" {
		t.Errorf("gaps (-want +got):\n%s", d)
	}
	if n := l.Gaps[0].Count; n != 5 { // keyframe, a, complete, b, x
		t.Errorf("%d records are lost", n)
	}
}

// A state that no chunk can hold is a gap and no chunk, until it has shrunk; it
// is not written again and again.
func TestStateTooLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("writes a hundred megabytes")
	}
	b := newBench(t, 256<<20)
	for _, r := range resources() {
		b.hears(0, r.name, began)
		if r.name == "pods" {
			pod := podOf("a", strings.Repeat("x", 1<<20))
			for i := range maxKeyframeRaw>>20 + 1 {
				pod.Pod.UID = fmt.Sprint("uid-", i)
				b.hears(0, r.name, listed, pod)
			}
		}
		b.hears(0, r.name, ended)
	}
	b.ticks(1)
	tried := b.tried
	b.ticks(30)
	if b.chunks.isOpen() || b.tried != tried {
		t.Error("a chunk was begun")
	}
	for i := range 90 {
		pod := podOf("a", "")
		pod.Pod.UID = fmt.Sprint("uid-", i)
		b.hears(31, "pods", deleted, pod)
	}
	b.ticks(601)
	b.end(t0 + 610*sec)
	chunks := recorded(t, b.ring, b.dir)
	if len(chunks) != 1 || (int64(chunks[0][0].Time)-t0)/sec != 601 {
		t.Fatalf("%d chunks", len(chunks))
	}
	l := b.ledger(t, 0, 610)
	if d := cmp.Diff([]string{"truncated 0-601"}, gapList(l.Gaps)); d != "" {
		t.Errorf("gaps (-want +got):\n%s", d)
	}
}
