package cluster

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"testing"

	"pcapsule/manifest"
)

// A life is what really happened to a pod: what a Table has to find out.
type life struct {
	name, uid, addr, node  string
	made, took             float64 // its object; when its node took it up
	sandbox, run, end, off float64 // has the address from sandbox to off; its containers run from run to end
	listed, ended, gone    float64 // when the recorder learns of these
	noSandboxTime          bool    // the cluster does not tell when it got its network
}

// lives makes pods that take turns with few addresses, as fast as kubelets may.
func lives(rnd *rand.Rand, n int) []life {
	var all []life
	free := map[string]float64{"10.0.0.1": 0, "10.0.0.2": 0, "10.0.1.1": 0}
	for i := range n {
		addr := []string{"10.0.0.1", "10.0.0.2", "10.0.1.1"}[rnd.IntN(3)]
		l := life{name: fmt.Sprintf("p%d", i), uid: fmt.Sprintf("u%d", i), addr: addr, node: "n" + addr[5:6]}
		l.sandbox = free[addr] + rnd.ExpFloat64()*[]float64{0.02, 1, 20}[rnd.IntN(3)]
		l.took = l.sandbox - 0.05 - rnd.ExpFloat64()*[]float64{0.1, 3}[rnd.IntN(2)]
		l.made = l.took - 0.02 - rnd.ExpFloat64()*[]float64{0.05, 5}[rnd.IntN(2)]
		l.run = l.sandbox + 0.1 + min(rnd.ExpFloat64()*0.4, 1.5)
		l.end = l.run + rnd.ExpFloat64()*[]float64{0.5, 30}[rnd.IntN(2)]
		l.off = l.end + 0.05 + min(rnd.ExpFloat64()*0.3, 1.7)
		l.listed = l.run + 0.1 + min(rnd.ExpFloat64()*0.5, 1.5)
		l.ended = max(l.end, l.listed) + 0.05 + min(rnd.ExpFloat64()*0.4, 1.5)
		l.gone = max(l.off, l.ended) + 0.05 + rnd.ExpFloat64()*0.5
		l.noSandboxTime = rnd.IntN(2) == 0
		if l.made < 1 {
			continue
		}
		free[addr] = l.off
		all = append(all, l)
	}
	return all
}

// tells are the records of a life, with their times.
func (l life) tells(t float64) (s float64, p Pod, gone bool) {
	p = podOf(l.name, l.uid, l.made)
	p.Node = l.node
	if t >= l.listed {
		p = running(p, l.addr, l.run)
		p.Node = l.node
		p.Started = cutTo(l.took)
		if !l.noSandboxTime {
			p.Sandboxed = cutTo(l.sandbox + 1) // noticed late
		}
	}
	if t >= l.ended {
		p = finished(deleting(p, l.end), l.end)
	}
	return t, p, t >= l.gone
}

// A Table names the pod that had an address, for whatever pods and however they
// follow each other: while a pod's containers run it is named, alone or together
// with one that it took over from in these seconds, and at no time does another
// pod stand alone for the one that had the address.
func TestAgainstLives(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		all := lives(rnd, 80)
		node, recorder := manifest.Nanos(rnd.Int64N(600e9)-300e9), manifest.Nanos(rnd.Int64N(600e9)-300e9)
		clocks := map[string]manifest.Clock{"n0": {Offset: node}, "n1": {}}
		s := newScript(t, clocks)
		play(s, rnd, all, recorder, node)
		table := s.table()
		both, total := 0, 0
		for _, l := range all {
			for k := range 60 {
				at := l.sandbox + (l.off-l.sandbox)*float64(k)/60
				if at >= 490 {
					continue
				}
				total++
				found := table.At(netip.MustParseAddr(l.addr), sec(at), l.node)
				named := slices.ContainsFunc(found.Pods, func(o *Object) bool { return o.UID == l.uid })
				if len(found.Pods) > 1 {
					both++
				}
				runs := at >= l.run && at < l.end
				if runs && !named || len(found.Pods) == 1 && !named {
					t.Fatalf("seed %d, at %.3f: %s is %v, and was that of %+v", seed, at, l.addr, names(found.Pods), l)
				}
			}
		}
		if both*2 > total {
			t.Errorf("seed %d: %d of %d answers name several pods", seed, both, total)
		}
	}
}

