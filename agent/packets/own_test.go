//go:build linux

package packets

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// follower remembers what an Own leaves out.
type follower struct {
	mu   sync.Mutex
	ends []End
}

func (f *follower) tell(e End, on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if on {
		f.ends = append(f.ends, e)
	} else {
		f.ends = slices.DeleteFunc(f.ends, func(o End) bool { return o == e })
	}
}

func (f *follower) all() []End {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.ends)
}

// TestOwnEnds knows an end before it is connected, and until its last packet.
func TestOwnEnds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().String()
	closed, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := closed.Addr().String()
	closed.Close()

	synctest.Test(t, func(t *testing.T) {
		var o Own
		var early, late follower
		defer o.follow(early.tell)()
		c, err := o.DialContext(context.Background(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		want := []End{{TCP, netip.MustParseAddrPort(c.LocalAddr().String())}}
		stop := o.follow(late.tell)
		for name, f := range map[string]*follower{"early": &early, "late": &late} {
			if diff := cmp.Diff(want, f.all(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		stop()
		c.Close()
		c.Close()
		time.Sleep(linger - time.Second)
		if len(early.all()) != 1 {
			t.Error("packets that end the connection are not left out")
		}
		time.Sleep(2 * time.Second)
		if n := len(early.all()); n != 0 {
			t.Errorf("%d ends are still left out", n)
		}
		if len(late.all()) != 1 {
			t.Error("told after stop")
		}

		if _, err := o.DialContext(context.Background(), "tcp", refused); err == nil {
			t.Error("connected to nothing")
		}
		if len(early.all()) != 1 {
			t.Error("a connection that is refused is not left out")
		}
		time.Sleep(2 * linger)
		if len(early.all()) != 0 {
			t.Error("a connection that was refused is still left out")
		}

		again := o.LeaveOut(TCP, netip.MustParseAddrPort("10.0.0.1:8898"))
		same := o.LeaveOut(TCP, netip.MustParseAddrPort("[::ffff:10.0.0.1]:8898"))
		again()
		again()
		if len(early.all()) != 1 {
			t.Error("left out no more, though asked for twice")
		}
		same()
		if len(early.all()) != 0 {
			t.Error("still left out")
		}
	})
	var none *Own
	c, err := none.DialContext(context.Background(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// TestOwnResolver asks name servers by datagrams still.
func TestOwnResolver(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var o Own
	var f follower
	defer o.follow(f.tell)()
	c, err := o.dialResolver(context.Background(), "udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, ok := c.(net.PacketConn); !ok {
		t.Errorf("%T: the resolver would take it for a stream", c)
	}
	if got := f.all(); len(got) != 1 || got[0].Protocol != UDP || got[0].Addr.String() != c.LocalAddr().String() {
		t.Errorf("left out are %v, not %v", got, c.LocalAddr())
	}
}

// TestOwnTraffic leaves out the packets of own connections, all of them, and
// records what others exchange with the same server.
func TestOwnTraffic(t *testing.T) {
	namespace(t)
	testFilter(t)
	there := newBox(t)
	ip(t, "link", "add", "name", "up0", "type", "veth", "peer", "name", "eth0", "netns", there.path)
	ip(t, "addr", "add", nodeAddr+"/24", "dev", "up0")
	ip(t, "addr", "add", "fd09::1/64", "dev", "up0", "nodad")
	ip(t, "link", "set", "dev", "up0", "up")
	there.ip("addr", "add", otherAddr+"/24", "dev", "eth0")
	there.ip("addr", "add", "fd09::2/64", "dev", "eth0", "nodad")
	there.ip("link", "set", "dev", "eth0", "up")
	listen := func(addr string) (l net.Listener) {
		t.Helper()
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			_, _ = w.Write(b)
		}))
		server.Listener.Close()
		server.Listener = l
		server.Start()
		t.Cleanup(server.Close)
		return l
	}
	var servers []string
	there.do(func() {
		servers = append(servers, listen(otherAddr+":8898").Addr().String(), listen("[fd09::2]:8898").Addr().String())
	})
	servers = append(servers, listen("127.0.0.1:8898").Addr().String(), listen("[::1]:8898").Addr().String())

	if _, err := exec.LookPath("iptables"); err == nil {
		// A service's address, of which the kernel makes another's.
		out, err := exec.Command("iptables", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-d", "10.96.0.1", "--dport", "443", "-j", "DNAT", "--to-destination", otherAddr+":8898").CombinedOutput()
		if err == nil {
			ip(t, "route", "add", "default", "via", otherAddr)
			servers = append(servers, "10.96.0.1:443")
		} else {
			t.Logf("no translated address is tried: %v: %s", err, out)
		}
	}

	for _, cluster := range []bool{false, true} {
		var o Own
		cfg := Config{Own: &o}
		if cluster {
			cfg.Cluster = &Targets{Node: true}
		}
		s := begin(t, cfg)
		visit := func(server string, dial func(ctx context.Context, network, addr string) (net.Conn, error)) {
			t.Helper()
			// In this namespace: connections are made by this goroutine alone.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			c, err := dial(context.Background(), "tcp", server)
			if err != nil {
				t.Fatalf("%s: %v", server, err)
			}
			body := make([]byte, 100000)
			req, err := http.NewRequest(http.MethodPut, "http://"+server+"/", bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
			defer tr.CloseIdleConnections()
			res, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatalf("%s: %v", server, err)
			}
			n, err := io.Copy(io.Discard, res.Body)
			if err != nil || n != int64(len(body)) {
				t.Fatalf("%s: %d bytes, %v", server, n, err)
			}
			res.Body.Close()
		}
		tcp := func() (n int) {
			for _, r := range s.cut() {
				if len(r.Data) > 40 && (r.Data[12] == 8 && r.Data[23] == TCP || r.Data[12] == 0x86 && r.Data[20] == TCP) {
					n++
				}
			}
			return n
		}
		for _, server := range servers {
			visit(server, o.DialContext)
		}
		eventually(t, "own packets are not left out", func() bool { return s.Stats().LeftOut.Own > 0 })
		if n := tcp(); n != 0 {
			t.Errorf("cluster %v: %d own packets are recorded", cluster, n)
		}
		for _, server := range servers {
			before := tcp()
			visit(server, new(net.Dialer).DialContext)
			eventually(t, "packets of others are not recorded", func() bool { return tcp()-before >= 6 })
		}
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	}
}
