package hub

import (
	"crypto/tls"
	"net"
)

// secured is l with TLS, for a hub that has a certificate.
//
// It offers HTTP/1.1 only. What goes to and from a hub is bulk, beside polls
// that wait: HTTP/2 would put all of a client into one connection, where one
// upload that stalls takes the window of the rest, and one core does the
// encryption of all.
func (h *Hub) secured(l net.Listener) net.Listener {
	if h.cfg.Certificate == nil {
		return l
	}
	return tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{ // of TLS 1.2: forward secrecy and AEAD only
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return h.cfg.Certificate(), nil
		},
	})
}
