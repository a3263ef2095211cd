package api

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pcapsule/manifest"
)

// TestGapsOfParts: what was recorded between gaps is not said to be missing, and
// neither is the second of which a gap is a part, whatever the reason of the gaps.
func TestGapsOfParts(t *testing.T) {
	const ms = manifest.Nanos(time.Millisecond)
	at := func(gaps ...manifest.Nanos) (list []manifest.Interval) { // from, to, from, to, in ms
		for pair := range slices.Chunk(gaps, 2) {
			list = append(list, manifest.Interval{From: pair[0] * ms, To: pair[1] * ms})
		}
		return list
	}
	var restarts []manifest.Nanos
	for i := range manifest.Nanos(12) {
		restarts = append(restarts, i*1200+300, i*1200+725)
	}
	window := manifest.Interval{From: 0, To: 100_000 * ms}
	kinds := []string{
		manifest.GapUnreachable, manifest.GapEvicted, manifest.GapNotRunning, manifest.GapInterfaceGone, manifest.GapRingOverrun, manifest.GapDiskFull,
		manifest.GapDamaged, manifest.GapWatchLost, manifest.GapKernelDrop, manifest.GapInterfaceDown, manifest.GapClockStep, manifest.GapOverShare, "new-reason",
	}
	for name, test := range map[string]struct {
		at   []manifest.Interval
		want string
	}{
		"restarts":        {at(restarts...), "1970-01-01 00:00:00–00:00:14 UTC in parts (12 gaps, 5.1 s in all) "},
		"not sorted":      {at(2500, 3000, 1000, 2000), "1970-01-01 00:00:01–00:00:03 UTC in parts (2 gaps, 1.5 s in all) "},
		"one inside":      {at(1000, 9000, 2000, 3000), "1970-01-01 00:00:01–00:00:09 UTC "},
		"touching":        {at(1000, 2000, 2000, 3000), "1970-01-01 00:00:01–00:00:03 UTC "},
		"short":           {at(1300, 1700), "1970-01-01 00:00:01–00:00:02 UTC in part (0.4 s) "},
		"very short":      {at(1999, 2001), "1970-01-01 00:00:01–00:00:03 UTC in part (2 ms) "},
		"nearly whole":    {at(1100, 5900), "1970-01-01 00:00:01–00:00:06 UTC "},
		"apart":           {at(0, 2000, 5000, 5100, 5200, 5400), "1970-01-01 00:00:00–00:00:02 UTC, 1970-01-01 00:00:05–00:00:06 UTC in parts (2 gaps, 0.3 s in all) "},
		"cut by a window": {at(-5000, 1000, 1500, 200_000), "1970-01-01 00:00:00–00:01:40 UTC in parts (2 gaps, 1m40s in all) "},
	} {
		for _, kind := range kinds {
			var gaps []manifest.Gap
			for _, i := range test.at {
				gaps = append(gaps, manifest.Gap{From: i.From, To: i.To, Reason: kind, Count: 1})
			}
			reasons, warnings := Explain(gaps, window, FlagWords)
			said := strings.ReplaceAll(strings.Join(append(reasons, warnings...), "\n"), ":", " ")
			if want := strings.ReplaceAll(test.want, ":", " "); !strings.Contains(said, want) {
				t.Errorf("%s, %s: %q, want %q", name, kind, said, want)
			}
			if said := strings.ReplaceAll(strings.Join(explainCluster(gaps, window), "\n"), ":", " "); !strings.Contains(said, strings.ReplaceAll(test.want, ":", " ")) {
				t.Errorf("%s, %s, of the cluster: %q, want %q", name, kind, said, test.want)
			}
		}
	}
	points := at(1000, 1000, 1500, 1500)
	if got := (&gapSum{at: points}).when(); got != " 1970-01-01 00:00:01–00:00:02 UTC" {
		t.Errorf("points: %q", got)
	}
	if got := (&gapSum{at: at(0, 1000, 3000, 4000, 6000, 7000, 9000, 9100)}).when(); !strings.HasSuffix(got, "00:00:06–00:00:07 UTC and 1 time more") {
		t.Errorf("four times: %q", got)
	}
	ends := []manifest.Interval{{From: manifest.MinNanos, To: 0}, {From: 500 * ms, To: manifest.MaxNanos}}
	if got := (&gapSum{at: ends}).when(); !strings.Contains(got, "in parts (2 gaps, ") {
		t.Errorf("all of time but a moment: %q", got)
	}
}
