package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"k8s.io/apimachinery/pkg/util/validation"

	"pcapsule/internal/api"
	"pcapsule/internal/kube"
	"pcapsule/internal/kube/reach"
)

// clusterFlags say in which cluster the hub is, when it is not named by its URL.
func clusterFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "kubeconfig", Usage: "look for the hub in the cluster of `FILE` (default: as kubectl does)"},
		&cli.StringFlag{Name: "kube-context", EnvVars: []string{"PCAPSULE_KUBE_CONTEXT"}, Usage: "in the cluster of the context `NAME`"},
		&cli.StringFlag{Name: "hub-namespace", EnvVars: []string{"PCAPSULE_HUB_NAMESPACE"}, Usage: "in `NAMESPACE` (default: " + reach.DefaultNamespace + ", then that of the context)"},
	}
}

// namesCluster tells that the user said in which cluster the hub is.
func namesCluster(c *cli.Context) bool {
	return c.String("kubeconfig") != "" || c.String("kube-context") != "" || c.String("hub-namespace") != ""
}

// What commands may have to be at a hub. Whoever exports or operates may also
// view, and need not have been given that role as well.
var (
	asViewer   = []string{"viewer", "exporter", "operator"}
	asExporter = []string{"exporter"}
	asOperator = []string{"operator"}
)

// roles has the role of each command that talks to a hub, by its name.
var roles = map[string][]string{
	"list": asViewer, "show": asViewer, "nodes": asViewer,
	"pcap": asExporter, "events": asExporter, "flows": asExporter, "download": asExporter, "verify": asExporter,
	"create": asOperator, "delete": asOperator, "import": asOperator, "sweep": asOperator,
	"hold": asOperator, "release": asOperator,
	"trust": asViewer,
}

// openCluster is a client of the hub in the cluster that the user means.
func openCluster(c *cli.Context) (*hubClient, error) {
	kube.SetLogger(slog.New(slog.DiscardHandler)) // what goes wrong, errors say
	cluster, err := kube.Find(kube.Location{Kubeconfig: c.String("kubeconfig"), Context: c.String("kube-context")})
	switch {
	case errors.Is(err, kube.ErrNoCluster):
		return nil, fmt.Errorf("%w: name one with --kubeconfig or KUBECONFIG, or the hub itself with --hub", err)
	case err != nil:
		return nil, err
	}
	namespace := c.String("hub-namespace")
	if namespace != "" && len(validation.IsDNS1123Label(namespace)) > 0 {
		return nil, usagef("--hub-namespace: %.80q is no name of a namespace", namespace)
	}
	hub, err := reach.Find(c.Context, cluster, namespace)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(c.App.ErrWriter, "pcapsule: talking to the hub %s in namespace %s of %s\n", hub.Service, hub.Namespace, cluster)
	role := roles[c.Command.Name]
	if role == nil {
		return nil, fmt.Errorf("the command %s has no role at a hub", c.Command.Name)
	}
	client, err := api.NewClient(hub.URL,
		api.WithName(hub.Name()), api.WithDialer(hub.Dial), api.WithCACertificates(hub.CA),
		api.WithToken(hub.Token(defaultAudience, role...)), api.WithClaimedUser(hub.Whoami(c.Context)))
	if err != nil {
		return nil, err
	}
	return &hubClient{Client: client, id: hub.ID(), former: hub.Name()}, nil
}

// hasKubeconfig tells whether the user has one, without complaining of it.
func hasKubeconfig() bool {
	_, err := kube.Find(kube.Location{})
	return !errors.Is(err, kube.ErrNoCluster)
}

// orContexts completes a word that follows --kube-context with a context of the
// kubeconfig, and others with complete.
func orContexts(complete cli.BashCompleteFunc) cli.BashCompleteFunc {
	return func(c *cli.Context) {
		// As the library does it: what is not parsed is not in the context.
		if args := os.Args; len(args) < 3 || strings.TrimLeft(args[len(args)-2], "-") != "kube-context" {
			if complete != nil {
				complete(c)
			} else {
				cli.DefaultCompleteWithFlags(c.Command)(c)
			}
			return
		}
		names, err := kube.Contexts(c.String("kubeconfig"))
		if err != nil {
			return
		}
		slices.Sort(names)
		for _, name := range names {
			fmt.Fprintln(c.App.Writer, name)
		}
	}
}
