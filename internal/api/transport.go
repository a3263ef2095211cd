package api

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"pcapsule/internal/reload"
	"pcapsule/manifest"
)

// An Option of NewClient.
type Option func(*options) error

type options struct {
	ca      string // PEM file
	caPEM   []byte
	token   TokenSource
	dial    Dialer
	every   Dialer
	local   func() (*Local, error)
	claimed string
	name    string
	log     *slog.Logger
}

// A TokenSource returns the token to send with a request: at once when it has
// one that is valid. It may be called concurrently.
type TokenSource func(context.Context) (string, error)

// A Dialer connects to a hub, as net.Dialer.DialContext does.
type Dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// WithCA makes the certificates in a PEM file the only ones that vouch for the
// hub. They also vouch, beside those of the system, for the store that grants
// lead to. The file is read again when it changes.
func WithCA(file string) Option {
	return func(o *options) error { o.ca = file; return nil }
}

// WithCACertificates is WithCA with the file's contents.
func WithCACertificates(pem []byte) Option {
	return func(o *options) error { o.caPEM = pem; return nil }
}

// WithToken makes the client send a bearer token to the hub, and to nobody else.
func WithToken(source TokenSource) Option {
	return func(o *options) error { o.token = source; return nil }
}

// WithTokenFile is WithToken with the token in a file, which is read again when
// it changes.
func WithTokenFile(file string) Option {
	return func(o *options) error {
		v, err := reload.New(time.Now, o.warn, func(c [][]byte) (string, error) {
			s := strings.TrimSpace(string(c[0]))
			if s == "" || strings.ContainsAny(s, " \t\r\n") {
				return "", fmt.Errorf("%s holds no token", file)
			}
			return s, nil
		}, file)
		if err != nil {
			return fmt.Errorf("token file: %w", err)
		}
		o.token = func(context.Context) (string, error) { return v.Get(), nil }
		return nil
	}
}

// WithDialer makes the client reach the hub, but not the store, by another way
// than the network.
func WithDialer(dial Dialer) Option {
	return func(o *options) error { o.dial = dial; return nil }
}

// WithConnections makes the client dial by a function of the caller's wherever it
// connects, to the hub and to the store.
func WithConnections(dial Dialer) Option {
	return func(o *options) error { o.every = dial; return nil }
}

// WithClaimedUser makes the client tell the hub whom its token was made for.
func WithClaimedUser(name string) Option {
	return func(o *options) error { o.claimed = manifest.Clean(name); return nil } // a header takes no control characters
}

// WithName is how people call the hub, where its URL tells them nothing.
func WithName(name string) Option {
	return func(o *options) error { o.name = name; return nil }
}

// WithLogger tells logger what goes wrong with files that change. It comes
// before the options of these files.
func WithLogger(logger *slog.Logger) Option {
	return func(o *options) error { o.log = logger; return nil }
}

func (o *options) warn(err error) {
	if o.log != nil {
		o.log.Warn("a file cannot be read again; going on with what it held", "error", err)
	}
}

// connect fills in how c talks to its hub and to the store.
func (c *Client) connect(opts []Option) error {
	var o options
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return err
		}
	}
	if o.token != nil && c.base.Scheme != "https" && !isLoopback(c.base.Hostname()) {
		return fmt.Errorf("%s would carry the token in the clear: use https", c.Base())
	}
	var err error
	if c.hub, err = o.transport(true); err != nil {
		return err
	}
	if c.elsewhere, err = o.transport(false); err != nil {
		return err
	}
	c.http = &http.Client{Transport: &identified{c, o.token, o.claimed}, CheckRedirect: followNone}
	c.private = o.ca != "" || o.caPEM != nil
	c.name = cmp.Or(o.name, c.Base())
	return nil
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && a.IsLoopback()
}

// transport makes one to the hub, or to anything else.
func (o *options) transport(hub bool) (http.RoundTripper, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 32
	t.DisableCompression = true // chunks are compressed already
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if o.every != nil {
		t.DialContext = o.every
	}
	t.DialContext = patient(t.DialContext)
	if hub && o.local != nil {
		own := t.Clone()
		own.Proxy = nil
		own.DialContext = proven(t.DialContext, o.local)
		return &localTransport{o.local, t, own}, nil
	}
	if hub && o.dial != nil {
		o.reroute(t)
	}
	trusting := func(pem []byte, from string) (*http.Transport, error) {
		pool := x509.NewCertPool()
		if !hub {
			if system, err := x509.SystemCertPool(); err == nil {
				pool = system
			}
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", from)
		}
		own := t.Clone()
		own.TLSClientConfig.RootCAs = pool
		if hub && o.dial != nil {
			o.reroute(own)
		}
		return own, nil
	}
	switch {
	case o.caPEM != nil:
		return trusting(o.caPEM, "the hub's CA bundle")
	case o.ca == "":
		return t, nil
	}
	var last *http.Transport
	v, err := reload.New(time.Now, o.warn, func(c [][]byte) (*http.Transport, error) {
		next, err := trusting(c[0], o.ca)
		if err == nil && last != nil {
			last.CloseIdleConnections()
		}
		last = next
		return next, err
	}, o.ca)
	if err != nil {
		return nil, fmt.Errorf("CA file: %w", err)
	}
	return &renewed{v}, nil
}

