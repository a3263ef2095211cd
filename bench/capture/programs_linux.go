package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"time"

	"pcapsule/agent/packets"
	"pcapsule/agent/ring"
	"pcapsule/chunker"
	"pcapsule/internal/capfile"
)

// A program captures on the interface "cap". All get a ring of 64 MiB.
type program struct {
	name  string
	args  func(o options, file string) []string
	ready string // what it says when it captures
}

var programs = []program{
	{"pcapsule", func(o options, file string) []string {
		args := []string{"-capture", "cap", "-dir", filepath.Dir(file)}
		if o.profile != "" {
			args = append(args, "-cpuprofile", o.profile)
		}
		return args
	}, "capturing"},
	{"dumpcap", func(_ options, file string) []string {
		return []string{"-q", "-i", "cap", "-B", "64", "-w", file}
	}, "File: "},
	{"tcpdump", func(_ options, file string) []string {
		return []string{"-i", "cap", "-B", "65536", "-Z", "root", "-w", file}
	}, "listening on"},
	{"netsniff-ng", func(_ options, file string) []string {
		return []string{"--in", "cap", "--out", file, "--silent", "--ring-size", "64MiB"}
	}, "Running!"},
}

func (p program) own() bool { return p.name == "pcapsule" }

func (p program) path() string {
	if p.own() {
		return "/proc/self/exe"
	}
	return p.name
}

func (p program) version() string {
	if p.own() {
		return runtime.Version()
	}
	arg := "--version"
	if p.name == "dumpcap" {
		arg = "-v"
	}
	out, _ := exec.Command(p.name, arg).CombinedOutput()
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// start starts the program and waits until it captures.
func (p program) start(ctx context.Context, o options, dir string) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, p.path(), p.args(o, filepath.Join(dir, "out.pcap"))...)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, err
	}
	var said []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(said, []byte(p.ready)) {
		n, err := r.Read(buf)
		if err != nil {
			return nil, fmt.Errorf("it does not capture: %s", said)
		}
		said = append(said, buf[:n]...)
	}
	go func() {
		defer r.Close()
		_, _ = io.Copy(io.Discard, r) // or it would block
	}()
	return cmd, nil
}

// recorded counts the packets in all files of dir, and their bytes on disk.
func (p program) recorded(dir string) (packets int, size int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(d.Name(), ".pcap") {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		size += info.Size()
		r, err := capfile.NewReader(f)
		if err != nil {
			return err
		}
		for {
			_, err := r.Next()
			if errors.Is(err, io.EOF) || errors.Is(err, capfile.ErrTruncated) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			packets++
		}
	})
	return packets, size, err
}

// capture is pcapsule's side: what an agent does, without its hub.
func capture(ctx context.Context, o options) error {
	if o.profile != "" {
		f, err := os.Create(o.profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	disk, err := ring.Open(o.dir, ring.Options{Limit: 16 << 30, Logger: log})
	if err != nil {
		return err
	}
	c, err := packets.New(packets.Config{
		Interfaces: []string{o.capture},
		NewConsumer: func(int) packets.Consumer {
			return chunker.NewCutter(chunker.CutterConfig{Stream: chunker.Packets, MaxAge: time.Minute}, disk)
		},
		Logger: log,
	})
	if err != nil {
		return err
	}
	log.Info("capturing")
	err = c.Run(ctx)
	log.Info("done", "stats", c.Stats())
	return errors.Join(err, disk.Drain(context.Background()), disk.Close())
}
