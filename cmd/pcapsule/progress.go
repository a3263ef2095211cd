package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// A progress shows one line on a terminal: what is going on, bytes, rate and time
// left. Where stderr is no terminal it shows nothing.
type progress struct {
	w     *os.File // nil: quiet
	what  string
	start time.Time

	mu    sync.Mutex
	shown time.Time
	done  int64
	total int64 // 0: not known
	note  string
}

func newProgress(stderr io.Writer, what string) *progress {
	p := &progress{what: what, start: time.Now()}
	if f, ok := terminal(stderr); ok {
		p.w = f
	}
	return p
}

// set shows that done of total bytes are through; total 0 means unknown.
func (p *progress) set(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.total = done, total
	p.show(false)
}

func (p *progress) add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	p.show(false)
}

// say adds a note behind the figures.
func (p *progress) say(note string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note = note
	p.show(true)
}

// show is called with mu held.
func (p *progress) show(force bool) {
	now := time.Now()
	if p.w == nil || !force && now.Sub(p.shown) < 100*time.Millisecond {
		return
	}
	p.shown = now
	line := fmt.Sprintf("%s  %s", p.what, size(p.done))
	rate := float64(p.done) / max(now.Sub(p.start).Seconds(), 0.001)
	if p.total > 0 {
		line += fmt.Sprintf(" of %s  %d%%", size(p.total), p.done*100/p.total)
	}
	if p.done > 0 {
		line += fmt.Sprintf("  %s/s", size(int64(rate)))
	}
	if left := p.total - p.done; left > 0 && p.done > 0 && rate > 0 {
		line += fmt.Sprintf("  %s left", time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second))
	}
	if p.note != "" {
		line += "  " + p.note
	}
	line = oneLine(line)
	if width, _, err := term.GetSize(int(p.w.Fd())); err == nil && width > 1 && len(line) >= width {
		line = line[:width-1]
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", line)
}

// end wipes the line.
func (p *progress) end() {
	if p.w != nil {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// writer counts what passes through to w.
func (p *progress) writer(w io.Writer) io.Writer { return &countingWriter{w, p} }

type countingWriter struct {
	w io.Writer
	p *progress
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.p.add(int64(n))
	return n, err
}
