//go:build ignore

// The capture filter: a socket filter that decides for each packet of each
// interface whether it is recorded. kernel_linux.go loads it and fills its maps,
// which may change at any time; TARGETING.md says what is decided and why,
// and model_test.go says the same again in Go, to compare.
//
// It needs no headers but the kernel's own, and no helper that is newer than
// Linux 4.18 or that only GPL programs may call. Global maps and bounded, unrolled
// loops only: it loads with CAP_BPF alone.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name
#define inline inline __attribute__((always_inline))

static void *(*map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*skb_load)(const void *skb, __u32 off, void *to, __u32 len) = (void *)BPF_FUNC_skb_load_bytes;
static long (*skb_load_from)(const void *skb, __u32 off, void *to, __u32 len, __u32 header) = (void *)BPF_FUNC_skb_load_bytes_relative;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define htons(v) __builtin_bswap16(v)
#else
#define htons(v) (v)
#endif
#define ntohs htons

enum {
	SNAPLEN = 262144, // chunker.SnapLen
	TUNNEL_PORTS = 8,
	VLAN_TAGS = 3, // within the packet; the kernel has taken one more off
	IPV6_HEADERS = 6, // between the IPv6 header and the protocol

	TYPE_VLAN = 0x8100,
	TYPE_SERVICE_VLAN = 0x88a8,

	FRAGMENT_OFFSET = 0x1fff,
};

// What an interface is.
enum role {
	ROLE_NONE, // not captured on
	ROLE_ALL, // everything is recorded
	ROLE_LOOPBACK, // the node's own traffic, its outgoing copy left out
	ROLE_POD, // the host's end of a pod's interface
	ROLE_UPLINK, // to the world
	ROLE_TUNNEL, // to other nodes, through an uplink
	ROLE_BETWEEN, // passes on what is recorded elsewhere
};

// What is known of an address.
enum {
	ADDR_NODE = 1, // the node itself has it
	ADDR_POD = 2, // a pod of this node, with a network of its own
	ADDR_TARGET = 4, // of a pod whose packets are wanted
	ADDR_EXCLUDED = 8, // of a pod whose packets must not be recorded
	ADDR_OWN = 16, // of a pod of ours
};

// Where packets of this node's pods are recorded at uplinks, too.
enum { EDGE_NO, EDGE_ARRIVING, EDGE_BOTH };

// Why a packet is left out.
enum reason { OUT_OWN, OUT_BETWEEN, OUT_UNTARGETED, OUT_UNKNOWN, OUT_REASONS };

struct link {
	__u8 role;
	__u8 ethernet; // frames begin with an Ethernet header
	__u16 unused;
	__u32 heard; // generation in which a targeted pod sent from here
};

struct settings {
	__u64 tunnel_protocols; // IP protocols below 64 that are tunnels of this node
	__u32 generation; // never 0; another one forgets what was heard
	__u8 unknown_role; // of interfaces that are not in links
	__u8 selective; // only what is targeted is recorded
	__u8 node; // the node's own traffic is recorded
	__u8 edge; // EDGE_*
	__u8 own_pods; // there are addresses with ADDR_OWN
	__u8 own_ports; // own_ports and own may have entries
	__u8 wireguard; // there are WireGuard interfaces
	__u8 unused;
	__u16 tunnel_ports[TUNNEL_PORTS]; // UDP ports of tunnels, 0: none
	__u32 unused2;
};

// IPv6, or IPv4 as ::ffff:a.b.c.d.
struct address {
	__u32 word[4];
};

struct prefix {
	__u32 bits; // of address
	struct address address;
};

// One end of a connection.
struct endpoint {
	struct address address;
	__u16 port;
	__u8 protocol;
	__u8 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

// By interface index.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct link);
} links SEC(".maps");

// Addresses of the node and its pods.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct address);
	__type(value, __u32);
} addresses SEC(".maps");

// Where this node's pods have their addresses from: what is routed to them.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct prefix);
	__type(value, __u32);
} prefixes SEC(".maps");

// Ends of connections of ours. The ports alone tell nearly always that a packet
// is none of them: bit port % 64 of element port / 64.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct endpoint);
	__type(value, __u32);
} own SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} own_ports SEC(".maps");

