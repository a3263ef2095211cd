package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
)

// Open opens the store at location, which is a folder, a tar file or
// "s3://bucket/prefix". It creates nothing. The settings of S3 come from where
// its users have them, see LoadS3Options.
func Open(ctx context.Context, location string) (Store, error) {
	return OpenWith(ctx, location, nil)
}

// A Dialer connects, as net.Dialer.DialContext does.
type Dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// OpenWith is Open for those who care how connections are made.
func OpenWith(ctx context.Context, location string, dial Dialer) (Store, error) {
	scheme, rest, isURL := strings.Cut(location, "://")
	switch {
	case isURL && scheme == "s3":
		opt, err := LoadS3Options(rest)
		if err != nil {
			return nil, err
		}
		opt.Dial = dial
		return NewS3(ctx, opt)
	case isURL:
		return nil, fmt.Errorf("store %q: %q is not understood: use a folder, a .tar file or s3://bucket/prefix", location, scheme+"://")
	case location == "":
		return nil, errors.New("the name of the store is empty: use a folder, a .tar file or s3://bucket/prefix")
	}
	info, err := os.Stat(location)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no folder or file %s: check the path: %w", location, ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("open store: %w", err)
	case info.IsDir():
		return NewFolder(location, FolderOptions{})
	}
	return OpenTar(location)
}

// Create is Open for those who come to write: it makes a folder that is missing.
func Create(ctx context.Context, location string) (Store, error) {
	if _, err := os.Stat(location); errors.Is(err, fs.ErrNotExist) && location != "" && !strings.Contains(location, "://") {
		return NewFolder(location, FolderOptions{Create: true})
	}
	return Open(ctx, location)
}

// Describe names a store for people.
func Describe(s Store) string {
	if d, ok := s.(fmt.Stringer); ok {
		return d.String()
	}
	return fmt.Sprintf("%T", s)
}
