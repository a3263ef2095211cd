package packets

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openNetlink opens a socket to ask about links, or to be told of changes to
// them when groups say so.
func openNetlink(groups uint32) (int, error) {
	kind := unix.SOCK_RAW | unix.SOCK_CLOEXEC
	if groups != 0 {
		kind |= unix.SOCK_NONBLOCK
	}
	fd, err := unix.Socket(unix.AF_NETLINK, kind, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("bind netlink socket: %w", err)
	}
	// Answers come at once; a lost one must not hang the capture.
	timeout := unix.Timeval{Sec: 2}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("set netlink timeout: %w", err)
	}
	return fd, nil
}

// listLinks asks for all links of the namespace that fd was opened in.
func listLinks(fd int) ([]link, error) {
	var err error
	for range 4 {
		var links []link
		if links, err = tryListLinks(fd); err == nil || !errors.Is(err, errInterrupted) {
			return links, err
		}
	}
	return nil, err
}

// errInterrupted means that links changed while they were listed.
var errInterrupted = errors.New("list network interfaces: they keep changing")

// attrTypeMask takes the flags off the type of an attribute.
const attrTypeMask = 0x3fff

// listSeq tells the answer to one question from that to another.
var listSeq atomic.Uint32

func tryListLinks(fd int) ([]link, error) {
	seq := listSeq.Add(1)
	req := make([]byte, unix.NLMSG_HDRLEN+unix.SizeofIfInfomsg)
	*(*unix.NlMsghdr)(unsafe.Pointer(&req[0])) = unix.NlMsghdr{
		Len:   uint32(len(req)),
		Type:  unix.RTM_GETLINK,
		Flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP,
		Seq:   seq,
	}
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	var links []link
	interrupted := false
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list network interfaces: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return nil, fmt.Errorf("list network interfaces: %w", err)
		}
		for i := range messages {
			m := &messages[i]
			if m.Header.Seq != seq {
				continue // the rest of an answer that timed out
			}
			interrupted = interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				if interrupted {
					return nil, errInterrupted
				}
				return links, nil
			case unix.NLMSG_ERROR:
				var errno syscall.Errno
				if len(m.Data) >= 4 {
					errno = syscall.Errno(-int32(native.Uint32(m.Data)))
				}
				return nil, fmt.Errorf("list network interfaces: %w", errno)
			case unix.RTM_NEWLINK:
				if l, ok := parseLink(m); ok {
					links = append(links, l)
				}
			}
		}
	}
}

// readNews reads what the kernel told of links that came or changed, and of
// those that are gone. It fails with EAGAIN when there is nothing to read, and
// with other errors when news were lost.
func readNews(fd int, buf []byte) (came []link, gone []int, err error) {
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("read news of network interfaces: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(buf[:n])
	if err != nil {
		return nil, nil, fmt.Errorf("read news of network interfaces: %w", err)
	}
	for i := range messages {
		l, ok := parseLink(&messages[i])
		if !ok {
			continue
		}
		if messages[i].Header.Type == unix.RTM_DELLINK {
			gone = append(gone, l.index)
		} else {
			came = append(came, l)
		}
	}
	return came, gone, nil
}

// parseLink reads a message about a link. Those about bridge ports, and partial
// ones about wireless events, are not.
func parseLink(m *syscall.NetlinkMessage) (link, bool) {
	if t := m.Header.Type; t != unix.RTM_NEWLINK && t != unix.RTM_DELLINK || len(m.Data) < unix.SizeofIfInfomsg {
		return link{}, false
	}
	info := *(*unix.IfInfomsg)(unsafe.Pointer(&m.Data[0]))
	if info.Family != unix.AF_UNSPEC {
		return link{}, false
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return link{}, false
	}
	l := link{index: int(info.Index), hatype: info.Type, flags: info.Flags}
	var alias, kind string
	for _, a := range attrs {
		switch a.Attr.Type & attrTypeMask {
		case unix.IFLA_IFNAME:
			l.name = cString(a.Value)
		case unix.IFLA_IFALIAS:
			alias = cString(a.Value)
		case unix.IFLA_LINKINFO:
			kind = linkKind(a.Value)
		case unix.IFLA_WIRELESS:
			return link{}, false
		}
	}
	switch {
	case alias != "":
		l.description = alias
	case kind != "":
		l.description = kind
	case l.hatype == arphrdLoopback:
		l.description = "loopback"
	}
	return l, l.name != ""
}

// linkKind finds IFLA_INFO_KIND ("veth", "bridge") within IFLA_LINKINFO.
func linkKind(b []byte) string {
	for len(b) >= unix.SizeofRtAttr {
		n := int(native.Uint16(b))
		if n < unix.SizeofRtAttr || n > len(b) {
			break
		}
		if native.Uint16(b[2:]) == unix.IFLA_INFO_KIND {
			return cString(b[unix.SizeofRtAttr:n])
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return ""
}

func cString(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

// driver is the driver of an interface, or nothing when it has none.
func driver(fd int, name string) string {
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err != nil {
		return ""
	}
	return unix.ByteSliceToString(info.Driver[:])
}

// ethtoolCmd is struct ethtool_cmd of linux/ethtool.h, which every kernel still
// answers.
type ethtoolCmd struct {
	cmd, supported, advertising         uint32
	speedLow                            uint16
	duplex, port, phy, transceiver, neg uint8
	mdio                                uint8
	maxTx, maxRx                        uint32
	speedHigh                           uint16
	mdix, mdixCtrl                      uint8
	lpAdvertising                       uint32
	_                                   [2]uint32
}

// speed is the speed of an interface in bits per second, or 0 when it has none
// or does not tell.
func speed(fd int, name string) uint64 {
	cmd := ethtoolCmd{cmd: unix.ETHTOOL_GSET}
	var req struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	req.data = unsafe.Pointer(&cmd)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(&cmd)
	mbits := uint32(cmd.speedHigh)<<16 | uint32(cmd.speedLow)
	if errno != 0 || mbits == 0xffffffff {
		return 0
	}
	return uint64(mbits) * 1e6
}
