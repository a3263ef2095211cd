package chunker_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapsule/chunker"
	"pcapsule/internal/capfile"
)

// captureFolder is where benchmarks keep real captures: Debian's pathspider,
// fetched once, and whatever else is put there.
func captureFolder(b *testing.B) string {
	b.Helper()
	dir := os.Getenv("PCAPSULE_CAPTURES")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			b.Fatal(err)
		}
		dir = filepath.Join(cache, "pcapsule", "captures")
	}
	if _, err := os.Stat(filepath.Join(dir, "real.pcap")); err == nil {
		return dir
	}
	script := `mkdir -p "$1" && cd "$1" && apt-get -q download pathspider &&
		dpkg-deb --fsys-tarfile pathspider_*.deb | tar x --strip-components=8 --wildcards '*/data/*.pcap' && rm pathspider_*.deb`
	if out, err := exec.Command("sh", "-c", script, "sh", dir).CombinedOutput(); err != nil {
		b.Skipf("put captures into %s to run this: fetch pathspider: %v\n%s", dir, err, out)
	}
	return dir
}

func readCapture(b *testing.B, file string) []packet {
	b.Helper()
	f, err := os.Open(file)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	r, err := capfile.NewReader(f)
	if err != nil {
		b.Fatalf("%s: %v", file, err)
	}
	var all []packet
	for {
		p, err := r.Next()
		if err != nil {
			return all
		}
		i := r.Interface(p.Interface)
		if len(p.Data) > chunker.SnapLen || i.LinkType > 1000 {
			continue
		}
		all = append(all, packet{
			p.Time, chunker.Interface{Name: i.Name, LinkType: i.LinkType}, max(p.OrigLen, uint32(len(p.Data))), 0, "", string(p.Data),
		})
	}
}

// captures are named lists of real packets.
func captures(b *testing.B) map[string][]packet {
	b.Helper()
	dir := captureFolder(b)
	files, err := filepath.Glob(filepath.Join(dir, "*.pcap*"))
	if err != nil {
		b.Fatal(err)
	}
	m := map[string][]packet{}
	for _, f := range files {
		ps := readCapture(b, f)
		name, _, _ := strings.Cut(filepath.Base(f), ".")
		if len(ps) > 0 {
			m[name] = ps
		}
	}
	return m
}

// A file sink writes chunks to disk as the ring does, without its bookkeeping.
type files struct {
	dir    string
	stored int64
	metas  []chunker.Meta
}

type file struct {
	*os.File
	to *files
}

func (f *files) Create(string) (chunker.Part, error) {
	p, err := os.CreateTemp(f.dir, "open")
	if err == nil {
		const keepSize = 1 // FALLOC_FL_KEEP_SIZE
		err = syscall.Fallocate(int(p.Fd()), keepSize, 0, chunker.TargetSize+(1<<20))
	}
	return &file{p, f}, err
}

func (f *file) Seal(m chunker.Meta) error {
	f.to.stored += m.Size
	f.to.metas = append(f.to.metas, m)
	if err := f.Truncate(m.Size); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(f.to.dir, m.Hash.String()))
}

func (f *file) Abort() error {
	_ = f.Close()
	return os.Remove(f.Name())
}

// loop adds ps again and again, each time later.
type loop struct {
	ps   []packet
	recs []chunker.Record
	at   int
	span int64
}

func newLoop(c *chunker.Cutter, ps []packet) *loop {
	l := &loop{ps: ps}
	last := int64(0)
	for i, p := range ps {
		r := record(c, p)
		r.Time = max(r.Time, last) // captures that are out of order are another benchmark
		if i > 0 && r.Time-last > 1e9 {
			r.Time = last + 1e9
		}
		last = r.Time
		l.recs = append(l.recs, *r)
	}
	l.span = last - l.recs[0].Time + 1
	return l
}

func (l *loop) next() *chunker.Record {
	if l.at == len(l.recs) {
		l.at = 0
		for i := range l.recs {
			l.recs[i].Time += l.span
		}
	}
	l.at++
	return &l.recs[l.at-1]
}

// cpu is the processor time that this process has used. On a machine that has
// other work to do it is steadier than the clock.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCut takes packets through a Cutter into chunks on disk. MB/s are of
// packet bytes.
func BenchmarkCut(b *testing.B) {
	for name, ps := range captures(b) {
		bytes := 0
		for _, p := range ps {
			bytes += len(p.Data)
		}
		if bytes < 400_000 {
			continue
		}
		for _, stored := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/stored=%v", name, stored), func(b *testing.B) {
				sink := &files{dir: b.TempDir()}
				c := chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Packets, Header: header}, sink)
				c.SetStored(stored)
				l := newLoop(c, ps)
				var busy time.Duration
				start := cpu()
				const turn = 64 << 20 // packet bytes an iteration, about
				turns := turn/bytes + 1
				b.SetBytes(int64(bytes * turns))
				b.ReportAllocs()
				for b.Loop() {
					for range turns * len(ps) {
						if err := c.Add(l.next()); err != nil {
							b.Fatal(err)
						}
					}
					b.StopTimer()
					busy += cpu() - start
					for _, m := range sink.metas {
						_ = os.Remove(filepath.Join(sink.dir, m.Hash.String()))
					}
					sink.metas = sink.metas[:0]
					start = cpu()
					b.StartTimer()
				}
				if err := c.Close(); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(b.N)*float64(bytes*turns)/1e6/busy.Seconds(), "MB/cpu-s")
				b.ReportMetric(float64(sink.stored)/float64(b.N)/float64(bytes*turns), "stored/packet")
			})
		}
	}
}

// BenchmarkRead reads a chunk as a merge does. MB/s are of EPBs.
func BenchmarkRead(b *testing.B) {
	for name, ps := range captures(b) {
		if len(ps) < 100 {
			continue
		}
		for _, addressOnly := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/addressOnly=%v", name, addressOnly), func(b *testing.B) {
				sink := new(memory)
				c := chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Packets, Header: header}, sink)
				l := newLoop(c, ps)
				for len(sink.chunks) == 0 {
					if err := c.Add(l.next()); err != nil {
						b.Fatal(err)
					}
				}
				k := sink.chunks[0]
				b.SetBytes(k.Meta.RawSize)
				b.ReportAllocs()
				var batch chunker.Batch
				for b.Loop() {
					r, err := chunker.Open(bytes.NewReader(k.Bytes), k.Meta.Size, k.Meta.Hash, chunker.Packets)
					for err == nil && !addressOnly {
						err = r.Next(&batch)
					}
					if err != nil && !errors.Is(err, io.EOF) {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
