package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"
)

// A Folder is a store in a folder of a local or mounted file system. An object
// is the file that its key names, so that any tool which copies files copies the
// archive.
//
// Several processes may use one folder at once. Reading changes nothing in it;
// the first Put makes the folder ".tmp", where objects are written before they
// get their names. Objects are regular files in folders, and nothing else: links,
// pipes, folders that cannot be read and names that no key can have are an
// Obstacle, whatever they lead to or hold. Names that start with a dot are
// nobody's.
//
// No key may go on where another ends ("a" and "a/b"): a file is no folder.
type Folder struct {
	dir    string // absolute, for messages
	root   *os.Root
	now    func() time.Time
	grants *Granter // nil: grants are not supported

	sweep sync.Once // of the temporary files, before the first Put
}

// FolderOptions says how a folder is opened. The zero value opens what exists.
type FolderOptions struct {
	Create   bool             // make the folder, and those above it, when missing
	GrantKey []byte           // secret of the grants, 32 bytes or more; none: no grants
	Now      func() time.Time // time.Now when nil
}

// tempDir is where Put writes. Its name is that of no key.
const tempDir = ".tmp"

// tempAge is how old a temporary file must be to count as left over by a process
// of which nothing else is known.
const tempAge = 24 * time.Hour

// NewFolder opens the store in dir.
func NewFolder(dir string, opt FolderOptions) (*Folder, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open folder %s: %w", dir, err)
	}
	f := &Folder{dir: abs, now: opt.Now}
	if f.now == nil {
		f.now = time.Now
	}
	if opt.Create {
		if err := makeDir(abs); err != nil {
			return nil, fmt.Errorf("create folder %s: %w", abs, folderError(err))
		}
	}
	f.root, err = os.OpenRoot(abs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no folder %s: check the path, and that the disk is mounted: %w", abs, ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("open folder %s: %w", abs, folderError(err))
	}
	if opt.GrantKey != nil {
		f.grants, err = NewGranter(opt.GrantKey, f.now, f.write)
		if err != nil {
			return nil, errors.Join(err, f.root.Close())
		}
	}
	return f, nil
}

// makeDir makes dir and what is missing above it, durably.
func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		if err := makeDir(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return err
	}
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer parent.Close()
	return syncDir(parent)
}

// Close gives back the folder's handle. Readers that Get returned stay usable.
func (f *Folder) Close() error { return f.root.Close() }

// Dir is the folder's absolute path.
func (f *Folder) Dir() string { return f.dir }

// Get returns the file itself, an *os.File, for a whole object. Every reader it
// returns is also an io.ReaderAt.
func (f *Folder) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	file, info, err := f.open(ctx, key)
	if err != nil {
		return nil, err
	}
	if off == 0 && n < 0 {
		return file, nil
	}
	r, err := section(file, info.Size(), off, n)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return struct {
		*io.SectionReader
		io.Closer
	}{r, file}, nil
}

// section is the part of an object of size bytes that Get's off and n ask for.
func section(r io.ReaderAt, size, off, n int64) (*io.SectionReader, error) {
	if off < 0 {
		return nil, fmt.Errorf("offset %d is negative", off)
	}
	off = min(off, size)
	if n < 0 || n > size-off {
		n = size - off
	}
	return io.NewSectionReader(r, off, n), nil
}

// Stat tells the size of a file and when it was written.
func (f *Folder) Stat(ctx context.Context, key string) (Info, error) {
	if err := f.check(ctx, key); err != nil {
		return Info{}, err
	}
	info, err := f.look(key)
	if err == nil && info.IsDir() {
		err = folderFor(key)
	}
	if err != nil {
		return Info{}, fmt.Errorf("stat %s in %s: %w", key, f.dir, readError(err))
	}
	return Info{Key: key, Size: info.Size(), Modified: info.ModTime(), Version: fileVersion(info)}, nil
}

func (f *Folder) open(ctx context.Context, key string) (*os.File, fs.FileInfo, error) {
	if err := f.check(ctx, key); err != nil {
		return nil, nil, err
	}
	if info, err := f.look(key); err != nil {
		return nil, nil, fmt.Errorf("open %s in %s: %w", key, f.dir, readError(err))
	} else if info.IsDir() {
		return nil, nil, fmt.Errorf("open %s in %s: %w", key, f.dir, folderFor(key))
	}
	// A pipe that somebody puts in its place meanwhile must not make the open wait.
	file, err := f.root.OpenFile(key, os.O_RDONLY|openNonblock, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s in %s: %w", key, f.dir, readError(f.denied(key, err)))
	}
	info, err := file.Stat()
	if err == nil && info.IsDir() {
		err = folderFor(key)
	} else if err == nil && !info.Mode().IsRegular() {
		err = irregular(key, info.Mode())
	}
	if err != nil {
		file.Close()
		return nil, nil, fmt.Errorf("open %s in %s: %w", key, f.dir, readError(err))
	}
	return file, info, nil
}

