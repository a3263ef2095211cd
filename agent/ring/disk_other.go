//go:build !linux

package ring

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// Capture is Linux only, and so is the ring. Here it compiles, and says so.

func allocate(*os.File, int64) error { return nil }

func datasync(f *os.File) error { return f.Sync() }

func syncDir(string) error { return nil }

func tryLock(*os.File) error {
	return fmt.Errorf("rings on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func freeSpace(string) (int64, error) { return 0, errors.ErrUnsupported }
