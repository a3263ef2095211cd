package store

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// GrantPath is the start of the URL paths that a Granter serves.
const GrantPath = "/grants/"

// A Granter makes and serves the grants of a store that has no server of its
// own. A grant is a URL that names the key, size and SHA-256 of the one object
// it is for and when it expires, and a keyed hash over all that: whoever holds
// it can do nothing else with it, and the granter keeps no list.
type Granter struct {
	key   []byte
	now   func() time.Time
	write WriteFunc
}

// A WriteFunc is Put of a body that can be read only once.
type WriteFunc func(ctx context.Context, key string, r io.Reader, size int64, sum [sha256.Size]byte) error

// NewGranter makes a granter whose grants are as good as key is secret. Granters
// with the same key honour each other's grants.
func NewGranter(key []byte, now func() time.Time, write WriteFunc) (*Granter, error) {
	if len(key) < 32 {
		return nil, fmt.Errorf("key for upload grants has %d bytes: want 32 random bytes or more", len(key))
	}
	return &Granter{key: key, now: now, write: write}, nil
}

// Grant permits one upload until expires, which is cut to the second.
func (g *Granter) Grant(key string, size int64, sum [sha256.Size]byte, expires time.Time) (Grant, error) {
	if err := CheckKey(key); err != nil {
		return Grant{}, err
	}
	if size < 0 {
		return Grant{}, fmt.Errorf("grant for %s: size %d is negative", key, size)
	}
	expires = expires.Truncate(time.Second)
	query := url.Values{
		"size":    {strconv.FormatInt(size, 10)},
		"sha256":  {hex.EncodeToString(sum[:])},
		"expires": {strconv.FormatInt(expires.Unix(), 10)},
		"sig":     {hex.EncodeToString(g.sign(key, size, sum, expires.Unix()))},
	}
	return Grant{
		URL:     GrantPath + key + "?" + query.Encode(),
		Header:  http.Header{},
		Expires: expires,
	}, nil
}

// sign is over one line a field; none of them can hold a line end.
func (g *Granter) sign(key string, size int64, sum [sha256.Size]byte, expires int64) []byte {
	mac := hmac.New(sha256.New, g.key)
	fmt.Fprintf(mac, "pcapsule upload grant 1\n%s\n%d\n%x\n%d\n", key, size, sum, expires)
	return mac.Sum(nil)
}

// ServeHTTP stores the body of a PUT that holds a grant.
func (g *Granter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, err := g.serve(r)
	if err != nil {
		http.Error(w, err.Error(), status)
		return
	}
	w.WriteHeader(status)
}

func (g *Granter) serve(r *http.Request) (status int, err error) {
	if r.Method != http.MethodPut {
		return http.StatusMethodNotAllowed, errors.New("only PUT is served here")
	}
	key, size, sum, err := g.parse(r.URL)
	switch {
	case err != nil:
		return http.StatusForbidden, err
	case r.ContentLength < 0:
		return http.StatusLengthRequired, errors.New("send a Content-Length")
	case r.ContentLength != size:
		return http.StatusBadRequest, fmt.Errorf("%d bytes are sent, %d were granted", r.ContentLength, size)
	}
	err = g.write(r.Context(), key, r.Body, size, sum)
	switch {
	case err == nil:
		return http.StatusCreated, nil
	case errors.Is(err, ErrExist):
		return http.StatusPreconditionFailed, fmt.Errorf("%s is in the store already", key)
	case errors.Is(err, ErrChecksum):
		return http.StatusBadRequest, fmt.Errorf("%s: what was sent is not what was granted", key)
	case errors.Is(err, ErrNoSpace):
		return http.StatusInsufficientStorage, ErrNoSpace
	default:
		return http.StatusInternalServerError, fmt.Errorf("cannot store %s: %w", key, err)
	}
}

// parse returns what a URL grants, or why it grants nothing.
func (g *Granter) parse(u *url.URL) (key string, size int64, sum [sha256.Size]byte, err error) {
	forged := errors.New("this is no valid upload grant: ask for a new one")
	key, ok := strings.CutPrefix(u.Path, GrantPath)
	if !ok || CheckKey(key) != nil {
		return "", 0, sum, forged
	}
	q := u.Query()
	size, err = strconv.ParseInt(q.Get("size"), 10, 64)
	if err != nil || size < 0 {
		return "", 0, sum, forged
	}
	if b, err := hex.DecodeString(q.Get("sha256")); err != nil || len(b) != len(sum) {
		return "", 0, sum, forged
	} else {
		sum = [sha256.Size]byte(b)
	}
	expires, err := strconv.ParseInt(q.Get("expires"), 10, 64)
	if err != nil {
		return "", 0, sum, forged
	}
	sig, err := hex.DecodeString(q.Get("sig"))
	if err != nil || !hmac.Equal(sig, g.sign(key, size, sum, expires)) {
		return "", 0, sum, forged
	}
	if !g.now().Before(time.Unix(expires, 0)) {
		return "", 0, sum, errors.New("this upload grant has expired: ask for a new one")
	}
	return key, size, sum, nil
}
