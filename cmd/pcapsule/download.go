package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
)

func downloadCommand() *cli.Command {
	return &cli.Command{
		Name:      "download",
		Usage:     "download a whole snapshot as a tar that needs no hub",
		UsageText: "pcapsule snapshot download REF -w FILE.tar",
		Description: `The tar holds manifest, signature, inventories and chunks in the store's own
layout: unpacked it is a store, and every reading command takes it as it is.

   pcapsule snapshot download outage -w outage.tar
   pcapsule verify outage.tar
   pcapsule snapshot pcap outage --store outage.tar -w outage.pcapng`,
		Flags: flags([]cli.Flag{
			writeFlag("write to `FILE`, or to standard output for - (the default)"),
		}, takeFlags(), targetFlags()),
		BashComplete: completeSnapshots,
		Action:       download,
	}
}

func download(c *cli.Context) error {
	ref, err := argument(c, "snapshot")
	if err != nil {
		return err
	}
	p := newProgress(c.App.ErrWriter, "download "+ref)
	err = writeOutput(c, func(w io.Writer) error { return writeTar(c, ref, w, p) })
	p.end()
	if err != nil {
		return err
	}
	if name := c.String("write"); name != "" && name != "-" {
		fmt.Fprintf(c.App.ErrWriter, "%s: %s; check it any time with `pcapsule verify %s`\n", name, size(p.done), name)
	}
	return nil
}

func writeTar(c *cli.Context, ref string, w io.Writer, p *progress) error {
	if hasStore(c) {
		a, snap, err := findStored(c, ref)
		if err != nil {
			return err
		}
		if err := accept(c, snap); err != nil {
			return err
		}
		return a.WriteTar(c.Context, w, snap, p.set)
	}
	client, err := openHub(c)
	if err != nil {
		return err
	}
	id, err := client.accepted(c, ref)
	if err != nil {
		return err
	}
	body, err := client.Archive(c.Context, id)
	if err != nil {
		return err
	}
	defer body.Close()
	p.set(0, max(body.Size, 0))
	_, err = io.Copy(p.writer(w), body)
	return err
}
