package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
)

// maxPlaceTries bounds how many generations of other bytes one call steps over.
const maxPlaceTries = 8

// Place tells under which key this session holds an object, and whether it is
// there: its own bytes, as genuine finds. When it is not, it has to be put before
// Commit, by Put or through a grant. As a rule that asks the store one question.
//
// The key is one that no condemned list names that was there when the session
// began: the lowest generation above all of them. When other bytes lie there, by
// malice or by a bad disk, Place condemns them and takes the next generation.
func (s *Session) Place(ctx context.Context, o Object) (key string, have bool, err error) {
	k, err := o.key()
	if err != nil {
		return "", false, fmt.Errorf("place object: %w", err)
	}
	for range maxPlaceTries {
		k.Generation = s.lowest(k)
		key := k.String()
		info, err := s.a.st.Stat(ctx, key)
		if err == nil {
			have, err = s.a.genuine(ctx, k, info, o.Size, o.SHA256)
		}
		switch {
		case errors.Is(err, store.ErrNotExist):
			return key, false, nil
		case err != nil:
			return "", false, fmt.Errorf("place %s: %w", key, err)
		case have:
			return key, true, nil
		}
		if err := s.spoil(ctx, k); err != nil {
			return "", false, fmt.Errorf("place %s: %w", key, err)
		}
	}
	return "", false, fmt.Errorf("place %s: %w: other bytes lie under %d of its keys", k, ErrDamaged, maxPlaceTries)
}

// Fresh is Place for an object that nobody is likely to have stored before. It
// asks the store nothing: whoever puts the object learns whether something is
// there, and then has to Place it.
func (s *Session) Fresh(kind string, hash chunker.Hash, ext string) (key string, err error) {
	k, err := contentKey(kind, hash, ext)
	if err != nil {
		return "", fmt.Errorf("place object: %w", err)
	}
	k.Generation = s.lowest(k)
	return k.String(), nil
}

// lowest is the generation of k's bytes that this session uses.
func (s *Session) lowest(k manifest.ObjectKey) uint64 {
	k.Generation = 0
	s.placing.Lock()
	defer s.placing.Unlock()
	return max(s.a.proto.condemned.fresh(k, s.condemned), s.spoiled[k.String()])
}

// spoil condemns what lies at k, which is proven to be other bytes, and has this
// session use a higher generation. The list comes first: then nobody uses a
// generation while a lower one could still be taken for the object.
func (s *Session) spoil(ctx context.Context, k manifest.ObjectKey) error {
	if err := s.a.condemn(ctx, []manifest.ObjectKey{k}); err != nil {
		return fmt.Errorf("condemn what lies there, which is other bytes: %w", err)
	}
	next := k.Generation + 1
	k.Generation = 0
	s.placing.Lock()
	defer s.placing.Unlock()
	if s.spoiled == nil {
		s.spoiled = map[string]uint64{}
	}
	s.spoiled[k.String()] = max(s.spoiled[k.String()], next)
	return nil
}

// Usable tells whether this session may hold key: it names an object of content,
// and none that is condemned. Keys that Place and Fresh gave are usable, unless
// other bytes were found there since.
func (s *Session) Usable(key string) error {
	k, err := manifest.ParseObjectKey(key)
	if err != nil {
		return err
	}
	if s.a.proto.condemned.holds(k, s.condemned) {
		return fmt.Errorf("%s is condemned: a sweep may delete it at any time", key)
	}
	base := k
	base.Generation = 0
	s.placing.Lock()
	defer s.placing.Unlock()
	if k.Generation < s.spoiled[base.String()] {
		return fmt.Errorf("%s: %w: other bytes lie there", key, ErrDamaged)
	}
	return nil
}

// Bring stores an object unless it is there, and returns its key. It may be called
// again after an error.
func (s *Session) Bring(ctx context.Context, o Object, body io.ReaderAt) (key string, err error) {
	for range maxPlaceTries {
		var have bool
		if key, have, err = s.Place(ctx, o); err != nil || have {
			return key, err
		}
		// Other bytes may have come to lie there since: then the next turn takes
		// another key.
		err = s.Put(ctx, key, store.Body{ReaderAt: body, Size: o.Size, SHA256: o.SHA256})
		if err == nil || !errors.Is(err, ErrDamaged) {
			return key, err
		}
	}
	return "", err
}

// Put stores an object under a key that Place or Fresh gave. It may be called again
// after an error. ErrDamaged says that other bytes lie there: place it again.
func (s *Session) Put(ctx context.Context, key string, body store.Body) error {
	if err := s.Usable(key); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	k, err := manifest.ParseObjectKey(key)
	if err == nil {
		err = checkBody(k, body)
	}
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	for range putTries {
		if err = s.a.st.Put(ctx, key, body); err == nil {
			return nil
		}
		cerr := s.confirm(ctx, k, body.Size, body.SHA256)
		switch {
		case cerr == nil:
			return nil
		case errors.Is(cerr, ErrDamaged):
			return fmt.Errorf("put: %w", cerr)
		case !errors.Is(cerr, store.ErrNotExist) || refused(err):
			return fmt.Errorf("put %s: %w", key, err)
		}
	}
	return fmt.Errorf("put %s: %w", key, err)
}

// Confirm makes sure that a chunk is usable and there, with its own bytes: that an
// upload found its key taken does not say so. ErrDamaged is wrapped when other
// bytes lie there, and the next Place or Fresh steps over them.
func (s *Session) Confirm(ctx context.Context, e manifest.Entry) error {
	if err := s.Usable(e.Key); err != nil {
		return err
	}
	k, err := manifest.ParseObjectKey(e.Key)
	if err != nil {
		return err
	}
	sum, err := hex.DecodeString(e.SHA256)
	if err != nil || len(sum) != sha256.Size {
		return fmt.Errorf("%s: sha256 %.80q is none", e.Key, e.SHA256)
	}
	return s.confirm(ctx, k, e.Size, [sha256.Size]byte(sum))
}

func (s *Session) confirm(ctx context.Context, k manifest.ObjectKey, size int64, sum [sha256.Size]byte) error {
	info, err := s.a.st.Stat(ctx, k.String())
	if err != nil {
		return err
	}
	ok, err := s.a.genuine(ctx, k, info, size, sum)
	if err != nil || ok {
		return err
	}
	if err := s.spoil(ctx, k); err != nil {
		return fmt.Errorf("%s: %w", k, err)
	}
	return fmt.Errorf("%s: %w: other bytes lie there", k, ErrDamaged)
}
