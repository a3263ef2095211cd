package main

import (
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"pcapsule/internal/api"
	"pcapsule/pcapgen"
)

func pcapCommand() *cli.Command {
	return &cli.Command{
		Name:      "pcap",
		Usage:     "export a snapshot as one capture file",
		UsageText: "pcapsule snapshot pcap REF [-w FILE|-]",
		Description: `Merges the chunks of all nodes, in order of time. The same request always gives
the same bytes. A damaged chunk ends the export with an error, and no file.

   pcapsule snapshot pcap outage -w outage.pcapng
   pcapsule snapshot pcap outage -w - | tshark -r -
   pcapsule snapshot pcap outage --node web-1 --from 14:32:00 --to 14:32:30 -w web-1.pcapng
   pcapsule snapshot pcap outage --format pcap --interface eth0 -w old-tools.pcap
   pcapsule snapshot pcap outage --store outage.tar -w outage.pcapng`,
		Flags: flags([]cli.Flag{
			writeFlag("write to `FILE`, or to standard output for - (the default)"),
			&cli.StringSliceFlag{Name: "node", Usage: "only packets of this `NODE`; may be repeated"},
			&cli.StringSliceFlag{Name: "interface", Aliases: []string{"i"}, Usage: "only packets of the interface `NAME`; may be repeated"},
			&cli.StringFlag{Name: "from", Usage: "only packets from `TIME` on: RFC 3339, or 14:32 for today"},
			&cli.StringFlag{Name: "to", Usage: "only packets before `TIME`"},
			&cli.StringFlag{Name: "format", Value: pcapgen.PcapNG.String(), Usage: "`FORMAT`: pcapng or pcap"},
		}, targetFlags()),
		BashComplete: completeSnapshots,
		Action:       exportPcap,
	}
}

func exportPcap(c *cli.Context) error {
	ref, err := argument(c, "snapshot")
	if err != nil {
		return err
	}
	req, err := exportRequest(c)
	if err != nil {
		return err
	}
	p := newProgress(c.App.ErrWriter, "export "+ref)
	err = writeOutput(c, func(w io.Writer) error { return export(c, ref, req, p.writer(w)) })
	p.end()
	if err != nil {
		return err
	}
	if name := c.String("write"); name != "" && name != "-" {
		fmt.Fprintf(c.App.ErrWriter, "wrote %s: %s\n", name, size(p.done))
	}
	return nil
}

func exportRequest(c *cli.Context) (req pcapgen.Request, err error) {
	now := time.Now()
	req.Nodes, req.Interfaces = c.StringSlice("node"), c.StringSlice("interface")
	if req.Format, err = pcapgen.ParseFormat(c.String("format")); err != nil {
		return req, usagef("--format: %v", err)
	}
	for _, f := range []struct {
		name string
		to   *int64
	}{{"from", &req.From}, {"to", &req.To}} {
		if c.IsSet(f.name) {
			t, err := parseTime(c.String(f.name), now)
			if err != nil {
				return req, usagef("--%s: %v", f.name, err)
			}
			*f.to = t.UnixNano()
		}
	}
	if req.From != 0 && req.To != 0 && req.From >= req.To {
		return req, usagef("--to is not after --from")
	}
	return req, nil
}

// export writes the capture to w.
func export(c *cli.Context, ref string, req pcapgen.Request, w io.Writer) error {
	if hasStore(c) {
		a, snap, err := findStored(c, ref)
		if err != nil {
			return err
		}
		_, err = pcapgen.Export(c.Context, w, pcapgen.Source{Manifest: snap.Manifest, Store: a.Store(), Inventory: snap.Inventory}, req)
		return err
	}
	client, err := openHub(c)
	if err != nil {
		return err
	}
	q := api.PcapQuery{Nodes: req.Nodes, Interfaces: req.Interfaces, Format: req.Format.String()}
	if req.From != 0 {
		q.From = time.Unix(0, req.From)
	}
	if req.To != 0 {
		q.To = time.Unix(0, req.To)
	}
	body, err := client.Pcap(c.Context, ref, q)
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(w, body)
	return err
}
