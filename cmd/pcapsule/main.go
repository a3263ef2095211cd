// Command pcapsule is a flight recorder for Kubernetes traffic, with an archive.
//
// This package turns flags into calls: one file a command, and the few things
// that commands share (where a snapshot is read from, tables, progress, exit
// codes). What pcapsule does is in the packages it calls.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second Ctrl-C ends the program at once, should cleaning up hang.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program, with its exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	out := &screen{w: stdout}
	app := newApp(stdin, out, &screen{w: stderr})
	err := app.RunContext(ctx, permute(app, args))
	if werr := out.finish(); werr != nil && (err == nil || exitCode(err) == exitPartial) {
		err = fmt.Errorf("write to standard output: %w", withoutPath(werr))
	}
	if err == nil {
		return exitOK
	}
	code := exitCode(err)
	if msg := errorLine(ctx, err); msg != "" {
		fmt.Fprintln(stderr, "pcapsule: "+msg)
	}
	return code
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:      "pcapsule",
		Usage:     "a flight recorder for network traffic, with an archive",
		UsageText: "pcapsule COMMAND [ARGUMENT]... [--FLAG VALUE]...",
		Description: `Every node keeps the newest traffic in a ring. One command freezes a time
window of it, over all nodes, into an immutable, signed snapshot that can be
listed, verified, downloaded and exported as PCAP years later.

   sudo pcapsule up                              record, and serve, on this machine
   pcapsule snapshot create outage --last 5m     freeze the last five minutes
   pcapsule snapshot pcap outage -w outage.pcapng
   pcapsule snapshot download outage -w outage.tar
   pcapsule verify outage.tar

Exit codes: 0 fine, 1 failed, 2 wrong usage, 3 verification failed, 4 partial.`,
		Commands: []*cli.Command{
			upCommand(),
			agentCommand(),
			agentReadyCommand(),
			hubCommand(),
			{
				Name:    "snapshot",
				Aliases: []string{"snapshots", "snap"},
				Usage:   "create, list, read and delete snapshots",
				Subcommands: []*cli.Command{
					createCommand(),
					listCommand(),
					showCommand(),
					pcapCommand(),
					eventsCommand(),
					downloadCommand(),
					importCommand(),
					deleteCommand(),
				},
			},
			nodesCommand(),
			verifyCommand(),
			sweepCommand(),
			{
				Name:  "key",
				Usage: "the keys that sign snapshots: make, show, trust and forget them",
				Subcommands: []*cli.Command{
					keyGenerateCommand(),
					keyShowCommand(),
					keyTrustCommand(),
					keyForgetCommand(),
				},
			},
			completionCommand(),
			versionCommand(),
		},
		// Names of interfaces hold commas. Flags that take a list split it by itself.
		DisableSliceFlagSeparator: true,

		EnableBashCompletion: true,
		HideVersion:          true,
		Reader:               stdin,
		Writer:               stdout,
		ErrWriter:            stderr,
		ExitErrHandler:       func(*cli.Context, error) {}, // run decides
		OnUsageError:         usageError,
		Action:               helpOrUnknown,
	}
	eachCommand(app.Commands, func(c *cli.Command) {
		c.OnUsageError = usageError
		c.BashComplete = orContexts(c.BashComplete)
		if len(c.Subcommands) > 0 {
			c.Action = helpOrUnknown
		} else {
			c.HideHelpCommand = true // "help" may be a snapshot's name
		}
	})
	return app
}

func eachCommand(cmds []*cli.Command, f func(*cli.Command)) {
	for _, c := range cmds {
		f(c)
		eachCommand(c.Subcommands, f)
	}
}

// helpOrUnknown is what a command with subcommands does by itself.
func helpOrUnknown(c *cli.Context) error {
	if c.Args().Present() {
		return usagef("no command %q: see `%s --help`", c.Args().First(), c.App.Name)
	}
	return cli.ShowSubcommandHelp(c)
}

func usageError(_ *cli.Context, err error, _ bool) error { return usagef("%v: see --help", err) }
