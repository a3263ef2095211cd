package kubetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"pcapsule/internal/kubetest/pki"
	"pcapsule/tools"
)

// startTimeout bounds the start of a server whose binary is there.
const startTimeout = 2 * time.Minute

// A Server is a kube-apiserver with an etcd of its own.
type Server struct {
	dir      string
	binary   string
	flags    []string
	config   *rest.Config
	addr     string
	etcdPort string
	etcd     *process

	mu  sync.Mutex
	api *process // nil while it is stopped
}

// Config returns settings of an administrator's client. The caller owns them.
func (s *Server) Config() *rest.Config { return rest.CopyConfig(s.config) }

// Launch starts an API server of its own, for programs; tests have New. Its flags
// come behind kubetest's, so that they win. It ends by Close, or with the process.
func Launch(ctx context.Context, flags ...string) (*Server, error) {
	binary, err := tools.Path(ctx, "kubernetes", "kube-apiserver")
	if err != nil {
		return nil, err
	}
	for range 3 { // another process may take a port first
		var s *Server
		if s, err = startOnce(ctx, binary, flags); err == nil {
			return s, nil
		}
	}
	return nil, fmt.Errorf("start kube-apiserver: %w", err)
}

// Stop kills the API server, as a crash would. What it keeps, stays in etcd.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.api == nil {
		t.Fatal("the API server is stopped already")
	}
	s.api.kill()
	s.api = nil
}

// Start starts a stopped API server at the address it had, and returns when it is
// ready.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	if err := s.startAPI(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// startOnce starts both, and returns when the API server is ready.
func startOnce(ctx context.Context, binary string, flags []string) (s *Server, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "kubetest-")
	if err != nil {
		return nil, err
	}
	etcd, err := startEtcd(dir, ports[0], ports[1])
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s = &Server{
		dir: dir, binary: binary, flags: flags,
		addr: net.JoinHostPort("127.0.0.1", ports[2]), etcdPort: ports[0], etcd: etcd,
	}
	if err := s.certificates(); err != nil {
		s.Close()
		return nil, err
	}
	if err := s.startAPI(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// startEtcd keeps its data in memory where it can, since disks are slow to sync.
func startEtcd(dir, clientPort, peerPort string) (*process, error) {
	data := filepath.Join(dir, "etcd")
	remove := dir
	if shm, err := os.MkdirTemp("/dev/shm", "kubetest-"); err == nil {
		data = filepath.Join(shm, "etcd")
		remove += "\n" + shm
	}
	client, peer := "http://127.0.0.1:"+clientPort, "http://127.0.0.1:"+peerPort
	return startProcess(filepath.Join(dir, "etcd.log"), remove, "etcd",
		"--data-dir", data,
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", "default="+peer,
		"--logger", "zap", "--log-level", "error",
	)
}

// certificates makes what the server proves itself with, and the administrator.
func (s *Server) certificates() error {
	authority, err := pki.NewAuthority("kubetest", time.Now())
	if err != nil {
		return err
	}
	server, err := authority.Server("127.0.0.1", "localhost", "kubernetes.default.svc")
	if err != nil {
		return err
	}
	admin, err := authority.Client("admin", "system:masters")
	if err != nil {
		return err
	}
	signing, err := pki.SigningKey()
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"ca.crt": authority.CertPEM, "server.crt": server.Cert, "server.key": server.Key, "sa.key": signing,
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), data, 0o600); err != nil {
			return err
		}
	}
	s.config = &rest.Config{
		Host: "https://" + s.addr,
		QPS:  -1, // a test is no load to protect a server from
		TLSClientConfig: rest.TLSClientConfig{
			CAData: authority.CertPEM, CertData: admin.Cert, KeyData: admin.Key,
		},
	}
	return nil
}

func (s *Server) startAPI(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.api != nil {
		return errors.New("the API server runs already")
	}
	_, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		return err
	}
	file := func(name string) string { return filepath.Join(s.dir, name) }
	const issuer = "https://kubernetes.default.svc"
	api, err := startProcess(file("kube-apiserver.log"), "", append([]string{
		s.binary,
		"--etcd-servers=http://127.0.0.1:" + s.etcdPort,
		"--bind-address=127.0.0.1", "--secure-port=" + port,
		"--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
		"--service-cluster-ip-range=10.0.0.0/24",
		"--tls-cert-file=" + file("server.crt"), "--tls-private-key-file=" + file("server.key"),
		"--client-ca-file=" + file("ca.crt"),
		"--authorization-mode=RBAC",
		"--service-account-issuer=" + issuer, "--api-audiences=" + issuer,
		"--service-account-key-file=" + file("sa.key"), "--service-account-signing-key-file=" + file("sa.key"),
		// No controller makes the default account and its ConfigMap in a namespace.
		"--disable-admission-plugins=ServiceAccount",
		"--cert-dir=" + s.dir,
	}, s.flags...)...)
	if err != nil {
		return err
	}
	if err := s.awaitReady(ctx, api); err != nil {
		text, _ := os.ReadFile(file("kube-apiserver.log"))
		etcdText, _ := os.ReadFile(file("etcd.log"))
		api.kill()
		return fmt.Errorf("%w\n%s\n%s", err, tail(text), tail(etcdText))
	}
	s.api = api
	return nil
}

func (s *Server) awaitReady(ctx context.Context, api *process) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client, err := rest.HTTPClientFor(s.config)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if err = ready(ctx, client, s.config.Host+"/readyz"); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kube-apiserver did not get ready: %w", err)
		case <-api.exited:
			return errors.New("kube-apiserver ended before it was ready")
		case <-tick.C:
		}
	}
}

func ready(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// Close ends both, and removes what they kept.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.api != nil {
		s.api.kill()
		s.api = nil
	}
	s.etcd.kill()
}

// freePorts returns ports of the loopback that nobody listens on right now.
func freePorts(n int) ([]string, error) {
	ports := make([]string, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // held until all are found, so that no two are the same
		_, ports[i], err = net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
	}
	return ports, nil
}

// tail returns the last lines of a log.
func tail(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
