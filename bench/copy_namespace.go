//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"pcapsule/manifest"
)

// copyCommand is this program's own command that measures in a network namespace
// that was made for it: copyCommand PCAPSULE DIR RUNS BYTES, with a capture file
// on standard input. It prints a copyResult.
const copyCommand = "copy"

// uploadCommand is this program's own command that is the minimal copy:
// uploadCommand DIR ENDPOINT BUCKET PARALLEL.
const uploadCommand = "upload"

// A copyBench is what runs in the namespace.
type copyBench struct {
	site   *site
	daemon daemon // its hub is not one that daemon started
	s3     *minio.Client
	env    []string // by which programs find the store
	agents []*process
	links  []int // sockets, one an agent's interface
	seen   map[string]bool
}

func copyInNamespace(args []string) (err error) {
	d, runs, size, t, err := recordedArgs(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	c := &copyBench{site: &site{dir: d.dir}, daemon: d, seen: map[string]bool{}}
	defer c.site.stop()
	if err := c.start(ctx); err != nil {
		return err
	}
	var r copyResult
	for i := range runs + 1 { // the first does not count
		if err := c.turn(ctx, i, &t, size, &r); err != nil {
			return err
		}
		if i == 0 {
			r = copyResult{}
		}
	}
	for _, a := range c.agents {
		r.Kept = max(r.Kept, memoryOf(a.pid, "RssAnon"))
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// start returns when all agents record and the hub knows them.
func (c *copyBench) start(ctx context.Context) (err error) {
	if _, err := do(ctx, "", "ip", "link", "set", "lo", "up"); err != nil {
		return err
	}
	if c.env, err = c.site.startMinIO(ctx); err != nil {
		return err
	}
	if err := c.daemon.apart(); err != nil {
		return err
	}
	c.env = append(os.Environ(), c.env...)
	if c.s3, err = s3Client(c.endpoint()); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, c.daemon.pcapsule, "hub", "--data-dir", filepath.Join(c.daemon.dir, "hub"), "--store", "s3://"+benchBucket+"/pcapsule")
	cmd.Env = c.env
	hub, err := startProcess(cmd, "\nnext ", nil)
	if err != nil {
		return err
	}
	c.site.stopped = append(c.site.stopped, hub.stop)
	for i := range copyNodes {
		name, peer := fmt.Sprintf("net%d", i), fmt.Sprintf("peer%d", i)
		for _, args := range [][]string{{"add", name, "mtu", "65535", "type", "veth", "peer", "name", peer, "mtu", "65535"}, {"set", name, "up"}, {"set", peer, "up"}} {
			if _, err := do(ctx, "", "ip", append([]string{"link"}, args...)...); err != nil {
				return err
			}
		}
		link, err := openLink(peer)
		if err != nil {
			return err
		}
		c.links = append(c.links, link)
		cmd := exec.CommandContext(ctx, c.daemon.pcapsule, "agent", "--hub", hubURL, "--interface", name, "--node", fmt.Sprintf("node-%d", i),
			"--data-dir", filepath.Join(c.daemon.dir, name), "--ring-size", "3GiB")
		agent, err := startProcess(cmd, "\nring ", nil)
		if err != nil {
			return err
		}
		c.agents = append(c.agents, agent)
		c.site.stopped = append(c.site.stopped, agent.stop)
	}
	client, err := c.daemon.client()
	if err != nil {
		return err
	}
	for {
		nodes, err := client.Nodes(ctx)
		if err != nil || len(nodes) == copyNodes {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// turn lets the agents record what nothing has stored yet, takes a snapshot of it
// and copies its chunks, and adds what each took.
func (c *copyBench) turn(ctx context.Context, turn int, t *traffic, size int64, r *copyResult) error {
	from := time.Now()
	if err := c.send(t, size); err != nil {
		return err
	}
	to := time.Now()
	unix.Sync() // nobody waits for the disk for somebody else's bytes
	seconds, snap, err := c.daemon.create(ctx, from, to)
	if err != nil {
		return err
	}
	r.Snapshot, r.Last = append(r.Snapshot, seconds), snap
	dir := filepath.Join(c.daemon.dir, "chunks")
	defer os.RemoveAll(dir)
	if r.Chunks, err = c.fetch(ctx, dir, snap.Size); err != nil {
		return err
	}
	parallel := strconv.Itoa(copyNodes * agentUploads)
	contenders := []struct {
		took *[]float64
		args func(bucket string) []string
	}{
		{&r.Minimal, func(bucket string) []string {
			return []string{"/proc/self/exe", uploadCommand, dir, c.endpoint(), bucket, parallel}
		}},
		{&r.Rclone, func(bucket string) []string {
			return []string{"rclone", "copy", "--transfers", parallel, "--checkers", parallel, dir, "minio:" + bucket}
		}},
	}
	for i := range contenders {
		c1 := contenders[(turn+i)%len(contenders)]
		bucket := fmt.Sprintf("copy-%d-%d", turn, i)
		seconds, err := c.copy(ctx, dir, bucket, snap.Size, c1.args(bucket))
		if err != nil {
			return err
		}
		*c1.took = append(*c1.took, seconds)
	}
	return nil
}

// send gives each interface size bytes of frames, by turns, at some 100 MB/s
// together.
func (c *copyBench) send(t *traffic, size int64) error {
	start, sent := time.Now(), int64(0)
	for sent < size*copyNodes {
		for _, f := range t.frames {
			for _, link := range c.links {
				for {
					_, err := unix.Write(link, f)
					if err == nil {
						break
					}
					if !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
						return fmt.Errorf("send a frame of %d bytes: %w", len(f), err)
					}
				}
				sent += int64(len(f))
			}
			if sent >= size*copyNodes {
				break
			}
			if ahead := time.Duration(sent)*10 - time.Since(start); ahead > time.Millisecond {
				time.Sleep(ahead)
			}
		}
	}
	return nil
}

// openLink opens a socket that sends whole frames on an interface.
func openLink(name string) (int, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open packet socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifi.Index}); err != nil {
		return 0, fmt.Errorf("bind to %s: %w", name, err)
	}
	return fd, nil
}

// fetch writes the chunks that have come to the store into a folder. They have to
// be size bytes together.
func (c *copyBench) fetch(ctx context.Context, dir string, size int64) (chunks int, err error) {
	const prefix = "pcapsule/"
	for o := range c.s3.ListObjectsIter(ctx, benchBucket, minio.ListObjectsOptions{Prefix: prefix + manifest.KindChunk + "/", Recursive: true}) {
		if o.Err != nil {
			return 0, o.Err
		}
		if c.seen[o.Key] {
			continue
		}
		c.seen[o.Key] = true
		err := c.s3.FGetObject(ctx, benchBucket, o.Key, filepath.Join(dir, strings.TrimPrefix(o.Key, prefix)), minio.GetObjectOptions{})
		if err != nil {
			return 0, err
		}
		chunks++
		size -= o.Size
	}
	if size != 0 {
		return 0, fmt.Errorf("the snapshot says that its chunks have %d bytes more than those that are new in the store", size)
	}
	return chunks, nil
}

// copy times a command that copies a folder of size bytes into a bucket that it
// makes for it, and looks whether it did.
func (c *copyBench) copy(ctx context.Context, dir, bucket string, size int64, args []string) (seconds float64, err error) {
	if err := c.s3.MakeBucket(ctx, bucket, minio.MakeBucketOptions{}); err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, c.s3.RemoveBucketWithOptions(ctx, bucket, minio.RemoveBucketOptions{ForceDelete: true}))
	}()
	unix.Sync()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(c.env, "RCLONE_CONFIG="+filepath.Join(c.daemon.dir, "rclone.conf"),
		"RCLONE_CONFIG_MINIO_TYPE=s3", "RCLONE_CONFIG_MINIO_PROVIDER=Minio", "RCLONE_CONFIG_MINIO_ENV_AUTH=true",
		"RCLONE_CONFIG_MINIO_ENDPOINT=http://"+c.endpoint(), "RCLONE_CONFIG_MINIO_REGION=us-east-1",
		"AWS_CA_BUNDLE=") // rclone can take none from the environment
	start := time.Now()
	out, err := cmd.CombinedOutput()
	seconds = time.Since(start).Seconds()
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %.1000s", strings.Join(args[:2], " "), err, out)
	}
	for o := range c.s3.ListObjectsIter(ctx, bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			return 0, o.Err
		}
		size -= o.Size
	}
	if size != 0 {
		return 0, fmt.Errorf("%s: the copy lacks %d bytes", strings.Join(args[:2], " "), size)
	}
	return seconds, nil
}

