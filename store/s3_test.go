package store_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"pcapsule/store"
	"pcapsule/store/storetest"
)

func openS3(t testing.TB, opt store.S3Options) *store.S3 {
	t.Helper()
	s, err := store.NewS3(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// prefixes opens the bucket of opt with a prefix of its own at each call.
func prefixes(opt store.S3Options) func(*testing.T) store.Store {
	var n atomic.Int64
	return func(t *testing.T) store.Store {
		opt := opt
		opt.Prefix = fmt.Sprintf("%s/run-%d/", opt.Prefix, n.Add(1))
		return openS3(t, opt)
	}
}

func TestMinIOConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return openS3(t, storetest.MinIO(t)) })
}

func TestMinIOPrefixConforms(t *testing.T) {
	opt := storetest.MinIO(t)
	opt.Prefix = "/some/archive"
	storetest.Run(t, prefixes(opt))
}

func TestMinIOLockedConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return openS3(t, storetest.MinIOLocked(t)) })
}

func TestVersityGWConforms(t *testing.T) {
	storetest.Run(t, prefixes(storetest.VersityGW(t)))
}
