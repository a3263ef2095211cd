package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
)

// VerifyOptions say what Verify looks at.
type VerifyOptions struct {
	IDs   []string        // snapshots; all of the store when empty, which then has to be one that can list
	Trust *manifest.Trust // keys to trust; when nil, those that the Archive was told of, or none

	// Progress, unless nil, is called with the bytes checked and those to check,
	// never twice at once.
	Progress func(done, total int64)
}

// States of a snapshot's signature.
const (
	SignatureTrusted   = "trusted"       // good, and the key is trusted
	SignatureUntrusted = "untrusted key" // good, and nothing says whose the key is
	SignatureBad       = "bad"           // it is not of this manifest
	SignatureMissing   = "missing"       // or the store does not give it
)

// A Report is what Verify found.
type Report struct {
	Snapshots []SnapshotReport `json:"snapshots"`
	Objects   int64            `json:"objects"`         // looked at, each once
	Bytes     int64            `json:"bytes"`           // of them
	Problems  []Problem        `json:"problems"`        // none: every promise is kept
	Notes     []Problem        `json:"notes,omitempty"` // worth knowing, and no damage
}

// OK tells whether nothing is wrong. Whether the keys are trusted is another
// question: see SnapshotReport.Signature.
func (r *Report) OK() bool { return len(r.Problems) == 0 }

// Trusted tells whether the signature of every snapshot is good and trusted.
func (r *Report) Trusted() bool {
	return !slices.ContainsFunc(r.Snapshots, func(s SnapshotReport) bool { return s.Signature != SignatureTrusted })
}

// A SnapshotReport is what Verify found of one snapshot.
type SnapshotReport struct {
	ID        string `json:"id"`
	Name      string `json:"name,omitempty"` // empty when the manifest cannot be read
	Status    string `json:"status,omitempty"`
	Signature string `json:"signature"`
	Key       string `json:"key,omitempty"`    // fingerprint of the key that signed
	KeyOf     string `json:"key_of,omitempty"` // whose it is, where the trust says that
	Trust     string `json:"trust,omitempty"`  // why the key is not trusted
	Distrust  error  `json:"-"`                // Trust: manifest.ErrOtherTime, or that the key is unknown
	Chunks    int64  `json:"chunks"`
	Size      int64  `json:"size"` // stored bytes of its chunks
	Problems  int    `json:"problems"`
}

// A Problem is one thing that is wrong with one object.
type Problem struct {
	Snapshot string `json:"snapshot,omitempty"` // that needs the object
	Object   string `json:"object"`             // key
	What     string `json:"what"`               // is wrong with it, and what to do
}

func (p Problem) String() string { return p.Object + ": " + p.What }

// What to do about an object, by what is wrong with it.
const (
	doCopy    = "copy it again from where it came, or restore it from another copy of the archive"
	doRebuild = "whoever wrote this snapshot is at fault; the bytes are as they were stored"
)

// Verify checks everything that the snapshots in the store promise: manifests,
// signatures, inventories and chunks, down to each record. Damage does not stop
// it; it is listed. The error is about Verify itself: a store that cannot be
// listed, the end of ctx.
//
// It holds one inventory and a chunk a processor in memory, and some hundred
// bytes for each chunk of the archive.
func (a *Archive) Verify(ctx context.Context, opt VerifyOptions) (*Report, error) {
	v := &verifier{
		a:      a,
		opt:    opt,
		report: Report{Snapshots: []SnapshotReport{}, Problems: []Problem{}},
		facts:  map[manifest.ObjectKey]chunkFacts{},
		lists:  map[string][]chunker.Interface{},
		held:   map[string]struct{}{},
	}
	if err := v.run(ctx); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	v.finish()
	return &v.report, nil
}

// A verifier is one run of Verify.
type verifier struct {
	a   *Archive
	opt VerifyOptions

	mu     sync.Mutex // guards all below
	report Report
	facts  map[manifest.ObjectKey]chunkFacts // of chunks that were checked
	lists  map[string][]chunker.Interface    // that chunks have; nearly all of a node have the same
	held   map[string]struct{}               // keys of what snapshots hold
	done   int64
	total  int64
	blind  bool // some manifest or inventory cannot be read, so not all of held is known
}

func (v *verifier) run(ctx context.Context) error {
	ids := slices.Compact(slices.Sorted(slices.Values(v.opt.IDs)))
	all := len(ids) == 0
	if all {
		found, err := v.survey(ctx)
		if err != nil {
			return err
		}
		ids = found
	}
	snaps, err := v.roots(ctx, ids)
	if err != nil {
		return err
	}
	for _, s := range snaps {
		if s.Manifest == nil {
			continue
		}
		if err := v.snapshot(ctx, s); err != nil {
			return err
		}
	}
	if !all {
		return nil
	}
	if err := v.leftovers(ctx); err != nil {
		return err
	}
	return v.recheck(ctx)
}

