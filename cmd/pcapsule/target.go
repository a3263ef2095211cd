package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

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
		&cli.StringFlag{Name: "hub", EnvVars: []string{"PCAPSULE_HUB"}, Usage: "`URL` of the hub (default: " + defaultHub + " if one listens there, else the hub of your Kubernetes cluster)"},
	}, identityFlags(), clusterFlags())
}

// agentHubFlags are connectFlags for an agent, which finds no hub by itself.
func agentHubFlags() []cli.Flag {
	return flags([]cli.Flag{
		&cli.StringFlag{Name: "hub", EnvVars: []string{"PCAPSULE_HUB"}, Value: defaultHub, Usage: "`URL` of the hub"},
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

// openHub is a client of the hub that the user means: the one that is named, or
// one on this machine, or that of the user's cluster.
func openHub(c *cli.Context) (*api.Client, error) {
	url := c.String("hub")
	named := url != "" && url != os.Getenv("PCAPSULE_HUB")
	switch {
	case namesCluster(c) && named:
		return nil, usagef("either --hub, or --kubeconfig, --kube-context and --hub-namespace: the hub is at the one or in the other")
	case namesCluster(c), url == "" && !listens(c.Context, strings.TrimPrefix(defaultHub, "http://")) && hasKubeconfig():
		return openCluster(c)
	}
	return newClient(url, identityOptions(c, nil))
}

// newClient is api.NewClient, which tells a URL that makes no sense from files
// that are not there.
func newClient(url string, opts []api.Option) (*api.Client, error) {
	if _, err := api.NewClient(url); err != nil {
		return nil, usagef("--hub: %v", err)
	}
	return api.NewClient(url, opts...)
}

func openArchive(ctx context.Context, location string) (*archive.Archive, error) {
	st, err := store.Open(ctx, location)
	if err != nil {
		return nil, usageOfLocation(location, err)
	}
	return archive.New(st), nil
}

// findStored finds a snapshot, by name or id, in the store that --store names.
func findStored(c *cli.Context, ref string) (*archive.Archive, *archive.Snapshot, error) {
	a, err := openArchive(c.Context, c.String("store"))
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
func hubArchive(client *api.Client) *archive.Archive {
	return archive.New(store.NewHTTP(client.ObjectsBase(), client.HTTP()))
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

// trustHub adds the key of a hub that this user talks to for the first time to
// the user's trusted keys, as ssh does with hosts. A hub that comes with another
// key later is not trusted, and the user is told.
func trustHub(c *cli.Context, client *api.Client) error {
	hub, err := client.Hub(c.Context)
	if err != nil {
		return err
	}
	name, err := configFile("allowed_signers")
	if err != nil {
		return err
	}
	known, err := os.ReadFile(name)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	its, err := manifest.ParseTrust([]byte(hub.PublicKey))
	if err != nil || len(its.Keys()) != 1 {
		return fmt.Errorf("the hub at %s tells no public key", client.Name())
	}
	key := its.Keys()[0]
	trust, err := manifest.ParseTrust(known)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if trust.Trusts(key, hub.Time) {
		return nil
	}
	comment := "hub " + client.Name()
	for line := range strings.Lines(string(known)) {
		if strings.HasSuffix(strings.TrimSpace(line), comment) {
			fmt.Fprintf(c.App.ErrWriter, "pcapsule: warning: this hub signs with another key than before (now %s); if that is right, remove its line from %s\n",
				key.Fingerprint(), name)
			return nil
		}
	}
	if err := appendLine(name, key.SignersLine()+" "+comment); err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "pcapsule: first use of this hub: trusting its key %s from now on (%s)\n", key.Fingerprint(), name)
	return nil
}

func appendLine(name, line string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(line + "\n"); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
