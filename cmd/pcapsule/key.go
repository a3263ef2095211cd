package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
		Usage:     "trust another's public key, wherever it signed",
		UsageText: "pcapsule key trust FILE|-|ssh-ed25519 KEY|SHA256:FINGERPRINT [--store LOCATION]",
		Description: `FILE holds lines as ` + "`pcapsule key show`" + ` prints them (an allowed_signers file) or
public keys as ssh-keygen writes them (a .pub file); - reads them from standard
input. A line may be the argument itself. Of a fingerprint the key is taken from
the snapshots in --store, or at the hub, that it signed.

Be sure where they come from: the copy of a key inside an archive proves nothing
about the archive. Compare its fingerprint with one that you were told otherwise.

   ssh hub sudo pcapsule key show /var/lib/pcapsule/hub.key | pcapsule key trust -
   pcapsule key trust auditors.allowed_signers
   pcapsule key trust SHA256:dGhlIGZpbmdlcnByaW50IG9mIGEga2V5 --store outage.tar`,
		Flags:  targetFlags(),
		Action: keyTrust,
	}
}

func keyTrust(c *cli.Context) error {
	from, lines, err := keyLines(c)
	if err != nil {
		return err
	}
	lines = signersOf(lines)
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
	added, err := addLines(name, lines)
	if err != nil {
		return err
	}
	for _, key := range trust.Keys() {
		fmt.Fprintf(c.App.ErrWriter, "pcapsule: trusting %s\n", key.Fingerprint())
	}
	fmt.Fprintf(c.App.ErrWriter, "added %s to %s\n", count(added, "key"), name)
	return nil
}

// keyLines are what the arguments of key trust say, and where that is from.
func keyLines(c *cli.Context) (from string, lines []byte, err error) {
	args := c.Args().Slice()
	switch {
	case len(args) > 1 && strings.HasPrefix(args[0], "ssh-"), len(args) > 1 && args[0] == manifest.Principal:
		return "the argument", []byte(strings.Join(args, " ") + "\n"), nil
	case len(args) == 1 && strings.ContainsAny(args[0], " \t") && strings.Contains(args[0], "ssh-"):
		return "the argument", []byte(args[0] + "\n"), nil
	}
	from, err = argument(c, "file, key or fingerprint")
	if err != nil {
		return "", nil, err
	}
	if strings.HasPrefix(from, "SHA256:") {
		key, err := keyOfFingerprint(c, from)
		if err != nil {
			return "", nil, err
		}
		fmt.Fprintf(c.App.ErrWriter, "pcapsule: this key is from beside the snapshots that it signed, which proves nothing about them: be sure that you were told its fingerprint by its owner\n")
		return from, key.Signers(), nil
	}
	lines, err = readFileOrStdin(c, from)
	return from, lines, err
}

// keyOfFingerprint looks among those who signed the snapshots that --store holds,
// or the hub, for a key.
func keyOfFingerprint(c *cli.Context, fingerprint string) (key manifest.PublicKey, err error) {
	snaps, _, err := listSnapshots(c)
	if err != nil {
		return key, err
	}
	for _, s := range snaps {
		if s.Signer != fingerprint {
			continue
		}
		key, err = manifest.ParsePublicKey(s.SignerKey)
		if err == nil && key.Fingerprint() == fingerprint {
			return key, nil
		}
	}
	return key, fmt.Errorf("no snapshot there is signed by a key of fingerprint %s: name the --store that has one, or give the key itself", fingerprint)
}

// signersOf makes lines of an allowed_signers file of what may be public keys as
// .pub files have them. A comment that former versions gave the keys of hubs, which
// count for their hub alone, goes: who names a key here trusts it.
func signersOf(lines []byte) []byte {
	var b bytes.Buffer
	for line := range strings.Lines(string(lines)) {
		line = strings.TrimSpace(line)
		if m := formerLine.FindStringSubmatch(line); m != nil {
			line = m[1]
		}
		if key, err := manifest.ParsePublicKey(line); err == nil && strings.HasPrefix(line, "ssh-") {
			line = key.SignersLine()
		}
		b.WriteString(line + "\n")
	}
	return b.Bytes()
}

// addLines adds to a file the lines that it lacks, all or none.
func addLines(name string, lines []byte) (added int, err error) {
	unlock, err := lockFolder(filepath.Dir(name))
	if err != nil {
		return 0, err
	}
	defer unlock()
	known, err := readIfThere(name)
	if err != nil {
		return 0, err
	}
	there := map[string]bool{}
	for line := range strings.Lines(string(known)) {
		there[strings.TrimSpace(line)] = true
	}
	if len(known) > 0 && known[len(known)-1] != '\n' {
		known = append(known, '\n')
	}
	for line := range strings.Lines(string(lines)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || there[line] {
			continue
		}
		there[line] = true
		known = append(known, line+"\n"...)
		added++
	}
	if added == 0 {
		return 0, nil
	}
	return added, putFile(name, known)
}

func keyForgetCommand() *cli.Command {
	return &cli.Command{
		Name:      "forget",
		Usage:     "forget the key of a hub, which is accepted anew at the next use",
		UsageText: "pcapsule key forget HUB",
		Description: `HUB is what the message names that refuses the hub: its URL, or the address of
its cluster with namespace and service. Be sure that the hub's owner changed its
key: otherwise somebody else answers there.

   pcapsule key forget http://127.0.0.1:8898`,
		Action: keyForget,
	}
}

func keyForget(c *cli.Context) error {
	ref, err := argument(c, "hub")
	if err != nil {
		return err
	}
	known, err := openKnownHubs()
	if err != nil {
		return err
	}
	for _, id := range []string{ref, hubOrigin(ref)} {
		found, err := known.forget(id)
		if err != nil {
			return err
		}
		if found {
			fmt.Fprintf(c.App.ErrWriter, "forgot the key of hub %s: the next use accepts the one that it comes with\n", id)
			return nil
		}
	}
	hubs, err := known.load()
	if err != nil {
		return err
	}
	var ids []string
	for _, h := range hubs {
		ids = append(ids, h.id)
	}
	if len(ids) == 0 {
		return fmt.Errorf("no hub is known by the name %q, nor by any other", ref)
	}
	return fmt.Errorf("no hub is known by the name %q: there is %s", ref, strings.Join(ids, ", "))
}