// Packets left out, by reason.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUT_REASONS);
	__type(key, __u32);
	__type(value, __u64);
} left_out SEC(".maps");

static inline int leave(__u32 reason)
{
	__u64 *count = map_lookup(&left_out, &reason);

	if (count)
		*count += 1;
	return 0;
}

// What the filter knows of a packet.
struct packet {
	struct address from, to; // of IP and ARP, when addressed
	__u16 source, dest; // ports, when ported
	__u8 addressed, ported;
	__u8 protocol; // above IP
	__u32 payload; // offset of what follows the UDP header, when ported
};

// load reads from the link layer of Ethernet frames, and else from the network
// layer. The former finds bytes wherever the kernel keeps them.
static inline long load(struct __sk_buff *skb, int ethernet, __u32 off, void *to, __u32 len)
{
	if (ethernet)
		return skb_load(skb, off, to, len);
	return skb_load_from(skb, off, to, len, BPF_HDR_START_NET);
}

static inline void mapped(struct address *a, const __u8 *v4)
{
	a->word[0] = 0;
	a->word[1] = 0;
	__builtin_memcpy(&a->word[2], (const __u8[]){0, 0, 0xff, 0xff}, 4);
	__builtin_memcpy(&a->word[3], v4, 4);
}

static inline void parse_ports(struct __sk_buff *skb, int ethernet, __u32 off, struct packet *p)
{
	__u16 ports[2];

	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return;
	if (load(skb, ethernet, off, ports, sizeof(ports)) < 0)
		return;
	p->source = ntohs(ports[0]);
	p->dest = ntohs(ports[1]);
	p->payload = off + 8;
	p->ported = 1;
}

static inline void parse_ipv4(struct __sk_buff *skb, int ethernet, __u32 off, struct packet *p)
{
	__u8 h[20];
	__u16 fragment;

	if (load(skb, ethernet, off, h, sizeof(h)) < 0)
		return;
	if (h[0] >> 4 != 4 || (h[0] & 0xf) < 5)
		return;
	mapped(&p->from, h + 12);
	mapped(&p->to, h + 16);
	p->protocol = h[9];
	p->addressed = 1;
	fragment = (h[6] << 8 | h[7]) & FRAGMENT_OFFSET;
	if (fragment == 0)
		parse_ports(skb, ethernet, off + 4 * (h[0] & 0xf), p);
}

static inline void parse_ipv6(struct __sk_buff *skb, int ethernet, __u32 off, struct packet *p)
{
	__u8 h[40];
	__u8 x[8];
	int i, done = 0;

	if (load(skb, ethernet, off, h, sizeof(h)) < 0)
		return;
	if (h[0] >> 4 != 6)
		return;
	__builtin_memcpy(&p->from, h + 8, 16);
	__builtin_memcpy(&p->to, h + 24, 16);
	p->protocol = h[6];
	p->addressed = 1;
	off += sizeof(h);
#pragma unroll
	for (i = 0; i < IPV6_HEADERS && !done; i++) {
		switch (p->protocol) {
		case 0: // hop-by-hop options
		case 43: // routing
		case 60: // destination options
		case 44: // fragment
		case 51: // authentication
			if (load(skb, ethernet, off, x, sizeof(x)) < 0)
				return;
			if (p->protocol == 44) {
				if ((x[2] << 8 | x[3]) & 0xfff8) {
					p->protocol = x[0];
					return; // a later fragment
				}
				off += 8;
			} else if (p->protocol == 51) {
				off += 4 * (x[1] + 2);
			} else {
				off += 8 * (x[1] + 1);
			}
			p->protocol = x[0];
			break;
		default:
			done = 1;
		}
	}
	parse_ports(skb, ethernet, off, p);
}

// ARP is as good as IPv4 from the sender to the target.
static inline void parse_arp(struct __sk_buff *skb, int ethernet, __u32 off, struct packet *p)
{
	__u8 h[28];

	if (load(skb, ethernet, off, h, sizeof(h)) < 0)
		return;
	if (h[2] != 8 || h[3] != 0 || h[4] != 6 || h[5] != 4)
		return;
	mapped(&p->from, h + 14);
	mapped(&p->to, h + 24);
	p->addressed = 1;
}

