// Command capture measures what capturing costs, side by side: pcapsule with
// cutting, hashing and its ring on disk, against dumpcap, tcpdump and
// netsniff-ng, which only write what they see to a file.
//
// It makes a network namespace with a veth pair, finds the highest rate up to
// which dumpcap loses nothing, and lets all programs capture the same packets at
// that rate, by turns, several times. It prints a line of JSON for each
// combination of program and traffic (a Result), which is the median run. It
// needs root.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Result is how one program did with one kind of traffic.
type Result struct {
	Traffic  string  `json:"traffic"`
	Program  string  `json:"program"`
	Version  string  `json:"version"`
	Packets  int     `json:"packets"`            // sent
	Bytes    int64   `json:"bytes"`              // of them
	Rate     float64 `json:"packets_per_second"` // at which they were sent
	Lost     int     `json:"lost"`               // sent and not recorded
	Lossless int     `json:"lossless_runs"`
	Runs     int     `json:"runs"`
	CPU      float64 `json:"cpu_seconds_per_million_packets"`
	LeastCPU float64 `json:"least_cpu_seconds_per_million_packets"` // of all runs
	MostCPU  float64 `json:"most_cpu_seconds_per_million_packets"`
	User     float64 `json:"user_seconds_per_million_packets"`
	RSS      int64   `json:"max_rss_bytes"`
	Stored   int64   `json:"stored_bytes"` // on disk
}

type options struct {
	count   int
	size    int
	runs    int
	rate    float64
	dir     string
	only    string
	capture string
	profile string
}

func main() {
	var o options
	flag.IntVar(&o.count, "count", 600000, "packets of each run")
	flag.IntVar(&o.size, "size", 1400, "bytes of each packet, except those of -pcap")
	flag.IntVar(&o.runs, "runs", 3, "runs of each program")
	flag.Float64Var(&o.rate, "rate", 0, "packets per second; 0 finds the highest that dumpcap holds")
	flag.StringVar(&o.dir, "dir", os.TempDir(), "where captures are written to, for a moment")
	flag.StringVar(&o.only, "only", "", "program to measure, instead of all")
	flag.StringVar(&o.capture, "capture", "", "used by the benchmark itself: capture on this interface into -dir")
	flag.StringVar(&o.profile, "cpuprofile", "", "write a CPU profile of pcapsule's last run to this file")
	pcap := flag.String("pcap", "", "capture file whose packets are sent, too, over and over")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	run := func() error { return measure(ctx, o, *pcap) }
	if o.capture != "" {
		run = func() error { return capture(ctx, o) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "capture benchmark:", err)
		os.Exit(1)
	}
}

// measure runs all programs on all traffic.
func measure(ctx context.Context, o options, pcap string) error {
	// The thread, and the programs started from it, live in the namespace.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace (root is needed): %w", err)
	}
	for _, line := range []string{
		"link add name gen type veth peer name cap",
		"link set dev gen addrgenmode none up",
		"link set dev cap addrgenmode none up",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", line, err, out)
		}
	}
	all, err := traffics(o, pcap)
	if err != nil {
		return err
	}
	g, err := newGenerator("gen")
	if err != nil {
		return err
	}
	defer g.close()
	enc := json.NewEncoder(os.Stdout)
	for _, tr := range all {
		rate := o.rate
		if rate == 0 {
			if rate, err = highest(ctx, o, g, tr); err != nil {
				return err
			}
		}
		results, err := byTurns(ctx, o, g, tr, rate)
		if err != nil {
			return err
		}
		for _, r := range results {
			if err := enc.Encode(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// highest finds the rate that dumpcap holds without loss, to a few percent.
func highest(ctx context.Context, o options, g *generator, tr traffic) (float64, error) {
	dumpcap := programs[slices.IndexFunc(programs, func(p program) bool { return p.name == "dumpcap" })]
	holds := func(rate float64) (bool, float64, error) {
		r, err := once(ctx, o, g, tr, dumpcap, rate)
		fmt.Fprintf(os.Stderr, "dumpcap, %s: %d lost at %.0f packets/s\n", tr.name, r.Lost, r.Rate)
		return r.Lost == 0, r.Rate, err
	}
	// As fast as this machine sends is the most there is.
	ok, hi, err := holds(0)
	if err != nil || ok {
		return hi, err
	}
	lo := 0.0
	for range 5 {
		mid := (lo + hi) / 2
		ok, _, err := holds(mid)
		if err != nil {
			return 0, err
		}
		if ok {
			lo = mid
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return 0, errors.New("dumpcap loses packets at every rate")
	}
	return lo, nil
}

// byTurns lets each program capture several times, and returns a result each.
func byTurns(ctx context.Context, o options, g *generator, tr traffic, rate float64) ([]Result, error) {
	all := map[string][]Result{}
	for range max(o.runs, 1) {
		for _, p := range programs {
			if o.only != "" && p.name != o.only {
				continue
			}
			r, err := once(ctx, o, g, tr, p, rate)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			all[p.name] = append(all[p.name], r)
		}
	}
	var results []Result
	for _, p := range programs {
		if runs := all[p.name]; len(runs) > 0 {
			results = append(results, summary(runs))
		}
	}
	return results, nil
}

// summary is the median run, by CPU time, and the worst loss.
func summary(runs []Result) Result {
	slices.SortFunc(runs, func(a, b Result) int { return cmp.Compare(a.CPU, b.CPU) })
	r := runs[len(runs)/2]
	r.Runs, r.LeastCPU, r.MostCPU = len(runs), runs[0].CPU, runs[len(runs)-1].CPU
	for _, x := range runs {
		r.Lost = max(r.Lost, x.Lost)
		if x.Lost == 0 {
			r.Lossless++
		}
	}
	return r
}

// once lets one program capture the traffic.
func once(ctx context.Context, o options, g *generator, tr traffic, p program, rate float64) (Result, error) {
	dir, err := os.MkdirTemp(o.dir, "pcapsule-bench-")
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(dir)
	cmd, err := p.start(ctx, o, dir)
	if err != nil {
		return Result{}, err
	}
	sent, err := g.send(ctx, tr, o.count, rate)
	if err != nil {
		return Result{}, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	settle()
	rss, err := peakRSS(cmd.Process.Pid)
	if err != nil {
		return Result{}, err
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		return Result{}, err
	}
	// Programs differ in how they end; what counts is what they recorded.
	_ = cmd.Wait()
	recorded, stored, err := p.recorded(dir)
	if err != nil {
		return Result{}, err
	}
	use := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	user, sys := seconds(use.Utime), seconds(use.Stime)
	million := float64(sent.packets) / 1e6
	return Result{
		Traffic: tr.name, Program: p.name, Version: p.version(),
		Packets: sent.packets, Bytes: sent.bytes, Rate: float64(sent.packets) / sent.took.Seconds(),
		Lost: sent.packets - recorded,
		CPU:  (user + sys) / million, User: user / million,
		RSS: rss, Stored: stored,
	}, nil
}

// peakRSS is the most memory that a process held so far, in bytes. Unlike the
// figure of wait4 it begins when the program does, and not with this one's.
func peakRSS(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "\nVmHWM:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	return kib * 1024, nil
}

func seconds(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
