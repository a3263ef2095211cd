//go:build linux

package testbed

import (
	"context"
	"fmt"
	"strings"
)

// netns returns the name of a machine's network namespace.
func (c *Cluster) netns(machine string) string { return "pce-" + c.Name + "-" + machine }

// inNet is how to run a command in a machine's network, and else on the host:
// `ip netns exec` would hide the control groups.
func (c *Cluster) inNet(machine string) []string {
	return []string{"nsenter", "--net=/run/netns/" + c.netns(machine), "--"}
}

// network makes the machines' networks and joins them by a bridge, which is part
// of the control plane's, as is the router behind it.
func (c *Cluster) network(ctx context.Context) error {
	batch := func(machine string, lines ...string) error {
		for _, line := range lines {
			args := append([]string{"ip", "-n", c.netns(machine)}, strings.Fields(line)...)
			if _, err := run(ctx, args...); err != nil {
				return err
			}
		}
		return nil
	}
	for _, machine := range append([]string{"control", "outside"}, c.Nodes...) {
		if _, err := run(ctx, "ip", "netns", "add", c.netns(machine)); err != nil {
			return err
		}
		if err := batch(machine, "link set lo up"); err != nil {
			return err
		}
	}
	// A service that no kube-proxy knows yet is refused by the router, as anything
	// unknown: without a word from it, connections would hang.
	err := batch("control",
		"link add pce0 type bridge", "link set pce0 up", "addr add "+controlAddr+"/24 dev pce0",
		"route add unreachable "+serviceNet)
	if err != nil {
		return err
	}
	if _, err := run(ctx, append(c.inNet("control"), "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")...); err != nil {
		return err
	}
	join := func(machine, addr string) error {
		if err := batch("control",
			"link add to-"+machine+" type veth peer name eth0 netns "+c.netns(machine),
			"link set to-"+machine+" master pce0 up"); err != nil {
			return err
		}
		return batch(machine, "addr add "+addr+"/24 dev eth0", "link set eth0 up", "route add default via "+controlAddr)
	}
	if err := join("outside", outsideAddr); err != nil {
		return err
	}
	for i, node := range c.Nodes {
		if err := join(node, c.nodeAddr(i)); err != nil {
			return err
		}
		for j := range c.Nodes {
			if i != j {
				if err := batch(node, "route add "+c.nodePods(j)+" via "+c.nodeAddr(j)); err != nil {
					return err
				}
			}
		}
		// The API server reaches pods, as it does in clusters with a flat network.
		if err := batch("control", "route add "+c.nodePods(i)+" via "+c.nodeAddr(i)); err != nil {
			return err
		}
		// Pods keep their addresses within the cluster, and take their node's to leave it.
		for _, line := range []string{
			"sysctl -q -w net.ipv4.ip_forward=1",
			"iptables -w -t nat -A POSTROUTING -s " + podRange + " ! -d " + podRange + " -j MASQUERADE",
		} {
			if _, err := run(ctx, append(c.inNet(node), strings.Fields(line)...)...); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeNetwork removes all network namespaces of the cluster, and with them
// what is in them.
func (c *Cluster) removeNetwork(ctx context.Context) error {
	list, err := run(ctx, "ip", "netns", "list")
	if err != nil {
		return err
	}
	for line := range strings.Lines(list) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.HasPrefix(name, c.netns("")) {
			continue
		}
		if _, err := run(ctx, "ip", "netns", "del", name); err != nil {
			return fmt.Errorf("remove a network: %w", err)
		}
	}
	return nil
}
