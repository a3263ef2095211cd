package hub

import (
	"context"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store"
	"pcapsule/store/storetest"
)

func TestForgedParts(t *testing.T) {
	start := recent()
	other := packets(t, "other", start, 20)
	// rewrite uploads an inventory with changed entries in place of the right one.
	rewrite := func(a *agent, part *api.CompleteRequest, change func([]manifest.Entry) []manifest.Entry) {
		list, err := a.client.Snapshots(context.Background())
		if err != nil {
			t.Error(err)
			return
		}
		session := list[len(list)-1].ID
		var entries []manifest.Entry
		for _, c := range a.chunks {
			e := c.entry
			e.Key = manifest.ObjectKey{Kind: manifest.KindChunk, Hash: c.hash, Ext: chunker.PacketsExt}.String()
			entries = append(entries, e)
		}
		entries = change(entries)
		b := manifest.EncodeInventory(entries)
		body := store.Bytes(b)
		keys, err := a.put(context.Background(), session, []api.Object{{
			Hash: chunker.HashOf(b), SHA256: hex.EncodeToString(body.SHA256[:]), Size: int64(len(b)), Kind: manifest.KindInventory, Ext: manifest.InventoryExt,
		}}, [][]byte{b})
		if err != nil {
			t.Error(err)
			return
		}
		part.Node.Streams[0] = manifest.SumInventory(chunker.Packets, entries)
		part.Node.Streams[0].Inventory, part.Node.Streams[0].InventorySize = keys[0], int64(len(b))
	}
	for _, test := range []struct {
		name  string
		says  string
		forge func(*agent, *api.CompleteRequest)
	}{
		{"another node", "is handed in for node", nil}, // below
		{"sum", "does not add up", func(_ *agent, p *api.CompleteRequest) { p.Node.Streams[0].Records++ }},
		{"inventory size", "was not placed", func(_ *agent, p *api.CompleteRequest) { p.Node.Streams[0].InventorySize++ }},
		{"inventory key", "was not placed", func(_ *agent, p *api.CompleteRequest) {
			p.Node.Streams[0].Inventory = manifest.ObjectKey{Kind: manifest.KindInventory, Hash: chunker.HashOf([]byte("x")), Ext: manifest.InventoryExt}.String()
		}},
		{"key outside", "not valid", func(_ *agent, p *api.CompleteRequest) { p.Node.Streams[0].Inventory = "../../etc/passwd" }},
		{"chunk as inventory", "not valid", func(a *agent, p *api.CompleteRequest) {
			p.Node.Streams[0].Inventory = manifest.ObjectKey{Kind: manifest.KindChunk, Hash: a.chunks[0].hash, Ext: chunker.PacketsExt}.String()
		}},
		{"other node's chunk", "was not placed", func(a *agent, p *api.CompleteRequest) {
			rewrite(a, p, func(e []manifest.Entry) []manifest.Entry {
				o := other.entry
				o.Key = manifest.ObjectKey{Kind: manifest.KindChunk, Hash: other.hash, Ext: chunker.PacketsExt}.String()
				return append(e, o)
			})
		}},
		{"chunk size", "was not placed", func(a *agent, p *api.CompleteRequest) {
			rewrite(a, p, func(e []manifest.Entry) []manifest.Entry { e[0].Size--; return e })
		}},
		{"chunk sum", "was not placed", func(a *agent, p *api.CompleteRequest) {
			rewrite(a, p, func(e []manifest.Entry) []manifest.Entry { e[0].SHA256 = strings.Repeat("0", 64); return e })
		}},
		{"stream", "is none of a node", func(_ *agent, p *api.CompleteRequest) { p.Node.Streams[0].Stream = chunker.Kubernetes }},
		{"unreachable", "not valid", func(_ *agent, p *api.CompleteRequest) { p.Node.Status = manifest.Unreachable }},
		{"clock", "a clock is said", func(_ *agent, p *api.CompleteRequest) { p.Node.Clock.Offset = 1 << 62 }},
		{"terminal codes", "unprintable", func(_ *agent, p *api.CompleteRequest) { p.Node.Versions.Kernel = "\x1b[2J" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.forge == nil {
				test.forge = func(_ *agent, p *api.CompleteRequest) { p.Node.Name = "other" }
			}
			st := storetest.NewMemory(t, nil)
			s := newSite(t, st, nil)
			s.newAgent("other", nil, other)
			refused := make(chan error, 1)
			s.newAgent("evil", func(a *agent) {
				a.forge = func(a *agent, part *api.CompleteRequest) {
					session := a.pinned()[0]
					name := part.Node.Name
					test.forge(a, part)
					err := a.client.Complete(context.Background(), session, name, *part)
					refused <- err
					part.Node.Name = "evil" // the path of what comes next
				}
			}, packets(t, "evil", start, 10))
			begun, err := s.client().Create(t.Context(), api.CreateRequest{Name: "forged", Last: "5m"})
			if err != nil {
				t.Fatal(err)
			}
			err = <-refused
			if e := wantCode(t, err, http.StatusBadRequest, api.CodeInvalid); !strings.Contains(e.Message, test.says) {
				t.Errorf("%q does not say %q", e.Message, test.says)
			}
			// The agent gets nowhere, and the snapshot does without it.
			await(t, func() bool {
				s.hub.expireSessions(time.Now().Add(time.Minute))
				return s.hub.session(begun.ID).over()
			})
			if snap, err := s.client().Snapshot(t.Context(), begun.ID); err == nil && snap.Status == manifest.Completed && test.name != "another node" {
				t.Errorf("a forged part made it into %+v", snap)
			}
			mustVerify(t, st)
		})
	}
}

