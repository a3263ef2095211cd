package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"pcapsule/internal/capfile"
)

// A traffic is packets that are sent over and over.
type traffic struct {
	name   string
	frames [][]byte
}

const (
	etherHeader = 14
	ipUDPHeader = 28
	maxFrame    = etherHeader + 1500 // what the veth pair takes
	poolSize    = 8192               // different packets, so that no cache holds them all
)

// traffics are random packets, and those of a capture file.
func traffics(o options, pcap string) ([]traffic, error) {
	rnd := rand.NewChaCha8([32]byte{})
	random := traffic{name: fmt.Sprintf("random, %d bytes", o.size)}
	for range poolSize {
		payload := make([]byte, max(o.size-etherHeader-ipUDPHeader, 0))
		_, _ = rnd.Read(payload) // never fails
		random.frames = append(random.frames, udp(payload, uint16(len(random.frames))))
	}
	all := []traffic{random}
	if pcap == "" {
		return all, nil
	}
	name := filepath.Base(pcap)
	real, err := readFrames(pcap)
	if err != nil {
		return nil, err
	}
	// The same payloads in packets of equal length, so that the cost of a packet
	// compares with that of random ones.
	joined := bytes.Join(real, nil)
	even := traffic{name: fmt.Sprintf("bytes of %s, %d bytes", name, o.size)}
	for n := o.size - etherHeader - ipUDPHeader; len(joined) >= n && len(even.frames) < 16*poolSize; joined = joined[n:] {
		even.frames = append(even.frames, udp(joined[:n], uint16(len(even.frames))))
	}
	if len(even.frames) == 0 {
		return nil, fmt.Errorf("%s holds too little", pcap)
	}
	return append(all, even, traffic{name: "packets of " + name, frames: real}), nil
}

func readFrames(file string) ([][]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := capfile.NewReader(f)
	if err != nil {
		return nil, err
	}
	var frames [][]byte
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return frames, nil
		}
		if err != nil {
			return nil, err
		}
		if len(p.Data) >= etherHeader && len(p.Data) <= maxFrame {
			frames = append(frames, bytes.Clone(p.Data))
		}
	}
}

// udp wraps a payload in Ethernet, IPv4 and UDP headers of one of many flows.
func udp(payload []byte, flow uint16) []byte {
	b := make([]byte, 0, etherHeader+ipUDPHeader+len(payload))
	b = append(b, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0)
	b = append(b, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(ipUDPHeader+len(payload)))
	b = append(b, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2)
	b = binary.BigEndian.AppendUint16(b, 1024+flow%4096)
	b = append(b, 0, 9)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	b = append(b, 0, 0)
	return append(b, payload...)
}

// A generator sends frames on an interface, many with one system call.
type generator struct {
	fd   int
	msgs []mmsghdr
	iovs []unix.Iovec
}

// mmsghdr is struct mmsghdr of sys/socket.h.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

const batch = 32

func newGenerator(name string) (*generator, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	g := &generator{fd: fd, msgs: make([]mmsghdr, batch), iovs: make([]unix.Iovec, batch)}
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifi.Index}); err != nil {
		return nil, fmt.Errorf("bind to %s: %w", name, err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return nil, fmt.Errorf("bypass queues: %w", err)
	}
	for i := range g.msgs {
		g.msgs[i].hdr.Iov = &g.iovs[i]
		g.msgs[i].hdr.SetIovlen(1)
	}
	return g, nil
}

func (g *generator) close() { _ = unix.Close(g.fd) }

type sent struct {
	packets int
	bytes   int64
	took    time.Duration
}

// send sends count frames at a rate, or as fast as it can when that is 0.
func (g *generator) send(ctx context.Context, tr traffic, count int, rate float64) (sent, error) {
	var s sent
	start := time.Now()
	for s.packets < count {
		if ctx.Err() != nil {
			return s, ctx.Err()
		}
		n := min(batch, count-s.packets)
		for i := range n {
			f := tr.frames[(s.packets+i)%len(tr.frames)]
			g.iovs[i].Base = &f[0]
			g.iovs[i].SetLen(len(f))
			s.bytes += int64(len(f))
		}
		for at := 0; at < n; {
			k, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(g.fd), uintptr(unsafe.Pointer(&g.msgs[at])), uintptr(n-at), 0, 0, 0)
			if errno == unix.EINTR || errno == unix.ENOBUFS {
				continue
			}
			if errno != 0 {
				return s, fmt.Errorf("send packets: %w", errno)
			}
			at += int(k)
		}
		s.packets += n
		if rate > 0 {
			if ahead := time.Duration(float64(s.packets)/rate*1e9) - time.Since(start); ahead > 200*time.Microsecond {
				time.Sleep(ahead)
			}
		}
	}
	s.took = time.Since(start)
	return s, nil
}

// settle lets the programs read what their rings hold.
func settle() { time.Sleep(2 * time.Second) }
