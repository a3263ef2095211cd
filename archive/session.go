package archive

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"pcapsule/manifest"
)

// A Session is one attempt at creating a snapshot. Only the process that began
// it commits it. Its methods may be called concurrently.
type Session struct {
	Intent Intent // as it was stored; not to be changed

	a         *Archive
	condemned uint64 // number of the last condemned list read after the intent was put

	mu       sync.Mutex // guards the objects that Commit writes; set once
	manifest []byte
	sig      []byte
	signers  []byte

	placing sync.Mutex
	spoiled map[string]uint64 // by key of generation 0: the lowest generation above all that this session found to be other bytes; guarded by placing
}

// graceful is how long giveUp tries.
const graceful = 10 * time.Second

// Begin starts a session. The intent needs a name, a kind and a deadline.
//
// Of two sessions that begin with one name at the same time both may fail with
// ErrNameTaken; never do both go on. With an id of the caller's choice, Begin
// fails with ErrDecided when that session has ended, or is another process's. A
// *VoidedError says that somebody ended this session before Begin returned.
//
// A *RoomError says that the store is full, and that there is no session.
//
// After any other error there may be a session that nobody has. It ends at its
// deadline.
func (a *Archive) Begin(ctx context.Context, in Intent) (*Session, error) {
	if err := a.Writable(ctx); err != nil {
		return nil, fmt.Errorf("begin session: %w", err)
	}
	if err := a.Room(ctx); err != nil {
		return nil, fmt.Errorf("begin session: %w", err)
	}
	if in.ID != "" {
		o, err := a.Outcome(ctx, in.ID)
		if err == nil && o.State != Unknown {
			err = fmt.Errorf("%w: it is %s", ErrDecided, o.State)
		}
		if err != nil {
			return nil, fmt.Errorf("begin session: %w", err)
		}
	}
	s, err := a.announce(ctx, in)
	if s == nil {
		return nil, fmt.Errorf("begin session: %w", err)
	}
	if err == nil {
		err = s.enter(ctx)
	}
	if err != nil {
		err = fmt.Errorf("begin session %s: %w", s.Intent.ID, err)
		s.giveUp(ctx, err)
		return nil, err
	}
	return s, nil
}

// announce puts the intent. It returns a session also when it cannot tell whether
// the intent is there, or will be, along with the error.
func (a *Archive) announce(ctx context.Context, in Intent) (*Session, error) {
	if in.ID == "" {
		id, err := manifest.NewID(in.Created, a.proto.random())
		if err != nil {
			return nil, err
		}
		in.ID = id
	}
	var token [16]byte
	if _, err := io.ReadFull(a.proto.random(), token[:]); err != nil {
		return nil, fmt.Errorf("make a token: %w", err)
	}
	b, err := in.encode(hex.EncodeToString(token[:]))
	if err != nil {
		return nil, err
	}
	there, err := a.putOnce(ctx, manifest.IntentPath(in.ID), b, maxIntent)
	if err != nil {
		return &Session{Intent: in, a: a}, fmt.Errorf("put intent: %w", err)
	}
	if !bytes.Equal(there, b) {
		return nil, fmt.Errorf("session %s: %w", in.ID, ErrDecided)
	}
	return &Session{Intent: in, a: a}, nil
}

// enter is what a session reads once its intent is there. The order is what
// keeps the archive safe: PROTOCOL.md.
func (s *Session) enter(ctx context.Context) error {
	if err := s.a.Writable(ctx); err != nil {
		return err
	}
	o, err := s.a.outcome(ctx, s.Intent.ID, true)
	if err == nil {
		err = s.goesOn(o)
	}
	if err != nil {
		return err
	}
	announced, err := s.a.checkName(ctx, s.Intent.Name, s.Intent.ID)
	if err != nil {
		return err
	}
	if !announced {
		if o, err = s.a.Outcome(ctx, s.Intent.ID); err != nil {
			return err
		}
		return cmp.Or(s.goesOn(o), errUnannounced)
	}
	s.condemned, err = s.a.readCondemned(ctx)
	return err
}

// errUnannounced says that a session has neither intent nor outcome in the store,
// so that no sweep waits for it.
var errUnannounced = errors.New("its intent is not in the store, though the store took it: something else deletes there, or a proxy answers in the store's place; find out what, then try again")

