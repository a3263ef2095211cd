package api

import (
	"bytes"
	"context"
	cryptorand "crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"pcapsule/manifest"
)

// DefaultBase is where a hub listens unless it is told otherwise.
const DefaultBase = "http://127.0.0.1:8898"

// maxAnswer bounds a JSON answer, so that a wrong server cannot fill memory.
const maxAnswer = 64 << 20

// callTimeout bounds one attempt of a call that the hub answers at once.
const callTimeout = time.Minute

// completeTimeout is longer: the hub looks for every chunk in the store, of which
// a terabyte has more than a hundred thousand.
const completeTimeout = 10 * time.Minute

// grantTimeout is longer too: thousands of agents may ask at once.
const grantTimeout = 3 * time.Minute

// ErrUnreachable is wrapped by the error of a call that no hub answered.
var ErrUnreachable = errors.New("hub cannot be reached")

// A Client talks to one hub. Its methods may be called concurrently. Whatever
// the hub refuses comes back as an *Error; a hub that does not answer is
// ErrUnreachable.
type Client struct {
	base      *url.URL
	http      *http.Client      // to the hub, saying who asks
	hub       http.RoundTripper // to the hub
	elsewhere http.RoundTripper // to where grants lead
	private   bool              // CAs were given
	name      string            // for people
}

// NewClient is a client of the hub at base, an http or https URL; an empty one
// is DefaultBase.
func NewClient(base string, opts ...Option) (*Client, error) {
	if base == "" {
		base = DefaultBase
	}
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is no address of a hub: want one like %s", base, DefaultBase)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	c := &Client{base: u}
	if err := c.connect(opts); err != nil {
		return nil, err
	}
	return c, nil
}

// Base is the hub's URL, without a slash at its end.
func (c *Client) Base() string { return c.base.String() }

// Name is what people call the hub: its URL, unless WithName says otherwise.
func (c *Client) Name() string { return c.name }

// ObjectsBase is the URL under which the hub serves the objects of its store,
// read-only: what store.NewHTTP takes, with HTTP.
func (c *Client) ObjectsBase() string { return c.Base() + Prefix + "/objects/" }

type patienceKey struct{}

// Patiently makes calls under ctx try again, with backoff, while the hub is down
// or answers 503, for up to d. Without it a call is tried once. Creating a
// snapshot, which cannot be repeated blindly, is tried again only when the hub
// has certainly not begun.
func Patiently(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, patienceKey{}, d)
}

func patience(ctx context.Context) time.Duration {
	d, _ := ctx.Value(patienceKey{}).(time.Duration)
	return d
}

// ErrImpostor says that a program which answers as a hub lacks that hub's key.
var ErrImpostor = errors.New("it does not have the key that it shows, so it is another program than the hub")

// Hub tells about the hub. Proven says that it has shown to have the private half
// of its PublicKey; a proof that is none is an error.
func (c *Client) Hub(ctx context.Context) (*Hub, error) {
	var random [32]byte
	if _, err := cryptorand.Read(random[:]); err != nil {
		return nil, err
	}
	challenge := hex.EncodeToString(random[:])
	h, err := do[Hub](ctx, c, call{method: http.MethodGet, path: "/hub", query: url.Values{"challenge": {challenge}}})
	if err != nil || h.Proof == "" {
		return h, err
	}
	text, err := ProofText(challenge)
	if err != nil {
		return nil, err
	}
	key, err := manifest.CheckSignature(text, []byte(h.Proof))
	if err != nil || key.SignersLine() != h.PublicKey {
		return nil, fmt.Errorf("what answers at %s: %w", c.Name(), ErrImpostor)
	}
	h.Proven = true
	return h, nil
}

// Secure tells whether the connection itself says who the hub is.
func (c *Client) Secure() bool { return c.base.Scheme == "https" }

// Nodes lists the nodes whose agents have reported.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	n, err := do[[]Node](ctx, c, call{method: http.MethodGet, path: "/nodes"})
	if err != nil {
		return nil, err
	}
	return *n, nil
}

// Snapshots lists all snapshots, also those in the making, by creation.
func (c *Client) Snapshots(ctx context.Context) ([]Snapshot, error) {
	s, err := do[[]Snapshot](ctx, c, call{method: http.MethodGet, path: "/snapshots"})
	if err != nil {
		return nil, err
	}
	return *s, nil
}

// Snapshot is the state of one snapshot, by name or id.
func (c *Client) Snapshot(ctx context.Context, ref string) (*Snapshot, error) {
	return do[Snapshot](ctx, c, call{method: http.MethodGet, path: "/snapshots/" + url.PathEscape(ref)})
}

// nextHub is how long Create waits for the hub that follows one that stops.
const nextHub = time.Minute

