package pcapgen

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
	"pcapsule/cluster"
	"pcapsule/internal/pcapng"
	"pcapsule/manifest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// kubernetes adds a chunk of the kubernetes stream. Times are after t0.
func (s *snapshot) kubernetes(records ...cluster.Record) string {
	s.t.Helper()
	var b bytes.Buffer
	w, err := chunker.NewWriter(&b, chunker.Kubernetes, chunker.Header{Node: "a"})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range records {
		r.Time += t0
		line, err := cluster.Append(nil, &r)
		if err != nil {
			s.t.Fatal(err)
		}
		if err := w.Event(int64(r.Time), line); err != nil {
			s.t.Fatal(err)
		}
	}
	meta, err := w.Close(0)
	if err != nil {
		s.t.Fatal(err)
	}
	key := manifest.ObjectKey{Kind: manifest.KindChunk, Hash: meta.Hash, Ext: chunker.EventsExt}.String()
	sum := sha256.Sum256(b.Bytes())
	s.store.bytes[key] = b.Bytes()
	s.inventories["cluster"] = append(s.inventories["cluster"], manifest.Entry{
		Key: key, Size: meta.Size, RawSize: meta.RawSize, SHA256: hex.EncodeToString(sum[:]),
		First: manifest.Nanos(meta.First), Last: manifest.Nanos(meta.Last), Records: meta.Records,
	})
	if len(s.m.Streams) == 0 {
		s.m.Streams = []manifest.Stream{{Stream: chunker.Kubernetes, Inventory: "cluster"}}
	}
	s.m.Streams[0].Chunks++
	return key
}

func rec(ms int64, op string, o any) cluster.Record {
	r := cluster.Record{Time: manifest.Nanos(ms * 1e6), Op: op}
	switch o := o.(type) {
	case nil:
	case cluster.Keyframe:
		r.Keyframe = &o
	case cluster.Pod:
		r.Pod = &o
	case cluster.Service:
		r.Service = &o
	case cluster.Endpoints:
		r.Endpoints = &o
	case cluster.Node:
		r.Node = &o
	case cluster.Event:
		r.Event = &o
	case int:
		r.Objects = o
	default:
		panic(fmt.Sprintf("%T", o))
	}
	return r
}

func sec(s int64) time.Time { return time.Unix(0, t0+s*second).UTC() }

func podOf(namespace, name, uid, addr string, started int64) cluster.Pod {
	p := cluster.Pod{
		Meta: cluster.Meta{UID: uid, Namespace: namespace, Name: name, Created: sec(started - 2)}, Node: "a", Phase: "Running",
		Addresses: strings.Fields(addr), Started: sec(started - 1),
		Containers: []cluster.Container{{Name: "app", State: "running", Started: sec(started)}},
	}
	return p
}

func ended(p cluster.Pod, at int64, reason string, code int) cluster.Pod {
	c := p.Containers[0]
	c.State, c.Finished, c.Reason, c.ExitCode = "terminated", sec(at), reason, code
	p.Containers, p.Deleted = []cluster.Container{c}, sec(at)
	return p
}

// ip is a packet between two addresses, with the tag as its UDP payload. An
// address may have a port.
func ip(at int64, ifc uint32, src, dst string, layers ...[]byte) chunker.Record {
	end := func(s string) (netip.Addr, uint16) {
		if a, err := netip.ParseAddrPort(s); err == nil {
			return a.Addr(), a.Port()
		}
		return netip.MustParseAddr(s), 4000
	}
	from, fromPort := end(src)
	to, toPort := end(dst)
	udp := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, fromPort), toPort)
	var payload []byte
	for _, l := range layers {
		payload = append(payload, l...)
	}
	udp = append(binary.BigEndian.AppendUint16(udp, uint16(8+len(payload))), 0, 0)
	udp = append(udp, payload...)
	var b []byte
	if from.Is4() {
		b = append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0}, 0x45, 0, byte((20+len(udp))>>8), byte(20+len(udp)), 0, 1, 0, 0, 64, 17, 0, 0)
	} else {
		b = append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd}, 0x60, 0, 0, 0, byte(len(udp)>>8), byte(len(udp)), 17, 64)
	}
	b = append(append(append(b, from.AsSlice()...), to.AsSlice()...), udp...)
	return chunker.Record{Time: at, Interface: ifc, OrigLen: uint32(len(b)), Data: b}
}

