//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"pcapsule/internal/api"
)

const secondWall = 200 // milliseconds

// secondCommand is this program's own command that measures in a network
// namespace that was made for it: secondCommand PCAPSULE DIR RUNS BYTES, with a
// capture file on standard input. It prints a secondResult.
const secondCommand = "second"

type secondResult struct {
	First      float64   // seconds
	Again      []float64 // seconds, of each later snapshot of the same window
	Snapshot   snapshotInfo
	Chunks     int    // files in the store after the first
	Sent       int64  // bytes of chunks that agents had to send for the later ones
	Uploaded   int64  // bytes of anything that went through the hub for them
	Difference string // of the chunk files before and after, "" when there is none
}

type snapshotInfo struct {
	Status  string `json:"status"`
	Size    int64  `json:"size"`
	RawSize int64  `json:"raw_size"`
	Records int64  `json:"records"`
}

// second times snapshots of a window that is stored already, through a real hub
// and agent.
func second(ctx context.Context, b *bench) (s section, err error) {
	s.intro = `pcapsule up in a network namespace records traffic on lo. A snapshot of all of it is taken,
and then others of the same window, each by a command of its own, whose start is counted.`
	s.columns = []string{"snapshot", "wall ms", "chunk bytes sent", "bytes uploaded in all"}
	var r secondResult
	if err := b.recorded(ctx, &r, secondCommand, b.scaled(200e6)); err != nil {
		return s, err
	}
	again := spreadOf(r.Again)
	ms := spread{again.min * 1000, again.median * 1000, again.max * 1000}
	s.rows = [][]string{
		{"first", fmt.Sprintf("%.0f", r.First*1000), fmt.Sprint(r.Snapshot.Size), ""},
		{fmt.Sprintf("again, %d times", len(r.Again)), ms.String(), fmt.Sprint(r.Sent), fmt.Sprint(r.Uploaded)},
	}
	s.notes = []string{fmt.Sprintf("The window holds %d packets, %d MB, stored in %d chunks of %d MB; the snapshots were %s.",
		r.Snapshot.Records, r.Snapshot.RawSize/1e6, r.Chunks, r.Snapshot.Size/1e6, r.Snapshot.Status)}
	s.aims = []aim{
		atMost("second snapshot of a stored window: milliseconds, the slowest", ms.max, secondWall),
		atMost("second snapshot of a stored window: chunk bytes sent", float64(r.Sent), 0),
	}
	if r.Difference != "" {
		return s, fmt.Errorf("the store's chunk files changed: %s", r.Difference)
	}
	return s, nil
}

