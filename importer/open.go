package importer

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
)

// errTwice says that a file was imported into its node before.
var errTwice = errors.New("given twice, and imported once")

// open opens a file, counting what is read of it.
func (n *node) open(ctx context.Context, f File) (r io.Reader, done func(), err error) {
	r, done = n.opt.Stdin, func() {}
	regular := false
	if f.Path != "-" {
		file, err := os.Open(f.Path)
		if err != nil {
			return nil, nil, err
		}
		st, err := file.Stat()
		switch {
		case err == nil && st.IsDir():
			err = errors.New("it is a folder: name the capture files in it")
		case err == nil && slices.ContainsFunc(n.seen, func(o os.FileInfo) bool { return os.SameFile(o, st) }):
			err = errTwice
		}
		if err != nil {
			file.Close()
			return nil, nil, err
		}
		n.seen = append(n.seen, st)
		regular = st.Mode().IsRegular()
		r, done = file, func() { file.Close() }
	}
	if !regular {
		piped, stop := interruptible(ctx, r)
		closeFile := done
		r, done = piped, func() { stop(); closeFile() }
	}
	if n.opt.Progress != nil {
		r = &counted{r, n.opt.Progress}
	}
	return r, done, nil
}

// interruptible is r for as long as ctx lasts: a pipe or a terminal may have
// nothing to say for hours. The goroutine that reads r ends with the read after
// that, which may be never.
func interruptible(ctx context.Context, r io.Reader) (_ io.Reader, stop func()) {
	out, in := io.Pipe()
	go func() {
		_, err := io.Copy(in, r)
		in.CloseWithError(err)
	}()
	forget := context.AfterFunc(ctx, func() { in.CloseWithError(context.Cause(ctx)) })
	return out, func() {
		forget()
		_ = out.Close() // never fails
	}
}

type counted struct {
	r     io.Reader
	count func(int64)
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.count(int64(n))
	return n, err
}
