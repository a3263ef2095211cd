//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

const (
	cutRate    = 600  // MB/s a core
	storedRate = 2000 // MB/s a core
)

// cut measures records in, hashed chunks on disk out, on one core.
func cut(ctx context.Context, b *bench) (s section, err error) {
	s.intro = `Package chunker's BenchmarkCut on one core (taskset, GOMAXPROCS=1): records in, hashed
chunks on disk out. MB/s count records as they are in the chunk before compression, as everywhere
here; packet MB/s leave out the header of 32 bytes that each has, and more per CPU second than per
second means that the disk was waited for. lz4 (blocks of 64 KiB, as in a chunk) and b3sum read the
same packets as one capture file, and only compress or only hash, for scale.`
	s.columns = []string{"packets", "program", "MB/s", "MB per CPU s", "packet MB/s", "stored/packet bytes"}
	captures := filepath.Join(b.work, "captures")
	if err := os.Mkdir(captures, 0o755); err != nil {
		return s, err
	}
	defer os.RemoveAll(captures)
	binary := filepath.Join(b.work, "chunker.test")
	if _, err := do(ctx, "", "go", "test", "-c", "-o", binary, "./chunker"); err != nil {
		return s, err
	}
	for i, name := range []string{"real", "mix"} {
		t := &b.traffics[i]
		file := filepath.Join(captures, name+".pcap")
		if err := t.writeFile(file); err != nil {
			return s, err
		}
		var blocks int64
		for _, f := range t.frames {
			blocks += blockSize(f)
		}
		headers := float64(blocks) / float64(t.bytes)
		for _, mode := range []struct {
			stored bool
			name   string
			want   float64
		}{
			{false, "pcapsule, compressed", cutRate},
			{true, "pcapsule, stored", storedRate},
		} {
			r, err := benchmarkCut(ctx, b, binary, captures, fmt.Sprintf("^BenchmarkCut$/^%s$/^stored=%v$", name, mode.stored))
			if err != nil {
				return s, err
			}
			rate := r.wall.times(headers)
			s.rows = append(s.rows, []string{t.name, mode.name, rate.String(), r.cpu.times(headers).String(), r.wall.String(), r.stored})
			s.aims = append(s.aims, atLeast(fmt.Sprintf("cutting, %s, %s: MB/s a core", t.name, mode.name), rate.median, mode.want))
		}
		long := filepath.Join(b.work, "long.pcap")
		bytes, err := t.writeLong(long, b.scaled(256<<20))
		if err != nil {
			return s, err
		}
		r, err := byTurns(ctx, b.runs,
			contender{name: "lz4", args: []string{"taskset", "-c", "0", "lz4", "-1", "-B4", "-BI", "-f", "-q", long, os.DevNull}},
			contender{name: "b3sum", args: []string{"taskset", "-c", "0", "b3sum", "--num-threads", "1", long}})
		if err != nil {
			return s, err
		}
		for i, name := range []string{"lz4 -1, for scale", "b3sum, for scale"} {
			s.rows = append(s.rows, []string{t.name, name, r[i].wall().rate(float64(bytes) / 1e6).String(), "", "", ""})
		}
	}
	return s, nil
}

// A cutResult is in MB of packet bytes.
type cutResult struct {
	wall   spread // MB/s
	cpu    spread // MB per CPU second
	stored string // bytes for each packet byte
}

var cutLine = regexp.MustCompile(`(?m)^BenchmarkCut/.*?([0-9.]+) MB/s.*?([0-9.]+) MB/cpu-s.*?([0-9.]+) stored/packet`)

// benchmarkCut runs one of the benchmarks in the test binary.
func benchmarkCut(ctx context.Context, b *bench, binary, captures, name string) (r cutResult, err error) {
	runs := strconv.Itoa(b.runs)
	_, out, err := contender{
		name: "BenchmarkCut",
		args: []string{"taskset", "-c", "0", binary, "-test.run", "^$", "-test.bench", name, "-test.count", runs, "-test.benchtime", "1s"},
		env:  []string{"GOMAXPROCS=1", "PCAPSULE_CAPTURES=" + captures, "TMPDIR=" + b.work},
	}.measure(ctx)
	if err != nil {
		return r, err
	}
	var wall, cpu []float64
	for _, m := range cutLine.FindAllStringSubmatch(out, -1) {
		w, werr := strconv.ParseFloat(m[1], 64)
		c, cerr := strconv.ParseFloat(m[2], 64)
		if err := errors.Join(werr, cerr); err != nil {
			return r, err
		}
		wall, cpu, r.stored = append(wall, w), append(cpu, c), m[3]
	}
	if len(wall) != b.runs {
		return r, fmt.Errorf("%s: %d results of %d: %s", name, len(wall), b.runs, out)
	}
	r.wall, r.cpu = spreadOf(wall), spreadOf(cpu)
	return r, nil
}
