package packets

import (
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// bindEnd gives a socket that is about to be connected to address the local end
// that the kernel would give it then.
func bindEnd(network, address string, c syscall.RawConn) (End, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return End{}, err
	}
	e := End{Protocol: TCP}
	switch network {
	case "tcp", "tcp4", "tcp6":
	case "udp", "udp4", "udp6":
		e.Protocol = UDP
	default:
		return End{}, errNotBound
	}
	inner := errNotBound
	err = c.Control(func(fd uintptr) { e.Addr, inner = bindTo(int(fd), to) })
	if err != nil {
		return End{}, err
	}
	return e, inner
}

func bindTo(fd int, to netip.AddrPort) (netip.AddrPort, error) {
	from, err := sourceOf(to)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if err := unix.Bind(fd, from); err != nil {
		return netip.AddrPort{}, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return unmap(addrPort(name)), nil
}

// sourceOf is the address that the kernel chooses to reach another, with port 0.
// Connecting a UDP socket finds it and sends nothing.
func sourceOf(to netip.AddrPort) (unix.Sockaddr, error) {
	family := unix.AF_INET6
	if to.Addr().Unmap().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		return nil, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return nil, err
	}
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		a.Port = 0
	case *unix.SockaddrInet6:
		a.Port = 0
	}
	return name, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if ip := a.Addr().Unmap(); ip.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}
	}
	s := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if zone := a.Addr().Zone(); zone != "" {
		if i, err := net.InterfaceByName(zone); err == nil {
			s.ZoneId = uint32(i.Index)
		} else if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
			s.ZoneId = uint32(n)
		}
	}
	return s
}

func addrPort(s unix.Sockaddr) netip.AddrPort {
	switch a := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}
