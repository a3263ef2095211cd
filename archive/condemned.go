package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
)

const (
	condemnedFormat  = "pcapsule.condemned"
	condemnedVersion = 1

	// maxCondemned bounds the keys of one list; a sweep that finds more writes
	// several. A list is then at most maxCondemnedSize bytes.
	maxCondemned     = 1 << 16
	maxCondemnedSize = 16 << 20
)

// A condemnedList is the object gc/<number>: content keys that a sweep found
// held by no snapshot, or a session found to be other bytes than their own. A
// sweep may delete them, now or at any later time. Lists are never
// deleted, since the names in them must never be used again.
type condemnedList struct {
	Format  string       `json:"format"`
	Version int          `json:"version"`
	Number  uint64       `json:"number"` // of the list, from 1
	Sum     chunker.Hash `json:"sum"`    // BLAKE3 of the keys, each with a newline
	Keys    []string     `json:"keys"`
}

func sumKeys(keys []string) chunker.Hash {
	return chunker.HashOf([]byte(strings.Join(keys, "\n") + "\n"))
}

func encodeCondemned(number uint64, keys []string) ([]byte, error) {
	b, err := json.MarshalIndent(condemnedList{
		Format: condemnedFormat, Version: condemnedVersion,
		Number: number, Sum: sumKeys(keys), Keys: keys,
	}, "", "")
	if err != nil {
		return nil, fmt.Errorf("encode condemned list: %w", err)
	}
	return append(b, '\n'), nil
}

// decodeCondemned reads the list that is stored under number. Lists are the
// only objects that are neither signed nor addressed and that snapshots rely on
// for years; the sum finds what bad disks do to them.
func decodeCondemned(b []byte, number uint64) ([]manifest.ObjectKey, error) {
	var l condemnedList
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("decode condemned list: %w: %w", ErrDamaged, err)
	}
	switch {
	case l.Format != condemnedFormat:
		return nil, fmt.Errorf("decode condemned list: %w: format is %.40q, want %q", ErrDamaged, l.Format, condemnedFormat)
	case l.Version > condemnedVersion:
		return nil, fmt.Errorf("decode condemned list: version %d is newer than this program, which knows %d: update pcapsule",
			l.Version, condemnedVersion)
	case l.Version != condemnedVersion || l.Number != number || len(l.Keys) > maxCondemned || sumKeys(l.Keys) != l.Sum:
		return nil, fmt.Errorf("decode condemned list: %w: version, number or sum are wrong", ErrDamaged)
	}
	keys := make([]manifest.ObjectKey, len(l.Keys))
	for i, s := range l.Keys {
		k, err := manifest.ParseObjectKey(s)
		if err != nil {
			return nil, fmt.Errorf("decode condemned list: %w: %w", ErrDamaged, err)
		}
		keys[i] = k
	}
	return keys, nil
}

// condemned is what the lists that were read say, in about 50 bytes a key. It
// tells keys apart by half of a hash of their generation 0: should two ever meet,
// one of them takes a higher generation than it needs.
type condemned struct {
	mu   sync.RWMutex
	last uint64             // number of the last list read; all before were read too
	head map[baseKey]uint32 // index into all, plus 1, of the newest entry
	all  []condemnation
}

type baseKey [16]byte

type condemnation struct {
	list, generation uint64
	next             uint32 // older entry of the same base, as in head
}

func baseOf(k manifest.ObjectKey) baseKey {
	k.Generation = 0
	h := chunker.HashOf([]byte(k.String()))
	return baseKey(h[:16])
}

// add takes in list number, unless it is there.
func (c *condemned) add(number uint64, keys []manifest.ObjectKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if number <= c.last {
		return
	}
	c.last = number
	if c.head == nil {
		c.head = make(map[baseKey]uint32, len(keys))
	}
	for _, k := range keys {
		base := baseOf(k)
		c.all = append(c.all, condemnation{list: number, generation: k.Generation, next: c.head[base]})
		c.head[base] = uint32(len(c.all))
	}
}

// read tells the number of the last list read.
func (c *condemned) read() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.last
}

// each calls f for the condemned generations of k's bytes in the lists up to
// number.
func (c *condemned) each(k manifest.ObjectKey, number uint64, f func(generation uint64)) {
	base := baseOf(k)
	c.mu.RLock()
	defer c.mu.RUnlock()
	for i := c.head[base]; i != 0; i = c.all[i-1].next {
		if c.all[i-1].list <= number {
			f(c.all[i-1].generation)
		}
	}
}

// fresh is the lowest generation of k's bytes above all that the lists up to
// number condemn.
func (c *condemned) fresh(k manifest.ObjectKey, number uint64) uint64 {
	var generation uint64
	c.each(k, number, func(g uint64) { generation = max(generation, g+1) })
	return generation
}