func (f *Folder) check(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return CheckKey(key)
}

// look tells what stands at key: a regular file or a folder. It follows no link,
// neither at key nor on the way there.
func (f *Folder) look(key string) (fs.FileInfo, error) {
	for i := range len(key) {
		if key[i] != '/' {
			continue
		}
		info, err := f.lstat(key[:i])
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			return nil, fileFor(key[:i], ErrNotExist)
		}
	}
	return f.lstat(key)
}

// lstat is look for a key whose folders were looked at.
func (f *Folder) lstat(key string) (fs.FileInfo, error) {
	info, err := f.root.Lstat(key)
	if err != nil {
		return nil, f.denied(key, err)
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return nil, irregular(key, info.Mode())
	}
	return info, nil
}

// denied says whose the file or folder is that this user may not use, when err is
// about that.
func (f *Folder) denied(key string, err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	for at := key; ; at = path.Dir(at) {
		info, lerr := f.root.Lstat(at)
		if lerr != nil && at != "." {
			continue // what denies it is above
		}
		what := "is not for this user"
		if lerr == nil {
			if owner := ownerOf(info); owner != "" {
				what += ": it belongs to " + owner
			}
			what += " (" + info.Mode().String() + ")"
		}
		what += ": run as its owner, or change its mode (chmod)"
		if at == "." {
			return &Obstacle{Path: "the store's folder", What: what, Err: err}
		}
		if lerr == nil && info.IsDir() {
			at += "/"
		}
		return &Obstacle{Path: at, What: what, Err: err}
	}
}

// Delete removes the file, or the link, and the folders that the removal leaves
// empty. A power failure soon after may bring them back.
func (f *Folder) Delete(ctx context.Context, key string) error {
	if err := f.check(ctx, key); err != nil {
		return err
	}
	info, err := f.look(key)
	o := AsObstacle(err)
	switch {
	case err == nil && info.IsDir(), errors.Is(err, fs.ErrNotExist), isNotDir(err):
		return nil // the object is absent
	case o != nil && o.Path == key && o.Err == nil:
		// A link or a pipe goes as a file does. What a link leads to stays.
	case err != nil:
		return fmt.Errorf("delete %s in %s: %w", key, f.dir, folderError(err))
	}
	switch err := f.root.Remove(key); {
	case errors.Is(err, fs.ErrNotExist), isNotDir(err):
		return nil
	case err != nil:
		return fmt.Errorf("delete %s in %s: %w", key, f.dir, folderError(f.denied(path.Dir(key), err)))
	}
	for dir := path.Dir(key); dir != "."; dir = path.Dir(dir) {
		if f.removeDir(dir) != nil {
			break // not empty, as a rule
		}
	}
	return nil
}

// removeDir removes an empty folder, and nothing else.
func (f *Folder) removeDir(dir string) error {
	parent, err := f.root.Open(path.Dir(dir))
	if err != nil {
		return err
	}
	defer parent.Close()
	return removeDirAt(parent, path.Base(dir))
}

// Grant returns a URL relative to that of the server which serves GrantHandler.
func (f *Folder) Grant(_ context.Context, key string, size int64, sum [sha256.Size]byte, expires time.Time) (Grant, error) {
	if f.grants == nil {
		return Grant{}, ErrNoGrant
	}
	return f.grants.Grant(key, size, sum, expires)
}

// GrantHandler serves PUT below GrantPath. Without a key for grants it serves
// nothing.
func (f *Folder) GrantHandler() http.Handler {
	if f.grants == nil {
		return http.NotFoundHandler()
	}
	return f.grants
}

// String is the folder's path.
func (f *Folder) String() string { return f.dir }

// folderError adds to an error of the file system what callers branch on and
// what a person can do about it.
func folderError(err error) error {
	switch {
	case err == nil:
		return nil
	case isNoSpace(err):
		return fmt.Errorf("%w: free some space on its disk, or raise the quota: %w", ErrNoSpace, err)
	case isReadOnlyFS(err):
		return fmt.Errorf("%w: its file system is mounted read-only: %w", ErrReadOnly, err)
	}
	return err
}

// readError is folderError for a key that is read: there is nothing below a file.
func readError(err error) error {
	if isNotDir(err) {
		return fmt.Errorf("%w: %w", ErrNotExist, err)
	}
	return folderError(err)
}
