package manifest

import (
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/crypto/ssh"
)

// maxKeyFile is more than any private key of OpenSSH has, in bytes.
const maxKeyFile = 64 << 10

// LoadKey reads an Ed25519 private key in OpenSSH's format or as PKCS #8 in PEM
// form, without passphrase. Like ssh it refuses a file that others can read.
func LoadKey(path string) (*Signer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("load signing key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("load signing key: %w", err)
	}
	if mode := info.Mode().Perm(); !private(mode, ownedByRoot(info), os.Geteuid() == 0) {
		return nil, fmt.Errorf("signing key %s can be read by others (mode %04o): chmod 600 %s", path, mode, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("load signing key: %w", err)
	}
	key, err := ssh.ParseRawPrivateKey(b)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return nil, fmt.Errorf("signing key %s has a passphrase, which pcapsule cannot ask for: "+
			"make one without by `pcapsule key generate`", path)
	}
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", path, err)
	}
	switch k := key.(type) {
	case *ed25519.PrivateKey:
		return &Signer{*k}, nil
	case ed25519.PrivateKey:
		return &Signer{k}, nil
	}
	return nil, fmt.Errorf("signing key %s is not Ed25519: make one by `pcapsule key generate`", path)
}

// private tells whether no more than those who should can read a file of this
// mode: its owner, or the group that root gave its own file to. Kubernetes mounts
// secrets that way for those who are not root.
func private(mode fs.FileMode, rootOwns, asRoot bool) bool {
	if runtime.GOOS == "windows" {
		return true
	}
	return mode&0o077 == 0 || rootOwns && !asRoot && mode&0o037 == 0
}

// SaveKey writes s to path with mode 0600, folders included, all or nothing. A
// file that is there stays: then the error is fs.ErrExist.
func SaveKey(path string, s *Signer, comment string) error {
	if err := saveKey(path, s, comment); err != nil {
		return fmt.Errorf("save signing key: %w", err)
	}
	return nil
}

func saveKey(path string, s *Signer, comment string) error {
	block, err := ssh.MarshalPrivateKey(s.key, comment)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(pem.EncodeToMemory(block))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}

// LoadOrCreateKey loads the key at path, or makes one from rnd when there is no
// file. Of several callers at once one makes it and all get it. It tells whether
// it is new.
func LoadOrCreateKey(path string, rnd io.Reader) (s *Signer, created bool, err error) {
	s, err = LoadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return s, false, err
	}
	if s, err = GenerateKey(rnd); err != nil {
		return nil, false, err
	}
	err = SaveKey(path, s, Principal)
	if errors.Is(err, fs.ErrExist) {
		s, err = LoadKey(path)
		return s, false, err
	}
	if err != nil {
		return nil, false, err
	}
	return s, true, nil
}