// endpoint is MinIO's host and port.
func (c *copyBench) endpoint() string {
	for _, e := range c.env {
		if url, ok := strings.CutPrefix(e, "AWS_ENDPOINT_URL="); ok {
			return strings.TrimPrefix(url, "http://")
		}
	}
	return ""
}

func s3Client(endpoint string) (*minio.Client, error) {
	return minio.New(endpoint, &minio.Options{Creds: credentials.NewStaticV4(benchKey, benchKey, ""), Region: "us-east-1"})
}

// upload copies a folder into a bucket with as little as there can be: each file
// is one PUT, and nothing is hashed here.
func upload(args []string) error {
	if len(args) != 4 {
		return errors.New("not for people")
	}
	dir, bucket := args[0], args[2]
	parallel, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	client, err := s3Client(args[1])
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(context.Background())
	g.SetLimit(parallel)
	err = filepath.WalkDir(dir, func(file string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		key, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		g.Go(func() error {
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			defer f.Close()
			st, err := f.Stat()
			if err != nil {
				return err
			}
			_, err = client.PutObject(ctx, bucket, path.Clean(filepath.ToSlash(key)), f, st.Size(), minio.PutObjectOptions{DisableMultipart: true, DisableContentSha256: true})
			return err
		})
		return nil
	})
	return errors.Join(err, g.Wait())
}
