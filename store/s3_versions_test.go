package store_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pcapsule/store"
	"pcapsule/store/storetest"
)

// TestS3NoDelete uses credentials that may do all but delete. The probe leaves one
// object, the same however often it runs, and finds faults all the same.
func TestS3NoDelete(t *testing.T) {
	opt := storetest.MinIO(t)
	const actions = `"s3:GetObject","s3:ListBucket","s3:PutObject"`
	for range 3 {
		s := openS3(t, limited(t, opt, actions))
		if left, err := store.Probe(t.Context(), s); err != nil || left != "probe/left" {
			t.Errorf("left %q, %v", left, err)
		}
		if diff := cmp.Diff([]string{"probe/left"}, storetest.Keys(t, s, "")); diff != "" {
			t.Error(diff)
		}
	}
	if left, err := store.Probe(t.Context(), openS3(t, opt)); err != nil || left != "" {
		t.Errorf("who may delete left %q, %v", left, err)
	}
}

// TestS3Keeps asks buckets with and without versions, with credentials that may
// ask and such that may not.
func TestS3Keeps(t *testing.T) {
	plain, locked := storetest.MinIO(t), storetest.MinIOLocked(t)
	const actions = `"s3:GetObject","s3:ListBucket","s3:PutObject","s3:DeleteObject"`
	for name, c := range map[string]struct {
		opt           store.S3Options
		before, after string // what is kept, before a deletion and after it
	}{
		"plain":              {plain, "", ""},
		"plain, not allowed": {limited(t, plain, actions), "s3:GetBucketVersioning", ""},
		"versions":           {locked, "keeps versions", "keeps versions"},
		"versions, not told": {limited(t, locked, actions), "s3:GetBucketVersioning", "keeps versions"},
		"versitygw":          {storetest.VersityGW(t), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := openS3(t, c.opt)
			check := func(when, want string) {
				if got := store.Keeps(t.Context(), s); (got == "") != (want == "") || !strings.Contains(got, want) || strings.Contains(got, "\n") {
					t.Errorf("%s: %q, want %q", when, got, want)
				}
			}
			check("before", c.before)
			storetest.Put(t, s, "a", []byte("x"))
			if err := s.Delete(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			check("after", c.after)
		})
	}
	if got := store.Keeps(t.Context(), storetest.NewMemory(t, nil)); got != "" {
		t.Error(got)
	}
}

// TestS3Locked meets a service that refuses deletions since objects are locked.
func TestS3Locked(t *testing.T) {
	for _, says := range []string{"Object is WORM protected and cannot be overwritten", "Access Denied because object protected by object lock.", "object is under retention"} {
		opt := front(t, storetest.MinIO(t), func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
			if r.Method == http.MethodDelete {
				aLie{403, "application/xml", "<Error><Code>AccessDenied</Code><Message>" + says + "</Message></Error>", nil}.send(w, r)
				return
			}
			pass.ServeHTTP(w, r)
		})
		err := openS3(t, opt).Delete(t.Context(), "a")
		wantAdvice(t, says, err, "is locked", "until the lock ends")
		if !errors.Is(err, store.ErrForbidden) {
			t.Error(err)
		}
	}
}
