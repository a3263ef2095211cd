//go:build linux

package packets

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pcapsule/chunker"
)

// insideEnv marks the copy of the test program that runs in a user namespace.
const insideEnv = "PCAPSULE_TEST_USERNS"

// TestMain runs the tests in a user namespace when they are not run by root, so
// that they need no privileges where the machine allows that.
func TestMain(m *testing.M) {
	if os.Getuid() == 0 || os.Getenv(insideEnv) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	var exit *exec.ExitError
	switch err := cmd.Run(); {
	case err == nil:
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	default:
		fmt.Fprintln(os.Stderr, "no root and no user namespace: only the tests that need neither are run:", err)
		os.Exit(m.Run())
	}
}

// namespace moves the test to a network namespace of its own, which goes with
// it. Its goroutine keeps its thread to the end; programs it starts run in the
// namespace too.
func namespace(t testing.TB) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if os.Getuid() == 0 {
			t.Fatalf("cannot make a network namespace: %v", err)
		}
		t.Skipf("needs root or a user namespace: %v", err)
	}
	ip(t, "link", "set", "dev", "lo", "up")
}

func ip(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %q: %v: %s", args, err, out)
	}
}

// veth makes a pair of interfaces that carries nothing but what is sent to it.
func veth(t testing.TB, a, b string) {
	t.Helper()
	ip(t, "link", "add", "name", a, "type", "veth", "peer", "name", b)
	for _, name := range []string{a, b} {
		ip(t, "link", "set", "dev", name, "addrgenmode", "none")
		ip(t, "link", "set", "dev", name, "up")
	}
	awaitCarrier(t, a)
	awaitCarrier(t, b)
}

// awaitCarrier waits until an interface that was set up can send: its carrier
// comes a moment later.
func awaitCarrier(t testing.TB, name string) {
	t.Helper()
	eventually(t, name+" has no carrier", func() bool {
		out, err := exec.Command("ip", "-br", "link", "show", "up", "dev", name).Output()
		return err == nil && bytes.Contains(out, []byte("LOWER_UP"))
	})
}

// eventually waits for what the kernel does in its own time.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatal(what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// A sender puts frames on an interface as they are.
type sender struct {
	t  testing.TB
	fd int
	to unix.SockaddrLinklayer
}

func newSender(t testing.TB, name string) *sender {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return &sender{t, fd, unix.SockaddrLinklayer{Ifindex: index(t, name)}}
}

func index(t testing.TB, name string) int {
	t.Helper()
	req, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return int(req.Uint32())
}

func (s *sender) send(frames ...[]byte) {
	s.t.Helper()
	for _, f := range frames {
		if err := unix.Sendto(s.fd, f, 0, &s.to); err != nil {
			s.t.Fatalf("send %d bytes: %v", len(f), err)
		}
	}
}

// A seen is a record that a consumer was given.
type seen struct {
	chunker.Record
	Iface chunker.Interface
}

// A recorder is a consumer that remembers. Its gate, when held, stops it.
type recorder struct {
	gate sync.Mutex

	mu     sync.Mutex
	ifaces []chunker.Interface
	all    []seen
	count  int
	sealed int // of all, those a Cut or Close came after
	cuts   int
	ticks  []int64
	drops  uint64
	modes  []bool // arguments of SetStored
	closed bool
	keep   bool // remember records, not only their number
	fail   error
}

func (r *recorder) Interface(i chunker.Interface) uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := slices.Index(r.ifaces, i); n >= 0 {
		return uint32(n)
	}
	r.ifaces = append(r.ifaces, i)
	return uint32(len(r.ifaces) - 1)
}

func (r *recorder) Add(rec *chunker.Record) error {
	r.gate.Lock()
	defer r.gate.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	if r.keep {
		s := seen{*rec, r.ifaces[rec.Interface]}
		s.Data = bytes.Clone(rec.Data)
		r.all = append(r.all, s)
	}
	return r.fail
}

func (r *recorder) Tick(now int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ticks = append(r.ticks, now)
	return nil
}

func (r *recorder) Cut() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sealed = r.count
	r.cuts++
	return nil
}

func (r *recorder) Drops(n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drops += n
}

func (r *recorder) SetStored(s bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.modes = append(r.modes, s)
}

func (r *recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sealed, r.closed = r.count, true
	return nil
}

func (r *recorder) records() []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// A session is a capture that runs for the length of a test.
type session struct {
	*Capture
	t    testing.TB
	recs []*recorder
	stop func() error
}

// begin captures with recorders as consumers.
func begin(t testing.TB, cfg Config) *session { return beginClock(t, cfg, systemClock) }

func beginClock(t testing.TB, cfg Config, c clock) *session {
	t.Helper()
	s := &session{t: t}
	if cfg.Workers == 0 {
		cfg.Workers = 1
	}
	if cfg.RingSize == 0 {
		cfg.RingSize = 16 << 20
	}
	for range cfg.Workers {
		s.recs = append(s.recs, &recorder{keep: true})
	}
	cfg.NewConsumer = func(i int) Consumer { return s.recs[i] }
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	var err error
	if s.Capture, err = open(cfg, c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	s.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	eventually(t, "capture does not run", s.running.Load)
	return s
}

// cut cuts and returns all records so far.
func (s *session) cut() []seen {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Cut(ctx); err != nil {
		s.t.Fatal(err)
	}
	var all []seen
	for _, r := range s.recs {
		r.mu.Lock()
		if r.cuts == 0 {
			s.t.Error("a worker was not cut")
		}
		r.mu.Unlock()
		all = append(all, r.records()...)
	}
	return all
}

// data are the bytes of records of one interface.
func data(recs []seen, iface string) [][]byte {
	var out [][]byte
	for _, r := range recs {
		if r.Iface.Name == iface {
			out = append(out, r.Data)
		}
	}
	return out
}

// ether makes an Ethernet frame of at least 60 bytes with a recognisable payload.
func ether(etherType uint16, n int, id byte) []byte {
	f := make([]byte, n)
	copy(f, []byte{2, 0, 0, 0, 0, id, 2, 0, 0, 0, 1, id})
	binary.BigEndian.PutUint16(f[12:], etherType)
	for i := 14; i < n; i++ {
		f[i] = byte(i)*31 + id
	}
	return f
}

// tagged puts VLAN tags, the outer one first, each a TPID and a TCI.
func tagged(f []byte, tags ...uint16) []byte {
	out := slices.Clone(f[:12])
	for _, t := range tags {
		out = binary.BigEndian.AppendUint16(out, t)
	}
	return append(out, f[12:]...)
}
