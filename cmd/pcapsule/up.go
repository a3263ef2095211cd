package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"pcapsule/agent"
	"pcapsule/agent/packets"
	"pcapsule/internal/api"
	"pcapsule/store"
)

func agentFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "interface", Aliases: []string{"i"}, Usage: "capture on the interface `NAME`; may be repeated (default: all)"},
		&cli.BoolFlag{Name: "no-promiscuous", Usage: "do not make the interfaces named with --interface promiscuous"},
		&cli.StringFlag{Name: "node", EnvVars: []string{"PCAPSULE_NODE"}, Usage: "call this machine `NAME` (default: its host name)"},
		&cli.StringFlag{Name: "ring-size", EnvVars: []string{"PCAPSULE_RING_SIZE"}, Value: "1GiB", Usage: "keep the newest traffic in at most `SIZE` of disk"},
		&cli.StringFlag{Name: "ring-owner", EnvVars: []string{"PCAPSULE_RING_OWNER"}, Usage: "the ring is that of `NAME`: refuse one that is another's (the chart gives its release)"},
		&cli.BoolFlag{Name: "take-over-ring", EnvVars: []string{"PCAPSULE_TAKE_OVER_RING"}, Usage: "make a ring that is another's this one's, with what it holds"},
		&cli.StringFlag{Name: "fair", EnvVars: []string{"PCAPSULE_FAIR"}, Usage: "let the packets of one address have `SHARE` of the ring, as in 25%, and as much again each hour; the rest is left out and counted (default: no bound)"},
		&cli.DurationFlag{Name: "ring-depth-warn", EnvVars: []string{"PCAPSULE_RING_DEPTH_WARN"}, Usage: "warn when the ring reaches back less than `DURATION`; of a collapse it is warned always"},
		&cli.DurationFlag{Name: "chunk-age", Value: agent.DefaultChunkAge, Usage: "cut a chunk when its oldest packet is `DURATION` old"},
		&cli.StringFlag{Name: "chunk-size", EnvVars: []string{"PCAPSULE_CHUNK_SIZE"}, Usage: "cut a chunk when `SIZE` of it is stored, up to 16MiB (default: 8MiB, less for a small ring)"},
		&cli.IntFlag{Name: "workers", Usage: "capture with `N` threads (default: by the number of CPUs)"},
		&cli.StringFlag{Name: "capture-buffer", EnvVars: []string{"PCAPSULE_CAPTURE_BUFFER"}, Usage: "let packets wait in `SIZE` of memory for the disk (default: 64MiB, and 16MiB with --kubernetes)"},
	}
}

// ringDir is the folder of the ring.
func ringDir(c *cli.Context) string { return filepath.Join(c.String("data-dir"), "ring") }

func agentConfig(c *cli.Context, hubURL string) (cfg agent.Config, err error) {
	cfg = agent.Config{
		HubURL:    hubURL,
		Dir:       ringDir(c),
		RingOwner: c.String("ring-owner"), TakeOver: c.Bool("take-over-ring"),
		Interfaces: c.StringSlice("interface"), NoPromiscuous: c.Bool("no-promiscuous"),
		RingWarn: c.Duration("ring-depth-warn"), ChunkAge: c.Duration("chunk-age"),
		Workers: c.Int("workers"),
		Version: versionString(),
	}
	if cfg.Node, err = nodeName(c.String("node")); err != nil {
		return cfg, err
	}
	if cfg.RingSize, err = parseSize(c.String("ring-size")); err != nil {
		return cfg, usagef("--ring-size: %v", err)
	}
	for _, name := range []string{"ring-depth-warn", "chunk-age"} {
		if c.Duration(name) < 0 {
			return cfg, usagef("--%s %s: want a duration above zero, as in 10m", name, c.Duration(name))
		}
	}
	if v := c.String("fair"); v != "" {
		if cfg.Fair, err = parseShare(v); err != nil {
			return cfg, usagef("--fair: %v", err)
		}
	}
	if v := c.String("chunk-size"); v != "" {
		if cfg.ChunkSize, err = parseSize(v); err != nil {
			return cfg, usagef("--chunk-size: %v", err)
		}
	}
	if v := c.String("capture-buffer"); v != "" {
		n, err := parseSize(v)
		if err != nil || n < 1<<20 || n > 4<<30 {
			return cfg, usagef("--capture-buffer %s: want a size from 1MiB to 4GiB", v)
		}
		cfg.CaptureBuffer = int(n)
	}
	if cfg.Logger, err = newLogger(c); err != nil {
		return cfg, err
	}
	return cfg, nil
}

