package store

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

// S3Options says where a bucket is and how to reach it. Only Bucket is needed.
type S3Options struct {
	Bucket   string
	Prefix   string // of all keys; slashes at its ends do not count
	Endpoint string // URL of the service; that of AWS when empty
	Region   string // found out when empty

	// Style of addresses: "path" for endpoint/bucket/key, "virtual" for
	// bucket.endpoint/key. When empty, virtual for AWS and path for others.
	Style string

	// Keys. Without them the usual places are searched, in this order:
	// AWS_ACCESS_KEY_ID, web identity, the shared config and credentials files,
	// the container's role and that of the instance.
	AccessKey, SecretKey, SessionToken string
	Profile                            string // in the shared files; AWS_PROFILE or "default" when empty

	CABundle string // PEM file of authorities to trust instead of the system's

	Attempts int           // of each request; 8 when 0
	Backoff  time.Duration // before the second attempt; 200 ms when 0
	Timeout  time.Duration // of a connection on which nothing moves; one minute when 0

	Dial Dialer // how to connect to the service; a net.Dialer's way when nil

	pageSize int // keys a page of a list; the service's own when 0
}

const (
	defaultAttempts = 8
	defaultBackoff  = 200 * time.Millisecond
	defaultTimeout  = time.Minute
	firstTimeout    = 15 * time.Second // of a request before anything was heard of the service
	firstAttempts   = 4                // then
	answerAttempts  = 3                // of a request that is answered with a success which is none
	retryLimit      = 90 * time.Second
	awsEndpoint     = "https://s3.amazonaws.com"
	awsRegion       = "us-east-1"
)

// LoadS3Options reads the settings for a bucket, "bucket/prefix", from where S3
// users have them:
//
//	AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL   endpoint_url in the profile or its services section
//	AWS_REGION, AWS_DEFAULT_REGION          region
//	AWS_PROFILE                             the profile of the shared files, else "default"
//	AWS_CONFIG_FILE                         ~/.aws/config
//	AWS_CA_BUNDLE                           ca_bundle
//	PCAPSULE_S3_PATH_STYLE (true or false)  addressing_style below s3
//
// What is in the environment wins over what is in a file.
func LoadS3Options(location string) (S3Options, error) {
	bucket, prefix, _ := strings.Cut(location, "/")
	opt := S3Options{Bucket: bucket, Prefix: prefix, Profile: os.Getenv("AWS_PROFILE")}
	profile, err := loadProfile(opt.Profile)
	if err != nil {
		return S3Options{}, err
	}
	if os.Getenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") == "true" {
		profile.endpoint = ""
	}
	opt.Endpoint = cmp.Or(os.Getenv("AWS_ENDPOINT_URL_S3"), os.Getenv("AWS_ENDPOINT_URL"), profile.endpoint)
	opt.Region = cmp.Or(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"), profile.region)
	opt.CABundle = cmp.Or(os.Getenv("AWS_CA_BUNDLE"), profile.caBundle)
	opt.Style = profile.style
	if v := os.Getenv("PCAPSULE_S3_PATH_STYLE"); v != "" {
		path, err := strconv.ParseBool(v)
		if err != nil {
			return S3Options{}, fmt.Errorf("PCAPSULE_S3_PATH_STYLE is %q: want true or false", v)
		}
		opt.Style = "virtual"
		if path {
			opt.Style = "path"
		}
	}
	return opt, nil
}

// s3Profile is what the shared config file says, other than keys.
type s3Profile struct {
	endpoint, region, caBundle, style string
}

// loadProfile reads a profile; that none is named and there is no file is fine.
func loadProfile(name string) (s3Profile, error) {
	file, err := readAWSFile("AWS_CONFIG_FILE", "config")
	if err != nil {
		return s3Profile{}, err
	}
	section := file.profile(name) // when it has none, the credentials file may
	p := s3Profile{
		endpoint: section["endpoint_url"].value,
		region:   section["region"].value,
		caBundle: section["ca_bundle"].value,
		style:    section["s3"].nested["addressing_style"],
	}
	if services := section["services"].value; services != "" {
		p.endpoint = cmp.Or(file["services "+services]["s3"].nested["endpoint_url"], p.endpoint)
	}
	if p.style == "auto" {
		p.style = ""
	}
	return p, nil
}

// endpointName is the service for people.
func (o *S3Options) endpointName() string { return cmp.Or(o.Endpoint, awsEndpoint) }

// connect makes the client. It sends nothing.
func (s *S3) connect() error {
	endpoint, err := url.Parse(s.opt.endpointName())
	if err != nil || endpoint.Host == "" || endpoint.Scheme != "http" && endpoint.Scheme != "https" {
		return fmt.Errorf("AWS_ENDPOINT_URL is %q: want one like https://s3.example.com", s.opt.Endpoint)
	}
	if endpoint.Path != "" && endpoint.Path != "/" || endpoint.RawQuery != "" || endpoint.User != nil {
		return fmt.Errorf("AWS_ENDPOINT_URL is %q: want a scheme, a host and a port, and no more", s.opt.Endpoint)
	}
	lookup := minio.BucketLookupAuto
	switch s.opt.Style {
	case "":
	case "path":
		lookup = minio.BucketLookupPath
	case "virtual":
		lookup = minio.BucketLookupDNS
	default:
		return fmt.Errorf("addressing style %q: want path or virtual", s.opt.Style)
	}
	transport, err := s.opt.transport()
	if err != nil {
		return err
	}
	s.opt.Region = cmp.Or(s.opt.Region, awsRegion)
	s.client, err = minio.NewCore(endpoint.Host, &minio.Options{
		Creds:        s.opt.credentials(),
		Secure:       endpoint.Scheme == "https",
		Transport:    &answers{next: transport, bucket: s.opt.Bucket, deleted: s.noteDeleted},
		Region:       s.opt.Region,
		BucketLookup: lookup,
		MaxRetries:   1, // retries are ours: Put must know what went before
	})
	if err != nil {
		return fmt.Errorf("AWS_ENDPOINT_URL is %q: %w", s.opt.Endpoint, err)
	}
	return nil
}

func (o *S3Options) transport() (*http.Transport, error) {
	timeout := cmp.Or(o.Timeout, defaultTimeout)
	dial := o.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, min(timeout, 10*time.Second))
			defer cancel()
			c, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &watchedConn{c, timeout}, nil
		},
		MaxIdleConns:        64,
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     timeout / 2,
		TLSHandshakeTimeout: min(timeout, 10*time.Second),
		DisableCompression:  true,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if o.CABundle != "" {
		pem, err := os.ReadFile(o.CABundle)
		if err != nil {
			// Not wrapped: ErrNotExist is said of objects.
			return nil, errors.New("read AWS_CA_BUNDLE: " + err.Error())
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("AWS_CA_BUNDLE %s holds no certificate in PEM form", o.CABundle)
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return t, nil
}

// A watchedConn fails when nothing moves on it for a while, so that no request
// waits for ever, and a large one may take its time.
type watchedConn struct {
	net.Conn
	timeout time.Duration
}

func (c *watchedConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Write also moves the deadline of the Read that waits for the answer.
func (c *watchedConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
