package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
)

// epoch is when the tests of the protocol play.
var epoch = time.Date(2026, 11, 23, 14, 50, 0, 0, time.UTC)

// testSigner is the key of all sessions in them.
var testSigner = func() *manifest.Signer {
	s, err := manifest.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 64)))
	if err != nil {
		panic(err)
	}
	return s
}()

// testID is the n-th id, in order.
func testID(n int) string {
	id, err := manifest.NewID(epoch.Add(time.Duration(n)*time.Second), bytes.NewReader(make([]byte, 16)))
	if err != nil {
		panic(err)
	}
	return id
}

// testIntent is the intent of session n: it has an hour.
func testIntent(n int, name string) Intent {
	at := epoch.Add(time.Duration(n) * time.Second)
	return Intent{
		ID: testID(n), Name: name, Kind: KindImport, Owner: fmt.Sprintf("owner-%d", n),
		Created: at, Deadline: at.Add(time.Hour),
	}
}

// fill places and puts the chunks and their inventory, and returns the manifest
// that holds them. Every other session does not look for chunks before it puts
// them.
func fill(ctx context.Context, s *Session, chunks ...string) (*manifest.Manifest, error) {
	looks := s.Intent.Created.Second()%2 == 1
	var entries []manifest.Entry
	for _, c := range chunks {
		b := []byte(c)
		var key string
		err := ErrDamaged
		if !looks {
			if key, err = s.Fresh(manifest.KindChunk, chunker.HashOf(b), chunker.PacketsExt); err != nil {
				return nil, err
			}
			err = s.Put(ctx, key, store.Bytes(b))
		}
		if errors.Is(err, ErrDamaged) { // by what came first, or since no put was tried
			key, err = s.Bring(ctx, objectOf(manifest.KindChunk, b, chunker.PacketsExt), bytes.NewReader(b))
		}
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(b)
		entries = append(entries, manifest.Entry{
			Key: key, Size: int64(len(b)), RawSize: int64(len(b)), SHA256: hex.EncodeToString(sum[:]),
			First: 1, Last: 2, Records: 1,
		})
	}
	inv := manifest.EncodeInventory(entries)
	key, err := s.Bring(ctx, objectOf(manifest.KindInventory, inv, manifest.InventoryExt), bytes.NewReader(inv))
	if err != nil {
		return nil, err
	}
	stream := manifest.SumInventory(chunker.Packets, entries)
	stream.Inventory, stream.InventorySize = key, int64(len(inv))
	m := &manifest.Manifest{
		Format: manifest.Format, Version: manifest.Version,
		ID: s.Intent.ID, Name: s.Intent.Name,
		Created: manifest.NanosOf(s.Intent.Created), Window: manifest.Interval{From: 1, To: 3},
		Status: manifest.Completed, Creator: manifest.Tool{Name: "test", Version: "1"},
		Nodes: []manifest.Node{{Name: "node", Status: manifest.Completed, Streams: []manifest.Stream{stream}}},
	}
	m.SumUp()
	return m, nil
}

// objectOf describes bytes as whoever has them does.
func objectOf(kind string, b []byte, ext string) Object {
	return Object{Kind: kind, Hash: chunker.HashOf(b), Ext: ext, Size: int64(len(b)), SHA256: sha256.Sum256(b)}
}

// create is a whole session.
func create(ctx context.Context, a *Archive, in Intent, chunks ...string) error {
	s, err := a.Begin(ctx, in)
	if err != nil {
		return err
	}
	m, err := fill(ctx, s, chunks...)
	if err != nil {
		return errors.Join(err, s.Abort(ctx))
	}
	return s.Commit(ctx, m, testSigner)
}

func mustCreate(t *testing.T, a *Archive, in Intent, chunks ...string) {
	t.Helper()
	if err := create(t.Context(), a, in, chunks...); err != nil {
		t.Fatal(err)
	}
}
