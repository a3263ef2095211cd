//go:build linux

package ring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

const (
	testPart  = 64 << 10
	testLimit = 1 << 20
	start     = int64(1_700_000_000_000_000_000)
)

var eth0 = chunker.Interface{Name: "eth0", LinkType: 1}

func testOptions() Options {
	return Options{Limit: testLimit, PartSize: testPart, Now: func() time.Time { return time.Unix(0, start).Add(24 * time.Hour) }}
}

func open(t *testing.T, dir string, opt Options) *Ring {
	t.Helper()
	r, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("close ring: %v", err)
		}
	})
	return r
}

// put writes a chunk of about size bytes with one record a microsecond from
// first on, and returns it once it is sealed.
func put(t *testing.T, r *Ring, first int64, size int) (chunker.Meta, error) {
	t.Helper()
	p, err := r.Create(chunker.Packets)
	if err != nil {
		return chunker.Meta{}, err
	}
	w, err := chunker.NewWriter(p, chunker.Packets, chunker.Header{Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	w.SetStored(true)
	i := w.Interface(eth0)
	data := make([]byte, 1000)
	for n := 0; n*len(data) < size; n++ {
		fill(data, uint64(first)+uint64(n))
		if err := w.Record(&chunker.Record{Time: first + int64(n)*1000, Interface: i, OrigLen: uint32(len(data)), Data: data}); err != nil {
			return chunker.Meta{}, errors.Join(err, p.Abort())
		}
	}
	m, err := w.Close(0)
	if err != nil {
		return m, errors.Join(err, p.Abort())
	}
	if err := p.Seal(m); err != nil {
		return m, err
	}
	return m, r.Drain(context.Background())
}

func mustPut(t *testing.T, r *Ring, first int64, size int) chunker.Meta {
	t.Helper()
	m, err := put(t, r, first, size)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// fill makes data that does not compress.
func fill(data []byte, seed uint64) {
	c := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24), byte(seed >> 32)})
	_, _ = c.Read(data)
}

func metas(list []Chunk) (out []chunker.Meta) {
	for _, c := range list {
		out = append(out, c.Meta)
	}
	return out
}

// checkAll reads every chunk of the ring as a reader would.
func checkAll(t *testing.T, r *Ring) {
	t.Helper()
	var buf []byte
	for _, c := range r.Sealed() {
		b, _, err := r.Load(c, buf)
		if err != nil {
			t.Errorf("load %s: %v", c.Hash, err)
			continue
		}
		buf = b
		z, err := chunker.Open(bytes.NewReader(b), c.Size, c.Hash, c.Stream)
		if err != nil {
			t.Errorf("open %s: %v", c.Hash, err)
			continue
		}
		var batch chunker.Batch
		for err == nil {
			err = z.Next(&batch)
		}
		if d := cmp.Diff(c.Meta, z.Meta()); d != "" {
			t.Errorf("chunk %s: %v, (-name +content):\n%s", c.Hash, err, d)
		}
	}
}

// diskUsage walks the folder for what the chunks and parts in it take.
func diskUsage(t *testing.T, dir string) (sum int64) {
	t.Helper()
	seen := map[uint64]bool{} // one that is renamed is met twice
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Dir(path) != dir {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				if s := info.Sys().(*syscall.Stat_t); !seen[s.Ino] {
					seen[s.Ino] = true
					sum += s.Blocks * 512
				}
			}
		}
		if errors.Is(err, fs.ErrNotExist) { // evicted or sealed meanwhile
			return nil
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return sum
}

