//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/zeebo/blake3"

	"pcapsule/internal/capfile"
)

const (
	mergeFactor = 3   // of mergecap's speed
	mergeMemory = 256 // MiB
)

// merge exports snapshots whose chunks overlap all the time, to nowhere, beside
// mergecap on the same chunk files.
func merge(ctx context.Context, b *bench) (s section, err error) {
	s.intro = `Each packet went to a node by chance, and each node's packets are one chunk, so that
all chunks overlap from their first packet to their last and the output hops from one
to another at nearly every packet: no merge is harder. MB/s are bytes of the pcapng
that pcapsule writes, for both; both were found to write the same packets in the same order.
Packets of all sizes are mostly encrypted and stored as they are: mergecap then does little
but copy, while pcapsule also verifies each chunk's address before it reads it.`
	s.columns = []string{"input", "program", "MB/s", "wall s", "CPU s", "peak MiB", "ratio"}
	for i := range b.traffics {
		t := &b.traffics[i]
		for _, size := range []struct {
			chunks int
			bytes  int64
		}{
			{16, 120 << 20},
			{800, 400 << 20},
		} {
			if err := mergeCase(ctx, b, &s, t, size.chunks, b.scaled(size.bytes)); err != nil {
				return s, err
			}
		}
	}
	return s, nil
}

func mergeCase(ctx context.Context, b *bench, s *section, t *traffic, chunks int, size int64) error {
	dir, err := os.MkdirTemp(b.work, "merge")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	say("%d chunks of %s", chunks, t)
	files, err := overlapping(ctx, b, dir, t, chunks, size)
	if err != nil {
		return err
	}
	export := []string{b.pcapsule, "snapshot", "pcap", "bench", "--store", filepath.Join(dir, "store"), "-w"}
	mergecap := []string{"mergecap", "-w"}
	if files, err = shortNames(dir, files); err != nil {
		return err
	}
	ours, theirs := filepath.Join(dir, "ours.pcapng"), filepath.Join(dir, "theirs.pcapng")
	if _, err := do(ctx, "", export[0], append(export[1:], ours)...); err != nil {
		return err
	}
	if _, err := do(ctx, dir, mergecap[0], append([]string{mergecap[1], theirs}, files...)...); err != nil {
		return err
	}
	packets, err := sameCapture(ctx, ours, theirs)
	if err != nil {
		return err
	}
	st, err := os.Stat(ours)
	if err != nil {
		return err
	}
	if err := errors.Join(os.Remove(ours), os.Remove(theirs)); err != nil {
		return err
	}

	r, err := byTurns(ctx, b.runs,
		contender{name: "pcapsule", args: append(export, os.DevNull)},
		contender{name: "mergecap", dir: dir, args: append(append(mergecap, os.DevNull), files...)})
	if err != nil {
		return err
	}
	ratio := r[1].wall().median / r[0].wall().median
	input := fmt.Sprintf("%d chunks, %s: %d packets, %d MB", chunks, t.name, packets, st.Size()/1e6)
	for i, name := range []string{"pcapsule", "mergecap"} {
		row := []string{input, name, r[i].wall().rate(float64(st.Size()) / 1e6).String(), r[i].wall().String(), r[i].cpu().String(), r[i].rss().String(), ""}
		if i == 0 {
			row[6] = fmt.Sprintf("%.1f", ratio)
		}
		s.rows = append(s.rows, row)
	}
	what := fmt.Sprintf("merge of %d chunks, %s", chunks, t.name)
	s.aims = append(s.aims,
		atLeast(what+": times mergecap's MB/s", ratio, mergeFactor),
		atMost(what+": peak MiB", r[0].rss().max, mergeMemory))
	return nil
}

// overlapping imports packets of t into a store in dir, spread over nodes of one
// chunk each, and returns the chunk files.
func overlapping(ctx context.Context, b *bench, dir string, t *traffic, chunks int, size int64) (files []string, err error) {
	var writers []*pcapWriter
	var opened []*os.File
	args := []string{"snapshot", "import", "bench", "--store", filepath.Join(dir, "store")}
	for i := range chunks {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("node-%03d.pcap", i)))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		defer os.Remove(f.Name())
		opened = append(opened, f)
		writers = append(writers, newPcapWriter(f))
		args = append(args, fmt.Sprintf("node-%03d=%s", i, f.Name()))
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	t.writeLoop(startTime, size, func() *pcapWriter { return writers[rnd.IntN(chunks)] })
	for i, w := range writers {
		if err := errors.Join(w.flush(), opened[i].Close()); err != nil {
			return nil, err
		}
	}
	if _, err := do(ctx, "", b.pcapsule, args...); err != nil {
		return nil, err
	}
	if files, err = chunkFiles(filepath.Join(dir, "store")); err != nil {
		return nil, err
	}
	if len(files) != chunks {
		return nil, fmt.Errorf("%d nodes have %d chunks, not one each", chunks, len(files))
	}
	return files, nil
}

// shortNames links files into dir and returns their names there. mergecap writes
// a comment of the names of its inputs, and a broken file when it gets longer
// than 64 KiB.
func shortNames(dir string, files []string) (names []string, err error) {
	for i, f := range files {
		name := fmt.Sprintf("%03d.pcapng.lz4", i)
		if err := os.Link(f, filepath.Join(dir, name)); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// chunkFiles are the chunks of a folder store.
func chunkFiles(store string) (files []string, err error) {
	err = filepath.WalkDir(filepath.Join(store, "chunks"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	return files, err
}

// sameCapture fails unless both files hold the same packets in the same order,
// and as many as capinfos counts in each.
func sameCapture(ctx context.Context, a, b string) (packets int64, err error) {
	var digests [2]captureDigest
	for i, name := range []string{a, b} {
		if digests[i], err = digest(name); err != nil {
			return 0, err
		}
		counted, bytes, err := capinfos(ctx, name)
		if err != nil {
			return 0, err
		}
		if counted != digests[i].packets || bytes != digests[i].bytes {
			return 0, fmt.Errorf("capinfos counts %d packets of %d bytes, and not %d of %d", counted, bytes, digests[i].packets, digests[i].bytes)
		}
	}
	if digests[0] != digests[1] {
		return 0, fmt.Errorf("pcapsule and its peer wrote different packets: %d of %d bytes, and %d of %d",
			digests[0].packets, digests[0].bytes, digests[1].packets, digests[1].bytes)
	}
	return digests[0].packets, nil
}

type captureDigest struct {
	packets, bytes int64
	hash           [32]byte // of all times, lengths and contents
}

func digest(name string) (d captureDigest, err error) {
	f, err := os.Open(name)
	if err != nil {
		return d, err
	}
	defer f.Close()
	r, err := capfile.NewReader(f)
	if err != nil {
		return d, fmt.Errorf("%s: %w", name, err)
	}
	h := blake3.New()
	var head []byte
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			h.Sum(d.hash[:0])
			return d, nil
		}
		if err != nil {
			return d, fmt.Errorf("%s: %w", name, err)
		}
		head = binary.LittleEndian.AppendUint64(head[:0], uint64(p.Time))
		head = binary.LittleEndian.AppendUint64(head, uint64(len(p.Data)))
		h.Write(head)
		h.Write(p.Data)
		d.packets++
		d.bytes += int64(len(p.Data))
	}
}