// goesOn returns why a session that this process has begun cannot go on, as its
// outcome tells.
func (s *Session) goesOn(o Outcome) error {
	switch o.State {
	case Undecided:
		return nil
	case Unknown:
		return errUnannounced
	case Voided: // since the intent was put, by a sweep whose clock is past the deadline or by TakeOver
		return &VoidedError{ID: s.Intent.ID, Successor: o.Successor, Reason: o.Reason}
	}
	return fmt.Errorf("%w: it is %s", ErrDecided, o.State)
}

// giveUp ends a session that could not begin, if the store lets it, even when ctx
// is over. What it cannot do a sweep does after the deadline.
func (s *Session) giveUp(ctx context.Context, why error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceful)
	defer cancel()
	_, _ = s.a.end(ctx, s.Intent.ID, why.Error())
}

// end voids a session and drops its intent, unless that has to lead TakeOver to
// a successor.
func (a *Archive) end(ctx context.Context, id, reason string) (Outcome, error) {
	o, err := a.void(ctx, id, "", reason)
	if err == nil && o.Successor == "" {
		a.dropIntent(ctx, id)
	}
	return o, err
}

// Inventory calls f for each entry of an inventory that is in the store, in
// order. That it is the one of the given key and size is known only when Inventory
// returns nil; ErrDamaged is wrapped when it is not, or is no inventory.
func (s *Session) Inventory(ctx context.Context, key string, size int64, f func(manifest.Entry) error) error {
	return s.a.readInventory(ctx, key, size, f)
}

// Check makes sure of one stream before Commit: its inventory is in the store,
// has its hash and the stream's sums, and every chunk that it names is usable and
// there with its own bytes. The error names the first chunk that is not.
func (s *Session) Check(ctx context.Context, stream manifest.Stream) error {
	if err := s.Usable(stream.Inventory); err != nil {
		return fmt.Errorf("check stream %s: %w", stream.Stream, err)
	}
	var entries []manifest.Entry
	err := s.a.readInventory(ctx, stream.Inventory, stream.InventorySize, func(e manifest.Entry) error {
		entries = append(entries, e)
		return s.Usable(e.Key)
	})
	if err != nil {
		return fmt.Errorf("check stream %s: %w", stream.Stream, err)
	}
	sum := manifest.SumInventory(stream.Stream, entries)
	sum.Inventory, sum.InventorySize = stream.Inventory, stream.InventorySize
	if sum != stream {
		return fmt.Errorf("check stream %s: %s adds up to %+v, not to %+v", stream.Stream, stream.Inventory, sum, stream)
	}
	err = s.a.each(ctx, len(entries), func(ctx context.Context, i int) error { return s.Confirm(ctx, entries[i]) })
	if err != nil {
		return fmt.Errorf("check stream %s: %w", stream.Stream, err)
	}
	return nil
}

// Commit signs m and makes it the session's outcome. All that m holds has to be
// in the store, under keys that Place gave.
//
// When it returns nil the snapshot is there, for good. A *VoidedError says that
// somebody else ended the session, or that Commit did, whose intent was gone. With ErrUndecided the store's answers do not
// tell: Commit may be called again, with the same manifest, or Outcome asked.
func (s *Session) Commit(ctx context.Context, m *manifest.Manifest, key *manifest.Signer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.seal(m, key); err != nil {
		return fmt.Errorf("commit session %s: %w", s.Intent.ID, err)
	}
	if err := s.commit(ctx); err != nil {
		return fmt.Errorf("commit session %s: %w", s.Intent.ID, err)
	}
	s.a.dropIntent(ctx, s.Intent.ID)
	return nil
}

