package store

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// decodeDocument decodes an XML document into v: one root element of the given
// name, whole, and nothing after it. Its errors say what is wrong with it, in few
// words of our own. The namespace differs between services.
func decodeDocument(b []byte, root string, v any) error {
	d := xml.NewDecoder(bytes.NewReader(bytes.TrimPrefix(b, []byte("\ufeff"))))
	seen := false
	other := func() error {
		if seen {
			return fmt.Errorf("something comes after its <%s>", root)
		}
		return fmt.Errorf("it is %s, not <%s>", describeBody(b), root)
	}
	for {
		token, err := d.Token()
		switch {
		case errors.Is(err, io.EOF) && seen:
			return nil
		case err != nil:
			return other()
		}
		switch token := token.(type) {
		case xml.StartElement:
			if seen || token.Name.Local != root {
				return other()
			}
			if err := d.DecodeElement(v, &token); err != nil {
				return fmt.Errorf("its <%s> is broken or cut short", root)
			}
			seen = true
		case xml.CharData:
			if len(bytes.TrimSpace(token)) > 0 {
				return other()
			}
		case xml.Directive:
			return other()
		}
	}
}

const aPage = "an HTML page"

// describeBody says for people what a body is that is not what it should be.
func describeBody(b []byte) string {
	b = bytes.TrimSpace(bytes.TrimPrefix(b, []byte("\ufeff")))
	lower := bytes.ToLower(b[:min(len(b), 512)])
	switch {
	case len(b) == 0:
		return "empty"
	case bytes.HasPrefix(lower, []byte("<!doctype html")), bytes.HasPrefix(lower, []byte("<html")):
		return aPage
	case b[0] == '{' || b[0] == '[':
		return "JSON"
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b}):
		return "compressed"
	}
	d := xml.NewDecoder(bytes.NewReader(b))
	for {
		token, err := d.Token()
		if err != nil {
			return "no XML"
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		var doc struct{ Code string }
		if start.Name.Local == "Error" && d.DecodeElement(&doc, &start) == nil && isWord(doc.Code) {
			return "an error, " + doc.Code
		}
		if isWord(start.Name.Local) {
			return "<" + start.Name.Local + ">"
		}
		return "other XML"
	}
}

// isWord tells whether s is short and safe to print.
func isWord(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') {
			return false
		}
	}
	return s != "" && len(s) <= 60
}

// listDocument is the part of a ListBucketResult that can be held against what
// was asked. A nil member was not there.
type listDocument struct {
	Name                  *string
	Prefix                *string
	KeyCount              *string
	MaxKeys               *string
	IsTruncated           *string
	EncodingType          string
	ContinuationToken     string
	NextContinuationToken string
	Contents              []struct {
		Key          *string
		Size         *string
		LastModified *string
	}
	CommonPrefixes []struct{ Prefix string }
}

// checkList tells whether body is a page of the list that query asks for: whole,
// of this bucket and prefix, with as many keys as it counts, and clear about
// whether there are more. That its keys are in order is checked where pages meet.
func checkList(body []byte, bucket string, query url.Values) error {
	var l listDocument
	if err := decodeDocument(body, "ListBucketResult", &l); err != nil {
		return err
	}
	// Behind an access point, the name may be another than that which was asked.
	alias := strings.HasSuffix(bucket, "-s3alias") || strings.HasPrefix(bucket, "arn:")
	prefix, token := query.Get("prefix"), query.Get("continuation-token")
	switch {
	case l.Name == nil:
		return errors.New("it does not say of which bucket it is")
	case *l.Name != bucket && !alias:
		return fmt.Errorf("it is of bucket %.70q, not of %q", *l.Name, bucket)
	case l.Prefix == nil && prefix != "":
		return fmt.Errorf("it does not say that it is of prefix %q", prefix)
	case l.Prefix != nil && !l.echoes(*l.Prefix, prefix):
		return fmt.Errorf("it is of prefix %.100q, not of %q", *l.Prefix, prefix)
	case l.ContinuationToken != "" && !l.echoes(l.ContinuationToken, token):
		return errors.New("it is of another page than was asked for")
	case len(l.CommonPrefixes) > 0:
		return errors.New("it lists folders, which nobody asked for")
	case l.MaxKeys != nil && strings.TrimSpace(*l.MaxKeys) == "0":
		return errors.New("it has room for no key")
	}
	if l.KeyCount != nil {
		if n, err := strconv.Atoi(strings.TrimSpace(*l.KeyCount)); err != nil || n != len(l.Contents) {
			return fmt.Errorf("it says that it has %.20q keys and has %d", *l.KeyCount, len(l.Contents))
		}
	}
	more, err := l.truncated()
	switch {
	case err != nil:
		return err
	case more && (l.NextContinuationToken == "" || l.NextContinuationToken == token):
		return errors.New("it says that there are more keys, and does not lead to them")
	}
	return l.checkContents(prefix)
}

func (l *listDocument) truncated() (bool, error) {
	if l.IsTruncated != nil {
		switch strings.TrimSpace(*l.IsTruncated) {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
	}
	return false, errors.New("it does not say whether there are more keys")
}

func (l *listDocument) checkContents(prefix string) error {
	for _, c := range l.Contents {
		if c.Key == nil || c.Size == nil || c.LastModified == nil {
			return errors.New("one of its entries has no key, size or time")
		}
		key := *c.Key
		if l.EncodingType == "url" {
			var err error
			if key, err = url.QueryUnescape(key); err != nil {
				return fmt.Errorf("the name of an entry, %.100q, is not encoded as it says", *c.Key)
			}
		}
		if !strings.HasPrefix(key, prefix) {
			return fmt.Errorf("it has %.100q, which is not below %q", key, prefix)
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(*c.Size), 10, 64); err != nil || n < 0 {
			return fmt.Errorf("the size of %.100q is %.20q", key, *c.Size)
		}
		if _, err := time.Parse(time.RFC3339, strings.TrimSpace(*c.LastModified)); err != nil {
			return fmt.Errorf("the time of %.100q is %.40q", key, *c.LastModified)
		}
	}
	return nil
}

// echoes tells whether got is want, sent back: encoded or, by some services, not.
func (l *listDocument) echoes(got, want string) bool {
	if got == want {
		return true
	}
	plain, err := url.QueryUnescape(got)
	return err == nil && l.EncodingType == "url" && plain == want
}
