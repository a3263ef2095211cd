package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// answers is the transport of an S3 client. It lets an answer pass only when it
// is one that an S3 service gives to the request: minio-go, which reads it then,
// takes a login page for an empty list, and for success of whatever was asked.
// Any other answer becomes an answerError.
//
// Answers that refuse a request pass when they say why, in S3's own form.
type answers struct {
	next    http.RoundTripper
	bucket  string
	deleted func(http.Header) // is told of each deletion that was done
}

// maxDocument bounds the XML of one answer. A page of a list, a thousand keys,
// has less than a mebibyte.
const maxDocument = 16 << 20

// An answerError says that what came is no answer of a store to what was asked.
// It never means that something is absent, or that it was done. Its text is one
// line.
type answerError struct {
	asked    string // "a list"
	status   int
	media    string   // content type without parameters, as far as it can be printed
	wrong    string   // what is wrong with it, when the status alone does not say so
	location *url.URL // where a redirect leads
	bodiless bool     // of HEAD: the answer to GET would say more
	secure   bool     // it says that it wants TLS
}

func (e *answerError) Error() string {
	what := fmt.Sprintf("status %d %s", e.status, http.StatusText(e.status))
	switch {
	case strings.Contains(e.wrong, aPage):
	case isPage(e.media):
		what += " with " + aPage
	case e.media != "":
		what += " of type " + e.media
	}
	what = strings.TrimSpace(what) + " came in answer to " + e.asked
	if e.wrong != "" {
		what += ": " + e.wrong
	}
	return what
}

func isPage(media string) bool {
	return media == "text/html" || media == "application/xhtml+xml"
}

// isForeign tells whether a content type is one that an S3 service gives to no
// answer of its own.
func isForeign(media string) bool {
	return isPage(media) || strings.HasSuffix(media, "/json") || strings.HasSuffix(media, "+json")
}

// mediaOf is the content type of an answer for comparisons and for people.
func mediaOf(h http.Header) string {
	media, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil && media == "" || len(media) > 60 {
		return ""
	}
	return media
}

func (t *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if err := t.check(r, resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// check tells whether resp answers r. It may read the body, and then puts what it
// has read in its place.
func (t *answers) check(r *http.Request, resp *http.Response) error {
	query := r.URL.Query()
	e := &answerError{asked: asked(r.Method, query), status: resp.StatusCode, media: mediaOf(resp.Header)}
	wrong := func(err error) error {
		if err == nil {
			return nil
		}
		e.wrong = err.Error()
		return e
	}
	switch {
	case resp.StatusCode >= 300 || resp.StatusCode < 200:
		return t.checkRefusal(r, resp, e)
	case !succeeds(r, resp.StatusCode):
		return wrong(errors.New("that is not how it succeeds"))
	}
	switch r.Method {
	case http.MethodHead:
		return wrong(checkObject(resp))
	case http.MethodDelete:
		t.deleted(resp.Header)
		return nil
	case http.MethodPut:
		body, err := readBody(resp)
		if err != nil {
			return err
		}
		return wrong(CheckStored(r.Header, resp.Header, body))
	}
	if len(query) == 0 {
		if err := checkObject(resp); err != nil {
			return wrong(err)
		}
		return wrong(checkRange(r.Header.Get("Range"), resp))
	}
	body, err := readBody(resp)
	if err != nil {
		return err
	}
	if err := checkEncoding(resp.Header); err != nil {
		return wrong(err)
	}
	if age := resp.Header.Get("Age"); age != "" && age != "0" {
		return wrong(errors.New("it is an old answer, from a cache"))
	}
	switch {
	case query.Has("list-type"):
		return wrong(checkList(body, t.bucket, query))
	case query.Has("versioning"):
		return wrong(decodeDocument(body, "VersioningConfiguration", &struct{}{}))
	case query.Has("object-lock"):
		return wrong(decodeDocument(body, "ObjectLockConfiguration", &struct{}{}))
	}
	return wrong(fmt.Errorf("this program does not ask for %s", r.URL.RawQuery))
}

// asked is what was asked for, for people.
func asked(method string, query url.Values) string {
	switch {
	case query.Has("list-type"):
		return "a list"
	case query.Has("versioning"), query.Has("object-lock"):
		return "a question about the bucket"
	}
	return method
}

// succeeds tells whether an answer with this status says that r was done.
func succeeds(r *http.Request, status int) bool {
	rng := r.Header.Get("Range")
	switch {
	case r.Method == http.MethodDelete:
		return status == http.StatusNoContent
	case r.Method == http.MethodGet && rng != "" && status == http.StatusPartialContent:
		return true
	case r.Method == http.MethodGet && rng != "" && !strings.HasPrefix(rng, "bytes=0-"):
		return false // the server ignores the range
	}
	return status == http.StatusOK
}

// readBody reads the whole body, and leaves it to be read again.
func readBody(resp *http.Response) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(b))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	case len(b) > maxDocument:
		return nil, fmt.Errorf("the answer is larger than %d MiB", maxDocument>>20)
	}
	return b, nil
}

