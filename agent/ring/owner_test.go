//go:build linux

package ring

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A ring has one owner: it keeps what it holds for that one over restarts, and
// refuses others until one takes it over.
func TestOwner(t *testing.T) {
	dir := t.TempDir()
	use := func(owner string, takeOver bool, want error, chunks int) {
		t.Helper()
		opt := testOptions()
		opt.Owner, opt.TakeOver = owner, takeOver
		r, err := Open(dir, opt)
		var other *OwnerError
		switch {
		case want == nil && err != nil:
			t.Fatalf("%q: %v", owner, err)
		case want != nil && !errors.As(err, &other):
			t.Errorf("%q opens the ring of another: %v", owner, err)
		case want != nil:
			if other.Owner != want.Error() || other.Asks != owner {
				t.Errorf("%q: %+v", owner, other)
			}
			return
		}
		if got := len(r.Sealed()); got != chunks {
			t.Errorf("%q has %d chunks, want %d", owner, got, chunks)
		}
		if _, err := put(t, r, start+int64(chunks)*1e9, testPart/2); err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	use("", false, nil, 0) // as rings were before they had owners
	use("one/pcapsule", false, nil, 1)
	use("one/pcapsule", false, nil, 2)
	use("two/pcapsule", false, errors.New("one/pcapsule"), 0)
	use("", false, errors.New("one/pcapsule"), 0)
	use("one/pcapsule", false, nil, 3)
	use("two/pcapsule", true, nil, 4)
	use("one/pcapsule", false, errors.New("two/pcapsule"), 0)
	for _, bad := range []string{"a\nb", strings.Repeat("x", maxOwner)} {
		opt := testOptions()
		opt.Owner = bad
		if _, err := Open(t.TempDir(), opt); err == nil {
			t.Errorf("owner %.10q was taken", bad)
		}
	}
}

// A number of a process in another namespace is no number of one here.
func TestHolderElsewhere(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, testOptions())
	for _, written := range []string{"1\n", "0\n", "-4\n", "99999999\n", "x"} {
		if err := os.WriteFile(filepath.Join(dir, "lock"), []byte(written), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir, testOptions())
		var used *InUseError
		if !errors.As(err, &used) || used.Process != 0 || !strings.Contains(err.Error(), "another process") {
			t.Errorf("%q: %v", written, err)
		}
	}
}

func TestPulse(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadPulse(dir); !errors.Is(err, ErrNoPulse) {
		t.Errorf("no ring: %v", err)
	}
	opt := testOptions()
	r := open(t, dir, opt)
	if _, err := ReadPulse(dir); !errors.Is(err, ErrNoPulse) {
		t.Errorf("before the first beat: %v", err)
	}
	if err := r.Beat([]string{"eth0 is gone"}); err != nil {
		t.Fatal(err)
	}
	p, err := ReadPulse(dir)
	if err != nil || !p.At.Equal(opt.Now()) || len(p.Problems) != 1 || p.Problems[0] != "eth0 is gone" {
		t.Errorf("%+v, %v", p, err)
	}
	if err := r.Beat([]string{strings.Repeat("x", maxPulse), "y"}); err != nil {
		t.Fatal(err)
	}
	if p, err := ReadPulse(dir); err != nil || len(p.Problems) == 0 {
		t.Errorf("of problems that are too long to tell: %+v, %v", p, err)
	}
	// One that a process left as it died is not that of the next.
	if err := os.WriteFile(filepath.Join(dir, pulseFile), []byte(`{"at":"2026-01-01T00:00:00Z"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir, opt)
	if _, err := ReadPulse(dir); !errors.Is(err, ErrNoPulse) {
		t.Errorf("after opening again: %v", err)
	}
}
