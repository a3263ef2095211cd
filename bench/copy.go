//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"

	"pcapsule/tools"
)

// What a snapshot may take, in times of a plain copy of its chunks.
const copyTimes = 2

// agentUploads is how many chunks an agent sends at a time; so that a copy sends
// as many.
const agentUploads = 4

// copyNodes is how many agents record for the benchmark of copies.
const copyNodes = 2

// A copyResult is what copyInNamespace found: for each turn, the seconds of each
// contender.
type copyResult struct {
	Snapshot []float64
	Minimal  []float64
	Rclone   []float64
	Last     snapshotInfo
	Chunks   int     // of the last snapshot
	Kept     float64 // MiB of anonymous memory that an agent has after it, at the most
}

// copyChunks times snapshots beside plain copies of their chunks.
func copyChunks(ctx context.Context, b *bench) (s section, err error) {
	size := b.scaled(200e6)
	s.intro = fmt.Sprintf(`%d agents, each on an interface of its own, and a hub, over MinIO. In each turn they record %d MB each,
which nothing has stored before, and a snapshot of that is taken by a command whose start is counted: it cuts, hashes,
uploads %d chunks at a time an agent, verifies and signs. Then others copy the very same chunk objects, which are files
by then, into empty buckets of the same MinIO, %d at a time: a minimal program on minio-go, which hashes nothing, and
rclone. MinIO and all of them share the processors.`, copyNodes, size/1e6, agentUploads, copyNodes*agentUploads)
	s.columns = []string{"", "wall s", "MB/s", "times the faster copy"}
	if _, err := tools.Path(ctx, "minio"); err != nil { // which may have to be built, with the network
		return s, err
	}
	var r copyResult
	if err := b.recorded(ctx, &r, copyCommand, size); err != nil {
		return s, err
	}
	if min(len(r.Snapshot), len(r.Minimal), len(r.Rclone)) < b.runs {
		return s, errors.New("some turns are missing")
	}
	faster := r.Minimal
	if spreadOf(r.Rclone).median < spreadOf(r.Minimal).median {
		faster = r.Rclone
	}
	var times spread
	for _, c := range []struct {
		name string
		took []float64
	}{{"pcapsule snapshot create", r.Snapshot}, {"minimal copy", r.Minimal}, {"rclone copy", r.Rclone}} {
		ratio := ratios(c.took, faster)
		if c.name == "pcapsule snapshot create" {
			times = ratio
		}
		took := spreadOf(c.took)
		s.rows = append(s.rows, []string{c.name, took.String(), took.rate(float64(r.Last.Size) / 1e6).String(), ratio.String()})
	}
	s.notes = []string{fmt.Sprintf("The last snapshot: %d packets, %d MB, stored in %d chunks of %d MB together. Turn by turn it took %s times as long as rclone. Seconds later, an agent keeps at most %.1f MiB of anonymous memory.",
		r.Last.Records, r.Last.RawSize/1e6, r.Chunks, r.Last.Size/1e6, ratios(r.Snapshot, r.Rclone), r.Kept)}
	s.aims = []aim{atMost(fmt.Sprintf("snapshot of %d MB on each of %d nodes: times a plain copy of its chunks", size/1e6, copyNodes), times.median, copyTimes)}
	return s, nil
}

// ratios compares turn by turn.
func ratios(a, b []float64) spread {
	var all []float64
	for i := range a {
		all = append(all, a[i]/b[i])
	}
	return spreadOf(all)
}
