package store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/minio/minio-go/v7"
)

// Keeps asks the bucket whether it has versions and locks. Where the credentials
// may not ask, what the service said of earlier deletions has to do.
func (s *S3) Keeps(ctx context.Context) string {
	const until = "their bytes stay until somebody, or a lifecycle rule of the bucket for noncurrent versions, removes those"
	v, err := s.client.GetBucketVersioning(ctx, s.opt.Bucket)
	switch {
	case err == nil && v.Enabled():
		return "the bucket keeps versions of what is deleted" + s.lock(ctx) + ": " + until
	case err == nil && v.Suspended():
		return "the bucket kept versions until that was suspended: of objects from before, " + until
	case err == nil:
		return ""
	case s.told.versioned.Load():
		return "the bucket keeps versions of what is deleted: " + until
	case s.told.deleted.Load():
		return "" // a bucket with versions says so with each deletion
	}
	var e *s3Error
	if errors.As(s.explain(opVersions, err), &e) && errors.Is(e, ErrForbidden) {
		return "whether the bucket keeps versions of what is deleted is not known: the credentials lack s3:GetBucketVersioning"
	}
	return "whether the bucket keeps versions of what is deleted is not known"
}

// told is what answers to deletions said of the bucket.
type told struct{ deleted, versioned atomic.Bool }

// lock says how long versions cannot be removed, as far as it can be told.
func (s *S3) lock(ctx context.Context) string {
	state, mode, validity, unit, err := s.client.GetObjectLockConfig(ctx, s.opt.Bucket)
	if err != nil || state != "Enabled" {
		return ""
	}
	if mode == nil || validity == nil || unit == nil {
		return ", which may be locked"
	}
	return fmt.Sprintf(", and locks each for %d %s (%s)", *validity, strings.ToLower(string(*unit)), strings.ToLower(string(*mode)))
}

// noteDeleted remembers what an answer to DELETE says of versions.
func (s *S3) noteDeleted(h http.Header) {
	s.told.deleted.Store(true)
	if version := h.Get("X-Amz-Version-Id"); version != "" && version != "null" || h.Get("X-Amz-Delete-Marker") == "true" {
		s.told.versioned.Store(true)
	}
}

// isLocked tells whether a service refuses a deletion since a lock is on the
// object.
func isLocked(op s3Op, r minio.ErrorResponse) bool {
	if op != opDelete {
		return false
	}
	says := strings.ToLower(r.Message)
	return r.Code == "ObjectLocked" || strings.Contains(says, "worm") || strings.Contains(says, "object lock") || strings.Contains(says, "retention")
}
