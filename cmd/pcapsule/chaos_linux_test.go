package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pcapsule/archive"
	"pcapsule/internal/api"
	"pcapsule/internal/capfile"
	"pcapsule/manifest"
	"pcapsule/pcapgen"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

var chaosSeed = flag.Uint64("chaos.seed", 0, "seed of TestChaos; chosen when 0")

const (
	chaosTime  = 25 * time.Second // of killing
	chaosNodes = 2
)

// TestChaos runs a hub on a real MinIO and two agents, kills them at random
// moments, and creates snapshots all the while. What a create reports as made is
// there and verifies, nothing is half there, and every packet that was sent is in
// every snapshot of its time, but for those from the last second before an
// agent's kill until it runs again.
func TestChaos(t *testing.T) {
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	buildMinIO(t)
	if !inNamespace(t, "-chaos.seed", fmt.Sprint(seed)) {
		return
	}
	t.Logf("again with -chaos.seed %d", seed)
	c := newChaos(t, seed)
	c.survive()

	ctx, cancel := context.WithCancel(t.Context())
	var creators sync.WaitGroup
	for i := range 3 {
		creators.Go(func() { c.create(ctx, i) })
	}
	c.kill(time.Now().Add(chaosTime))
	cancel()
	creators.Wait()
	close(c.stopSending)
	<-c.sent
	c.check()
}

// chaos is a hub, its agents, and what is known of them from outside.
type chaos struct {
	*machine
	rnd    *rand.Rand
	bucket store.S3Options
	hub    *process
	agents []*process
	lives  [chaosNodes][]life

	stopSending, sent chan struct{}
	times             []interval // of each packet, by number; read it after sent

	mu    sync.Mutex
	made  []madeSnapshot
	tally map[string]int // how creates ended
}

// A life is when an agent surely recorded: until killed, or still when that is
// zero.
type life struct{ ready, killed time.Time }

func (l life) String() string {
	return l.ready.Format("05.000") + "–" + l.killed.Format("05.000")
}

// An interval is before and after a packet was sent.
type interval struct{ before, after time.Time }

type madeSnapshot struct {
	name string
	code int
}

func newChaos(t *testing.T, seed uint64) *chaos {
	c := &chaos{
		machine: newMachine(t), rnd: rand.New(rand.NewPCG(seed, 0)), agents: make([]*process, chaosNodes),
		stopSending: make(chan struct{}), sent: make(chan struct{}), tally: map[string]int{},
	}
	// What agents upload passes lo, so the traffic is elsewhere: on a line to
	// nobody.
	for _, args := range []string{
		"link add traffic0 type veth peer name traffic1", "link set traffic1 up", "link set traffic0 up",
		"addr add 192.0.2.1/24 dev traffic0", "neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev traffic0",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", args, err, out)
		}
	}
	c.bucket = storetest.MinIO(t)
	for k, v := range map[string]string{
		"AWS_ENDPOINT_URL": c.bucket.Endpoint, "AWS_REGION": "us-east-1",
		"AWS_ACCESS_KEY_ID": c.bucket.AccessKey, "AWS_SECRET_ACCESS_KEY": c.bucket.SecretKey,
	} {
		t.Setenv(k, v)
	}
	c.bucket.Prefix = "chaos"
	c.startHub()
	for i := range c.agents {
		c.startAgent(i)
	}
	conn, err := net.Dial("udp", "192.0.2.2:9")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.sent)
		defer conn.Close()
		for {
			select {
			case <-c.stopSending:
				return
			default:
			}
			at := interval{before: time.Now()}
			if _, err := fmt.Fprintf(conn, "number %012d", len(c.times)); err != nil {
				t.Errorf("send: %v", err)
				return
			}
			at.after = time.Now()
			c.times = append(c.times, at)
			time.Sleep(500 * time.Microsecond)
		}
	}()
	return c
}

func (c *chaos) location() string { return "s3://" + c.bucket.Bucket + "/" + c.bucket.Prefix }

// A process is a hub or an agent.
type process struct {
	cmd   *exec.Cmd
	out   announcement
	ended chan error
}

// An announcement is what a process says; ready is closed when that contains
// want.
type announcement struct {
	want  string
	ready chan struct{}

	mu   sync.Mutex
	text bytes.Buffer
	seen bool
}

