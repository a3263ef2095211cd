//go:build linux

package testbed

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"pcapsule/internal/kubetest/pki"
)

// inside is the API server's address on the machines' network.
const inside = "https://" + controlAddr + ":" + apiPort

// keys makes the cluster's certificates and kubeconfigs, in the folder keys.
func (c *Cluster) keys(context.Context) error {
	authority, err := pki.NewAuthority("pcapsule-e2e-"+c.Name, time.Now())
	if err != nil {
		return err
	}
	signing, err := pki.SigningKey()
	if err != nil {
		return err
	}
	if err := c.write("keys/ca.crt", authority.CertPEM); err != nil {
		return err
	}
	if err := c.write("keys/sa.key", signing); err != nil {
		return err
	}
	servers := map[string][]string{"apiserver": {
		"127.0.0.1", "localhost", controlAddr, apiService, "kubernetes", "kubernetes.default", "kubernetes.default.svc",
	}}
	users := map[string][2]string{ // file: user, group
		"admin":              {"admin", "system:masters"},
		"controller-manager": {"system:kube-controller-manager"},
		"scheduler":          {"system:kube-scheduler"},
		"proxy":              {"system:kube-proxy"},
		"apiserver-kubelet":  {"kube-apiserver-kubelet-client", "system:masters"},
	}
	for i, node := range c.Nodes {
		servers[node+"-serving"] = []string{node, c.nodeAddr(i)}
		users[node] = [2]string{"system:node:" + node, "system:nodes"}
	}
	for name, hosts := range servers {
		pair, err := authority.Server(hosts...)
		if err != nil {
			return err
		}
		if err := c.writePair(name, pair); err != nil {
			return err
		}
	}
	for name, user := range users {
		var groups []string
		if user[1] != "" {
			groups = []string{user[1]}
		}
		pair, err := authority.Client(user[0], groups...)
		if err != nil {
			return err
		}
		if err := c.writePair(name, pair); err != nil {
			return err
		}
		if err := c.kubeconfig(c.path("keys", name+".kubeconfig"), inside, authority.CertPEM, pair); err != nil {
			return err
		}
		if name == "admin" {
			if c.API, err = freeLoopback(); err != nil {
				return err
			}
			if c.S3, err = freeLoopback(); err != nil {
				return err
			}
			if err := c.kubeconfig(c.Kubeconfig(), "https://"+c.API, authority.CertPEM, pair); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Cluster) kubeconfig(path, server string, ca []byte, user pki.Pair) error {
	name := "pcapsule-e2e-" + c.Name
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: user.Cert, ClientKeyData: user.Key}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func (c *Cluster) writePair(name string, pair pki.Pair) error {
	if err := c.write("keys/"+name+".crt", pair.Cert); err != nil {
		return err
	}
	return c.write("keys/"+name+".key", pair.Key)
}

// write writes a file of the cluster's state.
func (c *Cluster) write(name string, data []byte) error {
	path := c.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}
