//go:build linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sys/unix"

	"pcapsule/tools"
)

const (
	benchBucket = "bench"
	benchKey    = "benchbench"
)

// startMinIO starts a store with a bucket, and returns the environment by which
// the hub finds it.
func (s *site) startMinIO(ctx context.Context) (env []string, err error) {
	binary, err := tools.Path(ctx, "minio")
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, binary, "server", "--quiet", "--address", addr, "--console-address", "127.0.0.1:0", filepath.Join(s.dir, "minio"))
	cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+benchKey, "MINIO_ROOT_PASSWORD="+benchKey, "MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_CI_CD=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	var said lockedBuffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.stopped = append(s.stopped, func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	client, err := minio.New(addr, &minio.Options{Creds: credentials.NewStaticV4(benchKey, benchKey, ""), Region: "us-east-1"})
	if err != nil {
		return nil, err
	}
	for began := time.Now(); ; {
		err := client.MakeBucket(ctx, benchBucket, minio.MakeBucketOptions{})
		if err == nil {
			break
		}
		if time.Since(began) > time.Minute || ctx.Err() != nil {
			return nil, fmt.Errorf("MinIO does not come up: %w\n%s", err, said.String())
		}
		time.Sleep(100 * time.Millisecond)
	}
	return []string{
		"AWS_ENDPOINT_URL=http://" + addr, "AWS_ACCESS_KEY_ID=" + benchKey, "AWS_SECRET_ACCESS_KEY=" + benchKey, "AWS_REGION=us-east-1",
	}, nil
}

// startReviewer starts what a hub asks of a Kubernetes API: whose a token is, and
// what they may. Tokens are the names of nodes, after agentToken; whoever comes
// with another may do everything. It returns a kubeconfig.
func (s *site) startReviewer() (kubeconfig string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /apis/authentication.k8s.io/v1/tokenreviews", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Spec struct {
				Token     string   `json:"token"`
				Audiences []string `json:"audiences"`
			} `json:"spec"`
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		user := map[string]any{"username": "somebody"}
		if node, ok := strings.CutPrefix(in.Spec.Token, agentToken); ok {
			user = map[string]any{
				"username": "system:serviceaccount:pcapsule:pcapsule-agent",
				"extra":    map[string][]string{"authentication.kubernetes.io/node-name": {node}},
			}
		}
		review(w, "authentication.k8s.io/v1", "TokenReview", map[string]any{"authenticated": true, "user": user, "audiences": in.Spec.Audiences})
	})
	mux.HandleFunc("POST /apis/authorization.k8s.io/v1/subjectaccessreviews", func(w http.ResponseWriter, _ *http.Request) {
		review(w, "authorization.k8s.io/v1", "SubjectAccessReview", map[string]any{"allowed": true})
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(l) }()
	s.stopped = append(s.stopped, func() { _ = srv.Close() })
	kubeconfig = filepath.Join(s.dir, "kubeconfig")
	return kubeconfig, os.WriteFile(kubeconfig, fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: bench
clusters: [{name: bench, cluster: {server: "http://%s"}}]
contexts: [{name: bench, context: {cluster: bench, user: bench}}]
users: [{name: bench, user: {}}]
`, l.Addr()), 0o600)
}

// agentToken is how the tokens of agents begin.
const agentToken = "node:"

func review(w http.ResponseWriter, version, kind string, status map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": version, "kind": kind, "metadata": map[string]any{}, "spec": map[string]any{}, "status": status})
}

// makeCertificate makes one for a hub at these addresses, and its own CA.
func (s *site) makeCertificate(addresses ...net.IP) (certFile, keyFile string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, IPAddresses: addresses,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return "", "", err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", err
	}
	s.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	certFile, keyFile = filepath.Join(s.dir, "tls.crt"), filepath.Join(s.dir, "tls.key")
	return certFile, keyFile, errors.Join(
		os.WriteFile(certFile, s.ca, 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}

// freeAddr is an address of the loopback that nobody listens on now.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
