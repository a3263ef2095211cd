package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
)

// This file is a store whose every operation waits for a scheduler, and the
// scheduler's side of it: a world of actors, of which one at a time does one
// operation. The world checks after each change of the store that no living
// snapshot has lost anything, and that nothing is taken away that the protocol
// wants to stay.

var (
	errCrashed = errors.New("sim: the process died")
	errLost    = errors.New("sim: connection reset")
)

// A fault is what befalls one operation.
type fault int

const (
	fine         fault = iota
	refused503         // no effect, an error
	lost               // its effect, and an error
	late               // its effect at any later time, and an error
	crash              // no effect, and the process is gone
	blind              // of a list: it ends here, and looks whole
	short              // of a list: it lacks its last key
	stale              // of a list: it is that of the first who asked
	blindIntents       // blind, of the list of intents alone
	swallowed          // of the put of an intent: no effect, and success
)

func (f fault) String() string {
	return [...]string{"", " (refused)", " (answer lost)", " (lands late, answer lost)", " CRASH", " (ends here)", " (lacks its last)", " (old)", " (empty)", " (swallowed)"}[f]
}

// may tells whether a fault can befall what an actor is about to do. Lists that
// lie tell lies to sweeps, and to others where that can cost more than a name.
func (act *actor) may(f fault) bool {
	verb, rest, _ := strings.Cut(act.op, " ")
	dir, _, _ := strings.Cut(rest, "/")
	switch f {
	case lost, late:
		return verb == "put" || verb == "delete"
	case blindIntents:
		return strings.Contains(act.name, "sweep") && act.op == "list "+manifest.IntentsDir
	case swallowed:
		return verb == "put" && dir+"/" == manifest.IntentsDir
	case blind, short, stale:
		switch sweep := strings.Contains(act.name, "sweep"); {
		case verb != "list":
			return false
		case dir+"/" == manifest.SnapshotsDir, dir+"/" == manifest.IntentsDir && (f != blind || rest != manifest.IntentsDir):
			return sweep
		}
	}
	return true
}

var simSeed = maphash.MakeSeed()

func hashOf(parts ...string) uint64 {
	var h maphash.Hash
	h.SetSeed(simSeed)
	for _, p := range parts {
		h.WriteString(p)
		h.WriteByte(0)
	}
	return h.Sum64()
}

// A world is a store and the actors on it.
type world struct {
	objects map[string][]byte
	sum     uint64 // of the objects, in no order
	actors  []*actor
	pending []effect // to land at any time

	first       map[string][]string // what the first who listed a prefix saw
	paged       bool                // List looks at the store anew for each object
	noSums      bool                // Stat tells no SHA-256
	lateDeletes bool                // every Delete of a chunk lands at any later time
	skip        func(op string) bool

	decided  int                 // manifests, void markers and tombstones put so far
	lists    map[string]bool     // keys that condemned lists name
	holds    map[string][]string // by id of a living snapshot: its content keys
	names    map[string]string   // living snapshots: name by id
	word     *condemned          // what could be deleted when a newcomer had made its word known; nil before
	violated string
	trace    []string
	tracing  bool
}

// An effect is an operation that was answered and has yet to happen.
type effect struct {
	put  bool
	key  string
	data []byte
}

func newWorld(objects map[string][]byte) *world {
	w := &world{objects: map[string][]byte{}, first: map[string][]string{}, lists: map[string]bool{}, holds: map[string][]string{}, names: map[string]string{}}
	for _, first := range []string{manifest.CondemnedDir, manifest.KindChunk, manifest.KindInventory} {
		for key, data := range objects {
			if strings.HasPrefix(key, first) {
				w.put(key, data)
			}
		}
	}
	for key, data := range objects {
		if _, file := snapshotOf(key); file != "manifest.json" {
			w.put(key, data)
		}
	}
	for key, data := range objects {
		w.put(key, data)
	}
	return w
}

func (w *world) violate(format string, args ...any) {
	if w.violated == "" {
		w.violated = fmt.Sprintf(format, args...)
		w.note("INVARIANT VIOLATED: " + w.violated)
	}
}

func (w *world) note(s string) {
	if w.tracing {
		w.trace = append(w.trace, s)
	}
}