func (a *announcement) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.text.Write(b)
	if !a.seen && strings.Contains(a.text.String(), a.want) {
		a.seen = true
		close(a.ready)
	}
	return len(b), nil
}

func (a *announcement) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.text.String()
}

// launch starts a process and waits until it says want.
func (c *chaos) launch(want string, args ...string) *process {
	c.t.Helper()
	p := &process{cmd: c.command(context.Background(), args...), ended: make(chan error, 1)}
	p.out.want, p.out.ready = want, make(chan struct{})
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	select {
	case <-p.out.ready:
	case err := <-p.ended:
		c.t.Fatalf("pcapsule %s ended: %v\n%s", args[0], err, p.out.String())
	case <-time.After(30 * time.Second):
		c.t.Fatalf("pcapsule %s does not start\n%s", args[0], p.out.String())
	}
	return p
}

func (c *chaos) startHub() {
	c.hub = c.launch("hub      ", "hub", "--data-dir", "hub", "--store", c.location())
}

func (c *chaos) startAgent(i int) {
	c.agents[i] = c.launch("ring     ", "agent", "--data-dir", fmt.Sprintf("agent-%d", i), "--node", nodeOf(i),
		"--interface", "traffic0", "--ring-size", "64MiB", "--chunk-age", "2s")
	c.lives[i] = append(c.lives[i], life{ready: time.Now()})
}

func nodeOf(i int) string { return fmt.Sprintf("node-%d", i) }

// end signals a process and waits until it is gone.
func (c *chaos) end(p *process, sig os.Signal) {
	c.t.Helper()
	p.cmd.Process.Signal(sig)
	err := <-p.ended
	text := p.out.String()
	if sig != syscall.SIGKILL && err != nil {
		c.t.Errorf("%s ended with %v\n%s", p.cmd.Args[1], err, text)
	}
	if strings.Contains(text, "panic") || strings.Contains(text, "DATA RACE") {
		c.t.Errorf("%s said:\n%s", p.cmd.Args[1], text)
	}
}

func (c *chaos) endAgent(i int, sig os.Signal) {
	l := &c.lives[i][len(c.lives[i])-1]
	l.killed = time.Now()
	c.end(c.agents[i], sig)
}

// survive: a create that waits while the hub dies follows its successor, and
// prints the table of what was made.
func (c *chaos) survive() {
	t := c.t
	c.awaitNodes()
	c.endAgent(1, syscall.SIGKILL) // so that the session waits for it
	var out, errOut announcement
	out.want, errOut.want = "never", "never"
	cmd := c.command(context.Background(), "snapshot", "create", "survivor", "--last", "1s")
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.await("a create that waits", func() bool {
		resp, err := c.client().HTTP().Get(testHub + "/metrics")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return err == nil && bytes.Contains(b, []byte(`path="/api/v1/snapshots/{ref}"`))
	})
	c.end(c.hub, syscall.SIGKILL)
	time.Sleep(500 * time.Millisecond)
	c.startHub()
	c.startAgent(1)
	err := cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitOK && code != exitPartial {
		t.Errorf("a create whose hub was killed ended with %v\n%s%s", err, out.String(), errOut.String())
	}
	if s := out.String(); !strings.Contains(s, "NAME") || !strings.Contains(s, "survivor") || !strings.Contains(s, "node-0,node-1") {
		t.Errorf("a create whose hub was killed printed\n%s%s", s, errOut.String())
	}
	c.made = append(c.made, madeSnapshot{"survivor", cmd.ProcessState.ExitCode()})
}

func (c *chaos) await(what string, ok func() bool) {
	c.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("waited in vain for %s; the hub said\n%s", what, c.hub.out.String())
		}
	}
}

