package store_test

import (
	"context"
	"errors"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"pcapsule/store"
	"pcapsule/store/storetest"
)

// odd is a store with a fault of character.
type odd struct {
	store.Store
	put  func(ctx context.Context, s store.Store, key string, body store.Body) error
	list func(ctx context.Context, s store.Store, prefix string) iter.Seq2[store.Info, error]
}

func (o odd) Put(ctx context.Context, key string, body store.Body) error {
	if o.put == nil {
		return o.Store.Put(ctx, key, body)
	}
	return o.put(ctx, o.Store, key, body)
}

func (o odd) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	if o.list == nil {
		return o.Store.List(ctx, prefix)
	}
	return o.list(ctx, o.Store, prefix)
}

func TestProbe(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		odd  odd
		want string
	}{
		{"good", odd{}, ""},
		{"taken is no error", odd{put: func(ctx context.Context, s store.Store, key string, body store.Body) error {
			if err := s.Put(ctx, key, body); !errors.Is(err, store.ErrExist) {
				return err
			}
			return nil
		}}, "8 were told they won"},
		{"every answer is lost", odd{put: func(ctx context.Context, s store.Store, key string, body store.Body) error {
			if err := s.Put(ctx, key, body); err != nil {
				return err
			}
			return store.ErrExist // as when a client tries again by itself
		}}, ""},
		{"broken", odd{put: func(context.Context, store.Store, string, store.Body) error { return broken }}, "broken"},
		{"late list", odd{list: func(context.Context, store.Store, string) iter.Seq2[store.Info, error] {
			return func(func(store.Info, error) bool) {}
		}}, "consistent lists"},
		{"hangs", odd{put: func(ctx context.Context, _ store.Store, _ string, _ store.Body) error {
			<-ctx.Done()
			return ctx.Err()
		}}, "did not answer within 30s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := storetest.NewMemory(t, nil)
				c.odd.Store = m
				start := time.Now()
				_, err := store.Probe(t.Context(), c.odd)
				if c.want == "" && err != nil {
					t.Errorf("refused: %v", err)
				}
				if c.want != "" {
					wantAdvice(t, "Probe", err, c.want, "cannot be used")
				}
				if d := time.Since(start); d > time.Minute {
					t.Errorf("it took %v", d)
				}
				if keys := m.Keys(); len(keys) != 0 {
					t.Errorf("it left %q", keys)
				}
			})
		})
	}
}

func TestProbeEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := store.Probe(ctx, storetest.NewMemory(t, nil)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
