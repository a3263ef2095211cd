package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// HTTP is a store behind a plain web server, for reading only: a hub's objects,
// or an archive that somebody published. It cannot list. The server says in plain
// text that an object is not there: a page may be anybody's.
type HTTP struct {
	base   string // ends in a slash
	client *http.Client
	retry  retryPolicy
}

// NewHTTP makes a store of the objects at base followed by their keys.
// http.DefaultClient is used when c is nil.
func NewHTTP(base string, c *http.Client) *HTTP {
	if c == nil {
		c = http.DefaultClient
	}
	return &HTTP{
		base:   strings.TrimSuffix(base, "/") + "/",
		client: c,
		retry:  retryPolicy{attempts: 4, backoff: 200 * time.Millisecond},
	}
}

// String is the base URL, without a password.
func (h *HTTP) String() string {
	if u, err := url.Parse(h.base); err == nil {
		return u.Redacted()
	}
	return h.base
}

// A statusError is an answer that is not the one hoped for.
type statusError struct {
	status int
	text   string // first line of the body
}

func (e *statusError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("the server answers %d %s", e.status, http.StatusText(e.status))
	}
	return fmt.Sprintf("the server answers %d %s: %s", e.status, http.StatusText(e.status), e.text)
}

func (e *statusError) Unwrap() error {
	switch e.status {
	case http.StatusNotFound, http.StatusGone:
		return ErrNotExist
	case http.StatusUnauthorized, http.StatusForbidden:
		return ErrForbidden
	}
	return nil
}

// request sends a request, again when that may help. The caller closes the body
// of the answer, which is 200, 206 or 416.
func (h *HTTP) request(ctx context.Context, method, key, rng string) (*http.Response, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	var resp *http.Response
	err := h.retry.do(ctx, func(int) (again bool, err error) {
		resp, again, err = h.once(ctx, method, key, rng) //nolint:bodyclose // the caller closes it
		return again, err
	})
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", strings.ToLower(method), h.String()+key, err)
	}
	return resp, nil
}

// once is request without retries. It tells whether another may succeed.
func (h *HTTP) once(ctx context.Context, method, key, rng string) (resp *http.Response, again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, method, h.base+key, nil)
	if err != nil {
		return nil, false, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	if rng != "" {
		req.Header.Set("Range", rng)
	}
	resp, err = h.client.Do(req)
	if err != nil {
		return nil, true, err
	}
	if err := checkPlain(resp); err != nil {
		resp.Body.Close()
		return nil, retryStatus(resp.StatusCode), err
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
		return resp, false, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return nil, retryStatus(resp.StatusCode), &statusError{resp.StatusCode, line}
}

// checkPlain tells whether something else answered than a server of objects: a
// page is none, and says nothing about any.
func checkPlain(resp *http.Response) error {
	e := &answerError{asked: resp.Request.Method, status: resp.StatusCode, media: mediaOf(resp.Header)}
	to, err := resp.Location()
	switch {
	case resp.StatusCode/100 == 3 && err == nil:
		e.wrong = fmt.Sprintf("it redirects to %s://%s, which was not followed", to.Scheme, to.Host)
	case isPage(e.media):
	case resp.StatusCode/100 == 2 && checkEncoding(resp.Header) != nil:
		e.wrong = checkEncoding(resp.Header).Error()
	default:
		return nil
	}
	return fmt.Errorf("a proxy or login page answers in the place of the server: check the address and what stands between (%w)", e)
}

// Get asks for a range, and makes do with the whole.
func (h *HTTP) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if off < 0 {
		return nil, fmt.Errorf("get %s: offset %d is negative", key, off)
	}
	if n == 0 {
		_, err := h.Stat(ctx, key)
		return io.NopCloser(strings.NewReader("")), err
	}
	resp, err := h.request(ctx, http.MethodGet, key, rangeHeader(off, n))
	if err != nil {
		return nil, err
	}
	body := resp.Body
	switch {
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		body.Close()
		return io.NopCloser(strings.NewReader("")), nil
	case resp.StatusCode == http.StatusOK && off > 0:
		if _, err := io.CopyN(io.Discard, body, off); err != nil && !errors.Is(err, io.EOF) {
			body.Close()
			return nil, fmt.Errorf("get %s: %w", key, err)
		}
	case resp.StatusCode == http.StatusPartialContent:
		if first, _, _ := strings.Cut(strings.TrimPrefix(resp.Header.Get("Content-Range"), "bytes "), "-"); first != strconv.FormatInt(off, 10) {
			body.Close()
			return nil, fmt.Errorf("get %s: the server sent range %q, not that from %d", key, resp.Header.Get("Content-Range"), off)
		}
	}
	if n < 0 {
		return body, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(body, n), body}, nil
}

// rangeHeader asks for n bytes from off, or for all from off when n is negative.
// It is empty for all there is.
func rangeHeader(off, n int64) string {
	switch last := off + n - 1; {
	case n < 0 && off == 0:
		return ""
	case n < 0, last < off: // or farther than can be counted
		return fmt.Sprintf("bytes=%d-", off)
	default:
		return fmt.Sprintf("bytes=%d-%d", off, last)
	}
}

// Stat asks with HEAD.
func (h *HTTP) Stat(ctx context.Context, key string) (Info, error) {
	resp, err := h.request(ctx, http.MethodHead, key, "")
	if err != nil {
		return Info{}, err
	}
	resp.Body.Close()
	if resp.ContentLength < 0 {
		return Info{}, fmt.Errorf("stat %s: the server does not tell its size", h.String()+key)
	}
	modified, _ := http.ParseTime(resp.Header.Get("Last-Modified"))
	return Info{Key: key, Size: resp.ContentLength, Modified: modified}, nil
}

// List fails with ErrNoList.
func (h *HTTP) List(context.Context, string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) { yield(Info{}, fmt.Errorf("%s: %w", h, ErrNoList)) }
}

// Put fails with ErrReadOnly.
func (h *HTTP) Put(_ context.Context, key string, _ Body) error {
	return fmt.Errorf("put %s: %w", h.String()+key, ErrReadOnly)
}

// Delete fails with ErrReadOnly.
func (h *HTTP) Delete(_ context.Context, key string) error {
	return fmt.Errorf("delete %s: %w", h.String()+key, ErrReadOnly)
}

// Grant fails with ErrNoGrant.
func (h *HTTP) Grant(context.Context, string, int64, [sha256.Size]byte, time.Time) (Grant, error) {
	return Grant{}, ErrNoGrant
}
