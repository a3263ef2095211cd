package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pcapsule/internal/api"
	"pcapsule/manifest"
)

// TestImpostor: whoever has the port of a hub, and its public key, which everybody
// may know, is not the hub; and a hub that says of a snapshot that it is not made
// yet cannot have it exported unseen.
func TestImpostor(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "config"))
	t.Setenv(runtimeEnv, filepath.Join(dir, "run"))
	t.Setenv("KUBECONFIG", filepath.Join(dir, "none"))
	t.Setenv("PCAPSULE_HUB", "")
	own, err := manifest.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := manifest.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		prover *manifest.Signer // nil: no proof
		code   int
		says   string
	}{
		"no proof":            {nil, exitVerification, "does not prove that it has the hub's key"},
		"another key's proof": {other, exitVerification, "does not have the key that it shows"},
		"its own proof":       {own, exitFailed, "still being made"},
	} {
		t.Run(name, func(t *testing.T) {
			mux := http.NewServeMux()
			answer := func(w http.ResponseWriter, v any) {
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(v)
			}
			mux.HandleFunc("GET "+api.Prefix+"/hub", func(w http.ResponseWriter, r *http.Request) {
				about := api.Hub{Version: "x", PublicKey: own.Public().SignersLine(), Time: time.Now()}
				if text, err := api.ProofText(r.URL.Query().Get("challenge")); err == nil && tc.prover != nil {
					sig, _ := tc.prover.Sign(text)
					about.Proof = string(sig)
				}
				answer(w, about)
			})
			mux.HandleFunc("GET "+api.Prefix+"/snapshots/s", func(w http.ResponseWriter, _ *http.Request) {
				answer(w, api.Snapshot{ID: "20261123T145000.000000Z-0000000000", Name: "s", Status: api.Creating, Nodes: []string{}})
			})
			mux.HandleFunc("GET "+api.Prefix+"/snapshots/{id}/pcap", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/x-pcapng")
				_, _ = w.Write([]byte("FORGED"))
			})
			server := httptest.NewServer(mux)
			defer server.Close()
			out := filepath.Join(t.TempDir(), "out")
			for _, more := range [][]string{nil, {"--trust", signersFile(t, own)}} {
				var stderr bytes.Buffer
				args := append([]string{"pcapsule", "snapshot", "pcap", "s", "--hub", server.URL, "-w", out}, more...)
				if code := run(t.Context(), args, nil, &bytes.Buffer{}, &stderr); code != tc.code || !strings.Contains(stderr.String(), tc.says) {
					t.Errorf("%q: exit code %d, want %d: %s", more, code, tc.code, stderr.String())
				}
				if _, err := os.Stat(out); err == nil {
					t.Errorf("%q: it wrote a file", more)
				}
			}
		})
	}
}

// signersFile is an allowed_signers file with the key of s.
func signersFile(t *testing.T, s *manifest.Signer) string {
	name := filepath.Join(t.TempDir(), "signers")
	if err := os.WriteFile(name, []byte(s.Public().SignersLine()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
