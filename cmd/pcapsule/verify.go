package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"pcapsule/archive"
	"pcapsule/manifest"
	"pcapsule/store"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "check every hash, signature and promise of a snapshot or an archive",
		UsageText: "pcapsule verify REF|FILE.tar|FOLDER|s3://bucket/prefix [--trust FILE]",
		Description: `Reads every byte: the signature of each manifest, the inventories it names, every
chunk and every record in it, and says what is wrong and where. A good signature
by a key that you do not trust is reported as just that, and fails.

Trusted are the keys in --trust FILE, an allowed_signers file; by default those
you have accepted (see ` + "`pcapsule key trust`" + `) and your own. Exit code 3: something
is wrong.

   pcapsule verify outage.tar
   pcapsule verify outage
   pcapsule verify /mnt/usb/archive --trust auditors.allowed_signers
   pcapsule verify outage --store s3://forensics/pcapsule -o json`,
		Flags: flags([]cli.Flag{
			keyFlag(), outputFlag(),
		}, trustFlags(), targetFlags()),
		BashComplete: completeSnapshots,
		Action:       verify,
	}
}

func verify(c *cli.Context) error {
	what, err := verifyArgument(c)
	if err != nil {
		return err
	}
	a, ids, err := verifyTarget(c, what)
	if err != nil {
		return err
	}
	p := newProgress(c.App.ErrWriter, "verify "+what)
	report, err := a.Verify(c.Context, archive.VerifyOptions{IDs: ids, Progress: p.set})
	p.end()
	if err != nil {
		return err
	}
	if t, ok := a.Store().(*store.Tar); ok {
		if err := t.Check(); err != nil {
			report.Problems = append(report.Problems, archive.Problem{Object: store.Describe(t), What: err.Error()})
		}
	}
	if wantsJSON(c) {
		err = writeJSON(c.App.Writer, report)
	} else {
		writeReport(c, report)
	}
	switch {
	case err != nil:
		return err
	case !report.OK() || !report.Trusted():
		return &codeError{code: exitVerification}
	case len(report.Snapshots) == 0:
		return fmt.Errorf("%s holds no snapshot, so nothing was verified: is it the right place?", what)
	}
	return nil
}

// verifyArgument is what to verify: the argument, or all of --store.
func verifyArgument(c *cli.Context) (string, error) {
	if c.NArg() == 0 && hasStore(c) {
		return c.String("store"), nil
	}
	return argument(c, "snapshot, file or folder")
}

// verifyTarget opens what is to be verified. No ids means all there are.
func verifyTarget(c *cli.Context, what string) (*archive.Archive, []string, error) {
	if hasStore(c) && c.NArg() > 0 {
		a, err := openArchive(c, c.String("store"))
		if err != nil {
			return nil, nil, err
		}
		id, err := a.Resolve(c.Context, what)
		return a, []string{id}, err
	}
	info, statErr := os.Stat(what)
	if statErr == nil || strings.ContainsAny(what, `/\`) || strings.HasSuffix(what, ".tar") {
		a, err := openArchive(c, what)
		if err != nil && statErr == nil && info.Mode().IsRegular() {
			err = &codeError{exitVerification, err} // it is there, and no archive, or no longer one
		}
		return a, nil, err
	}
	client, err := openHub(c)
	if err != nil {
		return nil, nil, err
	}
	s, err := client.Snapshot(c.Context, what)
	if err != nil {
		return nil, nil, err
	}
	return hubArchive(client), []string{s.ID}, nil
}

func writeReport(c *cli.Context, r *archive.Report) {
	w := c.App.Writer
	for _, p := range r.Problems {
		fmt.Fprintf(w, "BAD   %s\n", oneLine(p.String()))
	}
	for _, s := range r.Snapshots {
		state := "good"
		if s.Problems > 0 || s.Signature != archive.SignatureTrusted {
			state = "BAD "
		}
		whose := ""
		if s.KeyOf != "" {
			whose = ", the key of " + s.KeyOf
		}
		fmt.Fprintf(w, "%s  %s  %s: %s, %s, signature %s %s%s\n", state, oneLine(s.Name), s.ID, count(s.Chunks, "chunk"), size(s.Size), s.Signature, s.Key, whose)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note  %s\n", oneLine(n.String()))
	}
	switch {
	case !r.OK():
		fmt.Fprintf(w, "%s in %s\n", count(len(r.Problems), "problem"), count(len(r.Snapshots), "snapshot"))
	case !r.Trusted():
		fmt.Fprintf(w, "every byte is what was signed, but you do not trust who signed: %s\n", oneLine(strings.Join(distrusts(c, r), "; ")))
	case len(r.Snapshots) > 0:
		fmt.Fprintf(w, "verified %s in %s: every byte is what was signed\n", size(r.Bytes), count(len(r.Snapshots), "snapshot"))
	}
}

// distrusts says why keys are not trusted, and what to do about that, each once.
func distrusts(c *cli.Context, r *archive.Report) (says []string) {
	file := cmp.Or(c.String("trust"), "your allowed_signers")
	for _, s := range r.Snapshots {
		what := ""
		switch {
		case s.Signature == archive.SignatureTrusted:
			continue
		case errors.Is(s.Distrust, manifest.ErrOtherTime):
			what = s.Trust + ": if you know that its time in " + file + " is wrong, change that line"
		case c.String("trust") != "":
			what = "if you know the key, add it to " + file
		default:
			what = "if you know the key, add it with `pcapsule key trust`"
		}
		if !slices.Contains(says, what) {
			says = append(says, what)
		}
	}
	return says
}
