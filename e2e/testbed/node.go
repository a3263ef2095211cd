//go:build linux

package testbed

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// view makes a node's view of the file system, in a mount namespace that is
// private by then, and holds it. Folders that a node writes are its own; so is
// /sys, which shows the network interfaces of whose namespace mounts it. Settings
// of the kernel that a kubelet insists on are files of the node's, so that no
// setting of the machine changes. $1 is the node's folder, $2 its name.
const view = `
set -eu
hostname "$2"
mkdir "$1/cgroup"
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$1/cgroup" /sys/fs/cgroup
umount -l "$1/cgroup"
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
for setting in vm/overcommit_memory:1 vm/panic_on_oom:0 kernel/panic:10 kernel/panic_on_oops:1 \
	kernel/keys/root_maxkeys:1000000 kernel/keys/root_maxbytes:25000000; do
	file=$1/sysctl-$(echo "${setting%:*}" | tr / -)
	echo "${setting#*:}" >"$file"
	mount --bind "$file" "/proc/sys/${setting%:*}"
done
for dir in var/lib var/log etc/cni; do
	mkdir -p "$1/root/$dir" "/$dir"
	mount --bind "$1/root/$dir" "/$dir"
done
mount -t tmpfs -o mode=755 tmpfs /run
mount --make-rshared /
touch "$1/ready"
exec sleep infinity
`

// Enter returns what to put before a command to run it on a node, as its root
// user: in its network and with its view of the file system.
func (c *Cluster) Enter(node string) ([]string, error) {
	if !slices.Contains(c.Nodes, node) {
		return nil, fmt.Errorf("no node %q: there are %s", node, strings.Join(c.Nodes, ", "))
	}
	pid, err := c.pid(node)
	if err != nil {
		return nil, err
	}
	return []string{"nsenter", fmt.Sprintf("--target=%d", pid), "--mount", "--net", "--uts", "--"}, nil
}

func (c *Cluster) startNodes(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for i := range c.Nodes {
		group.Go(func() error { return c.startNode(ctx, i) })
	}
	return group.Wait()
}

func (c *Cluster) startNode(ctx context.Context, i int) error {
	node := c.Nodes[i]
	if err := c.makeCgroup(node); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"containerd.toml": containerdConfig,
		"cni.conflist":    cniConfig,
		"kubelet.yaml":    kubeletConfig,
		"kube-proxy.yaml": kubeProxyConfig,
		"resolv.conf":     "# what is outside of the cluster has no names\n",
	} {
		text = strings.NewReplacer(
			"$DIR", c.path("nodes", node), "$KEYS", c.path("keys"), "$NODE", node, "$ADDRESS", c.nodeAddr(i),
			"$PODS", c.nodePods(i), "$ALLPODS", podRange, "$DNS", dnsService, "$PAUSE", pauseImage,
			"$CGROUP", "/"+cgroupBase+"/"+c.Name+"/"+node,
		).Replace(text)
		if err := c.write("nodes/"+node+"/"+name, []byte(text)); err != nil {
			return err
		}
	}
	dir := c.path("nodes", node)
	cni := dir + "/root/etc/cni/net.d"
	if err := os.MkdirAll(cni, 0o755); err != nil {
		return err
	}
	if err := os.Rename(dir+"/cni.conflist", cni+"/10-pcapsule.conflist"); err != nil {
		return err
	}

	in := append(c.inNet(node), "unshare", "--mount", "--uts", "--propagation", "private", "--")
	if err := c.start(daemon{name: node, in: in, args: []string{"sh", "-c", view, "sh", dir, node}}); err != nil {
		return err
	}
	if err := Poll(ctx, 30*time.Second, func() error {
		if _, err := c.pid(node); err != nil {
			return err
		}
		_, err := os.Stat(dir + "/ready")
		return err
	}); err != nil {
		return err
	}
	enter, err := c.Enter(node)
	if err != nil {
		return err
	}
	if err := c.start(daemon{name: node + "-containerd", in: enter, args: []string{
		"containerd", "--config", dir + "/containerd.toml",
	}}); err != nil {
		return err
	}
	if err := Poll(ctx, time.Minute, func() error {
		_, err := run(ctx, append(enter, "ctr", "version")...)
		return err
	}); err != nil {
		return err
	}
	for _, archive := range []string{"pause.tar", "workload.tar", "coredns.tar"} {
		if err := c.loadOn(ctx, node, c.path("images", archive)); err != nil {
			return err
		}
	}
	if err := c.start(daemon{name: node + "-kubelet", in: enter, args: []string{
		"kubelet", "--config=" + dir + "/kubelet.yaml", "--kubeconfig=" + c.path("keys", node+".kubeconfig"),
		"--hostname-override=" + node, "--node-ip=" + c.nodeAddr(i),
	}}); err != nil {
		return err
	}
	return c.start(daemon{name: node + "-kube-proxy", in: enter, args: []string{
		"kube-proxy", "--config=" + dir + "/kube-proxy.yaml",
	}})
}

const containerdConfig = `version = 2
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
`

const cniConfig = `{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "$PODS"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $ADDRESS
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $KEYS/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: $KEYS/$NODE-serving.crt
tlsPrivateKeyFile: $KEYS/$NODE-serving.key
clusterDNS: [$DNS]
clusterDomain: cluster.local
resolvConf: $DIR/resolv.conf
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: $CGROUP
failCgroupV1: false
enforceNodeAllocatable: []
failSwapOn: false
# Tests share a disk and a memory with whatever else runs on this machine.
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
`

const kubeProxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $KEYS/proxy.kubeconfig}
hostnameOverride: $NODE
clusterCIDR: $ALLPODS
mode: iptables
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`