func names(pods []*Object) (out []string) {
	for _, p := range pods {
		out = append(out, p.Name)
	}
	return out
}

// play records the lives as one recorder does, in chunks of about a minute.
func play(s *script, rnd *rand.Rand, all []life, recorder, node manifest.Nanos) {
	type tell struct {
		at float64
		l  life
	}
	var tells []tell
	for _, l := range all {
		for _, at := range []float64{l.made + 0.005, l.listed, l.ended, l.gone} {
			if at < 500 {
				tells = append(tells, tell{at, l})
			}
		}
	}
	sort.SliceStable(tells, func(i, k int) bool { return tells[i].at < tells[k].at })
	off := float64(recorder) / 1e9
	state := map[string]Pod{}
	cut := 0.0
	open := func(at float64) {
		if s.c != nil {
			s.alive(at + off)
		}
		var objects []any
		for _, l := range all {
			if p, ok := state[l.uid]; ok {
				objects = append(objects, p)
			}
		}
		s.chunk(at+off, Keyframe{Node: "n1", Clock: manifest.Clock{Offset: recorder}}, objects...)
		cut = at + 30 + rnd.Float64()*60
	}
	open(0)
	for _, x := range tells {
		if x.at > cut {
			open(cut)
		}
		_, p, gone := x.l.tells(x.at)
		if x.l.node == "n0" { // by its node's clock
			shift(&p, node)
		}
		if gone {
			s.gone(x.at+off, p)
			delete(state, x.l.uid)
			continue
		}
		s.set(x.at+off, p)
		state[x.l.uid] = p
	}
	s.alive(500 + off)
}

// shift moves what the kubelet told.
func shift(p *Pod, by manifest.Nanos) {
	d := by.Time().Sub(manifest.Nanos(0).Time())
	if !p.Started.IsZero() {
		p.Started = p.Started.Add(d)
	}
	if !p.Sandboxed.IsZero() {
		p.Sandboxed = p.Sandboxed.Add(d)
	}
	for i := range p.Containers {
		c := &p.Containers[i]
		c.Started = c.Started.Add(d)
		if !c.Finished.IsZero() {
			c.Finished = c.Finished.Add(d)
		}
	}
}

// A track says what a look at every hold says.
func TestTrackAgainstHolds(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		var holds []hold
		for i := range 1 + rnd.IntN(8) {
			h := hold{Object: &Object{Ref: Ref{Name: strconv.Itoa(i)}, Node: strconv.Itoa(rnd.IntN(2))}}
			h.maybeFrom = rnd.Int64N(40)
			h.from = h.maybeFrom + rnd.Int64N(10)
			h.to = h.from + rnd.Int64N(20)
			h.maybeTo = h.to + rnd.Int64N(10)
			holds = append(holds, h)
		}
		tr := newTrack(holds, true)
		for at := range int64(90) {
			var want []string
			for i, h := range holds {
				if at < h.maybeFrom || at >= h.maybeTo {
					continue
				}
				sure := at >= h.from && at < h.to
				beaten := false
				for k, g := range holds {
					if k == i || g.Node != h.Node || at < g.from || at >= g.to {
						continue
					}
					beaten = beaten || !sure || g.from > h.from || g.from == h.from && g.Name < h.Name
				}
				if !beaten {
					want = append(want, h.Name)
				}
			}
			found, s := tr.at(at)
			var got []string
			for _, c := range found {
				got = append(got, c.Name)
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(want, got) || at < s.from || at >= s.to {
				t.Fatalf("seed %d, at %d: %v, want %v (from %d to %d)", seed, at, got, want, s.from, s.to)
			}
		}
	}
}

