package hub

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"pcapsule/archive"
	"pcapsule/internal/api"
	"pcapsule/manifest"
	"pcapsule/store/storetest"
)

// TestStrangersSnapshot: what somebody else put into the store is listed as that,
// does not leave with the hub's word for it, and takes no name; a hub that is told
// of the key serves it.
func TestStrangersSnapshot(t *testing.T) {
	memory := storetest.NewMemory(t, nil)
	stranger, err := manifest.GenerateKey(strings.NewReader(strings.Repeat("s", 64)))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	session, err := archive.New(memory).Begin(t.Context(), archive.Intent{
		Name: "theirs", Kind: archive.KindImport, Owner: "stranger", Created: now, Deadline: now.Add(time.Hour), Request: []byte("{}"),
	})
	if err != nil {
		t.Fatal(err)
	}
	window := manifest.Interval{From: manifest.NanosOf(now.Add(-time.Minute)), To: manifest.NanosOf(now)}
	m := &manifest.Manifest{
		Format: manifest.Format, Version: manifest.Version, ID: session.Intent.ID, Name: "theirs", Created: manifest.NanosOf(now), Creator: manifest.Tool{Name: "x", Version: "1"},
		Window: window, Status: manifest.Completed,
		Nodes: []manifest.Node{{Name: "n", Status: manifest.Completed, Coverage: []manifest.Interval{window}}},
	}
	if err := session.Commit(t.Context(), m, stranger); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, memory, nil)
	c := s.client()
	list, err := c.Snapshots(t.Context())
	if err != nil || len(list) != 1 || list[0].Trusted == nil || *list[0].Trusted || list[0].Signer != stranger.Public().Fingerprint() || list[0].Distrust == "" {
		t.Errorf("list: %+v, %v", list, err)
	}
	for _, form := range []string{"pcap", "archive"} {
		resp, err := http.Get(s.srv.URL + api.Prefix + "/snapshots/theirs/" + form)
		if err != nil {
			t.Fatal(err)
		}
		if body := readAll(t, resp.Body); resp.StatusCode != http.StatusForbidden || !strings.Contains(string(body), api.CodeUntrusted) || !strings.Contains(string(body), stranger.Public().Fingerprint()) {
			t.Errorf("%s: %s %s", form, resp.Status, body)
		}
	}
	_, err = c.Create(t.Context(), api.CreateRequest{Name: "theirs", Import: true, Nodes: []string{"n"}})
	if e := (*api.Error)(nil); errors.As(err, &e) && e.Code == api.CodeNameTaken {
		t.Errorf("a stranger takes names: %v", err)
	}
	trust := new(manifest.Trust)
	trust.Add(stranger.Public())
	trusting := newSite(t, memory, func(cfg *Config) { cfg.Trust = trust })
	list, err = trusting.client().Snapshots(t.Context())
	trusted := err == nil
	for _, v := range list {
		trusted = trusted && (v.Trusted == nil || *v.Trusted)
	}
	if !trusted {
		t.Errorf("list of a hub that trusts the key: %+v, %v", list, err)
	}
	about, err := trusting.client().Hub(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if by, err := manifest.CheckSignature([]byte(about.Signers), []byte(about.SignersSig)); err != nil || by != testKey().Public() || !strings.Contains(about.Signers, stranger.Public().String()) {
		t.Errorf("the hub vouches for %q: %v", about.Signers, err)
	}
}
