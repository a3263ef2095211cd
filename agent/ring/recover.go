package ring

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

// recoverySlack is by how much a recovered chunk may be larger than the torn
// part it is made of: the end of its frame.
const recoverySlack = 64 << 10

// recover brings back what an earlier process left. Sealed chunks are listed by
// their names, and not read.
func (r *Ring) recover() error {
	var gaps []Gap
	for _, stream := range []string{chunker.Packets, chunker.OS, chunker.Kubernetes} {
		g, err := r.list(stream)
		if err != nil {
			return fmt.Errorf("list sealed chunks: %w", err)
		}
		gaps = append(gaps, g...)
	}
	if err := r.loadState(); err != nil {
		return err
	}
	for _, g := range gaps {
		r.state.addGap(g)
	}
	r.settleEvictions()
	if err := r.recoverParts(); err != nil {
		return fmt.Errorf("recover open parts: %w", err)
	}
	// The limit may be lower than it was.
	r.makeRoom(0, r.opt.Limit-r.opt.PartSize)
	os.Remove(filepath.Join(r.dir, "state.json.tmp"))
	if err := r.withRoom(4096, r.save); err != nil {
		if !errors.Is(err, ErrDiskFull) {
			return err
		}
		r.opt.Logger.Warn("cannot save the ring's ledger", "err", err)
	}
	return nil
}

// list finds the sealed chunks of a stream. What cannot be one goes, and leaves
// a gap.
func (r *Ring) list(stream string) ([]Gap, error) {
	dir := filepath.Join(r.dir, stream)
	entries, err := os.ReadDir(dir)
	if err != nil && !isNotExist(err) {
		return nil, err
	}
	var gaps []Gap
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			continue
		}
		m, err := parseName(stream, e.Name())
		switch {
		case err != nil:
			at := manifest.NanosOf(info.ModTime())
			gaps = append(gaps, Gap{Stream: stream, Reason: manifest.GapDamaged, From: at, To: at + 1, Detail: "a file in the ring had a name that no chunk has"})
		case info.Size() == 0:
			gaps = append(gaps, damagedGap(m))
			err = errors.New("sealed chunk has no bytes")
		default:
			m.Size = info.Size()
			disk := onDisk(m.Size)
			r.used += disk
			r.insert(&chunk{Chunk: Chunk{m}, name: e.Name(), disk: disk})
			continue
		}
		r.opt.Logger.Warn("a file in the ring is removed", "file", e.Name(), "err", err)
		if err := r.disk.remove(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return gaps, nil
}

// loadState reads state.json. One that cannot be read is put aside: what was
// recorded is then not known, and the ledger says so.
func (r *Ring) loadState() error {
	path := filepath.Join(r.dir, "state.json")
	b, err := readFile(path, maxState)
	if isNotExist(err) {
		return nil
	}
	if err == nil {
		r.state, err = decodeState(b)
	}
	if err == nil {
		return nil
	}
	r.opt.Logger.Error("the ring's ledger is damaged: what it held counts as not recorded", "err", err, "kept", path+".damaged")
	if err := os.Rename(path, path+".damaged"); err != nil {
		return fmt.Errorf("put a damaged ledger aside: %w", err)
	}
	return nil
}

// settleEvictions finds what a process that died had evicted, of what it had
// announced.
func (r *Ring) settleEvictions() {
	for _, key := range r.state.Evicting {
		if m, err := parseKey(key); err == nil && !slices.ContainsFunc(r.sealed, func(c *chunk) bool { return c.key() == key }) {
			raise(&r.state.Evicted, m.Stream, m.Last)
		}
	}
	r.state.evictionDone()
}

// recoverParts seals what is whole of the parts that a process had open. The run
// still ends where the ledger on disk says, up to saveEvery earlier: how far
// every worker had come is not known from the parts that some of them had.
func (r *Ring) recoverParts() error {
	dir := filepath.Join(r.dir, openDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	r.nextID = firstID(entries)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		stream, err := partStream(e.Name())
		if err != nil {
			r.opt.Logger.Warn("a file in the ring is removed", "file", e.Name(), "err", err)
			if err := r.disk.remove(path); err != nil {
				return err
			}
			continue
		}
		if err := r.recoverPart(path, stream); err != nil {
			return err
		}
	}
	return nil
}

// firstID is a number that no open part has.
func firstID(entries []fs.DirEntry) int {
	id := 0
	for _, e := range entries {
		var n int
		stream, err := partStream(e.Name())
		if err != nil {
			continue
		}
		if _, err := fmt.Sscanf(e.Name()[len(stream):], "-%d.part", &n); err == nil {
			id = max(id, n)
		}
	}
	return id
}

// recoverPart seals the whole records of a torn part, and removes it. A crash in
// between makes it happen again, with the same outcome.
func (r *Ring) recoverPart(path, stream string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if err := f.Truncate(size); err != nil { // gives back what was set aside
		return err
	}
	r.mu.Lock()
	r.used += onDisk(size)
	r.mu.Unlock()
	_, err = chunker.Recover(f, size, stream, recovery{r, size + recoverySlack})
	if err != nil {
		at := manifest.NanosOf(info.ModTime())
		r.opt.Logger.Error("an open part of the ring is lost", "part", path, "err", err)
		r.state.addGap(Gap{Stream: stream, Reason: Reason(err), From: at, To: at + 1, Detail: "a torn part could not be recovered"})
	}
	if err := r.disk.remove(path); err != nil {
		return err
	}
	r.release(onDisk(size))
	return nil
}

// recovery is the sink of a part that is being recovered. It may use the room
// that is kept for this.
type recovery struct {
	r    *Ring
	size int64
}

func (s recovery) Create(stream string) (chunker.Part, error) {
	p, err := s.r.create(stream, s.size, s.r.opt.Limit)
	if err != nil {
		return nil, err
	}
	return recovered{p}, nil
}

// recovered is sealed at once: there is no sealer yet.
type recovered struct{ *part }

func (p recovered) Seal(m chunker.Meta) error {
	name, err := fileName(m)
	if err != nil {
		return errors.Join(err, p.Abort())
	}
	return p.seal(m, name)
}
