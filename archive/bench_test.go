package archive

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

// benchSnapshot holds 16 chunks of 8 MiB of packets that half compress.
func benchSnapshot(b *testing.B) (*Archive, *Snapshot) {
	b.Helper()
	ctx := context.Background()
	_, a := newMemory(b)
	s, err := a.Begin(ctx, testIntent(1, "bench"))
	if err != nil {
		b.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	var chunks []built
	for i := range 16 {
		var buf bytes.Buffer
		w, err := chunker.NewWriter(&buf, chunker.Packets, chunker.Header{})
		if err != nil {
			b.Fatal(err)
		}
		eth := w.Interface(chunker.Interface{Name: "eth0", LinkType: 1})
		data := make([]byte, 1000)
		for at := epoch.UnixNano() + int64(i)*1e9; w.Size() < chunker.TargetSize; at++ {
			for j := 0; j < 500; j += 4 {
				data[j], data[j+1] = byte(rnd.Uint32()), byte(rnd.Uint32())
			}
			if err := w.Record(&chunker.Record{Time: at, Interface: eth, OrigLen: 1000, Data: data}); err != nil {
				b.Fatal(err)
			}
		}
		m, err := w.Close(0)
		if err != nil {
			b.Fatal(err)
		}
		chunks = append(chunks, build(m, buf.Bytes()))
	}
	window := manifest.Interval{From: manifest.NanosOf(epoch), To: manifest.NanosOf(epoch.Add(time.Minute))}
	m := &manifest.Manifest{
		Format: manifest.Format, Version: manifest.Version,
		ID: s.Intent.ID, Name: s.Intent.Name, Created: window.From, Window: window,
		Status: manifest.Completed, Creator: manifest.Tool{Name: "pcapsule"},
		Nodes: []manifest.Node{{
			Name: "node-a", Status: manifest.Completed, Coverage: []manifest.Interval{window},
			Interfaces: []chunker.Interface{{Name: "eth0", LinkType: 1}},
			Streams:    []manifest.Stream{putStream(b, s, chunker.Packets, chunks...)},
		}},
	}
	m.SumUp()
	if err := s.Commit(ctx, m, testSigner); err != nil {
		b.Fatal(err)
	}
	snap, err := a.Load(ctx, s.Intent.ID)
	if err != nil {
		b.Fatal(err)
	}
	return a, snap
}

func BenchmarkVerify(b *testing.B) {
	a, snap := benchSnapshot(b)
	b.SetBytes(snap.Manifest.Totals.RawSize)
	b.ReportAllocs()
	for b.Loop() {
		r, err := a.Verify(context.Background(), VerifyOptions{})
		if err != nil || !r.OK() {
			b.Fatal(r, err)
		}
	}
}

func BenchmarkWriteTar(b *testing.B) {
	a, snap := benchSnapshot(b)
	b.SetBytes(snap.Manifest.Totals.Size)
	b.ReportAllocs()
	for b.Loop() {
		if err := a.WriteTar(context.Background(), io.Discard, snap, nil); err != nil {
			b.Fatal(err)
		}
	}
}
