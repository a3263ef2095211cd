package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pcapsule/manifest"
)

func testKey(seed byte) manifest.PublicKey {
	s, err := manifest.GenerateKey(strings.NewReader(strings.Repeat(string(rune('a'+seed%26)), 32)))
	if err != nil {
		panic(err)
	}
	return s.Public()
}

// TestKnownHubsAtOnce: many first uses at once, of some hubs by several commands,
// lose none and remember one key each.
func TestKnownHubsAtOnce(t *testing.T) {
	dir := t.TempDir()
	open := func() *knownHubs {
		return &knownHubs{file: filepath.Join(dir, "known_hubs"), signers: filepath.Join(dir, "allowed_signers")}
	}
	const hubs, each = 8, 4
	var wg sync.WaitGroup
	var mu sync.Mutex
	firsts := map[string]int{}
	for n := range hubs * each {
		wg.Go(func() {
			id := fmt.Sprint("http://127.0.0.1:", n%hubs)
			first, err := open().learn([]string{id}, knownHub{id: id, key: testKey(byte(n % hubs)), also: testTrust(t, 25).Lines()})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if first {
				firsts[id]++
			}
		})
	}
	wg.Wait()
	known, err := open().load()
	if err != nil {
		t.Fatal(err)
	}
	if len(known) != hubs {
		t.Fatalf("%d hubs are known, want %d", len(known), hubs)
	}
	for _, h := range known {
		if firsts[h.id] != 1 || len(h.also) != 1 {
			t.Errorf("hub %s was used first %d times, and vouches for %q", h.id, firsts[h.id], h.also)
		}
	}
	if st, err := os.Stat(filepath.Join(dir, "known_hubs")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	// Another key for one of them is refused, and changes nothing.
	id := known[0].id
	if _, err := open().learn([]string{id}, knownHub{id: id, key: testKey(20)}); err == nil || !strings.Contains(err.Error(), testKey(20).Fingerprint()) || !strings.Contains(err.Error(), known[0].key.Fingerprint()) {
		t.Errorf("another key: %v", err)
	}
	if again, err := open().load(); err != nil || len(again) != hubs || again[0].key != known[0].key {
		t.Errorf("after another key: %v, %v", again, err)
	}
	if found, err := open().forget(id); !found || err != nil {
		t.Errorf("forget: %v, %v", found, err)
	}
	if first, err := open().learn([]string{id}, knownHub{id: id, key: testKey(20)}); !first || err != nil {
		t.Errorf("after it was forgotten: %v, %v", first, err)
	}
}

func testTrust(t *testing.T, seed byte) *manifest.Trust {
	t.Helper()
	trust, err := manifest.ParseTrust(testKey(seed).Signers())
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

// TestHubOrigin: one hub has one name.
func TestHubOrigin(t *testing.T) {
	for in, want := range map[string]string{
		"http://localhost:8898":      "http://127.0.0.1:8898",
		"http://LOCALHOST:8898/":     "http://127.0.0.1:8898",
		"https://Hub.Example":        "https://hub.example:443",
		"http://hub.example/prefix/": "http://hub.example:80/prefix",
		"http://[::1]:9":             "http://[::1]:9",
		"pcapsule/hub in https://x":  "pcapsule/hub in https://x",
	} {
		if got := hubOrigin(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// TestSplitSigners: what former versions added for a hub counts for it alone, and
// what the user wrote stays the user's.
func TestSplitSigners(t *testing.T) {
	own, its, clusters := testKey(1), testKey(2), testKey(3)
	file := own.SignersLine() + " hub of our office\n" +
		its.SignersLine() + " hub http://localhost:8898\n" +
		clusters.SignersLine() + " hub pcapsule/pcapsule-hub in https://10.0.0.1:6443\n" +
		`auditor namespaces="pcapsule" ` + its.String() + "\n"
	rest, former := splitSigners([]byte(file))
	if len(former) != 2 || former[0].key != its || former[0].id != "http://127.0.0.1:8898" ||
		former[1].key != clusters || former[1].id != "pcapsule/pcapsule-hub_in_https://10.0.0.1:6443" {
		t.Errorf("hubs: %+v", former)
	}
	if want := own.SignersLine() + " hub of our office\n" + `auditor namespaces="pcapsule" ` + its.String() + "\n"; string(rest) != want {
		t.Errorf("the rest is\n%s", rest)
	}
}
