//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPlanted: a link that another user put into a folder like /tmp is not followed.
func TestPlanted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes links of others")
	}
	sticky := t.TempDir()
	if err := os.Chmod(sticky, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	for name, owner := range map[string]int{"theirs": 65534, "mine": 0} {
		link := filepath.Join(sticky, name)
		if err := os.Symlink(filepath.Join(t.TempDir(), "target"), link); err != nil {
			t.Fatal(err)
		}
		if err := os.Lchown(link, owner, owner); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := resolveOutput(filepath.Join(sticky, "theirs")); err == nil || !strings.Contains(err.Error(), "another user's link") {
		t.Errorf("theirs: %v", err)
	}
	if path, replace, err := resolveOutput(filepath.Join(sticky, "mine")); err != nil || !replace || filepath.Base(path) != "target" {
		t.Errorf("mine: %q, %v, %v", path, replace, err)
	}
}
