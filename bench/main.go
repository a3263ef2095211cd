//go:build linux

// Command bench measures pcapsule beside its peers, in one run on one machine,
// and writes what it found to bench/RESULTS.md: figures, ratios, aims, and
// whether they are met.
//
//	go run ./bench                     everything; some ten minutes
//	go run ./bench -only merge,cut     some, to standard output
//	go run ./bench -quick              all with little data: does it work at all?
//
// The contenders of a comparison run by turns, A B A B, on the same input, which
// the first turn, uncounted, brings into the page cache. Capturing needs root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A benchmark returns what it found, as far as it came.
type benchmark struct {
	name  string
	title string
	root  bool // whether it captures
	run   func(context.Context, *bench) (section, error)
}

var benchmarks = []benchmark{
	{"merge", "Merge and export of chunks that overlap", false, merge},
	{"disjoint", "Export of a large snapshot", false, disjoint},
	{"cut", "Cutting", false, cut},
	{"capture", "Capture", true, capture},
	{"second", "A second snapshot of the same window", true, second},
	{"copy", "A snapshot beside a plain copy of its chunks", true, copyChunks},
	{"idle", "Agents with nothing to record", true, idle},
	{"scale", "A hub of a thousand nodes", false, scale},
}

// bench is what all benchmarks share.
type bench struct {
	pcapsule string // the binary
	work     string // a folder for files, removed at the end
	runs     int    // of each contender
	quick    bool
	traffics []traffic // the mix of small packets, and that of all sizes
}

// scaled is a size, or little of it in quick runs.
func (b *bench) scaled(bytes int64) int64 {
	if b.quick {
		return bytes / 16
	}
	return bytes
}

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case measuredCommand:
			os.Exit(measured(os.Args[2:]))
		case secondCommand:
			exit(secondInNamespace(os.Args[2:]))
		case copyCommand:
			exit(copyInNamespace(os.Args[2:]))
		case uploadCommand:
			exit(upload(os.Args[2:]))
		case idleCommand:
			exit(idleInNamespace(os.Args[2:]))
		}
	}
	var o options
	var only string
	flag.StringVar(&only, "only", "", "benchmarks to run, separated by commas (default: all)")
	flag.BoolVar(&o.quick, "quick", false, "little data and few runs")
	flag.IntVar(&o.runs, "runs", 5, "runs of each contender")
	flag.StringVar(&o.out, "w", "", "write the results to `FILE` (default: bench/RESULTS.md for a full run, else standard output)")
	flag.StringVar(&o.pcapsule, "pcapsule", "bin/pcapsule", "the binary to measure")
	flag.Parse()
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	exit(run(o))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type options struct {
	only     []string
	quick    bool
	runs     int
	out      string
	pcapsule string
}

func run(o options) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	for _, name := range o.only {
		if !slices.ContainsFunc(benchmarks, func(b benchmark) bool { return b.name == name }) {
			return fmt.Errorf("there is no benchmark %q", name)
		}
	}
	if o.quick {
		o.runs = min(o.runs, 2)
	}
	b := &bench{runs: max(o.runs, 1), quick: o.quick}
	if b.pcapsule, err = filepath.Abs(o.pcapsule); err != nil {
		return err
	}
	if _, err := os.Stat(b.pcapsule); err != nil {
		return fmt.Errorf("%w: run make bench, which builds it", err)
	}
	if err := raiseFileLimit(); err != nil {
		return err
	}
	if err := os.MkdirAll("bench/work", 0o755); err != nil {
		return err
	}
	if b.work, err = filepath.Abs("bench/work"); err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp(b.work, "run"); err != nil {
		return err
	}
	defer os.RemoveAll(b.work)
	// pcapsule keeps the user's key there.
	if err := os.Setenv("XDG_CONFIG_HOME", b.work); err != nil {
		return err
	}
	say("captures")
	if b.traffics, err = traffics(ctx); err != nil {
		return err
	}

	r := report{machine: describeMachine(ctx, b)}
	var failed []error
	for _, m := range benchmarks {
		if len(o.only) > 0 && !slices.Contains(o.only, m.name) {
			continue
		}
		s := section{skipped: "needs root: not run"}
		if !m.root || os.Geteuid() == 0 {
			say("%s", m.title)
			before := loadAverage()
			if s, err = m.run(ctx, b); err != nil {
				s.failed = err.Error()
				failed = append(failed, fmt.Errorf("%s: %w", m.name, err))
			}
			s.load = before
		}
		s.title = m.title
		r.sections = append(r.sections, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if o.out == "" && !o.quick && len(o.only) == 0 {
		o.out = "bench/RESULTS.md"
	}
	text := r.markdown()
	if o.out == "" {
		fmt.Print(text)
	} else if err := os.WriteFile(o.out, []byte(text), 0o644); err != nil {
		return err
	}
	for _, line := range r.missed() {
		say("aim missed: %s", line)
	}
	return errors.Join(failed...)
}

// raiseFileLimit lets the programs that are measured open as many files as they
// may: mergecap opens all its inputs at once.
func raiseFileLimit() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	l.Cur = l.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	return nil
}

// do runs a command that is not measured.
func do(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %.2000s", strings.Join(cmd.Args[:min(len(cmd.Args), 4)], " "), err, out)
	}
	return string(out), nil
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }
