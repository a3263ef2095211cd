package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"
	"strings"

	"github.com/minio/minio-go/v7"
)

// S3 is a store in a bucket of an S3 service, below a prefix.
//
// Put relies on If-None-Match, which not every service honours: Probe finds out.
// In a bucket with versions, Delete leaves a marker, and the bytes stay until the
// bucket's own rules remove old versions: Keeps says so.
type S3 struct {
	opt    S3Options
	client *minio.Core
	prefix string // empty, or ends in a slash
	retry  retryPolicy
	first  bool // nothing was heard of the service yet
	told   *told
}

// NewS3 connects to a bucket, finds its region when opt does not say it, and
// checks that it can be listed.
func NewS3(ctx context.Context, opt S3Options) (*S3, error) {
	s := &S3{
		opt:   opt,
		told:  new(told),
		retry: retryPolicy{cmp.Or(opt.Attempts, defaultAttempts), cmp.Or(opt.Backoff, defaultBackoff), retryLimit},
	}
	if opt.Bucket == "" {
		return nil, errors.New("the bucket's name is empty: give the store as s3://bucket/prefix")
	}
	if p := strings.Trim(opt.Prefix, "/"); p != "" {
		if err := CheckKey(p); err != nil {
			return nil, fmt.Errorf("prefix in bucket %s: %w", opt.Bucket, err)
		}
		s.prefix = p + "/"
	}
	if err := s.connect(); err != nil {
		return nil, fmt.Errorf("open %s: %w", s, err)
	}
	err := s.check(ctx)
	var e *s3Error
	if errors.As(err, &e) && e.region != "" && e.region != s.opt.Region && opt.Region == "" {
		s.opt.Region = e.region
		if err := s.connect(); err != nil {
			return nil, fmt.Errorf("open %s: %w", s, err)
		}
		err = s.check(ctx)
	}
	switch {
	case err != nil && ctx.Err() == nil && errors.As(err, &e):
		return nil, fmt.Errorf("open %s: %w", s, e) // that a list told it is of no interest
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", s, err)
	}
	return s, nil
}

// check lists one key: that tells a missing bucket from forbidden, and both from
// a wrong endpoint, as no other request does. It is less patient with a service
// that does not answer at all than the requests that follow.
func (s *S3) check(ctx context.Context) error {
	quick := *s
	quick.first = true
	for _, err := range quick.page(ctx, s.prefix, "", 1) {
		return err
	}
	return ctx.Err()
}

// String is the location that Open takes.
func (s *S3) String() string {
	return strings.TrimSuffix("s3://"+s.opt.Bucket+"/"+s.prefix, "/")
}

// try is one operation with retries. Its error is explained for people.
func (s *S3) try(ctx context.Context, op s3Op, key string, f func(attempt int) error) error {
	var last error
	err := s.retry.do(ctx, func(attempt int) (bool, error) {
		last = f(attempt)
		if last == nil {
			return false, nil
		}
		again := retryS3(last)
		var strange *answerError
		switch {
		case errors.As(last, &strange) && !retryStatus(strange.status):
			// Something that stands in the way may go; it is not waited for.
			again = again && !s.first && attempt < answerAttempts
		case s.first && attempt >= firstAttempts && minio.ToErrorResponse(last).StatusCode == 0:
			again = false
		}
		return again, s.explain(op, last)
	})
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = joinCause(ctx, err)
	}
	return fmt.Errorf("%s %s/%s: %w", op.verb, s, key, err)
}

func (s *S3) checkCall(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return CheckKey(key)
}

