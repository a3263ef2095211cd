package store_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"pcapsule/store"
	"pcapsule/store/storetest"
)

const listed = `<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">%s</ListBucketResult>`

// aLie is an answer that something gives in the place of an S3 service.
type aLie struct {
	status int
	media  string
	body   string
	header http.Header
}

func (l aLie) send(w http.ResponseWriter, r *http.Request) {
	for name, values := range l.header {
		w.Header()[name] = values
	}
	w.Header()["Content-Type"] = []string{l.media}
	w.Header().Set("Content-Length", fmt.Sprint(len(l.body)))
	w.WriteHeader(l.status)
	if r.Method != http.MethodHead {
		_, _ = io.WriteString(w, l.body)
	}
}

func zipped(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, s)
	_ = z.Close()
	return b.String()
}

const page = "<!DOCTYPE html><html><head><title>Login</title></head><body>EOF</body></html>"

// likeAFile is what a web server says of a page that it has in a file.
var likeAFile = http.Header{"Etag": {`"5f1-abc"`}, "Last-Modified": {"Wed, 21 Oct 2015 07:28:00 GMT"}, "Accept-Ranges": {"bytes"}}

// TestS3Lies has something in the way answer in the place of the service, to each
// verb. Nothing may pass for an empty list, an object, its absence, or success.
func TestS3Lies(t *testing.T) {
	opt := storetest.MinIO(t)
	opt.Prefix, opt.Backoff, opt.Attempts = "some", time.Microsecond, 2
	truth := openS3(t, opt)
	storetest.Put(t, truth, "a/1", []byte("one"))
	t.Cleanup(func() { // when all lies are told
		for info, err := range truth.List(context.Background(), "") {
			if err != nil || info.Key != "a/1" {
				t.Errorf("the store itself: %s, %v", info.Key, err)
			}
		}
	})
	lying := func(t *testing.T, l aLie) store.Store {
		var begun atomic.Bool
		s := openS3(t, front(t, opt, func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
			if begun.Load() {
				l.send(w, r)
				return
			}
			pass.ServeHTTP(w, r)
		}))
		begun.Store(true)
		return s
	}
	name := "<Name>" + opt.Bucket + "</Name>"
	entry := func(key, size string) string {
		return "<Contents><Key>" + key + "</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified><Size>" + size + "</Size></Contents>"
	}
	list := func(parts ...string) aLie {
		return aLie{200, "application/xml", fmt.Sprintf(listed, strings.Join(parts, "")), nil}
	}
	whole := list(name, "<Prefix>some/a/</Prefix><KeyCount>1</KeyCount><IsTruncated>false</IsTruncated>", entry("some/a/1", "3")).body
	for what, l := range map[string]aLie{
		"page":                  {200, "text/html; charset=utf-8", page, nil},
		"page of a file":        {200, "text/html", page, likeAFile},
		"page without type":     {200, "", page, nil},
		"page, 404":             {404, "text/html", "<html>nginx</html>", nil},
		"page, 403":             {403, "text/html", "<html>no</html>", nil},
		"page, 413":             {413, "text/html", "<html>no</html>", nil},
		"page, 412":             {412, "text/html", "<html>no</html>", nil},
		"page, 416":             {416, "text/html", "<html>no</html>", nil},
		"nothing, 404":          {404, "", "", nil},
		"text, 404":             {404, "text/plain", "404 page not found", nil},
		"JSON, 404":             {404, "application/json", `{"code":"NoSuchKey"}`, nil},
		"JSON, 401":             {401, "application/json", `{"error":"unauthorized"}`, nil},
		"JSON":                  {200, "application/json", `{"Contents":[],"IsTruncated":false}`, nil},
		"nothing":               {200, "", "", nil},
		"no content":            {204, "text/html", "", nil},
		"accepted":              {202, "application/xml", "", likeAFile},
		"an error":              {200, "application/xml", `<Error><Code>InternalError</Code><Message>x</Message></Error>`, nil},
		"an error of absence":   {200, "application/xml", `<Error><Code>NoSuchKey</Code></Error>`, nil},
		"absence in 503":        {503, "application/xml", `<Error><Code>NoSuchKey</Code></Error>`, nil},
		"an error without code": {404, "application/xml", `<Error><Message>x</Message></Error>`, nil},
		"an error, cut":         {404, "application/xml", `<Error><Code>NoSuchKey</Code><Mess`, nil},
		"moved":                 {301, "text/html", page, http.Header{"Location": {"https://login.example/in?to=x"}}},
		"moved for now":         {307, "", "", http.Header{"Location": {"https://login.example/in"}}},
		"compressed":            {200, "application/xml", zipped(whole), http.Header{"Content-Encoding": {"gzip"}, "Etag": {`"a"`}, "Last-Modified": likeAFile["Last-Modified"]}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := lying(t, l)
			_, err := s.Stat(t.Context(), "a/1")
			wantStrange(t, "Stat", err)
			_, err = s.Get(t.Context(), "a/1", 0, -1)
			wantStrange(t, "Get", err)
			_, err = s.Get(t.Context(), "a/1", 1, 1)
			wantStrange(t, "Get of a range", err)
			wantStrange(t, "Put", s.Put(t.Context(), "a/2", store.Bytes([]byte("two"))))
			if l.status != 204 { // all that a service says to it
				wantStrange(t, "Delete", s.Delete(t.Context(), "a/1"))
			}
			wantNoList(t, s)
		})
	}
	truncated := func(token string) string {
		return "<IsTruncated>true</IsTruncated><NextContinuationToken>" + token + "</NextContinuationToken>"
	}
	const prefix, last = "<Prefix>some/a/</Prefix>", "<IsTruncated>false</IsTruncated>"
	for what, l := range map[string]aLie{
		"of another bucket":       list("<Name>other</Name>", prefix, last),
		"of no bucket":            list(prefix, last),
		"of another prefix":       list(name, "<Prefix>other/</Prefix>", last),
		"of all prefixes":         list(name, "<Prefix></Prefix>", last),
		"of no prefix":            list(name, last),
		"of no prefix, counted":   list(name, last, "<KeyCount>1</KeyCount>", entry("some/a/1", "3")),
		"without an end":          list(name, prefix),
		"with an unclear end":     list(name, prefix, "<IsTruncated></IsTruncated>"),
		"leads nowhere":           list(name, prefix, "<IsTruncated>true</IsTruncated>"),
		"leads to nothing":        list(name, prefix, truncated("")),
		"counts what it has not":  list(name, prefix, last, "<KeyCount>3</KeyCount>"),
		"counts less":             list(name, prefix, last, "<KeyCount>0</KeyCount>", entry("some/a/1", "3")),
		"counts nonsense":         list(name, prefix, last, "<KeyCount>x</KeyCount>"),
		"room for none":           list(name, prefix, last, "<MaxKeys>0</MaxKeys>"),
		"outside its prefix":      list(name, prefix, last, entry("some/b/1", "3")),
		"a negative size":         list(name, prefix, last, entry("some/a/1", "-3")),
		"no size":                 list(name, prefix, last, entry("some/a/1", "")),
		"an entry of nothing":     list(name, prefix, last, "<Contents></Contents>"),
		"folders":                 list(name, prefix, last, "<CommonPrefixes><Prefix>some/a/b/</Prefix></CommonPrefixes>"),
		"of another page":         list(name, prefix, last, "<ContinuationToken>x</ContinuationToken>"),
		"out of order":            list(name, prefix, last, entry("some/a/2", "3"), entry("some/a/1", "3")),
		"twice the same":          list(name, prefix, last, entry("some/a/2", "3"), entry("some/a/2", "3")),
		"of versions":             {200, "application/xml", strings.ReplaceAll(whole, "ListBucketResult", "ListVersionsResult"), nil},
		"of buckets":              {200, "application/xml", `<ListAllMyBucketsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Buckets/></ListAllMyBucketsResult>`, nil},
		"cut short":               {200, "application/xml", whole[:len(whole)-30], nil},
		"cut in its first line":   {200, "application/xml", whole[:20], nil},
		"cut before its last tag": {200, "application/xml", strings.TrimSuffix(whole, "</ListBucketResult>"), nil},
		"with something after it": {200, "application/xml", whole + "x", nil},
		"twice":                   {200, "application/xml", whole + whole[38:], nil},
		"from a cache":            {200, "application/xml", whole, http.Header{"Age": {"60"}}},
	} {
		t.Run("a list "+what, func(t *testing.T) {
			t.Parallel()
			wantNoList(t, lying(t, l))
		})
	}
}