func TestSealAndReopen(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, testOptions())
	b := mustPut(t, r, start+2_000_000, 20_000)
	a := mustPut(t, r, start, 20_000)
	want := []chunker.Meta{a, b}
	if d := cmp.Diff(want, metas(r.Sealed())); d != "" {
		t.Fatalf("sealed (-want +got):\n%s", d)
	}
	for _, c := range []struct {
		from, to int64
		want     []chunker.Meta
	}{
		{start - 10, start, nil},
		{start - 10, start + 1, want[:1]},
		{a.Last, a.Last + 1, want[:1]},
		{a.Last + 1, b.First, nil},
		{a.Last, b.First + 1, want},
		{b.Last + 1, b.Last + 2, nil},
	} {
		if d := cmp.Diff(c.want, metas(r.Overlapping(c.from, c.to))); d != "" {
			t.Errorf("overlapping %d to %d (-want +got):\n%s", c.from-start, c.to-start, d)
		}
	}
	checkAll(t, r)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Create(chunker.Packets); !errors.Is(err, ErrClosed) {
		t.Errorf("create in a closed ring: %v", err)
	}
	r = open(t, dir, testOptions())
	if d := cmp.Diff(want, metas(r.Sealed())); d != "" {
		t.Errorf("sealed, after opening again (-want +got):\n%s", d)
	}
	if used, disk := r.Usage().Used, diskUsage(t, dir); used != disk {
		t.Errorf("%d bytes are said to be used, %d are", used, disk)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, testOptions())
	_, err := Open(dir, testOptions())
	var used *InUseError
	if !errors.As(err, &used) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("second open: %v", err)
	}
}

func TestTooSmall(t *testing.T) {
	if _, err := Open(t.TempDir(), Options{Limit: DefaultPartSize}); err == nil {
		t.Error("a ring of one part was opened")
	}
}

func TestEviction(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, testOptions())
	r.Begin(chunker.Packets, start)
	var all []chunker.Meta
	for i := range int64(60) {
		all = append(all, mustPut(t, r, start+i*1_000_000, 40_000))
		r.Flushed(chunker.Packets, all[i].Last+1)
		if used := diskUsage(t, dir); used > testLimit {
			t.Fatalf("%d bytes of %d are used", used, testLimit)
		}
	}
	left := metas(r.Sealed())
	if len(left) < 10 {
		t.Fatalf("%d chunks are left of what has room", len(left))
	}
	if d := cmp.Diff(all[len(all)-len(left):], left); d != "" {
		t.Errorf("not the oldest went (-want +got):\n%s", d)
	}
	gone := all[len(all)-len(left)-1]
	l := r.Ledger(chunker.Packets, start, all[59].Last+1)
	want := Ledger{
		Coverage: []manifest.Interval{iv(manifest.Nanos(gone.Last)+1, manifest.Nanos(all[59].Last)+1)},
		Gaps:     []Gap{gap(manifest.GapEvicted, manifest.Nanos(start), manifest.Nanos(gone.Last)+1, 0)},
	}
	if d := cmp.Diff(want, l); d != "" {
		t.Errorf("ledger (-want +got):\n%s", d)
	}
	if oldest := r.Usage().Oldest; oldest != gone.Last+1 {
		t.Errorf("oldest is %d, want %d", oldest, gone.Last+1)
	}

	// After a clean end the ledger says the same.
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = open(t, dir, testOptions())
	if d := cmp.Diff(want, r.Ledger(chunker.Packets, start, all[59].Last+1)); d != "" {
		t.Errorf("ledger, after opening again (-want +got):\n%s", d)
	}

	// A lower limit takes effect at once.
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	opt := testOptions()
	opt.Limit = testLimit / 2
	open(t, dir, opt)
	if used := diskUsage(t, dir); used > opt.Limit {
		t.Errorf("%d bytes of %d are used", used, opt.Limit)
	}
}

func TestChunksOfTheFutureGoFirst(t *testing.T) {
	r := open(t, t.TempDir(), testOptions())
	r.Begin(chunker.Packets, start)
	future := mustPut(t, r, start+int64(48*time.Hour), 40_000)
	for i := range int64(30) {
		mustPut(t, r, start+i*1_000_000, 40_000)
	}
	for _, c := range r.Sealed() {
		if c.Hash == future.Hash {
			t.Error("a chunk that was recorded while the clock was ahead is still there")
		}
	}
	l := r.Ledger(chunker.Packets, future.First, future.Last)
	if len(l.Gaps) == 0 || l.Gaps[0].Reason != manifest.GapEvicted || l.Gaps[0].Count != future.Records {
		t.Errorf("ledger of the future is %+v", l)
	}
	if oldest := r.Usage().Oldest; oldest > start+int64(time.Hour) {
		t.Errorf("the ring says that it holds everything from %s on", time.Unix(0, oldest))
	}
}

