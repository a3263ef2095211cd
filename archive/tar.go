package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
)

const (
	tarBlock   = 512
	tarTrailer = 2 * tarBlock
	tarMode    = 0o644
	tarAhead   = 4 // chunks fetched ahead of the one that is being written
)

// WriteTar writes snapshot s as a tar in the store's own layout: store.json when
// there is one, manifest, signature and public key, the companions, then the
// inventories, then the chunks in the order of the inventories. Unpacked it is a
// folder store. The same snapshot always gives the same bytes (ustar, mode 0644,
// owner 0, the time of creation), as long as store.json and companions are the
// same.
//
// Each object of the snapshot is checked against its address before it is written. At the first
// that is missing or damaged WriteTar stops with an error and writes no trailer,
// so that what it wrote does not pass for a whole tar. progress, unless nil, is
// called with the bytes written and those in all.
func (a *Archive) WriteTar(ctx context.Context, w io.Writer, s *Snapshot, progress func(done, total int64)) error {
	if s.Err != nil {
		return s.Err
	}
	total, err := a.TarSize(ctx, s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := tarWriter{
		tar:   tar.NewWriter(&countingWriter{w: w, total: total, progress: progress}),
		mtime: s.Manifest.Created.Time().Truncate(time.Second),
	}
	if err := t.write(ctx, a, s); err != nil {
		return fmt.Errorf("write tar of snapshot %s: %w", s.ID, err)
	}
	if err := t.tar.Close(); err != nil {
		return fmt.Errorf("write tar of snapshot %s: %w", s.ID, err)
	}
	return nil
}

// TarSize is the size of what WriteTar writes, in bytes. It reads the snapshot's
// inventories.
func (a *Archive) TarSize(ctx context.Context, s *Snapshot) (int64, error) {
	if s.Err != nil {
		return 0, s.Err
	}
	size := int64(tarTrailer)
	add := func(n int64) { size += tarBlock + (n+tarBlock-1)/tarBlock*tarBlock }
	add(int64(len(s.Raw)))
	add(int64(len(s.Sig)))
	add(int64(len(s.Key.Signers())))
	for _, stream := range inventories(s) {
		add(stream.InventorySize)
	}
	extras, err := a.extras(ctx, s.ID)
	if err != nil {
		return 0, fmt.Errorf("size tar of snapshot %s: %w", s.ID, err)
	}
	for _, e := range extras {
		n, err := headerSize(e, s.Manifest.Created.Time())
		if err != nil {
			return 0, fmt.Errorf("size tar of snapshot %s: %w", s.ID, err)
		}
		add(e.Size)
		size += n - tarBlock
	}
	err = eachChunk(ctx, s, func(_ manifest.ObjectKey, e manifest.Entry) error {
		add(e.Size)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("size tar of snapshot %s: %w", s.ID, err)
	}
	return size, nil
}

// inventories are the streams of s, those left out whose inventory an earlier
// one shares.
func inventories(s *Snapshot) []manifest.Stream {
	var list []manifest.Stream
	seen := map[string]bool{}
	for _, stream := range s.Streams {
		if !seen[stream.Inventory] {
			seen[stream.Inventory] = true
			list = append(list, stream)
		}
	}
	return list
}

// eachChunk calls f once for each chunk of s, in the order of its inventories.
func eachChunk(ctx context.Context, s *Snapshot, f func(manifest.ObjectKey, manifest.Entry) error) error {
	seen := map[manifest.ObjectKey]struct{}{}
	for _, stream := range inventories(s) {
		entries, err := s.Inventory(ctx, stream)
		if err != nil {
			return err
		}
		for _, e := range entries {
			key, err := manifest.ParseObjectKey(e.Key)
			if err != nil {
				return err
			}
			if _, ok := seen[key]; ok {
				continue
			}
			seen[key] = struct{}{}
			if err := f(key, e); err != nil {
				return err
			}
		}
	}
	return nil
}

type tarWriter struct {
	tar   *tar.Writer
	mtime time.Time
}

func (t *tarWriter) write(ctx context.Context, a *Archive, s *Snapshot) error {
	extras, err := a.extras(ctx, s.ID)
	if err != nil {
		return err
	}
	companions := slices.IndexFunc(extras, func(e store.Info) bool { return e.Key != manifest.StorePath })
	if companions < 0 {
		companions = len(extras)
	}
	for _, e := range extras[:companions] {
		if err := t.extra(ctx, a, e); err != nil {
			return err
		}
	}
	if err := t.add(manifest.ManifestPath(s.ID), s.Raw); err != nil {
		return err
	}
	if err := t.add(manifest.SignaturePath(s.ID), s.Sig); err != nil {
		return err
	}
	if err := t.add(manifest.SignersPath(s.ID), s.Key.Signers()); err != nil {
		return err
	}
	for _, e := range extras[companions:] {
		if err := t.extra(ctx, a, e); err != nil {
			return err
		}
	}
	for _, stream := range inventories(s) {
		b, err := s.readInventory(ctx, stream)
		if err != nil {
			return err
		}
		if err := t.add(stream.Inventory, b); err != nil {
			return err
		}
	}
	return t.chunks(ctx, a, s)
}

// chunks fetches a few chunks at once and writes them in order.
func (t *tarWriter) chunks(ctx context.Context, a *Archive, s *Snapshot) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type fetched struct {
		key string
		b   []byte
		err error
	}
	queue := make(chan chan fetched, tarAhead)
	listed := make(chan error, 1)
	go func() {
		defer close(queue)
		listed <- eachChunk(ctx, s, func(key manifest.ObjectKey, e manifest.Entry) error {
			slot := make(chan fetched, 1)
			select {
			case queue <- slot:
			case <-ctx.Done():
				return ctx.Err()
			}
			go func() {
				b, err := a.fetch(ctx, key, e.Size)
				slot <- fetched{e.Key, b, err}
			}()
			return nil
		})
	}()
	for slot := range queue {
		f := <-slot
		if f.err == nil {
			f.err = t.add(f.key, f.b)
		}
		if f.err != nil {
			return f.err
		}
	}
	return <-listed
}

// fetch reads a chunk and checks it against its address.
func (a *Archive) fetch(ctx context.Context, key manifest.ObjectKey, size int64) ([]byte, error) {
	if size < 0 || size > chunker.MaxSize {
		return nil, fmt.Errorf("%s claims %d bytes, at most %d", key, size, chunker.MaxSize)
	}
	r, err := a.st.Get(ctx, key.String(), 0, size+1)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", key, err)
	}
	defer r.Close()
	b := make([]byte, size+1)
	n, err := io.ReadFull(r, b)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("fetch %s: %w", key, err)
	}
	b = b[:n]
	if err := checkObject(key, b, size); err != nil {
		return nil, fmt.Errorf("fetch %s: %w", key, err)
	}
	return b, nil
}

