package pcapgen

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"pcapsule/chunker"
	"pcapsule/store"
)

// How much of the chunks' stored bytes is held, and where.
const (
	openFiles    = 48        // of a folder or a tar, at once
	memoryBudget = 24 << 20  // for chunks of other stores; what does not fit is spooled
	memoryUnit   = 512 << 10 // by which buffers are sized, so that they can be used again
)

// An object gives random access to the stored bytes of one chunk, until it is
// released.
type object interface {
	io.ReaderAt
	release()
}

// A depot holds the stored bytes of the chunks that are open. A chunk in a file
// stays there. One from elsewhere is taken whole, since all of it must be
// verified before any is decompressed: into memory while there is room, and
// otherwise into a temporary file without a name.
type depot struct {
	store  store.Store
	files  files
	memory memory
	spool  spool
}

func newDepot(st store.Store) *depot {
	d := &depot{store: st}
	d.files.store = st
	d.files.idle = list.New()
	return d
}

// fetch takes one chunk.
func (d *depot) fetch(ctx context.Context, key string, size int64) (object, error) {
	if size <= 0 || size > chunker.MaxSize {
		return nil, fmt.Errorf("read %s: %w: its inventory says %d bytes", key, chunker.ErrDamaged, size)
	}
	r, err := d.store.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("read chunk: %w", err)
	}
	if f, ok := local(r); ok {
		return d.files.add(ctx, key, f), nil
	}
	defer r.Close()
	if buf := d.memory.acquire(int(size)); buf != nil {
		if _, err := io.ReadFull(r, buf); err != nil {
			d.memory.free(buf)
			return nil, readError(key, err)
		}
		return &inMemory{&d.memory, buf}, nil
	}
	s, err := d.spool.acquire()
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(io.NewOffsetWriter(s, 0), io.LimitReader(r, size))
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		s.release()
		return nil, readError(key, err)
	}
	return s, nil
}

func readError(key string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: it is shorter than its inventory says", chunker.ErrDamaged)
	}
	return fmt.Errorf("read %s: %w", key, err)
}

// close releases everything. No object is in use any more.
func (d *depot) close() {
	d.files.close()
	d.spool.close()
}

// handle is an open file, or a part of one.
type handle interface {
	io.ReaderAt
	io.Closer
}

// local tells whether r reads a file of this machine, at any offset. Other
// readers may offer ReadAt as well, at the cost of a request for each call.
func local(r io.ReadCloser) (handle, bool) {
	h, ok := r.(handle)
	if !ok {
		return nil, false
	}
	for at := io.ReaderAt(h); ; {
		switch v := at.(type) {
		case *os.File:
			return h, true
		case interface {
			Outer() (io.ReaderAt, int64, int64)
		}: // an io.SectionReader, or what embeds one
			at, _, _ = v.Outer()
		default:
			return nil, false
		}
	}
}

// files are the open files of a depot: a bounded number, so that more chunks can
// overlap than a process may have files. Those that were closed to make room are
// opened again when they are read; chunker.Reader makes sure that they are still
// the same.
type files struct {
	store store.Store

	mu   sync.Mutex
	idle *list.List // of *file: open and not being read, most recently read first
	open int
}

// A file is one chunk's.
type file struct {
	files *files
	ctx   context.Context // of the export
	key   string

	// Guarded by files.mu.
	h       handle // nil when closed
	readers int
	idle    *list.Element
}

func (fs *files) add(ctx context.Context, key string, h handle) *file {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := &file{files: fs, ctx: ctx, key: key, h: h}
	fs.open++
	f.idle = fs.idle.PushFront(f)
	fs.trim()
	return f
}

// trim closes the files that were not read for longest. Called with mu held.
func (fs *files) trim() {
	for fs.open > openFiles && fs.idle.Len() > 0 {
		f := fs.idle.Remove(fs.idle.Back()).(*file)
		f.h.Close()
		f.h, f.idle = nil, nil
		fs.open--
	}
}

// ReadAt reads the chunk, whose file it opens when it must.
func (f *file) ReadAt(b []byte, off int64) (int, error) {
	h, err := f.acquire()
	if err != nil {
		return 0, err
	}
	defer f.done()
	return h.ReadAt(b, off)
}

