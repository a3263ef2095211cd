//go:build linux

package testbed

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// issuer of service account tokens.
const issuer = "https://kubernetes.default.svc.cluster.local"

// SignToken signs a token of a service account as the API server would, with any
// end: the API server itself gives out none that end within ten minutes.
func (c *Cluster) SignToken(account *corev1.ServiceAccount, audience string, expires time.Time) (string, error) {
	data, err := os.ReadFile(c.path("keys", "sa.key"))
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return "", errors.New("keys/sa.key is no PEM file")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("read keys/sa.key: %w", err)
	}
	begin := expires.Add(-time.Hour).Unix()
	claims, err := json.Marshal(map[string]any{
		"iss": issuer, "aud": []string{audience}, "iat": begin, "nbf": begin, "exp": expires.Unix(),
		"sub": "system:serviceaccount:" + account.Namespace + ":" + account.Name,
		"kubernetes.io": map[string]any{
			"namespace":      account.Namespace,
			"serviceaccount": map[string]any{"name": account.Name, "uid": account.UID},
		},
	})
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"ES256"}`)) + "." + encode(claims)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return "", err
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + encode(signature[:]), nil
}
