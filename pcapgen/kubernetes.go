package pcapgen

import (
	"context"
	"errors"
	"fmt"
	"io"

	"pcapsule/chunker"
	"pcapsule/cluster"
	"pcapsule/manifest"
)

// ErrNoKubernetes is wrapped by the error for asking a snapshot by the names of a
// cluster that holds no stream of one.
var ErrNoKubernetes = errors.New("the snapshot holds no records of Kubernetes")

// NamesError is the error for a kubernetes stream that cannot be used. The
// packets can be exported without it.
type NamesError struct{ Err error }

func (e *NamesError) Error() string {
	return fmt.Sprintf("the names of pods and services cannot be read: %v (--plain exports the packets without them)", e.Err)
}

func (e *NamesError) Unwrap() error { return e.Err }

// hasKubernetes tells whether the snapshot holds records of a cluster.
func hasKubernetes(m *manifest.Manifest) bool {
	for _, s := range m.Streams {
		if s.Stream == chunker.Kubernetes && s.Chunks > 0 {
			return true
		}
	}
	return false
}

// KubernetesLines calls f with each line of the snapshot's kubernetes stream,
// without its newline, and its time by the clock of who recorded it: chunk by
// chunk, each verified before it is read, in the order of the inventory. Before
// the lines of a chunk it calls chunk, where that is not nil. The line is valid
// until f returns. It returns ErrNoKubernetes when there is no such stream.
func KubernetesLines(ctx context.Context, src Source, chunk func(), f func(at int64, line []byte) error) error {
	if !hasKubernetes(src.Manifest) {
		return ErrNoKubernetes
	}
	d := newDepot(src.Store)
	defer d.close()
	for _, s := range src.Manifest.Streams {
		if s.Stream != chunker.Kubernetes {
			continue
		}
		entries, err := src.Inventory(ctx, s)
		if err != nil {
			return fmt.Errorf("read the inventory of stream %s: %w", s.Stream, err)
		}
		err = ahead(ctx, d, entries, func(e manifest.Entry, o object) error {
			if chunk != nil {
				chunk()
			}
			if err := eventLines(ctx, e, o, f); err != nil {
				return fmt.Errorf("chunk %s: %w", e.Key, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ahead fetches each entry's chunk and calls f with it, one after another, while
// the next is on its way.
func ahead(ctx context.Context, d *depot, entries []manifest.Entry, f func(manifest.Entry, object) error) error {
	type fetched struct {
		object object
		err    error
	}
	ctx, cancel := context.WithCancel(ctx)
	next := make(chan fetched)
	go func() {
		defer close(next)
		for _, e := range entries {
			o, err := d.fetch(ctx, e.Key, e.Size)
			select {
			case next <- fetched{o, err}:
			case <-ctx.Done():
				if err == nil {
					o.release()
				}
				return
			}
			if err != nil {
				return
			}
		}
	}()
	defer func() {
		cancel()
		for got := range next {
			if got.err == nil {
				got.object.release()
			}
		}
	}()
	for _, e := range entries {
		got, ok := <-next
		if !ok {
			return stopped(ctx)
		}
		if got.err != nil {
			if ctx.Err() != nil {
				return stopped(ctx)
			}
			return got.err
		}
		err := f(e, got.object)
		got.object.release()
		if err != nil {
			return err
		}
	}
	return nil
}

// eventLines reads one chunk.
func eventLines(ctx context.Context, e manifest.Entry, o object, f func(at int64, line []byte) error) error {
	k, err := manifest.ParseObjectKey(e.Key)
	if err != nil {
		return err
	}
	r, err := chunker.Open(o, e.Size, k.Hash, chunker.Kubernetes)
	if err != nil {
		return err
	}
	var b chunker.Batch
	for {
		err := r.Next(&b)
		if err == io.EOF {
			if err := e.Describes(r.Meta()); err != nil {
				return fmt.Errorf("chunk %s: %w: %w", e.Key, chunker.ErrDamaged, err)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return stopped(ctx)
		}
		for i := range b.Len() {
			if err := f(b.Times[i], b.Event(i)); err != nil {
				return err
			}
		}
	}
}

// KubernetesTable reads the snapshot's kubernetes stream into a table, whose
// notes are those from one time until another, in the hub's time. Its error wraps
// ErrNoKubernetes or is a NamesError, unless ctx is done.
func KubernetesTable(ctx context.Context, src Source, from, to int64) (*cluster.Table, error) {
	clocks := make(map[string]manifest.Clock, len(src.Manifest.Nodes))
	for i := range src.Manifest.Nodes {
		clocks[src.Manifest.Nodes[i].Name] = src.Manifest.Nodes[i].Clock
	}
	b := cluster.NewBuilder(clocks, from, to)
	var c *cluster.Chunk
	err := KubernetesLines(ctx, src, func() {
		if c != nil {
			c.End()
		}
		c = b.Chunk()
	}, func(at int64, line []byte) error {
		if err := c.Line(at, line); err != nil {
			return fmt.Errorf("%w: %w", chunker.ErrDamaged, err)
		}
		return nil
	})
	switch {
	case errors.Is(err, ErrNoKubernetes), err != nil && ctx.Err() != nil:
		return nil, err
	case err != nil:
		return nil, &NamesError{err}
	}
	if c != nil {
		c.End()
	}
	return b.Table(), nil
}
