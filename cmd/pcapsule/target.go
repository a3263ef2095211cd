package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/urfave/cli/v2"

	"pcapsule/archive"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store"
)

const defaultHub = "http://127.0.0.1:8898"

// targetFlags say where snapshots are: at a hub, or in a store without one.
func targetFlags() []cli.Flag {
	return flags(connectFlags(), []cli.Flag{
		&cli.StringFlag{Name: "store", Usage: "no hub: read `LOCATION` itself: a folder, a .tar or s3://bucket/prefix"},
	})
}

// connectFlags say where the hub is, and how to be let in.
func connectFlags() []cli.Flag {
	return flags([]cli.Flag{
		&cli.StringFlag{Name: "hub", EnvVars: []string{"PCAPSULE_HUB"}, Usage: "`URL` of the hub (default: one that you or --for you runs on this machine, else the hub of your Kubernetes cluster)"},
	}, identityFlags(), clusterFlags())
}

// agentHubFlags are connectFlags for an agent, which looks on this machine only.
func agentHubFlags() []cli.Flag {
	return flags([]cli.Flag{
		&cli.StringFlag{Name: "hub", EnvVars: []string{"PCAPSULE_HUB"}, Usage: "`URL` of the hub (default: one that you run on this machine)"},
	}, identityFlags())
}

func identityFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "hub-ca", EnvVars: []string{"PCAPSULE_HUB_CA"}, Usage: "trust the certificates in `FILE` (PEM) to vouch for the hub, and for its store too"},
		&cli.StringFlag{Name: "hub-token-file", EnvVars: []string{"PCAPSULE_HUB_TOKEN_FILE"}, Usage: "prove who you are with the token in `FILE`"},
	}
}

// identityOptions are what identityFlags say.
func identityOptions(c *cli.Context, logger *slog.Logger) []api.Option {
	opts := []api.Option{api.WithLogger(logger)}
	if ca := c.String("hub-ca"); ca != "" {
		opts = append(opts, api.WithCA(ca))
	}
	if file := c.String("hub-token-file"); file != "" {
		opts = append(opts, api.WithTokenFile(file))
	}
	return opts
}

func keyFlag() cli.Flag {
	return &cli.StringFlag{Name: "key", EnvVars: []string{"PCAPSULE_KEY"}, Usage: "sign with the private key in `FILE` (default: made on first use under your config folder)"}
}

func flags(own []cli.Flag, more ...[]cli.Flag) []cli.Flag {
	for _, m := range more {
		own = append(own, m...)
	}
	return own
}

// hasStore tells that the command works on a store, not through a hub.
func hasStore(c *cli.Context) bool { return c.String("store") != "" }

// A hubClient is a client of a hub whose key the user has accepted.
type hubClient struct {
	*api.Client
	id     string          // by which the hub is known, in known_hubs
	former string          // what former versions called it, or ""
	trust  *manifest.Trust // whose snapshots count that are read through it
}

// openHub is a client of the hub that the user means: the one that is named, or
// one on this machine, or that of the user's cluster. Every command that talks to
// a hub comes by here, so that one with another key than before is refused to all.
func openHub(c *cli.Context) (*hubClient, error) {
	h, err := findHub(c)
	if err != nil {
		return nil, err
	}
	return h, h.trustHub(c)
}

func findHub(c *cli.Context) (*hubClient, error) {
	base := c.String("hub")
	named := base != "" && base != os.Getenv("PCAPSULE_HUB")
	switch {
	case namesCluster(c) && named:
		return nil, usagef("either --hub, or --kubeconfig, --kube-context and --hub-namespace: the hub is at the one or in the other")
	case namesCluster(c):
		return openCluster(c)
	case base != "":
		return openNamed(c, base)
	}
	hubs := localHubs()
	switch {
	case len(hubs) > 1:
		return nil, usagef("%s", severalHubs(hubs))
	case len(hubs) == 1:
		if hasKubeconfig() {
			fmt.Fprintf(c.App.ErrWriter, "pcapsule: talking to the hub on this machine at %s, since %s tells of it: --kube-context chooses that of a cluster\n", hubs[0], hubs[0].file)
		}
		return openNamed(c, hubs[0].URL)
	case hasKubeconfig():
		return openCluster(c)
	}
	return nil, errors.New("no hub runs on this machine that is for you, and no kubeconfig tells of one in a cluster: start one with `sudo pcapsule up` (another user's: with --for your name), or name one with --hub URL")
}

