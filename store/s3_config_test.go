package store_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"pcapsule/store"
	"pcapsule/store/storetest"
)

// cleanAWS takes from the environment what the machine's user has set there.
func cleanAWS(t *testing.T) (home string) {
	t.Helper()
	for _, env := range os.Environ() {
		if name, _, _ := strings.Cut(env, "="); strings.HasPrefix(name, "AWS_") || strings.HasPrefix(name, "PCAPSULE_") {
			t.Setenv(name, "")
		}
	}
	home = t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("USERPROFILE", home)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	return home
}

func writeAWS(t *testing.T, home, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(home, ".aws"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".aws", name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const awsConfig = `
[default]
region = eu-west-1

[profile lab]
region = eu-north-1
endpoint_url = https://lab.example
ca_bundle = /lab.pem
s3 =
    max_concurrent_requests = 20
    addressing_style = virtual

[profile services]
services = own
endpoint_url = https://all.example

[services own]
s3 =
  endpoint_url = https://s3.example
dynamodb =
  endpoint_url = https://dynamodb.example
`

func TestLoadS3Options(t *testing.T) {
	for _, c := range []struct {
		name string
		env  map[string]string
		want store.S3Options
	}{
		{"nothing set", nil, store.S3Options{Region: "eu-west-1"}},
		{
			"environment",
			map[string]string{"AWS_ENDPOINT_URL": "http://a:9000", "AWS_REGION": "r", "AWS_CA_BUNDLE": "/ca"},
			store.S3Options{Endpoint: "http://a:9000", Region: "r", CABundle: "/ca"},
		},
		{
			"endpoint for S3 alone",
			map[string]string{"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "http://b", "AWS_DEFAULT_REGION": "d"},
			store.S3Options{Endpoint: "http://b", Region: "d"},
		},
		{
			"profile",
			map[string]string{"AWS_PROFILE": "lab"},
			store.S3Options{Profile: "lab", Region: "eu-north-1", Endpoint: "https://lab.example", CABundle: "/lab.pem", Style: "virtual"},
		},
		{
			"profile, overridden",
			map[string]string{"AWS_PROFILE": "lab", "AWS_REGION": "r", "PCAPSULE_S3_PATH_STYLE": "true", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
			store.S3Options{Profile: "lab", Region: "r", CABundle: "/lab.pem", Style: "path"},
		},
		{"services", map[string]string{"AWS_PROFILE": "services"}, store.S3Options{Profile: "services", Endpoint: "https://s3.example"}},
		{"unknown profile", map[string]string{"AWS_PROFILE": "unknown"}, store.S3Options{Profile: "unknown"}},
		{"no path style", map[string]string{"PCAPSULE_S3_PATH_STYLE": "0"}, store.S3Options{Region: "eu-west-1", Style: "virtual"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			home := cleanAWS(t)
			writeAWS(t, home, "config", awsConfig)
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			got, err := store.LoadS3Options("bucket/some/prefix")
			if err != nil {
				t.Fatal(err)
			}
			c.want.Bucket, c.want.Prefix = "bucket", "some/prefix"
			if diff := cmp.Diff(c.want, got, cmpopts.IgnoreUnexported(store.S3Options{})); diff != "" {
				t.Error(diff)
			}
		})
	}

	home := cleanAWS(t)
	if got, err := store.LoadS3Options("bucket"); err != nil || got.Region != "" {
		t.Errorf("without any file: %+v, %v", got, err)
	}
	writeAWS(t, home, "config", "[default\nx")
	_, err := store.LoadS3Options("bucket")
	wantAdvice(t, "broken file", err, "AWS config file", home)
	writeAWS(t, home, "config", "")
	t.Setenv("PCAPSULE_S3_PATH_STYLE", "maybe")
	_, err = store.LoadS3Options("bucket")
	wantAdvice(t, "bad style", err, "PCAPSULE_S3_PATH_STYLE", "true or false")
}

// TestOpenS3 finds credentials in each place where S3 users have them.
func TestOpenS3(t *testing.T) {
	opt := storetest.MinIO(t)
	container := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"AccessKeyId": opt.AccessKey, "SecretAccessKey": opt.SecretKey, "Expiration": time.Now().Add(time.Hour),
		})
	}))
	defer container.Close()
	keys := "aws_access_key_id = " + opt.AccessKey + "\naws_secret_access_key = " + opt.SecretKey + "\n"
	for _, c := range []struct {
		name  string
		env   map[string]string
		files map[string]string
		want  []string // of the error
	}{
		{"environment", map[string]string{"AWS_ACCESS_KEY_ID": opt.AccessKey, "AWS_SECRET_ACCESS_KEY": opt.SecretKey}, nil, nil},
		{"credentials file", nil, map[string]string{"credentials": "[default]\n" + keys}, nil},
		{"config file", nil, map[string]string{"config": "[default]\n" + keys}, nil},
		{"profile", map[string]string{"AWS_PROFILE": "lab"}, map[string]string{"credentials": "[lab]\n" + keys}, nil},
		{"container", map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": container.URL}, nil, nil},
		{"none", nil, nil, []string{"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"}},
		{"half", map[string]string{"AWS_ACCESS_KEY_ID": "a"}, nil, []string{"set both"}},
		{"unknown profile", map[string]string{"AWS_PROFILE": "x"}, map[string]string{"credentials": "[lab]\n" + keys}, []string{`profile "x"`, "AWS_PROFILE"}},
		{
			"profile that assumes a role", map[string]string{"AWS_PROFILE": "x"},
			map[string]string{"config": "[profile x]\nrole_arn = arn\nsource_profile = y\n"},
			[]string{"export-credentials"},
		},
		{"web identity", map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "/none"}, nil, []string{"AWS_WEB_IDENTITY_TOKEN_FILE"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			home := cleanAWS(t)
			t.Setenv("AWS_ENDPOINT_URL", opt.Endpoint)
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			for name, text := range c.files {
				writeAWS(t, home, name, text)
			}
			s, err := store.Open(t.Context(), "s3://"+opt.Bucket+"/"+strings.ReplaceAll(c.name, " ", "-")+"/")
			if c.want != nil {
				wantAdvice(t, c.name, err, c.want...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			storetest.Put(t, s, "a", []byte("x"))
		})
	}
}

func TestOpenUnknown(t *testing.T) {
	for location, want := range map[string]string{
		"gs://bucket":              "s3://bucket/prefix",
		"https://example.com/x":    "s3://bucket/prefix",
		"":                         "empty",
		"s3://":                    "s3://bucket/prefix",
		filepath.Join("no", "way"): "check the path",
	} {
		_, err := store.Open(t.Context(), location)
		wantAdvice(t, location, err, want)
		if location == "" || strings.Contains(location, "://") {
			_, err = store.Create(t.Context(), location)
			wantAdvice(t, location, err, want)
		}
	}
}
