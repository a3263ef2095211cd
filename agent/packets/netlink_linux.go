package packets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
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
	var links []link
	err := dump(fd, unix.RTM_GETLINK, unix.SizeofIfInfomsg, unix.AF_UNSPEC, func() { links = nil }, func(m *syscall.NetlinkMessage) {
		if l, ok := parseLink(m); ok {
			links = append(links, l)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	return links, nil
}

// errInterrupted means that what was listed changed meanwhile.
var errInterrupted = errors.New("they keep changing")

// attrTypeMask takes the flags off the type of an attribute.
const attrTypeMask = 0x3fff

// listSeq tells the answer to one question from that to another.
var listSeq atomic.Uint32

// dump asks for all of a kind, whose messages begin with a header of some length
// that has the family first. It calls begin before the first of them, and again
// when it has to start over.
func dump(fd int, kind uint16, headerLen int, family byte, begin func(), each func(*syscall.NetlinkMessage)) error {
	var err error
	for range 4 {
		begin()
		if err = tryDump(fd, kind, headerLen, family, each); err == nil || !errors.Is(err, errInterrupted) {
			return err
		}
	}
	return err
}

func tryDump(fd int, kind uint16, headerLen int, family byte, each func(*syscall.NetlinkMessage)) error {
	seq := listSeq.Add(1)
	req := make([]byte, unix.NLMSG_HDRLEN+headerLen)
	*(*unix.NlMsghdr)(unsafe.Pointer(&req[0])) = unix.NlMsghdr{
		Len:   uint32(len(req)),
		Type:  kind,
		Flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP,
		Seq:   seq,
	}
	req[unix.NLMSG_HDRLEN] = family
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	interrupted := false
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return err
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
					return errInterrupted
				}
				return nil
			case unix.NLMSG_ERROR:
				var errno syscall.Errno
				if len(m.Data) >= 4 {
					errno = syscall.Errno(-int32(native.Uint32(m.Data)))
				}
				return errno
			default:
				each(m)
			}
		}
	}
}

// news are what the kernel told of links that came or changed, and of those that
// are gone; and whether addresses or routes changed, if that was asked for.
type news struct {
	came  []link
	gone  []int
	other bool
}

// readNews fails with EAGAIN when there is nothing to read, and with other errors
// when news were lost.
func readNews(fd int, buf []byte) (got news, err error) {
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return news{}, fmt.Errorf("read news of network interfaces: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(buf[:n])
	if err != nil {
		return news{}, fmt.Errorf("read news of network interfaces: %w", err)
	}
	for i := range messages {
		switch messages[i].Header.Type {
		case unix.RTM_NEWADDR, unix.RTM_DELADDR, unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			got.other = true
			continue
		}
		l, ok := parseLink(&messages[i])
		if !ok {
			continue
		}
		if messages[i].Header.Type == unix.RTM_DELLINK {
			got.gone = append(got.gone, l.index)
		} else {
			got.came = append(got.came, l)
		}
	}
	return got, nil
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
	var alias string
	for _, a := range attrs {
		switch a.Attr.Type & attrTypeMask {
		case unix.IFLA_IFNAME:
			l.name = cString(a.Value)
		case unix.IFLA_IFALIAS:
			alias = cString(a.Value)
		case unix.IFLA_LINKINFO:
			l.info(a.Value)
		case unix.IFLA_LINK:
			l.parent = int(uint32Of(a.Value))
		case unix.IFLA_LINK_NETNSID:
			l.foreign = true
		case unix.IFLA_MASTER:
			l.master = int(uint32Of(a.Value))
		case unix.IFLA_WIRELESS:
			return link{}, false
		}
	}
	switch {
	case alias != "":
		l.description = alias
	case l.kind != "":
		l.description = l.kind
	case l.hatype == arphrdLoopback:
		l.description = "loopback"
	}
	return l, l.name != ""
}

// info reads IFLA_LINKINFO: the kind ("veth", "bridge"), and of a tunnel its UDP
// port.
func (l *link) info(b []byte) {
	var data []byte
	for typ, value := range attributes(b) {
		switch typ {
		case unix.IFLA_INFO_KIND:
			l.kind = cString(value)
		case unix.IFLA_INFO_DATA:
			data = value
		}
	}
	for typ, value := range attributes(data) {
		switch {
		case l.kind == "vxlan" && typ == unix.IFLA_VXLAN_PORT, l.kind == "geneve" && typ == unix.IFLA_GENEVE_PORT:
			if len(value) == 2 {
				l.port = binary.BigEndian.Uint16(value)
			}
		case l.kind == "tun" && typ == iflaTunType:
			l.tap = len(value) == 1 && value[0] == unix.IFF_TAP
		}
	}
}

// iflaTunType is IFLA_TUN_TYPE of linux/if_link.h.
const iflaTunType = 3

// attributes walks those within another.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			n := int(native.Uint16(b))
			if n < unix.SizeofRtAttr || n > len(b) {
				return
			}
			if !yield(native.Uint16(b[2:])&attrTypeMask, b[unix.SizeofRtAttr:n]) {
				return
			}
			b = b[min((n+3)&^3, len(b)):]
		}
	}
}

func uint32Of(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return native.Uint32(b)
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
