package manifest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func sign(t testing.TB, s *Signer, msg []byte) []byte {
	t.Helper()
	sig, err := s.Sign(msg)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func TestSignatureGolden(t *testing.T) {
	s := testKey(t)
	golden(t, "manifest.json.sig", sign(t, s, encode(t, testManifest())))
	golden(t, "allowed_signers", s.Public().Signers())
}

// Every byte of what a snapshot's folder holds is checked.
func TestEveryFlippedByteIsFound(t *testing.T) {
	s := testKey(t)
	msg := encode(t, testManifest())
	sig := sign(t, s, msg)
	signers := s.Public().Signers()
	check := func(msg, sig, signers []byte) error {
		key, err := CheckSignature(msg, sig)
		if err != nil {
			return err
		}
		if !bytes.Equal(signers, key.Signers()) {
			return errors.New("allowed_signers")
		}
		return nil
	}
	if err := check(msg, sig, signers); err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{msg, sig, signers} {
		for i := range b {
			for _, mask := range []byte{0x01, 0x20, 0x80, 0xff} {
				b[i] ^= mask
				if check(msg, sig, signers) == nil {
					t.Errorf("byte %d ^ %#x of %.20q… is not found", i, mask, b)
				}
				b[i] ^= mask
			}
		}
	}
	if check(msg, append(sig, '\n'), signers) == nil {
		t.Error("a line after the signature is not found")
	}
	if check(msg, bytes.ReplaceAll(sig, []byte("\n"), []byte("\r\n")), signers) == nil {
		t.Error("other ends of lines are not found")
	}
	if check(msg, append([]byte("hello\n"), sig...), signers) == nil {
		t.Error("text before the signature is not found")
	}
}

func TestSSHKeygenVerifiesOurs(t *testing.T) {
	keygen := tool(t, "ssh-keygen")
	dir := t.TempDir()
	s, err := GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	msg := encode(t, testManifest())
	sig, signers := filepath.Join(dir, "manifest.json.sig"), filepath.Join(dir, "allowed_signers")
	write(t, sig, sign(t, s, msg))
	write(t, signers, s.Public().Signers())
	verify := func(msg []byte) error {
		cmd := exec.Command(keygen, "-Y", "verify", "-f", signers, "-I", Principal, "-n", Namespace, "-s", sig)
		cmd.Stdin = bytes.NewReader(msg)
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		return err
	}
	if err := verify(msg); err != nil {
		t.Error(err)
	}
	if verify(append(msg, ' ')) == nil {
		t.Error("ssh-keygen takes a signature of other bytes")
	}

	path := filepath.Join(dir, "key")
	if err := SaveKey(path, s, "laptop"); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(keygen, "-l", "-f", path).Output()
	if err != nil || !strings.Contains(string(out), s.Public().Fingerprint()) {
		t.Errorf("ssh-keygen -l: %s, %v; want %s", out, err, s.Public().Fingerprint())
	}
	out, err = exec.Command(keygen, "-y", "-f", path).Output()
	if f := strings.Fields(s.Public().SignersLine()); err != nil || !strings.HasPrefix(string(out), f[2]+" "+f[3]) {
		t.Errorf("ssh-keygen -y: %s, %v", out, err)
	}
}

// The same key and the same bytes: ssh-keygen writes our signature, bit by bit.
func TestSSHKeygenSignsAlike(t *testing.T) {
	keygen := tool(t, "ssh-keygen")
	path := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-C", "by hand", "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s, err := LoadKey(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, msg := range [][]byte{encode(t, testManifest()), {}, {'\n'}} {
		cmd := exec.Command(keygen, "-q", "-Y", "sign", "-n", Namespace, "-f", path)
		cmd.Stdin = bytes.NewReader(msg)
		want, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := sign(t, s, msg); !bytes.Equal(got, want) {
			t.Errorf("got:\n%s\nwant:\n%s", got, want)
		}
		if key, err := CheckSignature(msg, want); err != nil || key != s.Public() {
			t.Errorf("signature of ssh-keygen: %v", err)
		}
	}
}

func TestCheckSignatureRefuses(t *testing.T) {
	keygen := tool(t, "ssh-keygen")
	dir := t.TempDir()
	msg := []byte("hello")
	byHand := func(keyType, namespace, hash string) []byte {
		t.Helper()
		path := filepath.Join(dir, keyType)
		if _, err := os.Stat(path); err != nil {
			if out, err := exec.Command(keygen, "-q", "-t", keyType, "-N", "", "-f", path).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		cmd := exec.Command(keygen, "-q", "-Y", "sign", "-n", namespace, "-O", "hashalg="+hash, "-f", path)
		cmd.Stdin = bytes.NewReader(msg)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if _, err := CheckSignature(msg, byHand("ed25519", Namespace, "sha512")); err != nil {
		t.Fatal(err)
	}
	for name, sig := range map[string][]byte{
		"other namespace": byHand("ed25519", "git", "sha512"),
		"other hash":      byHand("ed25519", Namespace, "sha256"),
		"rsa":             byHand("rsa", Namespace, "sha512"),
		"ecdsa":           byHand("ecdsa", Namespace, "sha512"),
		"empty":           nil,
		"no pem":          []byte("hello"),
		"large":           make([]byte, MaxSignature+1),
	} {
		if _, err := CheckSignature(msg, sig); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzCheckSignature(f *testing.F) {
	msg := []byte("hello")
	s := testKey(f)
	want := sign(f, s, msg)
	f.Add(want)
	f.Fuzz(func(t *testing.T, sig []byte) {
		if _, err := CheckSignature(msg, sig); err == nil && !bytes.Equal(sig, want) {
			t.Errorf("accepted:\n%s", sig)
		}
	})
}

func TestLoadKeyRefuses(t *testing.T) {
	keygen := tool(t, "ssh-keygen")
	dir := t.TempDir()
	make := func(name string, args ...string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if out, err := exec.Command(keygen, append([]string{"-q", "-f", path}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return path
	}
	open := make("open", "-t", "ed25519", "-N", "")
	if err := os.Chmod(open, 0o640); err != nil {
		t.Fatal(err)
	}
	garbage := filepath.Join(dir, "garbage")
	write(t, garbage, []byte("hello"))
	for _, c := range []struct{ path, want string }{
		{make("locked", "-t", "ed25519", "-N", "secret"), "passphrase"},
		{make("rsa", "-t", "rsa", "-N", ""), "not Ed25519"},
		{open, "chmod 600"},
		{garbage, "garbage"},
		{filepath.Join(dir, "none"), "no such file"},
	} {
		if c.path == open && runtime.GOOS == "windows" {
			continue
		}
		if _, err := LoadKey(c.path); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want one line about %q", c.path, err, c.want)
		}
	}
}

func TestLoadOrCreateKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pcapsule", "signing.key")
	const callers = 16
	var wg sync.WaitGroup
	keys := make([]PublicKey, callers)
	created := make([]bool, callers)
	for i := range callers {
		wg.Go(func() {
			s, isNew, err := LoadOrCreateKey(path, rand.Reader)
			if err != nil {
				t.Error(err)
				return
			}
			keys[i], created[i] = s.Public(), isNew
		})
	}
	wg.Wait()
	count := 0
	for i := range keys {
		if keys[i] != keys[0] {
			t.Errorf("caller %d has another key than caller 0", i)
		}
		if created[i] {
			count++
		}
	}
	if count != 1 {
		t.Errorf("%d callers made the key, want 1", count)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode != 0o600 {
		t.Errorf("mode %04o, want 0600", mode)
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 1 {
		t.Errorf("left behind: %v, %v", files, err)
	}
	if err := SaveKey(path, testKey(t), ""); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second key at one path: %v", err)
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// ParseTrust against ssh-keygen, which is what it has to agree with.
func TestTrustAgreesWithSSHKeygen(t *testing.T) {
	keygen := tool(t, "ssh-keygen")
	dir := t.TempDir()
	s, msg := testKey(t), []byte("hello")
	sig := filepath.Join(dir, "sig")
	write(t, sig, sign(t, s, msg))
	line := s.Public().SignersLine()
	key := strings.Join(strings.Fields(line)[2:], " ")
	other, err := GenerateKey(strings.NewReader(strings.Repeat("o", 32)))
	if err != nil {
		t.Fatal(err)
	}
	otherKey := strings.Join(strings.Fields(other.Public().SignersLine())[2:], " ")
	const rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDB"

	for _, c := range []struct {
		file string
		want bool // what ssh-keygen of OpenSSH 9.2 says
	}{
		{line, true},
		{line + " a comment", true},
		{line + "\r\n", true},
		{"# comment\n\n   \n" + line, true},
		{"  " + line, true},
		{"pcapsule " + key, true},
		{"pcapsule\t" + key, true},
		{"* " + key, true},
		{"pcap* " + key, true},
		{"pcapsul? " + key, true},
		{"pcapsul?? " + key, false},
		{"a,b,pcapsule " + key, true},
		{"*,!pcapsule " + key, false},
		{"!pcapsule,* " + key, false},
		{"!other,* " + key, true},
		{`"pcapsule" ` + key, true},
		{"other " + key, false},
		{"other " + rsa + "\n" + line, true},
		{"other nonsense\n" + line, true},
		{"pcapsule nonsense\n" + line, true},
		{"pcapsule\n" + line, true},
		{"pcapsule unknown-option " + key + "\n" + line, true},
		{line + "\npcapsule nonsense", true},
		{"pcapsule " + otherKey, false},
		{"pcapsule " + otherKey + "\n" + line, true},
		{`pcapsule namespaces="git" ` + key, false},
		{`pcapsule namespaces="git,pcapsule" ` + key, true},
		{`pcapsule namespaces="*" ` + key, true},
		{`pcapsule namespaces="*,!pcapsule" ` + key, false},
		{`pcapsule NAMESPACES="pcapsule" ` + key, true},
		{`pcapsule namespaces="git" ` + key + "\n" + line, true},
		{`pcapsule namespaces=pcapsule ` + key, false},
		{`pcapsule namespaces="" ` + key, false},
		{"pcapsule cert-authority " + key, false},
		{`pcapsule cert-authority,namespaces="pcapsule" ` + key, false},
		{"pcapsule unknown-option " + key, false},
		{`pcapsule namespaces="pcapsule", ` + key, false},
		{`pcapsule valid-after="20260101" ` + key, true},
		{`pcapsule valid-after="20270101" ` + key, false},
		{`pcapsule valid-before="20270101" ` + key, true},
		{`pcapsule valid-before="20260101" ` + key, false},
		{`pcapsule valid-after="202611230136",valid-before="20261123013614Z" ` + key, true},
		{`pcapsule valid-after="20261123013614Z" ` + key, true},
		{`pcapsule valid-after="20261123013615Z" ` + key, false},
		{`pcapsule valid-before="20261123013613Z" ` + key, false},
		{`pcapsule namespaces="pcapsule",valid-after="20260101",valid-before="20270101" ` + key, true},
		{`pcapsule valid-after="2026" ` + key, false},
		{`pcapsule valid-after="20261301" ` + key, false},
		{`pcapsule valid-after="20270101",valid-before="20260101" ` + key, false},
		{`pcapsule valid-after="20260101",valid-after="20260101" ` + key, false},
		{"", false},
	} {
		signers := filepath.Join(dir, "allowed_signers")
		write(t, signers, []byte(c.file))
		cmd := exec.Command(keygen, "-Y", "verify", "-f", signers, "-I", Principal, "-n", Namespace, "-s", sig,
			"-O", "verify-time=20261123013614Z")
		cmd.Env = append(os.Environ(), "TZ=UTC")
		cmd.Stdin = bytes.NewReader(msg)
		out, err := cmd.CombinedOutput()
		if (err == nil) != c.want {
			t.Errorf("ssh-keygen on %q: %v: %s", c.file, err, out)
		}
		trust, err := ParseTrust([]byte(c.file))
		got := err == nil && trust.Trusts(s.Public(), testTime.Truncate(time.Second))
		if got != c.want {
			t.Errorf("%q: trusted %v (%v), want %v", c.file, got, err, c.want)
		}
	}
}

func TestTrustSaysWhy(t *testing.T) {
	key := testKey(t).Public()
	blob := strings.Join(strings.Fields(key.SignersLine())[2:], " ")
	for file, want := range map[string]string{
		"": "is not in the trusted",
		`pcapsule valid-before="20260101Z" ` + blob: "only until 2026-01-01T00:00:00Z",
		`pcapsule valid-after="20270101Z" ` + blob:  "only from 2027-01-01T00:00:00Z",
	} {
		trust, err := ParseTrust([]byte(file))
		if err != nil {
			t.Fatal(err)
		}
		if err := trust.Check(key, testTime); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", file, err, want)
		}
	}
	trust, err := ParseTrust([]byte("pcapsule cert-authority " + blob))
	if err != nil || len(trust.Notes()) != 2 || !strings.Contains(trust.Notes()[0], "certificate authority") {
		t.Errorf("notes %q, %v", trust.Notes(), err)
	}
	if trust.Add(key); !trust.Trusts(key, testTime) {
		t.Error("an added key is not trusted")
	}
	if _, err := ParseTrust(make([]byte, 100)); err == nil {
		t.Error("a binary file is taken for allowed_signers")
	}
}

func FuzzParseTrust(f *testing.F) {
	key := testKey(f).Public()
	blob := strings.Fields(key.SignersLine())[3]
	f.Add(key.Signers())
	f.Add([]byte("a,b cert-authority,namespaces=\"x,y\",valid-after=\"20260101Z\" ssh-ed25519 AAAA\n# c\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if trust, err := ParseTrust(b); err == nil && trust.Trusts(key, testTime) && !bytes.Contains(b, []byte(blob)) {
			t.Errorf("a key is trusted that is not in %q", b)
		}
	})
}

func FuzzMatch(f *testing.F) {
	f.Add("pcapsule", "p*c?p*,!x")
	f.Fuzz(func(t *testing.T, s, list string) {
		matchList(s, list)
		if !match(s, "*") || !match(s, s) {
			t.Errorf("%q does not match itself", s)
		}
	})
}
