//go:build linux

package packets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
	"pcapsule/internal/capfile"
)

// frames are what every test of fidelity sends: many lengths, and all kinds of
// tags.
func testFrames() map[string][]byte {
	frames := map[string][]byte{
		"802.1Q":          tagged(ether(0x0800, 100, 1), 0x8100, 5),
		"802.1Q priority": tagged(ether(0x0800, 100, 2), 0x8100, 0xe005),
		"TCI 0":           tagged(ether(0x0800, 100, 3), 0x8100, 0),
		"802.1ad":         tagged(ether(0x0800, 100, 4), 0x88a8, 7),
		"802.1ad TCI 0":   tagged(ether(0x0800, 100, 5), 0x88a8, 0),
		"QinQ":            tagged(ether(0x0800, 100, 6), 0x88a8, 7, 0x8100, 8),
		"three tags":      tagged(ether(0x0800, 100, 7), 0x88a8, 7, 0x8100, 8, 0x8100, 9),
		"tag, short":      tagged(ether(0x0800, 16, 8), 0x8100, 5),
		"no payload":      ether(0x88b5, 14, 9),
		"tag, full":       tagged(ether(0x0800, 1514, 10), 0x8100, 5),
	}
	for n := 15; n <= 1514; n += 107 {
		frames[fmt.Sprintf("%d bytes", n)] = ether(0x88b5, n, byte(n))
	}
	return frames
}

// TestFidelity sends frames and compares bytes, times, directions and interfaces
// with what was sent, and with what tcpdump and dumpcap recorded beside it.
func TestFidelity(t *testing.T) {
	namespace(t)
	veth(t, "a", "b")
	dir := t.TempDir()
	peers := map[string]*peer{
		"dumpcap": startPeer(t, "dumpcap", "-q", "-i", "b", "-w", filepath.Join(dir, "dumpcap")),
	}
	if os.Getenv(insideEnv) == "" { // in a user namespace it cannot give up privileges, and stops
		peers["tcpdump"] = startPeer(t, "tcpdump", "-i", "b", "-w", filepath.Join(dir, "tcpdump"), "-U", "--time-stamp-precision=nano", "-Z", "root")
	}
	s := begin(t, Config{})
	before := time.Now().UnixNano()
	var sent [][]byte
	out := newSender(t, "a")
	for _, f := range testFrames() {
		out.send(f)
		sent = append(sent, f)
	}
	got := s.cut()
	after := time.Now().UnixNano()

	for iface, dir := range map[string]uint32{"a": chunker.FlagOutbound, "b": chunker.FlagInbound} {
		if diff := cmp.Diff(sent, data(got, iface)); diff != "" {
			t.Errorf("on %s (-sent +recorded):\n%s", iface, diff)
		}
		for _, r := range got {
			if r.Iface.Name != iface {
				continue
			}
			if r.Flags&3 != dir {
				t.Errorf("on %s: direction %d, want %d", iface, r.Flags&3, dir)
			}
			if int(r.OrigLen) != len(r.Data) {
				t.Errorf("on %s: %d bytes of %d", iface, len(r.Data), r.OrigLen)
			}
			if r.Time < before || r.Time > after {
				t.Errorf("on %s: time %d is not within %d and %d", iface, r.Time, before, after)
			}
			if want := (chunker.Interface{Name: iface, Description: "veth", LinkType: 1}); r.Iface != want {
				t.Errorf("interface is %+v, want %+v", r.Iface, want)
			}
		}
	}
	var onB []seen
	for _, r := range got {
		if r.Iface.Name == "b" {
			onB = append(onB, r)
		}
	}
	for name, p := range peers {
		theirs := p.records(t, filepath.Join(dir, name), len(sent))
		if len(theirs) != len(onB) {
			t.Errorf("%s has %d packets, we have %d", name, len(theirs), len(onB))
			continue
		}
		for i, r := range theirs {
			if !bytes.Equal(r.Data, onB[i].Data) || r.OrigLen != onB[i].OrigLen {
				t.Errorf("packet %d differs from %s's:\n% x\n% x", i, name, onB[i].Data, r.Data)
			}
			// Each socket takes the time itself, one after the other.
			if d := time.Duration(r.Time - onB[i].Time).Abs(); d > time.Second {
				t.Errorf("packet %d is %v from %s's", i, d, name)
			}
		}
	}
}

// A peer is another program that captures beside us.
type peer struct{ cmd *exec.Cmd }

