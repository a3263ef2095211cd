//go:build linux

package pcapgen

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pcapsule/chunker"
	"pcapsule/manifest"
	"pcapsule/store"
)

// Memory and files are those of a process, so that these tests export in one of
// their own: this program, with the environment telling it where.
const (
	childDir     = "PCAPGEN_TEST_DIR"
	childStreams = "PCAPGEN_TEST_STREAMS" // not empty: read the folder as if it were far away
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// saved is a snapshot in a file.
type saved struct {
	Manifest    manifest.Manifest
	Inventories map[string][]manifest.Entry
}

// usage is what a child says of itself.
type usage struct {
	Stats
	Peak int64 // bytes of memory that it ever had resident
}

func child(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "snapshot.json"))
	if err != nil {
		return err
	}
	var s saved
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	folder, err := store.NewFolder(filepath.Join(dir, "store"), store.FolderOptions{})
	if err != nil {
		return err
	}
	src := Source{
		Manifest: &s.Manifest, Store: folder,
		Inventory: func(_ context.Context, st manifest.Stream) ([]manifest.Entry, error) {
			return s.Inventories[st.Inventory], nil
		},
	}
	if os.Getenv(childStreams) != "" {
		src.Store = streams{folder}
	}
	var u usage
	if u.Stats, err = Export(context.Background(), io.Discard, src, Request{}); err != nil {
		return err
	}
	if u.Peak, err = peak(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(u)
}

// peak is this process's resident memory at its highest.
func peak() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("no VmHWM in /proc/self/status")
}

// streams hides that objects are files.
type streams struct{ store.Store }

func (s streams) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	r, err := s.Store.Get(ctx, key, off, n)
	return struct{ io.ReadCloser }{r}, err
}

// exportAlone exports s in a process of its own, which may have files open.
func exportAlone(t *testing.T, dir string, files int, environ ...string) usage {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", fmt.Sprintf("ulimit -n %d && exec %q", files, exe))
	cmd.Env = append(os.Environ(), append(environ, childDir+"="+dir)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	var u usage
	if err := json.Unmarshal(out, &u); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return u
}

// save writes chunks of random packets to a folder: count chunks of n packets
// each, of which each begins lag after the one before.
func save(t *testing.T, count, n int, lag int64) (dir string) {
	t.Helper()
	s := newSnapshot(t)
	s.stored = true
	eth := ethernet("eth0")
	s.node("a", eth)
	dir = t.TempDir()
	big := packet(t0, 0, 1, 65000)
	for c := range count {
		var records []chunker.Record
		for i := range n {
			r := big
			r.Time = t0 + int64(c)*lag + int64(i*count+c)
			r.Data = r.Data[:200+(i*7919+c)%1300]
			r.OrigLen = uint32(len(r.Data))
			records = append(records, r)
		}
		s.chunk("a", []chunker.Interface{eth}, records)
		s.folder(filepath.Join(dir, "store"))
		clear(s.store.bytes)
	}
	b, err := json.Marshal(saved{s.m, s.inventories})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "snapshot.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Memory follows how many chunks overlap, and not how much there is; and there
// may be more of them than a process may have files.
func TestLimits(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 300 MB")
	}
	tests := []struct {
		name           string
		chunks, packet int
		lag            int64
		limit          int64 // bytes of memory
	}{
		{"in turn", 25, 8000, second, 64 << 20},
		{"800 at once", 800, 160, 0, 256 << 20},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := save(t, tt.chunks, tt.packet, tt.lag)
			for _, env := range []string{"", "1"} {
				u := exportAlone(t, dir, 128, childStreams+"="+env)
				t.Logf("streams=%q: %d MiB resident for %d MiB", env, u.Peak>>20, u.Bytes>>20)
				if want := uint64(tt.chunks * tt.packet); u.Records != want {
					t.Errorf("streams=%q: %d records, want %d", env, u.Records, want)
				}
				if limit := raceFactor * tt.limit; u.Peak > limit {
					t.Errorf("streams=%q: %d MiB resident, want %d at most", env, u.Peak>>20, limit>>20)
				}
			}
		})
	}
}
