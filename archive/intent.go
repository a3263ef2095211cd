package archive

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"pcapsule/internal/process"
	"pcapsule/manifest"
	"pcapsule/store"
)

// Kinds of sessions.
const (
	KindHub    = "hub"
	KindImport = "import"
)

// An Intent announces a session. It is in the store before the session reads
// anything that its safety rests on, and goes when the session has ended.
type Intent struct {
	ID       string          `json:"id"` // Begin makes one when it is empty
	Name     string          `json:"name"`
	Kind     string          `json:"kind"`
	Owner    string          `json:"owner"` // who runs the session, for people and for TakeOver
	Created  time.Time       `json:"created"`
	Deadline time.Time       `json:"deadline"`          // from then on a sweep may void the session
	Process  process.ID      `json:"process,omitzero"`  // that runs the session; whoever can tell that it has died may void the session
	Request  json.RawMessage `json:"request,omitempty"` // what a successor needs to carry on
}

const (
	intentFormat  = "pcapsule.intent"
	intentVersion = 1
	maxIntent     = 1 << 20

	// damagedDeadline is the deadline of an intent that cannot be read, counted
	// from when it was stored.
	damagedDeadline = 24 * time.Hour
)

// storedIntent is the object intents/<id>.
type storedIntent struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Intent
	Token string `json:"token"` // random: tells two processes apart that begin the same id
}

func (in Intent) validate() error {
	if err := manifest.CheckID(in.ID); err != nil {
		return err
	}
	if err := manifest.CheckName(in.Name); err != nil {
		return err
	}
	switch {
	case in.Kind == "":
		return errors.New("intent has no kind")
	case in.Created.IsZero() || !in.Deadline.After(in.Created):
		return errors.New("intent has no deadline after its creation: sweeps would wait for it for ever")
	}
	return nil
}

func (in Intent) encode(token string) ([]byte, error) {
	if err := in.validate(); err != nil {
		return nil, fmt.Errorf("encode intent: %w", err)
	}
	b, err := json.MarshalIndent(storedIntent{intentFormat, intentVersion, in, token}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode intent: %w", err)
	}
	if len(b) >= maxIntent {
		return nil, fmt.Errorf("encode intent: %d bytes, at most %d", len(b), maxIntent)
	}
	return append(b, '\n'), nil
}

// decodeIntent reads the intent of session id. One that cannot be read is still
// an intent: it has an id, and a deadline.
func decodeIntent(b []byte, id string, stored time.Time) Intent {
	var s storedIntent
	err := json.Unmarshal(b, &s)
	if err != nil || s.Format != intentFormat || s.ID != id || s.validate() != nil {
		return Intent{ID: id, Created: stored, Deadline: stored.Add(damagedDeadline)}
	}
	return s.Intent
}

// An Attempt is a session as the store shows it.
type Attempt struct {
	Intent
	Outcome Outcome
	Err     error // why the store does not give the intent; of Intent only the id is known then
}

// Who tells people who runs the session.
func (in Intent) Who() string {
	switch {
	case in.Process.PID == 0:
		return cmp.Or(in.Owner, "unknown")
	case in.Owner == "":
		return in.Process.String()
	}
	return in.Owner + ", " + in.Process.String()
}

// Dead tells whether the session can never end by itself: its process has died,
// as far as this machine can know for certain.
func (t Attempt) Dead() bool { return t.Outcome.State == Undecided && t.Process.Dead() }

// UnderWay lists the undecided sessions, by id.
func (a *Archive) UnderWay(ctx context.Context) ([]Attempt, error) {
	all, err := a.Intents(ctx)
	return slices.DeleteFunc(all, func(t Attempt) bool { return t.Outcome.State != Undecided }), err
}

// Intents lists the sessions whose intents are in the store, by id, which is in
// order of creation. Those that have ended are among them until a sweep, or
// their successor, takes the intent away.
func (a *Archive) Intents(ctx context.Context) ([]Attempt, error) {
	all, _, err := a.attempts(ctx, nil)
	return all, err
}

// attempts is Intents; stray is a key among the intents that is none. A list is
// none that lacks one of expected whose intent is in the store: ErrBlind.
func (a *Archive) attempts(ctx context.Context, expected map[string]bool) (all []Attempt, stray string, err error) {
	listed := map[string]bool{}
	for info, err := range a.st.List(ctx, manifest.IntentsDir) {
		o := store.AsObstacle(err)
		if o != nil && inside(o.Path, manifest.IntentsDir) {
			info.Key = o.Path
		} else if err != nil {
			return nil, "", fmt.Errorf("list intents: %w", err)
		}
		id, _, folder := strings.Cut(strings.TrimPrefix(info.Key, manifest.IntentsDir), "/")
		switch {
		case litter(id):
			continue
		case manifest.CheckID(id) != nil:
			stray = info.Key
			continue
		case o == nil && folder:
			err = fmt.Errorf("%s is a folder where an intent should be: move it out of the store", manifest.IntentPath(id))
		case o != nil:
			err = o
		}
		if listed[id] {
			continue // by another file in a folder
		}
		listed[id] = true
		all = append(all, Attempt{Intent: Intent{ID: id, Created: info.Modified}, Err: err})
	}
	if err := a.missed(ctx, expected, func(id string) bool { return listed[id] }, manifest.IntentPath); err != nil {
		return nil, "", fmt.Errorf("list intents: %w", err)
	}
	known := make([]bool, len(all))
	err = a.each(ctx, len(all), func(ctx context.Context, i int) error {
		t, err := all[i], all[i].Err
		if err == nil {
			t, err = a.attempt(ctx, t.ID, t.Created)
		}
		switch {
		case absent(err):
			return nil // taken away since, so the session has ended
		case all[i].Err != nil || store.AsObstacle(err) != nil:
			t = all[i]
			t.Err = fmt.Errorf("session %s: %w", t.ID, err)
			t.Outcome, err = a.outcome(ctx, t.ID, true)
			if store.AsObstacle(err) != nil {
				err = nil // the snapshot's own trouble
			}
		}
		all[i], known[i] = t, true
		return err
	})
	if err != nil {
		return nil, "", err
	}
	n := 0
	for i, t := range all {
		if known[i] {
			all[n] = t
			n++
		}
	}
	return all[:n], stray, nil
}

// attempt reads session id, whose intent was stored at the given time.
// ErrNotExist says that the intent has gone.
func (a *Archive) attempt(ctx context.Context, id string, stored time.Time) (Attempt, error) {
	b, err := store.ReadAll(ctx, a.st, manifest.IntentPath(id), maxIntent)
	if err != nil {
		return Attempt{}, fmt.Errorf("read intent of session %s: %w", id, err)
	}
	o, err := a.outcome(ctx, id, true)
	return Attempt{Intent: decodeIntent(b, id, stored), Outcome: o}, err
}

// buried is the reason for which a session of a dead process is void.
func buried(in Intent) string { return fmt.Sprintf("its process died (%s)", in.Process) }

// dropIntent takes away the intent of a session that has ended. That is
// housekeeping: what fails is done by the next sweep.
func (a *Archive) dropIntent(ctx context.Context, id string) {
	_ = a.st.Delete(ctx, manifest.IntentPath(id))
}
