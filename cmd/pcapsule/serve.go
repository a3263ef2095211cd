package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"pcapsule/agent/packets"
	"pcapsule/archive"
	"pcapsule/hub"
	"pcapsule/manifest"
	"pcapsule/store"
)

const defaultListen = "127.0.0.1:8898"

func hubFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "listen", EnvVars: []string{"PCAPSULE_LISTEN"}, Value: defaultListen, Usage: "serve the API at `ADDRESS`; on loopback it is for root, who started it, and --for USER; elsewhere it asks nobody who they are unless --auth says so"},
		&cli.StringFlag{Name: "store", EnvVars: []string{"PCAPSULE_STORE"}, Usage: "keep snapshots at `LOCATION`: a folder or s3://bucket/prefix (default: the folder store under --data-dir)"},
		&cli.StringFlag{Name: "key", EnvVars: []string{"PCAPSULE_KEY"}, Usage: "sign with the private key in `FILE` (default: hub.key under --data-dir, made on first start)"},
		&cli.StringFlag{Name: "trust", EnvVars: []string{"PCAPSULE_TRUST"}, Usage: "serve snapshots too that the keys in `FILE` signed, an allowed_signers file, beside those of the hub and its predecessors (hub.trusted under --data-dir)"},
	}
}

func daemonFlags() []cli.Flag {
	return []cli.Flag{
		dataDirFlag(),
		&cli.StringFlag{Name: "log-level", Value: "warn", Usage: "`LEVEL`: debug, info, warn or error"},
	}
}

func dataDirFlag() cli.Flag {
	return &cli.StringFlag{Name: "data-dir", EnvVars: []string{"PCAPSULE_DATA_DIR"}, Value: defaultDataDir(), Usage: "keep everything local in `DIR`"}
}

// defaultDataDir is the system's place for root, and the user's for others.
func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/pcapsule"
	}
	if d := os.Getenv("XDG_DATA_HOME"); d != "" {
		return filepath.Join(d, "pcapsule")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "share", "pcapsule")
	}
	return "pcapsule-data"
}

func newLogger(c *cli.Context) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.String("log-level"))); err != nil {
		return nil, usagef("--log-level %q: want debug, info, warn or error", c.String("log-level"))
	}
	return slog.New(slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: level})), nil
}

// forFlag is of hubs that run on one machine.
func forFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "for", Usage: "let `USER` of this machine use the hub too, but not record for it; may be repeated (sudo's caller may anyway)"}
}

// tokenFlag is of hubs without a cluster that others than this machine's users use.
func tokenFlag() cli.Flag {
	return &cli.StringFlag{Name: "token-file", EnvVars: []string{"PCAPSULE_TOKEN_FILE"}, Usage: "let in, too, whoever comes with the token in `FILE`: agents and people on other machines (their --hub-token-file)"}
}

// A served hub listens.
type served struct {
	hub      *hub.Hub
	listener net.Listener
	store    store.Store
	key      *manifest.Signer
	tls      bool
	asks     bool   // who its clients are
	newKey   string // the file of a key that was made just now

	local localHub     // as its owner's file has it
	files []*localFile // on this machine, of those who may use it
	users []string     // their names
}

// openServed opens all that a hub needs, so that what is wrong shows at once. Its
// connections with the store are among own, which may be nil.
// probeLeft says what a probe left in a store, whose credentials may not delete.
func probeLeft(st store.Store, key string) string {
	return fmt.Sprintf("the credentials of %s may not delete: all works but sweeps, and the probe of the store leaves one object, always the same: %s", store.Describe(st), key)
}

