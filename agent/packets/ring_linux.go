package packets

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// blockSize holds the longest packet a chunk may hold, since the kernel cuts
	// packets to what fits into one block: BIG TCP passes whole. It is no larger
	// than that needs, as a block that was just filled is still in the cache
	// when it is read: 1 MiB costs a sixth more CPU time.
	blockSize = 512 << 10
	// minBlocks is what the kernel needs to fill one block while another is
	// read, and twice that.
	minBlocks = 4
	// retireMillis is how long a block may wait for more packets before the
	// kernel hands it over. Shorter wakes the worker more often and spends a
	// block on fewer packets; longer delays Cut and the last second of a crash.
	retireMillis = 40
)

// A ring is a packet socket with memory that the kernel fills with blocks of
// packets. One goroutine owns it; attach may be called by others.
type ring struct {
	fd     int
	waiter *waiter // has fd
	mem    []byte
	blocks int
	next   int // the block that is to be read next
}

// newRing opens a socket with a ring of about size bytes that receives nothing
// yet. When the kernel has not enough memory it makes do with less.
func newRing(size int) (*ring, error) {
	// Protocol 0 keeps the socket silent until bind, by which time the filter
	// is in place.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return nil, ErrPermission
	case errors.Is(err, unix.EAFNOSUPPORT):
		return nil, errors.New("this kernel has no packet sockets (CONFIG_PACKET): capturing is not possible here")
	case err != nil:
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	r := &ring{fd: fd}
	if r.waiter, err = newWaiter(fd, "packets"); err != nil {
		return nil, err
	}
	if err := r.setup(size); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *ring) setup(size int) error {
	if err := r.attach(dropAll); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return fmt.Errorf("this kernel is too old for capturing (TPACKET_V3 needs Linux 3.2): %w", err)
	}
	// Room in front of each packet, for a tag that is put back.
	if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_RESERVE, tagLen); err != nil {
		return fmt.Errorf("reserve room in front of packets: %w", err)
	}
	for r.blocks = max(size/blockSize, minBlocks); ; r.blocks = max(r.blocks/2, minBlocks) {
		err := unix.SetsockoptTpacketReq3(r.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &unix.TpacketReq3{
			Block_size: blockSize,
			Block_nr:   uint32(r.blocks),
			// Frames are as long as their packets, whatever stands here.
			Frame_size:     blockSize,
			Frame_nr:       uint32(r.blocks),
			Retire_blk_tov: retireMillis,
		})
		if err == nil {
			break
		}
		if !errors.Is(err, unix.ENOMEM) && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("set up a packet ring of %d MiB: %w", r.blocks*blockSize>>20, err)
		}
		if r.blocks == minBlocks {
			return fmt.Errorf("no memory for a packet ring, not even for one of %d MiB: free some, or raise the limit of this container: %w", r.blocks*blockSize>>20, err)
		}
	}
	mem, err := unix.Mmap(r.fd, 0, r.blocks*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the packet ring: %w", err)
	}
	r.mem = mem
	return nil
}

// bind lets packets of all interfaces and protocols in, as far as the filter
// does.
func (r *ring) bind() error {
	if err := unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL)}); err != nil {
		return fmt.Errorf("bind packet socket to all interfaces: %w", err)
	}
	return nil
}

// promiscuous makes an interface take in what is not addressed to it, for as
// long as the socket is open, or ends that. It ends when that was asked for as
// often as the beginning.
func (r *ring) promiscuous(index int, on bool) error {
	opt := unix.PACKET_DROP_MEMBERSHIP
	if on {
		opt = unix.PACKET_ADD_MEMBERSHIP
	}
	req := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
	return os.NewSyscallError("setsockopt", unix.SetsockoptPacketMreq(r.fd, unix.SOL_PACKET, opt, &req))
}

// fanout shares the packets among the rings: those of one flow, in both
// directions, go to one ring, or to another when that is full.
//
// The kernel could put IP fragments together first, so that all of a datagram go
// to one ring, but then would deliver what never was on the wire.
func fanout(rings []*ring) error {
	if len(rings) == 1 {
		return nil
	}
	const mode = unix.PACKET_FANOUT_HASH | unix.PACKET_FANOUT_FLAG_ROLLOVER
	// The kernel picks an id that no other program uses.
	arg := (mode | unix.PACKET_FANOUT_FLAG_UNIQUEID) << 16
	for i, r := range rings {
		if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_FANOUT, arg); err != nil {
			return fmt.Errorf("share packets among %d workers: %w", len(rings), err)
		}
		if i == 0 {
			id, err := unix.GetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_FANOUT)
			if err != nil {
				return fmt.Errorf("share packets among %d workers: %w", len(rings), err)
			}
			arg = mode<<16 | id&0xffff
		}
	}
	return nil
}

// attach replaces the filter, between one packet and the next.
func (r *ring) attach(program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("assemble capture filter: %w", err)
	}
	ins := make([]unix.SockFilter, len(raw))
	for i, p := range raw {
		ins[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	prog := unix.SockFprog{Len: uint16(len(ins)), Filter: &ins[0]}
	if err := unix.SetsockoptSockFprog(r.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return fmt.Errorf("attach capture filter: %w", err)
	}
	return nil
}

// block is the next block when the kernel has handed it over, and nil before.
func (r *ring) block() []byte {
	if !r.ready(0) {
		return nil
	}
	return r.mem[r.next*blockSize:][:blockSize:blockSize]
}

// ready tells whether the block ahead of the next one is handed over. Then so
// are those in between, as the kernel fills them in order.
func (r *ring) ready(ahead int) bool {
	return atomic.LoadUint32(r.status((r.next+ahead)%r.blocks))&statusUser != 0
}

func (r *ring) status(i int) *uint32 {
	return (*uint32)(unsafe.Pointer(&r.mem[i*blockSize+blockStatus]))
}

// wait returns when the next block is ready, after a wake, or at a time.
func (r *ring) wait(until time.Time) error {
	err := r.waiter.wait(until, func() bool { return r.ready(0) })
	if err != nil {
		// The socket has an error to tell, such as an interface that went down
		// (ENETDOWN). Taken, it goes away, and packets go on.
		_, _ = unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		time.Sleep(time.Millisecond)
	}
	if errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("wait for packets: %w", err)
	}
	return nil
}

// release returns the next block to the kernel.
func (r *ring) release() {
	atomic.StoreUint32(r.status(r.next), 0)
	r.next = (r.next + 1) % r.blocks
}

// backlog counts the blocks that are handed over.
func (r *ring) backlog() int {
	lo, hi := 0, r.blocks
	for lo < hi {
		if mid := (lo + hi) / 2; r.ready(mid) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// counts are what the kernel counted since they were last read.
type counts struct {
	accepted uint64 // packets put into the ring, those in its open block included
	dropped  uint64
	freezes  uint64
}

func (r *ring) counts() (counts, error) {
	s, err := unix.GetsockoptTpacketStatsV3(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return counts{}, fmt.Errorf("read packet counts: %w", err)
	}
	// The kernel's packets include those dropped.
	return counts{uint64(s.Packets - s.Drops), uint64(s.Drops), uint64(s.Freeze_q_cnt)}, nil
}

func (r *ring) close() error {
	r.waiter.close()
	if r.mem == nil {
		return nil
	}
	mem := r.mem
	r.mem = nil
	return os.NewSyscallError("munmap", unix.Munmap(mem))
}

func htons(v uint16) uint16 {
	var b [2]byte
	b[0], b[1] = byte(v>>8), byte(v)
	return native.Uint16(b[:])
}
