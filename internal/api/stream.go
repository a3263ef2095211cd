package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"pcapsule/manifest"
)

// How a stream ends. A client that understands trailers says so in a request
// header, and the answer then ends with one of the two trailers: a stream with
// neither is not whole. For any other client the hub breaks the connection when
// a stream fails midway, so that no short file looks whole.
const (
	HeaderTrailers  = "Pcapsule-Trailers" // of a request: "1"
	HeaderLength    = "Pcapsule-Length"   // of the answer: bytes that will come, where known
	TrailerError    = "Pcapsule-Error"    // what went wrong, one line
	TrailerCode     = "Pcapsule-Code"     // its code, as an Error has it
	TrailerComplete = "Pcapsule-Complete" // "true": that was all
	TrailerEmpty    = "Pcapsule-Empty"    // of an export without packets: why, one line
)

// Formats of an export.
const (
	FormatPcapNG = "pcapng"
	FormatPcap   = "pcap"
)

// A PcapQuery says which packets of a snapshot to export; its zero value is all
// of them, as pcapng.
type PcapQuery struct {
	Range      manifest.Range
	Nodes      []string
	Interfaces []string

	// By the names that a cluster knew at each packet's time.
	Pods, Namespaces, Services []string

	Format string // FormatPcapNG or FormatPcap
	Plain  bool   // without names and events
}

// CodeUnknownName is the code of the error, with status 404, for a name that no
// pod, namespace or service in the snapshot has.
const CodeUnknownName = "unknown-name"

func (q PcapQuery) values() url.Values {
	v := url.Values{}
	if q.Range.From != nil {
		v.Set("from", q.Range.From.Time().Format(time.RFC3339Nano))
	}
	if q.Range.To != nil {
		v.Set("to", q.Range.To.Time().Format(time.RFC3339Nano))
	}
	v["node"], v["interface"] = q.Nodes, q.Interfaces
	v["pod"], v["namespace"], v["service"] = q.Pods, q.Namespaces, q.Services
	if q.Format != "" {
		v.Set("format", q.Format)
	}
	if q.Plain {
		v.Set("plain", "true")
	}
	return v
}

// A Stream is a file on its way from the hub. Read returns io.EOF only when the
// hub has said that it is whole; otherwise the error says what went wrong.
type Stream struct {
	Name string // a file name to keep it under
	Size int64  // bytes; -1 when the hub cannot know yet

	c    *Client
	ctx  context.Context
	resp *http.Response
	err  error // sticky
}

// Pcap exports a snapshot's packets. The caller closes the stream.
func (c *Client) Pcap(ctx context.Context, ref string, q PcapQuery) (*Stream, error) {
	return c.stream(ctx, call{method: http.MethodGet, path: "/snapshots/" + url.PathEscape(ref) + "/pcap", query: q.values()})
}

// Archive downloads a snapshot as a tar in the store's own layout. The caller
// closes the stream.
func (c *Client) Archive(ctx context.Context, ref string) (*Stream, error) {
	return c.stream(ctx, call{method: http.MethodGet, path: "/snapshots/" + url.PathEscape(ref) + "/archive"})
}

func (c *Client) stream(ctx context.Context, cl call) (*Stream, error) {
	var resp *http.Response
	err := c.retry(ctx, func() (again bool, err error) {
		resp, err = c.send(ctx, cl, nil) //nolint:bodyclose // Stream.Close does
		var answer *Error
		if errors.As(err, &answer) {
			return answer.Status == http.StatusServiceUnavailable, err
		}
		return errors.Is(err, ErrUnreachable), err
	})
	if err != nil {
		return nil, err
	}
	s := &Stream{Size: -1, c: c, ctx: ctx, resp: resp}
	if n, err := strconv.ParseInt(resp.Header.Get(HeaderLength), 10, 64); err == nil && n >= 0 {
		s.Size = n
	}
	if _, p, err := mime.ParseMediaType(resp.Header.Get("Content-Disposition")); err == nil {
		s.Name = p["filename"]
	}
	return s, nil
}

func (s *Stream) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.resp.Body.Read(p)
	if err != nil {
		s.err = s.ended(err)
	}
	return n, s.err
}

// ended tells what the end of the body means.
func (s *Stream) ended(err error) error {
	line := s.resp.Trailer.Get(TrailerError)
	switch {
	case line != "":
		return &Error{Status: s.resp.StatusCode, Code: s.resp.Trailer.Get(TrailerCode), Message: line}
	case errors.Is(err, io.EOF) && s.resp.Trailer.Get(TrailerComplete) == "true":
		return io.EOF
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the stream from %s ended without a word whether it is whole: a proxy in between may drop trailers; talk to the hub directly, or read the store with --store", s.c.name)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the hub at %s ended the stream early: try again, or see its log", s.c.name)
	default:
		return s.c.unreachable(s.ctx, err)
	}
}

// Empty says, once the stream was read to its end, why an export has no packets.
// It is empty where there are some, or the hub does not say.
func (s *Stream) Empty() string { return s.resp.Trailer.Get(TrailerEmpty) }

// Close ends the stream; before its end, the hub notices and stops.
func (s *Stream) Close() error { return s.resp.Body.Close() }