// TestS3PutLies has something answer a PUT as if it was done. What does not repeat
// the SHA-256 is looked at.
func TestS3PutLies(t *testing.T) {
	opt := storetest.MinIO(t)
	opt.Backoff, opt.Attempts = time.Microsecond, 2
	body := store.Bytes([]byte("mine"))
	tag := func(tag string, more ...string) http.Header {
		h := http.Header{"Etag": {tag}}
		for i := 0; i < len(more); i += 2 {
			h.Set(more[i], more[i+1])
		}
		return h
	}
	other := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for what, c := range map[string]struct {
		lie  aLie
		kept string // what somebody puts there meanwhile
		say  string
	}{
		"a tag, and nothing kept":    {aLie{200, "", "", tag(`"x"`)}, "", "not there"},
		"like S3, and nothing kept":  {aLie{200, "application/xml", "", tag(`"x"`, "X-Amz-Request-Id", "1")}, "", "not there"},
		"another object, as large":   {aLie{200, "", "", tag(`"x"`)}, "your", "another object"},
		"another object, larger":     {aLie{200, "", "", tag(`"x"`)}, "another", "another object"},
		"another SHA-256":            {aLie{200, "", "", tag(`"x"`, "X-Amz-Checksum-Sha256", other)}, "mine", "SHA-256"},
		"a weak tag":                 {aLie{200, "", "", tag(`W/"x"`)}, "mine", "no ETag"},
		"no tag":                     {aLie{200, "", "", nil}, "mine", "no ETag"},
		"JSON of no length":          {aLie{200, "application/json", "", tag(`"x"`)}, "mine", "application/json"},
		"a problem of no length":     {aLie{200, "application/problem+json; charset=utf-8", "", tag(`"x"`)}, "mine", "json"},
		"a page of no length":        {aLie{200, "text/html", "", tag(`"x"`)}, "mine", "HTML page"},
		"the same, kept by somebody": {aLie{200, "", "", tag(`"x"`)}, "mine", ""},
	} {
		t.Run(what, func(t *testing.T) {
			opt := opt
			opt.Prefix = strings.ReplaceAll(strings.ReplaceAll(what, " ", "-"), ",", "")
			if c.kept != "" {
				storetest.Put(t, openS3(t, opt), "a", []byte(c.kept))
			}
			s := openS3(t, front(t, opt, func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
				if r.Method == http.MethodPut {
					c.lie.send(w, r)
					return
				}
				pass.ServeHTTP(w, r)
			}))
			err := s.Put(t.Context(), "a", body)
			if c.say == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantStrange(t, "Put", err)
			wantAdvice(t, "Put", err, c.say, "AWS_ENDPOINT_URL")
		})
	}
}

