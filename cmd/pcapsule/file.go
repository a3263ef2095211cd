package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"
)

func writeFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "write", Aliases: []string{"w"}, Usage: usage}
}

// writeOutput hands write the file that -w names, or standard output for "-" and
// for no -w.
//
// A regular file appears under its name when it is whole, never before; until
// then what is written has a name of its own beside it, that nobody else uses.
// Devices, pipes and descriptors (/dev/stdout, /dev/fd/3) are written to as they
// are. Links are followed, and stay.
func writeOutput(c *cli.Context, write func(io.Writer) error) error {
	name := c.String("write")
	if name == "" || name == "-" {
		if _, ok := terminal(c.App.Writer); ok {
			return usagef("that would go to the terminal: choose a file with -w FILE, or pipe it on")
		}
		return write(unfiltered(c.App.Writer))
	}
	path, replace, err := resolveOutput(name)
	if err != nil {
		return err
	}
	if replace {
		return replaceFile(name, path, write)
	}
	f, err := openStream(c.Context, path)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, withoutPath(err))
	}
	return errors.Join(write(f), f.Close())
}

// maxLinks is how many links in a row are followed, as Linux does.
const maxLinks = 40

// resolveOutput follows the links that name leads through, to a file that is to
// be made or replaced, or to one that is only to be written to (replace is false).
func resolveOutput(name string) (path string, replace bool, err error) {
	path = name
	for range maxLinks {
		dir, base := filepath.Split(path)
		dir, err = filepath.EvalSymlinks(cmp.Or(dir, "."))
		if err != nil {
			return "", false, fmt.Errorf("write %s: its folder: %w", name, withoutPath(err))
		}
		// Not cleaned: what stands before ".." may be a link.
		path = dir + string(filepath.Separator) + base
		if isDescriptor(path) {
			return path, false, nil
		}
		st, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return path, true, nil
		case err != nil:
			return "", false, fmt.Errorf("write %s: %w", name, withoutPath(err))
		case st.IsDir():
			return "", false, usagef("-w %s is a folder: name a file in it", name)
		case st.Mode()&fs.ModeSymlink == 0:
			return path, st.Mode().IsRegular(), nil
		}
		if parent, err := os.Stat(dir); err == nil && planted(parent, st) {
			return "", false, fmt.Errorf("write %s: %s is another user's link in a folder that everybody may write to: name the file that it leads to, if that is what you want", name, path)
		}
		to, err := os.Readlink(path)
		if err != nil {
			return "", false, fmt.Errorf("write %s: %w", name, withoutPath(err))
		}
		if !filepath.IsAbs(to) {
			to = dir + string(filepath.Separator) + to
		}
		path = to
	}
	return "", false, fmt.Errorf("write %s: its links lead in a circle", name)
}

// replaceFile makes the file of that path, or replaces it, with what write writes.
// Messages call it name.
func replaceFile(name, path string, write func(io.Writer) error) error {
	failed := func(err error) error { return fmt.Errorf("write %s: %w", name, withoutPath(err)) }
	mode := fs.FileMode(0o600) // captures are nobody else's business
	switch old, err := os.OpenFile(path, os.O_WRONLY, 0); {
	case err == nil: // a file that may not be written is not replaced either
		st, err := old.Stat()
		old.Close()
		if err != nil {
			return failed(err)
		}
		mode = st.Mode().Perm()
	case !errors.Is(err, fs.ErrNotExist):
		return failed(err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".pcapsule-*.part")
	if err != nil {
		return fmt.Errorf("write %s: make a file beside it, to be renamed when it is whole: %w", name, withoutPath(err))
	}
	defer os.Remove(f.Name()) // gone already when all went well
	defer f.Close()
	if err := write(f); err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) && pe.Path == f.Name() {
			return failed(err)
		}
		return err
	}
	if err := errors.Join(f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return failed(err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return failed(err)
	}
	return nil
}

// openStream opens what is there and not replaced. Whoever opens a pipe waits for
// its reader: that ends with ctx.
func openStream(ctx context.Context, path string) (*os.File, error) {
	if isDescriptor(path) {
		return openDescriptor(path)
	}
	type opened struct {
		f   *os.File
		err error
	}
	done := make(chan opened, 1)
	go func() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		done <- opened{f, err}
	}()
	select {
	case o := <-done:
		return o.f, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// withoutPath is an error of the file system without the path in it, which is that
// of a temporary file, or stands in the message already.
func withoutPath(err error) error {
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		return pe.Err
	case errors.As(err, &le):
		return le.Err
	}
	return err
}

// readFileOrStdin reads a small file that the user names, "-" being standard
// input.
func readFileOrStdin(c *cli.Context, name string) ([]byte, error) {
	const limit = 1 << 20
	r := c.App.Reader
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && len(b) > limit {
		err = fmt.Errorf("%s is larger than a file of keys can be", name)
	}
	return b, err
}
