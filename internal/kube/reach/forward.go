package reach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// Dial connects to the hub's pod, through the API server: whatever addr is. When
// the hub has been restarted, it finds the new pod.
//
// Every connection is a port-forward of its own, though one could carry many:
// its protocol stops all of them while one is not read, and whoever merges
// streams may read one only after another.
func (h *Hub) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	h.mu.Lock()
	to := h.pod
	h.mu.Unlock()
	if to != nil {
		conn, err := h.forward(ctx, to)
		if err == nil || ctx.Err() != nil {
			return conn, err
		}
	}
	to, err := h.find(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := h.forward(ctx, to)
	if err == nil {
		h.mu.Lock()
		h.pod = to
		h.mu.Unlock()
	}
	return conn, err
}

// lost forgets a pod to which a connection has failed.
func (h *Hub) lost(t *target) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pod == t {
		h.pod = nil
	}
}

// forward connects to a pod.
func (h *Hub) forward(ctx context.Context, to *target) (net.Conn, error) {
	d, err := dialer(h.cluster.Config, h.Namespace, to.pod)
	if err != nil {
		return nil, h.problem("forward a port to the hub's pod", err)
	}
	type dialled struct {
		conn *conn
		err  error
	}
	done := make(chan dialled, 1)
	go func() {
		c, err := open(d, to.port)
		done <- dialled{c, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			h.lost(to)
			if apierrors.IsForbidden(r.err) || strings.Contains(r.err.Error(), "pods/portforward") {
				return nil, fmt.Errorf("you may not forward ports to the hub's pod: ask for a RoleBinding in namespace %s to the Role of the hub that ends in -access (Kubernetes says: %w)", h.Namespace, r.err)
			}
			return nil, fmt.Errorf("forward a port to the hub's pod %s in namespace %s: %w", to.pod, h.Namespace, r.err)
		}
		r.conn.failed = func() { h.lost(to) }
		r.conn.name = fmt.Sprintf("pod %s in namespace %s", to.pod, h.Namespace)
		return r.conn, nil
	case <-ctx.Done():
		go func() { // the dialer knows no context
			if r := <-done; r.err == nil {
				r.conn.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// dialer opens port-forwards as kubectl does: over a web socket, or with API
// servers and proxies that do not know that, by SPDY.
func dialer(cfg *rest.Config, namespace, pod string) (httpstream.Dialer, error) {
	base, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, err
	}
	u := base.JoinPath("/api/v1/namespaces", url.PathEscape(namespace), "pods", url.PathEscape(pod), "portforward")
	transport, upgrader, err := spdy.RoundTripperFor(cfg)
	if err != nil {
		return nil, err
	}
	older := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
	newer, err := portforward.NewSPDYOverWebsocketDialerForStreaming(u, cfg)
	if err != nil {
		return nil, err
	}
	return portforward.NewFallbackDialerForStreaming(newer, older, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

// open opens a port-forward with one connection.
func open(d httpstream.Dialer, port int32) (*conn, error) {
	session, protocol, err := d.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, err
	}
	if protocol != portforward.PortForwardProtocolV1Name {
		session.Close()
		return nil, fmt.Errorf("the API server speaks %q, not %q", protocol, portforward.PortForwardProtocolV1Name)
	}
	headers := http.Header{}
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	headers.Set(corev1.PortHeader, strconv.Itoa(int(port)))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	trouble, err := session.CreateStream(headers)
	if err != nil {
		session.Close()
		return nil, err
	}
	trouble.Close() // we write nothing to it
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := session.CreateStream(headers)
	if err != nil {
		session.Close()
		return nil, err
	}
	c := &conn{session: session, data: data, ended: make(chan struct{})}
	go c.listen(trouble)
	return c, nil
}

// conn is a connection to a port of a pod. It knows no deadlines; whoever gives
// up closes it.
type conn struct {
	session httpstream.Connection
	data    httpstream.Stream
	name    string // of the pod, for people
	failed  func() // is told when the pod's end fails

	ended   chan struct{} // closed when trouble is final
	trouble error         // what the pod's end says went wrong

	closing sync.Once
}

// maxTrouble bounds what is read of an error.
const maxTrouble = 4 << 10

// listen hears what goes wrong at the pod's end.
func (c *conn) listen(s io.Reader) {
	defer close(c.ended)
	b, err := io.ReadAll(io.LimitReader(s, maxTrouble))
	switch says := strings.Join(strings.Fields(string(b)), " "); {
	case says != "":
		c.trouble = errors.New(says)
	case err != nil:
		c.trouble = err
	}
}

// troubleTime is how long the reason why a stream ended may come after its end.
const troubleTime = time.Second

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.data.Read(b)
	if err == nil {
		return n, nil
	}
	// The end of the stream may be that of the connection, or of the forward.
	t := time.NewTimer(troubleTime)
	defer t.Stop()
	select {
	case <-c.ended:
	case <-c.session.CloseChan():
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
	case <-t.C:
	}
	select {
	case <-c.ended:
		if c.trouble != nil {
			err = fmt.Errorf("the port-forward to %s ended: %w", c.name, c.trouble)
		}
	default:
	}
	if !errors.Is(err, io.EOF) && c.failed != nil {
		c.failed()
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) { return c.data.Write(b) }

func (c *conn) Close() error {
	c.closing.Do(func() {
		_ = c.data.Reset()
		_ = c.session.Close()
	})
	return nil
}

// address is of either end.
type address string

func (address) Network() string  { return "kubernetes" }
func (a address) String() string { return string(a) }

func (c *conn) LocalAddr() net.Addr              { return address("port-forward") }
func (c *conn) RemoteAddr() net.Addr             { return address(c.name) }
func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
