package pcapgen

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"pcapsule/chunker"
	"pcapsule/cluster"
	"pcapsule/internal/capfile"
	"pcapsule/manifest"
	"pcapsule/store"
)

// BenchmarkExport exports the same chunk files with Export and with mergecap, to
// nowhere. PCAPGEN_CAPTURES names real captures to take the packets from; without
// it they are made up.
func BenchmarkExport(b *testing.B) {
	for _, n := range []int{16, 800} {
		s, files, total := benchSnapshot(b, n, 160<<20)
		b.Run(fmt.Sprintf("%d/pcapsule", n), func(b *testing.B) {
			b.SetBytes(total)
			for b.Loop() {
				if _, err := Export(b.Context(), io.Discard, s, Request{}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%d/mergecap", n), func(b *testing.B) {
			if _, err := exec.LookPath("mergecap"); err != nil {
				b.Skip(err)
			}
			b.SetBytes(total)
			for b.Loop() {
				cmd := exec.Command("mergecap", append([]string{"-w", "/dev/null"}, files...)...)
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
			}
		})
	}
}

// benchSnapshot has size bytes of packets, spread at random over n chunks, which
// overlap all the time.
func benchSnapshot(b *testing.B, n, size int) (s Source, files []string, total int64) {
	snap := newSnapshot(b)
	eth := ethernet("eth0")
	snap.node("node", eth)
	data := benchPackets(b)
	rnd := rand.New(rand.NewPCG(1, 2))

	bodies := make([]bytes.Buffer, n)
	writers := make([]*chunker.Writer, n)
	for i := range writers {
		w, err := chunker.NewWriter(&bodies[i], chunker.Packets, chunker.Header{Node: "node"})
		if err != nil {
			b.Fatal(err)
		}
		w.Interface(eth)
		writers[i] = w
	}
	for i := 0; size > 0; i++ {
		d := data[i%len(data)]
		size -= len(d) + 32
		r := chunker.Record{Time: t0 + int64(i)*1000, OrigLen: uint32(len(d)), Data: d}
		if err := writers[rnd.IntN(n)].Record(&r); err != nil {
			b.Fatal(err)
		}
	}

	dir := b.TempDir()
	folder, err := store.NewFolder(dir, store.FolderOptions{Create: true})
	if err != nil {
		b.Fatal(err)
	}
	for i, w := range writers {
		m, err := w.Close(0)
		if err != nil {
			b.Fatal(err)
		}
		key := manifest.ObjectKey{Kind: manifest.KindChunk, Hash: m.Hash, Ext: chunker.PacketsExt}.String()
		if err := folder.Put(b.Context(), key, store.Bytes(bodies[i].Bytes())); err != nil {
			b.Fatal(err)
		}
		files = append(files, filepath.Join(dir, key))
		snap.inventories["node"] = append(snap.inventories["node"], manifest.Entry{
			Key: key, Size: m.Size, RawSize: m.RawSize,
			First: manifest.Nanos(m.First), Last: manifest.Nanos(m.Last), Records: m.Records,
		})
	}
	s = snap.source()
	s.Store = folder
	stats, err := Export(b.Context(), io.Discard, s, Request{})
	if err != nil {
		b.Fatal(err)
	}
	return s, files, stats.Bytes
}

// benchPackets are the packets of real captures, or made up: sizes as they are
// in the wild, and contents of which half compress.
func benchPackets(b *testing.B) [][]byte {
	var out [][]byte
	for _, name := range filepath.SplitList(os.Getenv("PCAPGEN_CAPTURES")) {
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		r, err := capfile.NewReader(f)
		if err != nil {
			b.Fatal(err)
		}
		for {
			p, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			out = append(out, bytes.Clone(p.Data))
		}
	}
	if len(out) > 0 {
		return out
	}
	rnd := rand.NewChaCha8([32]byte{1})
	for i := range 10000 {
		d := make([]byte, []int{66, 74, 1514, 1514, 200, 590}[i%6])
		rnd.Read(d[len(d)/2:])
		out = append(out, d)
	}
	return out
}

// BenchmarkNames exports packets between 200 pods with names and events, and the
// same without.
func BenchmarkNames(b *testing.B) {
	snap := newSnapshot(b)
	eth := ethernet("eth0")
	snap.node("a", eth)
	rnd := rand.New(rand.NewPCG(1, 2))
	size := int64(0)
	for c := range 8 {
		var records []chunker.Record
		for i := range 20_000 {
			src, dst := rnd.IntN(200), rnd.IntN(200)
			payload := make([]byte, []int{24, 32, 1472, 1472, 158, 548}[i%6])
			for k := range payload[:len(payload)/2] {
				payload[k] = byte(rnd.Uint32())
			}
			records = append(records, ip(t0+int64(i)*1000_000+int64(c), 0, fmt.Sprintf("10.0.0.%d", src), fmt.Sprintf("10.0.0.%d", dst), payload))
			size += int64(len(payload)) + 42 + 32
		}
		snap.chunk("a", []chunker.Interface{eth}, records)
	}
	records := []cluster.Record{rec(-1000, cluster.OpKeyframe, cluster.Keyframe{Version: 1})}
	for i := range 200 {
		records = append(records, rec(-1000, cluster.OpState, podOf("shop", fmt.Sprintf("web-7d9f8c6b5-%05d", i), fmt.Sprint("u", i), fmt.Sprintf("10.0.0.%d", i), -10)))
	}
	records = append(records, rec(-1000, cluster.OpComplete, 200))
	snap.kubernetes(append(records, rec(100_000, cluster.OpAlive, nil))...)
	src := snap.source()
	src.Store = snap.folder(b.TempDir())
	for _, req := range []struct {
		name string
		Request
	}{
		{"plain", Request{Plain: true}},
		{"names", Request{}},
		{"pod", Request{Pods: []string{"*-00007"}}},
	} {
		b.Run(req.name, func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Export(b.Context(), io.Discard, src, req.Request); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
