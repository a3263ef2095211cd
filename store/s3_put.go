package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
)

// Put sends body with its SHA-256, which the service checks. When an attempt got
// no answer and a later one finds the key taken, Put reads what is there: if it
// is body then that attempt had succeeded, and Put returns nil.
func (s *S3) Put(ctx context.Context, key string, body Body) error {
	if err := s.checkCall(ctx, key); err != nil {
		return err
	}
	if body.Size > maxPut {
		return fmt.Errorf("put %s/%s: %d bytes are more than an S3 service takes at once", s, key, body.Size)
	}
	opts := minio.PutObjectOptions{
		// The hash of the body is signed as a whole instead.
		DisableContentSha256: true,
		DisableMultipart:     true,
		UserMetadata:         map[string]string{checksumHeader: base64.StdEncoding.EncodeToString(body.SHA256[:])},
	}
	opts.SetMatchETagExcept("*")
	return s.try(ctx, opPut, key, func(attempt int) error {
		r := newPutReader(body)
		defer r.stop()
		info, err := s.client.PutObject(ctx, s.opt.Bucket, s.prefix+key, r, body.Size, "",
			hex.EncodeToString(body.SHA256[:]), opts)
		switch {
		case err == nil && info.ChecksumSHA256 != "": // that of body, as was checked
			return nil
		case err == nil:
			return s.confirm(ctx, key, body)
		case r.failed() != nil:
			return bodyError{r.failed()}
		case attempt > 1 && minio.ToErrorResponse(err).StatusCode == http.StatusPreconditionFailed:
			same, rerr := s.holds(ctx, key, body)
			if rerr != nil {
				return rerr
			}
			if same {
				return nil
			}
		}
		return err
	})
}

const (
	checksumHeader = "X-Amz-Checksum-Sha256"
	maxPut         = 5 << 30 // bytes in one request, by the definition of S3
	maxGrant       = 7 * 24 * time.Hour
)

// holds tells whether the object at key is body.
func (s *S3) holds(ctx context.Context, key string, body Body) (bool, error) {
	r, _, _, err := s.client.GetObject(ctx, s.opt.Bucket, s.prefix+key, minio.GetObjectOptions{})
	if err != nil {
		return false, err
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(r, body.Size+1))
	return n == body.Size && bytes.Equal(h.Sum(nil), body.SHA256[:]), err
}

// confirm looks whether a PUT that was answered as if done has left body at key.
// Something in the service's place may have taken it and kept nothing.
func (s *S3) confirm(ctx context.Context, key string, body Body) error {
	info, err := s.head(ctx, key)
	e := &answerError{asked: http.MethodPut, status: http.StatusOK}
	switch sum := checkedSum(info); {
	case minio.ToErrorResponse(err).Code == minio.NoSuchKey:
		e.wrong = "the object is not there afterwards"
	case err != nil:
		return err
	case info.Size != body.Size, sum != nil && !bytes.Equal(sum, body.SHA256[:]):
		e.wrong = "another object is there afterwards"
	default:
		return nil
	}
	return e
}

// A putReader is the body of one request. The transport may read from it still
// when the answer is there; stop ends that, since the body is its owner's again
// when Put returns. It also tells an error of the body from one of the network.
type putReader struct {
	*io.SectionReader

	mu  sync.Mutex
	err error // guarded by mu
	off bool  // guarded by mu
}

func newPutReader(b Body) *putReader {
	return &putReader{SectionReader: io.NewSectionReader(b, 0, b.Size)}
}

func (r *putReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.off {
		return 0, io.ErrClosedPipe
	}
	n, err := r.SectionReader.Read(p)
	if errors.Is(err, io.EOF) {
		if at, _ := r.SectionReader.Seek(0, io.SeekCurrent); at < r.Size() {
			err = fmt.Errorf("%w: the body ends after %d of %d bytes", ErrChecksum, at, r.Size())
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

func (r *putReader) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.off = true
}

func (r *putReader) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// bodyError is an error of the body of a Put, which no retry mends.
type bodyError struct{ error }

func (e bodyError) Unwrap() error { return e.error }

// Grant presigns a PUT whose write-once condition and checksum the service
// enforces. It lasts a week at most, and no longer than the credentials.
func (s *S3) Grant(ctx context.Context, key string, size int64, sum [sha256.Size]byte, expires time.Time) (Grant, error) {
	if err := s.checkCall(ctx, key); err != nil {
		return Grant{}, err
	}
	now := time.Now()
	ttl := min(expires.Sub(now), maxGrant).Truncate(time.Second)
	if ttl < time.Second {
		return Grant{}, fmt.Errorf("grant for %s/%s: it would expire at once", s, key)
	}
	if size < 0 || size > maxPut {
		return Grant{}, fmt.Errorf("grant for %s/%s: size of %d bytes", s, key, size)
	}
	header := http.Header{
		"If-None-Match": {"*"},
		checksumHeader:  {base64.StdEncoding.EncodeToString(sum[:])},
	}
	u, err := s.client.PresignHeader(ctx, http.MethodPut, s.opt.Bucket, s.prefix+key, ttl, nil, header)
	if err != nil {
		return Grant{}, fmt.Errorf("grant for %s/%s: %w", s, key, s.explain(opPut, err))
	}
	return Grant{URL: u.String(), Header: header, Expires: now.Add(ttl)}, nil
}