func TestForgedObjects(t *testing.T) {
	st := storetest.NewMemory(t, nil)
	s := newSite(t, st, nil)
	s.newAgent("a", func(a *agent) { a.pace = hangAt("pin") })
	c := s.client()
	begun, err := c.Create(t.Context(), api.CreateRequest{Name: "x", Last: "5m"})
	if err != nil {
		t.Fatal(err)
	}
	good := api.Object{Hash: chunker.HashOf([]byte("x")), SHA256: strings.Repeat("0", 64), Size: 1, Kind: manifest.KindChunk, Ext: chunker.PacketsExt}
	for name, change := range map[string]func(*api.Object){
		"kind":     func(o *api.Object) { o.Kind = "snapshots" },
		"path":     func(o *api.Object) { o.Kind = "../intents" },
		"ext":      func(o *api.Object) { o.Ext = "json" },
		"mixed":    func(o *api.Object) { o.Ext = manifest.InventoryExt },
		"empty":    func(o *api.Object) { o.Size = 0 },
		"negative": func(o *api.Object) { o.Size = -1 },
		"giant":    func(o *api.Object) { o.Size = chunker.MaxSize + 1 },
		"sum":      func(o *api.Object) { o.SHA256 = "XY" },
	} {
		o := good
		change(&o)
		_, err := c.Grants(t.Context(), begun.ID, "a", api.GrantRequest{Objects: []api.Object{good, o}})
		if e := wantCode(t, err, http.StatusBadRequest, api.CodeInvalid); !strings.HasPrefix(e.Message, "object 1: ") {
			t.Errorf("%s: %q", name, e.Message)
		}
	}
	_, err = c.Grants(t.Context(), begun.ID, "a", api.GrantRequest{Objects: slices.Repeat([]api.Object{good}, api.MaxGrants+1)})
	wantCode(t, err, http.StatusBadRequest, api.CodeInvalid)
	_, err = c.Grants(t.Context(), begun.ID, "b", api.GrantRequest{})
	wantCode(t, err, http.StatusNotFound, api.CodeUnknownNode)
	_, err = c.Grants(t.Context(), "nonsense", "a", api.GrantRequest{})
	wantCode(t, err, http.StatusBadRequest, api.CodeInvalid)
	_, err = c.Grants(t.Context(), "20261123T013614.123456Z-0123456789", "a", api.GrantRequest{})
	wantCode(t, err, http.StatusNotFound, api.CodeNotFound)
	// Progress that makes no sense.
	for _, p := range []api.Progress{{Node: "a", State: "dancing"}, {Node: "a", State: "sealing", Done: 1}, {Node: "a", State: "sealing", Chunks: -1}} {
		wantCode(t, c.Progress(t.Context(), begun.ID, p), http.StatusBadRequest, api.CodeInvalid)
	}
}
