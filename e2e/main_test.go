//go:build e2e && linux

// Package e2e tests pcapsule as its users have it: the chart installed by helm
// into a real cluster (package testbed), the commands run as on a laptop with
// nothing but a kubeconfig, the exports read by tshark.
//
//	make e2e
//	go test -tags e2e -v ./e2e -run TestBucket -args -cluster ~/.cache/pcapsule/e2e/dev
//
// With -cluster a cluster that runs already is used, and left running. Tests stand
// in the order in which they run; the steps of one test build on each other.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"pcapsule/e2e/testbed"
	"pcapsule/tools"
)

var (
	reuse = flag.String("cluster", "", "use the running cluster whose state is in this `FOLDER`")
	logs  = flag.String("logs", filepath.Join(os.TempDir(), "pcapsule-e2e-logs"), "keep the logs of all components in this `FOLDER`")
)

// What all tests share; set before the first one.
var (
	cluster  *testbed.Cluster
	client   *kubernetes.Clientset
	root     string // of the checkout
	pcapsule string // the binary
)

// image of pcapsule, as every node has it.
const (
	imageRepository = "pcapsule.test/pcapsule"
	imageTag        = "e2e"
)

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	if code != 0 {
		fmt.Fprintln(os.Stderr, "e2e: logs of all components are in", *logs)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	if err := os.RemoveAll(*logs); err != nil {
		return 0, err
	}
	if err := os.MkdirAll(*logs, 0o755); err != nil {
		return 0, err
	}
	temp, err := os.MkdirTemp("", "pcapsule-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(temp)
	if root, err = tools.Root(ctx); err != nil {
		return 0, err
	}
	if *reuse != "" {
		cluster, err = testbed.Open(*reuse)
	} else {
		var down func()
		if down, err = reaper(ctx, temp); err != nil {
			return 0, err
		}
		defer down()
		cluster, err = testbed.Up(ctx, testbed.Options{Name: "test", Dir: stateDir(), Nodes: 3, Log: os.Stderr})
	}
	if err != nil {
		return 0, err
	}
	if client, err = cluster.Client(); err != nil {
		return 0, err
	}
	pcapsule = filepath.Join(temp, "pcapsule")
	if err := testbed.GoBuild(ctx, root, "./cmd/pcapsule", pcapsule); err != nil {
		return 0, err
	}
	archive := filepath.Join(temp, "pcapsule.tar")
	cmd := exec.CommandContext(ctx, "go", "run", "./scripts/image", "-binary", pcapsule, "-o", archive,
		"-tag", imageRepository+":"+imageTag, "-version", imageTag)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("make the image: %w\n%s", err, out)
	}
	if err := cluster.LoadImage(ctx, archive); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

func stateDir() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	return filepath.Join(cache, "pcapsule", "e2e", "test")
}

// reaper starts a process that takes the cluster down when its standard input
// ends: when down is called, or when this process ends in any other way. It keeps
// the logs.
func reaper(ctx context.Context, temp string) (down func(), err error) {
	program := filepath.Join(temp, "cluster")
	if err := testbed.GoBuild(ctx, root, "./e2e/cluster", program); err != nil {
		return nil, err
	}
	const script = `
trap '' INT TERM HUP
cat >/dev/null
cp -r "$2"/logs/. "$3"/ 2>/dev/null
for node in "$2"/nodes/*; do
	mkdir -p "$3/pods" && cp -r "$node"/root/var/log/pods/. "$3/pods/" 2>/dev/null
done
"$1" --name test --dir "$2" down
`
	cmd := exec.Command("sh", "-c", script, "sh", program, stateDir(), *logs)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	alive, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		alive.Close()
		if err := cmd.Wait(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: take the cluster down:", err)
		}
	}, nil
}

// step prints where the test is, with the time: whoever waits for it sees that
// it goes on.
func step(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Logf("%s  "+format, append([]any{time.Now().UTC().Format(time.TimeOnly)}, args...)...)
}
