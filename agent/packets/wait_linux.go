package packets

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A waiter lets a goroutine sleep until a file is readable or another goroutine
// wakes it.
type waiter struct {
	mu     sync.RWMutex // held for writing only to close
	event  int
	closed bool
}

func newWaiter() (*waiter, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open event file: %w", err)
	}
	return &waiter{event: fd}, nil
}

// wake ends the present wait, or else the next one.
func (w *waiter) wake() {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if !w.closed {
		one := [8]byte{1, 1, 1, 1, 1, 1, 1, 1} // any number but 0, in any byte order
		_, _ = unix.Write(w.event, one[:])     // full means it is awake
	}
}

// wait returns when fd is readable, after a wake, or after at most d. An error
// that is pending on fd is cleared: with ENETDOWN a socket tells of an interface
// that went down, and goes on.
func (w *waiter) wait(fd int, d time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(w.event), Events: unix.POLLIN}}
	// Round up, or the last millisecond would be spent spinning.
	millis := int((d + time.Millisecond - 1) / time.Millisecond)
	if _, err := unix.Poll(fds, max(millis, 0)); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for packets: %w", err)
	}
	if fds[0].Revents&unix.POLLERR != 0 {
		_, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	}
	if fds[0].Revents&unix.POLLNVAL != 0 {
		return errors.New("wait for packets: the socket is closed")
	}
	if fds[1].Revents != 0 {
		var b [8]byte
		_, _ = unix.Read(w.event, b[:])
	}
	return nil
}

func (w *waiter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.closed = true
		unix.Close(w.event)
	}
}
