package archive

import (
	"context"
	"encoding/json"
	"fmt"

	"pcapsule/manifest"
	"pcapsule/store"
)

// A State is how far a session has come. Only Unknown and Undecided ever change:
// Unknown to Undecided, Undecided to Committed or Voided, Committed to Deleted.
type State string

// States of sessions.
const (
	Unknown   State = "unknown"   // there never was one of this id
	Undecided State = "undecided" // under way, or its process died
	Committed State = "committed" // the snapshot lives
	Voided    State = "voided"    // there is and will be no snapshot
	Deleted   State = "deleted"   // there was a snapshot
)

// An Outcome is how a session ended, if it has.
type Outcome struct {
	State     State
	Successor string // of Voided: the session that carries on, if any
	Reason    string // of Voided, for people
}

// A VoidedError says that a session was ended from outside. It is an ErrDecided
// that knows why.
type VoidedError struct {
	ID        string
	Successor string // the session that carries on, if any
	Reason    string
}

// Is tells that a session which was ended is decided.
func (e *VoidedError) Is(target error) bool { return target == ErrDecided }

func (e *VoidedError) Error() string {
	msg := "session " + e.ID + " was ended"
	if e.Reason != "" {
		msg += ": " + e.Reason
	}
	if e.Successor != "" {
		msg += "; session " + e.Successor + " carries on"
	}
	return msg
}

// A verdict is what the manifest's key of a session holds: its outcome but for
// deletion. It never changes.
type verdict struct {
	void      bool
	successor string
	reason    string
	name      string // of the snapshot; empty when its manifest is damaged
}

func (v verdict) outcome() Outcome {
	if v.void {
		return Outcome{State: Voided, Successor: v.successor, Reason: v.reason}
	}
	return Outcome{State: Committed}
}

// readVerdict reads what b, found at the manifest's key, says. What is no void
// marker is a manifest, however damaged: in doubt there is a snapshot.
func readVerdict(b []byte, id string) (v verdict, damaged bool) {
	var head struct {
		Format string `json:"format"`
		ID     string `json:"id"`
		Name   string `json:"name"`
	}
	if err := json.Unmarshal(b, &head); err != nil || head.ID != id {
		return verdict{}, true
	}
	switch head.Format {
	case manifest.Format:
		return verdict{name: head.Name}, false
	case manifest.VoidFormat:
		m, err := manifest.DecodeVoid(b)
		return verdict{void: err == nil, successor: m.Successor, reason: m.Reason}, err != nil
	}
	return verdict{}, true
}

// verdict tells what session id's manifest key holds, ErrNotExist when nothing.
func (a *Archive) verdict(ctx context.Context, id string) (verdict, error) {
	p := &a.proto
	p.mu.Lock()
	v, ok := p.verdicts[id]
	p.mu.Unlock()
	if ok {
		return v, nil
	}
	b, err := store.ReadAll(ctx, a.st, manifest.ManifestPath(id), manifest.MaxManifest)
	if err != nil {
		return verdict{}, fmt.Errorf("read outcome of session %s: %w", id, err)
	}
	v, damaged := readVerdict(b, id)
	if !damaged {
		a.remember(id, v)
	}
	return v, nil
}

func (a *Archive) remember(id string, v verdict) {
	p := &a.proto
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.verdicts == nil {
		p.verdicts = map[string]verdict{}
	}
	p.verdicts[id] = v
}

// Outcome tells how session id ended, or that it has not.
func (a *Archive) Outcome(ctx context.Context, id string) (Outcome, error) {
	if err := manifest.CheckID(id); err != nil {
		return Outcome{}, err
	}
	// The intent first: it goes only after the outcome is there, so that an
	// ended session is not taken for one that never was.
	intent, err := a.exists(ctx, manifest.IntentPath(id))
	if err != nil {
		return Outcome{}, fmt.Errorf("look up intent of session %s: %w", id, err)
	}
	return a.outcome(ctx, id, intent)
}

// outcome is Outcome for a session whose intent was there, or not, before.
func (a *Archive) outcome(ctx context.Context, id string, intent bool) (Outcome, error) {
	v, err := a.verdict(ctx, id)
	none := absent(err)
	if err != nil && !none {
		return Outcome{}, err
	}
	// The tombstone after the manifest: a sweep removes that one only when this
	// one is there.
	deleted, err := a.deleted(ctx, id)
	switch {
	case err != nil:
		return Outcome{}, err
	case deleted:
		return Outcome{State: Deleted}, nil
	case !none:
		return v.outcome(), nil
	case intent:
		return Outcome{State: Undecided}, nil
	}
	return Outcome{State: Unknown}, nil
}

// Void ends session id unless it has ended, by taking the place of its manifest,
// and answers the outcome that stands, be it Void's or another. Whoever waits
// for the session is sent to successor, when that is not empty; reason is for
// people.
//
// A void marker stays for ever. The session's process may be anywhere between
// two lines of Commit, for any time: were the marker to go, its manifest would
// land, and hold chunks that sweeps have deleted meanwhile.
func (a *Archive) Void(ctx context.Context, id, successor, reason string) (Outcome, error) {
	if err := a.Writable(ctx); err != nil {
		return Outcome{}, fmt.Errorf("void session %s: %w", id, err)
	}
	return a.void(ctx, id, successor, reason)
}

// void is Void for who has asked Writable, or ends a session of its own.
func (a *Archive) void(ctx context.Context, id, successor, reason string) (Outcome, error) {
	b, err := manifest.Void{ID: id, Successor: successor, Reason: manifest.Clean(reason)}.Encode()
	if err != nil {
		return Outcome{}, err
	}
	// The manifest of a deleted snapshot may have been swept away: its place is
	// not free for that. Should it be swept just now, the marker is in its place,
	// and the tombstone still counts.
	switch deleted, err := a.deleted(ctx, id); {
	case err != nil:
		return Outcome{}, fmt.Errorf("void session %s: %w", id, err)
	case deleted:
		return Outcome{State: Deleted}, nil
	}
	there, err := a.putFreeing(ctx, manifest.ManifestPath(id), b, manifest.MaxManifest)
	if err != nil {
		return Outcome{}, fmt.Errorf("void session %s: %w: %w", id, ErrUndecided, err)
	}
	switch deleted, err := a.deleted(ctx, id); {
	case err != nil:
		return Outcome{}, fmt.Errorf("void session %s: %w", id, err)
	case deleted:
		return Outcome{State: Deleted}, nil
	}
	v, damaged := readVerdict(there, id)
	if !damaged {
		a.remember(id, v)
	}
	return v.outcome(), nil
}

// deleted tells whether snapshot id has a tombstone.
func (a *Archive) deleted(ctx context.Context, id string) (bool, error) {
	ok, err := a.exists(ctx, manifest.TombstonePath(id))
	if err != nil {
		return false, fmt.Errorf("look up tombstone of snapshot %s: %w", id, err)
	}
	return ok, nil
}

func (a *Archive) exists(ctx context.Context, key string) (bool, error) {
	_, err := a.st.Stat(ctx, key)
	if absent(err) {
		return false, nil
	}
	return err == nil, err
}
