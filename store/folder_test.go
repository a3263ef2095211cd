package store_test

import (
	"bytes"
	"testing"

	"pcapsule/store"
	"pcapsule/store/storetest"
)

func openFolder(t testing.TB, dir string, opt store.FolderOptions) *store.Folder {
	t.Helper()
	f, err := store.NewFolder(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestFolderConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		return openFolder(t, t.TempDir(), store.FolderOptions{GrantKey: bytes.Repeat([]byte{7}, 32)})
	})
}

func TestMemoryConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return storetest.NewMemory(t, nil) })
}