// put is put-if-absent; it tells whether it had an effect.
func (w *world) put(key string, data []byte) bool {
	if _, ok := w.objects[key]; ok {
		return false
	}
	w.objects[key] = data
	w.sum ^= hashOf(key, string(data))
	id, file := snapshotOf(key)
	switch {
	case strings.HasPrefix(key, manifest.CondemnedDir):
		number, err := manifest.ParseCondemnedPath(key)
		keys, derr := decodeCondemned(data, number)
		if err := errors.Join(err, derr); err != nil {
			w.violate("%s: %v", key, err)
		}
		for _, k := range keys {
			w.lists[k.String()] = true
		}
	case strings.HasPrefix(key, manifest.KindChunk), strings.HasPrefix(key, manifest.KindInventory):
		if k, err := manifest.ParseObjectKey(key); err == nil && k.Generation > 0 && chunker.HashOf(data) == k.Hash {
			if k.Generation--; !w.lists[k.String()] {
				w.violate("%s is in use before a list condemns %s", key, k)
			}
		}
	case strings.HasPrefix(key, manifest.DeletedDir):
		w.decided++
		id := path.Base(key)
		delete(w.holds, id)
		delete(w.names, id)
	case file == "manifest.json":
		w.decided++
		w.admit(id, data)
	}
	return true
}

// admit checks a manifest that has come to be.
func (w *world) admit(id string, data []byte) {
	if v, _ := readVerdict(data, id); v.void || w.tombstone(id) {
		return
	}
	m, err := manifest.Decode(data)
	if err != nil {
		w.violate("snapshot %s: %v", id, err)
		return
	}
	for other, name := range w.names {
		if name == m.Name {
			w.violate("snapshots %s and %s live under one name, %s", other, id, name)
		}
	}
	w.names[id] = m.Name
	if w.word != nil {
		w.violate("snapshot %s was committed though the store requires a word of those who commit", id)
	}
	if !signed(data, w.objects[manifest.SignaturePath(id)]) {
		w.violate("snapshot %s: the signature is not that of its manifest", id)
	}
	hold := func(key string) {
		k, err := manifest.ParseObjectKey(key)
		b, ok := w.objects[key]
		if err != nil || !ok || chunker.HashOf(b) != k.Hash {
			w.violate("snapshot %s was committed and lacks %s", id, key)
		}
		w.holds[id] = append(w.holds[id], key)
	}
	for _, s := range m.Nodes[0].Streams {
		hold(s.Inventory)
		entries, err := manifest.DecodeInventory(w.objects[s.Inventory])
		if err != nil {
			w.violate("snapshot %s: %v", id, err)
		}
		for _, e := range entries {
			hold(e.Key)
		}
	}
}

// signatures remembers what signed found, since the same few are checked in each
// of thousands of runs.
var signatures = map[uint64]bool{}

func signed(data, sig []byte) bool {
	h := hashOf(string(data), string(sig))
	ok, known := signatures[h]
	if !known {
		_, err := manifest.CheckSignature(data, sig)
		ok = err == nil
		signatures[h] = ok
	}
	return ok
}

func (w *world) tombstone(id string) bool {
	_, ok := w.objects[manifest.TombstonePath(id)]
	return ok
}

// remove is a Delete that happens.
func (w *world) remove(key string) {
	data, ok := w.objects[key]
	if !ok {
		return
	}
	id, file := snapshotOf(key)
	switch {
	case strings.HasPrefix(key, manifest.DeletedDir), strings.HasPrefix(key, manifest.CondemnedDir):
		w.violate("%s was taken away", key)
	case strings.HasPrefix(key, manifest.IntentsDir):
		id := path.Base(key)
		if _, ok := w.objects[manifest.ManifestPath(id)]; !ok && !w.tombstone(id) && !isMark(id) {
			w.violate("the intent of session %s, which is undecided, was taken away", id)
		}
	case file == "manifest.json":
		if !w.tombstone(id) && !isMark(id) {
			w.violate("the outcome of session %s was taken away", id)
		}
	case file != "":
		v, _ := readVerdict(w.objects[manifest.ManifestPath(id)], id)
		if !w.tombstone(id) && !v.void {
			w.violate("%s was taken away", key)
		}
	default:
		if k, err := manifest.ParseObjectKey(key); w.word != nil && err == nil && !w.word.holds(k, w.word.last) {
			w.violate("%s was deleted though the store requires a word of those who delete", key)
		}
		for id, keys := range w.holds {
			if slices.Contains(keys, key) {
				w.violate("snapshot %s lives and has lost %s", id, key)
			}
		}
	}
	delete(w.objects, key)
	w.sum ^= hashOf(key, string(data))
}