// parseShare reads a share of a whole: 25%.
func parseShare(s string) (float64, error) {
	n, ok := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(n, 64)
	if !ok || err != nil || !(v > 0 && v <= 100) { // also what is no number
		return 0, fmt.Errorf("share %q: want one above 0%% and up to 100%%, as in 25%%", s)
	}
	return v / 100, nil
}

func upCommand() *cli.Command {
	return &cli.Command{
		Name:      "up",
		Usage:     "record this machine and serve snapshots: agent and hub in one process",
		UsageText: "pcapsule up [--interface NAME]... [--ring-size 1GiB] [--store LOCATION]",
		Description: `The whole product on a laptop or a server. Needs Linux, and root or CAP_NET_RAW.
Ctrl-C ends it; the ring stays, and the next start goes on with it.

   sudo pcapsule up
   sudo pcapsule up --interface eth0 --ring-size 20GiB
   sudo -E pcapsule up --store s3://forensics/pcapsule
   sudo pcapsule up --for ann

What it records is for root, for who started it (also through sudo), and for each
--for USER: their commands find the hub by a file that nobody else can read.`,
		Flags:  flags(agentFlags(), hubFlags(), []cli.Flag{forFlag(), tokenFlag()}, daemonFlags()),
		Action: up,
	}
}

func up(c *cli.Context) error {
	if c.NArg() > 0 {
		return usagef("up takes no argument, not %q", c.Args().First())
	}
	logger, err := newLogger(c)
	if err != nil {
		return err
	}
	if _, err := agentConfig(c, ""); err != nil { // before anything is made on disk
		return err
	}
	if err := agent.Check(); err != nil {
		return err
	}
	own := new(packets.Own) // of this process: what it captures is not its own traffic
	s, err := openServed(c, logger, own)
	if err != nil {
		return err
	}
	cfg, err := agentConfig(c, s.url())
	if err != nil {
		return err
	}
	cfg.Own = own
	cfg.KeepFree = leftToStore(s.store, c.String("data-dir"))
	_, addr, _ := strings.Cut(s.url(), "://")
	cfg.HubURL = "http://" + addr // over TLS, with the certificate of this process
	cfg.HubOptions = []api.Option{api.WithName(s.url()), api.WithLocal(func() (*api.Local, error) { return s.local.client(), nil })}
	cfg.OnReady = func(r agent.Ready) {
		announceAgent(c, cfg, r)
		s.announce(c)
		fmt.Fprintf(c.App.Writer, "\nnext     pcapsule snapshot create NAME --last 5m%s\n", hubHint(s))
	}
	group, ctx := errgroup.WithContext(c.Context)
	// The hub outlives the agent, which says good-bye to it.
	hubCtx, stopHub := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { return s.run(hubCtx) })
	group.Go(func() error {
		defer stopHub()
		return agent.Run(ctx, cfg)
	})
	return group.Wait()
}

// leftToStore is how much of its volume the ring has to leave to a store that
// lies there too: what the store keeps free, and as much again for snapshots.
func leftToStore(st store.Store, dataDir string) int64 {
	f, ok := st.(*store.Folder)
	if !ok || !sameVolume(f.Dir(), dataDir) {
		return 0
	}
	s, err := f.Space()
	if err != nil {
		return 0
	}
	floor, _ := s.Floor()
	return 2 * floor
}

