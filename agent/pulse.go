package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"pcapsule/agent/ring"
	"pcapsule/chunker"
)

const (
	// beatEvery is how often an agent says, in its ring's folder, that it records.
	beatEvery = 2 * time.Second

	// patience is how long a worker may be behind, and how long ago the ring may
	// have refused packets, before that counts as not recording.
	patience = 10 * time.Second

	// maxPulseAge is after how long without a word an agent counts as one that
	// does not record: some beats, on a machine that is short of time.
	maxPulseAge = 20 * time.Second
)

// ErrNotRecording says that an agent does not record all that it was told to.
var ErrNotRecording = errors.New("not recording")

// Recording tells whether the agent whose ring is in dir records all that it was
// told to: nil, or ErrNotRecording with the reasons. It asks nobody but the
// folder, since an agent listens on no port.
func Recording(dir string, now time.Time) error {
	p, err := ring.ReadPulse(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotRecording, err)
	}
	// The clock may have been set: a pulse of the future is as stale as an old one.
	if age := now.Sub(p.At); age.Abs() > maxPulseAge {
		return fmt.Errorf("%w: the agent last said a word at %s, and it is %s", ErrNotRecording, p.At.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if len(p.Problems) > 0 {
		return fmt.Errorf("%w: %s", ErrNotRecording, strings.Join(p.Problems, "; "))
	}
	return nil
}

// beat says every few seconds that this agent records, or what keeps it from
// that, and what there is to warn of, until the context ends.
func (a *agent) beat(ctx context.Context) {
	a.depths = depths{warnBelow: a.cfg.RingWarn, words: a.cfg.roomier()}
	a.warnOf("memory", tightMemory(memoryFiles))
	failed := false
	// The first flush comes after two ticks: until then the answer is no.
	for every := 250 * time.Millisecond; ctx.Err() == nil; {
		_, begun := a.rec.through() // a problem before, and no news
		problems := a.problems()
		if begun {
			every = beatEvery
			for _, p := range problems {
				if !strings.HasPrefix(p.about, "interface ") { // warned of where they are followed
					a.warnOf(p.about, p.text)
				}
			}
			a.warnOf("depth", a.lookDepth())
			a.warnOf("share", a.lookShare())
		}
		var texts []string
		for _, p := range problems {
			if p.text != "" {
				texts = append(texts, p.text)
			}
		}
		err := a.ring.Beat(texts)
		if err != nil && !failed {
			a.log.Warn("cannot say that this agent records", "err", err)
		}
		failed = err != nil
		sleep(ctx, every)
	}
}

// warnOf warns the hub and the log of something, or says that it is over.
func (a *agent) warnOf(about, text string) {
	switch news := a.warn.set(about, text); {
	case news && text != "":
		a.log.Warn("this node warns", "of", about, "warning", text)
	case news:
		a.log.Info("this node warns no more", "of", about)
	}
}

// lookDepth is what there is to warn of how far the ring reaches back.
func (a *agent) lookDepth() string {
	if a.clockSet.Swap(false) {
		a.depths.reset()
	}
	now := a.now()
	since, full := a.ring.Since(chunker.Packets)
	return a.depths.look(now, max(0, now.Sub(since)), full)
}

// A problem is why less is recorded than was asked for; no text when there is none.
type problem struct{ about, text string }

// problems are the reasons why less is recorded now than was asked for.
func (a *agent) problems() []problem {
	now := a.now()
	capture, room, ledger, pods := problem{about: "capture"}, problem{about: "ring"}, problem{about: "ledger"}, problem{about: "pods"}
	switch through, begun := a.rec.through(); {
	case !begun:
		capture.text = "capture has not begun"
	case now.Sub(time.Unix(0, through)) > patience:
		capture.text = fmt.Sprintf("packets wait to be written: those since %s are not in the ring", time.Unix(0, through).UTC().Format(time.RFC3339))
	}
	if at, err := a.rec.lastRefusal(); err != nil && now.Sub(at).Abs() <= patience {
		room.text = "the ring does not take packets: " + refusalText(err)
	}
	if err := a.ring.Trouble(); err != nil {
		ledger.text = fmt.Sprintf("the ring's ledger cannot be written: %v", err)
	}
	if a.pods != nil && a.pods.Blind() {
		pods.text = blindDetail
	}
	out := []problem{capture, room, ledger, pods}
	for _, i := range a.source.Interfaces() {
		if i.Gone {
			out = append(out, problem{"interface " + i.Name, fmt.Sprintf("interface %s is gone: no packet of it is recorded", i.Name)})
		}
	}
	return out
}

// refusalText says why the ring took no packet, in words that stay the same.
func refusalText(err error) string {
	switch {
	case errors.Is(err, ring.ErrFull):
		return "it is full of chunks that snapshots in the making hold"
	case errors.Is(err, ring.ErrDiskFull):
		return "its disk is full"
	}
	return err.Error()
}
