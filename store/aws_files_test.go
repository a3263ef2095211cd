package store_test

import (
	"strings"
	"testing"

	"pcapsule/store"
	"pcapsule/store/storetest"
)

// TestAWSFiles reads settings as AWS's tools do.
func TestAWSFiles(t *testing.T) {
	const bare = "[default]\n"
	for name, c := range map[string]struct {
		config, profile string
		want            store.S3Options
	}{
		"comments":               {"# first\n; second\n" + bare + "region = r1 # third\n  # fourth\nendpoint_url = http://a/#x;y\t; fifth\n", "", store.S3Options{Region: "r1", Endpoint: "http://a/#x;y"}},
		"comment for a value":    {bare + "region = # none\nca_bundle =;x\n", "", store.S3Options{CABundle: ";x"}},
		"no space before":        {bare + "region=r#1;2\n", "", store.S3Options{Region: "r#1;2"}},
		"quotes stay":            {bare + "ca_bundle = \"/a b\"\n", "", store.S3Options{CABundle: `"/a b"`}},
		"equals signs":           {bare + "endpoint_url = http://a?b=c==\n", "", store.S3Options{Endpoint: "http://a?b=c=="}},
		"Windows, byte order":    {"\ufeff[default]\r\nregion = r1\r\ns3 =\r\n  addressing_style = path\r\n", "", store.S3Options{Region: "r1", Style: "path"}},
		"capitals, no spaces":    {bare + "Region=r1\nS3=\n\tAddressing_Style=virtual\n", "", store.S3Options{Region: "r1", Style: "virtual"}},
		"indented":               {bare + "  region = r1\n  s3 =\n    addressing_style = path\n  ca_bundle = /x\n", "", store.S3Options{Region: "r1", Style: "path", CABundle: "/x"}},
		"nested, other first":    {bare + "s3 =\n  max_queue_size = 5 # x\n\n  # y\n  addressing_style = path ; z\nregion = r1\n", "", store.S3Options{Region: "r1", Style: "path"}},
		"nested, no style of us": {bare + "s3api =\n  addressing_style = path\nregion = r1\n", "", store.S3Options{Region: "r1"}},
		"sections put together":  {"[profile a]\nregion = r1\nca_bundle = /x\n[profile b]\nregion = r2\n[profile a]\nregion = r3\n", "a", store.S3Options{Region: "r3", CABundle: "/x"}},
		"name with spaces":       {"[profile my lab]\nregion = r1\n", "my lab", store.S3Options{Region: "r1"}},
		"name in quotes":         {"[profile \"my lab\"] # x\nregion = r1\n", "my lab", store.S3Options{Region: "r1"}},
		"spaces in brackets":     {"[  profile \t lab  ]\nregion = r1\n", "lab", store.S3Options{Region: "r1"}},
		"default with its kind":  {bare + "region = r1\n[profile default]\nregion = r2\n", "", store.S3Options{Region: "r2"}},
		"without its kind":       {"[lab]\nregion = r1\n", "lab", store.S3Options{Region: "r1"}},
		"services":               {"[profile a]\nservices = my own\n[services my own]\ns3 =\n  endpoint_url = http://a # x\n", "a", store.S3Options{Endpoint: "http://a"}},
		"empty":                  {"", "", store.S3Options{}},
		"last line without end":  {bare + "region = r1", "", store.S3Options{Region: "r1"}},
	} {
		t.Run(name, func(t *testing.T) {
			home := cleanAWS(t)
			t.Setenv("AWS_PROFILE", c.profile)
			writeAWS(t, home, "config", c.config)
			got, err := store.LoadS3Options("b")
			if err != nil {
				t.Fatal(err)
			}
			if got.Region != c.want.Region || got.Endpoint != c.want.Endpoint || got.Style != c.want.Style || got.CABundle != c.want.CABundle {
				t.Errorf("got %+v\nwant %+v", got, c.want)
			}
		})
	}
	for name, text := range map[string]string{
		"no setting": bare + "region\n", "no section": "region = r1\n", "no bracket": "[default\n", "no name": bare + "= x\n", "after the bracket": "[default] x\n",
	} {
		home := cleanAWS(t)
		writeAWS(t, home, "config", text)
		_, err := store.LoadS3Options("b")
		wantAdvice(t, name, err, "AWS config file", home, "line ")
	}
}

// TestAWSSecrets opens a bucket with secrets as people have them in their files.
func TestAWSSecrets(t *testing.T) {
	opt := storetest.MinIO(t)
	keys := func(secret string) string {
		return "aws_access_key_id = " + opt.AccessKey + " # mine\r\naws_secret_access_key = " + secret + "\r\n"
	}
	for name, c := range map[string]struct {
		profile string
		files   map[string]string
		want    string // of the error
	}{
		"comments":        {"", map[string]string{"credentials": "\ufeff; x\r\n[default]\r\n" + keys(opt.SecretKey+" ; x")}, ""},
		"spaces in name":  {"my lab", map[string]string{"credentials": "[my lab]\n" + keys(opt.SecretKey)}, ""},
		"in config":       {"my lab", map[string]string{"config": "[profile \"my lab\"]\n" + keys(opt.SecretKey), "credentials": "[other]\n" + keys("x")}, ""},
		"credentials win": {"lab", map[string]string{"config": "[profile lab]\n" + keys("wrong"), "credentials": "[lab]\n" + keys(opt.SecretKey)}, ""},
		"hash in it":      {"", map[string]string{"credentials": "[default]\n" + keys(opt.SecretKey+"#;x")}, "AWS_SECRET_ACCESS_KEY"},
		"quotes in it":    {"", map[string]string{"credentials": "[default]\n" + keys(`"`+opt.SecretKey+`"`)}, "AWS_SECRET_ACCESS_KEY"},
		"half":            {"", map[string]string{"credentials": "[default]\naws_access_key_id = a\n"}, "set both"},
		"broken":          {"", map[string]string{"credentials": "[default]\nsecret\n"}, "line 2"},
	} {
		t.Run(name, func(t *testing.T) {
			home := cleanAWS(t)
			t.Setenv("AWS_ENDPOINT_URL", opt.Endpoint)
			t.Setenv("AWS_PROFILE", c.profile)
			for file, text := range c.files {
				writeAWS(t, home, file, text)
			}
			_, err := store.Open(t.Context(), "s3://"+opt.Bucket+"/"+strings.ReplaceAll(name, " ", "-"))
			if c.want != "" {
				wantAdvice(t, name, err, c.want)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}
