// Command demo runs pcapsule's main job on real traffic and shows each step: it
// records two machines that talk to each other, takes a snapshot, verifies it
// and exports a PCAP.
//
//	go run ./scripts/demo bin/pcapsule
//
// The machines are network namespaces of its own. Without root they are in a
// user namespace, where the system allows one.
package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run() error {
	switch {
	case len(os.Args) == 2:
		return enter(os.Args[1])
	case len(os.Args) == 3 && os.Args[1] == "recorded":
		return recorded(os.Args[2])
	case len(os.Args) == 3 && os.Args[1] == "peer":
		return peer(os.Args[2])
	}
	return fmt.Errorf("usage: demo PCAPSULE")
}

const (
	recordedAddr = "10.77.0.1"
	peerAddr     = "10.77.0.2"
)

// recorded runs in the first namespace: it is the machine that is recorded, and
// the person who uses pcapsule on it.
func recorded(pcapsule string) error {
	dir, err := os.MkdirTemp("", "pcapsule-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()

	say("two machines: network namespaces joined by a veth pair")
	if err := wire(ctx); err != nil {
		return err
	}
	go http.ListenAndServe(recordedAddr+":80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from %s: %s\n", recordedAddr, strings.Repeat("packet ", 400))
	}))

	d := demo{ctx: ctx, pcapsule: pcapsule, dir: dir}
	stop, err := d.start("up", "--interface", "eth0", "--node", "web-1", "--data-dir", filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	defer stop()

	say("real traffic for three seconds: HTTP and DNS-sized UDP between the two")
	time.Sleep(3 * time.Second)
	// Interface counters are the kernel's, pcapsule is held against them below.
	if out, err := exec.CommandContext(ctx, "ip", "-s", "-br", "link", "show", "dev", "eth0").CombinedOutput(); err == nil {
		os.Stdout.Write(out)
	}

	tar, capture := filepath.Join(dir, "outage.tar"), filepath.Join(dir, "outage.pcapng")
	for _, args := range [][]string{
		{"snapshot", "create", "outage", "--last", "2s"},
		{"snapshot", "list"},
		{"snapshot", "show", "outage"},
		{"snapshot", "pcap", "outage", "-w", capture},
		{"snapshot", "download", "outage", "-w", tar},
		{"verify", tar},
		{"snapshot", "delete", "outage"},
		{"sweep"},
		{"snapshot", "list", "--store", tar},
	} {
		if err := d.run(args...); err != nil {
			return err
		}
	}
	if tcpdump, err := exec.LookPath("tcpdump"); err == nil {
		say("the first packets of the export, read by tcpdump")
		out, _ := exec.CommandContext(ctx, tcpdump, "-nr", capture, "-c", "5").Output()
		os.Stdout.Write(out)
	}
	say("done: recorded, snapshot taken, verified, exported")
	return nil
}

// wire makes this namespace's lo and eth0 and starts the other machine.
func wire(ctx context.Context) error {
	other := exec.CommandContext(ctx, "/proc/self/exe", "peer", "-")
	other.Stderr = os.Stderr
	otherNamespace(other)
	in, err := other.StdinPipe() // it ends when this end closes
	if err != nil {
		return err
	}
	if err := other.Start(); err != nil {
		return fmt.Errorf("start the second machine: %w", err)
	}
	for _, line := range []string{
		"link set lo up",
		fmt.Sprintf("link add eth0 type veth peer name eth0 netns %d", other.Process.Pid),
		"addr add " + recordedAddr + "/24 dev eth0",
		"link set eth0 up",
	} {
		if err := ip(ctx, line); err != nil {
			return err
		}
	}
	_, err = in.Write([]byte("go\n"))
	return err
}

// peer runs in the second namespace: the machine that asks.
func peer(string) error {
	var line [3]byte
	if _, err := os.Stdin.Read(line[:]); err != nil {
		return err
	}
	go func() {
		os.Stdin.Read(line[:]) // the first machine is gone
		os.Exit(0)
	}()
	ctx := context.Background()
	for _, line := range []string{"addr add " + peerAddr + "/24 dev eth0", "link set eth0 up"} {
		if err := ip(ctx, line); err != nil {
			return err
		}
	}
	go datagrams()
	for {
		if resp, err := http.Get("http://" + recordedAddr + "/"); err == nil {
			resp.Body.Close()
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func ip(ctx context.Context, line string) error {
	path := "ip"
	if _, err := exec.LookPath(path); err != nil {
		path = "/usr/sbin/ip"
	}
	if out, err := exec.CommandContext(ctx, path, strings.Fields(line)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", line, err, bytes.TrimSpace(out))
	}
	return nil
}

func say(what string) { fmt.Printf("\n\x1b[1m# %s\x1b[0m\n", what) }