// parse_usual parses TCP and UDP without VLAN tags, options or extension headers,
// with one read for all of it.
static inline int parse_usual(struct __sk_buff *skb, struct packet *p)
{
	struct {
		__u8 addresses[12];
		__u16 type;
		__u8 h[44]; // IPv6 and ports
	} f;
	__u8 *ports;

	if (skb->len < sizeof(f) || skb_load(skb, 0, &f, sizeof(f)) < 0)
		return 0;
	if (f.type == htons(ETH_P_IP) && f.h[0] == 0x45 && !((f.h[6] << 8 | f.h[7]) & FRAGMENT_OFFSET)) {
		mapped(&p->from, f.h + 12);
		mapped(&p->to, f.h + 16);
		p->protocol = f.h[9];
		p->payload = ETH_HLEN + 20 + 8;
		ports = f.h + 20;
	} else if (f.type == htons(ETH_P_IPV6) && f.h[0] >> 4 == 6 && (f.h[6] == IPPROTO_TCP || f.h[6] == IPPROTO_UDP)) {
		__builtin_memcpy(&p->from, f.h + 8, 16);
		__builtin_memcpy(&p->to, f.h + 24, 16);
		p->protocol = f.h[6];
		p->payload = ETH_HLEN + 40 + 8;
		ports = f.h + 40;
	} else {
		return 0;
	}
	p->addressed = 1;
	if (p->protocol == IPPROTO_TCP || p->protocol == IPPROTO_UDP) {
		p->source = ports[0] << 8 | ports[1];
		p->dest = ports[2] << 8 | ports[3];
		p->ported = 1;
	}
	return 1;
}

static inline void parse(struct __sk_buff *skb, int ethernet, struct packet *p)
{
	__u16 type = skb->protocol;
	__u32 off = 0;
	int i;

	if (ethernet) {
		if (parse_usual(skb, p))
			return;
		if (load(skb, ethernet, 12, &type, sizeof(type)) < 0)
			return;
		off = ETH_HLEN;
	}
#pragma unroll
	for (i = 0; i < VLAN_TAGS; i++) {
		if (type != htons(TYPE_VLAN) && type != htons(TYPE_SERVICE_VLAN))
			break;
		if (load(skb, ethernet, off + 2, &type, sizeof(type)) < 0)
			return;
		off += 4;
	}
	if (type == htons(ETH_P_IP))
		parse_ipv4(skb, ethernet, off, p);
	else if (type == htons(ETH_P_IPV6))
		parse_ipv6(skb, ethernet, off, p);
	else if (type == htons(ETH_P_ARP))
		parse_arp(skb, ethernet, off, p);
}

static inline int own_end(const struct packet *p, const struct address *a, __u16 port)
{
	struct endpoint e = {.address = *a, .port = port, .protocol = p->protocol};
	__u32 i = port / 64;
	__u64 *ports = map_lookup(&own_ports, &i);

	return ports && *ports >> (port % 64) & 1 && map_lookup(&own, &e);
}

static inline __u32 who(const struct address *a)
{
	__u32 *flags = map_lookup(&addresses, a);

	return flags ? *flags : 0;
}

// routed tells whether an address is one for pods of this node, though of none
// that is known.
static inline int routed(const struct address *a)
{
	struct prefix p = {.bits = 128, .address = *a};

	return map_lookup(&prefixes, &p) != 0;
}

// WireGuard packets are told by their form, as only administrators may ask for
// the port.
static inline int is_wireguard(struct __sk_buff *skb, int ethernet, const struct packet *p)
{
	__u16 length;
	__u8 h[4];

	if (load(skb, ethernet, p->payload - 4, &length, sizeof(length)) < 0)
		return 0;
	if (load(skb, ethernet, p->payload, h, sizeof(h)) < 0 || h[1] | h[2] | h[3])
		return 0;
	length = ntohs(length);
	switch (h[0]) {
	case 1: // handshake initiation
		return length == 8 + 148;
	case 2: // its response
		return length == 8 + 92;
	case 3: // cookie
		return length == 8 + 64;
	case 4: // data
		return length >= 8 + 32 && length % 16 == 8;
	}
	return 0;
}