// roots reads and checks manifests, signatures and public keys.
func (v *verifier) roots(ctx context.Context, ids []string) ([]*Snapshot, error) {
	snaps := make([]*Snapshot, len(ids))
	reports := make([]SnapshotReport, len(ids))
	err := v.a.each(ctx, len(ids), func(ctx context.Context, i int) error {
		snaps[i], reports[i] = v.root(ctx, ids[i])
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	for _, s := range snaps {
		if s.Manifest == nil {
			v.blind = true
			continue
		}
		for _, stream := range s.Streams {
			v.total += stream.InventorySize + stream.Size
		}
	}
	v.report.Snapshots = append(v.report.Snapshots, reports...)
	return snaps, nil
}

// root reads past the Archive's memory: Verify is about what is in the store.
func (v *verifier) root(ctx context.Context, id string) (*Snapshot, SnapshotReport) {
	s := &Snapshot{ID: id, st: v.a.st}
	r := SnapshotReport{ID: id, Signature: SignatureMissing}
	if err := manifest.CheckID(id); err != nil {
		v.problem(id, manifest.SnapshotsDir+id, "%v", err)
		return s, r
	}
	if ok, err := v.a.exists(ctx, manifest.TombstonePath(id)); store.AsObstacle(err) != nil && len(v.opt.IDs) == 0 {
		v.blind = true // survey has told
	} else if err != nil {
		v.problem(id, manifest.TombstonePath(id), "%v", err)
	} else if ok {
		v.problem(id, manifest.TombstonePath(id), "the snapshot was deleted, and a sweep may have taken its chunks")
	}
	if err := s.loadManifest(ctx); errors.Is(err, manifest.ErrVoid) {
		v.problem(id, manifest.ManifestPath(id), "there is no such snapshot: its session ended without one")
		return s, r
	} else if err != nil {
		v.unreadable(id, manifest.ManifestPath(id), err)
	} else {
		m := s.Manifest
		r.Name, r.Status, r.Chunks, r.Size = m.Name, m.Status, m.Totals.Chunks, m.Totals.Size
	}
	if s.Raw != nil {
		v.holds(manifest.ManifestPath(id), int64(len(s.Raw)))
	}
	v.signature(ctx, s, &r)
	return s, r
}

// signature checks the signature and the public key beside it.
func (v *verifier) signature(ctx context.Context, s *Snapshot, r *SnapshotReport) {
	err := s.loadSignature(ctx)
	switch {
	case err == nil:
		r.Key, r.Signature = s.Key.Fingerprint(), SignatureTrusted
		trust := cmp.Or(v.opt.Trust, v.a.trust, new(manifest.Trust))
		at, _ := manifest.IDTime(s.ID)
		if s.Manifest != nil {
			at = s.Manifest.Created.Time()
		}
		if r.KeyOf, err = trust.Whose(s.Key, at); err != nil {
			r.Signature, r.Trust, r.Distrust = SignatureUntrusted, err.Error(), err
		}
	case errors.Is(err, store.ErrNotExist):
		v.unreadable(s.ID, manifest.SignaturePath(s.ID), store.ErrNotExist)
	case s.Raw == nil:
		r.Signature = SignatureBad // of nothing; the manifest is the problem
	case errors.Is(err, manifest.ErrSignature):
		r.Signature = SignatureBad
		v.problem(s.ID, manifest.SignaturePath(s.ID), "it does not fit manifest.json, so one of them has changed (%v); %s", err, doCopy)
	default:
		v.unreadable(s.ID, manifest.SignaturePath(s.ID), err)
	}
	if s.Sig != nil {
		v.holds(manifest.SignaturePath(s.ID), int64(len(s.Sig)))
	}

	key := manifest.SignersPath(s.ID)
	b, err := store.ReadAll(ctx, v.a.st, key, manifest.MaxSignature)
	if err != nil {
		v.unreadable(s.ID, key, err)
		return
	}
	v.holds(key, int64(len(b)))
	if s.Key != (manifest.PublicKey{}) && string(b) != string(s.Key.Signers()) {
		v.problem(s.ID, key, "it is not the key that signed the manifest (%s); write it anew: %s",
			s.Key.Fingerprint(), s.Key.SignersLine())
	}
}

// holds counts an object that a snapshot holds, once.
func (v *verifier) holds(key string, size int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.held[key]; ok {
		return
	}
	v.held[key] = struct{}{}
	v.report.Objects++
	v.report.Bytes += size
}

// progress counts n more bytes as checked.
func (v *verifier) progress(n int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.done += n
	if v.opt.Progress != nil {
		v.opt.Progress(v.done, v.total)
	}
}

// problem adds one to the report.
func (v *verifier) problem(id, object, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Problems = append(v.report.Problems, Problem{id, object, fmt.Sprintf(format, args...)})
}

func (v *verifier) note(id, object, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Notes = append(v.report.Notes, Problem{id, object, fmt.Sprintf(format, args...)})
}

// unreadable says why an object could not be used.
func (v *verifier) unreadable(id, object string, err error) {
	switch {
	case errors.Is(err, store.ErrNotExist), errors.Is(err, ErrNotFound):
		v.problem(id, object, "missing; %s", doCopy)
	case errors.Is(err, ErrDamaged), errors.Is(err, manifest.ErrSignature):
		v.problem(id, object, "%v; %s", err, doCopy)
	default:
		v.problem(id, object, "%v", err)
	}
}

// finish brings the report into an order that does not depend on chance.
func (v *verifier) finish() {
	order := func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Snapshot, b.Snapshot), cmp.Compare(a.Object, b.Object), cmp.Compare(a.What, b.What))
	}
	r := &v.report
	slices.SortFunc(r.Problems, order)
	slices.SortFunc(r.Notes, order)
	count := map[string]int{}
	for _, p := range r.Problems {
		count[p.Snapshot]++
	}
	for i := range r.Snapshots {
		r.Snapshots[i].Problems = count[r.Snapshots[i].ID]
	}
}

// processors is how many chunks are checked at once.
func processors() int { return runtime.GOMAXPROCS(0) }
