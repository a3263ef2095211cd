package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"pcapsule/hub"
	"pcapsule/hub/kubeauth"
	"pcapsule/internal/kube"
	"pcapsule/internal/reload"
)

// Values of --auth.
const (
	authLocal      = "local"
	authNone       = "none"
	authKubernetes = "kubernetes"
)

// defaultAudience is what tokens for a hub are made for.
const defaultAudience = "pcapsule"

// secureFlags are of a hub that others than this machine use.
func secureFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "tls-cert", EnvVars: []string{"PCAPSULE_TLS_CERT"}, Usage: "serve TLS with the certificate in `FILE` (PEM), and again when it changes"},
		&cli.StringFlag{Name: "tls-key", EnvVars: []string{"PCAPSULE_TLS_KEY"}, Usage: "its private key in `FILE`"},
		&cli.StringSliceFlag{Name: "host", EnvVars: []string{"PCAPSULE_HOST"}, Usage: "clients may address the hub by `NAME`, beside its host name and IP addresses; may be repeated"},
		&cli.StringFlag{Name: "auth", EnvVars: []string{"PCAPSULE_AUTH"}, Usage: "`HOW` to know who asks: local (by a file that root, who started the hub, and --for USER can read), none, or kubernetes (by tokens of its cluster) (default: local on loopback, else none)"},
		&cli.StringFlag{Name: "audience", EnvVars: []string{"PCAPSULE_AUDIENCE"}, Value: defaultAudience, Usage: "tokens have to be made for `NAME`"},
		&cli.StringFlag{Name: "agent-account", EnvVars: []string{"PCAPSULE_AGENT_ACCOUNT"}, Usage: "agents are the service account `NAMESPACE/NAME`"},
		&cli.StringFlag{Name: "hub-namespace", EnvVars: []string{"PCAPSULE_HUB_NAMESPACE"}, Usage: "RBAC of `NAMESPACE` says who may use which role (default: that of this pod)"},
	}
}

// secure fills in what a hub's TLS and authentication need. Without the flags it
// changes nothing.
func secure(c *cli.Context, logger *slog.Logger, cfg *hub.Config) error {
	var err error
	if cfg.Certificate, err = certificate(c, logger); err != nil {
		return err
	}
	switch how := c.String("auth"); how {
	case "", authLocal, authNone:
		if c.String("agent-account") != "" {
			return usagef("--agent-account is for --auth %s", authKubernetes)
		}
		return nil
	case authKubernetes:
	default:
		return usagef("--auth %q: want %s, %s or %s", how, authLocal, authNone, authKubernetes)
	}
	account := c.String("agent-account")
	if namespace, name, ok := strings.Cut(account, "/"); !ok || namespace == "" || name == "" {
		return usagef("--agent-account %q: which service account do agents have? want NAMESPACE/NAME", account)
	}
	kube.SetLogger(logger)
	cluster, err := kube.Find(kube.Location{})
	if err != nil {
		return fmt.Errorf("--auth %s: %w", authKubernetes, err)
	}
	client, err := kubeauth.NewClient(cluster.Config)
	if err != nil {
		return err
	}
	namespace := c.String("hub-namespace")
	if namespace == "" {
		namespace = cluster.Namespace
	}
	authority, err := kubeauth.New(kubeauth.Config{
		Client: client, Audience: c.String("audience"), AgentAccount: account, Namespace: namespace, Logger: logger,
	})
	if err != nil {
		return err
	}
	cfg.Authorise, cfg.NodeGone, cfg.Cluster = authority.Authorise, authority.NodeGone, true
	return nil
}

// certificate is what --tls-cert and --tls-key hold now; nil without them.
func certificate(c *cli.Context, logger *slog.Logger) (func() *tls.Certificate, error) {
	cert, key := c.String("tls-cert"), c.String("tls-key")
	switch {
	case cert == "" && key == "":
		return nil, nil
	case cert == "" || key == "":
		return nil, usagef("--tls-cert and --tls-key go together")
	}
	warn := func(err error) {
		logger.Warn("the certificate cannot be read again; going on with the one before", "error", err)
	}
	v, err := reload.New(time.Now, warn, func(contents [][]byte) (*tls.Certificate, error) {
		pair, err := tls.X509KeyPair(contents[0], contents[1])
		if err != nil {
			return nil, fmt.Errorf("%s and %s: %w", cert, key, err)
		}
		if leaf, err := x509.ParseCertificate(pair.Certificate[0]); err == nil {
			logger.Info("certificate", "names", leaf.DNSNames, "until", leaf.NotAfter)
		}
		return &pair, nil
	}, cert, key)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	return v.Get, nil
}
