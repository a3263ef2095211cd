package main

import (
	"os"

	"github.com/urfave/cli/v2"

	"pcapsule/agent"
	"pcapsule/agent/kubernetes"
	"pcapsule/agent/targets"
	"pcapsule/internal/kube"
)

// defaultLease is the name of the Lease by which agents agree who records the
// stream kubernetes.
const defaultLease = "pcapsule-kubernetes"

func agentKubernetesFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "kubernetes", EnvVars: []string{"PCAPSULE_KUBERNETES"}, Usage: "this machine is a node of a Kubernetes cluster: record what there is in it, one agent at a time"},
		&cli.StringFlag{Name: "lease", EnvVars: []string{"PCAPSULE_LEASE"}, Usage: "agree with the other agents by the Lease `NAMESPACE/NAME` (default: " + defaultLease + " in the pod's namespace)"},
		&cli.StringFlag{Name: "pod-regex", EnvVars: []string{"PCAPSULE_POD_REGEX"}, Usage: "record pods alone whose name contains a match of `REGEX`"},
		&cli.StringSliceFlag{Name: "pod-namespaces", EnvVars: []string{"PCAPSULE_POD_NAMESPACES"}, Usage: "record pods of `NAMESPACE` alone; may be repeated"},
		&cli.StringSliceFlag{Name: "exclude-namespaces", EnvVars: []string{"PCAPSULE_EXCLUDE_NAMESPACES"}, Usage: "record no pod of `NAMESPACE`; may be repeated"},
	}
}

// agentKubernetes fills in what cfg needs to know of the cluster: that of the pod
// this process runs in, or else that of the kubeconfig.
func agentKubernetes(c *cli.Context, cfg *agent.Config) error {
	if !c.Bool("kubernetes") {
		for _, name := range []string{"lease", "pod-regex", "pod-namespaces", "exclude-namespaces"} {
			if c.IsSet(name) {
				return usagef("--%s is for nodes of a cluster: give --kubernetes, too", name)
			}
		}
		return nil
	}
	var err error
	cfg.Pods, err = targets.NewSelection(c.String("pod-regex"), names(c, "pod-namespaces"), names(c, "exclude-namespaces"))
	if err != nil {
		return usagef("--pod-regex: %v", err)
	}
	cfg.Lease = c.String("lease")
	if cfg.Lease != "" {
		if _, _, err := kubernetes.ParseLease(cfg.Lease); err != nil {
			return usagef("--lease: %v", err)
		}
	}
	kube.SetLogger(cfg.Logger)
	namespace := ""
	if os.Getenv("KUBERNETES_SERVICE_HOST") != "" {
		if cfg.Kubernetes, err = kube.InCluster(); err != nil {
			return err
		}
		if cfg.Lease == "" {
			if namespace, err = kube.Namespace(); err != nil {
				return err
			}
		}
	} else {
		cluster, err := kube.Find(kube.Location{})
		if err != nil {
			return err
		}
		cfg.Kubernetes, namespace = cluster.Config, cluster.Namespace
	}
	if cfg.Lease == "" {
		cfg.Lease = namespace + "/" + defaultLease
	}
	return nil
}
