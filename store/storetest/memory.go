package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pcapsule/store"
)

// Memory is a store in memory that watches over its users: it fails the test
// when a key is given bytes other than those it had before it was deleted,
// because no name of an archive is ever used for two things. It records what was
// done, for tests that assert it.
type Memory struct {
	// NoSums makes Stat tell no SHA-256, as a folder does, and S3 of objects that
	// others put.
	NoSums bool

	t      testing.TB
	grants *store.Granter
	now    func() time.Time

	mu      sync.Mutex // guards what follows
	objects map[string]object
	history map[string][sha256.Size]byte // of each key ever put
	ops     []string
}

type object struct {
	data     []byte // never changed in place
	sum      [sha256.Size]byte
	modified time.Time
}

// NewMemory returns an empty store. The time of its objects, and that of its
// grants, is now's, or time.Now's when now is nil.
func NewMemory(t testing.TB, now func() time.Time) *Memory {
	if now == nil {
		now = time.Now
	}
	m := &Memory{
		t:       t,
		now:     now,
		objects: map[string]object{},
		history: map[string][sha256.Size]byte{},
	}
	var err error
	m.grants, err = store.NewGranter(bytes.Repeat([]byte{1}, 32), now, m.write)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Put stores a copy of body.
func (m *Memory) Put(ctx context.Context, key string, body store.Body) error {
	return m.write(ctx, key, io.NewSectionReader(body, 0, body.Size), body.Size, body.SHA256)
}

func (m *Memory) write(ctx context.Context, key string, r io.Reader, size int64, sum [sha256.Size]byte) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(r, size))
	if err != nil {
		return fmt.Errorf("put %s: read the body: %w", key, err)
	}
	if int64(len(data)) != size || sha256.Sum256(data) != sum {
		return fmt.Errorf("put %s: %w", key, store.ErrChecksum)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; ok {
		m.ops = append(m.ops, "put "+key+": taken")
		return fmt.Errorf("put %s: %w", key, store.ErrExist)
	}
	if old, ok := m.history[key]; ok && old != sum {
		m.t.Errorf("storetest: %s was deleted and is now used again for other bytes", key)
	}
	m.history[key] = sum
	m.objects[key] = object{data, sum, m.now()}
	m.ops = append(m.ops, "put "+key)
	return nil
}

// Get reads from the object as it was when Get was called.
func (m *Memory) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := check(ctx, key); err != nil {
		return nil, err
	}
	if off < 0 {
		return nil, fmt.Errorf("get %s: offset %d is negative", key, off)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	m.ops = append(m.ops, "get "+key)
	if !ok {
		return nil, fmt.Errorf("get %s: %w", key, store.ErrNotExist)
	}
	data := o.data[min(off, int64(len(o.data))):]
	if n >= 0 {
		data = data[:min(n, int64(len(data)))]
	}
	return struct {
		*bytes.Reader
		io.Closer
	}{bytes.NewReader(data), io.NopCloser(nil)}, nil
}

// Stat tells size and time of an object.
func (m *Memory) Stat(ctx context.Context, key string) (store.Info, error) {
	if err := check(ctx, key); err != nil {
		return store.Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	m.ops = append(m.ops, "stat "+key)
	if !ok {
		return store.Info{}, fmt.Errorf("stat %s: %w", key, store.ErrNotExist)
	}
	info := store.Info{Key: key, Size: int64(len(o.data)), Modified: o.modified, Version: fmt.Sprintf("%x", o.sum)}
	if !m.NoSums {
		info.SHA256 = o.sum[:]
	}
	return info, nil
}

// List yields what was there when it was called.
func (m *Memory) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		m.mu.Lock()
		m.ops = append(m.ops, "list "+prefix)
		var infos []store.Info
		for _, key := range slices.Sorted(maps.Keys(m.objects)) {
			if o := m.objects[key]; strings.HasPrefix(key, prefix) {
				infos = append(infos, store.Info{Key: key, Size: int64(len(o.data)), Modified: o.modified})
			}
		}
		m.mu.Unlock()
		for _, info := range infos {
			if err := ctx.Err(); err != nil {
				yield(store.Info{}, err)
				return
			}
			if !yield(info, nil) {
				return
			}
		}
	}
}

// Delete removes an object.
func (m *Memory) Delete(ctx context.Context, key string) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ops = append(m.ops, "delete "+key)
	delete(m.objects, key)
	return nil
}

// Grant permits an upload to GrantHandler.
func (m *Memory) Grant(_ context.Context, key string, size int64, sum [sha256.Size]byte, expires time.Time) (store.Grant, error) {
	return m.grants.Grant(key, size, sum, expires)
}

// GrantHandler serves PUT below store.GrantPath.
func (m *Memory) GrantHandler() http.Handler { return m.grants }

// Keys lists what is there, in order.
func (m *Memory) Keys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.objects))
}

// Ops lists the calls since the last Ops or the beginning, in order: "put KEY",
// "put KEY: taken", "get KEY", "stat KEY", "list PREFIX", "delete KEY". Puts of
// wrong bytes are left out.
func (m *Memory) Ops() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	ops := m.ops
	m.ops = nil
	return ops
}

// Puts lists the keys of the Puts that stored something since the last Ops or
// Puts, in order.
func (m *Memory) Puts() []string {
	var keys []string
	for _, op := range m.Ops() {
		if key, ok := strings.CutPrefix(op, "put "); ok && !strings.HasSuffix(key, ": taken") {
			keys = append(keys, key)
		}
	}
	return keys
}

// Damage replaces the bytes of an object by what f makes of a copy of them, as a
// bad disk or an enemy would; nil removes it. It does not fail the test.
func (m *Memory) Damage(key string, f func([]byte) []byte) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	if !ok {
		m.t.Fatalf("storetest: damage %s: %v", key, store.ErrNotExist)
	}
	if o.data = f(bytes.Clone(o.data)); o.data == nil {
		delete(m.objects, key)
		return
	}
	o.sum = sha256.Sum256(o.data)
	m.objects[key] = o
}

// Clone returns a store with the same objects and history, and no ops.
func (m *Memory) Clone() *Memory {
	c := NewMemory(m.t, m.now)
	c.NoSums = m.NoSums
	m.mu.Lock()
	defer m.mu.Unlock()
	c.objects, c.history = maps.Clone(m.objects), maps.Clone(m.history)
	return c
}

func check(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return store.CheckKey(key)
}

// String is for messages.
func (m *Memory) String() string { return "memory" }
