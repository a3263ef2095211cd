package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"pcapsule/archive"
	"pcapsule/chunker"
	"pcapsule/cluster"
	"pcapsule/manifest"
	"pcapsule/store"
)

// clusterSnapshot STORE NAME: a snapshot of ten seconds in a cluster: at each
// second a packet from the pod shop/web-1 to 10.0.0.2, which is the pod shop/db-0
// until it is killed after five seconds, and then other/cache-0.
func clusterSnapshot(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cluster STORE NAME")
	}
	ctx := context.Background()
	st, err := store.Create(ctx, ts.MkAbs(args[0]))
	ts.Check(err)
	key, _, err := manifest.LoadOrCreateKey(filepath.Join(ts.Getenv("XDG_CONFIG_HOME"), "pcapsule", "key"), rand.Reader)
	ts.Check(err)
	start := time.Unix(1_700_000_000, 0).UTC()
	s, err := archive.New(st).Begin(ctx, archive.Intent{
		Name: args[1], Kind: archive.KindImport, Owner: "test", Created: start, Deadline: time.Now().Add(time.Hour), Request: []byte("{}"),
	})
	ts.Check(err)
	put := func(kind, ext string, b []byte) string {
		at, err := s.Bring(ctx, archive.Object{Kind: kind, Hash: chunker.HashOf(b), Ext: ext, Size: int64(len(b)), SHA256: sha256.Sum256(b)}, bytes.NewReader(b))
		ts.Check(err)
		return at
	}
	stream := func(name string, meta chunker.Meta, b []byte) manifest.Stream {
		sum := sha256.Sum256(b)
		entries := []manifest.Entry{{
			Key: put(manifest.KindChunk, chunker.Ext(name), b), Size: meta.Size, RawSize: meta.RawSize, SHA256: hex.EncodeToString(sum[:]),
			First: manifest.Nanos(meta.First), Last: manifest.Nanos(meta.Last), Records: meta.Records,
		}}
		inventory := manifest.EncodeInventory(entries)
		out := manifest.SumInventory(name, entries)
		out.Inventory, out.InventorySize = put(manifest.KindInventory, manifest.InventoryExt, inventory), int64(len(inventory))
		return out
	}
	window := manifest.Interval{From: manifest.NanosOf(start), To: manifest.NanosOf(start.Add(10 * time.Second))}
	eth := chunker.Interface{Name: "eth0", LinkType: 1}
	meta, packets := clusterPackets(ts, start, eth)
	kubeMeta, records := clusterRecords(ts, start)
	m := &manifest.Manifest{
		Format: manifest.Format, Version: manifest.Version, ID: s.Intent.ID, Name: args[1],
		Created: manifest.NanosOf(start), Window: window, Status: manifest.Completed,
		Creator: manifest.Tool{Name: "pcapsule", Version: "test"},
		Nodes: []manifest.Node{{
			Name: "n1", Status: manifest.Completed, Coverage: []manifest.Interval{window},
			Interfaces: []chunker.Interface{eth}, Streams: []manifest.Stream{stream(chunker.Packets, meta, packets)},
		}},
		Streams: []manifest.Stream{stream(chunker.Kubernetes, kubeMeta, records)}, Coverage: []manifest.Interval{window},
	}
	m.SumUp()
	ts.Check(s.Commit(ctx, m, key))
}

func clusterPackets(ts *testscript.TestScript, start time.Time, eth chunker.Interface) (chunker.Meta, []byte) {
	var b bytes.Buffer
	w, err := chunker.NewWriter(&b, chunker.Packets, chunker.Header{Node: "n1"})
	ts.Check(err)
	number := w.Interface(eth)
	for i := range 10 {
		p := packet(1, i)
		at := start.Add(time.Duration(i)*time.Second + time.Second/2)
		ts.Check(w.Record(&chunker.Record{Time: at.UnixNano(), Interface: number, OrigLen: uint32(len(p)), Data: p}))
	}
	meta, err := w.Close(0)
	ts.Check(err)
	return meta, b.Bytes()
}

