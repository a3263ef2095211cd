package ring

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

// part is an open chunk. One goroutine owns it, until Seal hands it to the
// sealer.
type part struct {
	r      *Ring
	f      *os.File
	path   string
	stream string
	size   int64 // written
	held   int64 // of Ring.used, on this part's account; never less than onDisk(size)
	err    error // sticks
	isShut bool  // it is open no more; by Ring.mu
}

// Create opens a part, and sets aside the room of a whole chunk for it, so that
// a full ring or disk shows here and not in the middle of a chunk. The error
// wraps ErrFull or ErrDiskFull when that is the reason.
func (r *Ring) Create(stream string) (chunker.Part, error) {
	if err := checkStream(stream); err != nil {
		return nil, err
	}
	select {
	case <-r.closed:
		return nil, ErrClosed
	default:
	}
	// One more part's room is never given away, so that recovery can rewrite a
	// torn part even when everything is pinned.
	return r.create(stream, r.opt.PartSize, r.opt.Limit-r.opt.PartSize)
}

// create opens a part with room for size bytes in a ring of at most limit.
func (r *Ring) create(stream string, size, limit int64) (*part, error) {
	size = onDisk(size)
	if err := r.reserve(size, limit); err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.open[stream]++
	r.nextID++
	path := filepath.Join(r.dir, openDir, partName(stream, r.nextID))
	r.mu.Unlock()
	p := &part{r: r, path: path, stream: stream, held: size}
	err := r.withRoom(size, func() (err error) {
		if p.f == nil {
			if p.f, err = r.disk.create(path); err != nil {
				return err
			}
		}
		return r.disk.allocate(p.f, size)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open a part of the ring: %w", err), p.Abort())
	}
	return p, nil
}

// Write adds to the part. What it took survives the process.
func (p *part) Write(b []byte) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	if more := onDisk(p.size+int64(len(b))) - p.held; more > 0 {
		if p.err = p.r.reserve(more, p.r.opt.Limit-p.r.opt.PartSize); p.err != nil {
			return 0, p.err
		}
		p.held += more
	}
	done := 0
	err := p.r.withRoom(int64(len(b)), func() error {
		n, err := p.r.disk.write(p.f, b[done:])
		done += n
		return err
	})
	p.size += int64(done)
	if err != nil {
		p.err = fmt.Errorf("write to the ring: %w", err)
	}
	return done, p.err
}

// Seal hands the finished part to the sealer, which makes it durable and lists
// it; Ring.Drain waits for that. It waits itself only while the sealer is many
// chunks behind.
func (p *part) Seal(m chunker.Meta) error {
	if p.err != nil {
		return errors.Join(p.err, p.Abort())
	}
	name, err := fileName(m)
	if err == nil && (m.Size != p.size || m.Stream != p.stream) {
		err = fmt.Errorf("chunk of %s with %d bytes was written as %d of %s", m.Stream, m.Size, p.size, p.stream)
	}
	if err != nil {
		return errors.Join(err, p.Abort())
	}
	p.err = errors.New("part is sealed")
	p.r.mu.Lock()
	p.r.sealing++
	p.r.mu.Unlock()
	select {
	case p.r.jobs <- job{part: p, meta: m, name: name}:
		return nil
	case <-p.r.closed:
		p.r.sealEnded(1)
		return ErrClosed // the next Open recovers it
	}
}

// Abort throws the part away.
func (p *part) Abort() error {
	p.err = errors.New("part was given up")
	var err error
	if p.f != nil {
		p.f.Close()
		err = p.r.disk.remove(p.path)
		p.f = nil
	}
	p.r.release(p.held)
	p.held = 0
	p.r.mu.Lock()
	p.shut()
	p.r.mu.Unlock()
	return err
}

// shut takes the part off the open ones; r.mu is held.
func (p *part) shut() {
	if !p.isShut {
		p.isShut = true
		p.r.open[p.stream]--
	}
}

// seal makes a finished part a sealed chunk.
func (p *part) seal(m chunker.Meta, name string) error {
	r := p.r
	to := filepath.Join(r.dir, p.stream, name)
	err := r.withRoom(4096, func() error {
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		if err := r.disk.finish(p.f, p.size); err != nil {
			return err
		}
		return r.disk.rename(p.path, to)
	})
	if err != nil {
		return errors.Join(fmt.Errorf("seal a chunk: %w", err), p.Abort())
	}
	p.f.Close()
	disk := onDisk(p.size)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used -= p.held - disk
	p.shut()
	r.insert(&chunk{Chunk: Chunk{m}, name: name, disk: disk, made: true})
	return nil
}

// Reason is the reason of the gap that a failed write leaves.
func Reason(err error) string {
	switch {
	case errors.Is(err, ErrFull):
		return manifest.GapRingOverrun
	case errors.Is(err, ErrDiskFull):
		return manifest.GapDiskFull
	}
	return manifest.GapDamaged
}

var (
	_ chunker.Sink = (*Ring)(nil)
	_ io.Writer    = (*part)(nil)
)
