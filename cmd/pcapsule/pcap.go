package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/pcapgen"
)

func pcapCommand() *cli.Command {
	return &cli.Command{
		Name:      "pcap",
		Usage:     "export a snapshot as one capture file",
		UsageText: "pcapsule snapshot pcap REF [-w FILE|-]",
		Description: `Merges the chunks of all nodes, in order of time. The same request always gives
the same bytes. A damaged chunk ends the export with an error, and no file.

With --pod, --namespace and --service, names mean what they meant when the packet
was seen: an address that was given to another pod is that pod's from then on.
Each may be repeated. A packet is exported when its source or its destination has
one of the pods' names, if any are given, and likewise one of the namespaces and
of the services. A service has its own addresses and those of the pods behind it.
A pod is NAMESPACE/NAME, or NAME in the given namespaces or in any; * stands for
any characters. A pod on its node's network has no address of its own: choosing
it gives all packets of its node, and its namespace does not count it. Addresses
inside tunnels (VXLAN, Geneve, GRE, IP in IP) count as well.

Where the snapshot has records of Kubernetes, a pcapng says the names of addresses
(in Wireshark: View, Name Resolution, Resolve Network Addresses), has a comment on
each packet with who it is from and to, and a row for each event of the cluster.
--plain leaves all of that out.

   pcapsule snapshot pcap outage -w outage.pcapng
   pcapsule snapshot pcap outage --pod shop/web-7d9f-abcde -w web.pcapng
   pcapsule snapshot pcap outage --namespace shop --service db -w db.pcapng
   pcapsule snapshot pcap outage --pod 'shop/web-*' --service shop/db -w between.pcapng
   pcapsule snapshot pcap outage -w - | tshark -r -
   pcapsule snapshot pcap outage --node web-1 --from 14:32:00 --to 14:32:30 -w web-1.pcapng
   pcapsule snapshot pcap outage --format pcap --interface eth0 -w old-tools.pcap
   pcapsule snapshot pcap outage --store outage.tar -w outage.pcapng`,
		Flags: flags([]cli.Flag{
			writeFlag("write to `FILE`, or to standard output for - (the default)"),
			&cli.StringSliceFlag{Name: "node", Usage: "only packets of this `NODE`; may be repeated"},
			&cli.StringSliceFlag{Name: "interface", Aliases: []string{"i"}, Usage: "only packets of the interface `NAME`; may be repeated"},
			&cli.StringSliceFlag{Name: "pod", Usage: "only packets from or to this pod: `NAMESPACE/NAME`; may be repeated"},
			&cli.StringSliceFlag{Name: "namespace", Usage: "only packets from or to pods and services of the namespace `NAME`; may be repeated"},
			&cli.StringSliceFlag{Name: "service", Usage: "only packets from or to this service, or the pods behind it: `NAMESPACE/NAME`; may be repeated"},
			&cli.StringFlag{Name: "from", Usage: "only packets from `TIME` on: RFC 3339, or 14:32 on the day of the snapshot"},
			&cli.StringFlag{Name: "to", Usage: "only packets before `TIME`"},
			&cli.BoolFlag{Name: "plain", Usage: "packets only, without names, comments and events"},
			&cli.StringFlag{Name: "format", Value: pcapgen.PcapNG.String(), Usage: "`FORMAT`: pcapng or pcap"},
		}, takeFlags(), targetFlags()),
		BashComplete: completeSnapshots,
		Action:       exportPcap,
	}
}

func exportPcap(c *cli.Context) error {
	ref, err := argument(c, "snapshot")
	if err != nil {
		return err
	}
	req, err := exportRequest(c, ref)
	if err != nil {
		return err
	}
	var empty string
	p := newProgress(c.App.ErrWriter, "export "+ref)
	err = writeOutput(c, func(w io.Writer) (err error) {
		empty, err = export(c, ref, req, p.writer(w))
		return err
	})
	p.end()
	if err != nil {
		return err
	}
	if empty != "" {
		fmt.Fprintln(c.App.ErrWriter, "pcapsule: no packets: "+oneLine(empty))
	}
	if name := c.String("write"); name != "" && name != "-" {
		fmt.Fprintf(c.App.ErrWriter, "wrote %s: %s\n", name, size(p.done))
	}
	return nil
}

func exportRequest(c *cli.Context, ref string) (req pcapgen.Request, err error) {
	req.Nodes, req.Interfaces = c.StringSlice("node"), c.StringSlice("interface")
	req.Pods, req.Namespaces, req.Services = c.StringSlice("pod"), c.StringSlice("namespace"), c.StringSlice("service")
	req.Plain = c.Bool("plain")
	if req.Format, err = pcapgen.ParseFormat(c.String("format")); err != nil {
		return req, usagef("--format: %v", err)
	}
	req.Range, err = timeRange(c, func() (manifest.Interval, error) { return windowOf(c, ref) })
	return req, err
}

// windowOf is the window of a snapshot.
func windowOf(c *cli.Context, ref string) (manifest.Interval, error) {
	if hasStore(c) {
		_, snap, err := findStored(c, ref)
		if err != nil {
			return manifest.Interval{}, err
		}
		return snap.Manifest.Window, nil
	}
	client, err := openHub(c)
	if err != nil {
		return manifest.Interval{}, err
	}
	snap, err := client.Snapshot(c.Context, ref)
	if err != nil {
		return manifest.Interval{}, err
	}
	return manifest.Interval{From: manifest.NanosOf(snap.Start), To: manifest.NanosOf(snap.End)}, nil
}

// export writes the capture to w. Where it has no packets, empty says why.
func export(c *cli.Context, ref string, req pcapgen.Request, w io.Writer) (empty string, err error) {
	if hasStore(c) {
		a, snap, err := findStored(c, ref)
		if err != nil {
			return "", err
		}
		if err := accept(c, snap); err != nil {
			return "", err
		}
		stats, err := pcapgen.Export(c.Context, w, pcapgen.Source{Manifest: snap.Manifest, Store: a.Store(), Inventory: snap.Inventory}, req)
		return stats.Empty, err
	}
	client, err := openHub(c)
	if err != nil {
		return "", err
	}
	q := api.PcapQuery{
		Range: req.Range, Nodes: req.Nodes, Interfaces: req.Interfaces, Pods: req.Pods, Namespaces: req.Namespaces, Services: req.Services,
		Format: req.Format.String(), Plain: req.Plain,
	}
	id, err := client.accepted(c, ref)
	if err != nil {
		return "", err
	}
	body, err := client.Pcap(c.Context, id, q)
	if err != nil {
		return "", err
	}
	defer body.Close()
	_, err = io.Copy(w, body)
	return body.Empty(), err
}