// checkRefusal lets an error pass that an S3 service can have sent: one with an
// Error document. HEAD has no body; its headers have to do.
func (t *answers) checkRefusal(r *http.Request, resp *http.Response, e *answerError) error {
	redirect := resp.StatusCode >= 300 && resp.StatusCode < 400
	if redirect {
		e.location, _ = resp.Location()
	}
	if r.Method == http.MethodHead {
		if redirect && resp.Header.Get("X-Amz-Bucket-Region") == "" || !redirect && !sentByS3(resp.Header) {
			e.bodiless = true
			return e
		}
		return nil
	}
	body, err := readBody(resp)
	if err != nil {
		return err
	}
	var doc struct{ Code string }
	if err := decodeDocument(body, "Error", &doc); err != nil {
		e.wrong = err.Error()
		e.secure = bytes.Contains(body, []byte("HTTP request to an HTTPS server")) || bytes.Contains(body, []byte("HTTP request was sent to HTTPS port"))
		return e
	}
	switch absent := doc.Code == "NoSuchKey" || doc.Code == "NoSuchBucket"; {
	case doc.Code == "":
		e.wrong = "it has no error code"
		return e
	case absent && resp.StatusCode != http.StatusNotFound:
		e.wrong = "its error code is " + doc.Code
		return e
	}
	return nil
}

// sentByS3 tells whether an answer without a body has the marks of an S3 service.
func sentByS3(h http.Header) bool {
	if isForeign(mediaOf(h)) {
		return false
	}
	for name := range h {
		if strings.HasPrefix(name, "X-Amz-") || strings.HasPrefix(name, "X-Minio-") || strings.HasPrefix(name, "X-Goog-") {
			return true
		}
	}
	return false
}

// checkObject tells whether the headers of an answer are those of an object. A
// page has some of them, too; objects are never pages.
func checkObject(resp *http.Response) error {
	h := resp.Header
	switch {
	case isPage(mediaOf(h)):
		return errors.New("no object is a page")
	case !hasETag(h):
		return errors.New("it has no ETag")
	case resp.ContentLength < 0 && (resp.Request.Method == http.MethodHead || len(resp.TransferEncoding) == 0 && resp.ProtoMajor == 1):
		return errors.New("it has no length")
	}
	if _, err := http.ParseTime(h.Get("Last-Modified")); err != nil {
		return errors.New("it has no time of modification")
	}
	return checkEncoding(h)
}

// hasETag tells whether h has an ETag as S3 services make them. Weak ones are web
// servers'.
func hasETag(h http.Header) bool {
	tag := h.Get("ETag")
	return tag != "" && !strings.HasPrefix(tag, "W/")
}

// checkEncoding tells whether a body is as it was stored. Nobody asked for it to
// be encoded.
func checkEncoding(h http.Header) error {
	switch enc := strings.ToLower(h.Get("Content-Encoding")); enc {
	case "", "identity", "aws-chunked":
		return nil
	default:
		return fmt.Errorf("it is encoded (%.20q): something changes it on its way", enc)
	}
}

// checkRange tells whether an answer holds the range that was asked for: all of
// it that there is.
func checkRange(asked string, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil // the whole
	}
	from, to, ok := parseRange(strings.TrimPrefix(asked, "bytes="))
	got, total, whole := strings.Cut(strings.TrimPrefix(resp.Header.Get("Content-Range"), "bytes "), "/")
	first, last, okGot := parseRange(got)
	size, err := strconv.ParseInt(total, 10, 64)
	switch {
	case !ok || resp.StatusCode != http.StatusPartialContent:
		return errors.New("no range was asked for")
	case !whole || !okGot || err != nil || first != from || last != min(to, size-1):
		return fmt.Errorf("%q is another range than %q", resp.Header.Get("Content-Range"), asked)
	case resp.ContentLength >= 0 && resp.ContentLength != last-first+1:
		return fmt.Errorf("its %d bytes are not those of range %q", resp.ContentLength, got)
	}
	return nil
}

// parseRange reads "first-last", or "first-" for all from there.
func parseRange(s string) (first, last int64, ok bool) {
	a, b, ok := strings.Cut(s, "-")
	first, err := strconv.ParseInt(a, 10, 64)
	if !ok || err != nil || first < 0 {
		return 0, 0, false
	}
	if b == "" {
		return first, 1<<63 - 1, true
	}
	last, err = strconv.ParseInt(b, 10, 64)
	return first, last, err == nil && last >= first
}

// CheckStored tells whether an answer with status 200 to a PUT with the headers
// asked is that of an S3 service which has stored the body: it has an ETag, and
// nothing to say. Only one that repeats the SHA-256 shows that the body was read;
// after any other, look whether the object is there.
func CheckStored(asked, answer http.Header, body []byte) error {
	media := mediaOf(answer)
	sent, stored := asked.Get(checksumHeader), answer.Get(checksumHeader)
	switch {
	case len(bytes.TrimSpace(body)) > 0 || isPage(media):
		return fmt.Errorf("an object that is stored is answered with no body (here %s)", describeBody(body))
	case isForeign(media):
		return errors.New("no S3 service answers with this type")
	case !hasETag(answer):
		return errors.New("it has no ETag")
	case sent != "" && stored != "" && sent != stored:
		return errors.New("the SHA-256 in it is that of other bytes")
	}
	return nil
}
