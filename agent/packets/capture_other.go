//go:build !linux

package packets

import (
	"context"
	"errors"
)

// A Capture exists on Linux only.
type Capture struct{}

// New fails: capturing works on Linux only.
func New(Config) (*Capture, error) {
	return nil, errors.New("capturing works on Linux only; elsewhere, import capture files into a snapshot")
}

// Run is not reached.
func (*Capture) Run(context.Context) error { return ErrNotRunning }

// Cut is not reached.
func (*Capture) Cut(context.Context) error { return ErrNotRunning }

// Stats is not reached.
func (*Capture) Stats() Stats { return Stats{} }

// SetTargets is not reached.
func (*Capture) SetTargets(Targets) error { return ErrNotRunning }

// Interfaces is not reached.
func (*Capture) Interfaces() []Interface { return nil }

// Close is not reached.
func (*Capture) Close() error { return nil }