// strip is an answer without headers of the service's.
type strip struct {
	http.ResponseWriter
	names []string
}

func (s strip) WriteHeader(status int) {
	for _, name := range s.names {
		s.Header().Del(name)
	}
	s.ResponseWriter.WriteHeader(status)
}

// TestS3PutLooks: it costs one HEAD to put to a service that does not repeat the
// SHA-256, and none to put to others.
func TestS3PutLooks(t *testing.T) {
	for server, opt := range map[string]func(testing.TB) store.S3Options{"MinIO": storetest.MinIO, "VersityGW": storetest.VersityGW} {
		for what, c := range map[string]struct {
			strip []string
			heads int64
		}{
			"repeats it":         {nil, 0},
			"does not repeat it": {[]string{"X-Amz-Checksum-Sha256"}, 1},
			"says nothing of S3": {[]string{"X-Amz-Checksum-Sha256", "X-Amz-Request-Id", "X-Amz-Checksum-Type", "X-Amz-Id-2"}, 1},
		} {
			t.Run(server+" "+what, func(t *testing.T) {
				var heads atomic.Int64
				opt := opt(t)
				opt.Prefix = strings.ReplaceAll(what, " ", "-")
				s := openS3(t, front(t, opt, func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
					if r.Method == http.MethodHead {
						heads.Add(1)
					}
					pass.ServeHTTP(strip{w, c.strip}, r) // HEAD tells no SHA-256 either
				}))
				storetest.Put(t, s, "a", []byte("x"))
				storetest.Put(t, s, "empty", nil)
				if n := heads.Load(); n != 2*c.heads {
					t.Errorf("%d times HEAD for two objects, want %d", n, 2*c.heads)
				}
			})
		}
	}
}

