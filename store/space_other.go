//go:build !linux

package store

import (
	"errors"
	"os"
)

func volumeSpace(*os.File) (Space, error) { return Space{}, errors.ErrUnsupported }

func preallocate(*os.File, int64) error { return errors.ErrUnsupported }
