package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
)

// LocalName is what the certificate of a hub on this machine is for. Nobody can
// have another for it: clients trust that one certificate and no CA.
const LocalName = "hub.pcapsule.local"

// Local is what lets a client in at a hub on this machine, out of a file that only
// the client's user and root can write.
type Local struct {
	Certificate []byte // PEM: whoever listens has to have its key
	Token       string // "" for a hub that asks nobody
}

// WithLocal makes the client talk to a hub on this machine over TLS, with whoever
// has the key of the certificate that find returns, before anything else is said:
// a port says nothing of who listens there. find is called for each connection and
// each request, since a hub that starts again has another certificate and token.
// Where it returns nil, the client connects as it would without.
func WithLocal(find func() (*Local, error)) Option {
	return func(o *options) error { o.local = find; return nil }
}

// A localTransport is the transport to a hub on this machine. What goes to the hub
// that find tells of, with a token, has connections of its own: none that was made
// without a proof is ever used for it.
type localTransport struct {
	find   func() (*Local, error)
	plain  http.RoundTripper
	proven *http.Transport
}

func (t *localTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	l, err := t.find()
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, &dialError{err}
	}
	resp, err := t.send(r, l)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || r.Body != nil && r.GetBody == nil {
		return resp, err
	}
	// A hub that has just started may have answered what was for the one before.
	now, err := t.find()
	if err != nil || now == nil || l != nil && now.Token == l.Token {
		return resp, nil
	}
	again := r.Clone(r.Context())
	if r.GetBody != nil {
		if again.Body, err = r.GetBody(); err != nil {
			return resp, nil
		}
	}
	resp.Body.Close()
	return t.send(again, now)
}

func (t *localTransport) send(r *http.Request, l *Local) (*http.Response, error) {
	if l == nil {
		return t.plain.RoundTrip(r)
	}
	if l.Token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+l.Token)
	}
	return t.proven.RoundTrip(r)
}

// CloseIdleConnections is what http.Client.CloseIdleConnections calls.
func (t *localTransport) CloseIdleConnections() { t.proven.CloseIdleConnections() }

// proven connects by dial to a hub on this machine that proves to be the one that
// find tells of.
func proven(dial Dialer, find func() (*Local, error)) Dialer {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		l, err := find()
		if err == nil && l == nil {
			err = errors.New("the hub on this machine has ended: try again")
		}
		if err != nil {
			conn.Close()
			return nil, &dialError{err}
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(l.Certificate) {
			conn.Close()
			return nil, &dialError{errors.New("the file of the hub on this machine holds no certificate: start the hub again")}
		}
		secure := tls.Client(conn, &tls.Config{
			MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: LocalName, NextProtos: []string{"http/1.1"},
		})
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			var plain tls.RecordHeaderError
			var other *tls.CertificateVerificationError
			if errors.As(err, &plain) || errors.As(err, &other) {
				return nil, &impostorError{addr}
			}
			return nil, &dialError{fmt.Errorf("the connection to the hub at %s broke before anything was sent: %w", addr, err)}
		}
		return secure, nil
	}
}

// impostorError says that another program listens where the hub should.
type impostorError struct{ addr string }

func (e *impostorError) Error() string {
	return fmt.Sprintf("what listens at %s is not the hub that this user may use: another program has its port", e.addr)
}
