//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
)

// captured is a line of bench/capture's output.
type captured struct {
	Traffic  string  `json:"traffic"`
	Program  string  `json:"program"`
	Packets  int     `json:"packets"`
	Rate     float64 `json:"packets_per_second"`
	Lost     int     `json:"lost"`
	Lossless int     `json:"lossless_runs"`
	Runs     int     `json:"runs"`
	CPU      float64 `json:"cpu_seconds_per_million_packets"`
	LeastCPU float64 `json:"least_cpu_seconds_per_million_packets"`
	MostCPU  float64 `json:"most_cpu_seconds_per_million_packets"`
	User     float64 `json:"user_seconds_per_million_packets"`
	RSS      int64   `json:"max_rss_bytes"`
	Stored   int64   `json:"stored_bytes"`
}

// capture lets all programs capture the same packets at the highest rate that
// dumpcap holds. bench/capture does it.
func capture(ctx context.Context, b *bench) (s section, err error) {
	s.intro = `Over a veth pair in a network namespace, at the highest rate up to which dumpcap loses
nothing, or else the highest at which this machine sends. pcapsule captures, cuts, compresses, hashes
and writes its ring; the others only write what they see. CPU is that of the capturing process.`
	s.columns = []string{"packets", "program", "packets/s", "lost", "CPU s per million packets", "of it in user space", "peak MiB", "stored MB"}
	binary := filepath.Join(b.work, "capture")
	if _, err := do(ctx, "", "go", "build", "-o", binary, "./bench/capture"); err != nil {
		return s, err
	}
	file := filepath.Join(b.work, "mix.pcap")
	if err := b.traffics[1].writeFile(file); err != nil {
		return s, err
	}
	count := 600_000
	if b.quick {
		count = 50_000
	}
	_, out, err := contender{name: "bench/capture", args: []string{
		binary, "-pcap", file, "-runs", strconv.Itoa(b.runs), "-count", strconv.Itoa(count), "-dir", b.work,
	}}.measure(ctx)
	if err != nil {
		return s, err
	}
	byTraffic := map[string]map[string]captured{}
	var order []string
	for dec := json.NewDecoder(strings.NewReader(out)); ; {
		var c captured
		if err := dec.Decode(&c); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return s, fmt.Errorf("read what bench/capture found: %w", err)
		}
		if byTraffic[c.Traffic] == nil {
			byTraffic[c.Traffic] = map[string]captured{}
			order = append(order, c.Traffic)
		}
		byTraffic[c.Traffic][c.Program] = c
		s.rows = append(s.rows, []string{
			c.Traffic, c.Program, number(c.Rate), fmt.Sprintf("%d in %d of %d runs", c.Lost, c.Runs-c.Lossless, c.Runs),
			spread{c.LeastCPU, c.CPU, c.MostCPU}.String(), number(c.User), fmt.Sprint(c.RSS >> 20), fmt.Sprint(c.Stored / 1e6),
		})
	}
	for _, name := range order {
		ours, dumpcap := byTraffic[name]["pcapsule"], byTraffic[name]["dumpcap"]
		if ours.Runs == 0 || dumpcap.Runs == 0 {
			return s, fmt.Errorf("bench/capture told nothing of pcapsule or dumpcap with %s", name)
		}
		s.aims = append(s.aims,
			atMost(fmt.Sprintf("capture of %s: packets lost in %d runs of %d (dumpcap: %d)", name, ours.Runs, ours.Packets, dumpcap.Lost), float64(ours.Lost), 0),
			atMost(fmt.Sprintf("capture of %s: CPU seconds per million packets, against dumpcap's", name), ours.CPU, dumpcap.CPU))
	}
	return s, nil
}
