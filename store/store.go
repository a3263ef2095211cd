// Package store keeps objects: named, immutable byte strings in a folder, in a
// bucket or in a tar. It knows nothing of what they hold.
//
// Every object is written once, by put-if-absent, and is then either there with
// all its bytes, durably, or not there at all. Package archive builds snapshots
// on that.
package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"strings"
	"time"
)

// Errors that callers branch on. Back ends wrap them with what they know.
var (
	ErrNotExist  = fs.ErrNotExist                        // no such object
	ErrExist     = fs.ErrExist                           // Put: the key is taken
	ErrForbidden = fs.ErrPermission                      // the credentials do not allow it
	ErrReadOnly  = errors.New("store is read-only")      // a tar, a published archive
	ErrChecksum  = errors.New("checksum does not match") // the body is not what was announced
	ErrNoSpace   = errors.New("no space left in store")  // full disk, or quota
	ErrNoGrant   = errors.New("store grants no uploads") // Grant is not supported here
	ErrNoList    = errors.New("store cannot list")       // List is not supported here
)

// A Store is a flat space of objects. Its methods may be called concurrently.
// Keys satisfy CheckKey, and none goes on where another ends ("a" and "a/b"),
// since a folder cannot hold both.
type Store interface {
	// Put writes body under key unless the key is taken: then ErrExist, and the
	// object that was there stands. When Put returns nil the object is durable.
	// After any other error the object may or may not be there, whole; a Put
	// that is tried again may then meet its own earlier success as ErrExist.
	// Who must know whose object stands reads it and compares.
	Put(ctx context.Context, key string, body Body) error

	// Get reads n bytes from offset off, or to the end when n is negative. It
	// may return fewer when the object ends. The caller closes the reader.
	Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error)

	// Stat tells size and time of an object.
	Stat(ctx context.Context, key string) (Info, error)

	// List yields the objects whose keys start with prefix, in order of key. It
	// stops at the first error, which it yields, unless that is an Obstacle and
	// the caller goes on. What was put before List was called and not deleted is
	// yielded.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]

	// Delete removes an object; that it is not there is no error.
	Delete(ctx context.Context, key string) error

	// Grant lets its holder Put exactly the bytes of size and sum under key,
	// until expires, with nothing but HTTP.
	Grant(ctx context.Context, key string, size int64, sum [sha256.Size]byte, expires time.Time) (Grant, error)
}

// Info describes a stored object.
type Info struct {
	Key      string
	Size     int64
	Modified time.Time

	// SHA256 is the one that the store itself computed when it took the object,
	// or checked then. Stat tells it where the store knows; else it is nil.
	SHA256 []byte

	// Version differs between two Stats whenever the bytes may have changed
	// between them. It is empty where the store does not know.
	Version string
}

// A Body is what Put writes. It is read more than once when a Put is retried.
type Body struct {
	io.ReaderAt
	Size   int64
	SHA256 [sha256.Size]byte

	// Frees says that the object is a step towards freeing space, or towards an
	// end to taking it: for these alone a full store has something in reserve.
	Frees bool
}

// Bytes is a body of b, which must not change while it is in use.
func Bytes(b []byte) Body {
	return Body{ReaderAt: bytes.NewReader(b), Size: int64(len(b)), SHA256: sha256.Sum256(b)}
}

// Freeing is Bytes of what Frees.
func Freeing(b []byte) Body {
	body := Bytes(b)
	body.Frees = true
	return body
}

// A Grant is permission to upload one object: PUT these bytes at URL with
// Header, all of it. The answers are 200 or 201 (stored), 412 (the key is
// taken), 409 (a race: try again), 400 (the bytes are not those granted) and 403
// (expired: ask again).
type Grant struct {
	URL     string      `json:"url"` // absolute, or relative to the hub's base URL
	Header  http.Header `json:"header"`
	Expires time.Time   `json:"expires"`
}

// ReadAll reads an object of at most limit bytes. A larger one is an error, so
// that a hostile store cannot fill memory.
func ReadAll(ctx context.Context, s Store, key string, limit int64) ([]byte, error) {
	r, err := s.Get(ctx, key, 0, limit+1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("read %s: larger than the %d bytes allowed", key, limit)
	}
	return b, nil
}

// Keeps says, for people, what s keeps of the objects that Delete removes. It is
// empty where their space is free at once.
func Keeps(ctx context.Context, s Store) string {
	if k, ok := s.(interface{ Keeps(context.Context) string }); ok {
		return k.Keeps(ctx)
	}
	return ""
}

// CheckKey tells whether key is one that every back end can hold: slash-separated
// parts of letters, digits, '.', '_', '-' and '+', none empty and none starting
// with a dot, 512 bytes in all.
func CheckKey(key string) error {
	if len(key) == 0 || len(key) > 512 {
		return fmt.Errorf("key of %d bytes: want 1 to 512", len(key))
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part[0] == '.' {
			return fmt.Errorf("key %q: a part is empty or starts with a dot", key)
		}
		for _, c := range []byte(part) {
			switch {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9',
				c == '.', c == '_', c == '-', c == '+':
			default:
				return fmt.Errorf("key %q: %q is not allowed", key, c)
			}
		}
	}
	return nil
}
