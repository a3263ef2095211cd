package store_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

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

// TestS3Sums: both servers tell the SHA-256 that they have checked, also of what a
// grant let in. What another tool put without one has none.
func TestS3Sums(t *testing.T) {
	for name, opt := range map[string]func(testing.TB) store.S3Options{"MinIO": storetest.MinIO, "VersityGW": storetest.VersityGW} {
		t.Run(name, func(t *testing.T) {
			o := opt(t)
			s := openS3(t, o)
			data := []byte("some bytes")
			sum := sha256.Sum256(data)
			storetest.Put(t, s, "put", data)
			g, err := s.Grant(t.Context(), "granted", int64(len(data)), sum, time.Now().Add(time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			if status, says := storetest.Upload(t, "", g, data); status != http.StatusOK {
				t.Fatalf("upload: %d %s", status, says)
			}
			for _, key := range []string{"put", "granted"} {
				if info, err := s.Stat(t.Context(), key); err != nil || !bytes.Equal(info.SHA256, sum[:]) {
					t.Errorf("stat %s: SHA-256 %x, %v; want %x", key, info.SHA256, err, sum)
				}
			}
			other, err := minio.New(strings.TrimPrefix(o.Endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4(o.AccessKey, o.SecretKey, ""), Region: "us-east-1"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := other.PutObject(t.Context(), o.Bucket, "foreign", bytes.NewReader(data), int64(len(data)), minio.PutObjectOptions{SendContentMd5: true, DisableMultipart: true}); err != nil {
				t.Fatal(err)
			}
			if info, err := s.Stat(t.Context(), "foreign"); err != nil || info.SHA256 != nil {
				t.Errorf("stat of what came without SHA-256: %x, %v", info.SHA256, err)
			}
		})
	}
}