// wantStrange checks the error for an answer that is none: one line with advice,
// and nothing that a caller takes for an answer.
func wantStrange(t *testing.T, what string, err error) {
	t.Helper()
	wantAdvice(t, what, err, "a")
	for _, kind := range []error{store.ErrNotExist, store.ErrExist, store.ErrForbidden, store.ErrNoSpace, store.ErrChecksum} {
		if errors.Is(err, kind) {
			t.Errorf("%s: a strange answer is taken for %q: %v", what, kind, err)
		}
	}
}

func wantNoList(t *testing.T, s store.Store) {
	t.Helper()
	for _, err := range s.List(t.Context(), "a/") {
		if err != nil {
			wantStrange(t, "List", err)
			return
		}
	}
	t.Error("List: no error")
}

// TestS3Advice holds the lines for people of answers.py against what they should
// say. They name the endpoint, and what came.
func TestS3Advice(t *testing.T) {
	for _, c := range []struct {
		lie  aLie
		want []string
	}{
		{aLie{200, "text/html", page, nil}, []string{"login page", "HTML page", "AWS_ENDPOINT_URL", "status 200"}},
		{aLie{200, "", "", nil}, []string{"no S3 service", "empty"}},
		{aLie{403, "text/html", page, nil}, []string{"firewall", "status 403"}},
		{aLie{404, "text/html", page, nil}, []string{"no S3 service", "status 404"}},
		{aLie{401, "application/json", "{}", nil}, []string{"login page", "application/json", "status 401"}},
		{aLie{502, "text/html", page, nil}, []string{"failing", "status 502"}},
		{aLie{301, "text/html", page, http.Header{"Location": {"https://other.example:9443/bucket/?x"}}}, []string{"redirects to https://other.example:9443,", "AWS_ENDPOINT_URL", "AWS_REGION", "status 301"}},
		{aLie{308, "", "", http.Header{"Location": {"/elsewhere"}}}, []string{"another path", "status 308"}},
		{aLie{307, "application/xml", "<Error><Code>TemporaryRedirect</Code><Endpoint>bucket.s3.eu-west-3.amazonaws.com</Endpoint></Error>", http.Header{"X-Amz-Bucket-Region": {"eu-west-3"}}}, []string{"set AWS_REGION to eu-west-3"}},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.lie.send(w, r) }))
		_, err := store.NewS3(t.Context(), store.S3Options{
			Bucket: "bucket", Endpoint: srv.URL, Region: "us-east-1", AccessKey: "a", SecretKey: "s", Attempts: 2, Backoff: time.Microsecond,
		})
		wantAdvice(t, fmt.Sprint("status ", c.lie.status), err, append(c.want, "s3://bucket")...)
		srv.Close()
	}
}

// TestS3TooLarge puts through a proxy that takes no large bodies.
func TestS3TooLarge(t *testing.T) {
	opt := front(t, storetest.MinIO(t), func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if r.Method == http.MethodPut {
			aLie{413, "text/html", "<html>413</html>", nil}.send(w, r)
			return
		}
		pass.ServeHTTP(w, r)
	})
	wantAdvice(t, "Put", openS3(t, opt).Put(t.Context(), "a", store.Bytes([]byte("x"))), "raise its limit", "413")
}

