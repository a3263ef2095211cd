package manifest

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// PKCS #8 is what other tools make, openssl and Helm's genPrivateKey among them.
func TestLoadKeyPKCS8(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	got, err := LoadKey(writePKCS8(t, private))
	if err != nil {
		t.Fatal(err)
	}
	if !public.Equal(got.key.Public()) {
		t.Error("another key came back")
	}

	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(writePKCS8(t, other)); err == nil || !strings.Contains(err.Error(), "is not Ed25519") {
		t.Errorf("ECDSA key: error %v, want one that says that it is not Ed25519", err)
	}
}

func writePKCS8(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrivate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no modes")
	}
	for _, c := range []struct {
		mode             fs.FileMode
		rootOwns, asRoot bool
		want             bool
	}{
		{mode: 0o600, want: true},
		{mode: 0o400, want: true},
		{mode: 0o640, want: false},
		{mode: 0o644, want: false},
		{mode: 0o440, rootOwns: true, want: true}, // a secret in a pod with an fsGroup
		{mode: 0o640, rootOwns: true, want: true},
		{mode: 0o660, rootOwns: true, want: false},
		{mode: 0o444, rootOwns: true, want: false},
		{mode: 0o640, rootOwns: true, asRoot: true, want: false},
		{mode: 0o600, rootOwns: true, asRoot: true, want: true},
	} {
		if got := private(c.mode, c.rootOwns, c.asRoot); got != c.want {
			t.Errorf("mode %04o, root owns it: %v, read by root: %v: private is %v, want %v", c.mode, c.rootOwns, c.asRoot, got, c.want)
		}
	}
}
