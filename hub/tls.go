package hub

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"pcapsule/internal/api"
)

// secured is l with TLS, for a hub that has a certificate.
//
// It offers HTTP/1.1 only. What goes to and from a hub is bulk, beside polls
// that wait: HTTP/2 would put all of a client into one connection, where one
// upload that stalls takes the window of the rest, and one core does the
// encryption of all.
func (h *Hub) secured(l net.Listener) net.Listener {
	if h.cfg.Certificate == nil && h.cfg.Local == nil {
		return l
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{ // of TLS 1.2: forward secrecy and AEAD only
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if h.cfg.Local != nil && (hello.ServerName == api.LocalName || h.cfg.Certificate == nil) {
				return h.cfg.Local, nil
			}
			return h.cfg.Certificate(), nil
		},
	}
	if h.cfg.Certificate == nil {
		return &eitherListener{l, config}
	}
	return tls.NewListener(l, config)
}

// An eitherListener takes TLS and plain connections alike.
type eitherListener struct {
	net.Listener
	config *tls.Config
}

func (l *eitherListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &eitherConn{Conn: conn, config: l.config}, nil
}

// An eitherConn is a connection whose first byte tells whether it is TLS: it is
// found out by the first Read, with the deadline of that.
type eitherConn struct {
	net.Conn
	config *tls.Config

	once   sync.Once
	secure atomic.Pointer[tls.Conn] // nil of a plain connection
	err    error                    // of the first byte
	first  []byte                   // of a plain connection, until it is read; the reader's
}

// tlsHandshake is the type of the first record of TLS, and begins no request.
const tlsHandshake = 0x16

func (c *eitherConn) Read(b []byte) (int, error) {
	c.once.Do(func() {
		first := make([]byte, 1)
		if _, c.err = io.ReadFull(c.Conn, first); c.err != nil {
			return
		}
		if first[0] == tlsHandshake {
			c.secure.Store(tls.Server(&prefixed{c.Conn, first}, c.config))
			return
		}
		c.first = first
	})
	switch s := c.secure.Load(); {
	case c.err != nil:
		return 0, c.err
	case s != nil:
		return s.Read(b)
	case len(c.first) > 0 && len(b) > 0:
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

func (c *eitherConn) Write(b []byte) (int, error) {
	if s := c.secure.Load(); s != nil {
		return s.Write(b)
	}
	return c.Conn.Write(b)
}

func (c *eitherConn) Close() error {
	if s := c.secure.Load(); s != nil {
		return s.Close()
	}
	return c.Conn.Close()
}

// prefixed reads first before the rest of a connection.
type prefixed struct {
	net.Conn
	first []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.first) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}
