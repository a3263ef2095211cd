package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

const (
	tarBlock   = 512
	tarTrailer = 2 * tarBlock
	tarMode    = 0o644
	tarAhead   = 4 // chunks fetched ahead of the one that is being written
)

// WriteTar writes snapshot s as a tar in the store's own layout: manifest,
// signature and public key, then the inventories, then the chunks in the order
// of the inventories. Unpacked it is a folder store. The same snapshot always
// gives the same bytes (ustar, mode 0644, owner 0, the time of creation).
//
// Each object is checked against its address before it is written. At the first
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
	err := eachChunk(ctx, s, func(_ manifest.ObjectKey, e manifest.Entry) error {
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
	if err := t.add(manifest.ManifestPath(s.ID), s.Raw); err != nil {
		return err
	}
	if err := t.add(manifest.SignaturePath(s.ID), s.Sig); err != nil {
		return err
	}
	if err := t.add(manifest.SignersPath(s.ID), s.Key.Signers()); err != nil {
		return err
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
