package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store/storetest"
)

// packetsChunk is a real chunk of n packets from time at on, a millisecond apart.
func packetsChunk(t testing.TB, node string, at time.Time, n int) (chunker.Meta, []byte) {
	t.Helper()
	var buf bytes.Buffer
	w, err := chunker.NewWriter(&buf, chunker.Packets, chunker.Header{Node: node})
	if err != nil {
		t.Fatal(err)
	}
	eth := w.Interface(chunker.Interface{Name: "eth0", LinkType: 1})
	for i := range n {
		data := fmt.Appendf(nil, "packet %d of %s", i, node)
		err := w.Record(&chunker.Record{
			Time: at.UnixNano() + int64(i)*1e6, Interface: eth, OrigLen: uint32(len(data)), Data: data,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	m, err := w.Close(1)
	if err != nil {
		t.Fatal(err)
	}
	return m, buf.Bytes()
}

// eventsChunk is a real chunk of one event.
func eventsChunk(t testing.TB, at time.Time) (chunker.Meta, []byte) {
	t.Helper()
	var buf bytes.Buffer
	w, err := chunker.NewWriter(&buf, chunker.Kubernetes, chunker.Header{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Event(at.UnixNano(), fmt.Appendf(nil, `{"ts":"%d","kind":"Pod"}`, at.UnixNano())); err != nil {
		t.Fatal(err)
	}
	m, err := w.Close(0)
	if err != nil {
		t.Fatal(err)
	}
	return m, buf.Bytes()
}

// place puts an object of a session and returns its key.
func place(t testing.TB, s *Session, kind, ext string, b []byte) string {
	t.Helper()
	ctx := context.Background()
	key, err := s.Bring(ctx, objectOf(kind, b, ext), bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A built is a chunk with what an inventory says of it. Tests that lie change it.
type built struct {
	bytes []byte
	entry manifest.Entry
}

func build(m chunker.Meta, b []byte) built {
	sum := sha256.Sum256(b)
	return built{b, manifest.Entry{
		Size: m.Size, RawSize: m.RawSize, SHA256: hex.EncodeToString(sum[:]),
		First: manifest.Nanos(m.First), Last: manifest.Nanos(m.Last), Records: m.Records, Drops: m.Drops,
	}}
}

// stream puts chunks and their inventory.
func putStream(t testing.TB, s *Session, name string, chunks ...built) manifest.Stream {
	t.Helper()
	var entries []manifest.Entry
	for _, c := range chunks {
		c.entry.Key = place(t, s, manifest.KindChunk, chunker.Ext(name), c.bytes)
		entries = append(entries, c.entry)
	}
	b := manifest.EncodeInventory(entries)
	stream := manifest.SumInventory(name, entries)
	stream.Inventory = place(t, s, manifest.KindInventory, manifest.InventoryExt, b)
	stream.InventorySize = int64(len(b))
	return stream
}

// snapshotOptions let a test make a snapshot that lies.
type snapshotOptions struct {
	chunk    func(*built) // of a node
	event    func(*built) // of the cluster
	manifest func(*manifest.Manifest)
}

// putSnapshot makes snapshot n: two nodes with two chunks each, of which one is
// the same in all snapshots, and a stream of the cluster.
func putSnapshot(t testing.TB, a *Archive, n int, name string, opt snapshotOptions) *Snapshot {
	t.Helper()
	ctx := context.Background()
	s, err := a.Begin(ctx, testIntent(n, name))
	if err != nil {
		t.Fatal(err)
	}
	window := manifest.Interval{From: manifest.NanosOf(epoch), To: manifest.NanosOf(epoch.Add(time.Minute))}
	m := &manifest.Manifest{
		Format: manifest.Format, Version: manifest.Version,
		ID: s.Intent.ID, Name: name, Created: manifest.NanosOf(s.Intent.Created), Window: window,
		Status: manifest.Completed, Creator: manifest.Tool{Name: "pcapsule", Version: "test"},
	}
	for i, node := range []string{"node-a", "node-b"} {
		shared := build(packetsChunk(t, node, epoch, 2))
		own := build(packetsChunk(t, node, epoch.Add(time.Duration(10*n+i)*time.Second), 1))
		if i == 0 && opt.chunk != nil {
			opt.chunk(&own)
		}
		m.Nodes = append(m.Nodes, manifest.Node{
			Name: node, Status: manifest.Completed, Coverage: []manifest.Interval{window},
			Interfaces: []chunker.Interface{{Name: "eth0", LinkType: 1}},
			Streams:    []manifest.Stream{putStream(t, s, chunker.Packets, shared, own)},
		})
	}
	event := build(eventsChunk(t, epoch))
	if opt.event != nil {
		opt.event(&event)
	}
	m.Streams = []manifest.Stream{putStream(t, s, chunker.Kubernetes, event)}
	m.Coverage = []manifest.Interval{window}
	if opt.manifest != nil {
		opt.manifest(m)
	}
	m.SumUp()
	if err := s.Commit(ctx, m, testSigner); err != nil {
		t.Fatal(err)
	}
	snap, err := a.Load(ctx, s.Intent.ID)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// testTrust trusts testSigner.
func testTrust() *manifest.Trust {
	t := new(manifest.Trust)
	t.Add(testSigner.Public())
	return t
}

func newMemory(t testing.TB) (*storetest.Memory, *Archive) {
	mem := storetest.NewMemory(t, func() time.Time { return epoch })
	return mem, New(mem)
}

// set is for Memory.Damage.
func set(b []byte) func([]byte) []byte { return func([]byte) []byte { return b } }

// remove is for Memory.Damage.
func remove([]byte) []byte { return nil }

// flip is for Memory.Damage.
func flip(i int) func([]byte) []byte {
	return func(b []byte) []byte {
		b[i] ^= 0x10
		return b
	}
}
