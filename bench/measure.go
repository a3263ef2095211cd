//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A sample is one run of a program.
type sample struct {
	Wall time.Duration
	CPU  time.Duration
	RSS  int64 // at its peak, in bytes
}

// A contender is a program that is measured.
type contender struct {
	name  string
	dir   string // where it runs; "" is here
	args  []string
	env   []string  // added to the environment
	stdin io.Reader // of its only run; nil is none
}

// measuredCommand is this program's own command that runs a program and tells
// what it took. It is a process of its own because Linux counts what a process
// held before exec, so a program started from here would be told to have used
// the memory of the captures that are held here.
const measuredCommand = "measured"

// measured runs a command and writes its sample to file descriptor 3.
func measured(args []string) (code int) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	start := time.Now()
	err := cmd.Run()
	s := sample{Wall: time.Since(start)}
	if cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, err)
		return 127
	}
	use := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	s.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	s.RSS = use.Maxrss * 1024
	if err := json.NewEncoder(os.NewFile(3, "sample")).Encode(s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 127
	}
	return cmd.ProcessState.ExitCode()
}

// measure runs the contender once and returns its standard output, too.
func (c contender) measure(ctx context.Context) (s sample, stdout string, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return s, "", err
	}
	defer r.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{measuredCommand}, c.args...)...)
	cmd.Dir = c.dir
	cmd.ExtraFiles = []*os.File{w}
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stdin = c.stdin
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	w.Close()
	if err != nil {
		return s, "", fmt.Errorf("%s: %w: %.1000s", c.name, err, errs.String())
	}
	if err := json.NewDecoder(r).Decode(&s); err != nil {
		return s, "", fmt.Errorf("%s: what it took is not known: %w", c.name, err)
	}
	return s, out.String(), nil
}

// byTurns runs all contenders once without counting, then runs times by turns.
// The samples are in the order of the contenders.
func byTurns(ctx context.Context, runs int, contenders ...contender) ([]samples, error) {
	all := make([]samples, len(contenders))
	for i := range runs + 1 {
		for j, c := range contenders {
			s, _, err := c.measure(ctx)
			if err != nil {
				return nil, err
			}
			if i > 0 {
				all[j] = append(all[j], s)
			}
		}
	}
	return all, nil
}

type samples []sample

func (s samples) wall() spread { return s.spread(func(s sample) float64 { return s.Wall.Seconds() }) }
func (s samples) cpu() spread  { return s.spread(func(s sample) float64 { return s.CPU.Seconds() }) }
func (s samples) rss() spread {
	return s.spread(func(s sample) float64 { return float64(s.RSS) / (1 << 20) })
}

func (s samples) spread(of func(sample) float64) spread {
	var values []float64
	for _, x := range s {
		values = append(values, of(x))
	}
	return spreadOf(values)
}

// A spread is the least, the median and the greatest of several values.
type spread struct{ min, median, max float64 }

func spreadOf(values []float64) spread {
	slices.Sort(values)
	if len(values) == 0 {
		return spread{}
	}
	return spread{values[0], values[len(values)/2], values[len(values)-1]}
}

// rate is the spread of amount per each of s.
func (s spread) rate(amount float64) spread {
	return spread{amount / s.max, amount / s.median, amount / s.min}
}

func (s spread) times(f float64) spread { return spread{s.min * f, s.median * f, s.max * f} }

// String is "median (min-max)", with as many digits as matter.
func (s spread) String() string {
	digits := 0
	switch {
	case s.median < 1:
		digits = 3
	case s.median < 20:
		digits = 2
	case s.median < 100:
		digits = 1
	}
	return fmt.Sprintf("%.*f (%.*f-%.*f)", digits, s.median, digits, s.min, digits, s.max)
}

// loadAverage is how many processes wanted a processor in the last minute.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(b), " ")
	if err != nil {
		return "unknown"
	}
	return first
}

// capinfos is what that program counts in a capture file.
func capinfos(ctx context.Context, file string) (packets, bytes int64, err error) {
	out, err := do(ctx, "", "capinfos", "-T", "-r", "-M", "-c", "-d", file)
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Split(strings.TrimSpace(out), "\t")
	if len(fields) < 3 {
		return 0, 0, fmt.Errorf("capinfos said %q", out)
	}
	_, perr := fmt.Sscan(fields[1], &packets)
	_, berr := fmt.Sscan(fields[2], &bytes)
	return packets, bytes, errors.Join(perr, berr)
}
