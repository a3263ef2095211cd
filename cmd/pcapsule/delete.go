package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/user"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"pcapsule/archive"
	"pcapsule/internal/api"
)

func deleteCommand() *cli.Command {
	return &cli.Command{
		Name: "delete", Aliases: []string{"rm"},
		Usage:     "delete a snapshot, or end the making of one",
		UsageText: "pcapsule snapshot delete REF...",
		Description: `The snapshot is gone at once and for good. Its chunks may be held by other
snapshots; ` + "`pcapsule sweep`" + ` frees the space of those that are not. A snapshot in the
making is given up, whoever makes it, also when its process has died.

   pcapsule snapshot delete outage && pcapsule sweep
   pcapsule snapshot delete outage --store /var/lib/pcapsule/store`,
		Flags:        flags(nil, targetFlags()),
		BashComplete: completeSnapshots,
		Action:       deleteSnapshots,
	}
}

func deleteSnapshots(c *cli.Context) error {
	if c.NArg() == 0 {
		return usagef("which snapshot? usage: %s", c.Command.UsageText)
	}
	remove, err := deleter(c)
	if err != nil {
		return err
	}
	for _, ref := range c.Args().Slice() {
		ended, err := remove(ref)
		if err != nil {
			return err
		}
		if ended == nil {
			fmt.Fprintf(c.App.Writer, "deleted %s\n", oneLine(ref))
		} else {
			fmt.Fprintln(c.App.Writer, oneLine(endedLine(ended, time.Now())))
		}
	}
	return nil
}

// endedLine says that a session was ended.
func endedLine(e *api.Ended, now time.Time) string {
	line := fmt.Sprintf("ended the session %s (%s) of %s, which began %s ago", e.ID, cmp.Or(e.Name, "no name"), e.Owner, roundSpan(now.Sub(e.Created)))
	if e.Dead {
		line += " and whose process had died"
	}
	switch {
	case e.Uploaded == nil:
		return line + ": `pcapsule sweep` frees what it had uploaded"
	case e.Uploaded.Bytes == 0:
		return line + "; it had uploaded nothing that no snapshot holds"
	}
	return line + fmt.Sprintf("; it had uploaded %s (%s) that no snapshot holds: `pcapsule sweep` frees that",
		size(e.Uploaded.Bytes), count(e.Uploaded.Objects, "object"))
}

func deleter(c *cli.Context) (func(ref string) (*api.Ended, error), error) {
	if hasStore(c) {
		a, err := openArchive(c, c.String("store"))
		if err != nil {
			return nil, err
		}
		return func(ref string) (*api.Ended, error) {
			did, err := a.Remove(c.Context, ref, whoAmI())
			if err != nil || did.Session == nil {
				return nil, err
			}
			t := did.Session
			ended := &api.Ended{ID: did.ID, Name: did.Name, Owner: t.Who(), Created: t.Created, Dead: t.Dead()}
			if did.Counted {
				ended.Uploaded = &api.Content{Objects: did.Objects, Bytes: did.Bytes}
			}
			return ended, nil
		}, nil
	}
	client, err := openHub(c)
	if err != nil {
		return nil, err
	}
	return func(ref string) (*api.Ended, error) { return client.Remove(c.Context, ref) }, nil
}

// whoAmI names the user and the machine, for a tombstone or an intent.
func whoAmI() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		name += "@" + h
	}
	return name
}

func sweepCommand() *cli.Command {
	return &cli.Command{
		Name:      "sweep",
		Usage:     "delete the chunks that no snapshot holds any more",
		UsageText: "pcapsule sweep [--dry-run] [--store LOCATION]",
		Description: `Safe at any time, beside snapshots in the making and other sweeps. It waits for
snapshots in the making first, and says so; one whose process on this machine has
died, or whose time is up, it ends.

   pcapsule sweep
   pcapsule sweep --dry-run
   pcapsule sweep --store s3://forensics/pcapsule`,
		Flags: flags([]cli.Flag{
			&cli.BoolFlag{Name: "dry-run", Usage: "only tell what would go"},
			outputFlag(),
		}, targetFlags()),
		Action: sweep,
	}
}

func sweep(c *cli.Context) error {
	if c.NArg() > 0 {
		return usagef("sweep takes no argument, not %q", c.Args().First())
	}
	dry := c.Bool("dry-run")
	r, err := runSweep(c, dry)
	if err != nil {
		return err
	}
	if wantsJSON(c) {
		return writeJSON(c.App.Writer, r)
	}
	if dry && r.Kept != "" {
		fmt.Fprintf(c.App.Writer, "%d of %d objects are held by no snapshot: a sweep would delete them; %s\n", r.Condemned, r.Scanned, oneLine(r.Kept))
		return nil
	}
	if dry {
		fmt.Fprintf(c.App.Writer, "%d of %d objects are held by no snapshot: a sweep would free %s\n", r.Condemned, r.Scanned, size(r.Freed))
		return nil
	}
	ended := ""
	if r.Voided > 0 {
		ended = fmt.Sprintf("; ended %s that had died, or whose time was up", count(r.Voided, "session"))
	}
	if r.Kept != "" {
		fmt.Fprintf(c.App.Writer, "deleted %d of %d objects; %s%s\n", r.Deleted, r.Scanned, oneLine(r.Kept), ended)
		return nil
	}
	fmt.Fprintf(c.App.Writer, "deleted %d of %d objects: freed %s%s\n", r.Deleted, r.Scanned, size(r.Freed), ended)
	return nil
}

// tellWaiting says, once a session, what a sweep waits for, until when, and what
// can be done about it.
func tellWaiting(c *cli.Context, s api.Snapshot) {
	where := ""
	if hasStore(c) {
		where = " --store " + c.String("store")
	}
	fmt.Fprintln(c.App.ErrWriter, oneLine(fmt.Sprintf(
		"pcapsule: sweep waits for session %s (%s) of %s, which began %s ago: until it ends, or %s%s; `pcapsule snapshot delete %s%s` ends it now",
		s.ID, cmp.Or(s.Name, "no name"), s.Owner, roundSpan(time.Since(s.Created)), stamp(s.Deadline), clientState(s), s.ID, where)))
}

// tellAwaited is tellWaiting for the sweeps of a hub, until ctx ends.
func tellAwaited(ctx context.Context, c *cli.Context, client *api.Client) {
	told := map[string]bool{}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		list, err := client.Snapshots(ctx)
		if err != nil {
			continue // the sweep itself tells what is wrong
		}
		for _, s := range list {
			if s.Awaited && !told[s.ID] {
				told[s.ID] = true
				tellWaiting(c, s)
			}
		}
	}
}

func runSweep(c *cli.Context, dry bool) (*api.SweepReport, error) {
	if !hasStore(c) {
		client, err := openHub(c)
		if err != nil {
			return nil, err
		}
		ctx, done := context.WithCancel(c.Context)
		var told sync.WaitGroup
		defer told.Wait()
		defer done()
		told.Go(func() { tellAwaited(ctx, c, client.Client) })
		return client.Sweep(c.Context, dry)
	}
	a, err := openArchive(c, c.String("store"))
	if err != nil {
		return nil, err
	}
	r, err := a.Sweep(c.Context, archive.SweepOptions{Now: time.Now, DryRun: dry, Waiting: func(t archive.Attempt) {
		tellWaiting(c, underWay(t))
	}})
	if err != nil {
		return nil, err
	}
	report := api.SweepReport(r)
	return &report, nil
}
