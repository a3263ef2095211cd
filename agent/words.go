package agent

import (
	"errors"
	"fmt"

	"pcapsule/agent/ring"
	"pcapsule/internal/api"
)

// wayOut says what to do about an error of the ring, in the words of where this
// agent runs: the chart's in a cluster, and else those of flags. A process's
// number in a cluster is one of another container, and means nothing.
func (c Config) wayOut(err error) error {
	cluster := c.Kubernetes != nil
	var used *ring.InUseError
	var owned *ring.OwnerError
	switch {
	case errors.As(err, &used) && cluster:
		return &worded{err, fmt.Sprintf("another agent on this node has ring %s, perhaps one of another release: set agent.ring.hostPath, so that each release has a ring of its own", used.Dir)}
	case errors.As(err, &used):
		return &worded{err, err.Error() + ": stop that one, or choose another --data-dir"}
	case errors.As(err, &owned) && cluster:
		return &worded{err, fmt.Sprintf("ring %s on this node is that of release %s, and this is %s: set agent.ring.hostPath, so that each release has a ring of its own; if %s is gone for good, set agent.ring.takeOver=true, or delete the folder",
			owned.Dir, owned.Owner, owned.Asks, owned.Owner)}
	case errors.As(err, &owned):
		return &worded{err, fmt.Sprintf("ring %s is that of %s: choose another --data-dir, or make it this agent's with --take-over-ring", owned.Dir, owned.Owner)}
	}
	return err
}

// roomier says what makes the ring reach back farther.
func (c Config) roomier() string {
	words := c.words()
	if c.Fair == 0 {
		return fmt.Sprintf(": make it larger (%s), or bound what one address may have (%s)", words.RingSize, words.Fair)
	}
	return fmt.Sprintf(": make it larger (%s)", words.RingSize)
}

// words are those of where this agent runs.
func (c Config) words() api.Words { return api.WordsOf(c.Kubernetes != nil) }

// worded is an error in other words.
type worded struct {
	err  error
	text string
}

func (w *worded) Error() string { return w.text }
func (w *worded) Unwrap() error { return w.err }
