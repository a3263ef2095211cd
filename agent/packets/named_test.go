//go:build linux

package packets

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNamed follows what becomes of interfaces that were named.
func TestNamed(t *testing.T) {
	up := func(index int, name string) link {
		return link{index: index, name: name, hatype: 1, flags: unix.IFF_UP}
	}
	down := func(index int, name string) link { return link{index: index, name: name, hatype: 1} }
	const gone = NamedGone
	for _, tt := range []struct {
		name  string
		named []string
		steps [][]link
		state []NamedState // of each named one, at the end
		want  []int        // devices, at the end
	}{
		{"there", []string{"a"}, [][]link{{up(1, "a"), up(2, "b")}}, []NamedState{NamedUp}, []int{1}},
		{"named twice", []string{"a", "a"}, [][]link{{up(1, "a")}}, []NamedState{NamedUp}, []int{1}},
		{"down", []string{"a"}, [][]link{{down(1, "a")}}, []NamedState{NamedDown}, []int{1}},
		{"renamed", []string{"a"}, [][]link{{up(1, "a")}, {up(1, "x")}}, []NamedState{NamedUp}, []int{1}},
		{"renamed and gone", []string{"a"}, [][]link{{up(1, "a")}, {up(1, "x")}, {up(2, "b")}}, []NamedState{gone}, []int{}},
		{"gone and back", []string{"a"}, [][]link{{up(1, "a")}, {}, {up(2, "a")}}, []NamedState{NamedUp}, []int{2}},
		{"gone and back, unseen", []string{"a"}, [][]link{{up(1, "a")}, {up(2, "a")}}, []NamedState{NamedUp}, []int{2}},
		{"another has its name", []string{"a"}, [][]link{{up(1, "a")}, {up(1, "x")}, {up(1, "x"), up(2, "a")}}, []NamedState{NamedUp}, []int{1, 2}},
		{"one of two is down", []string{"a"}, [][]link{{up(1, "a")}, {down(1, "x"), up(2, "a")}}, []NamedState{NamedUp}, []int{1, 2}},
		{"names that change places", []string{"a"}, [][]link{{up(1, "a"), up(2, "b")}, {up(1, "t"), up(2, "b")}, {up(1, "t"), up(2, "a")}, {up(1, "b"), up(2, "a")}},
			[]NamedState{NamedUp}, []int{1, 2}},
		{"both of two that change places", []string{"a", "b"}, [][]link{{up(1, "a"), up(2, "b")}, {up(1, "b"), up(2, "a")}}, []NamedState{NamedUp, NamedUp}, []int{1, 2}},
		{"one of two goes", []string{"a", "b"}, [][]link{{up(1, "a"), up(2, "b")}, {up(2, "b")}}, []NamedState{gone, NamedUp}, []int{2}},
		{"never there", []string{"a"}, [][]link{{up(2, "b")}}, []NamedState{gone}, []int{}},
	} {
		n := newNamed(tt.named)
		for _, present := range tt.steps {
			n.update(present)
			if n.update(present) {
				t.Errorf("%s: nothing changed, and it is told", tt.name)
			}
		}
		var states []NamedState
		for _, o := range n.list {
			states = append(states, o.State)
		}
		if !slices.Equal(states, tt.state) || !slices.Equal(n.indexes(), tt.want) {
			t.Errorf("%s: states %v, devices %v; want %v, %v", tt.name, states, n.indexes(), tt.state, tt.want)
		}
	}

	// Names that wander from device to device take no room.
	n := newNamed([]string{"a"})
	var present []link
	for i := range 100 {
		for j := range present {
			present[j].name = fmt.Sprintf("x%d", j)
		}
		present = append(present, up(i+1, "a"))
		n.update(present)
	}
	if got, want := n.indexes(), []int{97, 98, 99, 100}; !slices.Equal(got, want) {
		t.Errorf("devices %v, want the newest, %v", got, want)
	}
}

// elsewhere is a process in a network namespace of its own.
func elsewhere(t *testing.T) (pid string) {
	t.Helper()
	cmd := exec.Command("unshare", "--net", "sh", "-c", "echo there; exec sleep 60")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "there\n" {
		t.Fatalf("cannot make a network namespace: %q, %v", line, err)
	}
	return strconv.Itoa(cmd.Process.Pid)
}

// TestMovedAway tells of an interface that is moved to another network namespace,
// while another goes on, and takes up what comes back.
func TestMovedAway(t *testing.T) {
	namespace(t)
	veth(t, "a", "b")
	veth(t, "c", "d")
	var mu sync.Mutex
	states := map[string]NamedState{}
	s := begin(t, Config{Interfaces: []string{"b", "d"}, OnNamed: func(_ int64, list []Named) {
		mu.Lock()
		defer mu.Unlock()
		for _, n := range list {
			states[n.Name] = n.State
		}
	}})
	are := func(b, d NamedState) {
		t.Helper()
		eventually(t, fmt.Sprintf("b and d are not told to be %d and %d", b, d), func() bool {
			mu.Lock()
			defer mu.Unlock()
			return states["b"] == b && states["d"] == d && len(states) == 2
		})
	}
	are(NamedUp, NamedUp)
	ip(t, "link", "set", "dev", "b", "netns", elsewhere(t))
	are(NamedGone, NamedUp)
	newSender(t, "c").send(ether(0x88b5, 60, 1))
	if n := len(data(s.cut(), "d")); n != 1 {
		t.Errorf("%d packets on the interface that stayed, want 1", n)
	}
	ip(t, "link", "del", "dev", "a")
	veth(t, "a", "b")
	are(NamedUp, NamedUp)
	newSender(t, "a").send(ether(0x88b5, 60, 2))
	if n := len(data(s.cut(), "b")); n != 1 {
		t.Errorf("%d packets on the interface that came back, want 1", n)
	}
}

// TestNewsLost finds out what became of interfaces when there was more news than
// the kernel keeps, and is not misled by what it had kept.
func TestNewsLost(t *testing.T) {
	namespace(t)
	veth(t, "a", "b")
	l, err := openLinks(slog.New(slog.DiscardHandler), func() int64 { wall, _, _ := systemClock(); return wall }, false)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if err := unix.SetsockoptInt(l.news.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil { // as little as there can be
		t.Fatal(err)
	}
	n := newNamed([]string{"b"})
	n.update(l.table().present())
	ip(t, "link", "set", "dev", "b", "alias", "kept") // this news fits
	for i := range 20 {
		ip(t, "link", "set", "dev", "b", "alias", fmt.Sprint("lost ", i))
	}
	ip(t, "link", "del", "dev", "b")
	l.mu.Lock()
	l.changed = func(t *table) { n.update(t.present()) }
	l.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { l.follow(ctx) })
	eventually(t, "an interface that is gone is still there", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return n.list[0].State == NamedGone
	})
	veth(t, "a", "b")
	eventually(t, "an interface that came later is not there", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return n.list[0].State == NamedUp
	})
	cancel()
	l.stop()
	done.Wait()
}