func (f *file) acquire() (handle, error) {
	fs := f.files
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.h == nil {
		r, err := fs.store.Get(f.ctx, f.key, 0, -1)
		if err != nil {
			return nil, fmt.Errorf("open chunk again: %w", err)
		}
		h, ok := local(r)
		if !ok {
			r.Close()
			return nil, fmt.Errorf("open %s again: no longer a file", f.key)
		}
		f.h = h
		fs.open++
		fs.trim()
	}
	if f.idle != nil {
		fs.idle.Remove(f.idle)
		f.idle = nil
	}
	f.readers++
	return f.h, nil
}

func (f *file) done() {
	f.files.mu.Lock()
	defer f.files.mu.Unlock()
	if f.readers--; f.readers == 0 {
		f.idle = f.files.idle.PushFront(f)
		f.files.trim()
	}
}

func (f *file) release() {
	f.files.mu.Lock()
	defer f.files.mu.Unlock()
	if f.h != nil {
		f.files.idle.Remove(f.idle)
		f.h.Close()
		f.h, f.idle = nil, nil
		f.files.open--
	}
}

func (fs *files) close() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for e := fs.idle.Front(); e != nil; e = e.Next() {
		e.Value.(*file).h.Close()
	}
	fs.idle.Init()
	fs.open = 0
}

// memory is what a depot holds in buffers. They are used again and never given
// back before the export ends, so that the collector has nothing to do.
type memory struct {
	mu    sync.Mutex
	used  int // bytes of all buffers, idle ones included
	spare [][]byte
}

// acquire returns a buffer of n bytes, or nil when there is no room.
func (m *memory) acquire(n int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	best := -1
	for i, b := range m.spare {
		if cap(b) >= n && (best < 0 || cap(b) < cap(m.spare[best])) {
			best = i
		}
	}
	if best >= 0 {
		return m.take(best)[:n]
	}
	size := (n + memoryUnit - 1) / memoryUnit * memoryUnit
	for m.used+size > memoryBudget && len(m.spare) > 0 {
		m.used -= cap(m.take(len(m.spare) - 1))
	}
	if m.used+size > memoryBudget {
		return nil
	}
	m.used += size
	return make([]byte, n, size)
}

// take removes a spare buffer. Called with mu held.
func (m *memory) take(i int) []byte {
	b, last := m.spare[i], len(m.spare)-1
	m.spare[i] = m.spare[last]
	m.spare[last] = nil
	m.spare = m.spare[:last]
	return b
}

func (m *memory) free(b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.spare = append(m.spare, b)
}

type inMemory struct {
	memory *memory
	b      []byte
}

func (m *inMemory) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(b, m.b[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// Fixed says that this process alone has the bytes.
func (m *inMemory) Fixed() {}

func (m *inMemory) release() {
	m.memory.free(m.b)
	m.b = nil
}

// A spool is one temporary file, made when it is first needed, with a slot of
// chunker.MaxSize for each chunk in it. Slots are used again; what no chunk has
// filled takes no room on disk.
type spool struct {
	mu    sync.Mutex
	f     *os.File
	named bool // where a file in use cannot be removed
	slots int64
	spare []int64
}

func (s *spool) acquire() (*slot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		f, err := os.CreateTemp("", "pcapsule-export-*")
		if err != nil {
			return nil, fmt.Errorf("make a temporary file for chunks that do not fit in memory (TMPDIR says where): %w", err)
		}
		s.f = f
		s.named = os.Remove(f.Name()) != nil
	}
	if n := len(s.spare); n > 0 {
		at := s.spare[n-1]
		s.spare = s.spare[:n-1]
		return &slot{s, at}, nil
	}
	s.slots++
	return &slot{s, (s.slots - 1) * chunker.MaxSize}, nil
}

func (s *spool) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		return
	}
	s.f.Close()
	if s.named {
		os.Remove(s.f.Name())
	}
	s.f = nil
}

// A slot is one chunk's part of a spool.
type slot struct {
	spool *spool
	at    int64
}

func (s *slot) ReadAt(b []byte, off int64) (int, error) { return s.spool.f.ReadAt(b, s.at+off) }

// Fixed says that nobody else writes to the file.
func (s *slot) Fixed() {}

func (s *slot) WriteAt(b []byte, off int64) (int, error) {
	n, err := s.spool.f.WriteAt(b, s.at+off)
	if err != nil {
		err = fmt.Errorf("write chunks that do not fit in memory to a temporary file (TMPDIR says where): %w", err)
	}
	return n, err
}

func (s *slot) release() {
	s.spool.mu.Lock()
	defer s.spool.mu.Unlock()
	s.spool.spare = append(s.spool.spare, s.at)
}