func openServed(c *cli.Context, logger *slog.Logger, own *packets.Own) (*served, error) {
	cfg := hub.Config{
		Version: versionString(), Logger: logger, Hosts: append(hostNames(c.String("listen")), names(c, "host")...),
	}
	// Whatever else is logged: who did what is, as the API server does it.
	cfg.Audit = slog.New(slog.NewJSONHandler(c.App.ErrWriter, nil))
	err := secure(c, logger, &cfg)
	if err != nil {
		return nil, err
	}
	dir := c.String("data-dir")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data folder: %w (choose another with --data-dir)", err)
	}
	s := &served{}
	if s.listener, err = listen(c.String("listen")); err != nil {
		return nil, err
	}
	opened := false
	defer func() {
		if !opened {
			s.listener.Close()
		}
	}()
	if s.store, err = openHubStore(c.Context, c.String("store"), dir, own); err != nil {
		return nil, err
	}
	err = archive.New(s.store).Writable(c.Context)
	if err == nil {
		var left string
		if left, err = store.Probe(c.Context, s.store); left != "" && err == nil {
			logger.Warn(probeLeft(s.store, left))
		}
	}
	if _, folder := s.store.(store.Volume); folder && errors.Is(err, store.ErrNoSpace) {
		// What is there can be read, and deleted, all the same.
		fmt.Fprintf(c.App.ErrWriter, "pcapsule: warning: no snapshot can be made: %s: delete snapshots and sweep\n", oneLine(err.Error()))
		err = nil
	}
	if err != nil && !errors.Is(err, archive.ErrRequires) { // which hub.Run tells, and serves what is there
		return nil, fmt.Errorf("store %s: %w", store.Describe(s.store), err)
	}
	keyFile := c.String("key")
	if keyFile == "" {
		keyFile = filepath.Join(dir, "hub.key")
	}
	var created bool
	if s.key, created, err = manifest.LoadOrCreateKey(keyFile, rand.Reader); err != nil {
		return nil, err
	}
	if created {
		s.newKey = keyFile
	}
	cfg.Store, cfg.Signer = s.store, s.key
	if cfg.Trust, err = servedTrust(c, dir, s.key.Public()); err != nil {
		return nil, err
	}
	s.tls = cfg.Certificate != nil
	if err := s.openLocally(c, dir, &cfg); err != nil {
		return nil, err
	}
	s.asks = cfg.Authorise != nil
	s.hub, err = hub.New(cfg)
	opened = err == nil
	return s, err
}

// openLocally lets users of this machine find the hub, and be let in, by files. A
// hub in a cluster has other ways.
func (s *served) openLocally(c *cli.Context, dataDir string, cfg *hub.Config) error {
	how := c.String("auth")
	if how == authKubernetes {
		if len(c.StringSlice("for")) > 0 {
			return usagef("--for is of users of this machine, and --auth %s asks a cluster", authKubernetes)
		}
		if c.String("token-file") != "" {
			return usagef("--token-file is for --auth %s", authLocal)
		}
		return nil
	}
	auth, err := newLocalAuth(c)
	if err != nil {
		return err
	}
	asks := how == authLocal || how == "" && (s.addr().Addr().IsLoopback() || c.String("token-file") != "")
	if asks {
		cfg.Authorise = auth.authorise
	}
	var certificate []byte
	if cfg.Local, certificate, err = localCertificate(); err != nil {
		return err
	}
	if dataDir, err = filepath.Abs(dataDir); err != nil {
		return err
	}
	dir, found, err := makeRuntimeDir(dataDir)
	if err != nil {
		return err
	}
	if !found {
		fmt.Fprintf(c.App.ErrWriter, "pcapsule: warning: the file by which users find the hub is in %s, where commands do not look: set %s to that folder for them\n", dir, runtimeEnv)
	}
	for _, u := range auth.users {
		if u.remote {
			continue
		}
		l := localHub{URL: s.url(), Certificate: string(certificate), PublicKey: s.key.Public().SignersLine(), DataDir: dataDir, PID: os.Getpid()}
		if asks {
			l.Token = u.token
		}
		if u.owner {
			s.local = l
		}
		file, err := writeLocalHub(dir, l, u.uid, u.gid)
		if err != nil {
			s.closeFiles()
			return fmt.Errorf("write the file by which %s finds the hub: %w (another folder: %s)", u.name, err, runtimeEnv)
		}
		s.files = append(s.files, file)
		s.users = append(s.users, u.name)
	}
	return nil
}

func (s *served) closeFiles() {
	for _, f := range s.files {
		f.close()
	}
	s.files = nil
}

// servedTrust is whose snapshots the hub serves beside its own: of the keys that it
// signed with before, which it keeps in its data folder, and those in --trust.
func servedTrust(c *cli.Context, dir string, own manifest.PublicKey) (*manifest.Trust, error) {
	file := filepath.Join(dir, "hub.trusted")
	lines, err := readIfThere(file)
	if err != nil {
		return nil, err
	}
	trust, err := manifest.ParseTrust(lines)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if !slices.Contains(trust.Keys(), own) {
		if err := putFile(file, append(lines, own.Signers()...)); err != nil {
			return nil, fmt.Errorf("remember the hub's key for its successors: %w", err)
		}
	}
	t := new(manifest.Trust)
	for _, key := range trust.Keys() {
		if key != own {
			t.AddOf(key, "a predecessor of the hub")
		}
	}
	if c.String("trust") != "" {
		more, _, err := userTrust(c)
		if err != nil {
			return nil, err
		}
		t.Join(more)
	}
	return t, nil
}

