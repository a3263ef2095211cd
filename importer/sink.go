package importer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

// uploads is how many chunks are on their way at once, and so how many stand on
// the disk.
const uploads = 4

// A sink is where the cutter puts chunks: each is a temporary file while it is
// written, and is uploaded when it is sealed.
type sink struct {
	ctx    context.Context
	dir    string
	node   string
	upload Upload
	group  *errgroup.Group

	mu      sync.Mutex
	entries []manifest.Entry
}

func newSink(ctx context.Context, dir, node string, upload Upload) *sink {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(uploads)
	return &sink{ctx: ctx, dir: dir, node: node, upload: upload, group: group}
}

// finish waits for the uploads; after cut failed it does so only to clean up.
func (s *sink) finish(cut error) ([]manifest.Entry, error) {
	err := s.group.Wait()
	if cut != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil, cut
	}
	return s.entries, err
}

func (s *sink) Create(string) (chunker.Part, error) {
	if err := s.ctx.Err(); err != nil { // an upload has failed
		return nil, err
	}
	f, err := os.CreateTemp(s.dir, "chunk-")
	if err != nil {
		return nil, temporary(err)
	}
	return &part{sink: s, file: f, sum: sha256.New()}, nil
}

type part struct {
	sink *sink
	file *os.File
	sum  hash.Hash
}

func (p *part) Write(b []byte) (int, error) {
	n, err := p.file.Write(b)
	p.sum.Write(b[:n])
	if err != nil {
		err = temporary(err)
	}
	return n, err
}

// temporary is the error of a chunk's file in the temporary folder.
func temporary(err error) error {
	return fmt.Errorf("%w: chunks on their way need about 64 MiB in the temporary folder: make room, or set TMPDIR to another", err)
}

// Abort removes the chunk, which is not on its way.
func (p *part) Abort() error {
	return errors.Join(p.file.Close(), os.Remove(p.file.Name()))
}

func (p *part) Seal(m chunker.Meta) error {
	o := Object{
		Node: p.sink.node, Kind: manifest.KindChunk, Ext: chunker.Ext(m.Stream),
		Hash: m.Hash, Size: m.Size, Body: p.file,
	}
	p.sum.Sum(o.SHA256[:0])
	p.sink.group.Go(func() error {
		defer func() { _ = p.Abort() }() // the whole folder goes in the end
		key, err := p.sink.upload(p.sink.ctx, o)
		if err != nil {
			return fmt.Errorf("upload a chunk of node %s: %w", p.sink.node, err)
		}
		p.sink.mu.Lock()
		defer p.sink.mu.Unlock()
		p.sink.entries = append(p.sink.entries, manifest.Entry{
			Key: key, Size: m.Size, RawSize: m.RawSize, SHA256: hex.EncodeToString(o.SHA256[:]),
			First: manifest.Nanos(m.First), Last: manifest.Nanos(m.Last), Records: m.Records, Drops: m.Drops,
		})
		return nil
	})
	return nil
}
