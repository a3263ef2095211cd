package packets

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Own are the connections that a process makes to do its work, such as an upload
// of what it captured. A capture leaves their packets out, from the first to the
// last: the local end of each is known before it is connected, and matched alone,
// so that a service address that the kernel translates changes nothing.
//
// It may be used with no capture, several, or one that comes later. The zero Own
// is ready, and a nil one dials all the same.
type Own struct {
	mu    sync.Mutex
	ends  map[End]int // how many connections have it, or had it a moment ago
	sinks []*func(End, bool)
}

// An End is one end of a TCP or UDP connection.
type End struct {
	Protocol uint8 // of IP
	Addr     netip.AddrPort
}

// Protocol numbers of IP.
const (
	TCP = 6
	UDP = 17
)

// linger is how long packets of a closed connection are left out: the last of
// them come after the close. It is TIME_WAIT's length, for which the port is not
// used by another.
const linger = time.Minute

// DialContext connects as a net.Dialer does. It fits http.Transport.
func (o *Own) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	if o == nil {
		return d.DialContext(ctx, network, address)
	}
	// Questions to name servers are ours, too.
	d.Resolver = &net.Resolver{PreferGo: true, Dial: o.dialResolver}
	return o.dial(ctx, &d, network, address)
}

func (o *Own) dialResolver(ctx context.Context, network, address string) (net.Conn, error) {
	return o.dial(ctx, &net.Dialer{}, network, address)
}

func (o *Own) dial(ctx context.Context, d *net.Dialer, network, address string) (net.Conn, error) {
	// One dial may try several addresses, and two at once.
	var mu sync.Mutex
	var tried []End
	d.ControlContext = func(_ context.Context, network, address string, c syscall.RawConn) error {
		end, err := bindEnd(network, address, c)
		if err != nil {
			return nil // the end is known once it is connected
		}
		o.leaveOut(end)
		mu.Lock()
		tried = append(tried, end)
		mu.Unlock()
		return nil
	}
	conn, err := d.DialContext(ctx, network, address)
	mu.Lock()
	defer mu.Unlock()
	if err != nil {
		for _, e := range tried {
			o.release(e)
		}
		return nil, err
	}
	end, known := endOf(conn)
	if known && !slices.Contains(tried, end) {
		o.leaveOut(end)
		tried = append(tried, end)
	}
	for _, e := range tried {
		if e != end {
			o.release(e)
		}
	}
	if !known {
		return conn, nil
	}
	switch c := conn.(type) {
	case *net.TCPConn:
		return &ownTCP{TCPConn: c, closed: sync.OnceFunc(func() { o.release(end) })}, nil
	case *net.UDPConn:
		return &ownUDP{UDPConn: c, closed: sync.OnceFunc(func() { o.release(end) })}, nil
	}
	return conn, nil
}

// endOf is the local end of a connection.
func endOf(c net.Conn) (End, bool) {
	switch a := c.LocalAddr().(type) {
	case *net.TCPAddr:
		return End{TCP, unmap(a.AddrPort())}, true
	case *net.UDPAddr:
		return End{UDP, unmap(a.AddrPort())}, true
	}
	return End{}, false
}

// unmap makes addresses comparable.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// Connections that still are what those who look closer expect.
type (
	ownTCP struct {
		*net.TCPConn
		closed func()
	}
	ownUDP struct {
		*net.UDPConn
		closed func()
	}
)

func (c *ownTCP) Close() error { defer c.closed(); return c.TCPConn.Close() }
func (c *ownUDP) Close() error { defer c.closed(); return c.UDPConn.Close() }

// LeaveOut leaves out packets from and to an address and port that is not local
// to a connection of this process, until the function is called that it returns:
// that of a hub, whose connections the kernel may give another local end on their
// way.
func (o *Own) LeaveOut(protocol uint8, addr netip.AddrPort) (again func()) {
	e := End{protocol, unmap(addr)}
	o.leaveOut(e)
	return sync.OnceFunc(func() { o.forget(e) })
}

func (o *Own) leaveOut(e End) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ends == nil {
		o.ends = map[End]int{}
	}
	o.ends[e]++
	if o.ends[e] == 1 {
		o.tell(e, true)
	}
}

func (o *Own) release(e End) { time.AfterFunc(linger, func() { o.forget(e) }) }

func (o *Own) forget(e End) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ends[e]--
	if o.ends[e] == 0 {
		delete(o.ends, e)
		o.tell(e, false)
	}
}

// tell is called with mu held.
func (o *Own) tell(e End, on bool) {
	for _, s := range o.sinks {
		(*s)(e, on)
	}
}

// follow tells of the ends there are, and of those that come and go, until stop
// is called.
func (o *Own) follow(sink func(e End, on bool)) (stop func()) {
	if o == nil {
		return func() {}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for e := range o.ends {
		sink(e, true)
	}
	p := &sink
	o.sinks = append(o.sinks, p)
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.sinks = slices.DeleteFunc(o.sinks, func(s *func(End, bool)) bool { return s == p })
	}
}

var errNotBound = errors.New("cannot bind before connecting")
