package hub

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"pcapsule/internal/api"
	"pcapsule/store/storetest"
)

func TestStoreFaults(t *testing.T) {
	memory := storetest.NewMemory(t, nil)
	st := &faulty{storetest.NewFaulty(memory, nil), memory}
	s := newSite(t, st, nil)
	s.newAgent("a", nil, packets(t, "a", recent(), 10))
	c := s.client()
	mustCreate(t, c, api.CreateRequest{Name: "before", Last: "5m"})
	st.SetPlan(func(string, string) storetest.Fault { return storetest.Refused })
	_, err := c.Snapshots(t.Context())
	wantCode(t, err, http.StatusServiceUnavailable, api.CodeUnavailable)
	_, err = c.Create(t.Context(), api.CreateRequest{Name: "during", Last: "5m"})
	wantCode(t, err, http.StatusServiceUnavailable, api.CodeUnavailable)
	wantCode(t, c.Delete(t.Context(), "before"), http.StatusServiceUnavailable, api.CodeUnavailable)
	_, err = c.Pcap(t.Context(), "before", api.PcapQuery{})
	wantCode(t, err, http.StatusServiceUnavailable, api.CodeUnavailable)
	resp, err := http.Get(s.srv.URL + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("readyz answers %s while the store is away", resp.Status)
	}
	// A patient client gets through, once the store is back.
	time.AfterFunc(200*time.Millisecond, func() { st.SetPlan(nil) })
	if _, err := c.Create(api.Patiently(t.Context(), 20*time.Second), api.CreateRequest{Name: "during", Last: "5m"}); err != nil {
		t.Error(err)
	}
}

// TestStoreFaultsInSession fails one store operation after the other, each in
// both ways, and wants the snapshot all the same.
func TestStoreFaultsInSession(t *testing.T) {
	chunk := packets(t, "a", recent(), 10)
	for _, fault := range []storetest.Fault{storetest.Refused, storetest.Lost} {
		met := true
		for n := 0; met; n++ {
			memory := storetest.NewMemory(t, nil)
			st := &faulty{storetest.NewFaulty(memory, nil), memory}
			s := newSite(t, st, nil)
			s.newAgent("a", nil, chunk)
			<-s.hub.ready
			var mu sync.Mutex
			met = false
			plan := storetest.NthPlan(n, fault)
			st.SetPlan(func(op, key string) storetest.Fault {
				f := plan(op, key)
				mu.Lock()
				defer mu.Unlock()
				met = met || f != storetest.NoFault
				return f
			})
			c := s.client()
			ctx := api.Patiently(t.Context(), 20*time.Second)
			begun, err := c.Create(ctx, api.CreateRequest{Name: "x", Last: "5m"})
			for errors.As(err, new(*api.Error)) && strings.Contains(err.Error(), "or one in the making") {
				// The fault hid from the hub how its own first attempt ended.
				begun, err = c.Create(ctx, api.CreateRequest{Name: "x", Last: "5m"})
			}
			if err != nil {
				t.Fatalf("fault %d at operation %d: %v", fault, n, err)
			}
			if _, err := c.WaitSnapshot(ctx, begun.ID, nil); err != nil {
				t.Fatalf("fault %d at operation %d: %v", fault, n, err)
			}
			st.SetPlan(nil)
			mustVerify(t, memory)
			s.stop()
		}
	}
}

// faulty is a Faulty whose grants are served.
type faulty struct {
	*storetest.Faulty
	memory *storetest.Memory
}

func (f *faulty) GrantHandler() http.Handler { return f.memory.GrantHandler() }
