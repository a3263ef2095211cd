package kubernetes

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"pcapsule/cluster"
)

// A quiet resource resumes at its last bookmark, and a connection that broke says
// how long it may have been dead.
func TestFollow(t *testing.T) {
	out := make(chan news, 10)
	clock := time.Unix(1000, 0)
	s := &source{resource: resources()[index("pods")], out: out, now: func() time.Time { return clock }, version: "7"}
	pod := func(version string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u", Name: "p", ResourceVersion: version}}
	}
	w := watch.NewFakeWithChanSize(10, false)
	w.Add(pod("8"))
	w.Action(watch.Bookmark, pod("99"))
	w.Error(&metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Message: "http2: client connection lost"})
	err := s.follow(t.Context(), w)
	if !errors.As(err, new(errSilent)) || s.version != "99" {
		t.Errorf("resumes at %s after %v", s.version, err)
	}
	if n := <-out; n.kind != changed || n.object.uid != "u" || len(out) > 0 {
		t.Errorf("news %+v, and %d more", n, len(out))
	}
	clock = clock.Add(time.Hour)
	s.heard = clock.Add(-20 * time.Second)
	s.failed(t.Context(), err)
	if n := <-out; n.kind != lost || n.away != 20*time.Second || s.version != "99" {
		t.Errorf("news %+v, resumes at %s", n, s.version)
	}

	w = watch.NewFakeWithChanSize(1, false)
	w.Error(&metav1.Status{Status: metav1.StatusFailure, Code: 410, Reason: metav1.StatusReasonExpired})
	s.failed(t.Context(), s.follow(t.Context(), w))
	if s.version != "" || len(out) > 0 {
		t.Errorf("resumes at %q, though that is forgotten; %d news", s.version, len(out))
	}
}

// An event that is listed again is not told again, one that came meanwhile is.
func TestEventsOnce(t *testing.T) {
	out := make(chan news, 10)
	s := &source{resource: resources()[index("events")], out: out, now: time.Now}
	tell := func(kind newsKind, version int) {
		o := &corev1.Event{ObjectMeta: metav1.ObjectMeta{UID: "u", ResourceVersion: strconv.Itoa(version)}, Count: int32(version)}
		if err := s.tellObject(t.Context(), kind, o); err != nil {
			t.Error(err)
		}
	}
	tell(listed, 5)
	s.place("6")
	tell(changed, 8)
	tell(deleted, 9)
	tell(listed, 5)
	tell(listed, 8)
	tell(listed, 10)
	s.place("11")
	tell(listed, 11)
	var got []int
	for len(out) > 0 {
		r, err := cluster.Decode([]byte(`{"ts":"1","op":"event",` + (<-out).object.body + `}`))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r.Event.Count)
	}
	if len(got) != 3 || got[0] != 5 || got[1] != 8 || got[2] != 10 {
		t.Errorf("told of %v", got)
	}
}

// What no record can hold is said, and does not stop the rest.
func TestSkipped(t *testing.T) {
	out := make(chan news, 2)
	s := &source{resource: resources()[index("pods")], out: out, now: time.Now}
	huge := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u", Labels: map[string]string{"a": string(make([]byte, cluster.MaxRecord))}}}
	if err := s.tellObject(t.Context(), changed, huge); err != nil {
		t.Error(err)
	}
	if n := <-out; n.kind != skipped || n.err == nil {
		t.Errorf("news %+v", n)
	}
	if err := s.tellObject(t.Context(), changed, runtime.Object(&metav1.Status{})); err == nil {
		t.Error("a Status was taken for a pod")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.out = nil
	if s.tell(ctx, news{}) {
		t.Error("told after the end")
	}
}

// The reads of all agents together are about one a second, however many.
func TestLook(t *testing.T) {
	for _, tc := range []struct {
		nodes    string
		min, max time.Duration
	}{
		{"", 5 * time.Second, 15 * time.Second},
		{"3", 5 * time.Second, 15 * time.Second},
		{"100", 50 * time.Second, 150 * time.Second},
		{"5000", 150 * time.Second, 450 * time.Second},
		{"-1", 5 * time.Second, 15 * time.Second},
		{"99999999999999999999", 5 * time.Second, 15 * time.Second},
	} {
		e := elector{lease: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{nodesAnnotation: tc.nodes}}}}
		for range 100 {
			if d := e.look(); d < tc.min || d > tc.max {
				t.Errorf("%s nodes: the next look is after %s", tc.nodes, d)
			}
		}
	}
}

func TestOverdue(t *testing.T) {
	now := time.Unix(1000, 0)
	renewed := func(ago time.Duration) *coordinationv1.Lease {
		return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{RenewTime: new(metav1.NewMicroTime(now.Add(-ago)))}}
	}
	for l, want := range map[*coordinationv1.Lease]bool{
		renewed(time.Second): false, renewed(-time.Hour): false, renewed(time.Minute): true, {}: true,
	} {
		if got := overdue(l, now); got != want {
			t.Errorf("renewed at %v: overdue %v", l.Spec.RenewTime, got)
		}
	}
}

// A deletion was asked for before the time it is granted.
func TestDeleted(t *testing.T) {
	at := metav1.NewTime(time.Unix(1000, 0))
	m := reduceMeta(&metav1.ObjectMeta{DeletionTimestamp: &at, DeletionGracePeriodSeconds: new(int64(30))})
	if m.Deleted.Unix() != 970 {
		t.Errorf("deleted at %v", m.Deleted)
	}
}
