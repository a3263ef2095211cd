package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestRenameNew covers the way of file systems without links.
func TestRenameNew(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := renameNew(dir, "one", dir, "object"); err != nil {
		t.Fatal(err)
	}
	if err := renameNew(dir, "two", dir, "object"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("to a taken name: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(root, "object")); err != nil || string(b) != "one" {
		t.Errorf("the object is %q, %v", b, err)
	}
}