// holds tells whether a list up to number condemns k.
func (c *condemned) holds(k manifest.ObjectKey, number uint64) bool {
	found := false
	c.each(k, number, func(g uint64) { found = found || g == k.Generation })
	return found
}

// readCondemned reads the lists that are new since it was last called and
// returns the number of the last one, 0 when there is none.
func (a *Archive) readCondemned(ctx context.Context) (uint64, error) {
	c := &a.proto.condemned
	known := c.read()
	var numbers []uint64
	for info, err := range a.st.List(ctx, manifest.CondemnedDir) {
		if o := store.AsObstacle(err); o != nil && inside(o.Path, manifest.CondemnedDir) &&
			(o.Name || litterIn(o.Path, manifest.CondemnedDir)) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("list condemned lists: %w", err)
		}
		if at, _, folder := strings.Cut(strings.TrimPrefix(info.Key, manifest.CondemnedDir), "/"); folder {
			if _, err := manifest.ParseCondemnedPath(manifest.CondemnedDir + at); err == nil {
				return 0, fmt.Errorf("list condemned lists: %w: %s is a folder where a list should be", ErrDamaged, manifest.CondemnedDir+at)
			}
		}
		if n, err := manifest.ParseCondemnedPath(info.Key); err == nil && n > known {
			numbers = append(numbers, n)
		}
	}
	if err := a.readOn(ctx); err != nil {
		return 0, err
	}
	// Beyond a number that somebody took away there may be more.
	for _, n := range numbers {
		if n <= c.read() {
			continue
		}
		keys, err := a.condemnedAt(ctx, n)
		if err == nil {
			c.add(n, keys)
			err = a.readOn(ctx)
		}
		if err != nil {
			return 0, err
		}
	}
	return c.read(), nil
}

// readOn reads the lists that follow the last one that was read. Their numbers
// follow each other, so a key that is not there is their end: the store's own
// list, which may lack some, is not asked.
func (a *Archive) readOn(ctx context.Context) error {
	c := &a.proto.condemned
	// More and more at once, so that years of lists take little time.
	for batch := 1; ; batch = min(2*batch, a.atOnce()) {
		first := c.read() + 1
		lists := make([][]manifest.ObjectKey, batch)
		there := make([]bool, batch)
		err := a.each(ctx, batch, func(ctx context.Context, i int) (err error) {
			lists[i], err = a.condemnedAt(ctx, first+uint64(i))
			there[i] = err == nil
			if absent(err) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
		for i, keys := range lists {
			if !there[i] {
				return nil
			}
			c.add(first+uint64(i), keys)
		}
	}
}

// condemnedAt reads list number.
func (a *Archive) condemnedAt(ctx context.Context, number uint64) ([]manifest.ObjectKey, error) {
	key := manifest.CondemnedPath(number)
	b, err := store.ReadAll(ctx, a.st, key, maxCondemnedSize)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	keys, err := decodeCondemned(b, number)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return keys, nil
}

// condemn makes sure that each of the keys is in a condemned list: those that are
// in none so far go into new ones. With store.ErrNoSpace there was room for a few
// of them, or none.
func (a *Archive) condemn(ctx context.Context, all []manifest.ObjectKey) error {
	most, some := maxCondemned, false
	for {
		last, err := a.readCondemned(ctx)
		if err != nil {
			return err
		}
		var keys []string
		for _, k := range all {
			if len(keys) < most && !a.proto.condemned.holds(k, last) {
				keys = append(keys, k.String())
			}
		}
		if len(keys) == 0 {
			return nil
		}
		slices.Sort(keys)
		err = a.putCondemned(ctx, last+1, keys)
		switch {
		case err == nil:
			some = true
		case errors.Is(err, errLostRace):
		case errors.Is(err, store.ErrNoSpace) && len(keys) > 1 && !some:
			most = len(keys) / 2
		default:
			return err
		}
	}
}

// errLostRace says that somebody else took the number.
var errLostRace = errors.New("somebody else wrote this condemned list")

// putCondemned writes list number. When it returns nil, every session whose
// intent is put from now on reads it.
func (a *Archive) putCondemned(ctx context.Context, number uint64, keys []string) error {
	b, err := encodeCondemned(number, keys)
	if err != nil {
		return err
	}
	key := manifest.CondemnedPath(number)
	there, err := a.putFreeing(ctx, key, b, maxCondemnedSize)
	if err != nil {
		return fmt.Errorf("write condemned list %s: %w", key, err)
	}
	if string(there) != string(b) {
		return fmt.Errorf("write condemned list %s: %w", key, errLostRace)
	}
	parsed, err := decodeCondemned(b, number)
	if err != nil {
		return err
	}
	a.proto.condemned.add(number, parsed)
	return nil
}
