package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pcapsule/agent/ring"
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
// that, until the context ends. What changes is logged.
func (a *agent) beat(ctx context.Context) {
	var said []string
	failed := false
	// The first flush comes after two ticks: until then the answer is no.
	for every := 250 * time.Millisecond; ctx.Err() == nil; {
		problems := a.problems()
		_, begun := a.rec.through()
		if begun {
			every = beatEvery
			for _, p := range problems {
				if !slices.ContainsFunc(said, func(s string) bool { return kindOf(s) == kindOf(p) }) {
					a.log.Warn("not all is recorded that was asked for", "reason", p)
				}
			}
			if len(problems) == 0 && len(said) > 0 {
				a.log.Info("all is recorded that was asked for")
			}
			said = problems
		}
		err := a.ring.Beat(problems)
		if err != nil && !failed {
			a.log.Warn("cannot say that this agent records", "err", err)
		}
		failed = err != nil
		sleep(ctx, every)
	}
}

// kindOf is what a problem says before its details, which change.
func kindOf(problem string) string {
	kind, _, _ := strings.Cut(problem, ":")
	return kind
}

// problems are the reasons why less is recorded now than was asked for.
func (a *agent) problems() (out []string) {
	now := a.now()
	switch through, begun := a.rec.through(); {
	case !begun:
		out = append(out, "capture has not begun")
	case now.Sub(time.Unix(0, through)) > patience:
		out = append(out, fmt.Sprintf("packets wait to be written: those since %s are not in the ring", time.Unix(0, through).UTC().Format(time.RFC3339)))
	}
	if at, err := a.rec.lastRefusal(); err != nil && now.Sub(at).Abs() <= patience {
		out = append(out, fmt.Sprintf("the ring does not take packets: %v", err))
	}
	if err := a.ring.Trouble(); err != nil {
		out = append(out, fmt.Sprintf("the ring's ledger cannot be written: %v", err))
	}
	for _, i := range a.source.Interfaces() {
		if i.Gone {
			out = append(out, fmt.Sprintf("interface %s is gone: no packet of it is recorded", i.Name))
		}
	}
	if a.pods != nil && a.pods.Blind() {
		out = append(out, blindDetail)
	}
	return out
}
