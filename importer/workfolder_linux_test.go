package importer

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"pcapsule/internal/process"
)

// TestWorkFolderOfTheDead: what a killed import left goes with the next one.
func TestWorkFolderOfTheDead(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	dead := process.Self()
	dead.PID = cmd.Process.Pid
	elsewhere := t.TempDir()
	stays := map[string]bool{
		workPrefix + dead.Tag() + "-123":           false,
		workPrefix + process.Self().Tag() + "-123": true,
		workPrefix + "123":                         true,
		workPrefix + "0123456789abcdef-1-1-123":    true,
		"other-" + dead.Tag() + "-123":             true,
	}
	for name := range stays {
		if err := os.MkdirAll(filepath.Join(temp, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(temp, name, "chunk-1"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := workPrefix + dead.Tag() + "-456"
	if err := os.Symlink(elsewhere, filepath.Join(temp, link)); err != nil {
		t.Fatal(err)
	}
	stays[link] = true
	dir, release, err := workFolder()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range stays {
		if _, err := os.Lstat(filepath.Join(temp, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	removeDead(temp)
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
	if release(); os.Remove(dir) == nil {
		t.Error("the folder stays")
	}
}