// snapshotOf splits the key of a snapshot's object.
func snapshotOf(key string) (id, file string) {
	id, file, err := manifest.ParseSnapshotPath(key)
	if err != nil {
		return "", ""
	}
	return id, file
}

// land lets a pending effect happen.
func (w *world) land(i int) {
	e := w.pending[i]
	w.pending = slices.Delete(w.pending, i, i+1)
	w.note("lands: " + e.String())
	if e.put {
		w.put(e.key, e.data)
	} else {
		w.remove(e.key)
	}
}

func (e effect) String() string {
	if e.put {
		return "put " + e.key
	}
	return "delete " + e.key
}

// An actor is a process: an Archive of its own, and what it does with it.
type actor struct {
	w    *world
	name string
	now  time.Time
	body func(ctx context.Context, a *Archive, self *actor) error

	resume  func() (struct{}, bool)
	stop    func()
	yield   func(struct{}) bool
	op      string
	waiting bool // for decided to pass since
	since   int
	fault   fault
	dead    bool
	done    bool
	err     error
	hist    uint64 // of all that it was told
	steps   int
}

// start adds an actor and runs it up to its first operation.
func (w *world) start(name string, now time.Time, body func(context.Context, *Archive, *actor) error) {
	act := &actor{w: w, name: name, now: now, body: body}
	w.actors = append(w.actors, act)
	act.resume, act.stop = iter.Pull(func(yield func(struct{}) bool) {
		act.yield = yield
		a := New(simStore{act})
		a.proto.parallel = 1
		var seed [32]byte
		copy(seed[:], name)
		a.proto.rnd = rand.NewChaCha8(seed)
		act.err = body(context.Background(), a, act)
	})
	act.step(fine)
}

// step lets the actor do the operation it stands at, up to the next.
func (act *actor) step(f fault) {
	if act.op != "" {
		act.w.note(act.name + ": " + act.op + f.String())
	}
	act.fault = f
	act.steps++
	if _, ok := act.resume(); !ok {
		act.done = true
		act.w.note(fmt.Sprintf("%s: ended: %v", act.name, act.err))
	}
}

// park waits for the scheduler. Its error is the answer to an operation that
// must not happen.
func (act *actor) park(op string) (fault, error) {
	if act.dead {
		return crash, errCrashed
	}
	if skip := act.w.skip; skip != nil && skip(op) {
		return fine, nil
	}
	act.op, act.fault = op, fine
	if !act.yield(struct{}{}) || act.fault == crash {
		act.dead = true
		return crash, errCrashed
	}
	if act.fault == refused503 {
		act.saw(op, "refused")
		return act.fault, fmt.Errorf("%s: %w", op, errLost)
	}
	return act.fault, nil
}

func (act *actor) saw(parts ...string) {
	act.hist = act.hist*1099511628211 ^ hashOf(parts...)
}

// wait is a sweep's: until there is a reason to look again.
func (act *actor) wait(context.Context, time.Duration) error {
	act.waiting, act.since = true, act.w.decided
	_, err := act.park("wait")
	act.waiting = false
	act.saw("wait", act.now.String())
	return err
}

// ready tells whether the actor can go on.
func (act *actor) ready() bool {
	return !act.done && !(act.waiting && act.since == act.w.decided)
}

// state tells apart what can come of the world: its objects, what is under way
// and, since actors are deterministic, all that each was told.
func (w *world) state() uint64 {
	h := w.sum
	for i, act := range w.actors {
		n := act.hist*4 + uint64(i)<<32
		if act.done {
			n |= 1
		}
		if act.ready() {
			n |= 2
		}
		h = (h*31 + n) ^ hashOf(act.op)
	}
	var p uint64
	for _, e := range w.pending {
		p += hashOf("pending", e.String(), string(e.data))
	}
	return h*31 + p
}

