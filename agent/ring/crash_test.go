//go:build linux

package ring

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

// The writer of TestKill: two workers, each with a record every step. Its clock
// runs fast, so that the ledger is saved many times before it dies.
const (
	crashEnv     = "PCAPSULE_RING_WRITER"
	crashWorkers = 2
	crashStep    = int64(20 * time.Microsecond) // of real time, between records of a worker
	crashSpeed   = 20                           // of the writer's clock
)

// crashClock is that of a writer that began at real time began with time base.
func crashClock(began time.Time, base int64) func() time.Time {
	return func() time.Time { return time.Unix(0, base+crashSpeed*int64(time.Since(began))) }
}

// writer records until it is killed, and says on standard output what is durable.
func writer(dir string, base int64) error {
	now := crashClock(time.Now(), base)
	opt := testOptions()
	opt.Now = now
	r, err := Open(dir, opt)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	r.Begin(chunker.Packets, base)
	flushed := make([]int64, crashWorkers)
	var fmu sync.Mutex
	for worker := range crashWorkers {
		go func() {
			cut := chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Packets, TargetSize: 30_000}, r)
			id := cut.Interface(eth0)
			data := make([]byte, 200)
			ticked := base
			for next := base; ; {
				at := now().UnixNano()
				for ; next < at; next += crashSpeed * crashStep {
					fill(data, uint64(next))
					binary.BigEndian.PutUint64(data, uint64(worker))
					rec := chunker.Record{Time: next, Interface: id, OrigLen: 200, Data: data}
					if err := cut.Add(&rec); err != nil {
						say("error %v", err)
					}
				}
				if err := cut.Tick(next); err != nil {
					say("error %v", err)
				}
				fmu.Lock()
				flushed[worker] = ticked
				through := min(flushed[0], flushed[1])
				fmu.Unlock()
				r.Flushed(chunker.Packets, through)
				say("flushed %d %d", worker, ticked)
				ticked = next
			}
		}()
	}
	for i := 0; ; i++ {
		for _, c := range r.Sealed() {
			name, _ := fileName(c.Meta)
			say("sealed %s", name)
		}
		if list := r.Sealed(); i%20 == 10 && len(list) > 0 {
			from := list[len(list)/2].First
			p, err := r.Pin(fmt.Sprint(i), from, from+1, now().Add(time.Hour))
			if err != nil {
				say("error %v", err)
				continue
			}
			names := ""
			for _, c := range p.Chunks {
				name, _ := fileName(c.Meta)
				names += " " + name
			}
			say("pinned %d%s", i, names)
		}
		if i%20 == 0 && i > 0 {
			say("unpin %d", i-10)
			if err := r.Unpin(fmt.Sprint(i - 10)); err != nil {
				say("error %v", err)
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// TestKill kills a writer again and again, at any moment of sealing, evicting
// and saving, and holds what the next one finds against what it had said.
func TestKill(t *testing.T) {
	if spec := os.Getenv(crashEnv); spec != "" {
		dir, base, _ := strings.Cut(spec, "|")
		var at int64
		if _, err := fmt.Sscan(base, &at); err != nil {
			t.Fatal(err)
		}
		t.Fatal(writer(dir, at))
	}
	dir := t.TempDir()
	rounds := 25
	if testing.Short() {
		rounds = 5
	}
	for i := range rounds {
		base := start + int64(i)*int64(time.Hour)
		said := killed(t, dir, base, time.Duration(rand.IntN(300))*time.Millisecond)
		opt := testOptions()
		opt.Now = func() time.Time { return time.Unix(0, base).Add(time.Minute) }
		r, err := Open(dir, opt)
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		checkAll(t, r)
		said.check(t, r, base)
		for _, s := range r.Pins() {
			if err := r.Unpin(s); err != nil {
				t.Error(err)
			}
		}
		// Half of the time the next one meets an orderly end, too.
		if i%2 == 0 {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		} else {
			close(r.closed)
			<-r.done
			r.lock.Close()
		}
		if t.Failed() {
			t.Fatalf("in round %d", i)
		}
	}
}

// account is what a writer said before it was killed.
type account struct {
	sealed  map[string]bool // before it began, too
	flushed [crashWorkers]int64
	pinned  map[string][]string
	errors  []string
}

// killed runs a writer for a while, and kills it.
func killed(t *testing.T, dir string, base int64, after time.Duration) account {
	t.Helper()
	a := account{sealed: map[string]bool{}, pinned: map[string][]string{}}
	old, err := os.ReadDir(filepath.Join(dir, chunker.Packets))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range old {
		a.sealed[e.Name()] = true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%d", crashEnv, dir, base))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	lines := bufio.NewReaderSize(out, 1<<20)
	for {
		line, err := lines.ReadString('\n')
		if err != nil { // a line without its end was not said
			if err != io.EOF && !errors.Is(err, os.ErrClosed) {
				t.Error(err)
			}
			break
		}
		a.hear(line)
	}
	_ = cmd.Wait() // killed
	return a
}

func (a *account) hear(line string) {
	f := strings.Fields(line)
	switch f[0] {
	case "sealed":
		a.sealed[f[1]] = true
	case "flushed":
		var worker int
		var at int64
		if _, err := fmt.Sscan(f[1], &worker); err == nil {
			if _, err := fmt.Sscan(f[2], &at); err == nil {
				a.flushed[worker] = at
			}
		}
	case "pinned":
		a.pinned[f[1]] = f[2:]
	case "unpin":
		delete(a.pinned, f[1])
	default:
		a.errors = append(a.errors, line)
	}
}

// check holds a ring that was opened again against the account.
func (a *account) check(t *testing.T, r *Ring, base int64) {
	t.Helper()
	for _, e := range a.errors {
		t.Errorf("the writer says: %s", e)
	}
	evicted := int64(r.state.Evicted[chunker.Packets])
	there := map[string]bool{}
	for _, c := range r.Sealed() {
		name, _ := fileName(c.Meta)
		there[name] = true
	}
	for name := range a.sealed {
		m, err := parseName(chunker.Packets, name)
		if err != nil {
			t.Error(err)
		} else if !there[name] && m.Last > evicted {
			t.Errorf("sealed chunk is gone, and not evicted: %s (watermark %d)", name, evicted)
		}
	}
	for session, names := range a.pinned {
		for _, name := range names {
			if !there[name] {
				t.Errorf("pinned for %s, and gone: %s", session, name)
			}
		}
		if _, ok := r.state.Pins[session]; !ok {
			t.Errorf("the pin for %s is gone", session)
		}
	}

	// What was flushed is there, and so is whatever the ledger says is covered.
	seen := map[int64][crashWorkers]bool{}
	for _, c := range r.Overlapping(base, 1<<62) {
		b, _, err := r.Load(c, nil)
		if err != nil {
			t.Error(err)
			continue
		}
		z, err := chunker.Open(bytes.NewReader(b), c.Size, c.Hash, c.Stream)
		if err != nil {
			t.Error(err)
			continue
		}
		var batch chunker.Batch
		for z.Next(&batch) == nil {
			at := uint32(0)
			for i, end := range batch.Ends {
				worker := binary.BigEndian.Uint64(batch.Buf[at+28:])
				s := seen[batch.Times[i]]
				s[worker] = true
				seen[batch.Times[i]] = s
				at = end
			}
		}
	}
	want := func(worker int, from, to int64, why string) {
		missing := 0
		step := crashSpeed * crashStep
		for at := base + max(0, from-base+step-1)/step*step; at < to; at += step {
			if !seen[at][worker] {
				missing++
			}
		}
		if missing > 0 {
			t.Errorf("worker %d: %d records from %d to %d are missing, though %s", worker, missing, from-base, to-base, why)
		}
	}
	l := r.Ledger(chunker.Packets, base, base+int64(time.Hour))
	for worker := range crashWorkers {
		want(worker, max(base, evicted+1), a.flushed[worker], "they were flushed")
		for _, c := range l.Coverage {
			want(worker, int64(c.From), int64(c.To), "the ledger covers them")
		}
	}
	accounted := manifest.Nanos(0) // nothing else leaves gaps here, so they do not overlap
	for _, c := range l.Coverage {
		accounted += c.To - c.From
	}
	for _, g := range l.Gaps {
		accounted += g.To - g.From
	}
	if accounted != manifest.Nanos(time.Hour) {
		t.Errorf("the ledger accounts for %s of an hour: %+v", time.Duration(accounted), l)
	}
}