// startPeer starts a program and waits for it to say that it captures.
func startPeer(t *testing.T, name string, args ...string) *peer {
	t.Helper()
	cmd := exec.Command(name, args...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s is needed to compare with: %v", name, err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	said := make([]byte, 0, 4096)
	for !bytes.Contains(said, []byte("istening on")) && !bytes.Contains(said, []byte("File: ")) {
		buf := make([]byte, 4096)
		n, err := stderr.Read(buf)
		if err != nil {
			t.Fatalf("%s does not capture: %s", name, said)
		}
		said = append(said, buf[:n]...)
	}
	go func() { _, _ = io.Copy(io.Discard, stderr) }()
	return &peer{cmd}
}

// records stops the program once its file has n records.
func (p *peer) records(t *testing.T, file string, n int) []capfile.Packet {
	t.Helper()
	var recs []capfile.Packet
	read := func() bool {
		recs = nil
		f, err := os.Open(file)
		if err != nil {
			return false
		}
		defer f.Close()
		r, err := capfile.NewReader(f)
		if err != nil {
			return false
		}
		for {
			p, err := r.Next()
			if err != nil {
				return len(recs) >= n
			}
			c := *p
			c.Data = bytes.Clone(p.Data)
			recs = append(recs, c)
		}
	}
	eventually(t, file+" lacks packets", read)
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
	read()
	return recs
}

// TestLoopback sees each packet once, and its checksum not filled in.
func TestLoopback(t *testing.T) {
	namespace(t)
	s := begin(t, Config{})
	conn, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	const n = 20
	for range n {
		_, _ = conn.Write([]byte("once")) // the error is the answer of a port that is closed
	}
	count := 0
	for _, r := range s.cut() {
		if bytes.HasSuffix(r.Data, []byte("once")) && r.Data[23] == 17 {
			count++
			if want := uint32(chunker.FlagInbound | chunker.FlagChecksumNotReady); r.Flags != want {
				t.Errorf("flags %#x, want %#x", r.Flags, want)
			}
			if want := (chunker.Interface{Name: "lo", Description: "loopback", LinkType: 1}); r.Iface != want {
				t.Errorf("interface is %+v, want %+v", r.Iface, want)
			}
		}
	}
	// Writes may fail in between, and are lost then.
	if count < n/2 || count > n {
		t.Errorf("%d packets recorded, of %d sent", count, n)
	}
}

// TestBigTCP records segments larger than an IP packet can be whole.
func TestBigTCP(t *testing.T) {
	namespace(t)
	least := 150000
	if out, err := exec.Command("ip", "link", "set", "dev", "lo", "mtu", "9000", "gso_max_size", "190000", "gro_max_size", "190000").CombinedOutput(); err != nil {
		t.Logf("no BIG TCP here, so no more than GSO is tested: %v: %s", err, out)
		least = 50000
	}
	s := begin(t, Config{RingSize: 64 << 20})
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	payload := bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuvwxyz"), 1<<20)
	// Here, since another goroutine may be in another namespace.
	from, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() { _ = from.Close() }()
		if _, err := from.Write(payload); err != nil {
			t.Error(err)
		}
	})
	if n, err := io.Copy(io.Discard, c); err != nil || n != int64(len(payload)) {
		t.Fatalf("received %d bytes: %v", n, err)
	}
	wg.Wait()
	longest := 0
	for _, r := range s.cut() {
		if int(r.OrigLen) != len(r.Data) {
			t.Fatalf("%d bytes of %d", len(r.Data), r.OrigLen)
		}
		longest = max(longest, len(r.Data))
	}
	if longest < least {
		t.Errorf("the longest packet has %d bytes, want %d", longest, least)
	}
	if st := s.Stats(); st.Truncated != 0 || st.Drops != 0 {
		t.Errorf("%+v", st)
	}
}

