package agent

import (
	"fmt"
	"time"
)

const (
	// depthMemory is for how long a collapse of the ring's depth is measured
	// against what the depth was before.
	depthMemory = time.Hour

	// collapse is by which factor the depth has to fall for that to be one. Chunks
	// go as a whole, so that a shallow ring's depth halves and doubles all the time.
	collapse = 4

	// leastDepth is the least depth whose loss is worth a word.
	leastDepth = time.Minute
)

// depths remembers how far back the ring reached within the last hour, to tell
// when something, a flood mostly, erases the past that one could count on.
type depths struct {
	warnBelow time.Duration // what the user wants at least; 0 when anything is right

	most  [depthMemory / time.Minute]time.Duration // the greatest of each minute
	at    int64                                    // the minute that was written last
	fell  string                                   // what is said while it has collapsed
	words string                                   // what to do about it
}

// look takes note of how far the ring reaches back now, full when it recycles, and
// returns what there is to warn of, in words that do not change with each look.
func (d *depths) look(now time.Time, depth time.Duration, full bool) string {
	minute := now.Unix() / 60
	if minute < d.at || minute-d.at >= int64(len(d.most)) {
		clear(d.most[:])
		d.at = minute
	}
	for ; d.at < minute; d.at++ {
		d.most[(d.at+1)%int64(len(d.most))] = 0
	}
	slot := &d.most[minute%int64(len(d.most))]
	*slot = max(*slot, depth)
	if !full {
		d.fell = ""
		return ""
	}
	var most time.Duration
	for _, m := range d.most {
		most = max(most, m)
	}
	switch {
	case most < leastDepth || depth >= most/collapse:
		d.fell = ""
	case d.fell == "":
		d.fell = fmt.Sprintf("the ring reached back %s within the last hour, and now less than a quarter of that, as more comes in%s", span(most), d.words)
	}
	if d.fell == "" && depth < d.warnBelow {
		return fmt.Sprintf("the ring reaches back less than the %s that it is to%s", span(d.warnBelow), d.words)
	}
	return d.fell
}

// reset forgets all, as the clock was set.
func (d *depths) reset() { clear(d.most[:]); d.fell = "" }

// span is a duration as people say it.
func span(d time.Duration) string {
	switch {
	case d >= 2*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}
