// Package ring is an agent's bounded store on disk: it holds the newest chunks
// of the node's streams, and what is known of the time they cover.
//
// What always holds: the folder never takes more than its limit. A sealed chunk
// is whole and durable, and is never changed; it goes when room is needed and no
// pin holds it, the oldest first. Each stream but that of packets has a share of
// the room that no other drives out. What the ring does not hold of the past, its
// ledger says and gives the reason. A process that dies at any moment loses the
// records since the last flush of its open parts, and nothing else.
//
// The ring is no archive: its layout may change between versions, which then
// start with an empty one. For whoever looks into the folder at 3 am:
//
//	<dir>/lock          flock of the one process that may use the ring; holds its pid
//	<dir>/owner         whose ring it is, when that was said (see Options.Owner)
//	<dir>/pulse         that this process is alive, and what keeps it from recording (see Pulse)
//	<dir>/state.json    runs, gaps, eviction watermarks and pins (see state)
//	<dir>/open/         parts that are being written: <stream>-<number>.part
//	<dir>/<stream>/     sealed chunks, whose names are the index:
//
//	<first ns>_<last ns>_<records>_<raw bytes>_<drops>_<BLAKE3-256>.<ext>
//
// The decimals have a fixed width, so that ls lists chunks by time. A sealed
// file is an ordinary chunk: `lz4 -dc FILE | tcpdump -r -` reads it.
package ring

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

// Errors that callers branch on.
var (
	ErrFull     = errors.New("ring is full of pinned chunks")
	ErrDiskFull = errors.New("the ring's file system is full")
	ErrClosed   = errors.New("ring is closed")
)

// DefaultPartSize is what an open part sets aside: a chunk of the usual size,
// and the block by which it may exceed that.
const DefaultPartSize = chunker.TargetSize + 256<<10

// saveEvery is how often the ledger is written, at most, when no pin changes.
const saveEvery = time.Second

// Options of Open.
type Options struct {
	Limit    int64            // bytes of disk, in all; at least MinParts parts
	PartSize int64            // bytes set aside for each open part; DefaultPartSize when 0
	KeepFree int64            // bytes of the volume that the ring leaves to others while it holds as much itself
	Now      func() time.Time // for the expiry of pins, and pacing; time.Now when nil
	Logger   *slog.Logger     // of failures that nobody is there to be told; none when nil

	Owner    string // whose ring it is, on one line; an OwnerError when it is another's
	TakeOver bool   // the ring of another owner becomes this one's
}

// MinParts is how many parts a ring must have room for.
const MinParts = 4

// A Chunk is a sealed chunk in the ring.
type Chunk struct {
	chunker.Meta
}

// Usage is how full a ring is, in bytes of disk.
type Usage struct {
	Limit  int64
	Used   int64 // sealed chunks and open parts, with what those set aside
	Pinned int64 // of Used, what a pin holds
	Chunks int
	Oldest int64 // from here on the ring holds everything that was captured; 0 when nothing was
}

// A Ring is a chunker.Sink: parts it creates become sealed chunks. Its methods
// may be called concurrently, each part by one goroutine at a time.
type Ring struct {
	dir    string
	opt    Options
	disk   disk
	lock   *os.File
	jobs   chan job      // to the sealer; bounded, so that a slow disk slows the cutters
	wake   chan struct{} // tells the sealer that a save may be due
	closed chan struct{} // closed by Close
	done   chan struct{} // closed when the sealer has ended
	close  sync.Once

	mu       sync.Mutex
	sealed   []*chunk // in order of Last, First, Hash
	byName   map[string]*chunk
	bytes    map[string]int64 // of sealed chunks, by stream
	sealing  int              // parts on their way through the sealer
	progress *sync.Cond       // on mu: a part has come through
	open     map[string]int   // parts that are open, by stream
	used     int64            // bytes of sealed chunks and open parts, set aside included
	state    state
	nextID   int  // of the next open part
	dirty    bool // state differs from what was last encoded
	seq      uint64
	saved    time.Time // when state was last encoded
	trouble  error     // of the last regular save

	saveMu   sync.Mutex // after mu, never before it
	savedSeq uint64     // of the state on disk; by saveMu
}

// chunk is a sealed chunk as the ring keeps it; by Ring.mu.
type chunk struct {
	Chunk
	name  string // file name
	disk  int64  // bytes it takes
	sum   *[32]byte
	made  bool // by this process, not found when the ring was opened
	stuck bool // could not be removed; not tried again
}

// Open opens the ring in dir, which it makes when it is not there, and recovers
// what an earlier process left: parts it was writing are sealed as far as their
// records are whole. The caller closes the ring. An InUseError when another
// process has it open.
func Open(dir string, opt Options) (*Ring, error) {
	if opt.PartSize == 0 {
		opt.PartSize = DefaultPartSize
	}
	opt.PartSize = onDisk(opt.PartSize)
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.Limit < MinParts*opt.PartSize {
		return nil, fmt.Errorf("ring of %d bytes is too small: give it at least %d", opt.Limit, MinParts*opt.PartSize)
	}
	if err := os.MkdirAll(filepath.Join(dir, openDir), 0o700); err != nil {
		return nil, fmt.Errorf("make ring: %w", err)
	}
	lock, err := takeLock(dir)
	var used *InUseError
	if errors.As(err, &used) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("open ring %s: %w", dir, err)
	}
	r := &Ring{
		dir: dir, opt: opt, lock: lock, byName: map[string]*chunk{}, bytes: map[string]int64{}, open: map[string]int{},
		jobs: make(chan job, 8), wake: make(chan struct{}, 1),
		closed: make(chan struct{}), done: make(chan struct{}),
	}
	r.still()
	if err := r.claim(); err != nil {
		lock.Close()
		return nil, err
	}
	if err := r.recover(); err != nil {
		lock.Close()
		return nil, fmt.Errorf("open ring %s: %w", dir, err)
	}
	r.progress = sync.NewCond(&r.mu)
	go r.work()
	return r, nil
}

