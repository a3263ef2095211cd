//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

const disjointMemory = 64 // MiB

// disjoint exports a snapshot that is far larger than the memory it may take.
func disjoint(ctx context.Context, b *bench) (s section, err error) {
	s.intro = `One node, whose chunks follow one another. Small packets, which compress, and those of
all sizes, which hardly do, by turns. mergecap runs once, for comparison.`
	s.columns = []string{"input", "program", "MB/s", "wall s", "CPU s", "peak MiB"}
	dir, err := os.MkdirTemp(b.work, "disjoint")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dir)
	size := b.scaled(5e9)
	if free, err := freeSpace(dir); err != nil || free < size*5/4 {
		return s, fmt.Errorf("%s has %d MB free, and needs %d: %w", b.work, free/1e6, size*5/4/1e6, err)
	}
	store := filepath.Join(dir, "store")
	r, w := io.Pipe()
	go func() { w.CloseWithError(b.writeMix(w, size)) }()
	took, _, err := contender{name: "import", stdin: r, args: []string{b.pcapsule, "snapshot", "import", "bench", "node=-", "--store", store}}.measure(ctx)
	r.Close()
	if err != nil {
		return s, err
	}
	files, err := chunkFiles(store)
	if err != nil {
		return s, err
	}
	var stored int64
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			return s, err
		}
		stored += st.Size()
	}
	export := contender{name: "pcapsule", args: []string{b.pcapsule, "snapshot", "pcap", "bench", "--store", store, "-w", os.DevNull}}
	ours, err := byTurns(ctx, min(b.runs, 3), export)
	if err != nil {
		return s, err
	}
	say("mergecap on the same %d chunks, once", len(files))
	limited, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	theirs, _, err := contender{name: "mergecap", args: append([]string{"mergecap", "-w", os.DevNull}, files...)}.measure(limited)
	if err != nil {
		return s, err
	}
	input := fmt.Sprintf("%d MB, stored in %d chunks of %d MB in all", size/1e6, len(files), stored/1e6)
	row := func(name string, r samples) {
		s.rows = append(s.rows, []string{input, name, r.wall().rate(float64(size) / 1e6).String(), r.wall().String(), r.cpu().String(), r.rss().String()})
	}
	row("pcapsule", ours[0])
	row("mergecap", samples{theirs})
	row("pcapsule import, for scale", samples{took})
	s.aims = append(s.aims, atMost(fmt.Sprintf("export of %d MB that do not overlap: peak MiB", size/1e6), ours[0].rss().max, disjointMemory))
	return s, nil
}

// writeMix writes packets of all traffics by turns, until they take size bytes
// as pcapng.
func (b *bench) writeMix(w io.Writer, size int64) error {
	p := newPcapWriter(w)
	at := int64(startTime)
	for size > 0 {
		for i := range b.traffics {
			// As many bytes of each traffic a turn.
			turn := min(size, 64<<20)
			size -= turn
			at = b.traffics[i].writeLoop(at, turn, func() *pcapWriter { return p })
		}
	}
	return p.flush()
}
