package manifest

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
)

func TestManifestGolden(t *testing.T) {
	golden(t, "manifest.json", encode(t, testManifest()))
}

func TestManifestRoundTrip(t *testing.T) {
	want := testManifest()
	b := encode(t, want)
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.filled(), got); diff != "" {
		t.Errorf("decoded manifest differs (-want +got):\n%s", diff)
	}
	if again := encode(t, got); !bytes.Equal(again, b) {
		t.Errorf("encoded again:\n%s\nwant:\n%s", again, b)
	}
}

func TestEncodeRefuses(t *testing.T) {
	giant := strings.Repeat("x", MaxText+1)
	for name, change := range map[string]func(m *Manifest){
		"format":                       func(m *Manifest) { m.Format = "zip" },
		"version":                      func(m *Manifest) { m.Version = 0 },
		"id":                           func(m *Manifest) { m.ID = "../../etc/passwd" },
		"name is an id":                func(m *Manifest) { m.Name = testID },
		"name":                         func(m *Manifest) { m.Name = "a b" },
		"created":                      func(m *Manifest) { m.Created = 0 },
		"empty window":                 func(m *Manifest) { m.Window.To = m.Window.From },
		"status":                       func(m *Manifest) { m.Status = "fine" },
		"completed with reasons":       func(m *Manifest) { m.Status = Completed },
		"completed without its nodes":  func(m *Manifest) { m.Status, m.Reasons = Completed, nil },
		"partial without reasons":      func(m *Manifest) { m.Reasons = nil },
		"escape sequence in a reason":  func(m *Manifest) { m.Reasons = []string{"\x1b[2J"} },
		"reason turned around":         func(m *Manifest) { m.Reasons = []string{"a\u202eb"} },
		"reason of two lines":          func(m *Manifest) { m.Reasons = []string{"a\nb"} },
		"reason not UTF-8":             func(m *Manifest) { m.Reasons = []string{"\xff"} },
		"long reason":                  func(m *Manifest) { m.Reasons = []string{giant} },
		"creator":                      func(m *Manifest) { m.Creator = Tool{} },
		"totals":                       func(m *Manifest) { m.Totals.Records++ },
		"node name":                    func(m *Manifest) { m.Nodes[0].Name = "a/b" },
		"node order":                   func(m *Manifest) { m.Nodes[0], m.Nodes[1] = m.Nodes[1], m.Nodes[0] },
		"node twice":                   func(m *Manifest) { m.Nodes[0].Name = m.Nodes[1].Name },
		"node status":                  func(m *Manifest) { m.Nodes[0].Status = "" },
		"node completed with reasons":  func(m *Manifest) { m.Nodes[1].Reasons = []string{"no"} },
		"node partial without reasons": func(m *Manifest) { m.Nodes[1].Status = Partial },
		"unreachable with streams":     func(m *Manifest) { m.Nodes[1].Status = Unreachable },
		"clock error":                  func(m *Manifest) { m.Nodes[1].Clock.Error = -1 },
		"empty coverage":               func(m *Manifest) { m.Nodes[1].Coverage[0].To = m.Nodes[1].Coverage[0].From },
		"coverage overlaps":            func(m *Manifest) { m.Nodes[1].Coverage[1].From = m.Nodes[1].Coverage[0].To - 1 },
		"gap backwards":                func(m *Manifest) { m.Nodes[1].Gaps[0].To = m.Nodes[1].Gaps[0].From - 1 },
		"gap reason":                   func(m *Manifest) { m.Nodes[1].Gaps[0].Reason = "Not running" },
		"gap stream":                   func(m *Manifest) { m.Nodes[1].Gaps[0].Stream = "" },
		"gap detail":                   func(m *Manifest) { m.Nodes[1].Gaps[0].Detail = "\a" },
		"interface order": func(m *Manifest) {
			i := m.Nodes[1].Interfaces
			i[0], i[1] = i[1], i[0]
		},
		"interface name":                   func(m *Manifest) { m.Nodes[1].Interfaces[0].Name = "\u2066" },
		"agent version":                    func(m *Manifest) { m.Nodes[1].Versions.Agent = giant },
		"stream twice":                     func(m *Manifest) { m.Nodes[1].Streams = append(m.Nodes[1].Streams, m.Nodes[1].Streams[0]); m.SumUp() },
		"stream name":                      func(m *Manifest) { m.Nodes[1].Streams[0].Stream = "Packets" },
		"coverage of the cluster overlaps": func(m *Manifest) { m.Coverage[1].From = m.Coverage[0].To - 1 },
		"empty coverage of the cluster":    func(m *Manifest) { m.Coverage[0].To = m.Coverage[0].From },
		"gap of the cluster backwards":     func(m *Manifest) { m.Gaps[0].To = m.Gaps[0].From - 1 },
		"gap of packets at the cluster":    func(m *Manifest) { m.Gaps[0].Stream = chunker.Packets },
		"packets of the cluster":           func(m *Manifest) { m.Streams[0].Stream = chunker.Packets },
		"inventory outside":                func(m *Manifest) { m.Nodes[1].Streams[0].Inventory = "../x" },
		"inventory that is a chunk":        func(m *Manifest) { m.Nodes[1].Streams[0].Inventory = testChunkKey(1, chunker.PacketsExt) },
		"giant inventory":                  func(m *Manifest) { m.Nodes[1].Streams[0].InventorySize = 1 << 60 },
		"negative inventory":               func(m *Manifest) { m.Nodes[1].Streams[0].InventorySize = -1 },
		"more chunks than lines":           func(m *Manifest) { m.Nodes[1].Streams[0].Chunks = 1 << 40; m.SumUp() },
		"negative chunks":                  func(m *Manifest) { m.Nodes[1].Streams[0].Chunks = -1; m.SumUp() },
		"more bytes than chunks":           func(m *Manifest) { m.Nodes[1].Streams[0].Size = 1 << 60; m.SumUp() },
		"negative bytes":                   func(m *Manifest) { m.Nodes[1].Streams[0].Size = -1; m.SumUp() },
		"more raw bytes than stored":       func(m *Manifest) { m.Nodes[1].Streams[0].RawSize = 1 << 60; m.SumUp() },
		"more records than bytes":          func(m *Manifest) { m.Nodes[1].Streams[0].Records = 1 << 60; m.SumUp() },
		"giant drops":                      func(m *Manifest) { m.Nodes[1].Streams[0].Drops = 1 << 63; m.SumUp() },
		"first after last":                 func(m *Manifest) { m.Nodes[1].Streams[0].First = m.Nodes[1].Streams[0].Last + 1 },
		"no chunks but bytes":              func(m *Manifest) { m.Nodes[1].Streams[0].Chunks = 0; m.SumUp() },
	} {
		t.Run(name, func(t *testing.T) {
			m := testManifest()
			change(m)
			if b, err := m.Encode(); err == nil {
				t.Errorf("encoded:\n%s", b)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := string(encode(t, testManifest()))
	for name, c := range map[string]struct{ old, new, want string }{
		"trailing value":         {"\n}\n", "\n}\n{}", "not JSON"},
		"trailing text":          {"\n}\n", "\n}\nx", "not JSON"},
		"member twice":           {`"name": "outage",`, `"name": "outage", "name": "b",`, "twice"},
		"member in another case": {`"name": "outage",`, `"name": "outage", "Name": "b",`, "lower-case"},
		"member with an escape":  {`"name": "outage",`, `"name": "outage", "n\u0061me": "b",`, "lower-case"},
		"member by folding":      {`"status"`, `"ſtatus"`, "lower-case"},
		"null":                   {`"name": "outage"`, `"name": null`, "null"},
		"newer version":          {`"version": 1`, `"version": 2`, "update pcapsule"},
		"float":                  {`"chunks": 4`, `"chunks": 4.5`, "decode"},
		"time as a number":       {`"created": "1795397774123456789"`, `"created": 1795397774123456789`, "decode"},
		"time with a zero":       {`"created": "1`, `"created": "01`, "nanoseconds"},
		"not UTF-8":              {`"outage"`, "\"\xff\"", "UTF-8"},
		"another format":         {Format, "x", "format"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := strings.Replace(good, c.old, c.new, 1)
			if bad == good {
				t.Fatal("nothing replaced")
			}
			_, err := Decode([]byte(bad))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error about %q", err, c.want)
			}
		})
	}
}

func TestDecodeIgnoresUnknownMembers(t *testing.T) {
	good := string(encode(t, testManifest()))
	later := strings.Replace(good, `"name": "outage",`, `"name": "outage", "flows": {"a": [1, "}", {"b": "\"{"}]},`, 1)
	m, err := Decode([]byte(later))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(testManifest().filled(), m); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A few megabytes must not become gigabytes.
func TestDecodeBounds(t *testing.T) {
	for name, b := range map[string]string{
		"many values": `{"x":[` + strings.Repeat("{},", MaxValues) + `{}]}`,
		"deep":        strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1),
		"many members": "{" + func() string {
			var s []string
			for i := range maxMembers + 1 {
				s = append(s, `"a`+strings.Repeat("b", i)+`":1`)
			}
			return strings.Join(s, ",")
		}() + "}",
		"large": strings.Repeat(" ", MaxManifest+1),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Decode([]byte(b)); err == nil || len(err.Error()) > 500 {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestVoid(t *testing.T) {
	v := Void{ID: testID, Successor: "20261123T013615.000000Z-0123456789", Reason: "its hub died"}
	b, err := v.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "void.json", b)
	got, err := DecodeVoid(b)
	if err != nil {
		t.Fatal(err)
	}
	v.Format, v.Version = VoidFormat, Version
	if diff := cmp.Diff(v, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := Decode(b); !errors.Is(err, ErrVoid) {
		t.Errorf("as a manifest: got %v, want ErrVoid", err)
	}
	if _, err := DecodeVoid(encode(t, testManifest())); err == nil {
		t.Error("a manifest is taken for a void marker")
	}
	for _, bad := range []Void{{ID: "x"}, {ID: testID, Successor: "x"}, {ID: testID, Successor: testID}, {ID: testID, Reason: "\n"}} {
		if _, err := bad.Encode(); err == nil {
			t.Errorf("%+v encoded", bad)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, testManifest()))
	alone := testManifest() // of one machine, as before there were clusters
	alone.Streams, alone.Coverage, alone.Gaps = nil, nil, nil
	alone.SumUp()
	f.Add(encode(f, alone))
	f.Add([]byte(`{"format":"pcapsule.manifest","version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(encode(t, m))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m.filled(), again); diff != "" {
			t.Errorf("(-first +second):\n%s", diff)
		}
	})
}

func FuzzDecodeVoid(f *testing.F) {
	b, err := Void{ID: testID, Successor: "20261123T013615.000000Z-0123456789", Reason: "its hub died"}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := DecodeVoid(b); err == nil {
			if _, err := v.Encode(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
