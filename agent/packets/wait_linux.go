package packets

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// A waiter lets a goroutine sleep until a socket has something for it or another
// goroutine wakes it. It sleeps as Go's network connections do, without holding
// a thread. One goroutine waits; wake may be called by any, even after close.
type waiter struct {
	file  *os.File // owns the socket
	conn  syscall.RawConn
	fd    int
	until time.Time // deadline that is set
	woken atomic.Bool
}

// newWaiter takes over a non-blocking socket.
func newWaiter(fd int, name string) (*waiter, error) {
	w := &waiter{file: os.NewFile(uintptr(fd), name), fd: fd}
	var err error
	if w.conn, err = w.file.SyscallConn(); err == nil {
		err = w.file.SetReadDeadline(time.Time{})
	}
	if err != nil {
		w.file.Close()
		return nil, fmt.Errorf("wait for %s: %w", name, err)
	}
	return w, nil
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// wake ends the present wait, or else the next one.
func (w *waiter) wake() {
	w.woken.Store(true)
	_ = w.file.SetReadDeadline(past) // once closed, nobody waits
}

// wait returns when ready does not say no, after a wake, or at a time, which may
// be zero for never. Ready is asked whenever the socket may have become readable.
func (w *waiter) wait(until time.Time, ready func() bool) error {
	if !w.until.Equal(until) {
		w.until = until
		if err := w.file.SetReadDeadline(until); err != nil {
			return err
		}
	}
	err := w.conn.Read(func(uintptr) bool { return w.woken.Load() || ready() })
	late := errors.Is(err, os.ErrDeadlineExceeded)
	if w.woken.Swap(false) || late {
		w.until = past // or about to be
	}
	if late {
		return nil
	}
	return err
}

func (w *waiter) close() { w.file.Close() }
