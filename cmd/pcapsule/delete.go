package main

import (
	"fmt"
	"os"
	"os/user"
	"time"

	"github.com/urfave/cli/v2"

	"pcapsule/archive"
	"pcapsule/internal/api"
)

func deleteCommand() *cli.Command {
	return &cli.Command{
		Name: "delete", Aliases: []string{"rm"},
		Usage:     "delete a snapshot",
		UsageText: "pcapsule snapshot delete REF...",
		Description: `The snapshot is gone at once and for good. Its chunks may be held by other
snapshots; ` + "`pcapsule sweep`" + ` frees the space of those that are not.

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
		if err := remove(ref); err != nil {
			return err
		}
		fmt.Fprintf(c.App.Writer, "deleted %s\n", oneLine(ref))
	}
	return nil
}

func deleter(c *cli.Context) (func(ref string) error, error) {
	if hasStore(c) {
		a, err := openArchive(c, c.String("store"))
		if err != nil {
			return nil, err
		}
		return func(ref string) error {
			s, err := a.Find(c.Context, ref)
			if err != nil {
				return err
			}
			return a.Delete(c.Context, s.ID, whoAmI())
		}, nil
	}
	client, err := openHub(c)
	if err != nil {
		return nil, err
	}
	return func(ref string) error { return client.Delete(c.Context, ref) }, nil
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
snapshots in the making first.

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
	if dry {
		fmt.Fprintf(c.App.Writer, "%d of %d objects are held by no snapshot: a sweep would free %s\n", r.Condemned, r.Scanned, size(r.Freed))
		return nil
	}
	fmt.Fprintf(c.App.Writer, "deleted %d of %d objects: freed %s\n", r.Deleted, r.Scanned, size(r.Freed))
	return nil
}

func runSweep(c *cli.Context, dry bool) (*api.SweepReport, error) {
	if !hasStore(c) {
		client, err := openHub(c)
		if err != nil {
			return nil, err
		}
		return client.Sweep(c.Context, dry)
	}
	a, err := openArchive(c, c.String("store"))
	if err != nil {
		return nil, err
	}
	r, err := a.Sweep(c.Context, archive.SweepOptions{Now: time.Now, DryRun: dry})
	if err != nil {
		return nil, err
	}
	report := api.SweepReport(r)
	return &report, nil
}
