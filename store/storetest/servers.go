package storetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"pcapsule/store"
	"pcapsule/tools"
)

// Keys of the servers that this package starts.
const (
	accessKey = "pcapsule-test"
	secretKey = "pcapsule-test-secret"
)

// MinIO returns the settings of a new bucket on a real MinIO server. The first
// call in a test process builds the server, when that has not been done on this
// machine, and starts it; it ends with the process. A server that cannot be
// built or started fails the test.
func MinIO(t testing.TB) store.S3Options {
	t.Helper()
	return bucket(t, minioServer(t), minio.MakeBucketOptions{})
}

// MinIOLocked is MinIO with a bucket that has object lock, and so versions.
func MinIOLocked(t testing.TB) store.S3Options {
	t.Helper()
	return bucket(t, minioServer(t), minio.MakeBucketOptions{ObjectLocking: true})
}

// VersityGW is MinIO with another server, which keeps objects in files.
func VersityGW(t testing.TB) store.S3Options {
	t.Helper()
	endpoint, err := versitygw()
	if err != nil {
		t.Fatal(err)
	}
	return bucket(t, endpoint, minio.MakeBucketOptions{})
}

func minioServer(t testing.TB) string {
	t.Helper()
	endpoint, err := minioOnce()
	if err != nil {
		t.Fatal(err)
	}
	return endpoint
}

var minioOnce = sync.OnceValues(func() (string, error) {
	return serve("minio", "/minio/health/live", func(addr, dir string) []string {
		return []string{"server", "--quiet", "--address", addr, "--console-address", "127.0.0.1:0", dir}
	}, "MINIO_ROOT_USER="+accessKey, "MINIO_ROOT_PASSWORD="+secretKey, "MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_CI_CD=1")
})

var versitygw = sync.OnceValues(func() (string, error) {
	return serve("versitygw", "/health", func(addr, dir string) []string {
		return []string{"--quiet", "--health", "/health", "--port", addr, "posix", dir}
	}, "ROOT_ACCESS_KEY="+accessKey, "ROOT_SECRET_KEY="+secretKey)
})

// supervisor runs a server until its own standard input ends, which it does with
// the test process, however that dies. Its arguments are the server's folder and
// command.
const supervisor = `
dir=$1; shift
"$@" </dev/null &
trap '' INT TERM HUP
cat >/dev/null
kill $! 2>/dev/null
wait $! 2>/dev/null
rm -rf "$dir"
`

// serve starts a server on a free port of the loopback, and waits until it says
// that it is healthy.
func serve(tool, health string, args func(addr, dir string) []string, env ...string) (endpoint string, err error) {
	binary, err := tools.Path(context.Background(), tool)
	if err != nil {
		return "", err
	}
	for range 3 { // another process may take the port first
		if endpoint, err = serveOnce(binary, health, args, env); err == nil {
			return endpoint, nil
		}
	}
	return "", fmt.Errorf("start %s: %w", tool, err)
}

func serveOnce(binary, health string, args func(addr, dir string) []string, env []string) (endpoint string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "storetest-")
	if err != nil {
		return "", err
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return "", err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return "", err
	}
	defer log.Close()
	cmd := exec.Command("sh", append([]string{"-c", supervisor, "sh", dir, binary}, args(addr, data)...)...)
	cmd.Env = append([]string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir}, env...)
	cmd.Stdout, cmd.Stderr = log, log
	alive, err := cmd.StdinPipe() // stays open as long as this process lives
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := awaitHealthy(ctx, "http://"+addr+health); err != nil {
		text, _ := os.ReadFile(log.Name())
		_ = alive.Close()
		_ = cmd.Wait()
		return "", fmt.Errorf("%w\n%s", err, text)
	}
	keepAlive.Store(addr, alive)
	return "http://" + addr, nil
}

// keepAlive holds the pipes that keep servers running, so that no finalizer
// closes them.
var keepAlive sync.Map

func awaitHealthy(ctx context.Context, url string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s did not get healthy: %w", url, err)
		case <-tick.C:
		}
	}
}

// bucket makes a bucket with a name of its own.
func bucket(t testing.TB, endpoint string, opt minio.MakeBucketOptions) store.S3Options {
	t.Helper()
	client, err := minio.New(strings.TrimPrefix(endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(accessKey, secretKey, ""), Region: "us-east-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	name := "test-" + strings.ToLower(rand.Text()[:16])
	if err := client.MakeBucket(t.Context(), name, opt); err != nil {
		t.Fatalf("make bucket at %s: %v", endpoint, err)
	}
	return store.S3Options{
		Bucket: name, Endpoint: endpoint, AccessKey: accessKey, SecretKey: secretKey, Backoff: 10 * time.Millisecond,
	}
}
