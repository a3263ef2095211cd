package packets

// Link types, as numbered on tcpdump.org/linktypes.html.
const (
	linkEthernet  = 1
	linkRaw       = 101 // IPv4 or IPv6, by the first nibble
	link80211     = 105
	linkPrism     = 119
	linkRadiotap  = 127
	linkCAN       = 227
	link802154    = 230 // without frame check sequence
	linkVsock     = 271
	linkLinuxSLL2 = 276 // a header that capture makes up, then the network layer
)

// Hardware types of interfaces, from linux/if_arp.h.
const (
	arphrdEther    = 1
	arphrdCAN      = 280
	arphrdRawIP    = 519
	arphrdTunnel   = 768
	arphrdTunnel6  = 769
	arphrdLoopback = 772
	arphrdSIT      = 776
	arphrd80211    = 801
	arphrdPrism    = 802
	arphrdRadiotap = 803
	arphrd802154   = 804
	arphrd802154M  = 805
	arphrdVsockmon = 826
	arphrdNone     = 0xfffe // tun, WireGuard
)

// linkType is the link type under which packets of a kind of hardware are
// recorded. It follows libpcap's own mapping (map_arphrd_to_dlt of
// pcap-linux.c), so that files look the same as tcpdump's, with one difference:
// where libpcap would guess, or knows no type, we record LINKTYPE_LINUX_SLL2,
// which names the hardware type and the protocol of each packet.
//
//	hardware type                  link type         recorded from
//	ether, loopback                1 EN10MB          link layer
//	none, tunnel, tunnel6, sit,
//	  rawip                        101 RAW           network layer
//	ieee80211                      105 IEEE802_11    link layer
//	ieee80211_prism                119 PRISM         link layer
//	ieee80211_radiotap             127 RADIOTAP      link layer
//	can                            227 CAN_SOCKETCAN link layer, identifier in network order
//	ieee802154, its monitor        230 802_15_4_NOFCS link layer
//	vsockmon                       271 VSOCK         link layer
//	all others (GRE, PPP,
//	  InfiniBand, netlink, …)      276 LINUX_SLL2    network layer, after a made-up header
func linkType(hatype uint16) uint16 {
	switch hatype {
	case arphrdEther, arphrdLoopback:
		return linkEthernet
	case arphrdNone, arphrdTunnel, arphrdTunnel6, arphrdSIT, arphrdRawIP:
		return linkRaw
	case arphrd80211:
		return link80211
	case arphrdPrism:
		return linkPrism
	case arphrdRadiotap:
		return linkRadiotap
	case arphrdCAN:
		return linkCAN
	case arphrd802154, arphrd802154M:
		return link802154
	case arphrdVsockmon:
		return linkVsock
	}
	return linkLinuxSLL2
}
