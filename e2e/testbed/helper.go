//go:build linux

package testbed

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Help is the body of the helper process, which does on the host what the cluster
// cannot do for itself: it forwards ports of the loopback into the machines'
// networks, and provisions volumes. It runs until ctx ends.
func (c *Cluster) Help(ctx context.Context, log *slog.Logger) error {
	group, ctx := errgroup.WithContext(ctx)
	for listen, to := range map[string]struct{ machine, addr string }{
		c.API: {"control", controlAddr + ":" + apiPort},
		c.S3:  {"outside", outsideAddr + ":9000"},
	} {
		ns, err := os.Open("/run/netns/" + c.netns(to.machine))
		if err != nil {
			return fmt.Errorf("find the network of %s: %w", to.machine, err)
		}
		l, err := net.Listen("tcp", listen)
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { l.Close() })
		group.Go(func() error {
			for {
				conn, err := l.Accept()
				if err != nil {
					return fmt.Errorf("accept for %s: %w", to.machine, err)
				}
				go func() {
					if err := forward(ctx, conn, ns, to.addr); err != nil {
						log.Warn("connection not forwarded", "to", to.addr, "err", err)
					}
				}()
			}
		})
	}
	group.Go(func() error { return c.provision(ctx, log) })
	return group.Wait()
}

// forward joins a connection with a new one to addr in another network.
func forward(ctx context.Context, conn net.Conn, ns *os.File, addr string) error {
	defer conn.Close()
	peer, err := dialIn(ctx, ns, addr)
	if err != nil {
		return err
	}
	defer peer.Close()
	var wg sync.WaitGroup
	pipe := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // either end may break off
		if half, ok := to.(*net.TCPConn); ok {
			_ = half.CloseWrite()
		}
	}
	wg.Go(func() { pipe(conn, peer) })
	wg.Go(func() { pipe(peer, conn) })
	wg.Wait()
	return nil
}

// dialIn dials from within a network namespace. The socket is made on a thread
// that has moved there; the thread is not used again.
func dialIn(ctx context.Context, ns *os.File, addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: it ends with this goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{err: fmt.Errorf("enter the network: %w", err)}
			return
		}
		dialer := net.Dialer{Timeout: 10 * time.Second}
		conn, err := dialer.DialContext(ctx, "tcp", addr)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
