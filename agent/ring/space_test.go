//go:build linux

package ring

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

const spaceEnv = "PCAPSULE_RING_TMPFS"

// TestFileSystemFull runs in a process with a mount namespace of its own, on a
// file system that is much smaller than the ring's limit.
func TestFileSystemFull(t *testing.T) {
	dir := os.Getenv(spaceEnv)
	if dir == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFileSystemFull$", "-test.v")
		cmd.Env = append(os.Environ(), spaceEnv+"="+t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		if os.Getuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, syscall.EPERM) && os.Getuid() != 0 {
			t.Skip("needs root, or user namespaces")
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatalf("make mounts private: %v", err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	}()
	opt := testOptions()
	opt.Limit = 64 << 20
	r := open(t, dir, opt)
	r.Begin(chunker.Packets, start)
	at := start
	next := func() int64 { at += 1_000_000; return at }

	// The file system, not the limit, makes the oldest go.
	for range 100 {
		mustPut(t, r, next(), 40_000)
	}
	n := len(r.Sealed())
	if n < 10 || n > 25 {
		t.Errorf("%d chunks are there", n)
	}
	if r.Usage().Oldest <= start {
		t.Error("nothing was evicted")
	}
	r.Flushed(chunker.Packets, at)
	if l := r.Ledger(chunker.Packets, start, at); len(l.Gaps) != 1 || l.Gaps[0].Reason != manifest.GapEvicted || l.Gaps[0].Detail != crowdedDetail {
		t.Errorf("what went since the disk was full is told as %+v", l.Gaps)
	}

	// Somebody else fills the disk, and the ring gives way.
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 0; size < 300<<10; {
		n, err := f.Write(make([]byte, 16<<10))
		size += n
		if err != nil && !noSpace(err) {
			t.Fatal(err)
		}
		mustPut(t, r, next(), 40_000)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if m := len(r.Sealed()); m >= n {
		t.Errorf("%d chunks are there on a disk that holds less", m)
	}

	// When all is pinned, what comes is lost, and counted.
	if _, err := r.Pin("s", 0, 1<<62, opt.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	var lost uint64
	var why error
	cut := chunker.NewCutter(chunker.CutterConfig{
		Stream: chunker.Packets, TargetSize: 40_000, OnLost: func(n uint64, _, _ int64, err error) { lost, why = lost+n, err },
	}, r)
	cut.SetStored(true)
	id := cut.Interface(eth0)
	data := make([]byte, 1000)
	record := func() {
		for range 100 {
			at += 1000
			fill(data, uint64(at))
			if err := cut.Add(&chunker.Record{Time: at, Interface: id, OrigLen: 1000, Data: data}); err != nil {
				t.Fatal(err)
			}
		}
		if err := cut.Cut(); err != nil {
			t.Fatal(err)
		}
	}
	pinned := len(r.Sealed())
	for range 10 {
		record()
	}
	if lost == 0 || Reason(why) != manifest.GapDiskFull {
		t.Errorf("lost %d records for %v", lost, why)
	}
	if err := r.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.Sealed(); len(got) < pinned {
		t.Errorf("%d of %d pinned chunks are left", len(got), pinned)
	}

	// With room, all is as before.
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	lost = 0
	record()
	if lost > 0 {
		t.Errorf("with room on the disk %d records are lost: %v", lost, why)
	}
	if err := r.Unpin("s"); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		mustPut(t, r, next(), 40_000)
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
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// mustPutOf is mustPut for any stream.
func mustPutOf(t *testing.T, r *Ring, stream string, first int64, size int) {
	t.Helper()
	if stream == chunker.Packets {
		mustPut(t, r, first, size)
		return
	}
	p, err := r.Create(stream)
	if err != nil {
		t.Fatal(err)
	}
	w, err := chunker.NewWriter(p, stream, chunker.Header{Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	w.SetStored(true)
	data := make([]byte, 500)
	for n := 0; n*1000 < size; n++ {
		at := first + int64(n)*1000
		fill(data, uint64(at))
		if err := w.Event(at, fmt.Appendf(nil, `{"ts":"%d","x":"%x"}`, at, data)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := w.Close(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Seal(m), r.Drain(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// A flood of one stream drives out no other beyond its share, whichever it is.
func TestFloods(t *testing.T) {
	for _, tc := range []struct{ flood, quiet string }{
		{chunker.Packets, chunker.Kubernetes},
		{chunker.Kubernetes, chunker.Packets},
		{chunker.OS, chunker.Packets},
	} {
		t.Run(tc.flood, func(t *testing.T) {
			dir := t.TempDir()
			opt := testOptions()
			r := open(t, dir, opt)
			for i := range int64(4) {
				mustPutOf(t, r, tc.quiet, start+i*1_000_000_000, 20_000)
			}
			for i := range int64(100) {
				mustPutOf(t, r, tc.flood, start+(10+i)*1_000_000_000, 20_000)
				if used := diskUsage(t, dir); used > testLimit {
					t.Fatalf("%d bytes of %d are used", used, testLimit)
				}
			}
			if _, gone := r.Since(tc.quiet); gone {
				t.Errorf("a flood of %s drove out %s", tc.flood, tc.quiet)
			}
			if from, gone := r.Since(tc.flood); !gone || from.UnixNano() <= start+10_000_000_000 {
				t.Errorf("nothing of the flood of %s went: it reaches back to %s", tc.flood, from)
			}
		})
	}

	// What was never recycled reaches back to when it was begun.
	r := open(t, t.TempDir(), testOptions())
	if from, full := r.Since(chunker.Packets); !from.IsZero() || full {
		t.Errorf("a ring of nothing reaches back to %s, full: %v", from, full)
	}
	r.Begin(chunker.Packets, start)
	r.Begin(chunker.Packets, start+5)
	if from, full := r.Since(chunker.Packets); from.UnixNano() != start || full {
		t.Errorf("a ring that was begun at %d reaches back to %d, full: %v", start, from.UnixNano(), full)
	}

	// Both at once: each keeps its newest, and the events no more than their share.
	dir := t.TempDir()
	opt := testOptions()
	r = open(t, dir, opt)
	for i := range int64(200) {
		mustPutOf(t, r, chunker.Kubernetes, start+i*1_000_000_000, 20_000)
		mustPutOf(t, r, chunker.Packets, start+i*1_000_000_000, 20_000)
	}
	bytes := map[string]int64{}
	for _, c := range r.Sealed() {
		bytes[c.Stream] += onDisk(c.Size)
	}
	share := int64(testLimit / shareOf)
	if got := bytes[chunker.Kubernetes]; got > share+testPart || got < share-testPart {
		t.Errorf("%d bytes of kubernetes are in the ring, and its share is %d", got, share)
	}
	if got := bytes[chunker.Packets]; got < testLimit-share-4*testPart {
		t.Errorf("%d bytes of packets are in the ring of %d", got, testLimit)
	}
	// Opened again, the ring knows what each stream has.
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = open(t, dir, opt)
	for i := range int64(100) {
		mustPutOf(t, r, chunker.Packets, start+(300+i)*1_000_000_000, 20_000)
	}
	after := int64(0)
	for _, c := range r.Sealed() {
		if c.Stream == chunker.Kubernetes {
			after += onDisk(c.Size)
		}
	}
	if after < min(share, bytes[chunker.Kubernetes])-testPart {
		t.Errorf("%d bytes of kubernetes are left of %d", after, bytes[chunker.Kubernetes])
	}
}

// TestKeepFree: a ring leaves what it is told to others on its volume, and goes on
// when they take that too.
func TestKeepFree(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	opt := testOptions()
	opt.Limit, opt.KeepFree = 64<<20, 512<<10
	r := open(t, filepath.Join(dir, "ring"), opt)
	r.Begin(chunker.Packets, start)
	at := start
	record := func() {
		for range 100 {
			at += 1_000_000
			mustPut(t, r, at, 40_000)
		}
	}
	record()
	if free, err := freeSpace(dir); err != nil || free < opt.KeepFree-(64<<10) {
		t.Errorf("%d bytes are free, %v", free, err)
	}
	if len(r.Sealed()) < 10 {
		t.Errorf("%d chunks are there", len(r.Sealed()))
	}
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 900<<10), 0o600); err != nil {
		t.Log(err) // as much as fits
	}
	record()
	if r.Usage().Used < opt.KeepFree/2 {
		t.Errorf("the ring gave way to %d bytes", r.Usage().Used)
	}
}
