//go:build linux

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A limit that is too small is said at the start, and none is not.
func TestTightMemory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "memory.max")
	missing := filepath.Join(t.TempDir(), "missing")
	if got := tightMemory([]string{missing}); got != "" {
		t.Errorf("without a limit: %q", got)
	}
	for content, want := range map[string]string{
		"max\n":                 "",
		"67108864\n":            "",
		"9223372036854771712\n": "",
		"33554432\n":            "limited to 32 MiB, and it needs 64 MiB",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got := tightMemory([]string{missing, file})
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", content, got, want)
		}
	}
}