// TestS3LieAndTruth has a lie stand in the way for a moment.
func TestS3LieAndTruth(t *testing.T) {
	var lies atomic.Int64
	opt := front(t, storetest.MinIO(t), func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if lies.Add(-1) >= 0 {
			aLie{200, "text/html", page, nil}.send(w, r)
			return
		}
		pass.ServeHTTP(w, r)
	})
	opt.Backoff = time.Microsecond
	s := openS3(t, opt)
	lies.Store(1)
	storetest.Put(t, s, "a", []byte("x"))
	lies.Store(1)
	if diff := cmp.Diff([]string{"a"}, storetest.Keys(t, s, "")); diff != "" {
		t.Error(diff)
	}
	lies.Store(1)
	if got := storetest.Read(t, s, "a"); string(got) != "x" {
		t.Errorf("read %q", got)
	}
	lies.Store(1)
	if err := s.Delete(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if keys := storetest.Keys(t, s, ""); len(keys) > 0 {
		t.Errorf("left: %q", keys)
	}
}

// TestS3Dialects reads lists as other services write them, by what they document.
func TestS3Dialects(t *testing.T) {
	const keys = `<Contents><Key>%s</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified><ETag>&quot;a&quot;</ETag><Size>5</Size><StorageClass>STANDARD</StorageClass></Contents>`
	for name, c := range map[string]struct{ body, prefix, key string }{
		"AWS": {
			`<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><Prefix>p%2Bq/a/</Prefix><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>` +
				fmt.Sprintf(keys, "p%2Bq/a/1") + `</ListBucketResult>`, "p+q", "a/1",
		},
		"AWS, none": {`<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><Prefix>a/</Prefix><KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>`, "", ""},
		"GCS": {
			`<?xml version='1.0' encoding='UTF-8'?><ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'><Name>bucket</Name><Prefix>a/</Prefix><KeyCount>1</KeyCount><IsTruncated>false</IsTruncated><Contents><Key>a/1</Key><Generation>1</Generation><MetaGeneration>1</MetaGeneration><LastModified>2026-01-02T03:04:05.678Z</LastModified><ETag>"a"</ETag><Size>5</Size></Contents></ListBucketResult>`, "", "a/1",
		},
		"Ceph": {
			"<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\n<Name>bucket</Name><Prefix>a/</Prefix><MaxKeys>1000</MaxKeys><Delimiter/><IsTruncated>false</IsTruncated>" + fmt.Sprintf(keys, "a/1") + "<EncodingType>url</EncodingType><KeyCount>1</KeyCount></ListBucketResult>\n", "", "a/1",
		},
		"SeaweedFS": {
			`<ListBucketResult><Name>bucket</Name><Prefix>a/</Prefix><MaxKeys>1000</MaxKeys><Delimiter></Delimiter><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>` + fmt.Sprintf(keys, "a/1") + `<KeyCount>1</KeyCount><ContinuationToken></ContinuationToken><NextContinuationToken></NextContinuationToken><StartAfter></StartAfter></ListBucketResult>`, "", "a/1",
		},
		"in pieces, with a byte order mark": {"\ufeff<ListBucketResult><Name>bucket</Name><Prefix>a/</Prefix><IsTruncated>false</IsTruncated>" + fmt.Sprintf(keys, "a/1") + "</ListBucketResult><!-- end -->\n", "", "a/1"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/xml")
				if r.URL.Query().Get("prefix") == c.prefix+"/" || r.URL.Query().Get("prefix") == "" { // the first look
					fmt.Fprintf(w, listed, "<Name>bucket</Name><Prefix>"+r.URL.Query().Get("prefix")+"</Prefix><IsTruncated>false</IsTruncated>")
					return
				}
				for _, part := range strings.SplitAfter(c.body, ">") {
					_, _ = io.WriteString(w, part)
					_ = http.NewResponseController(w).Flush()
				}
			}))
			defer srv.Close()
			s := openS3(t, store.S3Options{Bucket: "bucket", Prefix: c.prefix, Endpoint: srv.URL, AccessKey: "a", SecretKey: "s"})
			var want []string
			if c.key != "" {
				want = []string{c.key}
			}
			if diff := cmp.Diff(want, storetest.Keys(t, s, "a/")); diff != "" {
				t.Error(diff)
			}
		})
	}
}