// seal fixes the bytes that this session commits. A second Commit has to bring
// the same manifest: the signature of the first is in the store.
func (s *Session) seal(m *manifest.Manifest, key *manifest.Signer) error {
	if m.ID != s.Intent.ID || m.Name != s.Intent.Name {
		return fmt.Errorf("manifest is of %s %q, the session is %s %q", m.ID, m.Name, s.Intent.ID, s.Intent.Name)
	}
	for _, node := range append([]manifest.Node{{Streams: m.Streams}}, m.Nodes...) {
		for _, stream := range node.Streams {
			if err := s.Usable(stream.Inventory); err != nil {
				return err
			}
		}
	}
	b, err := m.Encode()
	if err != nil {
		return err
	}
	if s.manifest != nil {
		if !bytes.Equal(s.manifest, b) {
			return errors.New("it has begun to commit another manifest: abort it and begin a new session")
		}
		return nil
	}
	sig, err := key.Sign(b)
	if err != nil {
		return err
	}
	s.manifest, s.sig, s.signers = b, sig, key.Public().Signers()
	return nil
}

func (s *Session) commit(ctx context.Context) error {
	id := s.Intent.ID
	// First what makes the manifest complete. Only this process writes here
	// before the outcome is decided, so what else is there tells that it is.
	for _, o := range []struct {
		key  string
		body []byte
	}{
		{manifest.SignaturePath(id), s.sig},
		{manifest.SignersPath(id), s.signers},
	} {
		there, err := s.a.putOnce(ctx, o.key, o.body, manifest.MaxSignature)
		if err != nil {
			return fmt.Errorf("put %s: %w: %w", o.key, ErrUndecided, err)
		}
		if !bytes.Equal(there, o.body) {
			return fmt.Errorf("%s is another's: %w", o.key, ErrDecided)
		}
	}
	if err := s.announced(ctx); err != nil {
		return err
	}
	key := manifest.ManifestPath(id)
	there, err := s.a.putOnce(ctx, key, s.manifest, manifest.MaxManifest)
	if err != nil {
		return fmt.Errorf("put %s: %w: commit again, or ask for its outcome: %w", key, ErrUndecided, err)
	}
	if bytes.Equal(there, s.manifest) {
		s.a.remember(id, verdict{name: s.Intent.Name})
		return nil
	}
	v, _ := readVerdict(there, id)
	if !v.void {
		return fmt.Errorf("%s is another's: %w", key, ErrDecided)
	}
	if v.successor == "" {
		s.a.dropIntent(ctx, id)
	}
	return &VoidedError{ID: id, Successor: v.successor, Reason: v.reason}
}

// announced looks, before the manifest is put, that sweeps could see the session
// until now. One without an intent and without an outcome, of which sweeps may
// have deleted what it holds, is ended here.
func (s *Session) announced(ctx context.Context) error {
	id := s.Intent.ID
	there, err := s.a.exists(ctx, manifest.IntentPath(id))
	if err == nil && !there {
		_, err = s.a.verdict(ctx, id) // the intent goes when there is one
	}
	switch {
	case err == nil:
		return nil // the manifest's place tells, if the session has ended
	case !absent(err):
		return fmt.Errorf("look for its intent: %w: %w", ErrUndecided, err)
	}
	o, err := s.a.end(ctx, id, errUnannounced.Error())
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w: %w", errUnannounced, ErrUndecided, err)
	case o.State == Voided:
		return &VoidedError{ID: id, Successor: o.Successor, Reason: o.Reason}
	}
	return nil // a manifest of this Commit's last try has landed
}

// Standing returns nil while nobody has ended the session from outside, and the
// *VoidedError when somebody has. It asks the store one question.
func (s *Session) Standing(ctx context.Context) error {
	v, err := s.a.verdict(ctx, s.Intent.ID)
	switch {
	case absent(err):
		return nil
	case err != nil:
		return err
	case v.void:
		return &VoidedError{ID: s.Intent.ID, Successor: v.successor, Reason: v.reason}
	}
	return nil
}

// Abort ends the session without a snapshot. When it turns out to be committed
// already, by a Commit whose answer was lost, the error is ErrDecided.
func (s *Session) Abort(ctx context.Context) error { return s.Fail(ctx, "aborted") }

// Fail is Abort with a reason, for the people who wait for the session.
func (s *Session) Fail(ctx context.Context, reason string) error {
	o, err := s.a.end(ctx, s.Intent.ID, reason)
	if err != nil {
		return err
	}
	if o.State != Voided {
		return fmt.Errorf("abort session %s: %w: it is %s", s.Intent.ID, ErrDecided, o.State)
	}
	return nil
}
