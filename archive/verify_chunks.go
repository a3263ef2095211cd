package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
)

// chunkFacts are what a chunk was found to be, for other snapshots that hold it.
type chunkFacts struct {
	entry      manifest.Entry      // that it was checked against; sound only when good
	good       bool                // nothing was wrong with it
	interfaces []chunker.Interface // shared by the chunks that have the same
	recorder   string              // the machine whose packets it says it holds; it need not say
}

// snapshot checks the inventories of s and all their chunks.
func (v *verifier) snapshot(ctx context.Context, s *Snapshot) error {
	for i := range s.Manifest.Nodes {
		v.account(s, &s.Manifest.Nodes[i])
	}
	v.accountCluster(s)
	jobs := make(chan chunkJob)
	g, ctx := errgroup.WithContext(ctx)
	for range processors() {
		g.Go(func() error {
			var c chunkChecker
			for j := range jobs {
				v.chunk(ctx, &c, j)
				if ctx.Err() != nil {
					return ctx.Err()
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(jobs)
		for node, stream := range s.Streams {
			if err := v.inventory(ctx, s, node, stream, jobs); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// A chunkJob is one line of an inventory.
type chunkJob struct {
	snap   *Snapshot
	node   *manifest.Node // nil for streams of the cluster
	stream string
	key    manifest.ObjectKey
	entry  manifest.Entry
}

// inventory checks one inventory and sends its entries to jobs. Of a damaged one
// it sends those before the first line that cannot be read.
func (v *verifier) inventory(ctx context.Context, s *Snapshot, node string, stream manifest.Stream, jobs chan<- chunkJob) error {
	b, err := store.ReadAll(ctx, v.a.st, stream.Inventory, stream.InventorySize)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	sent := int64(0) // stored bytes of the chunks sent
	defer func() { v.progress(stream.InventorySize + max(0, stream.Size-sent)) }()
	if err != nil {
		v.blindly(s, stream, err)
		return nil
	}
	v.holds(stream.Inventory, int64(len(b)))
	key, err := manifest.ParseObjectKey(stream.Inventory)
	if err == nil {
		err = checkObject(key, b, stream.InventorySize)
	}
	if err != nil {
		v.blindly(s, stream, err)
	}

	j := chunkJob{snap: s, stream: stream.Stream}
	for i := range s.Manifest.Nodes {
		if node != "" && s.Manifest.Nodes[i].Name == node {
			j.node = &s.Manifest.Nodes[i]
		}
	}
	var sum manifest.Stream
	r := manifest.NewInventoryReader(bytes.NewReader(b))
	for {
		j.entry, err = r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			v.blindly(s, stream, fmt.Errorf("%w: %w; its chunks from there on are not checked", ErrDamaged, err))
			return nil
		}
		sum.Count(j.entry)
		if j.key, err = manifest.ParseObjectKey(j.entry.Key); err != nil {
			return err // the reader has checked it
		}
		select {
		case jobs <- j:
			sent += j.entry.Size
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := checkSums(stream, sum); err != nil {
		v.problem(s.ID, stream.Inventory, "%v; %s", err, doRebuild)
	}
	return nil
}

// blindly reports an inventory that cannot be read as a whole.
func (v *verifier) blindly(s *Snapshot, stream manifest.Stream, err error) {
	v.unreadable(s.ID, stream.Inventory, err)
	v.mu.Lock()
	v.blind = true
	v.mu.Unlock()
}

// chunk checks one chunk, unless it was found good for the same entry before.
func (v *verifier) chunk(ctx context.Context, c *chunkChecker, j chunkJob) {
	defer v.progress(j.entry.Size)
	if j.key.Ext != chunker.Ext(j.stream) {
		v.holds(j.entry.Key, j.entry.Size)
		v.problem(j.snap.ID, j.entry.Key, "it is no chunk of stream %s; %s", j.stream, doRebuild)
		return
	}
	v.mu.Lock()
	f, known := v.facts[j.key]
	v.mu.Unlock()
	if !known || !f.good || f.entry != j.entry {
		var err error
		f, err = c.check(ctx, v.a.st, j)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			v.unreadable(j.snap.ID, j.entry.Key, err)
		}
		if !known {
			f.interfaces = v.intern(f.interfaces)
			v.mu.Lock()
			v.facts[j.key] = f
			v.mu.Unlock()
			v.holds(j.entry.Key, j.entry.Size)
		}
	}
	if !f.good || j.node == nil {
		return
	}
	if f.recorder != "" && f.recorder != j.node.Name {
		v.note(j.snap.ID, j.entry.Key, "it says that it holds packets of %q, the manifest lists it for node %s", manifest.Clean(f.recorder), j.node.Name)
	}
	for _, i := range f.interfaces {
		i.Name, i.Description = manifest.Clean(i.Name), manifest.Clean(i.Description)
		if _, ok := slices.BinarySearchFunc(j.node.Interfaces, i, manifest.CompareInterfaces); !ok {
			v.problem(j.snap.ID, j.entry.Key, "it has packets of interface %q (link type %d), which the manifest does not list for node %s; %s",
				i.Name, i.LinkType, j.node.Name, doRebuild)
		}
	}
}

// A chunkChecker checks chunks, one after the other, in the same memory.
type chunkChecker struct {
	buf   bytes.Buffer
	batch chunker.Batch
}

// check reads a chunk and holds it against its key, its entry and the format.
func (c *chunkChecker) check(ctx context.Context, st store.Store, j chunkJob) (chunkFacts, error) {
	f := chunkFacts{entry: j.entry}
	b, err := c.read(ctx, st, j.entry)
	if err != nil {
		return f, err
	}
	if err := checkObject(j.key, b, j.entry.Size); err != nil {
		return f, err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != j.entry.SHA256 {
		return f, fmt.Errorf("its SHA-256 is %x, the inventory says %s; %s", sum, j.entry.SHA256, doRebuild)
	}
	r, err := chunker.Open(bytes.NewReader(b), j.entry.Size, j.key.Hash, j.stream)
	if err != nil {
		return f, fmt.Errorf("%w; %s", err, doRebuild)
	}
	for err == nil {
		if err = ctx.Err(); err == nil {
			err = r.Next(&c.batch)
		}
	}
	if !errors.Is(err, io.EOF) {
		return f, fmt.Errorf("%w; %s", err, doRebuild)
	}
	if err := j.entry.Describes(r.Meta()); err != nil {
		return f, fmt.Errorf("%w; %s", err, doRebuild)
	}
	f.good, f.interfaces, f.recorder = true, r.Interfaces(), r.Header().Node
	return f, nil
}

// read reads as much of an object as its entry claims, and one byte more.
func (c *chunkChecker) read(ctx context.Context, st store.Store, e manifest.Entry) ([]byte, error) {
	r, err := st.Get(ctx, e.Key, 0, e.Size+1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	c.buf.Reset()
	c.buf.Grow(int(e.Size) + bytes.MinRead)
	if _, err := c.buf.ReadFrom(io.LimitReader(r, e.Size+1)); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return c.buf.Bytes(), nil
}

// intern returns list, or one that is equal and was met before.
func (v *verifier) intern(list []chunker.Interface) []chunker.Interface {
	v.mu.Lock()
	defer v.mu.Unlock()
	key := fmt.Sprintf("%#v", list)
	if _, ok := v.lists[key]; !ok {
		v.lists[key] = slices.Clone(list)
	}
	return v.lists[key]
}