// Create asks for a snapshot. It returns as soon as the hub has begun. A hub that
// says that it stops has not begun anything: the next one is asked, as it comes.
func (c *Client) Create(ctx context.Context, req CreateRequest) (*Snapshot, error) {
	var s *Snapshot
	stopped := false
	err := c.retry(Patiently(ctx, nextHub), func() (again bool, err error) {
		s, err = do[Snapshot](ctx, c, call{method: http.MethodPost, path: "/snapshots", in: req, once: true})
		var answer *Error
		switch {
		case err == nil:
			return false, nil
		case errors.As(err, &answer):
			stopped = stopped || answer.Code == CodeStopping
			return answer.Code == CodeStopping || stopped && answer.Status == http.StatusServiceUnavailable, err
		}
		return stopped && dialFailed(err), err
	})
	if errors.Is(err, ErrUnreachable) && !dialFailed(err) && c.distrust(err) == "" {
		err = fmt.Errorf("%w; it may have begun the snapshot all the same: see `pcapsule snapshot list`", err)
	}
	return s, err
}

// Delete is Remove for those who know what ref is.
func (c *Client) Delete(ctx context.Context, ref string) error {
	_, err := c.Remove(ctx, ref)
	return err
}

// Remove deletes a snapshot, by name or id. What only it held goes at the next
// sweep. A session under way is ended instead, and returned.
func (c *Client) Remove(ctx context.Context, ref string) (*Ended, error) {
	e, err := do[Ended](ctx, c, call{method: http.MethodDelete, path: "/snapshots/" + url.PathEscape(ref)})
	if err != nil || e.ID == "" {
		return nil, err
	}
	return e, nil
}

// Sweep deletes what no snapshot holds, or only tells what would go. It returns
// when that is done.
func (c *Client) Sweep(ctx context.Context, dryRun bool) (*SweepReport, error) {
	cl := call{method: http.MethodPost, path: "/sweep", timeout: -1}
	if dryRun {
		cl.query = url.Values{"dry_run": {"true"}}
	}
	return do[SweepReport](ctx, c, cl)
}

// Poll tells the hub an agent's state and waits, for about req.Wait, for tasks.
func (c *Client) Poll(ctx context.Context, node string, req PollRequest) (*PollAnswer, error) {
	wait := max(0, time.Duration(req.Wait)) + 15*time.Second
	return do[PollAnswer](ctx, c, call{method: http.MethodPost, path: "/agents/" + url.PathEscape(node) + "/poll", in: req, timeout: wait})
}

// Grants asks where a node's objects go. At most MaxGrants at once.
func (c *Client) Grants(ctx context.Context, session, node string, req GrantRequest) (*GrantAnswer, error) {
	a, err := do[GrantAnswer](ctx, c, call{method: http.MethodPost, path: part(session, node, "grants"), in: req, timeout: grantTimeout})
	if err != nil {
		return nil, err
	}
	if len(a.Placements) != len(req.Objects) {
		return nil, fmt.Errorf("hub at %s placed %d of %d objects", c.name, len(a.Placements), len(req.Objects))
	}
	return a, nil
}

// Progress reports how far p.Node is with its part of a session.
func (c *Client) Progress(ctx context.Context, session string, p Progress) error {
	_, err := do[none](ctx, c, call{method: http.MethodPost, path: part(session, p.Node, "progress"), in: p})
	return err
}

// Complete hands in a node's finished part of a session. Handing in the same
// part again is no error.
func (c *Client) Complete(ctx context.Context, session, node string, req CompleteRequest) error {
	_, err := do[none](ctx, c, call{method: http.MethodPost, path: part(session, node, "complete"), in: req, timeout: completeTimeout})
	return err
}

func part(session, node, verb string) string {
	return "/sessions/" + url.PathEscape(session) + "/nodes/" + url.PathEscape(node) + "/" + verb
}

// call is one request and how it is made.
type call struct {
	method  string
	path    string // below Prefix, escaped
	query   url.Values
	in      any           // JSON body, or nil
	timeout time.Duration // of one attempt; 0 is callTimeout, negative is none
	once    bool          // not to be repeated unless it certainly had no effect
}

// none is an answer without a body.
type none struct{}

