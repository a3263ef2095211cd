package packets

import (
	"fmt"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// families that addresses and routes are listed of. A kernel may have no IPv6,
// and then lists nothing.
var families = []byte{unix.AF_INET, unix.AF_INET6}

// listAddresses asks for all addresses of the namespace that fd was opened in.
func listAddresses(fd int) (all []ifaddr, err error) {
	for _, family := range families {
		var some []ifaddr
		err := dump(fd, unix.RTM_GETADDR, unix.SizeofIfAddrmsg, family, func() { some = nil }, func(m *syscall.NetlinkMessage) {
			if a, ok := parseAddress(m); ok {
				some = append(some, a)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		all = append(all, some...)
	}
	return all, nil
}

func parseAddress(m *syscall.NetlinkMessage) (ifaddr, bool) {
	if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg {
		return ifaddr{}, false
	}
	info := *(*unix.IfAddrmsg)(unsafe.Pointer(&m.Data[0]))
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return ifaddr{}, false
	}
	var local, address netip.Addr
	for _, a := range attrs {
		switch a.Attr.Type & attrTypeMask {
		case unix.IFA_LOCAL: // of two points, the one here
			local, _ = netip.AddrFromSlice(a.Value)
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(a.Value)
		}
	}
	if !local.IsValid() {
		local = address
	}
	if !local.IsValid() || int(info.Prefixlen) > local.BitLen() {
		return ifaddr{}, false
	}
	return ifaddr{index: int(info.Index), prefix: netip.PrefixFrom(local, int(info.Prefixlen)), scope: info.Scope}, true
}

// listRoutes asks for all routes that lead through one interface, but those to
// the node's own addresses.
func listRoutes(fd int) (all []route, err error) {
	for _, family := range families {
		var some []route
		err := dump(fd, unix.RTM_GETROUTE, unix.SizeofRtMsg, family, func() { some = nil }, func(m *syscall.NetlinkMessage) {
			some = append(some, parseRoute(m)...)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		all = append(all, some...)
	}
	return all, nil
}

// parseRoute finds where a route leads: over each of its paths, when it has
// several.
func parseRoute(m *syscall.NetlinkMessage) []route {
	if m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg {
		return nil
	}
	info := *(*unix.RtMsg)(unsafe.Pointer(&m.Data[0]))
	if info.Type != unix.RTN_UNICAST || info.Table == unix.RT_TABLE_LOCAL || info.Flags&unix.RTM_F_CLONED != 0 {
		return nil
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return nil
	}
	to := netip.IPv4Unspecified()
	if info.Family == unix.AF_INET6 {
		to = netip.IPv6Unspecified()
	}
	var indexes []int
	for _, a := range attrs {
		switch a.Attr.Type & attrTypeMask {
		case unix.RTA_DST:
			if dst, ok := netip.AddrFromSlice(a.Value); ok {
				to = dst
			}
		case unix.RTA_OIF:
			indexes = append(indexes, int(uint32Of(a.Value)))
		case unix.RTA_MULTIPATH:
			indexes = append(indexes, nextHops(a.Value)...)
		}
	}
	if int(info.Dst_len) > to.BitLen() || to.IsLinkLocalUnicast() || to.IsMulticast() {
		return nil // every interface has those
	}
	var out []route
	for _, i := range indexes {
		out = append(out, route{index: i, to: netip.PrefixFrom(to, int(info.Dst_len)).Masked()})
	}
	return out
}

// nextHops are the interfaces of the struct rtnexthop in b.
func nextHops(b []byte) (indexes []int) {
	for len(b) >= unix.SizeofRtNexthop {
		n := int(native.Uint16(b))
		if n < unix.SizeofRtNexthop || n > len(b) {
			break
		}
		indexes = append(indexes, int(native.Uint32(b[4:])))
		b = b[min((n+3)&^3, len(b)):]
	}
	return indexes
}