// Close waits for sealing to end, saves the ledger and lets go of the folder.
// Cutters that write into the ring are closed before; parts still open are
// recovered by the next Open.
func (r *Ring) Close() error {
	var err error
	r.close.Do(func() {
		err = r.drain(nil)
		close(r.closed)
		<-r.done
		r.mu.Lock()
		r.state.evictionDone()
		r.dirty = true
		r.mu.Unlock()
		err = errors.Join(err, r.withRoom(4096, r.save))
		r.still()
		r.lock.Close()
	})
	return err
}

// Sealed lists all chunks, in order of First, Last and Hash.
func (r *Ring) Sealed() []Chunk { return r.Overlapping(math.MinInt64, math.MaxInt64) }

// Overlapping lists the chunks that may hold records of the half-open interval,
// in order of First, Last and Hash.
func (r *Ring) Overlapping(from, to int64) []Chunk {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.overlapping(from, to)
}

func (r *Ring) overlapping(from, to int64) []Chunk {
	var out []Chunk
	i, _ := slices.BinarySearchFunc(r.sealed, from, func(c *chunk, t int64) int { return cmp.Compare(c.Last, t) })
	for _, c := range r.sealed[i:] {
		if c.First < to {
			out = append(out, c.Chunk)
		}
	}
	slices.SortFunc(out, func(a, b Chunk) int {
		return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last), slices.Compare(a.Hash[:], b.Hash[:]))
	})
	return out
}

// Streams lists the streams of which the ring holds something, or is about to:
// those of its chunks, and of its open parts.
func (r *Ring) Streams() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	add := func(stream string) {
		if !slices.Contains(out, stream) {
			out = append(out, stream)
		}
	}
	for _, c := range r.sealed {
		add(c.Stream)
	}
	for stream, n := range r.open {
		if n > 0 {
			add(stream)
		}
	}
	slices.Sort(out)
	return out
}

// Since is the time to which the ring reaches back for a stream: from which on
// nothing was recycled, or that of the first record when nothing ever was, which is
// not full. Of a stream that was never recorded it is the zero time.
func (r *Ring) Since(stream string) (t time.Time, full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	evicted, full := r.state.Evicted[stream]
	if full {
		return (evicted + 1).Time(), true
	}
	for _, run := range r.state.Runs {
		if run.Stream == stream && (t.IsZero() || run.From.Time().Before(t)) {
			t = run.From.Time()
		}
	}
	return t, false
}

// Usage tells how full the ring is.
func (r *Ring) Usage() Usage {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := Usage{Limit: r.opt.Limit, Used: r.used, Chunks: len(r.sealed), Oldest: r.state.oldest()}
	now := r.opt.Now()
	for _, c := range r.sealed {
		if r.state.pinned(c.Meta, now) {
			u.Pinned += c.disk
		}
	}
	return u
}

// Trouble is what keeps the ledger from the disk: without it, what is recorded
// now counts as not recorded after a crash. Nil when nothing does.
func (r *Ring) Trouble() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.trouble
}

// Drain waits until everything that was sealed before is durable and listed.
func (r *Ring) Drain(ctx context.Context) error {
	err := r.drain(ctx.Done())
	if err == nil || errors.Is(err, ErrClosed) {
		return err
	}
	return context.Cause(ctx)
}

// drain is Drain, until enough is closed.
func (r *Ring) drain(enough <-chan struct{}) error {
	ready := make(chan struct{})
	select {
	case r.jobs <- job{barrier: ready}:
	case <-r.closed:
		return ErrClosed
	case <-enough:
		return context.Canceled
	}
	select {
	case <-ready:
		return nil
	case <-r.done:
		return ErrClosed
	case <-enough:
		return context.Canceled
	}
}

// insert lists a sealed chunk whose bytes are counted in used; r.mu is held.
func (r *Ring) insert(c *chunk) {
	if old := r.byName[c.name]; old != nil { // the same bytes, recovered twice
		r.used -= old.disk
		r.unlist(old)
	}
	r.byName[c.name] = c
	i, _ := slices.BinarySearchFunc(r.sealed, c, byLast)
	r.sealed = slices.Insert(r.sealed, i, c)
	r.bytes[c.Stream] += c.disk
}

// unlist takes a chunk off the list; r.mu is held.
func (r *Ring) unlist(c *chunk) {
	i, ok := slices.BinarySearchFunc(r.sealed, c, byLast)
	if !ok {
		return
	}
	delete(r.byName, c.name)
	r.bytes[c.Stream] -= c.disk
	copy(r.sealed[1:i+1], r.sealed[:i]) // nearly always one of the first
	r.sealed[0] = nil
	r.sealed = r.sealed[1:]
}

func byLast(a, b *chunk) int {
	return cmp.Or(cmp.Compare(a.Last, b.Last), cmp.Compare(a.First, b.First), cmp.Compare(a.name, b.name))
}

func (r *Ring) path(c *chunk) string { return filepath.Join(r.dir, c.Stream, c.name) }

// key names a chunk within the folder.
func (c *chunk) key() string { return c.Stream + "/" + c.name }

// onDisk is the room that a file of n bytes takes.
func onDisk(n int64) int64 { return (n + 4095) &^ 4095 }

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// A Gap of the ledger, as manifests have them.
type Gap = manifest.Gap
