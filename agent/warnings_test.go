package agent

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"pcapsule/internal/api"
	"pcapsule/manifest"
)

// TestWarnings keeps what is said of each thing once, and within the bounds of
// polls.
func TestWarnings(t *testing.T) {
	w := newWarnings()
	news := func() bool {
		select {
		case <-w.changed:
			return true
		default:
			return false
		}
	}
	if news() || w.now() != nil {
		t.Error("a node that was not warned of warns")
	}
	w.set("b", "two")
	w.set("a", "one\x1b[2J")
	if !news() || news() {
		t.Error("want news once")
	}
	w.set("c", "three")
	w.set("c", "")
	if w.now(); news() {
		t.Error("what was told is news")
	}
	if w.set("b", "two") || news() {
		t.Error("what was said before is news")
	}
	if diff := cmp.Diff([]string{"one�[2J", "two"}, w.now()); diff != "" {
		t.Error(diff)
	}
	w.set("b", "")
	if w.set("b", "") || !news() {
		t.Error("want news of what is over, once")
	}

	w.setAll("link ", map[string]string{"x": "x is gone", "y": "y is down"})
	w.setAll("link ", map[string]string{"y": "y is gone"})
	if diff := cmp.Diff([]string{"one�[2J", "y is gone"}, w.now()); diff != "" {
		t.Error(diff)
	}

	for i := range 100 {
		w.set(fmt.Sprintf("%03d", i), strings.Repeat("ä", 1000))
	}
	list := w.now()
	if len(list) != api.MaxWarnings {
		t.Errorf("%d warnings, want %d", len(list), api.MaxWarnings)
	}
	for _, s := range list {
		if len(s) > api.MaxWarning || !utf8.ValidString(s) || s != manifest.Clean(s) {
			t.Errorf("%q is no warning that a hub takes", s)
		}
	}
}
