package agent

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"pcapsule/internal/api"
	"pcapsule/manifest"
)

// warnings are what keeps this node from recording all that it is to record, for
// as long as that lasts. The hub is told with each poll, and at once of a change.
type warnings struct {
	changed chan struct{} // has one when there is news

	mu   sync.Mutex
	list map[string]string // texts, by what they are about
}

func newWarnings() *warnings {
	return &warnings{changed: make(chan struct{}, 1), list: map[string]string{}}
}

// set warns of what key names, in place of what was said of that before, or takes
// the warning back when text is empty. It tells whether that is news.
func (w *warnings) set(key, text string) (news bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.list[key] == text {
		return false
	}
	if w.list[key] = text; text == "" {
		delete(w.list, key)
	}
	select {
	case w.changed <- struct{}{}:
	default:
	}
	return true
}

// setAll is set for all that begins with prefix: what texts lacks is taken back.
func (w *warnings) setAll(prefix string, texts map[string]string) {
	w.mu.Lock()
	var old []string
	for key := range w.list {
		if name, ok := strings.CutPrefix(key, prefix); ok && texts[name] == "" {
			old = append(old, key)
		}
	}
	w.mu.Unlock()
	for _, key := range old {
		w.set(key, "")
	}
	for name, text := range texts {
		w.set(prefix+name, text)
	}
}

// now lists the warnings as polls have them, in order of what they are about.
// What changed before is no news any more.
func (w *warnings) now() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.changed:
	default:
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(w.list)) {
		out = append(out, shorten(manifest.Clean(w.list[key]), api.MaxWarning))
	}
	if len(out) > api.MaxWarnings {
		out = append(out[:api.MaxWarnings-1], "and more: see the log of the agent")
	}
	return out
}

// shorten cuts a text to n bytes, between characters.
func shorten(s string, n int) string {
	const more = "…"
	if len(s) <= n {
		return s
	}
	n -= len(more)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + more
}
