package cluster

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/manifest"
)

// Times in tests are seconds after noon.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func sec(seconds float64) int64 { return noon.UnixNano() + int64(math.Round(seconds*1e9)) }

// cutTo is a time as Kubernetes tells it: cut to the second.
func cutTo(seconds float64) time.Time { return time.Unix(0, sec(seconds)).UTC().Truncate(time.Second) }

// A script makes chunks by hand.
type script struct {
	t testing.TB
	b *Builder
	c *Chunk
}

func newScript(t testing.TB, clocks map[string]manifest.Clock) *script {
	return &script{t: t, b: NewBuilder(clocks, sec(-1e6), sec(1e6))}
}

// add adds a record as a line, as a reader of a chunk does.
func (s *script) add(seconds float64, r Record) {
	s.t.Helper()
	r.Time = manifest.Nanos(sec(seconds))
	line, err := Append(nil, &r)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.c.Line(int64(r.Time), line); err != nil {
		s.t.Fatal(err)
	}
}

// chunk opens one with a keyframe of these objects.
func (s *script) chunk(seconds float64, k Keyframe, objects ...any) {
	s.t.Helper()
	if s.c != nil {
		s.c.End()
	}
	s.c = s.b.Chunk()
	k.Version = Version
	s.add(seconds, Record{Op: OpKeyframe, Keyframe: &k})
	for _, o := range objects {
		s.add(seconds, of(OpState, o))
	}
	s.add(seconds, Record{Op: OpComplete, Objects: len(objects)})
}

func of(op string, o any) Record {
	r := Record{Op: op}
	switch o := o.(type) {
	case Pod:
		r.Pod = &o
	case Service:
		r.Service = &o
	case Endpoints:
		r.Endpoints = &o
	case Node:
		r.Node = &o
	case Namespace:
		r.Namespace = &o
	case Workload:
		r.Workload = &o
	default:
		panic(fmt.Sprintf("%T", o))
	}
	return r
}

func (s *script) set(seconds float64, o any)  { s.t.Helper(); s.add(seconds, of(OpSet, o)) }
func (s *script) gone(seconds float64, o any) { s.t.Helper(); s.add(seconds, of(OpGone, o)) }
func (s *script) alive(seconds float64)       { s.t.Helper(); s.add(seconds, Record{Op: OpAlive}) }
func (s *script) gap(from, to float64) {
	s.t.Helper()
	s.add(to, Record{Op: OpGap, Gap: &Gap{From: manifest.Nanos(sec(from)), Reason: manifest.GapUnreachable}})
}

func (s *script) table() *Table {
	s.c.End()
	return s.b.Table()
}

// podOf is a pod that was just made.
func podOf(name, uid string, created float64) Pod {
	return Pod{
		Meta: Meta{UID: uid, Namespace: "shop", Name: name, Created: cutTo(created)}, Node: "n1", Phase: "Pending",
	}
}

// running is p when its status tells its address, and that its container runs.
func running(p Pod, addr string, started float64) Pod {
	p.Addresses, p.Phase = strings.Fields(addr), "Running"
	p.Started = cutTo(started - 1)
	p.Containers = []Container{{Name: "c", State: "running", Started: cutTo(started)}}
	return p
}

// deleting is p when its deletion was asked for.
func deleting(p Pod, asked float64) Pod {
	p.Deleted = cutTo(asked)
	return p
}

// finished is p when its container has terminated.
func finished(p Pod, end float64) Pod {
	c := p.Containers[0]
	c.State, c.Finished, c.ExitCode = "terminated", cutTo(end), 137
	p.Containers = []Container{c}
	return p
}

func failed(p Pod, reason string) Pod {
	p.Phase, p.Reason = "Failed", reason
	return p
}

// who is whose an address is at a time, in short.
func who(t *Table, addr string, seconds float64, node string) string {
	a := t.At(netip.MustParseAddr(addr), sec(seconds), node)
	var names []string
	for _, p := range a.Pods {
		names = append(names, p.Name)
	}
	switch {
	case len(names) > 0:
		return strings.Join(names, "|")
	case a.Node != nil:
		return "node " + a.Node.Name
	case len(a.Services) > 0:
		return "service " + a.Services[0].Name
	case !a.Recorded:
		return "?"
	}
	return "-"
}

// timeline is who had an address, from each second on at which that changes.
func timeline(t *Table, addr, node string, from, to float64) string {
	var out []string
	last := ""
	for i := int(from * 10); i < int(to*10); i++ {
		if w := who(t, addr, float64(i)/10, node); w != last {
			out = append(out, fmt.Sprintf("%.1f %s", float64(i)/10, w))
			last = w
		}
	}
	return strings.Join(out, ", ")
}