func TestPins(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(0, start).Add(time.Hour)
	opt := testOptions()
	opt.Now = func() time.Time { return now }
	r := open(t, dir, opt)
	r.Begin(chunker.Packets, start)
	var first []chunker.Meta
	for i := range int64(3) {
		first = append(first, mustPut(t, r, start+i*1_000_000, 40_000))
	}
	end := first[2].Last + 1
	r.Flushed(chunker.Packets, end)
	p, err := r.Pin("s1", start, end, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(first, metas(p.Chunks)); d != "" {
		t.Errorf("pinned (-want +got):\n%s", d)
	}
	for i := range int64(60) {
		mustPut(t, r, start+int64(time.Minute)+i*1_000_000, 40_000)
	}
	// Over a restart, too; and the ledger is that of the time of pinning.
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = open(t, dir, opt)
	if d := cmp.Diff([]string{"s1"}, r.Pins()); d != "" {
		t.Errorf("pins, after opening again (-want +got):\n%s", d)
	}
	p, err = r.Pin("s1", 0, 1, now.Add(time.Hour)) // keeps its window
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(first, metas(p.Chunks)); d != "" {
		t.Errorf("pinned, after opening again (-want +got):\n%s", d)
	}
	if d := cmp.Diff(Ledger{Coverage: []manifest.Interval{iv(manifest.Nanos(start), manifest.Nanos(end))}}, p.Ledger(chunker.Packets)); d != "" {
		t.Errorf("ledger of the pin (-want +got):\n%s", d)
	}
	if got := r.Ledger(chunker.Packets, start, end); len(got.Coverage) > 0 {
		t.Errorf("without the pin, the window is covered by %v", got.Coverage)
	}

	// An expired pin holds nothing, and neither does one that was taken off.
	now = now.Add(2 * time.Hour)
	if pins := r.Pins(); len(pins) > 0 {
		t.Errorf("pins %v have not expired", pins)
	}
	for _, far := range []time.Time{time.Unix(1<<40, 0), time.Unix(-1<<40, 0)} {
		if _, err := r.Pin("far", 0, 1, far); err != nil {
			t.Error(err)
		}
	}
	now = now.Add(maxPin)
	if pins := r.Pins(); len(pins) > 0 {
		t.Errorf("pins %v hold for longer than a week", pins)
	}
	mustPut(t, r, start+int64(2*time.Minute), 40_000)
	if left := r.Overlapping(start, end); len(left) == 3 {
		t.Error("nothing of what was pinned has gone")
	}
	if err := r.Unpin("nobody"); err != nil {
		t.Error(err)
	}
}

// TestPinsOfOneStream: a pin of one stream holds no chunk of another.
func TestPinsOfOneStream(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(0, start).Add(time.Hour)
	opt := testOptions()
	opt.Now = func() time.Time { return now }
	r := open(t, dir, opt)
	if got := r.Streams(); len(got) > 0 {
		t.Errorf("an empty ring holds %v", got)
	}
	r.Begin(chunker.Kubernetes, start)
	c := chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Kubernetes, TargetSize: 1 << 20, MaxAge: time.Hour}, r)
	if err := c.Event(start+5, fmt.Appendf(nil, `{"ts":"%d"}`, start+5)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second brings out what the first saw
		if err := c.Tick(start + 10); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff([]string{chunker.Kubernetes}, r.Streams()); d != "" {
		t.Errorf("streams, as one begins (-want +got):\n%s", d)
	}
	if err := c.Cut(); err != nil {
		t.Fatal(err)
	}
	if err := r.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Flushed(chunker.Kubernetes, start+10)
	first := mustPut(t, r, start, 40_000)
	if d := cmp.Diff([]string{chunker.Kubernetes, chunker.Packets}, r.Streams()); d != "" {
		t.Errorf("streams (-want +got):\n%s", d)
	}
	p, err := r.Pin("s", start, first.Last+1, now.Add(time.Hour), chunker.Kubernetes)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Chunks) != 1 || p.Chunks[0].Stream != chunker.Kubernetes {
		t.Errorf("pinned: %v", p.Chunks)
	}
	if u := r.Usage(); u.Pinned != 4096 {
		t.Errorf("%d bytes are pinned", u.Pinned)
	}
	for i := range int64(60) {
		mustPut(t, r, start+int64(time.Minute)+i*1_000_000, 40_000)
	}
	left := r.Overlapping(start, first.Last+1)
	if len(left) != 1 || left[0].Stream != chunker.Kubernetes {
		t.Errorf("left of the window: %v", left)
	}
	// Over a restart, too.
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = open(t, dir, opt)
	if p, err = r.Pin("s", 0, 1, now.Add(time.Hour)); err != nil || len(p.Chunks) != 1 {
		t.Errorf("pinned, after opening again: %v, error %v", p.Chunks, err)
	}
	if err := r.Unpin("s"); err != nil {
		t.Fatal(err)
	}
	for i := range int64(60) {
		mustPut(t, r, start+2*int64(time.Minute)+i*1_000_000, 40_000)
	}
	// No pin holds its chunk any more, but its share of the ring does.
	if d := cmp.Diff([]string{chunker.Kubernetes, chunker.Packets}, r.Streams()); d != "" {
		t.Errorf("streams, after many packets (-want +got):\n%s", d)
	}
}

