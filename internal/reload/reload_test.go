package reload

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestSymlinks swaps files as the kubelet does in a volume, and one by one, as
// people do.
func TestSymlinks(t *testing.T) {
	dir := t.TempDir()
	write := func(folder, a, b string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, s := range map[string]string{"a": a, "b": b} {
			if err := os.WriteFile(filepath.Join(dir, folder, name), []byte(s), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		link := filepath.Join(dir, folder+".link")
		if err := errors.Join(os.Symlink(folder, link), os.Rename(link, filepath.Join(dir, "..data"))); err != nil {
			t.Fatal(err)
		}
	}
	write("..1", "one", "one")
	for _, name := range []string{"a", "b"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Unix(1_700_000_000, 0)
	parsed := 0
	var warned []string
	v, err := New(
		func() time.Time { return now },
		func(err error) { warned = append(warned, err.Error()) },
		func(c [][]byte) (string, error) {
			parsed++
			if string(c[0]) != string(c[1]) {
				return "", errors.New("they do not match")
			}
			return string(c[0]), nil
		},
		filepath.Join(dir, "a"), filepath.Join(dir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want string, wantParsed int, wantWarned ...string) {
		t.Helper()
		if got := v.Get(); got != want || parsed != wantParsed || !slices.Equal(warned, wantWarned) {
			t.Errorf("%q, parsed %d times, warned %q; want %q, %d, %q", got, parsed, warned, want, wantParsed, wantWarned)
		}
	}
	write("..2", "two", "two")
	expect("one", 1) // looked at a moment ago
	now = now.Add(period)
	expect("two", 2)
	now = now.Add(period)
	expect("two", 2)

	write("..3", "three", "two")
	now = now.Add(period)
	expect("two", 3, "they do not match")
	now = now.Add(period)
	expect("two", 4, "they do not match")
	write("..4", "three", "three")
	now = now.Add(-time.Hour) // a clock that is set back must not stop it
	expect("three", 5, "they do not match")
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	now = now.Add(period)
	if got := v.Get(); got != "three" || len(warned) != 2 {
		t.Errorf("%q after the file is gone, warned %q", got, warned)
	}
}

func TestWrongFromTheStart(t *testing.T) {
	parse := func([][]byte) (int, error) { return 0, nil }
	if _, err := New(time.Now, func(error) {}, parse, filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	large := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(large, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(time.Now, func(error) {}, parse, large); err == nil {
		t.Error("a large file is taken")
	}
}
