//go:build linux

package testbed

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// outside starts the S3 server, with its bucket.
func (c *Cluster) outside(ctx context.Context) error {
	if err := c.start(daemon{
		name: "minio", in: c.inNet("outside"),
		env: []string{
			"MINIO_ROOT_USER=" + S3AccessKey, "MINIO_ROOT_PASSWORD=" + S3SecretKey,
			"MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_CI_CD=1",
		},
		args: []string{"minio", "server", "--quiet", "--address", ":9000", c.path("s3")},
	}); err != nil {
		return err
	}
	client, err := c.S3Client()
	if err != nil {
		return err
	}
	return Poll(ctx, time.Minute, func() error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		found, err := client.BucketExists(ctx, S3Bucket)
		if err != nil || found {
			return err
		}
		return client.MakeBucket(ctx, S3Bucket, minio.MakeBucketOptions{})
	})
}

// S3Client returns a client of the S3 server on the host.
func (c *Cluster) S3Client() (*minio.Client, error) {
	return minio.New(c.S3, &minio.Options{
		Creds: credentials.NewStaticV4(S3AccessKey, S3SecretKey, ""), Region: "us-east-1",
	})
}

// freeLoopback returns an address of the loopback that nobody listens on now.
func freeLoopback() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// EmptyBucket removes all objects of the bucket.
func EmptyBucket(ctx context.Context, client *minio.Client) error {
	objects := client.ListObjects(ctx, S3Bucket, minio.ListObjectsOptions{Recursive: true})
	for failure := range client.RemoveObjects(ctx, S3Bucket, objects, minio.RemoveObjectsOptions{}) {
		return fmt.Errorf("empty the bucket: %w", failure.Err)
	}
	return nil
}
