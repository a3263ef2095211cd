package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

func writeFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "write", Aliases: []string{"w"}, Usage: usage}
}

// writeOutput hands write the file that -w names, or standard output for "-" and
// for no -w. A file appears under its name when it is whole, never before.
func writeOutput(c *cli.Context, write func(io.Writer) error) (err error) {
	name := c.String("write")
	if name == "" || name == "-" {
		if f, ok := c.App.Writer.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return usagef("that would go to the terminal: choose a file with -w FILE, or pipe it on")
		}
		return write(c.App.Writer)
	}
	if st, err := os.Stat(name); err == nil && !st.Mode().IsRegular() {
		if st.IsDir() {
			return usagef("-w %s is a folder: name a file in it", name)
		}
		// A device or a pipe: there is nothing to replace.
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	part := name + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, errors.Unwrap(err))
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(part)
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(part, name)
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
