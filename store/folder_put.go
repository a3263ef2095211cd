package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"

	"pcapsule/internal/process"
)

// copyBuffers hold what is on its way from a body to a file.
var copyBuffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// Put writes a temporary file, flushes it to the disk and links it to its name.
// When it answers nil or ErrExist the object that has the name is durable, also
// against a power failure.
func (f *Folder) Put(ctx context.Context, key string, body Body) error {
	if body.Frees {
		return f.putFreeing(ctx, key, body)
	}
	return f.write(ctx, key, io.NewSectionReader(body, 0, body.Size), body.Size, body.SHA256)
}

// write is Put of a body that can be read only once. It reads size bytes of r.
func (f *Folder) write(ctx context.Context, key string, r io.Reader, size int64, sum [sha256.Size]byte) error {
	if err := f.check(ctx, key); err != nil {
		return err
	}
	info, err := f.look(key)
	switch {
	case err == nil && info.IsDir():
		err = errors.New("it is a folder: no key may end where another goes on")
	case err == nil:
		err = ErrExist
	case AsObstacle(err) == nil:
		err = f.putNew(ctx, key, r, size, sum)
	}
	if err == nil || errors.Is(err, ErrExist) {
		// Who put what is there may not have flushed its folder yet.
		if serr := f.syncAbove(key); serr != nil {
			err = serr
		}
	}
	if err != nil {
		return fmt.Errorf("put %s in %s: %w", key, f.dir, folderError(err))
	}
	return nil
}

// putNew leaves a durable file under a name that may not be durable yet.
func (f *Folder) putNew(ctx context.Context, key string, r io.Reader, size int64, sum [sha256.Size]byte) error {
	file, temp, err := f.createTemp()
	if err != nil {
		return f.denied(tempDir, err)
	}
	defer func() { _ = f.root.Remove(temp) }() // fails where publish renamed it
	err = copyBody(ctx, file, r, size, sum)
	if err == nil {
		err = file.Sync()
	}
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	return f.denied(path.Dir(key), f.publish(temp, key))
}

// copyBody copies size bytes of r to w and checks their hash.
func copyBody(ctx context.Context, w io.Writer, r io.Reader, size int64, sum [sha256.Size]byte) error {
	buf := copyBuffers.Get().(*[256 << 10]byte)
	defer copyBuffers.Put(buf)
	h := sha256.New()
	for left := size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(left, int64(len(buf)))]
		n, err := io.ReadFull(r, b)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("%w: the body ends after %d of %d bytes", ErrChecksum, size-left+int64(n), size)
		case err != nil:
			return fmt.Errorf("read the body: %w", err)
		}
		h.Write(b)
		if _, err := w.Write(b); err != nil {
			return err
		}
		left -= int64(n)
	}
	if [sha256.Size]byte(h.Sum(nil)) != sum {
		return fmt.Errorf("%w: the body's SHA-256 is %x, %x was announced", ErrChecksum, h.Sum(nil), sum)
	}
	return nil
}

// createTemp makes a temporary file, and the folder for it when there is none.
func (f *Folder) createTemp() (file *os.File, name string, err error) {
	f.sweep.Do(func() {
		f.sweepTemp()
		_ = f.Restock() // what it lacks, who must not go without asks for
	})
	file, name, err = f.openTemp()
	if errors.Is(err, fs.ErrNotExist) {
		if err := f.root.Mkdir(tempDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, "", err
		}
		file, name, err = f.openTemp()
	}
	return file, name, err
}

// tempName is a new name for a temporary file of this process.
func tempName() string { return process.Self().Tag() + "-" + rand.Text() }

// leftOver tells whether a temporary file is of a process that has died: one that
// is known to have, or that has not touched it for long.
func (f *Folder) leftOver(info fs.FileInfo) bool {
	tag := info.Name()[:max(0, strings.LastIndexByte(info.Name(), '-'))]
	return process.TagDead(tag) || f.now().Sub(info.ModTime()) > tempAge
}

// sweepTemp removes what dead processes left. What it cannot remove, the next
// process will try again.
func (f *Folder) sweepTemp() {
	d, err := f.root.Open(tempDir)
	if err != nil {
		return
	}
	defer d.Close()
	entries, _ := d.ReadDir(-1)
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() && f.leftOver(info) {
			_ = f.root.Remove(path.Join(tempDir, e.Name()))
		}
	}
}

// publish gives a temporary file its name, unless that is taken: then ErrExist.
func (f *Folder) publish(temp, key string) error {
	tmp, err := f.root.Open(tempDir)
	if err != nil {
		return err
	}
	defer tmp.Close()
	// A Delete elsewhere may remove a folder between its making and its use:
	// then it was empty, and is made again.
	for try := 0; ; try++ {
		err := f.root.MkdirAll(path.Dir(key), 0o700)
		switch {
		case (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist)) && try < 100:
			continue
		case errors.Is(err, fs.ErrExist), isNotDir(err): // but it is not key that is taken
			return errors.New("a part of its path is a file: no key may go on where another ends")
		case err != nil:
			return err
		}
		dir, err := f.root.Open(path.Dir(key))
		if err == nil {
			err = moveNew(tmp, path.Base(temp), dir, path.Base(key))
			dir.Close()
		}
		if errors.Is(err, fs.ErrNotExist) && try < 100 {
			continue
		}
		return err
	}
}

// syncAbove flushes the folders that lead to key: one of them may be new, by
// this process or by another.
func (f *Folder) syncAbove(key string) error {
	for dir := path.Dir(key); ; dir = path.Dir(dir) {
		d, err := f.root.Open(dir)
		if err == nil {
			err = syncDir(d)
			d.Close()
		}
		// What was deleted meanwhile needs no flush.
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if dir == "." {
			return nil
		}
	}
}
