package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"pcapsule/archive"
	"pcapsule/importer"
	"pcapsule/internal/api"
	proc "pcapsule/internal/process"
	"pcapsule/manifest"
	"pcapsule/store"
)

// importDeadline is when a sweep may take an import for dead. Until then it waits
// for it, so that what is being imported is not swept away.
const importDeadline = 24 * time.Hour

func importCommand() *cli.Command {
	return &cli.Command{
		Name:      "import",
		Usage:     "make a snapshot of existing capture files",
		UsageText: "pcapsule snapshot import NAME [NODE=]FILE...",
		Description: `Takes pcap and pcapng of any link type, also in gzip, zstd or lz4, several files a
node, in any order. Without NODE= the node is this machine. Exit code 4: some of
it could not be read, and the snapshot says what.

   pcapsule snapshot import incident-42 web-1=web-1.pcap.gz web-2=*.pcapng
   tcpdump -w - -c 1000 | pcapsule snapshot import now -
   pcapsule snapshot import old --store /mnt/usb/archive old.pcap`,
		Flags:  flags([]cli.Flag{keyFlag(), outputFlag()}, targetFlags()),
		Action: importFiles,
	}
}

func importFiles(c *cli.Context) error {
	if c.NArg() < 2 {
		return usagef("which files, under which name? usage: %s", c.Command.UsageText)
	}
	name := c.Args().First()
	if err := manifest.CheckName(name); err != nil {
		return usagef("%v", err)
	}
	host, err := nodeName("")
	if err != nil {
		return err
	}
	opt := importer.Options{Version: versionString(), Stdin: c.App.Reader}
	var total int64
	for _, arg := range c.Args().Tail() {
		f := importer.File{Node: host, Path: arg}
		if node, path, ok := strings.Cut(arg, "="); ok && manifest.CheckNode(node) == nil && path != "" {
			if _, err := os.Stat(arg); err != nil { // no file has this very name
				f = importer.File{Node: node, Path: path}
			}
		}
		if f.Path != "-" {
			if st, err := os.Stat(f.Path); err == nil { // or the import says what is wrong with it
				total += st.Size()
			}
		}
		opt.Files = append(opt.Files, f)
	}
	p := newProgress(c.App.ErrWriter, "import "+name)
	p.set(0, total)
	opt.Progress = p.add
	take := importToHub
	if hasStore(c) {
		take = importToStore
	}
	s, err := take(c, name, opt)
	p.end()
	if err != nil {
		return err
	}
	return printSnapshot(c, s)
}

// importToStore is a session of this process's own.
func importToStore(c *cli.Context, name string, opt importer.Options) (snap *api.Snapshot, err error) {
	key, err := signer(c)
	if err != nil {
		return nil, err
	}
	st, err := store.Create(c.Context, c.String("store"))
	if err != nil {
		return nil, usageOfLocation(c.String("store"), err)
	}
	a := archive.New(st)
	if err := a.Writable(c.Context); err != nil {
		return nil, err
	}
	if err := a.Room(c.Context); err != nil {
		return nil, err
	}
	left, err := store.Probe(c.Context, st)
	if err != nil {
		return nil, err
	}
	if left != "" {
		fmt.Fprintln(c.App.ErrWriter, "pcapsule: "+probeLeft(st, left))
	}
	request, err := json.Marshal(opt.Files)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	session, err := a.Begin(c.Context, archive.Intent{
		Name: name, Kind: archive.KindImport, Owner: whoAmI() + " " + key.Public().Fingerprint(),
		Created: now, Deadline: now.Add(importDeadline), Request: request, Process: proc.Self(),
	})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancelCause(c.Context)
	defer stop(nil)
	go watch(ctx, session, stop)
	defer func() {
		if err != nil && !errors.Is(err, archive.ErrUndecided) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context), 10*time.Second)
			defer cancel()
			_ = session.Fail(ctx, "import failed: "+oneLine(err.Error())) // or its deadline ends it
		}
	}()
	opt.Upload = func(ctx context.Context, o importer.Object) (string, error) {
		return session.Bring(ctx, archive.Object{Kind: o.Kind, Hash: o.Hash, Ext: o.Ext, Size: o.Size, SHA256: o.SHA256}, o.Body)
	}
	nodes, err := importer.Run(ctx, opt)
	if err != nil {
		if why := context.Cause(ctx); why != nil && c.Context.Err() == nil {
			err = why
		}
		return nil, err
	}
	m := importer.Manifest(nodes)
	m.ID, m.Name = session.Intent.ID, name
	m.Created, m.Creator = manifest.NanosOf(now), manifest.Tool{Name: "pcapsule", Version: versionString()}
	if err := session.Commit(c.Context, m, key); err != nil {
		return nil, err
	}
	s := api.Of(m)
	return &s, nil
}

