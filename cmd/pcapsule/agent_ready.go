package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"pcapsule/agent"
)

func agentReadyCommand() *cli.Command {
	return &cli.Command{
		Name:      "agent-ready",
		Usage:     "tell whether the agent of this machine records all that it was told to",
		UsageText: "pcapsule agent-ready [--data-dir DIR]",
		Description: `Reads what the agent says of itself in the folder of its ring: it listens on no
port. Exit code 0 means that capture runs, that the ring takes what is captured,
and that the interfaces named to the agent are there; 1 that something is not as
it should be, which is said. The chart's readiness probe is this command.

   pcapsule agent-ready && echo recording`,
		Hidden: true, // for probes
		Flags:  []cli.Flag{dataDirFlag()},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usagef("agent-ready takes no argument, not %q", c.Args().First())
			}
			if err := agent.Recording(ringDir(c), time.Now()); err != nil {
				return err
			}
			fmt.Fprintln(c.App.Writer, "recording")
			return nil
		},
	}
}