const (
	web, db, dbService, outside = "10.0.0.1", "10.0.0.2", "10.96.0.1", "198.51.100.7"
)

// shop is a cluster of two nodes in which web talks to the service db. The pod
// db-0 is killed after 20 s and made again after 22 s; its old address goes to
// another pod, other/cache, which runs from 30 s on. Node b's clock is two minutes
// ahead.
func shop(t testing.TB) *snapshot {
	s := newSnapshot(t)
	eth := ethernet("eth0")
	s.node("a", eth)
	n := s.node("b", eth)
	const ahead = 120 * second
	n.Clock = manifest.Clock{Offset: ahead, Error: 1000}

	var a, b []chunker.Record
	for i := range int64(40) {
		at := t0 + i*second + second/2
		a = append(a, ip(at, 0, web, dbService), ip(at+1000, 0, web, db))
		b = append(b, ip(at+2000+ahead, 0, db, outside), ip(at+3000+ahead, 0, "192.0.2.1", "192.0.2.2:6443"))
	}
	a[1].Options = pcapng.AppendOption(nil, pcapng.OptComment, []byte("seen before"))
	s.chunk("a", []chunker.Interface{eth}, a)
	s.chunk("b", []chunker.Interface{eth}, b)

	webPod := podOf("shop", "web-1", "u-web", web+" fd00::1", -100)
	dbPod := podOf("shop", "db-0", "u-db", db, -100)
	dbPod.Owner = &cluster.Ref{Kind: "StatefulSet", Name: "db", UID: "u-sts"}
	killed := ended(dbPod, 20, "OOMKilled", 137)
	again := podOf("shop", "db-0", "u-db-again", "10.0.0.3", 24)
	again.Created = sec(22)
	cache := podOf("other", "cache-0", "u-cache", db, 30)
	cache.Node = "b" // whose clock is ahead
	cache.Created, cache.Started, cache.Containers[0].Started = sec(28), sec(29+120), sec(30+120)
	proxy := podOf("kube-system", "proxy-a", "u-proxy", "192.0.2.1", -1000)
	proxy.HostNetwork = true
	ports := []cluster.Port{{Port: 6443, Protocol: "TCP"}}
	s.kubernetes(
		rec(-5000, cluster.OpKeyframe, cluster.Keyframe{Version: 1, Node: "a"}),
		rec(-5000, cluster.OpState, webPod), rec(-5000, cluster.OpState, dbPod), rec(-5000, cluster.OpState, proxy),
		rec(-5000, cluster.OpState, cluster.Node{Meta: cluster.Meta{UID: "u-a", Name: "a"}, Addresses: []string{"192.0.2.1"}}),
		rec(-5000, cluster.OpState, cluster.Node{Meta: cluster.Meta{UID: "u-b", Name: "b"}, Addresses: []string{"192.0.2.2"}}),
		rec(-5000, cluster.OpState, cluster.Service{Meta: cluster.Meta{UID: "u-svc", Namespace: "shop", Name: "db"}, Addresses: []string{dbService}}),
		rec(-5000, cluster.OpState, cluster.Service{Meta: cluster.Meta{UID: "u-api", Namespace: "default", Name: "kubernetes"}, Addresses: []string{"10.96.0.2"}}),
		rec(-5000, cluster.OpState, cluster.Endpoints{Meta: cluster.Meta{UID: "u-e", Namespace: "shop", Name: "db-x"}, Service: "db",
			Members: []cluster.Endpoint{{Addresses: []string{db}, Pod: &cluster.Ref{UID: "u-db"}, Ready: true}}}),
		rec(-5000, cluster.OpState, cluster.Endpoints{Meta: cluster.Meta{UID: "u-e2", Namespace: "default", Name: "kubernetes"}, Service: "kubernetes",
			Ports: ports, Members: []cluster.Endpoint{{Addresses: []string{"192.0.2.2"}}}}),
		rec(-5000, cluster.OpComplete, 9),
		rec(20200, cluster.OpEvent, cluster.Event{
			Meta: cluster.Meta{UID: "ev-1", Namespace: "shop", Name: "db-0.1"}, About: cluster.Ref{Kind: "Pod", Namespace: "shop", Name: "db-0", UID: "u-db"},
			Type: "Warning", Reason: "Unhealthy", Message: "Readiness probe failed:\nconnection refused", Source: "kubelet", Host: "a", Count: 2, Last: sec(20),
		}),
		rec(21100, cluster.OpSet, killed), rec(21900, cluster.OpGone, killed),
		rec(21950, cluster.OpSet, cluster.Endpoints{Meta: cluster.Meta{UID: "u-e", Namespace: "shop", Name: "db-x"}, Service: "db"}),
		rec(22100, cluster.OpSet, func() cluster.Pod { p := again; p.Addresses, p.Containers = nil, nil; return p }()),
		rec(25100, cluster.OpSet, again),
		rec(28000, cluster.OpSet, func() cluster.Pod { p := cache; p.Addresses, p.Containers = nil, nil; return p }()),
		rec(28200, cluster.OpEvent, cluster.Event{
			Meta: cluster.Meta{UID: "ev-2", Namespace: "other", Name: "cache-0.1"}, About: cluster.Ref{Kind: "Pod", Namespace: "other", Name: "cache-0", UID: "u-cache"},
			Type: "Normal", Reason: "Scheduled", Message: "assigned other/cache-0 to b", Source: "default-scheduler", Last: sec(28).Add(123456 * time.Microsecond),
		}),
		rec(31200, cluster.OpSet, cache),
		rec(60000, cluster.OpAlive, nil),
	)
	return s
}

