package cluster

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
	"pcapsule/manifest"
)

var update = flag.Bool("update", false, "write the golden files")

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

// everything is a chunk's records in which every member of every type is used.
func everything() []Record {
	const t0 = 1764000000000000000
	owner := &Ref{Kind: "ReplicaSet", Namespace: "shop", Name: "cart-7d9f", UID: "u-rs"}
	pod := Pod{
		Meta: Meta{
			UID: "u-pod", Namespace: "shop", Name: "cart-7d9f-abcde", Created: at("2025-11-24T15:59:58Z"),
			Labels: map[string]string{"app": "cart", "tier": "<web>"}, Owner: owner,
		},
		Node: "worker-1", Addresses: []string{"10.1.2.3", "fd00::3"}, Phase: "Running",
		Started: at("2025-11-24T15:59:59Z"), Sandboxed: at("2025-11-24T16:00:00Z"), ServiceAccount: "cart",
		Containers: []Container{{
			Name: "cart", Image: "registry.example/cart:1.2", ImageID: "sha256:aa", ID: "containerd://cc",
			Ports:    []Port{{Name: "http", Protocol: "TCP", Port: 8080, HostPort: 80}},
			Restarts: 2, State: "running", Started: at("2025-11-24T16:00:01Z"),
			Last: &LastRun{Reason: "OOMKilled", ExitCode: 137, Started: at("2025-11-24T15:00:00Z"), Finished: at("2025-11-24T15:59:00Z")},
		}},
	}
	gone := pod
	gone.Deleted, gone.Phase, gone.Reason, gone.HostNetwork = at("2025-11-24T16:00:40Z"), "Failed", "Evicted", true
	gone.Containers = []Container{{
		Name: "cart", State: "terminated", Reason: "Error", ExitCode: 1,
		Started: at("2025-11-24T16:00:01Z"), Finished: at("2025-11-24T16:00:41Z"),
	}}
	return []Record{
		{Time: t0, Op: OpKeyframe, Keyframe: &Keyframe{
			Version: 1, Cluster: "u-kube-system", Node: "worker-1", Clock: manifest.Clock{Offset: -1500000, Error: 800000}, Missing: []string{"cronjobs"},
		}},
		{Time: t0, Op: OpState, Namespace: &Namespace{Meta: Meta{UID: "u-ns", Name: "shop"}, Phase: "Active"}},
		{Time: t0, Op: OpState, Node: &Node{
			Meta: Meta{UID: "u-node", Name: "worker-1"}, Addresses: []string{"192.0.2.7"}, PodRanges: []string{"10.1.2.0/24"},
			Unschedulable: true, Conditions: map[string]string{"Ready": "True", "MemoryPressure": "False"}, Kubelet: "v1.37.2", Runtime: "containerd://2.1.4",
		}},
		{Time: t0, Op: OpState, Pod: &pod},
		{Time: t0, Op: OpState, Service: &Service{
			Meta: Meta{UID: "u-svc", Namespace: "shop", Name: "cart"}, Type: "LoadBalancer",
			Addresses: []string{"10.96.0.9"}, External: []string{"203.0.113.4", "lb.example"},
			Ports: []Port{{Name: "http", Protocol: "TCP", Port: 80, Target: "http", NodePort: 30080}}, Selector: map[string]string{"app": "cart"},
		}},
		{Time: t0, Op: OpState, Endpoints: &Endpoints{
			Meta: Meta{UID: "u-eps", Namespace: "shop", Name: "cart-x1"}, Service: "cart", Ports: []Port{{Name: "http", Protocol: "TCP", Port: 8080}},
			Members: []Endpoint{
				{Addresses: []string{"10.1.2.3"}, Node: "worker-1", Pod: &Ref{Kind: "Pod", Namespace: "shop", Name: "cart-7d9f-abcde", UID: "u-pod"}, Ready: true},
				{Addresses: []string{"10.1.2.4"}, Terminating: true},
			},
		}},
		{Time: t0, Op: OpState, Workload: &Workload{
			Meta: Meta{UID: "u-rs", Namespace: "shop", Name: "cart-7d9f", Owner: &Ref{Kind: "Deployment", Namespace: "shop", Name: "cart", UID: "u-dep"}},
			Kind: "ReplicaSet", Replicas: 2, Ready: 1, Selector: map[string]string{"app": "cart"},
		}},
		{Time: t0, Op: OpComplete, Objects: 6},
		{Time: t0, Op: OpGap, Gap: &Gap{From: t0 - 60e9, Reason: manifest.GapWatchLost}},
		{Time: t0 + 4.5e9, Op: OpEvent, Event: &Event{
			Meta:  Meta{UID: "u-ev", Namespace: "shop", Name: "cart-7d9f-abcde.17", Created: at("2025-11-24T16:00:04Z")},
			About: Ref{Kind: "Pod", Namespace: "shop", Name: "cart-7d9f-abcde", UID: "u-pod"},
			Type:  "Warning", Reason: "BackOff", Message: "Back-off restarting failed container \"cart\" & <others>", Source: "kubelet", Host: "worker-1",
			Count: 3, First: at("2025-11-24T15:59:00Z"), Last: at("2025-11-24T16:00:04.25Z"),
		}},
		{Time: t0 + 30e9, Op: OpAlive},
		{Time: t0 + 41e9, Op: OpSet, Pod: &gone},
		{Time: t0 + 42e9, Op: OpGone, Pod: &gone},
		{Time: t0 + 60e9, Op: OpAlive},
	}
}

