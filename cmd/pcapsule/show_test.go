package main

import (
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
			if err := writeManifest(cli.NewContext(&cli.App{Writer: &out}, nil, nil), &test.m, api.Of(&test.m)); err != nil {
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