// connectTimeout bounds the making of one connection, well below what a call may
// take. A hub that moves leaves its address behind: where nothing refuses what is
// sent there, as in many clusters, only another connection finds the new one.
const connectTimeout = 5 * time.Second

func patient(dial Dialer) Dialer {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		return dial(ctx, network, addr)
	}
}

// reroute makes a transport connect by the Dialer. Until TLS is established
// nothing was sent: what fails before is a dialError.
func (o *options) reroute(t *http.Transport) {
	t.Proxy = nil
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := o.dial(ctx, network, addr)
		if err != nil {
			return nil, &dialError{err}
		}
		return conn, nil
	}
	config := t.TLSClientConfig
	t.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := t.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		own := config.Clone()
		if own.ServerName, _, err = net.SplitHostPort(addr); err != nil {
			conn.Close()
			return nil, &dialError{err}
		}
		secure := tls.Client(conn, own)
		ctx, cancel := context.WithTimeout(ctx, t.TLSHandshakeTimeout)
		defer cancel()
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, &dialError{err}
		}
		return secure, nil
	}
}

// renewed is a transport whose CA file may change.
type renewed struct {
	now *reload.Value[*http.Transport]
}

func (t *renewed) RoundTrip(r *http.Request) (*http.Response, error) { return t.now.Get().RoundTrip(r) }

// CloseIdleConnections is what http.Client.CloseIdleConnections calls.
func (t *renewed) CloseIdleConnections() { t.now.Get().CloseIdleConnections() }

// identified is the transport to the hub, which says who asks. Nobody else is
// told.
type identified struct {
	c       *Client
	token   TokenSource
	claimed string
}

func (t *identified) RoundTrip(r *http.Request) (*http.Response, error) {
	if !t.c.isHub(r.URL) {
		return t.c.elsewhere.RoundTrip(r)
	}
	if t.token == nil && t.claimed == "" {
		return t.c.hub.RoundTrip(r)
	}
	ctx := r.Context()
	r = r.Clone(ctx)
	if t.token != nil {
		token, err := t.token(ctx)
		if err != nil {
			if r.Body != nil {
				r.Body.Close()
			}
			return nil, &tokenError{err}
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
	}
	if t.claimed != "" {
		r.Header.Set(HeaderClaimedUser, t.claimed)
	}
	return t.c.hub.RoundTrip(r)
}

// isHub tells whether u is of the hub: of its scheme, host and port.
func (c *Client) isHub(u *url.URL) bool {
	return u.Scheme == c.base.Scheme && strings.EqualFold(u.Host, c.base.Host)
}

// HTTP is a client that talks to the hub as this one does, for what is not in
// Client: store.NewHTTP takes it.
func (c *Client) HTTP() *http.Client { return c.http }

// granted is a client for uploads to u. A grant is all that they need: no token
// goes with it, which an S3 server would take for another kind of credentials,
// and whose owner is none of its business.
func (c *Client) granted(u *url.URL) *http.Client {
	if c.isHub(u) {
		return &http.Client{Transport: c.hub, CheckRedirect: followNone}
	}
	return &http.Client{Transport: c.elsewhere, CheckRedirect: followNone}
}

// followNone makes an answer of a redirect. What follows one may turn an upload
// into a request for a page, and takes what it carries to another host.
func followNone(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// dialError is a failure of a Dialer.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// tokenError is a failure of a TokenSource.
type tokenError struct{ err error }

func (e *tokenError) Error() string { return e.err.Error() }
func (e *tokenError) Unwrap() error { return e.err }

// distrust says, for people, why the other side's certificate is not good, or
// that there is no TLS where it was expected. It is empty for other errors.
func (c *Client) distrust(err error) string {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var other *tls.CertificateVerificationError
	var impostor *impostorError
	switch {
	case errors.As(err, &impostor):
		return impostor.Error()
	case errors.As(err, &unknown) && c.private:
		return "its certificate is not signed by the CA given for it: is that the CA of this hub (--hub-ca)?"
	case errors.As(err, &unknown):
		return "its certificate is signed by no CA that is known here: name its CA with --hub-ca"
	case errors.As(err, &name):
		return fmt.Sprintf("its certificate is not for the name %s (%v)", name.Host, name)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("its certificate is not valid now: %v", invalid)
	case errors.As(err, &other):
		return fmt.Sprintf("its certificate is not good: %v", other.Err)
	case errors.Is(err, http.ErrSchemeMismatch):
		return "it speaks plain HTTP there, no TLS: use an http:// URL"
	}
	return ""
}
