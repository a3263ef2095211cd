package archive

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"pcapsule/manifest"
	"pcapsule/store"
)

// The commands of FORMAT.md do what it says: they pass on a sound archive, and
// fail on one that is not.
func TestFormatByHand(t *testing.T) {
	for _, tool := range []string{"sh", "jq", "b3sum", "sha256sum", "lz4", "tcpdump", "ssh-keygen"} {
		if _, err := exec.LookPath(tool); err != nil && os.Getuid() == 0 {
			t.Fatalf("%v: install it", err)
		} else if err != nil {
			t.Skip(err)
		}
	}
	format, err := os.ReadFile("../manifest/FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(format), "## By hand\n```\n")
	script, _, end := strings.Cut(after, "\n```\n")
	if !ok || !end {
		t.Fatal("FORMAT.md has no commands by hand")
	}

	dir := t.TempDir()
	st, err := store.NewFolder(dir, store.FolderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a := New(st)
	snap := putSnapshot(t, a, 1, "outage", snapshotOptions{})
	for old, new := range map[string]string{"cd <store>": "cd '" + dir + "'", "id=20261123T013614.123456Z-0123456789": "id=" + snap.ID} {
		if !strings.Contains(script, old) {
			t.Fatalf("the commands do not say %q", old)
		}
		script = strings.Replace(script, old, new, 1)
	}
	run := func() (string, error) {
		cmd := exec.Command("sh", "-e", "-c", script)
		cmd.Env = append(os.Environ(), "TZ=UTC")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run()
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	if want := `Good "pcapsule" signature for pcapsule with ED25519 key ` + testSigner.Public().Fingerprint(); !strings.Contains(out, want) {
		t.Errorf("got:\n%s\nwant: %s", out, want)
	}
	if !strings.Contains(out, "14:50:00.001000") { // the second packet of the first chunk
		t.Errorf("tcpdump does not show the packets:\n%s", out)
	}

	entries, err := snap.Inventory(context.Background(), snap.Manifest.Nodes[1].Streams[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{manifest.ManifestPath(snap.ID), snap.Manifest.Streams[0].Inventory, entries[0].Key} {
		file := dir + "/" + key
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, 0o600); err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := run(); err == nil {
			t.Errorf("%s was changed, and the commands pass:\n%s", key, out)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
