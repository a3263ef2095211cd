package archive

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
)

// A Snapshot is a signed manifest in a store. It is shared: nobody changes it.
type Snapshot struct {
	ID       string
	Manifest *manifest.Manifest // nil when it cannot be read
	Raw      []byte             // the manifest's stored bytes, which Sig signs
	Sig      []byte             // armored SSHSIG
	Key      manifest.PublicKey // that made Sig; the zero key when Sig does not fit
	Err      error              // why this snapshot cannot be used, or nil

	// Of an Archive that was told whom to trust (Trusting):
	Whose     string          // Key is, where the trust says that
	Untrusted *UntrustedError // Key is not trusted; nil when it is

	st store.Store
}

// Name is the snapshot's name, empty when its manifest cannot be read.
func (s *Snapshot) Name() string {
	if s.Manifest == nil {
		return ""
	}
	return s.Manifest.Name
}

// load reads manifest and signature, as far as it gets.
func (s *Snapshot) load(ctx context.Context) error {
	err := s.loadManifest(ctx)
	if err == nil {
		err = s.loadSignature(ctx)
	}
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", s.ID, err)
	}
	return nil
}

func (s *Snapshot) loadManifest(ctx context.Context) (err error) {
	s.Raw, err = store.ReadAll(ctx, s.st, manifest.ManifestPath(s.ID), manifest.MaxManifest)
	if absent(err) {
		return ErrNotFound
	}
	if err != nil {
		return err
	}
	return s.decode()
}

// decode decodes the manifest, whose bytes are in Raw.
func (s *Snapshot) decode() error {
	m, err := manifest.Decode(s.Raw)
	if errors.Is(err, manifest.ErrVoid) {
		return fmt.Errorf("%w: %w", ErrNotFound, manifest.ErrVoid)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if m.ID != s.ID {
		return fmt.Errorf("%w: the manifest is that of %s", ErrDamaged, m.ID)
	}
	s.Manifest = m
	return nil
}

func (s *Snapshot) loadSignature(ctx context.Context) (err error) {
	s.Sig, err = store.ReadAll(ctx, s.st, manifest.SignaturePath(s.ID), manifest.MaxSignature)
	if errors.Is(err, store.ErrNotExist) {
		return fmt.Errorf("%w: %w: it is missing: %w", ErrDamaged, manifest.ErrSignature, err)
	}
	if err != nil {
		return err
	}
	if s.Key, err = manifest.CheckSignature(s.Raw, s.Sig); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}

// Streams calls yield with each stream of the snapshot and the name of its node,
// which is empty for those of the cluster.
func (s *Snapshot) Streams(yield func(node string, stream manifest.Stream) bool) {
	for i := range s.Manifest.Nodes {
		for _, stream := range s.Manifest.Nodes[i].Streams {
			if !yield(s.Manifest.Nodes[i].Name, stream) {
				return
			}
		}
	}
	for _, stream := range s.Manifest.Streams {
		if !yield("", stream) {
			return
		}
	}
}

// Inventory reads the inventory of one of the snapshot's streams, and checks it
// against its address and against what the manifest says of it.
func (s *Snapshot) Inventory(ctx context.Context, stream manifest.Stream) ([]manifest.Entry, error) {
	b, err := s.readInventory(ctx, stream)
	if err != nil {
		return nil, err
	}
	entries, err := manifest.DecodeInventory(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", stream.Inventory, ErrDamaged, err)
	}
	if err := checkSums(stream, manifest.SumInventory(stream.Stream, entries)); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", stream.Inventory, ErrDamaged, err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Key, "."+chunker.Ext(stream.Stream)) {
			return nil, fmt.Errorf("%s: %w: %s is no chunk of stream %s", stream.Inventory, ErrDamaged, e.Key, stream.Stream)
		}
	}
	return entries, nil
}

// readInventory reads an inventory's bytes and checks their size and address.
func (s *Snapshot) readInventory(ctx context.Context, stream manifest.Stream) ([]byte, error) {
	key, err := manifest.ParseObjectKey(stream.Inventory)
	if err != nil {
		return nil, fmt.Errorf("read inventory: %w", err)
	}
	if stream.InventorySize < 0 || stream.InventorySize > manifest.MaxInventory {
		return nil, fmt.Errorf("read inventory: %s claims %d bytes, at most %d",
			stream.Inventory, stream.InventorySize, manifest.MaxInventory)
	}
	b, err := store.ReadAll(ctx, s.st, stream.Inventory, stream.InventorySize)
	if err != nil {
		return nil, fmt.Errorf("read inventory: %w", err)
	}
	if err := checkObject(key, b, stream.InventorySize); err != nil {
		return nil, fmt.Errorf("read inventory %s: %w", key, err)
	}
	return b, nil
}

// checkObject holds an object's bytes against its address and announced size.
func checkObject(key manifest.ObjectKey, b []byte, size int64) error {
	if int64(len(b)) > size {
		return fmt.Errorf("%w: longer than its %d bytes", ErrDamaged, size)
	}
	if int64(len(b)) < size {
		return fmt.Errorf("%w: %d bytes, want %d", ErrDamaged, len(b), size)
	}
	if got := chunker.HashOf(b); got != key.Hash {
		return fmt.Errorf("%w: the BLAKE3 of its bytes is %s", ErrDamaged, got)
	}
	return nil
}

// checkSums holds what a stream's entries add up to against what the manifest
// says of it.
func checkSums(want manifest.Stream, got manifest.Stream) error {
	got.Stream, got.Inventory, got.InventorySize = want.Stream, want.Inventory, want.InventorySize
	if got != want {
		return fmt.Errorf("its chunks add up to %+v, from %d to %d; the manifest says %+v, from %d to %d",
			got.Totals, got.First, got.Last, want.Totals, want.First, want.Last)
	}
	return nil
}