func TestAllPinned(t *testing.T) {
	r := open(t, t.TempDir(), testOptions())
	now := testOptions().Now()
	if _, err := r.Pin("s", 0, 1<<62, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		_, err = put(t, r, start+int64(n)*1_000_000, 40_000)
	}
	if !errors.Is(err, ErrFull) || Reason(err) != manifest.GapRingOverrun {
		t.Fatalf("after %d chunks: %v", n, err)
	}
	if have := len(r.Sealed()); have != n-1 {
		t.Errorf("%d chunks are there, %d were pinned", have, n-1)
	}
	if u := r.Usage(); u.Pinned != u.Used || u.Used > u.Limit {
		t.Errorf("usage is %+v", u)
	}
	if err := r.Unpin("s"); err != nil {
		t.Fatal(err)
	}
	mustPut(t, r, start+int64(time.Hour), 40_000)
}

func TestLimitWithManyWriters(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, testOptions())
	ctx, cancel := context.WithCancel(t.Context())
	var wg, watch sync.WaitGroup
	watch.Go(func() {
		for ctx.Err() == nil {
			r.mu.Lock() // or the walk counts what goes, and what comes for it
			used := diskUsage(t, dir)
			r.mu.Unlock()
			if used > testLimit {
				t.Errorf("%d bytes of %d are used", used, testLimit)
				return
			}
		}
	})
	for worker := range int64(4) {
		wg.Go(func() {
			cut := chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Packets, TargetSize: 40_000}, r)
			id := cut.Interface(eth0)
			data := make([]byte, 1400)
			for i := range int64(1500) {
				fill(data, uint64(i+worker<<32))
				rec := chunker.Record{Time: start + i*1000 + worker, Interface: id, OrigLen: 1400, Data: data}
				if err := cut.Add(&rec); err != nil {
					t.Error(err)
				}
				if i%100 == 99 {
					if err := cut.Tick(rec.Time); err != nil {
						t.Error(err)
					}
				}
				if i == 699 && worker == 0 {
					if _, err := r.Pin("s", rec.Time-10_000, rec.Time, r.opt.Now().Add(time.Hour)); err != nil {
						t.Error(err)
					}
				}
			}
			if err := cut.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	cancel()
	watch.Wait()
	if err := r.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(r.Sealed()); n < 5 {
		t.Errorf("%d chunks are there", n)
	}
	checkAll(t, r)
	if used, disk := r.Usage().Used, diskUsage(t, dir); used != disk {
		t.Errorf("%d bytes are said to be used, %d are", used, disk)
	}
}

