package manifest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// Principal and Namespace of every signature: what ssh-keygen -Y verify takes as
// -I and -n.
const (
	Principal = "pcapsule"
	Namespace = "pcapsule"
)

// MaxSignature is more than any signature file has, in bytes.
const MaxSignature = 4 << 10

// ErrSignature is wrapped by what CheckSignature finds.
var ErrSignature = errors.New("bad signature")

// A PublicKey is an Ed25519 public key. The zero value is no key.
type PublicKey [ed25519.PublicKeySize]byte

func (k PublicKey) ssh() ssh.PublicKey {
	p, err := ssh.NewPublicKey(ed25519.PublicKey(k[:]))
	if err != nil { // only for types and lengths that it does not know
		panic(err)
	}
	return p
}

// SignersLine is the key as a line of an allowed_signers file, without newline.
func (k PublicKey) SignersLine() string {
	return Principal + ` namespaces="` + Namespace + `" ` + k.String()
}

// String is the key as a .pub file has it: type and base64.
func (k PublicKey) String() string {
	return ssh.KeyAlgoED25519 + " " + base64.StdEncoding.EncodeToString(k.ssh().Marshal())
}

// ParsePublicKey reads what String writes; a comment may follow.
func ParsePublicKey(s string) (PublicKey, error) {
	keyType, blob, err := parseKey(s)
	if err != nil {
		return PublicKey{}, fmt.Errorf("no public key: %w", err)
	}
	if keyType != ssh.KeyAlgoED25519 {
		return PublicKey{}, fmt.Errorf("a key of type %s: pcapsule signs with %s only", keyType, ssh.KeyAlgoED25519)
	}
	return PublicKey(blob[len(blob)-ed25519.PublicKeySize:]), nil
}

// Signers is the content of the allowed_signers file beside a manifest.
func (k PublicKey) Signers() []byte { return []byte(k.SignersLine() + "\n") }

// Fingerprint is the key's SHA-256 as ssh-keygen -l shows it.
func (k PublicKey) Fingerprint() string { return ssh.FingerprintSHA256(k.ssh()) }

// A Signer holds a private key.
type Signer struct {
	key ed25519.PrivateKey
}

// GenerateKey makes a new key from 32 bytes of rnd.
func GenerateKey(rnd io.Reader) (*Signer, error) {
	var seed [ed25519.SeedSize]byte
	if _, err := io.ReadFull(rnd, seed[:]); err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return &Signer{ed25519.NewKeyFromSeed(seed[:])}, nil
}

// Public is the key's public half.
func (s *Signer) Public() PublicKey {
	return PublicKey(s.key.Public().(ed25519.PublicKey))
}

// Sign returns the SSHSIG signature of msg, armored: the bytes that ssh-keygen
// -Y sign writes with the same key.
func (s *Signer) Sign(msg []byte) ([]byte, error) {
	key, err := ssh.NewSignerFromKey(s.key)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	sig, err := sshsig.Sign(bytes.NewReader(msg), key, sshsig.HashSHA512, Namespace)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return armor(sig), nil
}

// armorWidth is where ssh-keygen breaks the base64, in characters.
const armorWidth = 70

// armor writes sig as ssh-keygen does. sshsig.Armor breaks at 64 characters,
// which ssh-keygen reads as well; there has to be one form, and a person who
// signs by hand gets this one.
func armor(sig *sshsig.Signature) []byte {
	b := []byte("-----BEGIN " + sshsig.PEMType + "-----\n")
	text := base64.StdEncoding.EncodeToString(sig.Marshal())
	for len(text) > 0 {
		n := min(armorWidth, len(text))
		b = append(append(b, text[:n]...), '\n')
		text = text[n:]
	}
	return append(b, "-----END "+sshsig.PEMType+"-----\n"...)
}

// CheckSignature tells which key signed msg. Whether that key is trusted is a
// question for Trust. It takes Ed25519 with SHA-512 in the one form that Sign
// writes, so that no bit of sig can change unseen.
func CheckSignature(msg, sig []byte) (PublicKey, error) {
	key, err := checkSignature(msg, sig)
	if err != nil {
		return PublicKey{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return key, nil
}

func checkSignature(msg, sig []byte) (PublicKey, error) {
	var none PublicKey
	if len(sig) > MaxSignature {
		return none, fmt.Errorf("%d bytes, at most %d", len(sig), MaxSignature)
	}
	s, err := sshsig.Unarmor(sig)
	if err != nil {
		return none, err
	}
	pub, ok := s.PublicKey.(ssh.CryptoPublicKey)
	if !ok {
		return none, fmt.Errorf("key type %s, want %s", s.PublicKey.Type(), ssh.KeyAlgoED25519)
	}
	raw, ok := pub.CryptoPublicKey().(ed25519.PublicKey)
	if !ok || s.PublicKey.Type() != ssh.KeyAlgoED25519 {
		return none, fmt.Errorf("key type %s, want %s", s.PublicKey.Type(), ssh.KeyAlgoED25519)
	}
	if s.HashAlgorithm != sshsig.HashSHA512 {
		return none, fmt.Errorf("hash %s, want %s", s.HashAlgorithm, sshsig.HashSHA512)
	}
	if len(s.Signature.Rest) > 0 || !bytes.Equal(armor(s), sig) {
		return none, errors.New("the file is not in the form that ssh-keygen writes")
	}
	if err := sshsig.Verify(bytes.NewReader(msg), s, s.PublicKey, s.HashAlgorithm, Namespace); err != nil {
		return none, err
	}
	return PublicKey(raw), nil
}
