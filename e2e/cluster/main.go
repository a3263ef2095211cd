//go:build linux

// Command cluster makes a real Kubernetes cluster on this machine, to develop
// against (see package testbed for what it consists of):
//
//	go run ./e2e/cluster up           start it (again, from nothing), and say how to use it
//	eval "$(go run ./e2e/cluster env)"  KUBECONFIG, and the tools on PATH
//	go run ./e2e/cluster enter node-1 [COMMAND …]
//	go run ./e2e/cluster load IMAGE.tar
//	go run ./e2e/cluster down
//
// It needs root, and the packages of `scripts/deps.sh e2e`.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"pcapsule/e2e/testbed"
)

// upTimeout includes the first build of all components on a slow machine.
const upTimeout = 40 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := app().RunContext(ctx, os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func app() *cli.App {
	return &cli.App{
		Name:            "cluster",
		Usage:           "a real Kubernetes cluster on this machine, in network namespaces",
		HideHelpCommand: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Value: "dev", Usage: "tells clusters of this machine apart"},
			&cli.StringFlag{Name: "dir", Usage: "state `FOLDER` (default: pcapsule/e2e/NAME in the user's cache)"},
		},
		Commands: []*cli.Command{
			{
				Name: "up", Usage: "start the cluster, after removing what is left of an earlier one",
				Flags:  []cli.Flag{&cli.IntFlag{Name: "nodes", Value: 3}},
				Action: up,
			},
			{Name: "down", Usage: "end the cluster and remove all of it", Action: down},
			{Name: "env", Usage: "print shell commands that set KUBECONFIG and PATH", Action: env},
			{Name: "load", Usage: "load an image archive into all nodes", ArgsUsage: "IMAGE.tar", Action: load},
			{
				Name: "enter", Usage: "run a command, or a shell, on a node", ArgsUsage: "NODE [COMMAND …]",
				SkipFlagParsing: true, Action: enter,
			},
			{Name: "help-host", Hidden: true, Action: help},
		},
	}
}

func stateDir(c *cli.Context) (string, error) {
	if dir := c.String("dir"); dir != "" {
		return filepath.Abs(dir)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "pcapsule", "e2e", c.String("name")), nil
}

func open(c *cli.Context) (*testbed.Cluster, error) {
	dir, err := stateDir(c)
	if err != nil {
		return nil, err
	}
	return testbed.Open(dir)
}

func up(c *cli.Context) error {
	dir, err := stateDir(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, upTimeout)
	defer cancel()
	cluster, err := testbed.Up(ctx, testbed.Options{Name: c.String("name"), Dir: dir, Nodes: c.Int("nodes"), Log: os.Stderr})
	if err != nil {
		return err
	}
	fmt.Printf(`nodes          %s
storage class  %s
S3             %s from pods, http://%s from here; bucket %s, keys %s and %s
logs           %s
export KUBECONFIG=%s
`, strings.Join(cluster.Nodes, " "), testbed.StorageClass, testbed.S3Endpoint, cluster.S3, testbed.S3Bucket,
		testbed.S3AccessKey, testbed.S3SecretKey, cluster.Logs(), cluster.Kubeconfig())
	return nil
}

func down(c *cli.Context) error {
	dir, err := stateDir(c)
	if err != nil {
		return err
	}
	cluster := &testbed.Cluster{Name: c.String("name"), Dir: dir}
	return cluster.Down(c.Context)
}

func env(c *cli.Context) error {
	cluster, err := open(c)
	if err != nil {
		return err
	}
	fmt.Printf("export KUBECONFIG=%s\nexport PATH=%s/bin:$PATH\n", cluster.Kubeconfig(), cluster.Dir)
	return nil
}

func load(c *cli.Context) error {
	if c.NArg() != 1 {
		return errors.New("usage: cluster load IMAGE.tar")
	}
	cluster, err := open(c)
	if err != nil {
		return err
	}
	return cluster.LoadImage(c.Context, c.Args().First())
}

func enter(c *cli.Context) error {
	if c.NArg() == 0 {
		return errors.New("usage: cluster enter NODE [COMMAND …]")
	}
	cluster, err := open(c)
	if err != nil {
		return err
	}
	args, err := cluster.Enter(c.Args().First())
	if err != nil {
		return err
	}
	if args = append(args, c.Args().Tail()...); c.NArg() == 1 {
		args = append(args, "sh")
	}
	return syscall.Exec("/usr/bin/"+args[0], args, os.Environ())
}

func help(c *cli.Context) error {
	cluster, err := testbed.Open(c.Args().First())
	if err != nil {
		return err
	}
	return cluster.Help(c.Context, slog.New(slog.NewTextHandler(os.Stderr, nil)))
}
