package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"pcapsule/manifest"
)

// knownHubs is the user's file known_hubs: which key each hub signs with, as ssh's
// known_hosts has those of hosts. A key in it vouches for snapshots of that hub,
// and for nothing else.
//
//	HUB ssh-ed25519 BASE64    the key that the hub signs with
//	HUB also SIGNERS          a line of allowed_signers that the hub vouches for:
//	                          the key of a predecessor, or of somebody it trusts
type knownHubs struct {
	file    string
	signers string // allowed_signers, where former versions put the keys of hubs
}

// A knownHub is one that this user has used.
type knownHub struct {
	id   string
	key  manifest.PublicKey
	also []string // lines of allowed_signers

	former bool // it stands in allowed_signers still
}

// joins makes t trust what the hub signed, and what it vouches for.
func (h *knownHub) joins(t *manifest.Trust) {
	t.AddOf(h.key, "hub "+h.id)
	if also, err := manifest.ParseTrust([]byte(strings.Join(h.also, "\n"))); err == nil {
		t.JoinOf(also, "hub "+h.id)
	}
}

func openKnownHubs() (*knownHubs, error) {
	file, err := configFile("known_hubs")
	if err != nil {
		return nil, err
	}
	return &knownHubs{file: file, signers: filepath.Join(filepath.Dir(file), "allowed_signers")}, nil
}

const alsoWord = "also"

// load reads the hubs that are known. One that only allowed_signers has is known
// by the name that a former version gave it there.
func (k *knownHubs) load() ([]knownHub, error) {
	b, err := readIfThere(k.file)
	if err != nil {
		return nil, err
	}
	var hubs []knownHub
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		id, rest, _ := strings.Cut(line, " ")
		i := slices.IndexFunc(hubs, func(h knownHub) bool { return h.id == id })
		if signers, ok := strings.CutPrefix(rest, alsoWord+" "); ok && i >= 0 {
			hubs[i].also = append(hubs[i].also, signers)
			continue
		}
		key, err := manifest.ParsePublicKey(rest)
		if err == nil && i >= 0 {
			err = errors.New("a hub has one key")
		}
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w: mend it, or delete the file and accept each hub anew", k.file, n, err)
		}
		hubs = append(hubs, knownHub{id: id, key: key})
	}
	signers, err := readIfThere(k.signers)
	if err != nil {
		return nil, err
	}
	_, former := splitSigners(signers)
	for _, f := range former {
		if !slices.ContainsFunc(hubs, func(h knownHub) bool { return h.id == f.id }) {
			hubs = append(hubs, f)
		}
	}
	return hubs, nil
}

// A hubKeyError says that a hub comes with another key than it had.
type hubKeyError struct {
	id       string
	old, new manifest.PublicKey
}

func (e *hubKeyError) Error() string {
	return fmt.Sprintf("the hub %s signs with another key than when you used it before (then %s, now %s): if its owner changed the key, run `pcapsule key forget %s` and try again; otherwise somebody else answers there",
		e.id, e.old.Fingerprint(), e.new.Fingerprint(), e.id)
}

// learn remembers the keys of a hub that is not known yet, or what else a known
// hub vouches for by now. A known hub that comes with another key is a
// *hubKeyError. Names are the hub's id, and what former versions called it.
func (k *knownHubs) learn(names []string, its knownHub) (first bool, err error) {
	err = k.change(func(hubs []knownHub) ([]knownHub, error) {
		i := slices.IndexFunc(hubs, func(h knownHub) bool { return slices.Contains(names, h.id) })
		if i < 0 {
			first = true
			return append(hubs, its), nil
		}
		if hubs[i].key != its.key {
			return nil, &hubKeyError{hubs[i].id, hubs[i].key, its.key}
		}
		hubs[i] = its
		return hubs, nil
	})
	return first, err
}

// forget removes a hub, and tells whether it was known.
func (k *knownHubs) forget(id string) (found bool, err error) {
	err = k.change(func(hubs []knownHub) ([]knownHub, error) {
		n := len(hubs)
		hubs = slices.DeleteFunc(hubs, func(h knownHub) bool { return h.id == id })
		found = len(hubs) < n
		return hubs, nil
	})
	return found, err
}

// change replaces the file by what edit makes of the hubs in it, all or nothing
// and one command at a time. What a former version left in allowed_signers moves.
func (k *knownHubs) change(edit func([]knownHub) ([]knownHub, error)) error {
	unlock, err := lockFolder(filepath.Dir(k.file))
	if err != nil {
		return err
	}
	defer unlock()
	hubs, err := k.load()
	if err != nil {
		return err
	}
	if hubs, err = edit(hubs); err != nil {
		return err
	}
	var b bytes.Buffer
	for _, h := range hubs {
		fmt.Fprintf(&b, "%s %s\n", oneWord(h.id), h.key)
		for _, line := range h.also {
			fmt.Fprintf(&b, "%s %s %s\n", oneWord(h.id), alsoWord, line)
		}
	}
	if err := putFile(k.file, b.Bytes()); err != nil {
		return err
	}
	signers, err := readIfThere(k.signers)
	if err != nil {
		return err
	}
	if rest, former := splitSigners(signers); len(former) > 0 {
		return putFile(k.signers, rest)
	}
	return nil
}

// oneWord is a hub's id as one word. Former versions had names with blanks.
func oneWord(id string) string { return strings.Join(strings.Fields(id), "_") }

// formerLine is how former versions added a hub's key to allowed_signers, where it
// vouched for everything.
var formerLine = regexp.MustCompile(`^pcapsule namespaces="pcapsule" (ssh-ed25519 [A-Za-z0-9+/=]+) hub (https?://\S+|\S+/\S+ in \S+)$`)

// splitSigners takes the keys of hubs, which former versions put there, out of an
// allowed_signers file.
func splitSigners(b []byte) (rest []byte, former []knownHub) {
	for line := range bytes.Lines(b) {
		m := formerLine.FindSubmatch(bytes.TrimSpace(line))
		if m == nil {
			rest = append(rest, line...)
			continue
		}
		if key, err := manifest.ParsePublicKey(string(m[1])); err == nil {
			former = append(former, knownHub{id: oneWord(hubOrigin(string(m[2]))), key: key, former: true})
		}
	}
	return rest, former
}

// hubOrigin is a hub's URL in the one form by which the hub is known. What is no
// URL stays.
func hubOrigin(base string) string {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" {
		return base
	}
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return u.Scheme + "://" + host + ":" + port + strings.TrimRight(u.EscapedPath(), "/")
}

// lockFolder makes the caller the only one who changes files in the config folder,
// which it makes.
func lockFolder(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(lock); err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	return func() { lock.Close() }, nil
}

func readIfThere(name string) ([]byte, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// putFile is replaceFile with what to write.
func putFile(name string, b []byte) error {
	return replaceFile(name, name, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}
