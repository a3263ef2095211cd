package pcapgen

import "encoding/binary"

// ends are where a packet comes from and where it goes, by the network layer.
// IPv4 addresses stand in IPv6 form.
type ends struct {
	src, dst         [16]byte
	srcPort, dstPort uint16 // of TCP, UDP and SCTP; 0 where they are not known
}

// maxNested is how many IP headers inside each other are looked at. Fewer are
// kept: the outermost, and the innermost.
const maxNested = 8

// nested are the ends of a packet: of the outermost IP header, and where there is a tunnel of the
// innermost.
type nested struct {
	all [2]ends
	n   int
}

func (t *nested) add(e *ends) {
	if t.n == len(t.all) {
		t.n--
	}
	t.all[t.n] = *e
	t.n++
}

// EtherTypes.
const (
	etherIPv4   = 0x0800
	etherARP    = 0x0806
	etherBridge = 0x6558 // transparent Ethernet bridging, in GRE and Geneve
	etherVLAN   = 0x8100
	etherIPv6   = 0x86dd
	etherQinQ   = 0x88a8
	etherQinQ1  = 0x9100
	etherMPLS   = 0x8847
	etherPPPoE  = 0x8864
)

// Protocols above IP.
const (
	ipHopByHop = 0
	ipIPv4     = 4
	ipTCP      = 6
	ipUDP      = 17
	ipIPv6     = 41
	ipRouting  = 43
	ipFragment = 44
	ipGRE      = 47
	ipAuth     = 51
	ipDestOpts = 60
	ipMobility = 135
	ipSCTP     = 132
)

// UDP ports that tunnels are sent to.
const (
	portVXLAN  = 4789
	portVXLAN2 = 8472 // Linux' own, before there was a standard; flannel and Cilium use it
	portGeneve = 6081
)

// dissect finds the ends of a packet: it looks through VLAN tags, IPv6 extension
// headers and the tunnels of cluster networks (IP in IP, GRE, VXLAN, Geneve), and
// sees ARP as if it were IP. It looks at what was captured and no further.
func dissect(linkType uint16, b []byte, t *nested) {
	t.n = 0
	be := binary.BigEndian
	switch linkType {
	case 1: // Ethernet
		t.ethernet(b, 0)
	case 12, 14, 101, 228, 229: // raw IP
		t.ip(b, 0)
	case 0, 108: // BSD loopback: a family, then IP
		if len(b) > 4 {
			t.ip(b[4:], 0)
		}
	case 113: // Linux cooked
		if len(b) >= 16 {
			t.network(be.Uint16(b[14:]), b[16:], 0)
		}
	case 276: // Linux cooked v2
		if len(b) >= 20 {
			t.network(be.Uint16(b), b[20:], 0)
		}
	}
}

func (t *nested) ethernet(b []byte, depth int) {
	if len(b) >= 14 {
		t.network(binary.BigEndian.Uint16(b[12:]), b[14:], depth)
	}
}

// network is what follows an EtherType.
func (t *nested) network(kind uint16, b []byte, depth int) {
	for {
		switch kind {
		case etherVLAN, etherQinQ, etherQinQ1:
			if len(b) < 4 {
				return
			}
			kind, b = binary.BigEndian.Uint16(b[2:]), b[4:]
			continue
		case etherIPv4, etherIPv6:
			t.ip(b, depth)
		case etherARP:
			t.arp(b)
		case etherBridge:
			t.ethernet(b, depth)
		case etherMPLS:
			for len(b) >= 4 {
				bottom := b[2]&1 != 0
				if b = b[4:]; bottom {
					t.ip(b, depth)
					return
				}
			}
		case etherPPPoE:
			if len(b) > 8 {
				t.ip(b[8:], depth)
			}
		}
		return
	}
}

func (t *nested) arp(b []byte) {
	// Ethernet addresses of 6 bytes for IPv4 addresses of 4.
	if len(b) < 28 || b[2] != 8 || b[3] != 0 || b[4] != 6 || b[5] != 4 {
		return
	}
	var e ends
	e.src, e.dst = mapped(b[14:18]), mapped(b[24:28])
	t.add(&e)
}

func mapped(b []byte) (a [16]byte) {
	a[10], a[11] = 0xff, 0xff
	copy(a[12:], b[:4])
	return a
}

func (t *nested) ip(b []byte, depth int) {
	if len(b) < 20 || depth == maxNested {
		return
	}
	var e ends
	var proto uint8
	var first bool // not a later fragment
	switch b[0] >> 4 {
	case 4:
		n := int(b[0]&0xf) * 4
		if n < 20 {
			return
		}
		proto = b[9]
		first = binary.BigEndian.Uint16(b[6:])&0x1fff == 0
		e.src, e.dst = mapped(b[12:16]), mapped(b[16:20])
		b = b[min(n, len(b)):]
	case 6:
		if len(b) < 40 {
			return
		}
		proto = b[6]
		copy(e.src[:], b[8:24])
		copy(e.dst[:], b[24:40])
		proto, b, first = extensions(proto, b[40:])
	default:
		return
	}
	if !first {
		t.add(&e)
		return
	}
	if (proto == ipTCP || proto == ipUDP || proto == ipSCTP) && len(b) >= 4 {
		e.srcPort, e.dstPort = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	}
	t.add(&e)
	t.tunnel(proto, e.dstPort, b, depth+1)
}

// extensions skips IPv6 extension headers.
func extensions(proto uint8, b []byte) (uint8, []byte, bool) {
	for range 16 {
		n := 0
		switch proto {
		case ipHopByHop, ipRouting, ipDestOpts, ipMobility:
			if len(b) < 8 {
				return proto, nil, true
			}
			n = (int(b[1]) + 1) * 8
		case ipAuth:
			if len(b) < 8 {
				return proto, nil, true
			}
			n = (int(b[1]) + 2) * 4
		case ipFragment:
			if len(b) < 8 {
				return proto, nil, true
			}
			if binary.BigEndian.Uint16(b[2:])&0xfff8 != 0 {
				return b[0], nil, false
			}
			n = 8
		default:
			return proto, b, true
		}
		proto, b = b[0], b[min(n, len(b)):]
	}
	return proto, nil, true
}

// tunnel looks for a packet inside of this one.
func (t *nested) tunnel(proto uint8, dstPort uint16, b []byte, depth int) {
	be := binary.BigEndian
	switch {
	case proto == ipIPv4, proto == ipIPv6:
		t.ip(b, depth)
	case proto == ipGRE && len(b) >= 4:
		flags := be.Uint16(b)
		if flags&7 != 0 { // version 0 only
			return
		}
		n := 4
		for _, present := range []uint16{0x8000, 0x2000, 0x1000} { // checksum, key, sequence number
			if flags&present != 0 {
				n += 4
			}
		}
		t.network(be.Uint16(b[2:]), b[min(n, len(b)):], depth)
	case proto == ipUDP && (dstPort == portVXLAN || dstPort == portVXLAN2) && len(b) > 16 && b[8] == 8:
		t.ethernet(b[16:], depth)
	case proto == ipUDP && dstPort == portGeneve && len(b) > 16 && b[8]>>6 == 0:
		n := 16 + int(b[8]&0x3f)*4
		t.network(be.Uint16(b[10:]), b[min(n, len(b)):], depth)
	}
}
