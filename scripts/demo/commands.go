package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// A demo runs pcapsule's commands as a person would, and shows them.
type demo struct {
	ctx      context.Context
	pcapsule string
	dir      string
}

func (d *demo) command(args ...string) *exec.Cmd {
	shown := strings.ReplaceAll(strings.Join(args, " "), d.dir+"/", "")
	say("$ pcapsule " + shown)
	cmd := exec.CommandContext(d.ctx, d.pcapsule, args...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+d.dir+"/config", "PCAPSULE_RUNTIME_DIR="+d.dir+"/run")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

func (d *demo) run(args ...string) error {
	if err := d.command(args...).Run(); err != nil {
		return fmt.Errorf("pcapsule %s: %w", args[0], err)
	}
	return nil
}

// start runs a command in the background until its hub answers.
func (d *demo) start(args ...string) (stop func(), err error) {
	cmd := d.command(args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	for range 100 {
		select {
		case err := <-exited:
			return nil, fmt.Errorf("pcapsule %s ended: %w", args[0], err)
		case <-time.After(100 * time.Millisecond):
		}
		resp, err := http.Get("http://127.0.0.1:8898/readyz")
		if err != nil {
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return func() {
				cmd.Process.Signal(syscall.SIGTERM)
				<-exited
			}, nil
		}
	}
	cmd.Process.Signal(syscall.SIGTERM)
	<-exited
	return nil, fmt.Errorf("pcapsule %s did not get ready in 10 s", args[0])
}

// datagrams sends small UDP packets to the recorded machine.
func datagrams() {
	conn, err := net.Dial("udp", recordedAddr+":53")
	if err != nil {
		return
	}
	for {
		conn.Write(make([]byte, 48))
		time.Sleep(10 * time.Millisecond)
	}
}
