//go:build linux

package agent

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"pcapsule/internal/api"
	"pcapsule/manifest"
)

// What an address had beyond its share is a gap with its count, and a warning, and
// the time counts as recorded.
func TestOverShare(t *testing.T) {
	h := newTestHub(t)
	a := startAgent(t, h, t.TempDir(), func(c *Config) { c.Fair = 0.25 })
	if a.feeder.cfg.Fair != 16<<20 {
		t.Errorf("a quarter of 64 MiB is %d", a.feeder.cfg.Fair)
	}
	began := time.Now()
	a.feed(t, began, 10, time.Microsecond, 100)
	a.feed(t, time.Now(), 10, time.Microsecond, 100)
	for range 3 {
		a.feeder.cfg.OnThinned(netip.MustParseAddr("10.0.0.7"), 5, began.UnixNano(), began.UnixNano()+1000)
	}
	a.feeder.cfg.OnThinned(netip.Addr{}, 2, began.UnixNano(), began.UnixNano()+1000)
	h.awaitPoll("it is warned of", func(p api.PollRequest) bool {
		return strings.Contains(strings.Join(p.Warnings, " "), "packets are left out beyond the share of the ring that each address has (--fair): of 10.0.0.7")
	})
	to := time.Now()
	h.ask("s", began, to)
	n := h.await("s")
	counts := map[string]uint64{}
	for _, g := range n.Gaps {
		if g.Reason == manifest.GapOverShare {
			counts[g.Detail] += g.Count
		}
	}
	if counts["10.0.0.7"] != 15 || counts["several addresses"] != 2 || len(counts) != 2 {
		t.Errorf("gaps %+v", n.Gaps)
	}
	if len(n.Coverage) != 1 || n.Coverage[0].To != manifest.NanosOf(to) {
		t.Errorf("coverage %v", n.Coverage)
	}
	if reasons, warnings := api.Explain(n.Gaps, n.Coverage[0], api.FlagWords); len(warnings) != 1 || !strings.Contains(warnings[0], "17 packets in") || !strings.Contains(warnings[0], "(10.0.0.7; several addresses)") {
		t.Errorf("reasons %q, warnings %q", reasons, warnings)
	}
}