// lines is what an export shows, a line for each packet and entry.
func shown(t *testing.T, b []byte) (lines []string) {
	t.Helper()
	for len(b) > 0 {
		typ, total, err := pcapng.Header(b)
		if err != nil {
			t.Fatal(err)
		}
		block := b[:total]
		b = b[total:]
		switch typ {
		case pcapng.BlockEPB:
			var p pcapng.Packet
			if err := pcapng.ParsePacket(block, &p); err != nil {
				t.Fatal(err)
			}
			var comments []string
			for o := p.Options; len(o) > 0; {
				code, value, rest, err := pcapng.NextOption(o)
				if err != nil {
					t.Fatal(err)
				}
				if code == pcapng.OptComment {
					comments = append(comments, string(value))
				}
				o = rest
			}
			lines = append(lines, fmt.Sprintf("%.6f %d %s", float64(p.Time-t0)/1e9, p.Interface, strings.Join(comments, "; ")))
		case pcapng.BlockJournal:
			fields, err := pcapng.ParseJournal(block)
			if err != nil {
				t.Fatal(err)
			}
			var us int64
			fmt.Sscan(fields[0].Value, &us)
			lines = append(lines, fmt.Sprintf("%.6f %s", float64(us*1000-t0)/1e9, fields[1].Value))
		case pcapng.BlockNRB:
			names, err := pcapng.ParseNameResolution(block)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range names {
				lines = append(lines, n.Addr.String()+" is "+n.Name)
			}
		}
	}
	return lines
}

// A pod's address says its name for as long as it was the pod's, whatever clock
// its node goes by.
func TestNamesInExport(t *testing.T) {
	s := shop(t)
	b, stats := s.export(Request{})
	if stats.Records != 160 {
		t.Errorf("%d packets", stats.Records)
	}
	got := strings.Join(shown(t, b), "\n") + "\n"
	golden(t, "names.txt", []byte(got))
	for range 3 {
		if again, _ := s.export(Request{}); !bytes.Equal(again, b) {
			t.Fatal("another export has other bytes")
		}
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	name = filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); diff != "" {
		t.Errorf("%s (-golden +exported):\n%s", name, diff)
	}
}

// Plain is what is exported of a snapshot without a kubernetes stream, and so is
// classic pcap.
func TestPlain(t *testing.T) {
	s := shop(t)
	without := s.clone(t)
	without.m.Streams = nil
	for _, req := range []Request{{}, {Format: Pcap}} {
		want, _ := without.export(req)
		req.Plain = true
		if got, _ := s.export(req); !bytes.Equal(want, got) {
			t.Errorf("%s: --plain has other bytes", req.Format)
		}
	}
	want, _ := without.export(Request{Format: Pcap})
	if got, _ := s.export(Request{Format: Pcap}); !bytes.Equal(want, got) {
		t.Error("classic pcap has other bytes")
	}
}