func severalHubs(hubs []*localHub) string {
	var all []string
	for _, l := range hubs {
		all = append(all, l.String())
	}
	return "several hubs run on this machine: choose one with --hub: " + strings.Join(all, ", ")
}

// openNamed is a client of the hub at a URL.
func openNamed(c *cli.Context, base string) (*hubClient, error) {
	base, opts := localOptions(base, identityOptions(c, nil), identifies(c), false)
	client, err := newClient(base, opts)
	if err != nil {
		return nil, err
	}
	return &hubClient{Client: client, id: hubOrigin(client.Name())}, nil
}

// identifies tells that the user said how to be let in, which no file on this
// machine then does.
func identifies(c *cli.Context) bool {
	return c.String("hub-ca") != "" || c.String("hub-token-file") != ""
}

// localOptions makes a client of the hub at base prove itself, and the hub to it,
// by the hub's file, when the hub is on this machine. Once there was such a file,
// or with must, nobody is talked to without.
func localOptions(base string, opts []api.Option, identified, must bool) (string, []api.Option) {
	if identified || !sameAddress(base, base) || !must && localHubAt(base) == nil && !strings.HasPrefix(base, "http://") {
		return base, opts
	}
	var seen atomic.Bool
	seen.Store(must)
	find := func() (*api.Local, error) {
		if l := localHubAt(base); l != nil {
			seen.Store(true)
			return l.client(), nil
		}
		if seen.Load() {
			return nil, fmt.Errorf("nothing listens at %s for this user: is `pcapsule up` running?", base)
		}
		return nil, nil
	}
	// TLS is what the file says, whatever the hub speaks to others.
	_, rest, _ := strings.Cut(base, "://")
	return "http://" + rest, append(opts, api.WithName(base), api.WithLocal(find))
}

// newClient is api.NewClient, which tells a URL that makes no sense from files
// that are not there.
func newClient(url string, opts []api.Option) (*api.Client, error) {
	if _, err := api.NewClient(url); err != nil {
		return nil, usagef("--hub: %v", err)
	}
	return api.NewClient(url, opts...)
}

// openArchive opens the archive at location, with whose snapshots count in it.
func openArchive(c *cli.Context, location string) (*archive.Archive, error) {
	trust, err := storeTrust(c)
	if err != nil {
		return nil, err
	}
	st, err := store.Open(c.Context, location)
	if err != nil {
		return nil, usageOfLocation(location, err)
	}
	a, err := archive.Open(st)
	if err != nil {
		return nil, err
	}
	return a.Trusting(trust), nil
}

// findStored finds a snapshot, by name or id, in the store that --store names.
func findStored(c *cli.Context, ref string) (*archive.Archive, *archive.Snapshot, error) {
	a, err := openArchive(c, c.String("store"))
	if err != nil {
		return nil, nil, err
	}
	s, err := a.Find(c.Context, ref)
	return a, s, err
}

// usageOfLocation tells a location that makes no sense from one that is not there.
func usageOfLocation(location string, err error) error {
	if scheme, _, isURL := strings.Cut(location, "://"); isURL && scheme != "s3" {
		return &codeError{exitUsage, err}
	}
	return err
}

// hubArchive is the archive of a hub, read through it.
func hubArchive(h *hubClient) *archive.Archive {
	return archive.New(store.NewHTTP(h.ObjectsBase(), h.HTTP())).Trusting(h.trust)
}

// argument is the command's only argument.
func argument(c *cli.Context, what string) (string, error) {
	switch {
	case c.NArg() == 0:
		return "", usagef("which %s? usage: %s", what, c.Command.UsageText)
	case c.NArg() > 1:
		return "", usagef("one %s at a time, not also %q: usage: %s", what, c.Args().Get(1), c.Command.UsageText)
	}
	return c.Args().First(), nil
}

// configFile is a file in the user's config folder.
func configFile(name string) (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the config folder: %w (name the file with a flag)", err)
	}
	return filepath.Join(dir, "pcapsule", name), nil
}

// signer is the key that --key names, or the user's own.
func signer(c *cli.Context) (*manifest.Signer, error) {
	if name := c.String("key"); name != "" {
		return manifest.LoadKey(name)
	}
	name, err := configFile("key")
	if err != nil {
		return nil, err
	}
	s, created, err := manifest.LoadOrCreateKey(name, rand.Reader)
	if created {
		fmt.Fprintf(c.App.ErrWriter, "pcapsule: made a key to sign with: %s\n", name)
	}
	return s, err
}
