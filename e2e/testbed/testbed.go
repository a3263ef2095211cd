//go:build linux

// Package testbed makes a real Kubernetes cluster on one machine: a control
// plane and several nodes, with containerd, kubelet and kube-proxy each, and a
// machine outside of the cluster that serves S3.
//
// Each of these machines is a network namespace; each node also has a view of
// the file system with a /run, /var/lib, /var/log, /etc/cni and /sys of its own,
// so that host paths of two nodes are different folders, as they would be on two
// machines. What they share is the kernel and its clock.
//
//	control plane 10.99.0.1 ─┐               ┌─ node-1 10.99.0.11, pods 10.98.1.0/24
//	outside (S3)  10.99.0.5 ─┴─ bridge pce0 ─┼─ node-2 10.99.0.12, pods 10.98.2.0/24
//	                                         └─ node-3 …
//
// Nothing of it is reachable from, or reaches, another machine: the host talks to
// the API server and to S3 through two ports of its loopback, which a helper
// process forwards. All processes are in control groups of the cluster's own, by
// which Down finds them, whoever started them and however the starter ended.
//
// NetworkPolicies are accepted by its API server, and enforced by nobody.
package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// Addresses of the machines, alike in every cluster: each has networks of its own.
const (
	controlAddr = "10.99.0.1"
	outsideAddr = "10.99.0.5"
	podRange    = "10.98.0.0/16"
	serviceNet  = "10.96.0.0/16"
	apiService  = "10.96.0.1"
	dnsService  = "10.96.0.10"
	apiPort     = "6443"
)

// StorageClass is the class of volumes that the cluster provisions.
const StorageClass = "gp2"

// What the machine outside serves: S3 at S3Endpoint, with a bucket.
const (
	S3Endpoint  = "http://" + outsideHost + ":9000"
	S3Bucket    = "pcapsule"
	S3AccessKey = "pcapsule-e2e"
	S3SecretKey = "pcapsule-e2e-secret"

	outsideHost = "s3.outside.test" // as the cluster's DNS knows it
)

// WorkloadImage is an image that is on every node: e2e/workload. Images are never
// pulled, so pods need imagePullPolicy Never.
const WorkloadImage = "pcapsule.test/workload:e2e"

// Options of a cluster.
type Options struct {
	Name  string    // tells clusters of one machine apart: lower-case letters and digits, up to 8
	Dir   string    // where its state is kept; made when it is not there, and emptied before use
	Nodes int       // at least one
	Log   io.Writer // told of each step
}

// A Cluster that runs. Its methods may be called from several goroutines.
type Cluster struct {
	Name  string
	Dir   string
	Nodes []string
	API   string // address on the host's loopback that leads to the API server
	S3    string // the same of the S3 server

	log io.Writer
}

var validName = regexp.MustCompile(`^[a-z0-9]{1,8}$`)

// Up makes a cluster and returns when its nodes are ready and its DNS answers.
// What an earlier cluster of that name left is removed first. On an error what
// was made so far stays, with its logs, until Down or the next Up.
func Up(ctx context.Context, opts Options) (*Cluster, error) {
	if !validName.MatchString(opts.Name) {
		return nil, fmt.Errorf("%q is no name of a cluster: use up to eight lower-case letters and digits", opts.Name)
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Name: opts.Name, Dir: dir, log: opts.Log}
	for i := range opts.Nodes {
		c.Nodes = append(c.Nodes, fmt.Sprintf("node-%d", i+1))
	}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"removing what an earlier run left", c.Down},
		{"building the components (minutes, the first time)", c.build},
		{"joining the machines", c.network},
		{"making keys", c.keys},
		{"starting the control plane", c.controlPlane},
		{"starting the machine outside", c.outside},
		{"starting the nodes", c.startNodes},
		{"installing DNS and storage", c.addons},
		{"waiting for the nodes and for DNS", c.awaitReady},
	} {
		begin := time.Now()
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.what, err)
		}
		fmt.Fprintf(c.log, "%-55s %6.1f s\n", step.what, time.Since(begin).Seconds())
	}
	return c, c.save()
}

// Open returns the cluster whose state is kept in dir.
func Open(dir string) (*Cluster, error) {
	data, err := os.ReadFile(filepath.Join(dir, "cluster.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no cluster runs in %s: start one with `go run ./e2e/cluster up`", dir)
	}
	if err != nil {
		return nil, err
	}
	c := &Cluster{log: io.Discard}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("read %s/cluster.json: %w", dir, err)
	}
	return c, nil
}

func (c *Cluster) save() error {
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(c.path("cluster.json"), append(data, '\n'), 0o600)
}

// Down ends every process of the cluster and removes its control groups, its
// networks and its state, logs included. It does so whatever is there of them.
func (c *Cluster) Down(ctx context.Context) error {
	if err := c.killAll(ctx); err != nil {
		return err
	}
	if err := c.removeNetwork(ctx); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(c.memory()), os.RemoveAll(c.Dir))
}

// Kubeconfig returns the path of the administrator's kubeconfig, which works from
// the host.
func (c *Cluster) Kubeconfig() string { return c.path("kubeconfig") }

// Logs returns the folder with a log for each component.
func (c *Cluster) Logs() string { return c.path("logs") }

func (c *Cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.Dir}, elem...)...)
}

// memory is a folder whose files are kept in memory, for what is synced often.
func (c *Cluster) memory() string { return "/dev/shm/pcapsule-e2e-" + c.Name }

func (c *Cluster) nodeAddr(i int) string { return fmt.Sprintf("10.99.0.%d", 11+i) }

func (c *Cluster) nodePods(i int) string { return fmt.Sprintf("10.98.%d.0/24", i+1) }