// openHubStore opens the store that a hub writes, a folder with upload grants.
func openHubStore(ctx context.Context, location, dataDir string, own *packets.Own) (store.Store, error) {
	if location == "" {
		location = filepath.Join(dataDir, "store")
	}
	if strings.Contains(location, "://") {
		return store.OpenWith(ctx, location, own.DialContext)
	}
	// Grants outlive no hub: agents ask for new ones.
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	return store.NewFolder(location, store.FolderOptions{Create: true, GrantKey: secret})
}

// hostNames are the names that clients may use for this hub.
func hostNames(listen string) (names []string) {
	if host, _, err := net.SplitHostPort(listen); err == nil && host != "" {
		names = append(names, host)
	}
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	return names
}

func listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use: does pcapsule run already? (--listen chooses another address)", addr)
	case err != nil:
		return nil, fmt.Errorf("listen at %s: %w (--listen chooses another address)", addr, err)
	}
	return l, nil
}

// run serves until ctx ends.
func (s *served) run(ctx context.Context) error {
	defer s.closeFiles()
	return s.hub.Serve(ctx, s.listener)
}

// url is where the hub answers, for agents and people on this machine.
func (s *served) url() string {
	scheme, addr := "http", s.addr()
	if s.tls {
		scheme = "https"
	}
	if addr.Addr().IsUnspecified() {
		return fmt.Sprintf("%s://127.0.0.1:%d", scheme, addr.Port())
	}
	return scheme + "://" + addr.String()
}

func (s *served) addr() netip.AddrPort {
	return s.listener.Addr().(*net.TCPAddr).AddrPort()
}

// announce says what there is to know when a hub starts.
func (s *served) announce(c *cli.Context) {
	w := c.App.Writer
	fmt.Fprintf(w, "store    %s\n", store.Describe(s.store))
	fmt.Fprintf(w, "hub      %s\n", s.url())
	made := ""
	if s.newKey != "" {
		made = "  (new: " + s.newKey + ")"
	}
	fmt.Fprintf(w, "signs    %s%s\n         %s\n", s.key.Public().Fingerprint(), made, s.key.Public().SignersLine())
	if s.asks && len(s.users) > 0 {
		fmt.Fprintf(w, "users    %s\n", strings.Join(s.users, ", "))
	}
	switch a := s.addr().Addr(); {
	case a.IsLoopback():
	case !s.asks:
		fmt.Fprintf(c.App.ErrWriter, "pcapsule: warning: %s is reachable from other machines, and the hub asks nobody who they are: everybody there can read the traffic\n", a)
	case !s.tls:
		fmt.Fprintf(c.App.ErrWriter, "pcapsule: warning: %s is reachable from other machines, and tokens and traffic go there in the clear: give --tls-cert and --tls-key, unless something in front of the hub serves TLS\n", a)
	}
}

func hubCommand() *cli.Command {
	return &cli.Command{
		Name:      "hub",
		Usage:     "serve snapshots, and make them with the agents that report",
		UsageText: "pcapsule hub [--store LOCATION] [--listen ADDRESS] [--tls-cert FILE --tls-key FILE] [--auth kubernetes]",
		Description: `Keeps nothing but its key: all it knows is in the store. S3 is configured as usual
(AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_PROFILE, ...).

   pcapsule hub --store s3://forensics/pcapsule
   pcapsule hub --data-dir /srv/pcapsule --listen 127.0.0.1:9000
   sudo pcapsule hub --for ann

On loopback it lets in root, the user who started it, sudo's caller, and --for
USER: each has a file with a token, which commands find by themselves. Others,
and programs, get 401 on every route but /healthz and /readyz.

In a Kubernetes cluster (the Helm chart does this), it serves TLS, and asks the
API server whose tokens its clients come with; who did what is logged as JSON.`,
		Flags: flags(hubFlags(), []cli.Flag{forFlag(), tokenFlag()}, secureFlags(), daemonFlags()),
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usagef("hub takes no argument, not %q", c.Args().First())
			}
			logger, err := newLogger(c)
			if err != nil {
				return err
			}
			s, err := openServed(c, logger, nil)
			if err != nil {
				return err
			}
			s.announce(c)
			fmt.Fprintf(c.App.Writer, "\nnext     pcapsule agent --hub %s\n", s.url())
			return s.run(c.Context)
		},
	}
}

// parseSize reads a number of bytes as people write it: 1GiB, 500M, 1073741824.
func parseSize(s string) (int64, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > 1<<62 {
		return 0, fmt.Errorf("size %q: want a number of bytes, as in 500MB or 10GiB", s)
	}
	return int64(n), nil
}