// awaitNodes waits until the hub is ready and hears of every node.
func (c *chaos) awaitNodes() {
	c.t.Helper()
	c.await("all nodes", func() bool {
		resp, err := http.Get(testHub + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		nodes, err := c.client().Nodes(context.Background())
		return err == nil && len(nodes) == chaosNodes && resp.StatusCode == http.StatusOK
	})
}

// refusals are how a create may fail while a hub is killed: it had not begun, or
// that it had begun was lost with the connection.
var refusals = map[string]*regexp.Regexp{
	"no hub":           regexp.MustCompile(`nothing listens at`),
	"connection broke": regexp.MustCompile(`the connection to the hub at .* broke|does not answer in time`),
	"hub stopping":     regexp.MustCompile(`the hub is (stopping|still looking)`),
	"not recorded":     regexp.MustCompile(`nothing of .* was recorded`),
}

// create makes snapshots until the context ends, and notes how each ended.
func (c *chaos) create(ctx context.Context, worker int) {
	for n := 0; ctx.Err() == nil; n++ {
		name := fmt.Sprintf("chaos-%d-%d", worker, n)
		var out, errOut bytes.Buffer
		// Not ctx: one that has begun is to come to its end.
		limited, cancel := context.WithTimeout(context.Background(), time.Minute)
		cmd := c.command(limited, "snapshot", "create", name, "--last", fmt.Sprintf("%dms", 500+1000*worker+n%7*300))
		cmd.Stdout, cmd.Stderr = &out, &errOut
		err := cmd.Run()
		hung := limited.Err() != nil
		cancel()
		code := cmd.ProcessState.ExitCode()
		outcome := ""
		switch {
		case hung:
			c.t.Errorf("create %s does not end\n%s%s", name, out.String(), errOut.String())
		case code == exitOK || code == exitPartial:
			outcome = fmt.Sprintf("exit code %d", code)
			if !strings.Contains(out.String(), name) {
				c.t.Errorf("create %s printed\n%s%s", name, out.String(), errOut.String())
			}
		default:
			for what, pattern := range refusals {
				if pattern.MatchString(errOut.String()) {
					outcome = what
				}
			}
			if outcome == "" || code != exitFailed || strings.Count(errOut.String(), "\n") != 1 {
				c.t.Errorf("create %s: %v\n%s%s", name, err, out.String(), errOut.String())
			}
		}
		c.mu.Lock()
		c.tally[outcome]++
		if code == exitOK || code == exitPartial {
			c.made = append(c.made, madeSnapshot{name, code})
		}
		c.mu.Unlock()
		if code == exitFailed {
			time.Sleep(100 * time.Millisecond)
		}
	}
}

// kill kills and starts the hub, agents or all until the end.
func (c *chaos) kill(end time.Time) {
	kills := map[string]int{}
	var deck []int // so that each kind has its turn
	for {
		time.Sleep(time.Duration(200+c.rnd.IntN(2300)) * time.Millisecond)
		if time.Now().After(end) {
			break
		}
		sig := syscall.SIGKILL
		if c.rnd.IntN(5) == 0 {
			sig = syscall.SIGTERM
		}
		down := time.Duration(c.rnd.IntN(1500)) * time.Millisecond
		if len(deck) == 0 {
			deck = c.rnd.Perm(5)
		}
		kind := deck[0]
		deck = deck[1:]
		hub, agents := false, []int{}
		switch kind {
		case 0, 1:
			hub = true
		case 2, 3:
			agents = []int{kind - 2}
		case 4:
			hub, agents = true, []int{0, 1}
		}
		kills[fmt.Sprint(hub, agents, sig)]++
		var gone sync.WaitGroup
		if hub {
			gone.Go(func() { c.end(c.hub, sig) })
		}
		for _, i := range agents {
			gone.Go(func() { c.endAgent(i, sig) })
		}
		gone.Wait()
		time.Sleep(down)
		for _, i := range agents {
			c.startAgent(i)
		}
		if hub {
			c.startHub()
		}
	}
	c.t.Logf("killed %v", kills)
}

// check holds what is in the bucket against what happened.
func (c *chaos) check() {
	t, ctx := c.t, c.t.Context()
	c.awaitNodes()
	c.run(exitPartial, "snapshot", "create", "everything", "--from", c.times[0].before.Format(time.RFC3339Nano))
	c.made = append(c.made, madeSnapshot{"everything", exitPartial})
	stdout, _ := c.run(0, "sweep")
	t.Logf("%d packets sent, %d snapshots made, creates ended %v; %s", len(c.times), len(c.made), c.tally, stdout)
	c.run(0, "verify", c.location())

	st, err := store.Open(ctx, c.location())
	if err != nil {
		t.Fatal(err)
	}
	a := archive.New(st)
	keys := map[string]bool{}
	for info, err := range st.List(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		keys[info.Key] = true
	}
	for key := range keys {
		dir, _, _ := strings.Cut(key, "/")
		switch {
		case dir+"/" == manifest.IntentsDir:
			t.Errorf("undecided: %s", key)
		case dir+"/" == manifest.SnapshotsDir && !keys[path.Dir(key)+"/manifest.json"]:
			t.Errorf("half there: %s", key)
		}
	}
	list, err := a.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]*archive.Snapshot{}
	for _, s := range list {
		if s.Err != nil {
			t.Fatalf("snapshot %s: %v", s.ID, s.Err)
		}
		if other := byName[s.Name()]; other != nil {
			t.Errorf("%s and %s both are %s", other.ID, s.ID, s.Name())
		}
		byName[s.Name()] = s
	}
	for _, m := range c.made {
		s := byName[m.name]
		if s == nil {
			t.Errorf("%s was made, and is not there", m.name)
		} else if partial := s.Manifest.Status == manifest.Partial; partial != (m.code == exitPartial) {
			t.Errorf("%s was reported with exit code %d, and is %s", m.name, m.code, s.Manifest.Status)
		}
	}
	lost := 0
	for _, s := range list {
		for _, n := range s.Manifest.Nodes {
			lost = max(lost, c.compare(st, s, n))
		}
	}
	t.Logf("%d snapshots are there; up to %d packets are missing of one, from around kills", len(list), lost)
	for i := range c.agents {
		c.endAgent(i, os.Interrupt)
	}
	c.end(c.hub, os.Interrupt)
}

