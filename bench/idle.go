//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"pcapsule/tools"
)

// What an agent with nothing to record may take.
const (
	idleMemory = 60 // MiB
	idleCPU    = 1  // percent of a core
)

// The cluster that idle agents are in.
const (
	idleNodes    = 10
	idlePods     = 100
	idleServices = 20
)

// An idleResult is what idleInNamespace found of each agent.
type idleResult struct {
	Role    string
	RSS     []float64 // MiB, each second
	Own     float64   // MiB of it that are no file's, at the most
	Ring    float64   // MiB of it that the kernel lays packets into
	Percent float64   // of a core
}

// idle measures agents that follow a cluster in which nothing happens.
func idle(ctx context.Context, b *bench) (s section, err error) {
	settle, watch := 30*time.Second, 60*time.Second
	if b.quick {
		settle, watch = 3*time.Second, 5*time.Second
	}
	s.intro = fmt.Sprintf(`Two agents, each in a network namespace of its own with %d interfaces of pods and no traffic but its own,
and a hub with TLS and tokens, at a real Kubernetes API server with %d pods on %d nodes, and %d services. One agent is
elected and records the stream kubernetes. They have %s to settle, and are then looked at for %s. Of the memory, what
is neither anonymous nor ring are pages of the program's file, which agents on one machine, and the page cache, share.`,
		podsOfNode, idlePods, idleNodes, idleServices, settle, watch)
	s.columns = []string{"agent", "RSS MiB", "of it anonymous, at most", "of it the ring of packets", "CPU %"}
	if _, err := tools.Path(ctx, "kubernetes", "kube-apiserver"); err != nil { // which may have to be built, with the network
		return s, err
	}
	dir, err := os.MkdirTemp(b.work, "idle")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dir)
	var r []idleResult
	err = inNamespace(ctx, &r, nil, idleCommand, b.pcapsule, dir, settle.String(), watch.String())
	if err != nil {
		return s, err
	}
	if len(r) != idleAgents {
		return s, errors.New("an agent is missing")
	}
	for _, a := range r {
		rss := spreadOf(a.RSS)
		s.rows = append(s.rows, []string{a.Role, rss.String(), number(a.Own), number(a.Ring), strconv.FormatFloat(a.Percent, 'f', 2, 64)})
		s.aims = append(s.aims,
			atMost("idle agent, "+a.Role+": MiB of memory, at its most", rss.max, idleMemory),
			atMost("idle agent, "+a.Role+": percent of a core", a.Percent, idleCPU))
	}
	return s, nil
}
