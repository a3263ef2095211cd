package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
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
	return func(o *options) error {
		o.local = find
		o.token = func(context.Context) (string, error) {
			if l, err := find(); err == nil && l != nil {
				return l.Token, nil
			}
			return "", nil // the hub is away, which the connection tells in a way that is tried again
		}
		return nil
	}
}

// proven connects by dial to a hub on this machine that proves to be the one that
// find tells of.
func proven(dial Dialer, find func() (*Local, error)) Dialer {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		l, err := find()
		switch {
		case err != nil:
			conn.Close()
			return nil, &dialError{err}
		case l == nil:
			return conn, nil
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
			return nil, &dialError{fmt.Errorf("the hub at %s does not answer: %w", addr, err)}
		}
		return secure, nil
	}
}

// impostorError says that another program listens where the hub should.
type impostorError struct{ addr string }

func (e *impostorError) Error() string {
	return fmt.Sprintf("what listens at %s is not the hub that this user may use: another program has its port", e.addr)
}
