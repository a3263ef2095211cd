package agent

import (
	"net/netip"
	"time"

	"pcapsule/agent/ring"
	"pcapsule/chunker"
	"pcapsule/manifest"
)

// thinnedFor is how long it is warned of an address after packets of it were last
// left out.
const thinnedFor = 30 * time.Second

// thinned hears of packets that were left out since their address had had its share
// of the ring. Workers call it concurrently.
func (a *agent) thinned(address netip.Addr, count uint64, from, to int64) {
	who := "several addresses"
	if address.IsValid() {
		who = address.String()
	}
	a.ring.AddGap(ring.Gap{
		Stream: chunker.Packets, Reason: manifest.GapOverShare, From: manifest.Nanos(from), To: manifest.Nanos(to), Count: count, Detail: who,
	})
	// The warning keeps naming the first: two ends of a flow would take turns.
	if last := a.overShare.Load(); last != nil && a.now().Sub(last.at).Abs() <= thinnedFor {
		who = last.who
	}
	a.overShare.Store(&overShare{a.now(), who})
}

// overShare is who had its share of the ring, and when packets were last left out.
type overShare struct {
	at  time.Time
	who string
}

// lookShare is what there is to warn of that.
func (a *agent) lookShare() string {
	o := a.overShare.Load()
	if o == nil || a.now().Sub(o.at).Abs() > thinnedFor {
		return ""
	}
	return "packets are left out beyond the share of the ring that each address has (" + a.cfg.words().Fair + "): of " + o.who
}