// hubHint is what the client commands need to find this hub, when it is not where
// they look.
func hubHint(s *served) string {
	if hubs := localHubs(); len(hubs) == 1 && hubs[0].URL == s.url() {
		return ""
	}
	return " --hub " + s.url()
}

func agentCommand() *cli.Command {
	return &cli.Command{
		Name:      "agent",
		Usage:     "record this machine for a hub",
		UsageText: "pcapsule agent --hub URL [--interface NAME]... [--ring-size 1GiB]",
		Description: `Dials the hub and listens on no port; needs no credentials for the store. A hub
that is away is waited for, and recording goes on.

   sudo pcapsule agent --hub https://hub.example:8898 --hub-ca ca.crt --hub-token-file token
   sudo pcapsule agent --hub http://127.0.0.1:8898 --node web-1`,
		Flags: flags(agentFlags(), agentKubernetesFlags(), agentHubFlags(), daemonFlags()),
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usagef("agent takes no argument, not %q", c.Args().First())
			}
			cfg, err := agentConfig(c, c.String("hub"))
			if err == nil {
				err = agentHub(c, &cfg)
			}
			if err == nil {
				_, err = newClient(cfg.HubURL, cfg.HubOptions)
			}
			if err == nil {
				err = agentKubernetes(c, &cfg)
			}
			if err != nil {
				return err
			}
			cfg.OnReady = func(r agent.Ready) { announceAgent(c, cfg, r) }
			return agent.Run(c.Context, cfg)
		},
	}
}

// agentHub fills in which hub the agent is for, and how it is let in. Where none is
// named, it is one on this machine, for which the agent waits.
func agentHub(c *cli.Context, cfg *agent.Config) error {
	named := cfg.HubURL != ""
	if !named {
		cfg.HubURL = defaultHub
		switch hubs := localHubs(); {
		case len(hubs) > 1:
			return usagef("%s", severalHubs(hubs))
		case len(hubs) == 1:
			cfg.HubURL = hubs[0].URL
		}
	}
	cfg.HubURL, cfg.HubOptions = localOptions(cfg.HubURL, identityOptions(c, cfg.Logger), identifies(c), !named)
	return nil
}

// announceAgent says what is captured, and how long the ring is.
func announceAgent(c *cli.Context, cfg agent.Config, r agent.Ready) {
	w := c.App.Writer
	var names []string
	for _, i := range r.Interfaces {
		name := i.Name
		if !i.Up {
			name += " (down)"
		}
		names = append(names, name)
	}
	which := "all interfaces"
	if len(cfg.Interfaces) > 0 {
		which = "interfaces"
	}
	fmt.Fprintf(w, "node     %s\n", cfg.Node)
	fmt.Fprintf(w, "records  %s: %s\n", which, strings.Join(names, ", "))
	if cfg.Pods.Selective() {
		fmt.Fprintf(w, "pods     %s\n", cfg.Pods)
	}
	fmt.Fprintf(w, "ring     %s in %s: %s\n", size(r.Ring.Limit), cfg.Dir, ringTime(r))
}

// ringTime says how much time the ring can hold: by what it holds already, or by
// the speed of the interfaces.
func ringTime(r agent.Ready) string {
	if r.Ring.Oldest > 0 {
		held := time.Since(time.Unix(0, r.Ring.Oldest))
		share := float64(r.Ring.Used) / float64(r.Ring.Limit)
		if share > 0.01 && held > time.Minute {
			return fmt.Sprintf("holds the last %s, and about %s when full", roundSpan(held), roundSpan(time.Duration(float64(held)/share)))
		}
	}
	var parts []string
	for _, rate := range []struct {
		name string
		bits float64
	}{{"1 Mbit/s", 1e6}, {"100 Mbit/s", 1e8}, {"1 Gbit/s", 1e9}} {
		span := time.Duration(float64(r.Ring.Limit) * 8 / rate.bits * float64(time.Second))
		parts = append(parts, roundSpan(span)+" at "+rate.name)
	}
	return "room for " + strings.Join(parts, ", ") + " (more where traffic compresses)"
}

func roundSpan(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}
