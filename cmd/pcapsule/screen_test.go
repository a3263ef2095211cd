package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestScreen: what moves a cursor, turns text around or hides is shown as an escape.
func TestScreen(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"a\tb\nü 漢 🙂\n", "a\tb\nü 漢 🙂\n"},
		{"\x1b[2J\x1b]0;title\x07", `\u001b[2J\u001b]0;title\u0007`},
		{"over\rwritten\b\x7f", `over\u000dwritten\u0008\u007f`},
		{"\u0085\u009b31m", `\u0085\u009b31m`},
		{"gpj.\u202eexe\u2066", `gpj.\u202eexe\u2066`},
		{"shop\u200b\u200d\ufeff\u2060/\u00addb", `shop\u200b\u200d\ufeff\u2060/\u00addb`},
		{"\u115f\u3164\ufe0f\U000e0041\u034f", `\u115f\u3164\ufe0f\udb40\udc41\u034f`},
		{"\u2028\u2029\u00a0", `\u2028\u2029\u00a0`},
		{"a\xffb\xc3", `a\xffb\xc3`},
		{"\ufffd", "\ufffd"},
	} {
		for _, step := range []int{1, 2, 3, len(tt.in)} {
			var out strings.Builder
			s := &screen{w: &out}
			for in := tt.in; in != ""; {
				n := min(step, len(in))
				if _, err := io.WriteString(s, in[:n]); err != nil {
					t.Fatal(err)
				}
				in = in[n:]
			}
			if err := s.finish(); err != nil || out.String() != tt.want {
				t.Errorf("%q, %d bytes at a time: %q, error %v, want %q", tt.in, step, out.String(), err, tt.want)
			}
		}
	}
	if got, want := oneLine(" a\nb\tc\u202e "), `a b c\u202e`; got != want {
		t.Errorf("one line is %q, want %q", got, want)
	}
}

// TestScreenRemembers: the first error of writing stands, though nobody looked.
func TestScreenRemembers(t *testing.T) {
	full := errors.New("full")
	s := &screen{w: failingWriter{full}}
	_, _ = io.WriteString(s, "a\n")
	s.w = io.Discard
	_, _ = io.WriteString(s, "b\n")
	if err := s.finish(); !errors.Is(err, full) {
		t.Errorf("error %v, want %v", err, full)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// TestWriteAtOnce: of exports to one name the last that ends is there, whole.
func TestWriteAtOnce(t *testing.T) {
	name := filepath.Join(t.TempDir(), "one")
	const writers, lines = 8, 1000
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			line := strings.Repeat(string(rune('a'+i)), 99) + "\n"
			err := replaceFile(name, name, func(w io.Writer) error {
				for range lines {
					if _, err := io.WriteString(w, line); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(b); len(got) != 100*lines || got != strings.Repeat(got[:100], lines) {
		t.Errorf("%d bytes that are not one writer's", len(b))
	}
	if left, _ := os.ReadDir(filepath.Dir(name)); len(left) != 1 {
		t.Errorf("left over: %v", left)
	}
}

// TestWriteFails: a failed export leaves what was there, and nothing beside it.
func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "out")
	if err := os.WriteFile(name, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	err := replaceFile(name, name, func(w io.Writer) error {
		_, _ = io.WriteString(w, "half")
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
	if b, _ := os.ReadFile(name); string(b) != "before" {
		t.Errorf("the file is %q", b)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left over: %v", left)
	}
}