// What the exports of chosen names hold, by the packets' numbers within a second:
// 0 web to the service, 1 web to db's address, 2 db's address to outside, 3 node a
// to node b's API server.
func TestChoice(t *testing.T) {
	s := shop(t)
	tests := []struct {
		req    Request
		counts [4]int
		events string
	}{
		{Request{Pods: []string{"shop/web-1"}}, [4]int{40, 40, 0, 0}, ""},
		{Request{Pods: []string{"web-1"}}, [4]int{40, 40, 0, 0}, ""},
		{Request{Pods: []string{"shop/db-0"}}, [4]int{0, 22, 22, 0}, "Unhealthy OOMKilled"},
		{Request{Pods: []string{"other/cache-0"}}, [4]int{0, 11, 11, 0}, "Scheduled"},
		{Request{Pods: []string{"shop/*"}}, [4]int{40, 40, 22, 0}, "Unhealthy OOMKilled"},
		{Request{Pods: []string{"shop/db-0", "other/cache-0"}}, [4]int{0, 33, 33, 0}, "Unhealthy OOMKilled Scheduled"},
		{Request{Namespaces: []string{"shop"}}, [4]int{40, 40, 22, 0}, "Unhealthy OOMKilled"},
		{Request{Namespaces: []string{"other"}}, [4]int{0, 11, 11, 0}, "Scheduled"},
		{Request{Namespaces: []string{"kube-system"}}, [4]int{}, ""},
		{Request{Services: []string{"db"}}, [4]int{40, 22, 22, 0}, "Unhealthy OOMKilled"},
		{Request{Services: []string{"shop/db"}, Namespaces: []string{"shop"}}, [4]int{40, 22, 22, 0}, "Unhealthy OOMKilled"},
		{Request{Services: []string{"shop/db"}, Namespaces: []string{"other"}}, [4]int{}, "Unhealthy OOMKilled"},
		{Request{Services: []string{"db"}, Pods: []string{"web-1"}}, [4]int{40, 22, 0, 0}, "Unhealthy OOMKilled"},
		{Request{Services: []string{"kubernetes"}}, [4]int{0, 0, 0, 40}, ""},
		{Request{Pods: []string{"kube-system/proxy-a"}}, [4]int{0, 0, 0, 40}, ""},
		{Request{Pods: []string{"shop/db-0"}, Nodes: []string{"b"}}, [4]int{0, 0, 22, 0}, ""},
		{Request{Pods: []string{"shop/db-0"}, Plain: true}, [4]int{0, 22, 22, 0}, ""},
		{Request{Pods: []string{"shop/db-0"}, Format: Pcap}, [4]int{0, 22, 22, 0}, ""},
	}
	for _, tt := range tests {
		name := fmt.Sprint(strings.Join(tt.req.only(), " "), " ", tt.req.Format, tt.req.Plain, tt.req.Nodes)
		t.Run(name, func(t *testing.T) {
			b, stats := s.export(tt.req)
			sum := tt.counts[0] + tt.counts[1] + tt.counts[2] + tt.counts[3]
			if int(stats.Records) != sum {
				t.Errorf("%d packets, want %d", stats.Records, sum)
			}
			if tt.req.Format == Pcap {
				if n := len(readCapture(t, b)); n != sum {
					t.Errorf("the file has %d packets", n)
				}
				return
			}
			var counts [4]int
			var events []string
			received := uint64(0)
			for len(b) > 0 {
				typ, total, _ := pcapng.Header(b)
				block := b[:total]
				b = b[total:]
				switch typ {
				case pcapng.BlockEPB:
					var p pcapng.Packet
					if err := pcapng.ParsePacket(block, &p); err != nil {
						t.Fatal(err)
					}
					counts[p.Time%1_000_000/1000]++
				case pcapng.BlockJournal:
					f, _ := pcapng.ParseJournal(block)
					word, _, _ := strings.Cut(f[1].Value, " ")
					events = append(events, word)
				case pcapng.BlockISB:
					st, _ := pcapng.ParseStatistics(block)
					received += *st.Received
				}
			}
			if counts != tt.counts || int(received) != sum {
				t.Errorf("packets %v, want %v; %d in the statistics", counts, tt.counts, received)
			}
			if got := strings.Join(events, " "); got != tt.events {
				t.Errorf("events %q, want %q", got, tt.events)
			}
		})
	}
}