// watchEvery is how often an import looks whether somebody has ended its session.
const watchEvery = 5 * time.Second

// watch calls stop with the reason when somebody ends the session, until ctx ends.
func watch(ctx context.Context, session *archive.Session, stop context.CancelCauseFunc) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var ended *archive.VoidedError
		if errors.As(session.Standing(ctx), &ended) {
			stop(ended)
			return
		}
	}
}

// importToHub plays the nodes of a session of the hub's.
func importToHub(c *cli.Context, name string, opt importer.Options) (snap *api.Snapshot, err error) {
	client, err := openHub(c)
	if err != nil {
		return nil, err
	}
	req := api.CreateRequest{Name: name, Import: true}
	for _, f := range opt.Files {
		req.Nodes = append(req.Nodes, f.Node)
	}
	req.Nodes = unique(req.Nodes)
	if snap, err = client.Create(c.Context, req); err != nil {
		return nil, err
	}
	id := snap.ID
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context), 5*time.Second)
			defer cancel()
			_ = client.Delete(ctx, id) // or the hub gives it up in time
		}
	}()
	if err := importParts(c.Context, client, snap, opt); err != nil {
		return nil, err
	}
	return client.WaitSnapshot(c.Context, id, nil)
}

// importParts hands in the parts of all nodes of a session, and gives the hub a
// sign of life meanwhile.
func importParts(outer context.Context, client *hubClient, snap *api.Snapshot, opt importer.Options) error {
	ctx, stop := context.WithCancelCause(outer)
	var signs sync.WaitGroup
	defer signs.Wait()
	defer stop(nil)
	signs.Go(func() { giveSigns(ctx, client, snap.ID, opt.Files[0].Node, stop) })
	opt.Upload = func(ctx context.Context, o importer.Object) (string, error) {
		return uploadToHub(ctx, client, snap.ID, o)
	}
	nodes, err := importer.Run(ctx, opt)
	for _, n := range nodes {
		if err == nil {
			if err = client.Complete(ctx, snap.ID, n.Name, api.CompleteRequest{Node: n}); err != nil {
				err = &codeError{exitFailed, err} // whatever it is, nobody has used this command wrongly
			}
		}
	}
	if why := context.Cause(ctx); err != nil && why != nil && outer.Err() == nil {
		return why
	}
	return err
}

// giveSigns reports to the hub, until ctx ends, that the import of a session goes
// on, and calls stop with the reason when the hub says that the session has ended.
// A hub that does not answer may be back soon.
func giveSigns(ctx context.Context, client *hubClient, session, node string, stop context.CancelCauseFunc) {
	tick := time.NewTicker(api.SignEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		limited, cancel := context.WithTimeout(ctx, api.SignEvery)
		err := client.Progress(limited, session, api.Progress{Node: node, State: "waiting"})
		cancel()
		var answer *api.Error
		if !errors.As(err, &answer) {
			continue
		}
		switch answer.Status {
		case http.StatusNotFound, http.StatusConflict, http.StatusGone:
			stop(answer)
			return
		}
	}
}

// grantTries is how often an upload asks for a new grant when one runs out.
const grantTries = 5

func uploadToHub(ctx context.Context, client *hubClient, session string, o importer.Object) (string, error) {
	tries := 0
	return client.Bring(ctx, session, o.Node, api.Object{
		Hash: o.Hash, SHA256: hex.EncodeToString(o.SHA256[:]), Size: o.Size, Kind: o.Kind, Ext: o.Ext,
	}, o.Body, nil, func(err error) bool {
		tries++
		return errors.Is(err, api.ErrGrantOver) && tries < grantTries
	})
}

func unique(list []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

// nodeName is the name this machine goes by: the flag's, or its host name.
func nodeName(flag string) (string, error) {
	if flag != "" {
		if err := manifest.CheckNode(flag); err != nil {
			return "", usagef("--node: %v", err)
		}
		return flag, nil
	}
	host, err := os.Hostname()
	if err == nil {
		err = manifest.CheckNode(host)
	}
	if err != nil {
		return "", fmt.Errorf("this machine's name cannot be a node's: %w: choose one with --node", err)
	}
	return host, nil
}
