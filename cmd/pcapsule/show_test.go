package main

import (
	"math"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
)

// TestShowCluster: what `show` says of the stream of a cluster.
func TestShowCluster(t *testing.T) {
	const s = manifest.Nanos(1e9)
	stream := manifest.Stream{Stream: chunker.Kubernetes, Totals: manifest.Totals{Chunks: 2, Size: 3000, Records: 1234}}
	window := manifest.Interval{From: 0, To: 100 * s}
	gap := manifest.Gap{Stream: chunker.Kubernetes, Reason: manifest.GapNotRunning, From: 40 * s, To: 55 * s}
	for name, test := range map[string]struct {
		m            manifest.Manifest
		wants, never []string
	}{
		"no cluster": {
			manifest.Manifest{},
			[]string{"no gaps"}, []string{"STREAM", "kubernetes"},
		},
		"all of the window": {
			manifest.Manifest{Streams: []manifest.Stream{stream}, Coverage: []manifest.Interval{window}},
			[]string{"kubernetes", "1,234", "the window", "no gaps"}, []string{"note:"},
		},
		"a gap": {
			manifest.Manifest{Streams: []manifest.Stream{stream}, Coverage: []manifest.Interval{{From: 0, To: 40 * s}, {From: 55 * s, To: 100 * s}}, Gaps: []manifest.Gap{gap}},
			[]string{"all but 15s", "not-running", "(cluster)", "note:", "no agent followed the cluster then"}, []string{"no gaps"},
		},
		"nothing": {
			manifest.Manifest{Gaps: []manifest.Gap{gap}},
			[]string{"nothing of stream kubernetes", "(cluster)"}, []string{"STREAM"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			test.m.Window = window
			var out strings.Builder
			if err := writeManifest(cli.NewContext(&cli.App{Writer: &out}, nil, nil), &test.m, api.Of(&test.m), "7"); err != nil {
				t.Fatal(err)
			}
			for _, want := range test.wants {
				if !strings.Contains(out.String(), want) {
					t.Errorf("it does not say %q:\n%s", want, out.String())
				}
			}
			for _, never := range test.never {
				if strings.Contains(out.String(), never) {
					t.Errorf("it says %q:\n%s", never, out.String())
				}
			}
		})
	}
}

// TestShowCapture: what `show` says of what was to be recorded.
func TestShowCapture(t *testing.T) {
	const s = manifest.Nanos(1e9)
	window := manifest.Interval{From: 100 * s, To: 200 * s}
	capture := func(from, to manifest.Nanos, what manifest.Selection) manifest.Capture {
		return manifest.Capture{From: from, To: to, Selection: what}
	}
	own := manifest.Selection{Excluded: []string{"its own"}}
	pods := manifest.Selection{
		Interfaces: []string{"eth0"}, Excluded: []string{"its own", "no\x1btarget"}, Filter: "tcp", Abridged: true,
		Targets: &manifest.Targets{Regex: "^front", Namespaces: []string{"shop"}, Excluded: []string{"dev"}},
	}
	m := manifest.Manifest{Window: window, Nodes: []manifest.Node{
		{Name: "a", Capture: []manifest.Capture{capture(100*s, 200*s, own)}},
		{Name: "b", Clock: manifest.Clock{Offset: 5 * s}, Capture: []manifest.Capture{capture(105*s, 205*s, own)}},
		{Name: "c", Capture: []manifest.Capture{capture(150*s, 200*s, pods)}},
		{Name: "d"},
	}}
	var out strings.Builder
	if err := writeManifest(cli.NewContext(&cli.App{Writer: &out}, nil, nil), &m, api.Of(&m), "7"); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{
		"all interfaces", "a, b\n", "eth0 (abridged)", "named ^front, in shop, not in dev", "tcp", exact((150 * s).Time()),
		"\nleft out on purpose: its own\n", "left out on purpose: no", "target (c)\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q:\n%s", want, text)
		}
	}
	if strings.Count(text, "all interfaces") != 1 || strings.Contains(text, "\x1b") {
		t.Errorf("alike nodes are not together, or a terminal is told what to do:\n%q", text)
	}
}

// TestInWindow estimates how many packets of a chunk lie in a window.
func TestInWindow(t *testing.T) {
	w := manifest.Interval{From: 100, To: 200}
	for _, tt := range []struct {
		first, last   manifest.Nanos
		records, want uint64
	}{
		{100, 199, 7, 7}, {0, 99, 7, 0}, {200, 300, 7, 0}, {50, 149, 100, 50}, {0, 999, 1000, 100}, {150, 150, 3, 3}, {199, 200, 2, 1},
		{0, math.MaxInt64, 1 << 50, 0},
	} {
		if got := inWindow(manifest.Entry{First: tt.first, Last: tt.last, Records: tt.records}, w); got != tt.want {
			t.Errorf("%d packets from %d to %d: %d, want %d", tt.records, tt.first, tt.last, got, tt.want)
		}
	}
}
