package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"pcapsule/agent/kubernetes"
	"pcapsule/agent/packets"
	"pcapsule/agent/ring"
	"pcapsule/agent/targets"
	"pcapsule/chunker"
	"pcapsule/manifest"
)

// clusterBuffer is less than a machine in no cluster has: it counts as memory of
// the agent's container, which is to be small on each of many nodes.
const clusterBuffer = 16 << 20

// blindDetail is said of the time when an agent does not know whom to record.
const blindDetail = "which pods are to be recorded is not known before the API server was asked"

// followPods finds out which pods run on this node, if it is of a cluster, and
// makes them the targets of a capture that is opened next.
func (a *agent) followPods(capture *packets.Config) error {
	if a.cfg.Kubernetes == nil {
		return nil
	}
	if capture.RingSize == 0 {
		capture.RingSize = clusterBuffer
	}
	cfg := targets.Config{
		API: a.cfg.Kubernetes, Node: a.cfg.Node, Selection: a.cfg.Pods, Hub: targets.ServiceOf(a.client.Base()),
		File: filepath.Clean(a.cfg.Dir) + ".pods.json", Own: a.cfg.Own,
		Apply: func(t packets.Targets) error {
			if s, ok := a.source.(interface{ SetTargets(packets.Targets) error }); ok {
				return s.SetTargets(t)
			}
			return nil
		},
		OnBlind: func(from, to int64) {
			a.ring.AddGap(ring.Gap{
				Stream: chunker.Packets, Reason: manifest.GapWatchLost, Detail: blindDetail,
				From: manifest.Nanos(from), To: manifest.Nanos(to),
			})
		},
		Now: a.now, Logger: a.log,
	}
	if a.cfg.Lease != "" {
		namespace, _, err := kubernetes.ParseLease(a.cfg.Lease)
		if err != nil {
			return err
		}
		cfg.Namespace = namespace
	}
	var err error
	if a.pods, err = targets.New(cfg); err != nil {
		return fmt.Errorf("follow the pods of this node: %w", err)
	}
	now := a.pods.Targets()
	capture.Cluster = &now
	return nil
}

// leftOutEvery is how often it is logged what is left out.
const leftOutEvery = 10 * time.Minute

// logLeftOut tells now and then how much is not recorded on purpose, which is no
// gap.
func (a *agent) logLeftOut(ctx context.Context) {
	for {
		sleep(ctx, leftOutEvery)
		if ctx.Err() != nil {
			return
		}
		s := a.source.Stats()
		a.log.Info("packets so far", "recorded", s.Packets, "left_out_own", s.LeftOut.Own, "left_out_between", s.LeftOut.Between,
			"left_out_untargeted", s.LeftOut.Untargeted, "left_out_unknown", s.LeftOut.Unknown)
	}
}