func TestDamagedChunk(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(path string) error
	}{
		{"bit", func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b[len(b)/2] ^= 1
			return os.WriteFile(path, b, 0o600)
		}},
		{"short", func(path string) error { return os.Truncate(path, 100) }},
		{"long", func(path string) error { return os.Truncate(path, 1<<20) }},
		{"gone", os.Remove},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			r := open(t, dir, testOptions())
			r.Begin(chunker.Packets, start)
			m := mustPut(t, r, start, 20_000)
			r.Flushed(chunker.Packets, m.Last+1)
			chunk := r.Sealed()[0]
			name, _ := fileName(m)
			if err := c.damage(filepath.Join(dir, m.Stream, name)); err != nil {
				t.Fatal(err)
			}
			if _, _, err := r.Load(chunk, nil); !errors.Is(err, chunker.ErrDamaged) {
				t.Errorf("load: %v", err)
			}
			r.Damaged(chunk)
			r.Damaged(chunk) // once is enough
			if n := len(r.Sealed()); n != 0 {
				t.Errorf("%d chunks are listed", n)
			}
			l := r.Ledger(chunker.Packets, start, m.Last+1)
			if len(l.Gaps) != 1 || l.Gaps[0].Reason != manifest.GapDamaged || l.Gaps[0].Count != m.Records {
				t.Errorf("gaps are %+v", l.Gaps)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	r := open(t, t.TempDir(), testOptions())
	m := mustPut(t, r, start, 20_000)
	c := r.Sealed()[0]
	if _, ok := r.SHA256(c); ok {
		t.Error("the SHA-256 is known before anybody asked")
	}
	b, sum, err := r.Load(c, nil)
	if err != nil || int64(len(b)) != m.Size {
		t.Fatalf("load: %d bytes, %v", len(b), err)
	}
	if known, ok := r.SHA256(c); !ok || known != sum {
		t.Error("the SHA-256 is not kept")
	}
}

func TestStrayFiles(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, testOptions())
	good := mustPut(t, r, start, 20_000)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	empty, _ := fileName(chunker.Meta{Stream: chunker.Packets, First: start + 5_000_000, Last: start + 6_000_000, Records: 9})
	for _, name := range []string{"packets/" + empty, "packets/notes.txt", "open/whatever", "open/packets-000007.part"} {
		content := "not a chunk"
		if strings.HasSuffix(name, empty) {
			content = ""
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "packets", "somebody's"), 0o700); err != nil {
		t.Fatal(err)
	}
	r = open(t, dir, testOptions())
	if d := cmp.Diff([]chunker.Meta{good}, metas(r.Sealed())); d != "" {
		t.Errorf("sealed (-want +got):\n%s", d)
	}
	var damaged uint64
	for _, g := range r.Ledger(chunker.Packets, 0, 1<<62).Gaps {
		if g.Reason == manifest.GapDamaged {
			damaged += max(1, g.Count)
		}
	}
	if damaged != 9+1 {
		t.Errorf("%d records count as damaged", damaged)
	}
	if used, disk := r.Usage().Used, diskUsage(t, dir); used != disk {
		t.Errorf("%d bytes are said to be used, %d are", used, disk)
	}
}

func TestDamagedLedger(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, testOptions())
	r.Begin(chunker.Packets, start)
	m := mustPut(t, r, start, 20_000)
	r.Flushed(chunker.Packets, m.Last)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "state.json"), []byte(`{"format":"pcapsule.ring"`), 0o600); err != nil {
		t.Fatal(err)
	}
	r = open(t, dir, testOptions())
	if n := len(r.Sealed()); n != 1 {
		t.Errorf("%d chunks are there", n)
	}
	l := r.Ledger(chunker.Packets, start, m.Last)
	if len(l.Coverage) != 0 || len(l.Gaps) != 1 || l.Gaps[0].Reason != manifest.GapNotRunning {
		t.Errorf("a ring that has lost its ledger says %+v", l)
	}
}

// TestReadableByOthers opens a sealed file with the tools of the field.
func TestReadableByOthers(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, testOptions())
	m := mustPut(t, r, start, 20_000)
	name, _ := fileName(m)
	path := filepath.Join(dir, m.Stream, name)
	out, err := exec.Command("b3sum", "--no-names", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(out)); got != m.Hash.String() {
		t.Errorf("b3sum says %s, want %s", got, m.Hash)
	}
	out, err = exec.Command("sh", "-c", `lz4 -dc "$0" | tcpdump --count -nr - 2>/dev/null`, path).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(out)); got != fmt.Sprint(m.Records)+" packets" {
		t.Errorf("tcpdump reads %s, want %d", got, m.Records)
	}
}