// compare looks for the packets that one node surely recorded in a snapshot, and
// returns how many others of its window are missing.
func (c *chaos) compare(st store.Store, s *archive.Snapshot, n manifest.Node) (missing int) {
	c.t.Helper()
	seen := c.export(st, s, n.Name)
	var lives []life
	for i := range c.lives {
		if nodeOf(i) == n.Name {
			lives = c.lives[i]
		}
	}
	surely := func(at interval) bool {
		return n.Status != manifest.Unreachable && slices.ContainsFunc(lives, func(l life) bool {
			return at.before.After(l.ready) && (l.killed.IsZero() || l.killed.Sub(at.after) > time.Second)
		})
	}
	// The node's clock is compared with the hub's across a connection.
	slop := 20*time.Millisecond + time.Duration(n.Clock.Error)
	from, to := s.Manifest.Window.From.Time().Add(slop), s.Manifest.Window.To.Time().Add(-slop)
	for number, at := range c.times {
		if at.before.Before(from) || !at.after.Before(to) || seen[number] {
			continue
		}
		missing++
		if surely(at) {
			c.t.Errorf("snapshot %s (%s, %s) lacks packet %d of %s, sent %s; reasons %q; lives %v",
				s.Name(), s.ID, api.Span(s.Manifest.Window), number, n.Name, at.before.Format(time.StampMicro), n.Reasons, lives)
			break
		}
	}
	return missing
}

// export lists the numbers of the packets of one node in a snapshot.
func (c *chaos) export(st store.Store, s *archive.Snapshot, node string) map[int]bool {
	c.t.Helper()
	r, w := io.Pipe()
	go func() {
		src := pcapgen.Source{Manifest: s.Manifest, Store: st, Inventory: s.Inventory}
		_, err := pcapgen.Export(context.Background(), w, src, pcapgen.Request{Nodes: []string{node}})
		w.CloseWithError(err)
	}()
	defer r.Close()
	seen := map[int]bool{}
	packets, err := capfile.NewReader(r)
	for err == nil {
		var p *capfile.Packet
		if p, err = packets.Next(); err != nil {
			break
		}
		var n int
		if _, serr := fmt.Sscanf(string(p.Data[min(len(p.Data), 14+20+8):]), "number %d", &n); serr == nil {
			if seen[n] {
				c.t.Errorf("snapshot %s has packet %d of %s twice", s.Name(), n, node)
			}
			seen[n] = true
		}
	}
	if !errors.Is(err, io.EOF) {
		c.t.Errorf("export of node %s of snapshot %s: %v", node, s.Name(), err)
	}
	return seen
}