// close ends all actors.
func (w *world) close() {
	for _, act := range w.actors {
		act.stop()
	}
}

// simStore is the world's store as one actor sees it.
type simStore struct{ act *actor }

func (s simStore) Put(_ context.Context, key string, body store.Body) error {
	f, err := s.act.park("put " + key)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(io.NewSectionReader(body, 0, body.Size))
	if err != nil || sha256.Sum256(data) != body.SHA256 {
		return store.ErrChecksum
	}
	if f == late {
		s.act.w.pending = append(s.act.w.pending, effect{true, key, data})
		s.act.saw("put", key, "lost")
		return errLost
	}
	if f == swallowed {
		s.act.saw("put", key, "stored")
		return nil
	}
	ok := s.act.w.put(key, data)
	switch {
	case f == lost:
		s.act.saw("put", key, "lost")
		return errLost
	case !ok:
		s.act.saw("put", key, "taken")
		return fmt.Errorf("put %s: %w", key, store.ErrExist)
	}
	s.act.saw("put", key, "stored")
	return nil
}

func (s simStore) Get(_ context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if _, err := s.act.park("get " + key); err != nil {
		return nil, err
	}
	b, ok := s.act.w.objects[key]
	if !ok {
		s.act.saw("get", key, "none")
		return nil, fmt.Errorf("get %s: %w", key, store.ErrNotExist)
	}
	s.act.saw("get", key, string(b))
	return io.NopCloser(io.NewSectionReader(bytes.NewReader(b), off, n)), nil
}

func (s simStore) Stat(_ context.Context, key string) (store.Info, error) {
	if _, err := s.act.park("stat " + key); err != nil {
		return store.Info{}, err
	}
	b, ok := s.act.w.objects[key]
	if !ok {
		s.act.saw("stat", key, "none")
		return store.Info{}, fmt.Errorf("stat %s: %w", key, store.ErrNotExist)
	}
	s.act.saw("stat", key, string(b))
	sum := sha256.Sum256(b)
	info := store.Info{Key: key, Size: int64(len(b)), Modified: epoch, Version: hex.EncodeToString(sum[:])}
	if !s.act.w.noSums {
		info.SHA256 = sum[:]
	}
	return info, nil
}

func (s simStore) List(_ context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		last, left := "", []string(nil)
		for first := true; ; first = false {
			if first || s.act.w.paged {
				f, err := s.act.park(strings.TrimSpace("list " + prefix + " " + last))
				if err != nil {
					yield(store.Info{}, err)
					return
				}
				left = left[:0]
				for key := range s.act.w.objects {
					if strings.HasPrefix(key, prefix) && key > last {
						left = append(left, key)
					}
				}
				slices.Sort(left)
				if _, ok := s.act.w.first[prefix]; first && !ok {
					s.act.w.first[prefix] = slices.Clone(left)
				}
				switch {
				case f == blind, f == blindIntents:
					left = left[:0]
				case f == short && len(left) > 0:
					left = left[:len(left)-1]
				case f == stale:
					left = slices.DeleteFunc(slices.Clone(s.act.w.first[prefix]), func(key string) bool { return key <= last })
				}
				s.act.saw(append([]string{"list", prefix}, left...)...)
			}
			if len(left) == 0 {
				return
			}
			last = left[0]
			size := len(s.act.w.objects[last])
			left = left[1:]
			if !yield(store.Info{Key: last, Size: int64(size), Modified: epoch}, nil) {
				return
			}
		}
	}
}

func (s simStore) Delete(_ context.Context, key string) error {
	f, err := s.act.park("delete " + key)
	if err != nil {
		return err
	}
	chunk := strings.HasPrefix(key, manifest.KindChunk)
	if _, there := s.act.w.objects[key]; f == late || s.act.w.lateDeletes && chunk && there {
		s.act.w.pending = append(s.act.w.pending, effect{key: key})
	} else {
		s.act.w.remove(key)
	}
	s.act.saw("delete", key, f.String())
	if f == lost || f == late {
		return errLost
	}
	return nil
}

func (s simStore) Grant(context.Context, string, int64, [32]byte, time.Time) (store.Grant, error) {
	return store.Grant{}, store.ErrNoGrant
}
