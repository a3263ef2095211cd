package api

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
)

func TestBring(t *testing.T) {
	const granted = `{"placements":[{"key":"k","grant":{"url":"http://store/k"}}]}`
	given := &Placement{Key: "k", Grant: &store.Grant{URL: "http://store/k"}}
	for _, test := range []struct {
		name    string
		place   *Placement
		answers []int // of hub and store, in order
		again   bool
		want    string // calls
		err     error  // wrapped
		told    int    // how often again was asked
	}{
		{name: "there already", place: &Placement{Key: "k"}},
		{name: "placed", place: given, answers: []int{200}, want: "PUT"},
		{name: "asked for", answers: []int{0, 200}, want: "POST PUT"},
		{name: "another was first", place: given, answers: []int{412, 1}, want: "PUT POST"},
		{name: "other bytes were first", place: given, answers: []int{412, 0, 412, 0, 200}, want: "PUT POST PUT POST PUT"},
		{name: "grant over", place: given, answers: []int{403, 0, 200}, again: true, want: "PUT POST PUT", told: 1},
		{name: "grants over", answers: []int{0, 403, 0, 403, 0, 200}, again: true, want: "POST PUT POST PUT POST PUT", told: 2},
		{name: "enough", place: given, answers: []int{403}, want: "PUT", err: ErrGrantOver, told: 1},
		{name: "no space", place: given, answers: []int{507}, want: "PUT", err: store.ErrNoSpace, told: 1},
		{name: "the session is over", place: given, answers: []int{403, 410}, again: true, want: "PUT POST", err: &Error{}, told: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			var calls []string
			c := testClient(t, func(r *http.Request) (*http.Response, error) {
				calls = append(calls, r.Method)
				switch status := test.answers[len(calls)-1]; status {
				case 0:
					return answer(200, granted), nil
				case 1:
					return answer(200, `{"placements":[{"key":"k"}]}`), nil
				case 410:
					return answer(410, `{"code":"superseded","message":"gone"}`), nil
				case 412:
					return answer(status, "<Error><Code>PreconditionFailed</Code></Error>"), nil
				default:
					stored := answer(status, "")
					stored.Header.Set("ETag", `"x"`)
					return stored, nil
				}
			})
			told := 0
			key, err := c.Bring(t.Context(), "s", "n", Object{Size: 1}, strings.NewReader("x"), test.place, func(error) bool { told++; return test.again })
			if d := cmp.Diff(strings.Fields(test.want), calls, cmp.Transformer("empty", func(s []string) []string { return append([]string{}, s...) })); d != "" {
				t.Errorf("calls (-want +got):\n%s", d)
			}
			var e *Error
			switch {
			case test.err == nil:
				if err != nil || key != "k" {
					t.Errorf("%q, %v", key, err)
				}
			case errors.As(test.err, &e):
				if !errors.As(err, &e) {
					t.Errorf("%v is no error of the hub", err)
				}
			case !errors.Is(err, test.err):
				t.Errorf("%v, want %v", err, test.err)
			}
			if told != test.told {
				t.Errorf("again was asked %d times, want %d", told, test.told)
			}
		})
	}
}

func TestWarningsOfTheCluster(t *testing.T) {
	gap := func(reason string, from, to manifest.Nanos, detail string) manifest.Gap {
		return manifest.Gap{Stream: chunker.Kubernetes, Reason: reason, From: from, To: to, Detail: detail}
	}
	const s = manifest.Nanos(1e9)
	m := &manifest.Manifest{Window: manifest.Interval{From: 0, To: 100 * s}, Status: manifest.Completed}
	for _, test := range []struct {
		gaps []manifest.Gap
		want []string
	}{
		{nil, nil},
		{
			[]manifest.Gap{gap(manifest.GapNotRunning, 10*s, 20*s, ""), gap(manifest.GapNotRunning, 40*s, 50*s, "")},
			[]string{"Kubernetes: 1970-01-01 00:00:10–00:00:20 UTC, 1970-01-01 00:00:40–00:00:50 UTC was not recorded: no agent followed the cluster then"},
		},
		{
			[]manifest.Gap{gap(manifest.GapWatchLost, 10*s, 20*s, "node a"), gap(manifest.GapEvicted, 0, 10*s, "node a"), gap(manifest.GapUnreachable, 20*s, 30*s, "not handed in by b")},
			[]string{
				"Kubernetes: 1970-01-01 00:00:20–00:00:30 UTC is missing (not handed in by b)",
				"Kubernetes: 1970-01-01 00:00:00–00:00:10 UTC had been recycled by the ring (node a)",
				"Kubernetes: 1970-01-01 00:00:10–00:00:20 UTC may lack changes: the API server could not be asked (node a)",
			},
		},
		{[]manifest.Gap{gap(manifest.GapEvicted, 200*s, 210*s, "")}, nil}, // outside
		{[]manifest.Gap{gap("new-reason", 0, s, "")}, []string{"Kubernetes: 1970-01-01 00:00:00–00:00:01 UTC is incomplete: new-reason"}},
	} {
		m.Gaps = test.gaps
		if got := Of(m); !slices.Equal(test.want, got.Warnings) || len(got.Reasons) > 0 {
			t.Errorf("%s", cmp.Diff(test.want, got.Warnings))
		}
	}
}
