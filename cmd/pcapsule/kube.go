package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

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

// roles that a command needs to have at the hub, by its name. Whoever exports or
// operates may also view.
var roles = map[string]string{
	"list": "viewer", "show": "viewer",
	"pcap": "exporter", "events": "exporter", "flows": "exporter", "download": "exporter", "verify": "exporter",
	"create": "operator", "delete": "operator", "import": "operator", "sweep": "operator",
	"hold": "operator", "release": "operator",
}

// openCluster is a client of the hub in the cluster that the user means.
func openCluster(c *cli.Context) (*api.Client, error) {
	kube.SetLogger(slog.New(slog.DiscardHandler)) // what goes wrong, errors say
	cluster, err := kube.Find(kube.Location{Kubeconfig: c.String("kubeconfig"), Context: c.String("kube-context")})
	switch {
	case errors.Is(err, kube.ErrNoCluster):
		return nil, fmt.Errorf("%w: name one with --kubeconfig or KUBECONFIG, or the hub itself with --hub", err)
	case err != nil:
		return nil, err
	}
	hub, err := reach.Find(c.Context, cluster, c.String("hub-namespace"))
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(c.App.ErrWriter, "pcapsule: talking to the hub %s in namespace %s of %s\n", hub.Service, hub.Namespace, cluster)
	role := roles[c.Command.Name]
	if role == "" {
		return nil, fmt.Errorf("the command %s has no role at a hub", c.Command.Name)
	}
	return api.NewClient(hub.URL,
		api.WithName(hub.Name()), api.WithDialer(hub.Dial), api.WithCACertificates(hub.CA),
		api.WithToken(hub.Token(role, defaultAudience)), api.WithClaimedUser(hub.Whoami(c.Context)))
}

// listens tells whether anything does at a local address.
func listens(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// hasKubeconfig tells whether the user has one, without complaining of it.
func hasKubeconfig() bool {
	_, err := kube.Find(kube.Location{})
	return !errors.Is(err, kube.ErrNoCluster)
}

// completeContexts offers contexts where --kube-context wants one, and tells
// whether it did.
func completeContexts(c *cli.Context, w io.Writer) bool {
	args := os.Args
	if len(args) < 3 || strings.TrimLeft(args[len(args)-2], "-") != "kube-context" {
		return false
	}
	names, err := kube.Contexts(c.String("kubeconfig"))
	if err != nil {
		return true
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintln(w, name)
	}
	return true
}
