//go:build linux

package ring

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

// faults makes operations on the disk fail.
type faults struct {
	mu   sync.Mutex
	on   bool
	op   string
	err  error
	some bool // one in three, and not all
	asks int
	hits int
}

func (f *faults) fault(op, path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.on || op != f.op {
		return nil
	}
	if f.asks++; f.some && f.asks%3 != 0 {
		return nil
	}
	f.hits++
	return &os.PathError{Op: op, Path: path, Err: f.err}
}

func (f *faults) set(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on = on
}

// TestFaults lets each operation on the disk fail while a cutter writes. Nothing
// may fail but what the cutter is told, every record is in the ring, evicted or
// counted, and when the disk works again so does the ring.
func TestFaults(t *testing.T) {
	for _, op := range []string{"create", "allocate", "write", "sync", "rename", "remove", "replace"} {
		for _, err := range []error{syscall.EIO, syscall.ENOSPC} {
			for _, some := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%v/some=%v", op, err, some), func(t *testing.T) {
					testFault(t, &faults{op: op, err: err, some: some})
				})
			}
		}
	}
}

func testFault(t *testing.T, f *faults) {
	dir := t.TempDir()
	now := start
	opt := testOptions()
	var clock atomic.Int64 // each look at it is a second later, so that the ledger is saved often
	opt.Now = func() time.Time { return time.Unix(0, start).Add(time.Hour + time.Duration(clock.Add(1))*time.Second) }
	r := open(t, dir, opt)
	r.disk.fault = f.fault
	r.Begin(chunker.Packets, now)
	var lost uint64
	cut := chunker.NewCutter(chunker.CutterConfig{
		Stream: chunker.Packets, TargetSize: 40_000,
		OnLost: func(n uint64, first, last int64, err error) {
			lost += n
			r.AddGap(Gap{Stream: chunker.Packets, Reason: Reason(err), From: manifest.Nanos(first), To: manifest.Nanos(last) + 1, Count: n})
		},
	}, r)
	cut.SetStored(true)
	id := cut.Interface(eth0)
	data := make([]byte, 1000)
	record := func(n int) {
		for range n {
			now += 1000
			fill(data, uint64(now))
			if err := cut.Add(&chunker.Record{Time: now, Interface: id, OrigLen: 1000, Data: data}); err != nil {
				t.Fatal(err)
			}
		}
		if err := cut.Cut(); err != nil {
			t.Fatal(err)
		}
		if err := r.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.Flushed(chunker.Packets, now)
	}
	record(200)
	before := r.Sealed()
	f.set(true)
	// Less than what has room, so that nothing is evicted but for the faults.
	for range 10 {
		record(30)
	}
	f.set(false)
	if f.hits == 0 && f.op != "remove" {
		t.Error("nothing failed")
	}
	record(100)

	after := map[chunker.Hash]bool{}
	var there uint64
	for _, c := range r.Sealed() {
		after[c.Hash] = true
		there += c.Records
	}
	evicted := r.state.Evicted[chunker.Packets]
	for _, c := range before {
		if !after[c.Hash] && manifest.Nanos(c.Last) > evicted {
			t.Errorf("chunk of %d to %d is gone, and not evicted", c.First, c.Last)
		}
	}
	var gone uint64
	for _, g := range r.Ledger(chunker.Packets, start, now+1).Gaps {
		gone += g.Count
	}
	if total := uint64(200 + 10*30 + 100); evicted == 0 && there+gone != total {
		t.Errorf("%d records were written: %d are there, and gaps count %d", total, there, gone)
	}
	if gone < lost {
		t.Errorf("%d records were lost, and gaps count %d", lost, gone)
	}
	if last := r.Sealed()[len(r.Sealed())-1].Last; last != now {
		t.Errorf("what came after the faults is not there: %d of %d", last, now)
	}
	checkAll(t, r)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = open(t, dir, opt)
	checkAll(t, r)
	if used, disk := r.Usage().Used, diskUsage(t, dir); used != disk {
		t.Errorf("%d bytes are said to be used, %d are", used, disk)
	}
	left, err := os.ReadDir(filepath.Join(dir, openDir))
	if err != nil || len(left) > 0 {
		t.Errorf("open parts are left over: %v, %v", left, err)
	}
}