func TestUnknownNames(t *testing.T) {
	s := shop(t)
	for i := range 20 {
		s.kubernetes(rec(0, cluster.OpKeyframe, cluster.Keyframe{Version: 1}),
			rec(0, cluster.OpState, podOf("many", fmt.Sprintf("pod-%02d", i), fmt.Sprint("u", i), "10.1.0.1", 1)))
	}
	for _, tt := range []struct {
		req  Request
		says string
	}{
		{Request{Pods: []string{"shop/web-2"}}, `no pod "shop/web-2"; the nearest of 24 are shop/web-1, shop/db-0`},
		{Request{Pods: []string{"pod-2"}}, `the nearest of 24 are many/pod-02, many/pod-12, many/pod-00`},
		{Request{Pods: []string{"shop/zz*"}}, `no pod "shop/zz*"`},
		{Request{Services: []string{"web"}}, `no service "web"; there is default/kubernetes, shop/db`},
		{Request{Services: []string{"kubernetes"}, Namespaces: []string{"shop"}}, `no service "kubernetes" in the chosen namespaces; there is shop/db`},
		{Request{Namespaces: []string{"shops"}}, `no namespace "shops"; there is default, kube-system, many, other, shop`},
		{Request{Pods: []string{"["}}, `no pod "["`},
	} {
		var b bytes.Buffer
		_, err := Export(t.Context(), &b, s.source(), tt.req)
		var unknown *UnknownNameError
		if !errors.As(err, &unknown) || !strings.Contains(err.Error(), tt.says) || b.Len() > 0 {
			t.Errorf("%v: %v, want %q", tt.req.only(), err, tt.says)
		}
	}
	_, err := Export(t.Context(), &bytes.Buffer{}, s.source(), Request{Pods: make([]string, 1001)})
	if err == nil || !strings.Contains(err.Error(), "at most 1000") {
		t.Errorf("too many names: %v", err)
	}
}