// encapsulated tells of packets that carry those of a tunnel of this node.
static inline int encapsulated(struct __sk_buff *skb, int ethernet, const struct settings *s, const struct packet *p)
{
	int i;

	if (!p->addressed)
		return 0;
	if (p->protocol < 64 && s->tunnel_protocols >> p->protocol & 1)
		return 1;
	if (p->protocol != IPPROTO_UDP || !p->ported)
		return 0;
#pragma unroll
	for (i = 0; i < TUNNEL_PORTS; i++)
		if (s->tunnel_ports[i] && s->tunnel_ports[i] == p->dest)
			return 1;
	return s->wireguard && is_wireguard(skb, ethernet, p);
}

SEC("socket")
int choose(struct __sk_buff *skb)
{
	__u32 zero = 0, index = skb->ifindex, from = 0, to = 0, side, other;
	int arrives = skb->pkt_type != PACKET_OUTGOING; // at the node: from a pod, or from the world
	struct settings *s = map_lookup(&settings, &zero);
	struct link *l = map_lookup(&links, &index);
	struct packet p = {};
	int ethernet = 1;
	__u8 role;

	if (!s)
		return SNAPLEN;
	role = s->unknown_role;
	if (l) {
		role = l->role;
		ethernet = l->ethernet;
	}
	if (role == ROLE_NONE)
		return !l && s->selective ? leave(OUT_UNKNOWN) : 0;
	if (role == ROLE_LOOPBACK && !arrives)
		return 0; // it comes in again
	if (role == ROLE_BETWEEN)
		return leave(OUT_BETWEEN);
	if ((role == ROLE_ALL || role == ROLE_LOOPBACK) && !s->own_ports)
		return s->node ? SNAPLEN : leave(OUT_UNTARGETED);

	parse(skb, ethernet, &p);
	if (s->own_ports && p.ported && (own_end(&p, &p.from, p.source) || own_end(&p, &p.to, p.dest)))
		return leave(OUT_OWN);
	if (role == ROLE_ALL || role == ROLE_LOOPBACK)
		return s->node ? SNAPLEN : leave(OUT_UNTARGETED);
	if (role == ROLE_POD && !s->selective && !s->own_pods)
		return SNAPLEN;

	if (p.addressed) {
		from = who(&p.from);
		to = who(&p.to);
	}
	if ((from | to) & ADDR_OWN)
		return leave(OUT_OWN);

	if (role == ROLE_POD) {
		if (!s->selective)
			return SNAPLEN;
		side = arrives ? from : to;
		other = arrives ? to : from;
		if (side & ADDR_TARGET) {
			if (arrives && l && l->heard != s->generation)
				l->heard = s->generation;
			return SNAPLEN;
		}
		if (side & ADDR_EXCLUDED)
			return leave(OUT_UNTARGETED);
		if (side & ADDR_POD)
			return s->node && other & ADDR_NODE ? SNAPLEN : leave(OUT_UNTARGETED);
		// Not from or to a pod's address: the interface decides.
		return l && l->heard == s->generation ? SNAPLEN : leave(OUT_UNKNOWN);
	}

	// ROLE_UPLINK, ROLE_TUNNEL
	if (role == ROLE_UPLINK && encapsulated(skb, ethernet, s, &p))
		return leave(OUT_BETWEEN);
	if (p.addressed && !((from | to) & (ADDR_NODE | ADDR_POD)) && role == ROLE_UPLINK) {
		if (routed(&p.from))
			from = ADDR_POD;
		if (routed(&p.to))
			to = ADDR_POD;
	}
	if ((from | to) & ADDR_POD) {
		if (s->edge == EDGE_BOTH || (s->edge == EDGE_ARRIVING && arrives && to & ADDR_POD)) {
			if (!s->selective || (from | to) & ADDR_TARGET)
				return SNAPLEN;
			return leave(OUT_UNTARGETED);
		}
		return leave(OUT_BETWEEN);
	}
	if (role == ROLE_TUNNEL && !((from | to) & ADDR_NODE))
		return leave(OUT_BETWEEN);
	return s->node ? SNAPLEN : leave(OUT_UNTARGETED);
}

char _license[] SEC("license") = "Apache-2.0";
