package storetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"pcapsule/store"
)

// ErrFault is what a Faulty answers, wrapped, in place of the truth.
var ErrFault = errors.New("injected fault")

// A Fault is what goes wrong with one call. The two faults are a pair: a caller
// cannot tell them apart, and must be right whichever it was.
type Fault int

const (
	NoFault Fault = iota
	Refused       // nothing was done, and the answer is an error
	Lost          // it was done, and the answer is an error: a read breaks off halfway
)

// A Plan decides on each call. op is "put", "get", "stat", "list", "delete" or
// "grant"; key is a prefix for "list". It is called by one goroutine at a time.
type Plan func(op, key string) Fault

// Faulty is a store whose calls fail by plan.
type Faulty struct {
	store.Store

	mu   sync.Mutex
	plan Plan // guarded by mu; nil: nothing fails
}

// NewFaulty wraps s.
func NewFaulty(s store.Store, plan Plan) *Faulty { return &Faulty{Store: s, plan: plan} }

// RandomPlan fails one call in every n, by a sequence that seed determines.
func RandomPlan(seed uint64, n int) Plan {
	rnd := rand.New(rand.NewPCG(seed, 0))
	return func(string, string) Fault {
		if rnd.IntN(n) > 0 {
			return NoFault
		}
		return Fault(1 + rnd.IntN(2))
	}
}

// NthPlan fails the nth call, counted from 0, and no other. A test that runs it
// with n rising until no fault was met has tried every place.
func NthPlan(n int, fault Fault) Plan {
	return func(string, string) Fault {
		n--
		if n == -1 {
			return fault
		}
		return NoFault
	}
}

// SetPlan replaces the plan; nil heals the store.
func (f *Faulty) SetPlan(plan Plan) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan = plan
}

func (f *Faulty) fault(op, key string) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.plan == nil {
		return NoFault
	}
	return f.plan(op, key)
}

func faultError(op, key string) error { return fmt.Errorf("%s %s: %w", op, key, ErrFault) }

// Put stores, or not, as planned.
func (f *Faulty) Put(ctx context.Context, key string, body store.Body) error {
	switch f.fault("put", key) {
	case Refused:
		return faultError("put", key)
	case Lost:
		_ = f.Store.Put(ctx, key, body)
		return faultError("put", key)
	}
	return f.Store.Put(ctx, key, body)
}

// Get fails at once or halfway, as planned.
func (f *Faulty) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	fault := f.fault("get", key)
	if fault == Refused {
		return nil, faultError("get", key)
	}
	r, err := f.Store.Get(ctx, key, off, n)
	if fault == NoFault || err != nil {
		return r, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	return &brokenBody{data: data[:len(data)/2], err: faultError("get", key)}, nil
}

type brokenBody struct {
	data []byte
	err  error
}

func (b *brokenBody) Read(p []byte) (int, error) {
	if len(b.data) == 0 {
		return 0, b.err
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	return n, nil
}

func (b *brokenBody) Close() error { return nil }

// Stat fails as planned.
func (f *Faulty) Stat(ctx context.Context, key string) (store.Info, error) {
	if f.fault("stat", key) != NoFault {
		return store.Info{}, faultError("stat", key)
	}
	return f.Store.Stat(ctx, key)
}

// List fails at once or halfway, as planned.
func (f *Faulty) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		fault := f.fault("list", prefix)
		if fault == NoFault {
			f.Store.List(ctx, prefix)(yield)
			return
		}
		var infos []store.Info
		for info, err := range f.Store.List(ctx, prefix) {
			if err != nil {
				yield(info, err)
				return
			}
			infos = append(infos, info)
		}
		if fault == Lost {
			for _, info := range infos[:len(infos)/2] {
				if !yield(info, nil) {
					return
				}
			}
		}
		yield(store.Info{}, faultError("list", prefix))
	}
}

// Delete removes, or not, as planned.
func (f *Faulty) Delete(ctx context.Context, key string) error {
	switch f.fault("delete", key) {
	case Refused:
		return faultError("delete", key)
	case Lost:
		_ = f.Store.Delete(ctx, key)
		return faultError("delete", key)
	}
	return f.Store.Delete(ctx, key)
}

// Grant fails as planned.
func (f *Faulty) Grant(ctx context.Context, key string, size int64, sum [sha256.Size]byte, expires time.Time) (store.Grant, error) {
	if f.fault("grant", key) != NoFault {
		return store.Grant{}, faultError("grant", key)
	}
	return f.Store.Grant(ctx, key, size, sum, expires)
}

// String describes the store that is wrapped.
func (f *Faulty) String() string { return store.Describe(f.Store) }
