package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/term"
)

// A screen is standard output or standard error. All that commands write for
// people and programs passes through it, so that no text from outside (an archive,
// a hub, a capture) can move the cursor, turn the direction of what follows or
// hide in it: printable says how such characters are shown. Captures and tars go
// around it: see unfiltered.
type screen struct {
	w io.Writer

	mu   sync.Mutex
	rest []byte // the begin of a character whose end is yet to come
	err  error  // the first that writing gave
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	text := append(s.rest, b...)
	end := completeRunes(text)
	_, s.err = io.WriteString(s.w, printableLines(string(text[:end])))
	s.rest = append([]byte(nil), text[end:]...)
	return len(b), s.err
}

// finish writes what is left, and returns the first error that any write gave.
func (s *screen) finish() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && len(s.rest) > 0 {
		_, s.err = io.WriteString(s.w, printableLines(string(s.rest)))
		s.rest = nil
	}
	return s.err
}

// unfiltered is what a writer of a command leads to. Whoever writes there returns
// the errors.
func unfiltered(w io.Writer) io.Writer {
	if s, ok := w.(*screen); ok {
		return s.w
	}
	return w
}

// terminal is the terminal that a writer of a command leads to, if that is one.
func terminal(w io.Writer) (*os.File, bool) {
	f, ok := unfiltered(w).(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// completeRunes is how many bytes at the start of b are whole characters, or none
// at all.
func completeRunes(b []byte) int {
	for i := len(b) - 1; i >= max(0, len(b)-utf8.UTFMax); i-- {
		if utf8.RuneStart(b[i]) {
			if !utf8.FullRune(b[i:]) {
				return i
			}
			break
		}
	}
	return len(b)
}

// printable shows what a terminal would not show as itself (control characters,
// characters that turn the direction of text or take no place, bytes that are not
// UTF-8) as escapes that JSON, too, has for them.
func printable(s string) string { return escape(s, visible) }

// printableLines is printable for text of several lines and columns.
func printableLines(s string) string {
	return escape(s, func(r rune) bool { return r == '\n' || r == '\t' || visible(r) })
}

// visible tells whether a character shows as itself, and as nothing else.
func visible(r rune) bool {
	return unicode.IsPrint(r) && !unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

func escape(s string, ok func(rune) bool) string {
	var b strings.Builder
	done := 0 // of s, in b
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if broken := r == utf8.RuneError && n == 1; broken || !ok(r) {
			b.WriteString(s[done:i])
			if broken {
				fmt.Fprintf(&b, `\x%02x`, s[i])
			} else {
				for _, u := range utf16.Encode([]rune{r}) {
					fmt.Fprintf(&b, `\u%04x`, u)
				}
			}
			done = i + n
		}
		i += n
	}
	if done == 0 {
		return s
	}
	b.WriteString(s[done:])
	return b.String()
}
