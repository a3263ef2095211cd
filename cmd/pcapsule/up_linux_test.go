package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapsule/internal/api"
	"pcapsule/internal/capfile"
	"pcapsule/manifest"
)

const testHub = "http://127.0.0.1:8898"

// A machine is where pcapsule runs in these tests: a namespace and a folder.
type machine struct {
	t   *testing.T
	dir string
	bin string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir()}
	m.bin = filepath.Join(m.dir, "pcapsule")
	if out, err := exec.Command("go", "build", "-o", m.bin, "pcapsule/cmd/pcapsule").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return m
}

func (m *machine) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, m.bin, args...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+m.dir+"/config", "TMPDIR="+m.dir, "TZ=UTC", "PCAPSULE_HUB="+testHub, runtimeEnv+"="+m.runtimeDir())
	cmd.Dir = m.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run runs a command to its end, whose exit code is to be want.
func (m *machine) run(want int, args ...string) (stdout, stderr string) {
	m.t.Helper()
	var out, errOut bytes.Buffer
	cmd := m.command(context.Background(), args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != want {
		m.t.Fatalf("pcapsule %s: exit code %d, want %d (%v)\n%s%s", strings.Join(args, " "), got, want, err, out.String(), errOut.String())
	}
	return out.String(), errOut.String()
}

// A daemon is a running `pcapsule up`, agent or hub.
type daemon struct {
	cmd    *exec.Cmd
	exited chan error
	out    bytes.Buffer // read it after exited
}

func (m *machine) start(args ...string) *daemon {
	m.t.Helper()
	d := &daemon{cmd: m.command(context.Background(), args...), exited: make(chan error, 1)}
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.out
	if err := d.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func() { d.exited <- d.cmd.Wait() }()
	return d
}

// end signals the daemon and waits until it is gone.
func (d *daemon) end(sig os.Signal) error {
	d.cmd.Process.Signal(sig)
	return <-d.exited
}

// ready waits until the hub answers and a node is live.
func (m *machine) ready(d *daemon) {
	m.t.Helper()
	client := m.client()
	for range 200 {
		select {
		case err := <-d.exited:
			m.t.Fatalf("pcapsule ended: %v\n%s", err, d.out.String())
		case <-time.After(50 * time.Millisecond):
		}
		resp, err := http.Get(testHub + "/readyz")
		if err != nil {
			continue
		}
		resp.Body.Close()
		nodes, err := client.Nodes(context.Background())
		if err == nil && len(nodes) > 0 && resp.StatusCode == http.StatusOK {
			return
		}
	}
	d.end(syscall.SIGKILL)
	m.t.Fatalf("pcapsule did not get ready\n%s", d.out.String())
}

// runtimeDir is where the machine's hubs write the files by which they are found.
func (m *machine) runtimeDir() string { return filepath.Join(m.dir, "run") }

// client is one of the machine's hub.
func (m *machine) client() *api.Client {
	m.t.Helper()
	client, err := api.NewClient(testHub, api.WithLocal(func() (*api.Local, error) {
		for _, l := range hubsIn(m.runtimeDir(), os.Geteuid()) {
			return l.client(), nil
		}
		return nil, nil
	}))
	if err != nil {
		m.t.Fatal(err)
	}
	return client
}

// numbers are those of the packets in a capture that a sender sent, with the time
// of each.
func (m *machine) numbers(name string) map[uint64]time.Time {
	m.t.Helper()
	f, err := os.Open(filepath.Join(m.dir, name))
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	r, err := capfile.NewReader(f)
	if err != nil {
		m.t.Fatal(err)
	}
	seen := map[uint64]time.Time{}
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return seen
		}
		if err != nil {
			m.t.Fatal(err)
		}
		var n uint64
		// Answers (port unreachable) quote the packet; they are not it.
		if len(p.Data) == 14+20+8+19 && p.Data[14+9] == 17 {
			if _, err := fmt.Sscanf(string(p.Data[14+20+8:]), "number %d", &n); err == nil {
				if _, twice := seen[n]; twice {
					m.t.Fatalf("packet %d stands twice in %s", n, name)
				}
				seen[n] = time.Unix(0, p.Time)
			}
		}
	}
}

