//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pcapsule/internal/api"
	"pcapsule/internal/kubetest"
)

// idleCommand is this program's own command that measures in a network namespace
// that was made for it: idleCommand PCAPSULE DIR SETTLE WATCH. It prints a list of
// idleResult.
const idleCommand = "idle"

const (
	idleAgents = 2
	podsOfNode = idlePods / idleNodes
)

// An idleBench is what runs in the namespace.
type idleBench struct {
	site     *site
	pcapsule string
	cluster  *idleCluster
	agents   []*process
}

func idleInNamespace(args []string) (err error) {
	if len(args) != 4 {
		return errors.New("not for people")
	}
	settle, serr := time.ParseDuration(args[2])
	watch, werr := time.ParseDuration(args[3])
	if err := errors.Join(serr, werr); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	b := &idleBench{site: &site{dir: args[1]}, pcapsule: args[0]}
	defer b.site.stop()
	if err := b.start(ctx); err != nil {
		return err
	}
	time.Sleep(settle)
	found := []idleResult{{Role: "elected"}, {Role: "stand-by"}}
	b.watch(watch, found)
	if err := b.check(ctx); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

// start returns when both agents follow the cluster, the first elected.
func (b *idleBench) start(ctx context.Context) error {
	if _, err := do(ctx, "", "ip", "link", "set", "lo", "up"); err != nil {
		return err
	}
	server, err := kubetest.Launch(ctx, "--bind-address=0.0.0.0")
	if err != nil {
		return err
	}
	b.site.stopped = append(b.site.stopped, server.Close)
	if b.cluster, err = newIdleCluster(ctx, server.Config()); err != nil {
		return err
	}
	if err := b.startHub(ctx); err != nil {
		return err
	}
	for i := range idleAgents {
		if err := b.startAgent(ctx, i); err != nil {
			return err
		}
		if i > 0 {
			continue
		}
		for { // before the other one runs
			holder, err := b.cluster.elected(ctx)
			if err != nil {
				return err
			}
			if holder != "" {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return nil
}

// hubIn is the hub's address for an agent, and agentIn the agent's own.
func hubIn(agent int) net.IP   { return net.IPv4(10, 77, byte(agent), 1) }
func agentIn(agent int) net.IP { return net.IPv4(10, 77, byte(agent), 2) }

func (b *idleBench) startHub(ctx context.Context) error {
	addresses := []net.IP{net.IPv4(127, 0, 0, 1)}
	for i := range idleAgents {
		addresses = append(addresses, hubIn(i))
	}
	cert, key, err := b.site.makeCertificate(addresses...)
	if err != nil {
		return err
	}
	kubeconfig := filepath.Join(b.site.dir, "hub.kubeconfig")
	if err := b.cluster.writeKubeconfig(kubeconfig, net.IPv4(127, 0, 0, 1)); err != nil {
		return err
	}
	args := []string{"hub", "--listen", "0.0.0.0:8898", "--data-dir", filepath.Join(b.site.dir, "hub"), "--tls-cert", cert, "--tls-key", key,
		"--auth", "kubernetes", "--agent-account", idleNamespace + "/" + idleAccount, "--hub-namespace", idleNamespace}
	for _, a := range addresses {
		args = append(args, "--host", a.String())
	}
	cmd := exec.CommandContext(ctx, b.pcapsule, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	hub, err := startProcess(cmd, "\nnext ", nil)
	if err != nil {
		return err
	}
	b.site.stopped = append(b.site.stopped, hub.stop)
	return nil
}

// asNode runs a command when its network is there: an uplink, which is given to
// the namespace, and interfaces of pods.
const asNode = `set -e
addr=$1 pods=$2; shift 2
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip addr add "$addr/24" dev eth0
ip link set eth0 up
for i in $(seq "$pods"); do
	ip link add "pod$i" type veth peer name "inpod$i"
	ip link set "pod$i" up
	ip link set "inpod$i" up
done
exec "$@"
`

func (b *idleBench) startAgent(ctx context.Context, i int) error {
	node := nodeName(i)
	file := func(name string) string { return filepath.Join(b.site.dir, node+"."+name) }
	token, err := b.cluster.agentToken(ctx, node)
	if err != nil {
		return err
	}
	err = errors.Join(
		os.WriteFile(file("token"), []byte(token), 0o600),
		os.WriteFile(file("ca"), b.site.ca, 0o600),
		b.cluster.writeKubeconfig(file("kubeconfig"), hubIn(i)))
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", asNode, "sh", agentIn(i).String(), fmt.Sprint(podsOfNode),
		b.pcapsule, "agent", "--hub", fmt.Sprintf("https://%s:8898", hubIn(i)), "--hub-ca", file("ca"), "--hub-token-file", file("token"),
		"--node", node, "--data-dir", file("data"), "--kubernetes", "--lease", idleNamespace+"/"+idleLease)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+file("kubeconfig"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	agent, err := startProcess(cmd, "\nring ", func(pid int) error {
		uplink := "node" + fmt.Sprint(i)
		for _, args := range []string{
			fmt.Sprintf("link add %s type veth peer name eth0 netns %d", uplink, pid),
			fmt.Sprintf("addr add %s/24 dev %s", hubIn(i), uplink),
			fmt.Sprintf("link set %s up", uplink),
		} {
			if _, err := do(ctx, "", "ip", strings.Fields(args)...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.agents = append(b.agents, agent)
	b.site.stopped = append(b.site.stopped, agent.stop)
	return nil
}

// watch looks at all agents each second.
func (b *idleBench) watch(d time.Duration, found []idleResult) {
	began := time.Now()
	used := make([]float64, len(found))
	for i, a := range b.agents {
		used[i] = cpuOf(a.pid)
		found[i].Ring = packetRing(a.pid)
	}
	for time.Since(began) < d {
		time.Sleep(time.Second)
		for i, a := range b.agents {
			found[i].RSS = append(found[i].RSS, memoryOf(a.pid, "VmRSS"))
			found[i].Own = max(found[i].Own, memoryOf(a.pid, "RssAnon"))
		}
	}
	took := time.Since(began).Seconds()
	for i, a := range b.agents {
		found[i].Percent = 100 * (cpuOf(a.pid) - used[i]) / took
	}
}

// packetRing is how much of a process's memory is shared with sockets, in MiB.
func packetRing(pid int) (mib float64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0
	}
	socket := false
	for line := range bytes.Lines(b) {
		name, value, _ := strings.Cut(string(line), ":")
		switch {
		case strings.Contains(name, "-"): // a mapping begins
			socket = strings.Contains(value, "socket:[")
		case name == "Rss" && socket:
			var kib float64
			_, _ = fmt.Sscan(value, &kib)
			mib += kib / 1024
		}
	}
	return mib
}

// check tells whether the agents did what was measured: the hub hears of both, and
// the first is still the elected one.
func (b *idleBench) check(ctx context.Context) error {
	for _, a := range b.agents {
		if cpuOf(a.pid) == 0 || memoryOf(a.pid, "VmRSS") == 0 {
			return errors.New("an agent has ended")
		}
	}
	holder, err := b.cluster.elected(ctx)
	if err != nil {
		return err
	}
	if !strings.Contains(holder, nodeName(0)) {
		return fmt.Errorf("%q is elected, and not the first agent", holder)
	}
	token, err := b.cluster.personToken(ctx)
	if err != nil {
		return err
	}
	b.site.url = "https://127.0.0.1:8898"
	client, err := b.site.client(token)
	if err != nil {
		return err
	}
	nodes, err := client.Nodes(api.Patiently(ctx, 10*time.Second))
	if err != nil {
		return err
	}
	if len(nodes) != idleAgents {
		return fmt.Errorf("the hub knows %d nodes", len(nodes))
	}
	for _, n := range nodes {
		if !n.Live {
			return fmt.Errorf("the hub has lost node %s", n.Name)
		}
	}
	return nil
}