// Whatever a chunk says, a table is made of it or it is refused.
func FuzzChunk(f *testing.F) {
	var seed []byte
	for _, r := range everything() {
		line, err := Append(nil, &r)
		if err != nil {
			f.Fatal(err)
		}
		seed = append(append(seed, line...), '\n')
	}
	f.Add(seed)
	f.Add([]byte("{\"ts\":\"1\",\"op\":\"keyframe\",\"keyframe\":{\"version\":1}}\n{\"ts\":\"1\",\"op\":\"gone\"}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		builder := NewBuilder(nil, 0, 1<<62)
		for range 2 {
			c := builder.Chunk()
			for line := range lines(b) {
				r, err := Decode(line)
				if err != nil {
					return
				}
				if c.Line(int64(r.Time), line) != nil {
					break
				}
			}
			c.End()
		}
		table := builder.Table()
		for _, n := range table.Names(0, 1<<62) {
			for _, at := range []int64{0, 1764000000000000000, 1 << 62} {
				a := table.At(n.Addr, at, "n1")
				if at < a.From || at >= a.Until {
					t.Fatalf("%s at %d: the answer is for %d to %d", n.Addr, at, a.From, a.Until)
				}
				table.Serving(n.Addr, at)
			}
		}
	})
}

func lines(b []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		start := 0
		for i, c := range b {
			if c == '\n' {
				if !yield(b[start:i]) {
					return
				}
				start = i + 1
			}
		}
	}
}

// BenchmarkLoad loads an hour of 50,000 pods: six chunks, each with a keyframe,
// and a thousand changes.
func BenchmarkLoad(b *testing.B) {
	const pods = 50_000
	state := make([]Pod, pods)
	for i := range state {
		state[i] = running(podOf(fmt.Sprintf("web-7d9f8c6b5-%05d", i), fmt.Sprintf("6f1c2b3a-0000-4000-8000-%012d", i), 1),
			fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), 2)
		state[i].Labels = map[string]string{"app": "web", "pod-template-hash": "7d9f8c6b5", "app.kubernetes.io/name": "web"}
		state[i].Owner = &Ref{Kind: "ReplicaSet", Name: "web-7d9f8c6b5", UID: "u-rs"}
		state[i].Containers[0].Image = "registry.example/shop/web:1.2.3"
		state[i].Containers[0].ImageID = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	}
	var chunks [][][]byte
	line := func(at float64, r Record) []byte {
		r.Time = manifest.Nanos(sec(at))
		l, err := Append(nil, &r)
		if err != nil {
			b.Fatal(err)
		}
		return l
	}
	for c := range 6 {
		at := float64(c * 600)
		out := [][]byte{line(at, Record{Op: OpKeyframe, Keyframe: &Keyframe{Version: 1, Node: "n1"}})}
		for _, p := range state {
			out = append(out, line(at, of(OpState, p)))
		}
		out = append(out, line(at, Record{Op: OpComplete, Objects: pods}))
		for i := range 1000 {
			p := &state[(c*1000+i)*7%pods]
			p.Containers[0].Restarts++
			out = append(out, line(at+float64(i)/2, of(OpSet, *p)))
		}
		chunks = append(chunks, append(out, line(at+600, Record{Op: OpAlive})))
	}
	for b.Loop() {
		builder := NewBuilder(nil, 0, 1<<62)
		for n, lines := range chunks {
			c := builder.Chunk()
			for i, l := range lines {
				at := sec(float64(n * 600))
				if i > pods {
					r, err := Decode(l)
					if err != nil {
						b.Fatal(err)
					}
					at = int64(r.Time)
				}
				if err := c.Line(at, l); err != nil {
					b.Fatal(err)
				}
			}
			c.End()
		}
		if n := len(builder.Table().Objects(KindPod)); n != pods {
			b.Fatal(n)
		}
	}
}
