package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"pcapsule/archive"
	"pcapsule/internal/api"
	"pcapsule/manifest"
)

// Whose snapshots a command takes is one *manifest.Trust, made here: the keys in
// --trust FILE and no others; or else those in the user's allowed_signers, the
// user's own key, and those of hubs: of the hub that is read through, that one's;
// in a store, those of every hub that the user has used, each named as that hub's.

// trustFlags are of commands that show whose a snapshot is.
func trustFlags() []cli.Flag {
	return []cli.Flag{&cli.StringFlag{Name: "trust", Usage: "trust the keys in `FILE`, an allowed_signers file, and no others"}}
}

// takeFlags are of commands that take what a snapshot holds.
func takeFlags() []cli.Flag {
	return flags(trustFlags(), []cli.Flag{&cli.BoolFlag{Name: "untrusted", Usage: "take a snapshot of somebody whose key you do not trust, for this once"}})
}

// storeTrust is whose snapshots count in a store that is read without a hub.
func storeTrust(c *cli.Context) (*manifest.Trust, error) {
	t, own, err := userTrust(c)
	if err != nil || !own {
		return t, err
	}
	known, err := openKnownHubs()
	if err != nil {
		return t, nil // there is no config folder, so no hub is known
	}
	hubs, err := known.load()
	if err != nil {
		return nil, err
	}
	for _, h := range hubs {
		h.joins(t)
	}
	return t, nil
}

// userTrust is whose snapshots count wherever they are. own tells that these are
// the user's own decisions, which --trust replaces.
func userTrust(c *cli.Context) (t *manifest.Trust, own bool, err error) {
	if name := c.String("trust"); name != "" {
		lines, err := readFileOrStdin(c, name)
		if err != nil {
			return nil, false, fmt.Errorf("--trust: %w", err)
		}
		t, err := manifest.ParseTrust(lines)
		if err != nil {
			return nil, false, fmt.Errorf("--trust %s: %w", name, err)
		}
		for _, n := range t.Notes() {
			fmt.Fprintf(c.App.ErrWriter, "pcapsule: --trust %s: %s\n", name, oneLine(n))
		}
		return t, false, nil
	}
	var lines []byte
	if name, err := configFile("allowed_signers"); err == nil {
		if lines, err = readIfThere(name); err != nil {
			return nil, false, err
		}
	}
	lines, _ = splitSigners(lines)
	if t, err = manifest.ParseTrust(lines); err != nil {
		return nil, false, fmt.Errorf("your allowed_signers: %w", err)
	}
	name := c.String("key")
	if name == "" {
		name = os.Getenv("PCAPSULE_KEY")
	}
	if name == "" {
		name, _ = configFile("key")
	}
	if s, err := manifest.LoadKey(name); err == nil {
		t.Add(s.Public())
	}
	return t, true, nil
}

type noLearningKey struct{}

// withoutLearning is a context in which no hub becomes known: nobody is there to
// read which.
func withoutLearning(ctx context.Context) context.Context {
	return context.WithValue(ctx, noLearningKey{}, true)
}

// trustHub fills in whose snapshots count that are read through the hub. A hub that
// this user talks to for the first time becomes known by its key, as a host does to
// ssh; one that comes with another key later is refused.
func (h *hubClient) trustHub(c *cli.Context) error {
	t, own, err := userTrust(c)
	if err != nil {
		return err
	}
	h.trust = t
	about, err := h.Hub(c.Context)
	if err != nil {
		return err
	}
	its, err := h.statement(about)
	if err != nil {
		return err
	}
	trusted := t.Trusts(its.key, about.Time)
	if own { // else the keys in --trust alone say whose snapshots count
		its.joins(t)
	}
	if trusted {
		return nil // whatever hub comes with it
	}
	known, err := openKnownHubs()
	if err != nil {
		return err
	}
	hubs, err := known.load()
	if err != nil {
		return err
	}
	names := []string{h.id, oneWord(h.former)}
	for _, k := range hubs {
		if k.id != names[0] && k.id != names[1] {
			continue
		}
		if k.key != its.key {
			return &codeError{exitVerification, &hubKeyError{k.id, k.key, its.key}}
		}
		if k.id == its.id && !k.former && slices.Equal(k.also, its.also) {
			return nil
		}
	}
	if c.Context.Value(noLearningKey{}) != nil {
		return nil
	}
	first, err := known.learn(names, its)
	if err != nil {
		return &codeError{exitVerification, err}
	}
	if first {
		fmt.Fprintf(c.App.ErrWriter, "pcapsule: first use of this hub: from now on its key %s vouches for snapshots of hub %s (%s)\n", its.key.Fingerprint(), h.id, known.file)
	}
	return nil
}