// Get reads on after a broken connection, where it broke.
func (s *S3) Get(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := s.checkCall(ctx, key); err != nil {
		return nil, err
	}
	if off < 0 {
		return nil, fmt.Errorf("get %s/%s: offset %d is negative", s, key, off)
	}
	if n == 0 {
		_, err := s.Stat(ctx, key)
		return io.NopCloser(strings.NewReader("")), err
	}
	r := &s3Reader{s: s, ctx: ctx, key: key, off: off, n: n}
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

type s3Reader struct {
	s      *S3
	ctx    context.Context
	key    string
	off, n int64 // of what was not read yet; n negative: to the end
	etag   string
	body   io.ReadCloser // nil: nothing is left
	broken int           // connections in a row that gave nothing
}

// open requests what was not read yet.
func (r *s3Reader) open() error {
	return r.s.try(r.ctx, opGet, r.key, func(int) error {
		var opts minio.GetObjectOptions
		if rng := rangeHeader(r.off, r.n); rng != "" {
			opts.Set("Range", rng)
		}
		if r.etag != "" {
			if err := opts.SetMatchETag(r.etag); err != nil {
				return err
			}
		}
		body, info, _, err := r.s.client.GetObject(r.ctx, r.s.opt.Bucket, r.s.prefix+r.key, opts)
		if minio.ToErrorResponse(err).StatusCode == http.StatusRequestedRangeNotSatisfiable {
			r.body = nil
			return nil
		}
		if err != nil {
			return err
		}
		r.body, r.etag = body, info.ETag
		return nil
	})
}

func (r *s3Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.n >= 0 {
		p = p[:min(int64(len(p)), r.n)]
	}
	if r.body == nil || len(p) == 0 {
		return 0, io.EOF
	}
	n, err := r.body.Read(p)
	r.off += int64(n)
	if r.n >= 0 {
		r.n -= int64(n)
	}
	if n > 0 {
		r.broken = 0
	}
	if err == nil || errors.Is(err, io.EOF) || r.n == 0 {
		return n, err
	}
	if r.broken++; r.ctx.Err() != nil || r.broken >= r.s.retry.attempts {
		return n, fmt.Errorf("get %s/%s: %w", r.s, r.key, r.s.explain(opGet, err))
	}
	r.body.Close()
	return n, r.open()
}

func (r *s3Reader) Close() error {
	if r.body == nil {
		return nil
	}
	return r.body.Close()
}

// Stat asks with HEAD. It tells the SHA-256 that the service checked when it took
// the object, where it keeps that; tools that copy objects may bring none.
func (s *S3) Stat(ctx context.Context, key string) (Info, error) {
	if err := s.checkCall(ctx, key); err != nil {
		return Info{}, err
	}
	var info minio.ObjectInfo
	err := s.try(ctx, opStat, key, func(int) (err error) {
		info, err = s.head(ctx, key)
		return err
	})
	if err != nil {
		return Info{}, err
	}
	out := Info{Key: key, Size: info.Size, Modified: info.LastModified, SHA256: checkedSum(info)}
	if info.ETag != "" {
		out.Version = fmt.Sprint(info.ETag, " ", info.VersionID, " ", info.LastModified.UnixNano())
	}
	return out, nil
}

func (s *S3) head(ctx context.Context, key string) (minio.ObjectInfo, error) {
	info, err := s.client.StatObject(ctx, s.opt.Bucket, s.prefix+key, minio.StatObjectOptions{Checksum: true})
	var strange *answerError
	if errors.As(err, &strange) && strange.bodiless {
		err = s.whyNot(ctx, key, err)
	}
	return info, err
}

// checkedSum is the SHA-256 of an object that the service tells, or nil. Of one
// that came in parts it knows a hash of hashes, which ends in a dash and their
// number.
func checkedSum(info minio.ObjectInfo) []byte {
	sum, err := base64.StdEncoding.DecodeString(info.ChecksumSHA256)
	if err != nil || len(sum) != sha256.Size {
		return nil
	}
	return sum
}

// whyNot returns why there is no object at key, when HEAD was answered with an
// error that anything may have sent. The answer to GET has a body, which tells.
func (s *S3) whyNot(ctx context.Context, key string, err error) error {
	body, _, _, gerr := s.client.GetObject(ctx, s.opt.Bucket, s.prefix+key, minio.GetObjectOptions{})
	if gerr != nil {
		return gerr
	}
	body.Close()
	return err
}

// List asks for a page after the other, and reads on after an error where it was.
func (s *S3) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := checkPrefix(prefix); err != nil {
			yield(Info{}, err)
			return
		}
		for info, err := range s.page(ctx, s.prefix+prefix, "", s.opt.pageSize) {
			if err != nil {
				yield(Info{}, err)
				return
			}
			info.Key = strings.TrimPrefix(info.Key, s.prefix)
			if CheckKey(info.Key) == nil && !yield(info, nil) {
				return
			}
		}
	}
}

// page yields what starts with prefix and comes after last, with whole names. It
// asks for size keys at once.
func (s *S3) page(ctx context.Context, prefix, last string, size int) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		done := false
		err := s.try(ctx, opList, strings.TrimPrefix(prefix, s.prefix), func(int) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			limited := ctx
			if s.first {
				var cancel context.CancelFunc
				limited, cancel = context.WithTimeout(ctx, firstTimeout)
				defer cancel()
			}
			for o := range s.client.ListObjectsIter(limited, s.opt.Bucket, minio.ListObjectsOptions{
				Prefix: prefix, StartAfter: last, MaxKeys: size, Recursive: true, FetchOwner: new(bool),
			}) {
				switch {
				case o.Err != nil && limited.Err() != nil && ctx.Err() == nil:
					return fmt.Errorf("no answer within %v: %w", firstTimeout, os.ErrDeadlineExceeded)
				case o.Err != nil:
					return o.Err
				case o.Key <= last:
					return errUnsorted
				}
				last = o.Key
				if !yield(Info{Key: o.Key, Size: o.Size, Modified: o.LastModified}, nil) {
					done = true
					return nil
				}
			}
			return ctx.Err()
		})
		if err != nil && !done {
			yield(Info{}, err)
		}
	}
}

var errUnsorted = errors.New("the service does not list keys in order, as its directory buckets do: use another bucket")

// Delete removes an object, or its newest version.
func (s *S3) Delete(ctx context.Context, key string) error {
	if err := s.checkCall(ctx, key); err != nil {
		return err
	}
	err := s.try(ctx, opDelete, key, func(int) error {
		return s.client.RemoveObject(ctx, s.opt.Bucket, s.prefix+key, minio.RemoveObjectOptions{})
	})
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	return err
}
