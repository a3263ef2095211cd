package main

import (
	"slices"
	"testing"

	"github.com/urfave/cli/v2"
)

// TestRolesOfCommands: every command that looks for a hub knows as what.
func TestRolesOfCommands(t *testing.T) {
	var have []string
	eachCommand(newApp(nil, nil, nil).Commands, func(c *cli.Command) {
		if !slices.ContainsFunc(c.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), "kube-context") }) {
			return
		}
		have = append(have, c.Name)
		if roles[c.Name] == nil {
			t.Errorf("%s has no role", c.Name)
		}
	})
	if len(have) < 9 {
		t.Errorf("only these commands look for a hub: %q", have)
	}
}