// do makes a call, as often as the context's patience allows.
func do[T any](ctx context.Context, c *Client, cl call) (*T, error) {
	var body []byte
	if cl.in != nil {
		var err error
		if body, err = json.Marshal(cl.in); err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
	}
	var out *T
	unsure := false // an attempt may have had its effect although it failed
	err := c.retry(ctx, func() (again bool, err error) {
		out, err = attempt[T](ctx, c, cl, body)
		var answer *Error
		switch {
		case err == nil:
			return false, nil
		case errors.As(err, &answer):
			if answer.Status == http.StatusNotFound && cl.method == http.MethodDelete && unsure {
				out = new(T) // an earlier attempt deleted it
				return false, nil
			}
			unsure = unsure || answer.Status >= 500
			return answer.Status == http.StatusServiceUnavailable, err
		case c.distrust(err) != "":
			return false, err
		case dialFailed(err):
			return true, err
		default:
			unsure = true
			return !cl.once && errors.Is(err, ErrUnreachable), err
		}
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// retry runs try until it says that trying again is pointless, or the patience
// of ctx is over.
func (c *Client) retry(ctx context.Context, try func() (again bool, err error)) error {
	end := time.Now().Add(patience(ctx))
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		again, err := try()
		if err == nil || !again || ctx.Err() != nil {
			return err
		}
		wait := pause/2 + rand.N(pause)
		if time.Now().Add(wait).After(end) {
			return err
		}
		if sleep(ctx, wait) != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func attempt[T any](ctx context.Context, c *Client, cl call, body []byte) (*T, error) {
	if cl.timeout >= 0 {
		d := cl.timeout
		if d == 0 {
			d = callTimeout
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	resp, err := c.send(ctx, cl, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out := new(T)
	_, empty := any(out).(*none)
	if resp.StatusCode == http.StatusNoContent && (empty || cl.method == http.MethodDelete) {
		return out, nil
	}
	if empty {
		return nil, c.strange(resp, "it should have nothing to say")
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, c.unreachable(ctx, err)
	case len(b) > maxAnswer:
		return nil, fmt.Errorf("hub at %s answers with more than %d MiB", c.name, maxAnswer>>20)
	}
	if err := decode(b, out); err != nil {
		return nil, c.strange(resp, err.Error())
	}
	return out, nil
}

// send makes one request. Any answer but a success becomes an error. The caller
// closes the body.
func (c *Client) send(ctx context.Context, cl call, body []byte) (*http.Response, error) {
	u := c.Base() + Prefix + cl.path
	if len(cl.query) > 0 {
		u += "?" + cl.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, cl.method, u, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set(HeaderTrailers, "1")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if resp.StatusCode/100 == 2 && !isPage(resp) {
		return resp, nil
	}
	defer resp.Body.Close()
	if isPage(resp) || resp.StatusCode/100 == 3 {
		return nil, c.strange(resp, "")
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	e := &Error{Status: resp.StatusCode}
	if resp.StatusCode == http.StatusBadRequest && c.base.Scheme == "http" && bytes.Contains(b, []byte("HTTPS server")) {
		return nil, fmt.Errorf("%s speaks TLS: use an https:// URL", c.Base())
	}
	if json.Unmarshal(b, e) != nil || e.Code == "" || e.Message == "" {
		return nil, c.strange(resp, "")
	}
	return nil, e
}

// hubError is a failure to talk to the hub at all.
type hubError struct {
	line string
	err  error
}

func (e *hubError) Error() string   { return e.line }
func (e *hubError) Unwrap() []error { return []error{ErrUnreachable, e.err} }

// unreachable makes a line for people of a failed exchange.
func (c *Client) unreachable(ctx context.Context, err error) error {
	const choose = "(--hub URL or PCAPSULE_HUB to choose another)"
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return context.Cause(ctx)
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // without the method and the URL, which we say better
	}
	var dns *net.DNSError
	var timeout net.Error
	var token *tokenError
	var dial *dialError
	switch {
	case errors.As(err, &token):
		return token.err
	case c.distrust(err) != "":
		return &hubError{fmt.Sprintf("the hub at %s is not trusted: %s", c.name, c.distrust(err)), err}
	case errors.As(err, &dial):
		return &hubError{dial.Error(), err}
	case errors.As(err, &dns):
		return &hubError{fmt.Sprintf("the hub's host %s cannot be found: check the name %s", c.base.Hostname(), choose), err}
	case errors.As(err, &timeout) && timeout.Timeout():
		return &hubError{fmt.Sprintf("the hub at %s does not answer in time: try again, or see its log %s", c.name, choose), err}
	case dialFailed(err) && !isLoopback(c.base.Hostname()):
		return &hubError{fmt.Sprintf("nothing answers at %s: is the hub running? %s", c.Base(), choose), err}
	case dialFailed(err):
		return &hubError{fmt.Sprintf("nothing listens at %s: is `pcapsule up` running? %s", c.Base(), choose), err}
	default:
		return &hubError{fmt.Sprintf("the connection to the hub at %s broke: %v", c.name, err), err}
	}
}

// dialFailed tells whether no connection came about, so that nothing was sent.
func dialFailed(err error) bool {
	var op *net.OpError
	var dial *dialError
	return errors.As(err, &dial) || errors.As(err, &op) && op.Op == "dial"
}