func (t *tarWriter) add(key string, b []byte) error {
	err := t.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg,
		Name:     key,
		Mode:     tarMode,
		Size:     int64(len(b)),
		ModTime:  t.mtime,
		Format:   tar.FormatUSTAR, // every key and size fits; see TestTarLongestKey
	})
	if err == nil {
		_, err = t.tar.Write(b)
	}
	if errors.Is(err, tar.ErrFieldTooLong) {
		return fmt.Errorf("%s does not fit a tar: %w", key, err)
	}
	return err
}

// maxCompanions bounds those that a tar carries.
const maxCompanions = 1024

// extras are what a tar of snapshot id carries and no signature covers: store.json,
// when there is one, and then the snapshot's companions, in order of key.
func (a *Archive) extras(ctx context.Context, id string) ([]store.Info, error) {
	var extras []store.Info
	info, err := a.st.Stat(ctx, manifest.StorePath)
	switch {
	case err == nil && info.Size > manifest.MaxStore:
		return nil, fmt.Errorf("%s has %d bytes, at most %d: a copy without it would not be safe: restore that file", manifest.StorePath, info.Size, manifest.MaxStore)
	case err == nil:
		extras = append(extras, info)
	case !absent(err):
		return nil, err
	}
	n := 0
	for info, err := range a.st.List(ctx, manifest.SnapshotsDir+id+"/") {
		if errors.Is(err, store.ErrNoList) {
			break // through a hub: what cannot be seen is not missed
		}
		if store.AsObstacle(err) != nil {
			continue // no object, so no companion
		}
		if err != nil {
			return nil, fmt.Errorf("list companions: %w", err)
		}
		if _, rest, ok := manifest.SplitSnapshotPath(info.Key); !ok || manifest.OfSnapshot(rest) {
			continue
		}
		if n++; n > maxCompanions {
			return nil, fmt.Errorf("more than %d other files are in its folder, more than a tar carries: move some out of %s", maxCompanions, manifest.SnapshotsDir+id)
		}
		extras = append(extras, info)
	}
	return extras, nil
}

// extraHeader is that of a member whose key and size may be too much for ustar.
func extraHeader(e store.Info, mtime time.Time) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: e.Key, Mode: tarMode, Size: e.Size, ModTime: mtime.Truncate(time.Second)}
}

func headerSize(e store.Info, mtime time.Time) (int64, error) {
	c := &countingWriter{w: io.Discard}
	err := tar.NewWriter(c).WriteHeader(extraHeader(e, mtime))
	return c.done, err
}

// extra copies a member of any size.
func (t *tarWriter) extra(ctx context.Context, a *Archive, e store.Info) error {
	r, err := a.st.Get(ctx, e.Key, 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := t.tar.WriteHeader(extraHeader(e, t.mtime)); err != nil {
		return fmt.Errorf("%s: %w", e.Key, err)
	}
	n, err := io.Copy(t.tar, io.LimitReader(r, e.Size+1))
	if errors.Is(err, tar.ErrWriteTooLong) || err == nil && n != e.Size {
		return fmt.Errorf("%s has changed while it was copied: try again", e.Key)
	}
	return err
}

// countingWriter reports how much of total went through it.
type countingWriter struct {
	w           io.Writer
	done, total int64
	progress    func(done, total int64)
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.done += int64(n)
	if c.progress != nil {
		c.progress(c.done, c.total)
	}
	return n, err
}