// Names need a kubernetes stream, and one that is whole.
func TestNoKubernetes(t *testing.T) {
	s := shop(t)
	without := s.clone(t)
	without.m.Streams = nil
	if _, err := Export(t.Context(), &bytes.Buffer{}, without.source(), Request{Pods: []string{"a/b"}}); !errors.Is(err, ErrNoKubernetes) {
		t.Errorf("without the stream: %v", err)
	}
	key := s.inventories["cluster"][0].Key
	for name, damage := range map[string]func(*snapshot){
		"missing": func(s *snapshot) { delete(s.store.bytes, key) },
		"damaged": func(s *snapshot) {
			s.store.bytes[key] = bytes.Clone(s.store.bytes[key])
			s.store.bytes[key][100] ^= 1
		},
		"nonsense": func(s *snapshot) { s.kubernetes(rec(0, cluster.OpAlive, nil)) },
	} {
		broken := s.clone(t)
		broken.m.Streams = slices.Clone(s.m.Streams)
		damage(broken)
		var b bytes.Buffer
		_, err := Export(t.Context(), &b, broken.source(), Request{})
		var names *NamesError
		if !errors.As(err, &names) || !strings.Contains(err.Error(), "--plain") || b.Len() > 0 {
			t.Errorf("%s: %v, after %d bytes", name, err, b.Len())
		}
		if _, err := Export(t.Context(), &b, broken.source(), Request{Plain: true}); err != nil {
			t.Errorf("%s, plain: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.store.get = func(context.Context, string) error { cancel(); return ctx.Err() }
	if _, err := Export(ctx, &bytes.Buffer{}, s.source(), Request{}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

// The common tools read what is exported: tshark shows names, comments and a row
// for each event; libpcap's tools skip what they do not know.
func TestReadersOfNames(t *testing.T) {
	s := shop(t)
	b, _ := s.export(Request{})
	file := writeFile(t, "x.pcapng", b)
	rows := mustRun(t, "tshark", "-N", "n", "-r", file, "-T", "fields", "-E", "separator=|", "-e", "frame.comment",
		"-e", "ip.src_host", "-e", "ip.dst_host", "-e", "systemd_journal.message", "-e", "systemd_journal.syslog_id")
	for _, want := range []string{
		"seen before,shop/web-1 → shop/db-0|web-1.shop|cache-0.other+||\n",
		"shop/web-1 → shop/db (service)|web-1.shop|db.shop.svc||\n",
		"shop/web-1 → other/cache-0|web-1.shop|cache-0.other+||\n",
		"a (node) → b (node)|a|b||\n",
		"|||OOMKilled pod shop/db-0: container app terminated: OOMKilled, exit code 137|kubernetes\n",
		"|||Scheduled pod other/cache-0: assigned other/cache-0 to b|default-scheduler\n",
	} {
		if !strings.Contains(rows, want) {
			t.Errorf("tshark does not show %q:\n%.3000s", want, rows)
		}
	}
	if n := strings.Count(mustRun(t, "tshark", "-n", "-r", file, "-Y", "systemd_journal"), "\n"); n != 3 {
		t.Errorf("%d journal rows", n)
	}
	for _, says := range []string{"Number of packets:   160", "Strict time order:   True"} {
		if info := mustRun(t, "capinfos", file); !strings.Contains(info, says) {
			t.Errorf("capinfos does not say %q:\n%s", says, info)
		}
	}
	if n := strings.Count(mustRun(t, "tcpdump", "-nn", "-r", file), "UDP"); n != 160 {
		t.Errorf("tcpdump shows %d packets", n)
	}
	for _, tool := range []string{"editcap", "mergecap"} {
		out := filepath.Join(t.TempDir(), "out.pcapng")
		if tool == "editcap" {
			mustRun(t, tool, file, out)
		} else {
			mustRun(t, tool, "-w", out, file)
		}
		if info := mustRun(t, "capinfos", "-c", "-M", out); !strings.Contains(info, "160") {
			t.Errorf("after %s: %s", tool, info)
		}
	}
	if _, err := exec.LookPath("tshark"); err == nil {
		all := mustRun(t, "tshark", "-n", "-r", file, "-V", "-Y", "_ws.malformed")
		if all != "" {
			t.Errorf("malformed:\n%s", all)
		}
	}
}

// Whatever is in front of it, an address is found.
func TestDissect(t *testing.T) {
	const a, b = "10.0.0.1", "10.0.0.2"
	inner := ip(0, 0, a, b).Data
	inner6 := ip(0, 0, "fd00::1", "fd00::2").Data
	eth := func(kind uint16, rest ...[]byte) []byte {
		return binary.BigEndian.AppendUint16(bytes.Clone(inner[:12]), kind)[:14:14]
	}
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	outer := func(proto byte, rest ...[]byte) []byte {
		p := ip(0, 0, "192.0.2.1", "192.0.2.2").Data[:34]
		p[14+9] = proto
		return cat(append([][]byte{p}, rest...)...)
	}
	hop := []byte{17, 0, 5, 2, 0, 0, 0, 0}
	v6 := func(next byte, rest ...[]byte) []byte {
		p := bytes.Clone(inner6[:54])
		p[14+6] = next
		return cat(append([][]byte{p}, rest...)...)
	}
	vxlan := cat([]byte{8, 0, 0, 0, 0, 0, 7, 0})
	arp := cat(eth(etherARP), []byte{0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2})
	tests := []struct {
		name string
		link uint16
		b    []byte
		want string
	}{
		{"Ethernet", 1, inner, "10.0.0.1:4000>10.0.0.2:4000"},
		{"IPv6", 1, inner6, "fd00::1:4000>fd00::2:4000"},
		{"raw", 101, inner[14:], "10.0.0.1:4000>10.0.0.2:4000"},
		{"loopback", 0, cat([]byte{2, 0, 0, 0}, inner[14:]), "10.0.0.1:4000>10.0.0.2:4000"},
		{"cooked", 113, cat(make([]byte, 14), []byte{8, 0}, inner[14:]), "10.0.0.1:4000>10.0.0.2:4000"},
		{"cooked v2", 276, cat([]byte{8, 0}, make([]byte, 18), inner[14:]), "10.0.0.1:4000>10.0.0.2:4000"},
		{"two tags", 1, cat(eth(etherQinQ), []byte{0, 1, 0x81, 0, 0, 2, 8, 0}, inner[14:]), "10.0.0.1:4000>10.0.0.2:4000"},
		{"MPLS", 1, cat(eth(etherMPLS), []byte{0, 0, 0x10, 64, 0, 0, 0x11, 64}, inner[14:]), "10.0.0.1:4000>10.0.0.2:4000"},
		{"ARP", 1, arp, "10.0.0.1:0>10.0.0.2:0"},
		{"hop by hop", 1, v6(0, hop, inner6[54:]), "fd00::1:4000>fd00::2:4000"},
		{"later fragment", 1, v6(44, []byte{17, 0, 0, 8, 0, 0, 0, 1}, inner6[54:]), "fd00::1:0>fd00::2:0"},
		{"IP in IP", 1, outer(4, inner[14:]), "192.0.2.1:0>192.0.2.2:0 10.0.0.1:4000>10.0.0.2:4000"},
		{"IPv6 in IP", 1, outer(41, inner6[14:]), "192.0.2.1:0>192.0.2.2:0 fd00::1:4000>fd00::2:4000"},
		{"GRE with a key", 1, outer(47, []byte{0x20, 0, 8, 0, 0, 0, 0, 1}, inner[14:]), "192.0.2.1:0>192.0.2.2:0 10.0.0.1:4000>10.0.0.2:4000"},
		{"VXLAN", 1, ip(0, 0, "192.0.2.1", "192.0.2.2:8472", vxlan, inner).Data, "192.0.2.1:4000>192.0.2.2:8472 10.0.0.1:4000>10.0.0.2:4000"},
		{"Geneve", 1, ip(0, 0, "192.0.2.1", "192.0.2.2:6081", []byte{1, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 1, 1, 0}, inner).Data,
			"192.0.2.1:4000>192.0.2.2:6081 10.0.0.1:4000>10.0.0.2:4000"},
		{"something else", 1, cat(eth(0x88b5), inner[14:]), ""},
		{"an unknown link type", 147, inner, ""},
	}
	show := func(link uint16, b []byte) string {
		var n nested
		dissect(link, b, &n)
		var out []string
		for _, e := range n.all[:n.n] {
			out = append(out, fmt.Sprintf("%s:%d>%s:%d", netip.AddrFrom16(e.src).Unmap(), e.srcPort, netip.AddrFrom16(e.dst).Unmap(), e.dstPort))
		}
		return strings.Join(out, " ")
	}
	for _, tt := range tests {
		if got := show(tt.link, tt.b); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
		for n := range tt.b { // cut anywhere
			show(tt.link, tt.b[:n])
		}
	}
	// Tunnels in tunnels: the outermost and the innermost, and an end of looking.
	b6 := inner[14:]
	for range 30 {
		b6 = cat(outer(4)[14:], b6)
	}
	if got := show(101, b6); strings.Count(got, ">") != 2 {
		t.Errorf("a deep tunnel: %s", got)
	}
}

func FuzzDissect(f *testing.F) {
	f.Add(uint16(1), ip(0, 0, "10.0.0.1", "10.0.0.2:8472", []byte{8, 0, 0, 0, 0, 0, 7, 0}).Data)
	f.Add(uint16(276), make([]byte, 60))
	f.Fuzz(func(t *testing.T, link uint16, b []byte) {
		var n nested
		dissect(link, b, &n)
		if n.n > len(n.all) {
			t.Fatal(n.n)
		}
	})
}

func TestShorten(t *testing.T) {
	for _, tt := range []struct {
		in    string
		limit int
		want  string
	}{
		{"short", 10, "short"},
		{"a-very-long-deployment-name-7d9f8c6b5-abcde", 40, "a-very-long-deployment-name~f8c6b5-abcde"},
		{strings.Repeat("x", 50), 3, "xxx"},
	} {
		if got := shorten(tt.in, tt.limit); got != tt.want || len(got) > tt.limit {
			t.Errorf("%q to %d: %q, want %q", tt.in, tt.limit, got, tt.want)
		}
	}
}
