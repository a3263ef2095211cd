package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pcapsule/store"
)

// BenchmarkFolderPut stands beside BenchmarkWriteSync, the least that a durable
// file of the same size costs.
func BenchmarkFolderPut(b *testing.B) {
	f := openFolder(b, b.TempDir(), store.FolderOptions{})
	body := store.Bytes(make([]byte, 8<<20))
	b.SetBytes(body.Size)
	for i := 0; b.Loop(); i++ {
		key := fmt.Sprintf("chunks/%02x/%d", i%256, i)
		if err := f.Put(b.Context(), key, body); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := f.Delete(b.Context(), key); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkWriteSync(b *testing.B) {
	dir := b.TempDir()
	data := make([]byte, 8<<20)
	b.SetBytes(int64(len(data)))
	for i := 0; b.Loop(); i++ {
		name := filepath.Join(dir, fmt.Sprint(i))
		file, err := os.Create(name)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := file.Write(data); err != nil {
			b.Fatal(err)
		}
		if err := file.Sync(); err != nil {
			b.Fatal(err)
		}
		file.Close()
		b.StopTimer()
		os.Remove(name)
		b.StartTimer()
	}
}

func BenchmarkFolderPutSmall(b *testing.B) {
	f := openFolder(b, b.TempDir(), store.FolderOptions{})
	body := store.Bytes(make([]byte, 100))
	for i := 0; b.Loop(); i++ {
		if err := f.Put(b.Context(), fmt.Sprintf("chunks/%02x/%d", i%256, i), body); err != nil {
			b.Fatal(err)
		}
	}
}
