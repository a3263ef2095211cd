package hub

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store/storetest"
)

// Nobody waits for a node that has left the cluster. A snapshot of a time when it
// was there says that it is missing; one of later times is not of it. A node of
// which nobody can say is waited for.
func TestNodeGone(t *testing.T) {
	var answer func(node string) (bool, error)
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, func(c *Config) {
		c.FirstAnswer, c.SessionTimeout = 20*time.Minute, 20*time.Minute // never, for a test
		c.NodeGone = func(_ context.Context, node string) (bool, error) {
			if node == "a" {
				t.Error("it is asked about a node that reports")
			}
			return answer(node)
		}
	})
	s.newAgent("a", nil, packets(t, "a", recent(), 10))
	if _, err := s.hub.heard("b", &api.PollRequest{}, time.Now().Add(-2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	c := s.client()
	make := func(name, last string, nodes ...string) *api.Snapshot {
		t.Helper()
		begun, err := c.Create(t.Context(), api.CreateRequest{Name: name, Last: last, Nodes: nodes})
		if err != nil {
			t.Fatal(err)
		}
		snap, err := c.WaitSnapshot(t.Context(), begun.ID, nil)
		if err != nil {
			t.Fatal(err)
		}
		return snap
	}
	gone := func(string) (bool, error) { return true, nil }
	answer = gone
	if snap := make("after", "1m"); !slices.Equal(snap.Nodes, []string{"a"}) || strings.Contains(strings.Join(snap.Reasons, " "), "node b") {
		t.Errorf("of the time after it had gone: nodes %v, %v", snap.Nodes, snap.Reasons)
	}
	for name, nodes := range map[string][]string{"during": nil, "named": {"a", "b"}} {
		snap := make(name, "5m", nodes...)
		if !slices.Equal(snap.Nodes, []string{"a", "b"}) || snap.Status != manifest.Partial ||
			!strings.Contains(strings.Join(snap.Reasons, " "), "it has left the cluster, last heard of at") {
			t.Errorf("%s: nodes %v, %s, %v", name, snap.Nodes, snap.Status, snap.Reasons)
		}
	}
	for name, a := range map[string]func(string) (bool, error){
		"there":   func(string) (bool, error) { return false, nil },
		"unknown": func(string) (bool, error) { return false, errors.New("no answer") },
	} {
		answer = a
		begun, err := c.Create(t.Context(), api.CreateRequest{Name: name, Last: "1m"})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(begun.Nodes, []string{"a", "b"}) {
			t.Errorf("%s: the snapshot is of %v", name, begun.Nodes)
		}
		if err := c.Delete(t.Context(), begun.ID); err != nil {
			t.Fatal(err)
		}
	}
}

// Of a node that stays silent it is said until when it counts, and how to do
// without it.
func TestUnreachableSaysUntilWhen(t *testing.T) {
	seen := time.Date(2026, 3, 1, 14, 30, 0, 0, time.UTC)
	n := unreachable("b", api.Node{LastSeen: seen}, manifest.Interval{From: manifest.NanosOf(seen.Add(-time.Minute)), To: manifest.NanosOf(seen.Add(time.Minute))}, nil)
	const want = "last heard of at 2026-03-01 14:30:00 UTC, and waited for until 2026-03-01 15:30:00 UTC, unless --node names others"
	if n.Gaps[0].Detail != want || len(n.Reasons) != 1 || !strings.Contains(n.Reasons[0], want) {
		t.Errorf("%q, %q, want %q", n.Gaps[0].Detail, n.Reasons, want)
	}
}