func clusterRecords(ts *testscript.TestScript, start time.Time) (chunker.Meta, []byte) {
	after := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	pod := func(namespace, name, addr string, from float64) cluster.Pod {
		return cluster.Pod{
			Meta: cluster.Meta{UID: "u-" + name, Namespace: namespace, Name: name, Created: after(from - 1)}, Node: "n1",
			Addresses: []string{addr}, Phase: "Running", Started: after(from - 1),
			Containers: []cluster.Container{{Name: "app", State: "running", Started: after(from)}},
		}
	}
	web, db, cache := pod("shop", "web-1", "10.0.0.1", -60), pod("shop", "db-0", "10.0.0.2", -60), pod("other", "cache-0", "10.0.0.2", 7)
	pending := cache
	pending.Addresses, pending.Phase, pending.Containers = nil, "Pending", nil
	killed := db
	killed.Deleted = after(5)
	killed.Containers = []cluster.Container{{Name: "app", State: "terminated", Reason: "OOMKilled", ExitCode: 137, Started: after(-60), Finished: after(5)}}
	service := cluster.Service{Meta: cluster.Meta{UID: "u-svc", Namespace: "shop", Name: "db"}, Addresses: []string{"10.96.0.1"}}
	slice := cluster.Endpoints{
		Meta: cluster.Meta{UID: "u-slice", Namespace: "shop", Name: "db-x"}, Service: "db",
		Members: []cluster.Endpoint{{Addresses: []string{"10.0.0.2"}, Pod: &cluster.Ref{UID: "u-db-0"}}},
	}
	empty := slice
	empty.Members = nil
	event := cluster.Event{
		Meta: cluster.Meta{UID: "u-ev", Namespace: "other", Name: "cache-0.1"}, About: cluster.Ref{Kind: "Pod", Namespace: "other", Name: "cache-0", UID: "u-cache-0"},
		Type: "Normal", Reason: "Pulled", Message: "Successfully pulled image", Source: "kubelet", Host: "n1", Count: 1, Last: after(6.5),
	}
	var b bytes.Buffer
	w, err := chunker.NewWriter(&b, chunker.Kubernetes, chunker.Header{Node: "n1"})
	ts.Check(err)
	for _, r := range []cluster.Record{
		{Time: manifest.NanosOf(start), Op: cluster.OpKeyframe, Keyframe: &cluster.Keyframe{Version: cluster.Version, Node: "n1"}},
		{Time: manifest.NanosOf(start), Op: cluster.OpState, Pod: &web},
		{Time: manifest.NanosOf(start), Op: cluster.OpState, Pod: &db},
		{Time: manifest.NanosOf(start), Op: cluster.OpState, Service: &service},
		{Time: manifest.NanosOf(start), Op: cluster.OpState, Endpoints: &slice},
		{Time: manifest.NanosOf(start), Op: cluster.OpComplete, Objects: 4},
		{Time: manifest.NanosOf(after(5.3)), Op: cluster.OpSet, Pod: &killed},
		{Time: manifest.NanosOf(after(5.4)), Op: cluster.OpSet, Endpoints: &empty},
		{Time: manifest.NanosOf(after(5.8)), Op: cluster.OpGone, Pod: &killed},
		{Time: manifest.NanosOf(after(6.1)), Op: cluster.OpSet, Pod: &pending},
		{Time: manifest.NanosOf(after(6.6)), Op: cluster.OpEvent, Event: &event},
		{Time: manifest.NanosOf(after(8)), Op: cluster.OpSet, Pod: &cache},
		{Time: manifest.NanosOf(after(20)), Op: cluster.OpAlive},
	} {
		line, err := cluster.Append(nil, &r)
		ts.Check(err)
		ts.Check(w.Event(int64(r.Time), line))
	}
	meta, err := w.Close(0)
	ts.Check(err)
	return meta, b.Bytes()
}