// The lines never change: archives hold them.
func TestGolden(t *testing.T) {
	var got []byte
	for _, r := range everything() {
		var err error
		if got, err = Append(got, &r); err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
	}
	file := filepath.Join("testdata", "v1.ndjson")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("encoded (-want +got):\n%s", d)
	}
	var back []Record
	for line := range bytes.Lines(want) {
		r, err := Decode(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			t.Fatal(err)
		}
		back = append(back, r)
	}
	if d := cmp.Diff(everything(), back); d != "" {
		t.Errorf("decoded (-want +got):\n%s", d)
	}
}

// Each line is what a chunk takes as an event.
func TestChunkTakesLines(t *testing.T) {
	var out bytes.Buffer
	w, err := chunker.NewWriter(&out, chunker.Kubernetes, chunker.Header{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range everything() {
		line, err := Append(nil, &r)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Event(int64(r.Time), line); err != nil {
			t.Error(err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, line := range map[string]string{
		"nothing":               ``,
		"no object":             `[]`,
		"not JSON":              `{"ts":"1","op":"alive"`,
		"more than one":         `{"ts":"1","op":"alive"}{}`,
		"not UTF-8":             "{\"ts\":\"1\",\"op\":\"set\",\"pod\":{\"uid\":\"u\",\"name\":\"\xff\"}}",
		"number as time":        `{"ts":1,"op":"alive"}`,
		"time before 1970":      `{"ts":"-1","op":"alive"}`,
		"keyframe of nobody":    `{"ts":"1","op":"keyframe"}`,
		"version 0":             `{"ts":"1","op":"keyframe","keyframe":{}}`,
		"negative clock error":  `{"ts":"1","op":"keyframe","keyframe":{"version":1,"clock":{"offset":"0","error":"-1"}}}`,
		"two objects":           `{"ts":"1","op":"set","pod":{"uid":"a"},"node":{"uid":"b"}}`,
		"event as state":        `{"ts":"1","op":"set","event":{"uid":"a"}}`,
		"object without uid":    `{"ts":"1","op":"set","pod":{"name":"a"}}`,
		"event without event":   `{"ts":"1","op":"event","pod":{"uid":"a"}}`,
		"gap without beginning": `{"ts":"1","op":"gap"}`,
		"gap in the future":     `{"ts":"1","op":"gap","gap":{"from":"2","reason":"unreachable"}}`,
		"fewer than no objects": `{"ts":"1","op":"complete","objects":-1}`,
		"year 9999":             `{"ts":"1","op":"set","pod":{"uid":"a","created":"9999-01-01T00:00:00Z"}}`,
		"no time":               `{"ts":"1","op":"set","pod":{"uid":"a","created":"yesterday"}}`,
		"year 1600 in a run":    `{"ts":"1","op":"set","pod":{"uid":"a","containers":[{"name":"c","last":{"finished":"1600-01-01T00:00:00Z"}}]}}`,
		"too many values":       `{"ts":"1","op":"set","pod":{"uid":"a","containers":[` + strings.Repeat(`{},`, maxValues) + `{}]}}`,
		"too long":              `{"ts":"1","op":"set","pod":{"uid":"` + strings.Repeat("a", MaxRecord) + `"}}`,
	} {
		if r, err := Decode([]byte(line)); err == nil {
			t.Errorf("%s: decoded to %+v", name, r)
		}
	}
	if _, err := Decode([]byte(`{"ts":"1","op":"keyframe","keyframe":{"version":2}}`)); !errors.Is(err, ErrVersion) {
		t.Errorf("version 2: %v", err)
	}
}

// What later versions may add does not stop this one.
func TestDecodeSkips(t *testing.T) {
	for line, want := range map[string]Record{
		`{"ts":"1","op":"frozen","pod":7}`:                          {},
		`{"ts":"1","op":"resync","pod":{"name":"no uid"}}`:          {Time: 1, Op: "resync"},
		`{"ts":"1","op":"set","ingress":{"uid":"a"}}`:               {Time: 1, Op: OpSet},
		`{"ts":"1","op":"alive","mood":["good"]}`:                   {Time: 1, Op: OpAlive},
		`{"ts":"1","op":"set","pod":{"uid":"a","gpu":{"a":[[1]]}}}`: {Time: 1, Op: OpSet, Pod: &Pod{Meta: Meta{UID: "a"}}},
	} {
		got, err := Decode([]byte(line))
		if want.Op == "" {
			if err == nil { // a known member of another type misleads, whatever the op
				t.Errorf("%s: decoded to %+v", line, got)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", line, d)
		}
	}
}

func TestAppendRefuses(t *testing.T) {
	for name, r := range map[string]Record{
		"unknown op":  {Time: 1, Op: "frozen"},
		"before 1970": {Time: -1, Op: OpAlive},
		"without uid": {Time: 1, Op: OpSet, Pod: &Pod{}},
		"too long":    {Time: 1, Op: OpSet, Pod: &Pod{Meta: Meta{UID: strings.Repeat("a", MaxRecord)}}},
		"commas":      {Time: 1, Op: OpSet, Pod: &Pod{Meta: Meta{UID: strings.Repeat(",", maxValues)}}},
	} {
		if b, err := Append([]byte("before"), &r); err == nil || string(b) != "before" {
			t.Errorf("%s: appended %.80q, %v", name, b, err)
		}
	}
}

// Whatever Decode takes, it can write again and read the same.
func FuzzDecode(f *testing.F) {
	for _, r := range everything() {
		line, err := Append(nil, &r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(line)
	}
	f.Add([]byte(`{"ts":"1","op":"frozen"}`))
	f.Add([]byte(`{"op":"set","POD":{"uid":"a","labels":{"a":null}},"ts":"9223372036854775807"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := Decode(line)
		if err != nil || !known(r.Op) {
			return
		}
		again, err := Append(nil, &r)
		if err != nil {
			if len(line) < MaxRecord/8 { // escapes may make it longer
				t.Fatalf("%+v: %v", r, err)
			}
			return
		}
		back, err := Decode(again)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		third, err := Append(nil, &back)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, third) {
			t.Errorf("%s\nread and written again is\n%s", again, third)
		}
	})
}
