package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"pcapsule/manifest"
)

func keyGenerateCommand() *cli.Command {
	return &cli.Command{
		Name:      "generate",
		Usage:     "make a key that signs snapshots",
		UsageText: "pcapsule key generate [FILE]",
		Description: `Writes an Ed25519 private key in OpenSSH's format, readable by you alone, and
prints its public half: the line that others put into their allowed_signers.

   pcapsule key generate
   pcapsule key generate /etc/pcapsule/hub.key`,
		Action: func(c *cli.Context) error {
			name, err := keyName(c)
			if err != nil {
				return err
			}
			s, err := manifest.GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			if err := manifest.SaveKey(name, s, manifest.Principal); err != nil {
				if errors.Is(err, os.ErrExist) {
					return fmt.Errorf("%s is there already, and snapshots may be signed with it: choose another file", name)
				}
				return err
			}
			fmt.Fprintf(c.App.ErrWriter, "wrote %s (%s)\n", name, s.Public().Fingerprint())
			fmt.Fprintln(c.App.Writer, s.Public().SignersLine())
			return nil
		},
	}
}

func keyShowCommand() *cli.Command {
	return &cli.Command{
		Name:      "show",
		Usage:     "print the public half of a key",
		UsageText: "pcapsule key show [FILE]",
		Action: func(c *cli.Context) error {
			name, err := keyName(c)
			if err != nil {
				return err
			}
			s, err := manifest.LoadKey(name)
			if err != nil {
				return err
			}
			fmt.Fprintln(c.App.Writer, s.Public().SignersLine())
			return nil
		},
	}
}

// keyName is the key file that the command's argument names, or the user's own.
func keyName(c *cli.Context) (string, error) {
	if c.NArg() > 1 {
		return "", usagef("one file at a time, not also %q", c.Args().Get(1))
	}
	if c.Args().Present() {
		return c.Args().First(), nil
	}
	return configFile("key")
}

func keyTrustCommand() *cli.Command {
	return &cli.Command{
		Name:      "trust",
		Usage:     "trust another's public key when verifying",
		UsageText: "pcapsule key trust FILE",
		Description: `FILE holds lines as ` + "`pcapsule key show`" + ` prints them (an allowed_signers file);
- reads them from standard input. Be sure where they come from: the copy inside
an archive proves nothing about the archive.

   ssh hub sudo pcapsule key show /var/lib/pcapsule/hub.key | pcapsule key trust -`,
		Action: keyTrust,
	}
}

func keyTrust(c *cli.Context) error {
	from, err := argument(c, "file")
	if err != nil {
		return err
	}
	lines, err := readFileOrStdin(c, from)
	if err != nil {
		return err
	}
	trust, err := manifest.ParseTrust(lines)
	if err == nil && len(trust.Keys()) == 0 {
		err = errors.New(strings.Join(trust.Notes(), "; "))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	name, err := configFile("allowed_signers")
	if err != nil {
		return err
	}
	known, err := os.ReadFile(name)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	added := 0
	for line := range strings.Lines(string(lines)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || strings.Contains(string(known), line) {
			continue
		}
		if err := appendLine(name, line); err != nil {
			return err
		}
		added++
	}
	fmt.Fprintf(c.App.ErrWriter, "added %s to %s\n", count(added, "key"), name)
	return nil
}
