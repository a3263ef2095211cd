package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

// TestManyAgents lets a thousand agents poll, on a played clock.
func TestManyAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := New(Config{Store: storetest.NewMemory(t, nil), Signer: testKey()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { h.Run(ctx) })
		handler := h.Handler()
		do := func(path string, in, out any) int {
			b, _ := json.Marshal(in)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodPost, "http://localhost"+api.Prefix+path, bytes.NewReader(b)))
			json.Unmarshal(w.Body.Bytes(), out)
			return w.Code
		}
		const agents = 1000
		var polls, told atomic.Int64
		for i := range agents {
			all.Go(func() {
				for ctx.Err() == nil {
					var answer api.PollAnswer
					do(fmt.Sprintf("/agents/n%04d/poll", i), api.PollRequest{Wait: manifest.Nanos(10 * time.Second)}, &answer)
					polls.Add(1)
					if len(answer.Tasks) > 0 {
						told.Add(1)
						<-ctx.Done() // at work
					}
				}
			})
		}
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		if n := polls.Load(); n != 6*agents {
			t.Errorf("%d polls of %d agents in a minute, each waiting for 10 s", n, agents)
		}
		began := time.Now()
		var snap api.Snapshot
		if code := do("/snapshots", api.CreateRequest{Name: "x", Last: "5m"}, &snap); code != http.StatusAccepted || len(snap.Nodes) != agents {
			t.Errorf("create: %d, %d nodes", code, len(snap.Nodes))
		}
		synctest.Wait()
		if n := told.Load(); n != agents || time.Since(began) > 0 {
			t.Errorf("%d of %d agents were told within %s", n, agents, time.Since(began))
		}
		// None of them does anything about it.
		time.Sleep(h.cfg.FirstAnswer + 2*tickPeriod)
		synctest.Wait()
		if v := h.session(snap.ID).view(time.Minute); v.Status != api.Failed || v.Error.Code != api.CodeUnreachable {
			t.Errorf("%+v", v)
		}
		cancel()
		all.Wait()
	})
}

// slowIntents is a store that takes long to note intents.
type slowIntents struct {
	*storetest.Memory
	by time.Duration
}

func (s *slowIntents) Put(ctx context.Context, key string, body store.Body) error {
	if strings.HasPrefix(key, manifest.IntentsDir) {
		time.Sleep(s.by)
	}
	return s.Memory.Put(ctx, key, body)
}

// TestSlowStoreMakesNobodyLate: nodes have their time from when they are asked,
// however long the store took to note the intent.
func TestSlowStoreMakesNobodyLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &slowIntents{storetest.NewMemory(t, nil), 0}
		h, err := New(Config{Store: st, Signer: testKey()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { h.Run(ctx) })
		synctest.Wait()
		if _, err := h.heard("n1", &api.PollRequest{}, h.now()); err != nil {
			t.Fatal(err)
		}
		st.by = h.cfg.FirstAnswer + 10*time.Second
		s, err := h.begin(ctx, "x", request{Nodes: []string{"n1"}, Window: manifest.Interval{From: 1, To: 2}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(h.cfg.FirstAnswer - tickPeriod)
		synctest.Wait()
		if v := s.view(time.Minute); v.Status != api.Creating {
			t.Errorf("given up: %+v", v)
		}
		time.Sleep(2 * tickPeriod)
		synctest.Wait()
		if v := s.view(time.Minute); v.Status != api.Failed || v.Error.Code != api.CodeUnreachable {
			t.Errorf("%+v", v)
		}
		cancel()
		all.Wait()
	})
}