func secondInNamespace(args []string) error {
	d, runs, size, t, err := recordedArgs(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if _, err := do(ctx, "", "ip", "link", "set", "lo", "up"); err != nil {
		return err
	}
	stop, err := d.start(ctx)
	if err != nil {
		return err
	}
	defer stop()
	from := time.Now()
	if err := sendOverLoopback(&t, size); err != nil {
		return err
	}
	to := time.Now()
	r, err := d.snapshots(ctx, from, to, runs)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// sendOverLoopback sends what frames hold in UDP packets over lo, until they are
// size bytes, at some 100 MB/s.
func sendOverLoopback(t *traffic, size int64) error {
	sink, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer sink.Close()
	conn, err := net.Dial("udp", sink.LocalAddr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	start, sent := time.Now(), int64(0)
	for sent < size {
		for _, f := range t.frames {
			n, err := conn.Write(f[:min(len(f), 1472)])
			if err != nil {
				return err
			}
			if sent += int64(n); sent >= size {
				break
			}
			if ahead := time.Duration(sent)*10 - time.Since(start); ahead > time.Millisecond {
				time.Sleep(ahead)
			}
		}
	}
	return nil
}

// A daemon is pcapsule up, and the commands of a person who uses it.
type daemon struct {
	pcapsule string
	dir      string
}

const hubURL = "http://127.0.0.1:8898"

// runtimeEnv is where hubs write the files by which commands find them.
const runtimeEnv = "PCAPSULE_RUNTIME_DIR"

// apart makes all processes from here on keep such files in the daemon's folder.
func (d *daemon) apart() error { return os.Setenv(runtimeEnv, filepath.Join(d.dir, "run")) }

// client is one of the daemon's hub.
func (d *daemon) client() (*api.Client, error) {
	return api.NewClient(hubURL, api.WithLocal(func() (*api.Local, error) {
		files, err := filepath.Glob(filepath.Join(d.dir, "run", "hub-*.json"))
		if err != nil || len(files) != 1 {
			return nil, fmt.Errorf("%d files tell of the hub, not one", len(files))
		}
		b, err := os.ReadFile(files[0])
		if err != nil {
			return nil, err
		}
		var l struct{ Certificate, Token string }
		err = json.Unmarshal(b, &l)
		return &api.Local{Certificate: []byte(l.Certificate), Token: l.Token}, err
	}))
}

// start returns when the agent records.
func (d *daemon) start(ctx context.Context) (stop func(), err error) {
	if err := d.apart(); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, d.pcapsule, "up", "--interface", "lo", "--node", "bench", "--data-dir", filepath.Join(d.dir, "data"), "--ring-size", "2GiB")
	p, err := startProcess(cmd, "\nnext ", nil) // its last line on start says what to do next
	if err != nil {
		return nil, err
	}
	return p.stop, nil
}

// snapshots takes one, and then runs more of the same window.
func (d *daemon) snapshots(ctx context.Context, from, to time.Time, runs int) (r secondResult, err error) {
	if r.First, r.Snapshot, err = d.create(ctx, from, to); err != nil {
		return r, err
	}
	before, err := d.chunks()
	if err != nil {
		return r, err
	}
	r.Chunks = len(before)
	counted, err := d.counters(ctx)
	if err != nil {
		return r, err
	}
	for range runs {
		took, snap, err := d.create(ctx, from, to)
		if err != nil {
			return r, err
		}
		if snap != r.Snapshot {
			return r, fmt.Errorf("snapshots of one window differ: %+v, %+v", r.Snapshot, snap)
		}
		r.Again = append(r.Again, took)
	}
	after, err := d.chunks()
	if err != nil {
		return r, err
	}
	if !maps.Equal(before, after) {
		r.Difference = fmt.Sprintf("%d before, %d after", len(before), len(after))
	}
	end, err := d.counters(ctx)
	r.Sent = end.sent - counted.sent
	r.Uploaded = end.uploaded - counted.uploaded
	return r, err
}

// create runs pcapsule snapshot create. A partial snapshot is an error.
func (d *daemon) create(ctx context.Context, from, to time.Time) (seconds float64, s snapshotInfo, err error) {
	cmd := exec.CommandContext(ctx, d.pcapsule, "snapshot", "create", "--hub", hubURL, "-o", "json",
		"--from", from.Format(time.RFC3339Nano), "--to", to.Format(time.RFC3339Nano))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	start := time.Now()
	out, err := cmd.Output()
	seconds = time.Since(start).Seconds()
	if err != nil {
		return 0, s, fmt.Errorf("snapshot create: %w: %.1000s", err, errs.String())
	}
	return seconds, s, json.Unmarshal(out, &s)
}

// chunks are the chunk files of the store, and what would change if one were
// written again.
func (d *daemon) chunks() (map[string]string, error) {
	files, err := chunkFiles(filepath.Join(d.dir, "data", "store"))
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, f := range files {
		var st unix.Stat_t
		if err := unix.Stat(f, &st); err != nil {
			return nil, err
		}
		all[f] = fmt.Sprint(st.Ino, st.Size, st.Mtim.Nano())
	}
	return all, nil
}

type counters struct {
	sent     int64 // bytes of chunks that the store lacked
	uploaded int64 // bytes of anything that went through the hub
}

// counters reads the hub's metrics.
func (d *daemon) counters(ctx context.Context) (c counters, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, hubURL+"/metrics", nil)
	if err != nil {
		return c, err
	}
	client, err := d.client()
	if err != nil {
		return c, err
	}
	resp, err := client.HTTP().Do(req)
	if err != nil {
		return c, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return c, err
	}
	for name, to := range map[string]*int64{
		"\npcapsule_hub_chunk_bytes_total{stored=\"false\"} ": &c.sent,
		"\npcapsule_hub_uploaded_bytes_total ":                &c.uploaded,
	} {
		_, rest, ok := bytes.Cut(text, []byte(name))
		if !ok {
			return c, fmt.Errorf("the hub's metrics lack %s", name)
		}
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		v, err := strconv.ParseFloat(string(line), 64)
		if err != nil {
			return c, err
		}
		*to = int64(v)
	}
	return c, nil
}
