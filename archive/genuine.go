package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"sync"

	"github.com/zeebo/blake3"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
)

// ErrMisdescribed says that an object's size or SHA-256 is not what was said of
// it, while its bytes are the ones that its key names.
var ErrMisdescribed = errors.New("an object is not what is said of it")

// An Object is content that a session is to hold, as told by whoever has its
// bytes. SHA256 is not part of the key: a store can check it, and no store checks
// Hash.
type Object struct {
	Kind   string
	Hash   chunker.Hash
	Ext    string
	Size   int64
	SHA256 [sha256.Size]byte
}

// key is the object's key of generation 0.
func (o Object) key() (manifest.ObjectKey, error) { return contentKey(o.Kind, o.Hash, o.Ext) }

func contentKey(kind string, hash chunker.Hash, ext string) (manifest.ObjectKey, error) {
	k := manifest.ObjectKey{Kind: kind, Hash: hash, Ext: ext}
	_, err := manifest.ParseObjectKey(k.String())
	return k, err
}

// genuine tells whether what is stored at k, as a Stat has just told, is the bytes
// that k names. This is what "have" means, for all who reuse what is stored.
//
// Who describes an object by its size and SHA-256 has its bytes; when the store
// itself found that SHA-256 in what it took, it has the same. In any other case
// the object is read and hashed, once for each version of it. So nobody's word
// alone makes an object garbage: ErrMisdescribed says that the word is wrong.
func (a *Archive) genuine(ctx context.Context, k manifest.ObjectKey, info store.Info, size int64, sum [sha256.Size]byte) (bool, error) {
	if info.Size == size && bytes.Equal(info.SHA256, sum[:]) {
		return true, nil
	}
	proven, ok, err := a.proven(ctx, k, info)
	if err != nil || !ok {
		return false, err
	}
	if info.Size != size || proven != sum {
		return false, fmt.Errorf("%s: %w: it has %d bytes with SHA-256 %x, not %d with %x", k, ErrMisdescribed, info.Size, proven, size, sum)
	}
	return true, nil
}

// Genuine tells whether the bytes at key are the ones that it names, whatever
// anybody says of them.
func (s *Session) Genuine(ctx context.Context, key string) (bool, error) {
	k, err := manifest.ParseObjectKey(key)
	if err != nil {
		return false, err
	}
	info, err := s.a.st.Stat(ctx, key)
	if err != nil {
		return false, err
	}
	_, ok, err := s.a.proven(ctx, k, info)
	return ok, err
}

// proven is prove, once for each version of an object that has the hash.
func (a *Archive) proven(ctx context.Context, k manifest.ObjectKey, info store.Info) (sum [sha256.Size]byte, ok bool, err error) {
	if sum, ok = a.proto.proven.get(info); ok {
		return sum, true, nil
	}
	if sum, ok, err = a.prove(ctx, k, info); ok {
		a.proto.proven.add(info, sum)
	}
	return sum, ok, err
}

// prove reads an object and tells whether it has the hash in its key; sum is then
// its SHA-256.
func (a *Archive) prove(ctx context.Context, k manifest.ObjectKey, info store.Info) (sum [sha256.Size]byte, ok bool, err error) {
	if limit := maxContent(k.Kind); info.Size > limit {
		return sum, false, nil // no writer made it
	}
	r, err := a.st.Get(ctx, info.Key, 0, info.Size+1)
	if err != nil {
		return sum, false, fmt.Errorf("read %s: %w", info.Key, err)
	}
	defer r.Close()
	hash, n := newContentHash(), int64(0)
	if n, err = io.Copy(hash, r); err != nil {
		return sum, false, fmt.Errorf("read %s: %w", info.Key, err)
	}
	got, sum := hash.sums()
	return sum, n == info.Size && got == k.Hash, nil
}

func maxContent(kind string) int64 {
	if kind == manifest.KindInventory {
		return manifest.MaxInventory
	}
	return chunker.MaxSize
}

// checkBody refuses a body that is not the bytes which its key names, or is not
// what it says of itself: no store would notice the former.
func checkBody(k manifest.ObjectKey, body store.Body) error {
	hash := newContentHash()
	n, err := io.Copy(hash, io.NewSectionReader(body, 0, body.Size))
	if err != nil {
		return fmt.Errorf("read the body of %s: %w", k, err)
	}
	if got, sum := hash.sums(); n != body.Size || got != k.Hash || sum != body.SHA256 {
		return fmt.Errorf("%s: %w: the body has other bytes", k, store.ErrChecksum)
	}
	return nil
}

// A contentHash computes both hashes that content goes by.
type contentHash struct {
	io.Writer
	blake *blake3.Hasher
	sha   interface{ Sum(b []byte) []byte }
}

func newContentHash() contentHash {
	b, s := blake3.New(), sha256.New()
	return contentHash{io.MultiWriter(b, s), b, s}
}

func (h contentHash) sums() (chunker.Hash, [sha256.Size]byte) {
	return chunker.Hash(h.blake.Sum(nil)), [sha256.Size]byte(h.sha.Sum(nil))
}

// Took hears that this process has just stored an object under key, with the
// hash that the key names and the given SHA-256: it need not be read to be reused.
func (a *Archive) Took(ctx context.Context, key string, sum [sha256.Size]byte) error {
	info, err := a.st.Stat(ctx, key)
	if err != nil {
		return fmt.Errorf("look at %s: %w", key, err)
	}
	a.proto.proven.add(info, sum)
	return nil
}

// maxProven bounds each half of a provenSet, which takes about 100 bytes an
// object: 131,072 chunks are a TiB.
const maxProven = 1 << 17

// A provenSet remembers versions of objects that were found to be what their
// keys name, with their SHA-256. Of what is in it, at least the newest maxProven
// are remembered. It keeps 64 bits of key, size and version, by a hash that nobody
// outside knows.
type provenSet struct {
	mu       sync.Mutex
	seed     maphash.Seed
	now, old map[uint64][sha256.Size]byte
}

// id is 0 for an object whose version the store does not know.
func (p *provenSet) id(info store.Info) uint64 {
	if info.Version == "" {
		return 0
	}
	return maphash.Comparable(p.seed, struct {
		key, version string
		size         int64
	}{info.Key, info.Version, info.Size})
}

func (p *provenSet) get(info store.Info) (sum [sha256.Size]byte, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now == nil {
		return sum, false
	}
	id := p.id(info)
	if sum, ok = p.now[id]; !ok {
		sum, ok = p.old[id]
	}
	return sum, ok
}

func (p *provenSet) add(info store.Info, sum [sha256.Size]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now == nil {
		p.seed, p.now = maphash.MakeSeed(), map[uint64][sha256.Size]byte{}
	}
	id := p.id(info)
	if id == 0 {
		return
	}
	if len(p.now) >= maxProven {
		p.now, p.old = map[uint64][sha256.Size]byte{}, p.now
	}
	p.now[id] = sum
}