// TestFlood counts exactly: what was sent was recorded or dropped, and
// compression is given up while the worker is behind.
func TestFlood(t *testing.T) {
	for _, workers := range []int{1, 2} {
		t.Run(fmt.Sprint(workers, " workers"), func(t *testing.T) {
			namespace(t)
			veth(t, "a", "b")
			var told atomic.Uint64
			s := begin(t, Config{
				Interfaces: []string{"b"},
				Workers:    workers,
				RingSize:   workers * minBlocks * blockSize,
				OnDrops: func(n uint64, from, to int64) {
					told.Add(n)
					if from > to {
						t.Errorf("drops from %d to %d", from, to)
					}
				},
			})
			for _, r := range s.recs {
				r.mu.Lock()
				r.keep = false
				r.mu.Unlock()
				r.gate.Lock()
			}
			const n = 20000
			out := newSender(t, "a")
			for i := range n {
				// IPv4 with changing addresses, for the fanout.
				f := ether(0x0800, 1400, 0)
				copy(f[14:], []byte{0x45, 0, 5, 0x6a, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, byte(i), 1, 10, 0, 0, byte(i >> 8)})
				out.send(f)
			}
			for _, r := range s.recs {
				r.gate.Unlock()
			}
			s.cut()
			st := s.Stats()
			if st.Packets+st.Drops != n || st.Drops == 0 || st.Packets == 0 {
				t.Errorf("%d recorded and %d dropped, of %d sent", st.Packets, st.Drops, n)
			}
			if told.Load() != st.Drops {
				t.Errorf("OnDrops told of %d, Stats of %d", told.Load(), st.Drops)
			}
			var drops uint64
			for i, r := range s.recs {
				r.mu.Lock()
				drops += r.drops
				if r.count == 0 {
					t.Errorf("worker %d got nothing", i)
				}
				if !cmp.Equal(r.modes, []bool{true, false}) {
					t.Errorf("worker %d: stored %v, want true then false", i, r.modes)
				}
				r.mu.Unlock()
			}
			if drops != st.Drops {
				t.Errorf("consumers were told of %d drops, want %d", drops, st.Drops)
			}
			if st.Freezes == 0 || st.Stored == 0 || st.Behind != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestFanout neither loses nor doubles anything.
func TestFanout(t *testing.T) {
	namespace(t)
	veth(t, "a", "b")
	s := begin(t, Config{Interfaces: []string{"b"}, Workers: 3})
	out := newSender(t, "a")
	const n = 3000
	for i := range n {
		f := ether(0x0800, 100, byte(i))
		copy(f[14:], []byte{0x45, 0, 0, 86, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, byte(i), 1, 10, 0, 0, byte(i >> 8)})
		out.send(f)
	}
	times := map[string]int{}
	for _, r := range s.cut() {
		times[string(r.Data[14:34])]++
	}
	for _, k := range times {
		if k != 1 {
			t.Fatalf("a packet was recorded %d times", k)
		}
	}
	if len(times) != n {
		t.Errorf("%d packets recorded, want %d", len(times), n)
	}
	for i, r := range s.recs {
		if len(r.records()) == 0 {
			t.Errorf("worker %d got nothing", i)
		}
	}
}

// TestCut finds everything that was sent before it in sealed chunks, and does
// not wait when there is nothing.
func TestCut(t *testing.T) {
	namespace(t)
	veth(t, "a", "b")
	s := begin(t, Config{Interfaces: []string{"b"}})
	out := newSender(t, "a")
	r := s.recs[0]
	for i := 1; i <= 10; i++ {
		out.send(ether(0x88b5, 60, byte(i)))
		s.cut()
		r.mu.Lock()
		if r.sealed != i {
			t.Errorf("%d of %d packets are sealed", r.sealed, i)
		}
		r.mu.Unlock()
	}
	start := time.Now()
	s.cut()
	if d := time.Since(start); d > retireMillis*time.Millisecond {
		t.Errorf("a cut of nothing took %v", d)
	}

	// Whoever gives up waiting disturbs nobody.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Cut(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Cut with a context that ended: %v", err)
	}
	out.send(ether(0x88b5, 60, 11))
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if !r.closed || r.sealed != 11 {
		t.Errorf("%d of 11 packets are sealed at the end", r.sealed)
	}
	if err := s.Cut(context.Background()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Cut after the end: %v", err)
	}
}

// TestTick comes when nothing else does.
func TestTick(t *testing.T) {
	namespace(t)
	s := begin(t, Config{})
	eventually(t, "no ticks", func() bool {
		s.recs[0].mu.Lock()
		defer s.recs[0].mu.Unlock()
		return len(s.recs[0].ticks) >= 2
	})
}

// TestConsumerFails ends the capture with the reason.
func TestConsumerFails(t *testing.T) {
	namespace(t)
	full := errors.New("disk full")
	rec := &recorder{fail: full}
	c, err := New(Config{Workers: 1, RingSize: 8 << 20, NewConsumer: func(int) Consumer { return rec }})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := c.Run(context.Background()); !errors.Is(err, full) {
		t.Errorf("Run: %v", err)
	}
	if !rec.closed {
		t.Error("the consumer was not closed")
	}
	if err := c.Run(context.Background()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Run again: %v", err)
	}
}

// TestErrors are for people.
func TestErrors(t *testing.T) {
	namespace(t)
	veth(t, "a", "b")
	consumer := func(int) Consumer { return &recorder{} }
	_, err := New(Config{Interfaces: []string{"a", "eth7"}, NewConsumer: consumer})
	if !errors.Is(err, ErrNoInterface) || !strings.Contains(fmt.Sprint(err), "eth7 (there are lo, b, a)") {
		t.Errorf("an interface that is not there: %v", err)
	}
	c, err := New(Config{Interfaces: []string{"a"}, NewConsumer: consumer})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Cut(context.Background()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Cut before Run: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// noRootEnv marks the copy of the test program that has no privileges.
const noRootEnv = "PCAPSULE_TEST_NOROOT"

// TestPermission tells what is missing.
func TestPermission(t *testing.T) {
	if os.Getenv(noRootEnv) != "" {
		_, err := New(Config{NewConsumer: func(int) Consumer { return &recorder{} }})
		fmt.Println(err)
		os.Exit(0)
	}
	if os.Getuid() != 0 || os.Getenv(insideEnv) != "" {
		t.Skip("needs root, to give it up")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestPermission$")
	cmd.Env = append(os.Environ(), noRootEnv+"=1", insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), ErrPermission.Error()) {
		t.Errorf("%v: %s", err, out)
	}
}