// TestUp is the README's first page, on real packets.
func TestUp(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	m := newMachine(t)
	s := newSender(t)
	d := m.start("up", "--data-dir", "data", "--node", "laptop", "--ring-size", "64MiB")
	m.ready(d)
	from := time.Now()
	for range 5000 {
		s.send(t)
	}
	stdout, _ := m.run(0, "snapshot", "create", "outage", "--from", from.Format(time.RFC3339Nano))
	if !strings.Contains(stdout, "outage") || !strings.Contains(stdout, "completed") || !strings.Contains(stdout, "laptop") {
		t.Errorf("create printed:\n%s", stdout)
	}
	m.run(0, "snapshot", "pcap", "outage", "-w", "outage.pcapng")
	seen := m.numbers("outage.pcapng")
	for n := range s.next {
		at, ok := seen[n]
		if !ok {
			t.Fatalf("packet %d of %d is missing", n, s.next)
		}
		if at.Before(from) {
			t.Fatalf("packet %d is from %v, before the window's start %v", n, at, from)
		}
	}
	m.run(0, "snapshot", "download", "outage", "-w", "outage.tar")
	m.run(0, "verify", "outage.tar")
	m.run(0, "verify", "outage")
	m.run(0, "verify", "data/store")

	// The same window again moves no chunk.
	var first, second api.Snapshot
	decode(t, m.json("snapshot", "show", "outage"), &manifest.Manifest{})
	list := []api.Snapshot{}
	decode(t, m.json("snapshot", "list"), &list)
	first = list[0]
	decode(t, m.json("snapshot", "create", "again", "--from", first.Start.Format(time.RFC3339Nano), "--to", first.End.Format(time.RFC3339Nano)), &second)
	if second.Records != first.Records || second.Size != first.Size {
		t.Errorf("the same window again has %d packets in %d bytes, the first %d in %d", second.Records, second.Size, first.Records, first.Size)
	}
	for _, p := range second.Progress {
		if p.Sent != 0 {
			t.Errorf("the same window again sent %d bytes", p.Sent)
		}
	}

	// What was not recorded is said, and what makes no sense is refused.
	_, stderr := m.run(exitPartial, "snapshot", "create", "long", "--last", "1h")
	if !strings.Contains(stderr, "not recorded") {
		t.Errorf("a window from before the start: %s", stderr)
	}
	_, stderr = m.run(exitFailed, "snapshot", "create", "old", "--from", "2020-01-01T00:00:00Z", "--to", "2020-01-01T01:00:00Z")
	if strings.Count(stderr, "\n") != 1 {
		t.Errorf("a window long gone: %s", stderr)
	}
	_, stderr = m.run(exitUsage, "snapshot", "create", "soon", "--from", "2099-01-01T00:00:00Z", "--to", "2099-01-01T01:00:00Z")
	if !strings.Contains(stderr, "future") {
		t.Errorf("a window in the future: %s", stderr)
	}
	m.run(exitFailed, "snapshot", "create", "outage", "--last", "1s")
	m.run(exitUsage, "snapshot", "create", "x", "--last", "1s", "--node", "nobody")
	quiet := time.Now().Add(-200 * time.Millisecond)
	time.Sleep(300 * time.Millisecond)
	_, stderr = m.run(0, "snapshot", "create", "quiet", "--from", quiet.Add(250*time.Millisecond).Format(time.RFC3339Nano), "--to", quiet.Add(260*time.Millisecond).Format(time.RFC3339Nano))
	if !strings.Contains(stderr, "no packet") {
		t.Errorf("a window without packets: %s", stderr)
	}

	m.run(0, "snapshot", "delete", "outage", "again", "long", "quiet")
	m.run(0, "sweep")
	if err := d.end(os.Interrupt); err != nil {
		t.Errorf("up ended with %v\n%s", err, d.out.String())
	}
	for _, want := range []string{"records  all interfaces: lo", "ring     64 MiB", "store    ", "signs    SHA256:", "next     pcapsule snapshot create"} {
		if !strings.Contains(d.out.String(), want) {
			t.Errorf("up does not say %q on start:\n%s", want, d.out.String())
		}
	}
}

func (m *machine) json(args ...string) string {
	m.t.Helper()
	stdout, _ := m.run(0, append(args, "-o", "json")...)
	return stdout
}

func decode(t *testing.T, s string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), v); err != nil {
		t.Fatalf("%v in\n%s", err, s)
	}
}

// TestKill kills pcapsule again and again while it records, makes snapshots and
// is asked for more, and then holds what it has against what was sent: nothing is
// missing but what came in the last second before a kill and while it was dead,
// and everything that is there verifies.
func TestKill(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	m := newMachine(t)
	s := newSender(t)
	begin := time.Now()
	type life struct{ ready, killed uint64 } // numbers of packets sent while it was surely up
	var lives []life
	sent := map[uint64]time.Time{}
	var kills []time.Time
	for round := range 6 {
		d := m.start("up", "--data-dir", "data", "--node", "n", "--ring-size", "64MiB", "--chunk-age", "1s")
		m.ready(d)
		l := life{ready: s.next}
		create := m.command(context.Background(), "snapshot", "create", fmt.Sprintf("round-%d", round), "--last", "1s")
		if err := create.Start(); err != nil {
			t.Fatal(err)
		}
		end := time.Now().Add(500*time.Millisecond + time.Duration(rand.IntN(2000))*time.Millisecond)
		for time.Now().Before(end) {
			sent[s.next] = time.Now()
			s.send(t)
			time.Sleep(200 * time.Microsecond)
		}
		l.killed = s.next
		lives = append(lives, l)
		kills = append(kills, time.Now())
		d.end(syscall.SIGKILL)
		create.Process.Kill()
		create.Wait()
	}
	d := m.start("up", "--data-dir", "data", "--node", "n", "--ring-size", "64MiB")
	m.ready(d)
	time.Sleep(50 * time.Millisecond)
	m.run(exitPartial, "snapshot", "create", "all", "--from", begin.Format(time.RFC3339Nano))
	m.run(0, "snapshot", "pcap", "all", "-w", "all.pcapng")
	seen := m.numbers("all.pcapng")
	lost := 0
	for i, l := range lives {
		for n := l.ready; n < l.killed; n++ {
			if _, ok := seen[n]; ok {
				continue
			}
			lost++
			if before := kills[i].Sub(sent[n]); before > time.Second {
				t.Fatalf("life %d: packet %d is missing, which was sent %v before the kill", i, n, before)
			}
		}
	}
	t.Logf("%d packets sent, %d recorded, %d lost in the last second before one of %d kills", s.next, len(seen), lost, len(kills))
	m.run(0, "verify", "data/store")
	m.run(0, "sweep")
	m.run(0, "verify", "data/store")
	if err := d.end(os.Interrupt); err != nil {
		t.Errorf("up ended with %v", err)
	}
	// Sessions that the killed hubs had begun are all decided.
	intents, _ := filepath.Glob(filepath.Join(m.dir, "data/store/intents/*"))
	if len(intents) != 0 {
		t.Errorf("intents are left: %v", intents)
	}
}
