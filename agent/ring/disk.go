package ring

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// disk does what the ring asks of the file system. Tests put faults in its way.
type disk struct {
	fault func(op, path string) error // nil outside tests
}

func (d *disk) check(op, path string) error {
	if d.fault == nil {
		return nil
	}
	return d.fault(op, path)
}

func (d *disk) create(path string) (*os.File, error) {
	if err := d.check("create", path); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

func (d *disk) allocate(f *os.File, n int64) error {
	if err := d.check("allocate", f.Name()); err != nil {
		return err
	}
	return allocate(f, n)
}

func (d *disk) write(f *os.File, p []byte) (int, error) {
	if err := d.check("write", f.Name()); err != nil {
		return 0, err
	}
	return f.Write(p)
}

// finish gives back what was allocated beyond size and makes the data durable.
func (d *disk) finish(f *os.File, size int64) error {
	if err := d.check("sync", f.Name()); err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	return datasync(f)
}

// rename moves a file and makes that durable.
func (d *disk) rename(from, to string) error {
	if err := d.check("rename", to); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if filepath.Dir(from) != filepath.Dir(to) {
		return syncDir(filepath.Dir(from))
	}
	return nil
}

func (d *disk) remove(path string) error {
	if err := d.check("remove", path); err != nil {
		return err
	}
	return os.Remove(path)
}

// replace writes a file so that after a crash either the old or the new one is
// there, whole.
func (d *disk) replace(path string, b []byte) error {
	if err := d.check("replace", path); err != nil {
		return err
	}
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = datasync(f)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return d.rename(tmp, path)
}

// readFile reads at most limit bytes; a larger file is an error.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return b, err
}

// noSpace tells whether err says that the file system, or a quota, is full.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