func TestAddressOfPod(t *testing.T) {
	const ip = "10.0.0.5"
	a, b := podOf("a", "u-a", 10), podOf("b", "u-b", 50)
	aRuns := running(a, ip, 12)
	minutes := func(m float64) manifest.Clock {
		return manifest.Clock{Offset: manifest.Nanos(m * 60e9), Error: 1e6}
	}
	tests := []struct {
		name   string
		clocks map[string]manifest.Clock
		play   func(s *script)
		node   string
		from   float64
		to     float64
		want   string
	}{
		{
			name: "a pod comes, is deleted and goes",
			play: func(s *script) {
				s.chunk(0, Keyframe{})
				s.set(10.1, a)
				s.set(13.4, aRuns) // a second late
				s.set(30.2, deleting(aRuns, 30.2))
				s.set(31.6, finished(deleting(aRuns, 30.2), 31.2))
				s.gone(32.3, finished(deleting(aRuns, 30.2), 31.2))
				s.alive(60)
			},
			to: 60, want: "0.0 -, 11.0 a, 32.3 -",
		},
		{
			name: "only keyframes, before and after",
			play: func(s *script) {
				s.chunk(20, Keyframe{}, aRuns)
				s.alive(25)
			},
			to: 40, want: "0.0 ?, 11.0 a, 27.0 ?",
		},
		{
			name: "the address is given to another right away",
			play: func(s *script) {
				s.chunk(0, Keyframe{}, aRuns)
				s.set(31.6, finished(deleting(aRuns, 30), 31.2))
				s.gone(31.9, finished(deleting(aRuns, 30), 31.2))
				s.set(32.0, podOf("b", "u-b", 32))
				s.set(33.8, running(podOf("b", "u-b", 32), ip, 32.5))
				s.alive(60)
			},
			from: 25, to: 60, want: "25.0 a, 31.9 b",
		},
		{
			// b waits for the address when a finishes, and starts in the same second.
			name: "within the same second nobody can say",
			play: func(s *script) {
				s.chunk(0, Keyframe{}, aRuns)
				s.set(20, podOf("b", "u-b", 20))
				s.set(31.8, finished(deleting(aRuns, 30), 31.1))
				b := running(podOf("b", "u-b", 20), ip, 31.6)
				b.Started = cutTo(20)
				s.set(31.9, b)
				s.gone(32.4, finished(deleting(aRuns, 30), 31.1))
				s.alive(60)
			},
			from: 25, to: 60, want: "25.0 a, 31.0 a|b, 31.9 b",
		},
		{
			name: "a StatefulSet's pod, made again under its name",
			play: func(s *script) {
				db := running(podOf("db-0", "u-1", 1), ip, 2)
				db.Owner = &Ref{Kind: "StatefulSet", Name: "db", UID: "u-db"}
				s.chunk(10, Keyframe{}, db)
				s.set(30.9, finished(deleting(db, 30), 30.7))
				s.gone(31.3, finished(deleting(db, 30), 30.7))
				s.set(31.4, podOf("db-0 again", "u-2", 31))
				s.set(33.0, running(podOf("db-0 again", "u-2", 31), ip, 32))
				s.alive(40)
			},
			from: 10, to: 40, want: "10.0 db-0, 31.3 db-0 again",
		},
		{
			name: "evicted, and its object stays",
			play: func(s *script) {
				s.chunk(0, Keyframe{}, aRuns)
				s.set(30.1, failed(aRuns, "Evicted"))
				s.set(32.4, failed(finished(aRuns, 31.5), "Evicted"))
				s.set(50.1, b)
				s.set(52.6, running(b, ip, 51.2))
				s.alive(60)
			},
			from: 20, to: 60, want: "20.0 a, 34.0 -, 50.0 b",
		},
		{
			name: "a job completes, and keeps its address in the API for long",
			play: func(s *script) {
				done := finished(aRuns, 20.5)
				done.Phase = "Succeeded"
				s.chunk(0, Keyframe{}, aRuns)
				s.set(21.0, done)
				s.set(50.0, b)
				s.set(52.0, running(b, ip, 51))
				s.chunk(60, Keyframe{}, done, running(b, ip, 51))
				s.alive(70)
			},
			from: 10, to: 70, want: "10.0 a, 23.0 -, 50.0 b",
		},
		{
			name: "a container that crashes all the time keeps its pod's address",
			play: func(s *script) {
				crashed := finished(aRuns, 20)
				crashed.Containers[0].State = "waiting"
				s.chunk(0, Keyframe{}, aRuns)
				s.set(20.5, finished(aRuns, 20))
				s.set(21, crashed)
				s.alive(70)
			},
			from: 10, to: 70, want: "10.0 a",
		},
		{
			name: "its node is lost, and its object stays",
			play: func(s *script) {
				s.chunk(0, Keyframe{}, aRuns, Node{Meta: Meta{UID: "u-n1", Name: "n1"}, Conditions: map[string]string{"Ready": "True"}})
				s.set(30, Node{Meta: Meta{UID: "u-n1", Name: "n1"}, Conditions: map[string]string{"Ready": "Unknown"}})
				elsewhere := b
				elsewhere.Node = "n2"
				s.set(50.1, elsewhere)
				s.set(52.6, running(elsewhere, ip, 51.2))
				s.alive(60)
			},
			from: 20, to: 60, want: "20.0 a, 50.0 a|b, 52.0 b",
		},
		{
			name: "the same address on two nodes, seen on one",
			node: "n2",
			play: func(s *script) {
				other := running(podOf("other", "u-o", 2), ip, 4)
				other.Node = "n2"
				s.chunk(10, Keyframe{}, aRuns, other)
				s.alive(20)
			},
			from: 14, to: 19, want: "14.0 other",
		},
		{
			name: "the same address on two nodes, seen on neither",
			node: "n3",
			play: func(s *script) {
				other := running(podOf("other", "u-o", 2), ip, 4)
				other.Node = "n2"
				s.chunk(10, Keyframe{}, aRuns, other)
				s.alive(20)
			},
			from: 14, to: 19, want: "14.0 a|other",
		},
		{
			name: "another recorder goes on after a while, and the pod is still there",
			play: func(s *script) {
				s.chunk(0, Keyframe{Node: "n1"}, aRuns)
				s.alive(30)
				s.chunk(90, Keyframe{Node: "n2"}, aRuns)
				s.alive(100)
			},
			from: 20, to: 100, want: "20.0 a",
		},
		{
			name: "the pod went while nobody recorded",
			play: func(s *script) {
				s.chunk(0, Keyframe{Node: "n1"}, aRuns)
				s.alive(30)
				s.chunk(90, Keyframe{Node: "n2"})
				s.alive(100)
			},
			from: 20, to: 100, want: "20.0 a, 32.0 ?, 90.0 -",
		},
		{
			name: "another has its address after nobody recorded",
			play: func(s *script) {
				s.chunk(0, Keyframe{Node: "n1"}, aRuns)
				s.alive(30)
				s.chunk(90, Keyframe{Node: "n2"}, running(b, ip, 51.2))
				s.alive(100)
			},
			from: 20, to: 100, want: "20.0 a, 32.0 ?, 50.0 b",
		},
		{
			name: "the API server was away",
			play: func(s *script) {
				s.chunk(0, Keyframe{Node: "n1"}, aRuns)
				s.gap(30, 70.5)
				s.gone(70.5, aRuns)
				s.set(70.6, running(b, ip, 51.2))
				s.alive(100)
			},
			from: 20, to: 80, want: "20.0 a, 32.0 ?, 50.0 b",
		},
		{
			name:   "the node's clock is ten minutes ahead, and known to be",
			clocks: map[string]manifest.Clock{"n1": minutes(10)},
			play: func(s *script) {
				s.chunk(0, Keyframe{})
				s.set(10.1, a)
				s.set(13.4, running(a, ip, 612))
				s.set(31.6, finished(deleting(running(a, ip, 612), 30.2), 631.2))
				s.gone(32.3, finished(deleting(running(a, ip, 612), 30.2), 631.2))
				s.alive(60)
			},
			to: 60, want: "0.0 -, 11.0 a, 32.3 -",
		},
		{
			name: "the node's clock is ten minutes ahead, and nobody knows",
			play: func(s *script) {
				s.chunk(0, Keyframe{})
				s.set(10.1, a)
				s.set(13.4, running(a, ip, 612))
				s.set(31.6, finished(deleting(running(a, ip, 612), 30.2), 631.2))
				s.gone(32.3, finished(deleting(running(a, ip, 612), 30.2), 631.2))
				s.alive(60)
			},
			to: 60, want: "0.0 -, 13.4 a, 32.3 -",
		},
		{
			name: "the node's clock is ten minutes behind, and nobody knows",
			play: func(s *script) {
				s.chunk(0, Keyframe{})
				s.set(10.1, a)
				s.set(13.4, running(a, ip, -588))
				s.set(31.6, finished(deleting(running(a, ip, -588), 30.2), -568.8))
				s.gone(32.3, finished(deleting(running(a, ip, -588), 30.2), -568.8))
				s.alive(60)
			},
			to: 60, want: "0.0 -, 9.1 a, 29.6 -",
		},
		{
			name: "the recorder's clock is five minutes ahead",
			play: func(s *script) {
				s.chunk(300, Keyframe{Clock: minutes(5)})
				s.set(310.1, a)
				s.set(313.4, aRuns)
				s.gone(332.3, finished(deleting(aRuns, 30.2), 31.2))
				s.alive(360)
			},
			to: 59, want: "0.0 -, 11.0 a, 32.3 -",
		},
		{
			name: "two recorders overlap, and their clocks differ by minutes",
			play: func(s *script) {
				s.chunk(0, Keyframe{Node: "n1"}, aRuns)
				s.alive(35)
				s.chunk(-30, Keyframe{Node: "n2", Clock: minutes(-1)}, aRuns) // at 30
				s.gone(-15, finished(deleting(aRuns, 40), 44.2))              // at 45
				s.alive(0)                                                    // at 60
			},
			from: 20, to: 59, want: "20.0 a, 45.0 -",
		},
		{
			name: "the chunks come in another order",
			play: func(s *script) {
				s.chunk(30, Keyframe{Node: "n2"}, aRuns)
				s.gone(45, finished(deleting(aRuns, 40), 44.2))
				s.alive(60)
				s.chunk(0, Keyframe{Node: "n1"})
				s.set(10.1, a)
				s.set(13.4, aRuns)
				s.alive(30)
			},
			to: 59, want: "0.0 -, 11.0 a, 45.0 -",
		},
		{
			name: "a pod on its node's network has no address of its own",
			play: func(s *script) {
				proxy := running(podOf("proxy", "u-p", 1), ip, 2)
				proxy.HostNetwork = true
				s.chunk(10, Keyframe{}, proxy, Node{Meta: Meta{UID: "u-n1", Name: "n1"}, Addresses: []string{ip}})
				s.alive(20)
			},
			to: 20, want: "0.0 node n1",
		},
		{
			name: "a service",
			play: func(s *script) {
				svc := Service{Meta: Meta{UID: "u-s", Namespace: "shop", Name: "db"}, Addresses: []string{ip}, External: []string{"lb.example", "203.0.113.4"}}
				s.chunk(10, Keyframe{})
				s.set(12, svc)
				s.gone(17, svc)
				s.alive(20)
			},
			from: 10, to: 20, want: "10.0 -, 12.0 service db, 17.0 -",
		},
		{
			name: "the recorder may not see pods",
			play: func(s *script) {
				s.chunk(0, Keyframe{Missing: []string{"pods"}})
				s.alive(40)
			},
			to: 30, want: "0.0 ?",
		},
		{
			name: "the writer of a keyframe died in it",
			play: func(s *script) {
				s.c = s.b.Chunk()
				s.add(20, Record{Op: OpKeyframe, Keyframe: &Keyframe{Version: 1}})
				s.add(20, of(OpState, aRuns))
			},
			to: 40, want: "0.0 ?, 11.0 a, 22.0 ?",
		},
		{
			name: "a pod changes its address when its node was started again",
			play: func(s *script) {
				s.chunk(0, Keyframe{}, running(a, "10.0.0.4", 1))
				s.set(30.5, aRuns)
				s.alive(60)
			},
			to: 60, want: "0.0 -, 28.5 a",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScript(t, tt.clocks)
			tt.play(s)
			if got := timeline(s.table(), ip, tt.node, tt.from, tt.to); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestDualStack(t *testing.T) {
	s := newScript(t, nil)
	s.chunk(0, Keyframe{})
	s.set(10, podOf("a", "u-a", 10))
	s.set(13, running(podOf("a", "u-a", 10), "10.0.0.5 fd00::5", 12))
	s.alive(20)
	table := s.table()
	for _, addr := range []string{"10.0.0.5", "fd00::5", "::ffff:10.0.0.5"} {
		if got := timeline(table, addr, "", 0, 20); got != "0.0 -, 11.0 a" {
			t.Errorf("%s: %s", addr, got)
		}
	}
}

func TestServing(t *testing.T) {
	s := newScript(t, nil)
	ports := []Port{{Name: "sql", Protocol: "TCP", Port: 5432}}
	db := running(podOf("db-0", "u-db", 10), "10.0.0.5", 12)
	slice := func(addrs ...string) Endpoints {
		e := Endpoints{Meta: Meta{UID: "u-e", Namespace: "shop", Name: "db-x"}, Service: "db", Ports: ports}
		for _, a := range addrs {
			e.Members = append(e.Members, Endpoint{Addresses: []string{a}, Pod: &Ref{Kind: "Pod", Name: "db-0", UID: "u-db"}, Ready: true})
		}
		return e
	}
	s.chunk(0, Keyframe{}, slice("10.0.0.4"))
	s.set(10, podOf("db-0", "u-db", 10))
	s.set(13, db)
	s.set(14, slice("10.0.0.4", "10.0.0.5"))
	s.set(30, slice("10.0.0.4"))
	s.alive(40)
	table := s.table()
	for seconds, want := range map[float64]int{10: 0, 11.5: 1, 20: 1, 31: 0} {
		got, from, until := table.Serving(netip.MustParseAddr("10.0.0.5"), sec(seconds))
		if len(got) != want || from > sec(seconds) || until <= sec(seconds) {
			t.Errorf("at %g: %d services, from %d until %d", seconds, len(got), from-sec(seconds), until-sec(seconds))
		}
		if want == 1 && (got[0].Service.Path() != "shop/db" || !cmp.Equal(got[0].Ports, ports)) {
			t.Errorf("at %g: %+v", seconds, got[0])
		}
	}
	if got := table.Objects(KindService); len(got) != 1 || got[0].Name != "db" {
		t.Errorf("services: %v", got)
	}
}

func TestOwners(t *testing.T) {
	s := newScript(t, nil)
	p := running(podOf("web-1-x", "u-p", 1), "10.0.0.5", 2)
	p.Owner = &Ref{Kind: "ReplicaSet", Name: "web-1", UID: "u-rs"}
	loop := podOf("loop", "u-l", 1)
	loop.Owner = &Ref{Kind: "Job", Name: "loop", UID: "u-loop"}
	s.chunk(0, Keyframe{}, p, loop,
		Workload{Meta: Meta{UID: "u-rs", Namespace: "shop", Name: "web-1", Owner: &Ref{Kind: "Deployment", Name: "web", UID: "u-d"}}, Kind: "ReplicaSet"},
		Workload{Meta: Meta{UID: "u-loop", Namespace: "shop", Name: "loop", Owner: &Ref{Kind: "Job", Name: "loop", UID: "u-loop"}}, Kind: "Job"},
		Namespace{Meta: Meta{UID: "u-ns", Name: "shop"}})
	table := s.table()
	var got []string
	for _, r := range table.Owners(table.Object("u-p")) {
		got = append(got, r.Kind+" "+r.Path())
	}
	if diff := cmp.Diff([]string{"ReplicaSet shop/web-1", "Deployment shop/web"}, got); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
	if n := len(table.Owners(table.Object("u-l"))); n > maxOwners {
		t.Errorf("%d owners of what owns itself", n)
	}
	if len(table.Objects(KindNamespace)) != 1 || len(table.Objects(KindPod)) != 2 || len(table.Objects("Zebra")) != 0 {
		t.Error("objects by kind")
	}
}

func TestNames(t *testing.T) {
	s := newScript(t, nil)
	a := running(podOf("a", "u-a", 1), "10.0.0.5", 2)
	s.chunk(0, Keyframe{}, a,
		Service{Meta: Meta{UID: "u-s", Namespace: "shop", Name: "db"}, Addresses: []string{"10.96.0.1"}},
		Node{Meta: Meta{UID: "u-n", Name: "n1"}, Addresses: []string{"192.0.2.1"}})
	s.gone(30, a)
	s.set(31, podOf("b", "u-b", 31))
	s.set(33, running(podOf("b", "u-b", 31), "10.0.0.5", 32))
	s.alive(100)
	table := s.table()
	short := func(from, to float64) (out []string) {
		for _, n := range table.Names(sec(from), sec(to)) {
			out = append(out, fmt.Sprintf("%s %s %v", n.Addr, n.Object.Path(), n.Others))
		}
		return out
	}
	if diff := cmp.Diff([]string{"10.0.0.5 shop/b true", "10.96.0.1 shop/db false", "192.0.2.1 n1 false"}, short(10, 90)); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if got := short(10, 20); !slices.Contains(got, "10.0.0.5 shop/a false") {
		t.Errorf("names of a part: %v", got)
	}
}
