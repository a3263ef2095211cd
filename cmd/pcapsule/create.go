package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"pcapsule/internal/api"
	"pcapsule/manifest"
)

func createCommand() *cli.Command {
	return &cli.Command{
		Name:      "create",
		Usage:     "freeze a time window of all nodes into a snapshot",
		UsageText: "pcapsule snapshot create [NAME] --last 5m | --from TIME [--to TIME]",
		Description: `Waits until the snapshot stands in the store, showing progress, and prints it.
Exit code 4 tells that it is partial: something of the window was not recorded,
and the snapshot says what.

   pcapsule snapshot create outage --last 5m
   pcapsule snapshot create --from 14:30 --to 14:35 --node web-1 --node web-2
   pcapsule snapshot create outage --from 2026-03-01T14:30:00Z --to 2026-03-01T14:35:00Z -o json`,
		Flags: flags([]cli.Flag{
			&cli.DurationFlag{Name: "last", Usage: "the window is the last `DURATION`, as in 90s, 5m, 2h"},
			&cli.StringFlag{Name: "from", Usage: "the window starts at `TIME`: RFC 3339, or 14:32 for today"},
			&cli.StringFlag{Name: "to", Usage: "the window ends before `TIME` (default: now)"},
			&cli.StringSliceFlag{Name: "node", Usage: "only this `NODE`; may be repeated (default: all)"},
			&cli.BoolFlag{Name: "no-wait", Usage: "do not wait until it is done; print its id"},
			outputFlag(),
		}, connectFlags()),
		Action: create,
	}
}

func create(c *cli.Context) error {
	if c.NArg() > 1 {
		return usagef("one name at a time, not also %q", c.Args().Get(1))
	}
	req := api.CreateRequest{Name: c.Args().First(), Nodes: c.StringSlice("node")}
	if err := windowFlags(c, &req); err != nil {
		return err
	}
	client, err := openHub(c)
	if err != nil {
		return err
	}
	snap, err := begin(c, client, req)
	if err != nil {
		return err
	}
	if c.Bool("no-wait") {
		if wantsJSON(c) {
			return writeJSON(c.App.Writer, snap)
		}
		fmt.Fprintln(c.App.Writer, snap.ID)
		return nil
	}
	return awaitSnapshot(c, client, snap)
}

// begin asks for a snapshot. A hub that has just started waits for its nodes, which
// is shown.
func begin(c *cli.Context, client *hubClient, req api.CreateRequest) (*api.Snapshot, error) {
	p := newProgress(c.App.ErrWriter, "snapshot")
	ctx, done := context.WithCancel(c.Context)
	var shown sync.WaitGroup
	shown.Go(func() { sayWaiting(ctx, p, client) })
	snap, err := client.Create(c.Context, req)
	done()
	shown.Wait()
	p.end()
	return snap, err
}

// sayWaiting shows why it takes a while until a hub begins.
func sayWaiting(ctx context.Context, p *progress, client *hubClient) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		hub, err := client.Hub(ctx)
		switch age := time.Duration(0); {
		case ctx.Err() != nil:
			return
		case err != nil:
			p.say("waiting for the hub")
		case !hub.Started.IsZero():
			if age = hub.Time.Sub(hub.Started); age < time.Minute {
				p.say(fmt.Sprintf("the hub started %s ago: it waits for its nodes", age.Round(time.Second)))
			}
		}
	}
}

func windowFlags(c *cli.Context, req *api.CreateRequest) (err error) {
	now := time.Now()
	switch {
	case c.IsSet("last") && (c.IsSet("from") || c.IsSet("to")):
		return usagef("either --last or --from and --to, not both")
	case c.IsSet("last"):
		if c.Duration("last") <= 0 {
			return usagef("--last %v: want a duration above zero, as in 5m", c.Duration("last"))
		}
		req.Last = c.Duration("last").String()
		return nil
	case !c.IsSet("from"):
		return usagef("which window? --last 5m, or --from TIME and --to TIME")
	}
	from, err := parseMoment(c.String("from"), now.Location())
	if err != nil {
		return usagef("--from: %v", err)
	}
	req.From, req.To = from.before(now), now
	if c.IsSet("to") {
		to, err := parseMoment(c.String("to"), now.Location())
		if err != nil {
			return usagef("--to: %v", err)
		}
		req.To = to.before(now)
	}
	if !req.From.Before(req.To) {
		return usagef("the window ends at %s, which is not after its start at %s", stamp(req.To), stamp(req.From))
	}
	return nil
}

// awaitSnapshot waits for a snapshot in the making and prints it. When the user
// interrupts, the hub is told to give it up.
func awaitSnapshot(c *cli.Context, client *hubClient, snap *api.Snapshot) error {
	p := newProgress(c.App.ErrWriter, "snapshot "+snap.Name)
	id := snap.ID
	done, err := client.WaitSnapshot(c.Context, id, func(s *api.Snapshot) {
		id = s.ID
		showSession(p, s)
	})
	p.end()
	if err != nil {
		if c.Context.Err() != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context), 5*time.Second)
			defer cancel()
			if derr := client.Delete(ctx, id); derr != nil {
				return fmt.Errorf("interrupted; the hub still has session %s: %w", id, derr)
			}
			return errors.New("interrupted: the snapshot was given up, nothing is left of it")
		}
		return err
	}
	return printSnapshot(c, done)
}

// printSnapshot prints a finished snapshot; that it is partial is the exit code.
func printSnapshot(c *cli.Context, s *api.Snapshot) error {
	var err error
	if wantsJSON(c) {
		err = writeJSON(c.App.Writer, s)
	} else {
		err = writeSnapshots(c.App.Writer, *s)
	}
	if err != nil {
		return err
	}
	for _, r := range append(s.Reasons, s.Warnings...) {
		fmt.Fprintln(c.App.ErrWriter, "pcapsule: "+oneLine(r))
	}
	if s.Status == manifest.Partial {
		return &codeError{code: exitPartial}
	}
	switch {
	case s.Records > 0:
	case len(s.Warnings) > 0:
		fmt.Fprintln(c.App.ErrWriter, "pcapsule: there was no packet in the window")
	default:
		fmt.Fprintln(c.App.ErrWriter, "pcapsule: the window was recorded, and there was no packet in it")
	}
	return nil
}

func showSession(p *progress, s *api.Snapshot) {
	var done, total int64
	var busy []string
	for _, n := range s.Progress {
		done += n.Done
		total += n.Bytes
		switch {
		case n.Error != nil:
			busy = append([]string{n.Node + " is held up: " + n.Error.Message}, busy...)
		case n.State != "done":
			busy = append(busy, n.Node+" "+n.State)
		}
	}
	p.set(done, total)
	switch {
	case s.Error != nil:
		p.say("held up: " + s.Error.Message)
	case len(busy) > 3:
		p.say(fmt.Sprintf("%s and %d more", busy[0], len(busy)-1))
	case len(busy) > 0:
		p.say(fmt.Sprint(busy))
	default:
		p.say("signing")
	}
}
