package packets

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// A view is what a node's network looks like at a moment: enough to say what each
// interface is.
type view struct {
	links     []link
	addresses []ifaddr
	routes    []route
	internal  []netip.Addr // by which the cluster knows the node
}

// An ifaddr is an address of the node, on an interface.
type ifaddr struct {
	index  int
	prefix netip.Prefix // the address, and how long its network's is
	scope  uint8
}

// A route says which addresses are reached through an interface.
type route struct {
	index int
	to    netip.Prefix
}

// A plan is what follows from a view.
type plan struct {
	roles           map[int]uint8
	node            map[netip.Addr]struct{}   // addresses of the node
	pods            map[netip.Prefix]struct{} // what is routed to pods
	ports           []uint16                  // UDP ports of tunnels, ascending
	protocols       uint64                    // IP protocols of tunnels, as bits
	wireguard       bool
	edge            uint8
	tooManyPortsFor []uint16 // tunnels' ports that the filter has no room for
}

// tunnels are the kinds of interfaces that wrap what passes them, and the IP
// protocols that they wrap it in, if they do so without UDP.
var tunnels = map[string]uint64{
	"vxlan": 0, "geneve": 0, "wireguard": 0,
	"ipip":   bit(unix.IPPROTO_IPIP),
	"sit":    bit(unix.IPPROTO_IPV6) | bit(unix.IPPROTO_IPIP),
	"ip6tnl": bit(unix.IPPROTO_IPV6) | bit(unix.IPPROTO_IPIP),
	"gre":    bit(unix.IPPROTO_GRE), "gretap": bit(unix.IPPROTO_GRE), "erspan": bit(unix.IPPROTO_GRE),
	"ip6gre": bit(unix.IPPROTO_GRE), "ip6gretap": bit(unix.IPPROTO_GRE), "ip6erspan": bit(unix.IPPROTO_GRE),
	"vti": bit(unix.IPPROTO_ESP), "vti6": bit(unix.IPPROTO_ESP), "xfrm": bit(unix.IPPROTO_ESP),
	"tun": 0, // what wraps it is a program, and its packets are the node's own
}

// upper are the kinds that are on top of another interface, which passes all that
// they pass.
var upper = []string{"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"}

// between are other kinds that only pass on, or nothing at all.
var between = []string{"bridge", "openvswitch", "dummy", "ifb", "nlmon", "vrf", "veth", "netkit"}

func bit(protocol int) uint64 { return 1 << protocol }

// plan says what each interface is. What it does not know is an uplink: rather
// twice than never.
func (v *view) plan() plan {
	p := plan{roles: map[int]uint8{}, node: map[netip.Addr]struct{}{}, pods: map[netip.Prefix]struct{}{}}
	for _, a := range v.addresses {
		p.node[a.prefix.Addr()] = struct{}{}
	}
	// By index: more than one link has the same while news are on their way.
	byIndex := map[int]link{}
	for _, l := range v.links {
		byIndex[l.index] = l
	}
	bridges := map[int]bool{} // that have a pod as a port
	for _, l := range v.links {
		role := v.role(l, byIndex)
		p.roles[l.index] = role
		switch {
		case role == rolePod && l.master != 0:
			bridges[l.master] = true
		case role == roleTunnel && l.up():
			p.protocols |= tunnels[l.kind]
			p.wireguard = p.wireguard || l.kind == "wireguard"
			if l.port != 0 && !slices.Contains(p.ports, l.port) {
				p.ports = append(p.ports, l.port)
			}
		}
		if l.name == "cilium_host" {
			// Cilium hands packets to pods past their interfaces' ends here, so
			// that those that arrive are seen where they enter the node alone.
			p.edge = edgeArriving
		}
	}
	slices.Sort(p.ports)
	if room := len(filterSettings{}.TunnelPorts); len(p.ports) > room {
		p.ports, p.tooManyPortsFor = p.ports[:room], p.ports[room:]
	}
	for _, r := range v.routes {
		if r.to.Bits() > 0 && (p.roles[r.index] == rolePod || bridges[r.index]) {
			p.pods[r.to] = struct{}{}
		}
	}
	if !slices.ContainsFunc(v.links, func(l link) bool { return p.roles[l.index] == rolePod }) {
		// Pods without an interface here (macvlan and the like) pass nothing but
		// the uplink.
		p.edge = edgeBoth
	}
	return p
}

func (v *view) role(l link, byIndex map[int]link) uint8 {
	parent, onTop := byIndex[l.parent]
	_, tunnel := tunnels[l.kind]
	switch {
	case l.flags&unix.IFF_LOOPBACK != 0:
		return roleLoopback
	case l.kind == "veth" || l.kind == "netkit":
		if !l.foreign {
			return roleBetween // both ends are here
		}
		if v.leadsOut(l) {
			return roleUplink
		}
		return rolePod
	case l.kind == "tun" && l.tap:
		if l.master != 0 {
			return rolePod // a virtual machine, on a bridge
		}
		return roleTunnel
	case tunnel:
		return roleTunnel
	case slices.Contains(upper, l.kind):
		if l.foreign || !onTop || parent.index == l.index {
			return roleUplink // what it is on top of is not seen here
		}
		return roleBetween
	case slices.Contains(between, l.kind):
		return roleBetween
	}
	if m, ok := byIndex[l.master]; ok && (m.kind == "bond" || m.kind == "team") {
		return roleBetween // the bond passes it too, once
	}
	return roleUplink
}

// leadsOut tells whether a link whose other end is in another network namespace
// is the node's way to the world, as in a node that is a container itself. A pod
// is reached by routes of its own addresses alone, or over a bridge.
func (v *view) leadsOut(l link) bool {
	for _, r := range v.routes {
		if r.index == l.index && r.to.Bits() == 0 {
			return true
		}
	}
	for _, a := range v.addresses {
		if a.index != l.index {
			continue
		}
		if slices.Contains(v.internal, a.prefix.Addr()) || a.scope == unix.RT_SCOPE_UNIVERSE && !a.prefix.IsSingleIP() {
			return true
		}
	}
	return false
}
