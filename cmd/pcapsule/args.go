package main

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// permute puts flags before arguments, wherever on the line they stand: the
// library stops looking for flags at the first argument, people do not. Flags
// that stand before the command move to the command.
func permute(app *cli.App, args []string) []string {
	if len(args) < 2 {
		return args
	}
	path, flags, rest := args[:1:1], []string(nil), []string(nil)
	cmds := app.Commands
	takesValue := flagValues(app.Flags)
	addAll(takesValue, app.Commands)
	for i := 1; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			rest = append(rest, args[i+1:]...)
			i = len(args)
		case len(a) > 1 && a[0] == '-':
			flags = append(flags, a)
			name := strings.TrimLeft(a, "-")
			if takesValue[name] && i+1 < len(args) {
				i++
				flags = append(flags, args[i])
			}
		default:
			if c := commandNamed(cmds, a); c != nil && len(rest) == 0 {
				path = append(path, a)
				cmds = c.Subcommands
				takesValue = flagValues(c.Flags)
				addAll(takesValue, c.Subcommands)
				continue
			}
			rest = append(rest, a)
		}
	}
	out := append(path, flags...)
	for _, a := range rest {
		if len(a) > 1 && a[0] == '-' {
			out = append(out, "--")
			break
		}
	}
	return append(out, rest...)
}

func commandNamed(cmds []*cli.Command, name string) *cli.Command {
	for _, c := range cmds {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

// flagValues tells, by name, which flags are followed by a value.
func flagValues(flags []cli.Flag) map[string]bool {
	m := map[string]bool{}
	for _, f := range flags {
		if d, ok := f.(cli.DocGenerationFlag); ok && d.TakesValue() {
			for _, n := range f.Names() {
				m[n] = true
			}
		}
	}
	return m
}

// addAll adds the flags of all commands below, for flags that stand before the
// command they belong to.
func addAll(m map[string]bool, cmds []*cli.Command) {
	for _, c := range cmds {
		for n := range flagValues(c.Flags) {
			m[n] = true
		}
		addAll(m, c.Subcommands)
	}
}

// names are the values of a flag whose names hold no comma: an environment
// variable can name several only with commas between them.
func names(c *cli.Context, flag string) (list []string) {
	for _, value := range c.StringSlice(flag) {
		for name := range strings.SplitSeq(value, ",") {
			list = append(list, strings.TrimSpace(name))
		}
	}
	return list
}