// statement is what a hub says of its keys, which it has signed with the first.
func (h *hubClient) statement(about *api.Hub) (knownHub, error) {
	its := knownHub{id: h.id}
	line, err := manifest.ParseTrust([]byte(about.PublicKey))
	if err != nil || len(line.Keys()) != 1 {
		return its, fmt.Errorf("the hub at %s tells no public key", h.Name())
	}
	its.key = line.Keys()[0]
	if !about.Proven && !h.Secure() {
		return its, &codeError{exitVerification, fmt.Errorf("what answers at %s does not prove that it has the hub's key: it is another program, or a hub of an older release: update the hub, or reach it over https", h.Name())}
	}
	if about.Signers == "" {
		return its, nil
	}
	by, err := manifest.CheckSignature([]byte(about.Signers), []byte(about.SignersSig))
	if err != nil || by != its.key {
		return its, &codeError{exitVerification, fmt.Errorf("the hub at %s vouches for further keys without the signature of its own", h.Name())}
	}
	also, err := manifest.ParseTrust([]byte(about.Signers))
	if err != nil {
		return its, fmt.Errorf("the hub at %s tells no public keys: %w", h.Name(), err)
	}
	its.also = also.Lines()
	return its, nil
}

// accept refuses what a stranger signed, unless the user says --untrusted.
func accept(c *cli.Context, s *archive.Snapshot) error {
	switch u := s.Untrusted; {
	case u == nil:
		return nil
	case c.Bool("untrusted"):
		fmt.Fprintf(c.App.ErrWriter, "pcapsule: warning: taking snapshot %s all the same: %v\n", oneLine(s.Name()), u.Why)
		return nil
	default:
		return &codeError{exitVerification, fmt.Errorf("snapshot %s is refused, since you do not trust who signed it: %w; %s, or take it for this once with --untrusted", s.Name(), u.Why, wayToTrust(c, u.Key, u.Why.Error()))}
	}
}

// accepted is the id of a snapshot of the hub's that accept does not refuse.
func (h *hubClient) accepted(c *cli.Context, ref string) (id string, err error) {
	s, err := h.Snapshot(c.Context, ref)
	if err != nil {
		return "", err
	}
	switch s.Status {
	case api.Creating, api.Dead:
		return "", fmt.Errorf("snapshot %s is still being made: see `pcapsule snapshot show %s`", oneLine(ref), oneLine(ref))
	case api.Failed:
		if s.Error != nil {
			return "", s.Error
		}
		return "", fmt.Errorf("snapshot %s has failed", oneLine(ref))
	}
	snap, err := hubArchive(h).Load(c.Context, s.ID)
	if err != nil {
		return "", err
	}
	return s.ID, accept(c, snap)
}

// wayToTrust says how to trust a key from now on, which is not trusted for the
// reason why.
func wayToTrust(c *cli.Context, key manifest.PublicKey, why string) string {
	name := c.String("trust")
	if strings.HasSuffix(why, manifest.ErrOtherTime.Error()) {
		return "if you know that its time in " + cmp.Or(name, "your allowed_signers") + " is wrong, change that line"
	}
	if name != "" {
		return fmt.Sprintf("if you know whose key it is, add this line to %s: %s", name, key.SignersLine())
	}
	return fmt.Sprintf("if you know from elsewhere whose key it is, run `pcapsule key trust %s`", key)
}

// mark says in s whose snap is.
func mark(s *api.Snapshot, snap *archive.Snapshot) {
	if snap.Err != nil {
		return
	}
	s.Signer, s.SignerKey = snap.Key.Fingerprint(), snap.Key.String()
	setTrust(s, snap.Whose, untrustedReason(snap))
}

func untrustedReason(snap *archive.Snapshot) error {
	if snap.Untrusted == nil {
		return nil
	}
	return snap.Untrusted.Why
}

func setTrust(s *api.Snapshot, whose string, why error) {
	trusted := why == nil
	s.Trusted, s.SignerOf, s.Distrust = &trusted, whose, ""
	if why != nil {
		s.Distrust = why.Error()
	}
}

// markAll holds what a hub lists against what this user trusts: of the keys that
// the hub says signed.
func (h *hubClient) markAll(list []api.Snapshot) {
	for i := range list {
		h.markOne(&list[i])
	}
}

func (h *hubClient) markOne(s *api.Snapshot) {
	if s.Trusted == nil || h.trust == nil {
		return // in the making or damaged
	}
	key, err := manifest.ParsePublicKey(s.SignerKey)
	if err != nil || key.Fingerprint() != s.Signer {
		setTrust(s, "", fmt.Errorf("the hub does not say which key signed it"))
		return
	}
	whose, err := h.trust.Whose(key, s.Created)
	if err == nil && !*s.Trusted {
		return // the hub does not
	}
	setTrust(s, whose, err)
}
