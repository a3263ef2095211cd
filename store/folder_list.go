package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
)

// List walks the folders in the order of their keys.
func (f *Folder) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := checkPrefix(prefix); err != nil {
			yield(Info{}, err)
			return
		}
		dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
		if err := f.lookDir(dir); errors.Is(err, ErrNotExist) {
			return
		} else if err != nil {
			yield(Info{}, fmt.Errorf("list %s in %s: %w", dir, f.dir, folderError(err)))
			return
		}
		f.list(ctx, dir, prefix, yield)
	}
}

// checkPrefix tells whether prefix can start a key.
func checkPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return CheckKey(strings.TrimSuffix(prefix, "/"))
}

// lookDir tells whether dir, which is empty or ends in a slash, is a folder.
// Anything else in the place of one of the store's top folders is an Obstacle.
func (f *Folder) lookDir(dir string) error {
	if dir == "" {
		return nil
	}
	name := strings.TrimSuffix(dir, "/")
	info, err := f.look(name)
	switch {
	case err != nil || info.IsDir():
		return err
	case !strings.Contains(name, "/"):
		return fileFor(name, nil)
	}
	return ErrNotExist
}

// list yields what is in dir, which is empty or ends in a slash. It returns
// false when the walk is over.
func (f *Folder) list(ctx context.Context, dir, prefix string, yield func(Info, error) bool) bool {
	if err := ctx.Err(); err != nil {
		yield(Info{}, err)
		return false
	}
	fail := func(key string, err error) bool {
		goOn := yield(Info{}, fmt.Errorf("list %s in %s: %w", cmp.Or(key, "."), f.dir, folderError(err)))
		return goOn && AsObstacle(err) != nil
	}
	entries, err := f.readDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist), isNotDir(err):
		return true // nothing there, or gone since
	case err != nil:
		return fail(dir, f.denied(cmp.Or(strings.TrimSuffix(dir, "/"), "."), err))
	}
	for _, e := range entries {
		key := dir + e.Name()
		if e.IsDir() {
			key += "/"
		}
		if !strings.HasPrefix(key, prefix) && !(e.IsDir() && strings.HasPrefix(prefix, key)) {
			continue
		}
		var info fs.FileInfo
		switch {
		case e.IsDir():
			if !f.list(ctx, key, prefix, yield) {
				return false
			}
			continue
		case !e.Type().IsRegular():
			err = irregular(key, e.Type())
		case CheckKey(key) != nil:
			err = misnamed(key)
		default:
			info, err = e.Info()
			err = f.denied(key, err)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist): // deleted since
		case err != nil:
			if !fail(key, err) {
				return false
			}
		case !yield(Info{Key: key, Size: info.Size(), Modified: info.ModTime()}, nil):
			return false
		}
	}
	return true
}

// readDir returns what is in dir, but for hidden names, in key order: a folder
// sorts as its name with the slash, after "a.b" and before "a0".
func (f *Folder) readDir(dir string) ([]fs.DirEntry, error) {
	d, err := f.root.Open(cmp.Or(strings.TrimSuffix(dir, "/"), "."))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return hidden(e.Name()) })
	slices.SortFunc(entries, func(a, b fs.DirEntry) int {
		return cmp.Compare(sortName(a), sortName(b))
	})
	return entries, nil
}

func sortName(e fs.DirEntry) string {
	if e.IsDir() {
		return e.Name() + "/"
	}
	return e.Name()
}

// Top returns the names in the store's root, but for hidden ones.
func (f *Folder) Top(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := f.readDir("")
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", f.dir, folderError(f.denied(".", err)))
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// Hollow returns those of dir and of the folders right below it that hold nothing
// but hidden names, or nothing. dir ends in a slash, as what is returned does.
func (f *Folder) Hollow(ctx context.Context, dir string) ([]string, error) {
	hollow := func(dir string) ([]fs.DirEntry, bool, error) {
		entries, err := f.readDir(dir)
		if errors.Is(err, fs.ErrNotExist) || isNotDir(err) || errors.Is(err, fs.ErrPermission) {
			return nil, false, nil // List says what is wrong
		}
		return entries, err == nil && len(entries) == 0, err
	}
	if info, err := f.look(strings.TrimSuffix(dir, "/")); err != nil || !info.IsDir() {
		return nil, nil
	}
	entries, none, err := hollow(dir)
	if err != nil {
		return nil, err
	}
	if none {
		return []string{dir}, nil
	}
	var found []string
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		path := dir + e.Name() + "/"
		if _, none, err := hollow(path); err != nil {
			return nil, err
		} else if none {
			found = append(found, path)
		}
	}
	return found, nil
}
