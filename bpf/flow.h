/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The one contract between our programs and user space: pyflowx/kernel/layout.py says the same in
 * NumPy, and a test compares the two. Padding is explicit: keys are compared octet by octet.
 */
#ifndef PYFLOWX_FLOW_H
#define PYFLOWX_FLOW_H

#include <linux/types.h>

/*
 * The frame's own: in the key at level `ether` (KEY_ETHER), else in the value, of the first packet.
 * All zero where the device has no Ethernet header.
 */
#define FLOW_LINK                                                                                  \
	__u8 dst_mac[6];                                                                           \
	__u8 src_mac[6];                                                                           \
	__u16 ethertype;

/*
 * Addresses in network order, IPv4 as IPv4-mapped; ports in host order, 0 where not known. What the
 * key's level (NUMBER_KEY_LEVEL) leaves out is 0.
 */
struct flow_key {
	__u8 src[16];
	__u8 dst[16];
	__u16 src_port;
	__u16 dst_port;
	__u32 ifindex;
	__u32 segment; /* SPI of ESP, AH; of a tunnel: VXLAN, Geneve network identifier, GRE key */
	__u16 vlan;    /* outer VLAN identifier, 0 for none */
	__u16 inner_vlan;
	__u8 protocol;
	__u8 tos;
	__u8 ip_version; /* 4 or 6; 0 in the catch-all flow of an interface and direction */
	__u8 direction;	 /* IANA flowDirection */
	__u8 tunnel;	 /* enum flow_tunnel, of the innermost one */
	__u8 pad[2];
	__u8 complete; /* 1; in a table written last, 0 where there is no key (yet) */
#ifdef KEY_ETHER
	FLOW_LINK
	__u8 link_padding[2];
#endif
};

struct flow_value {
	__u64 packets;
	__u64 octets;	 /* IP: headers and payload (IANA octetDeltaCount) */
	__u64 l2_octets; /* frames without FCS (IANA layer2OctetDeltaCount) */
	__u64 first_ns;	 /* CLOCK_MONOTONIC */
	__u64 last_ns;
	__u32 length_min; /* IP length */
	__u32 length_max;
	__u32 extensions; /* IPv6 extension headers of all packets; 1 << n is IANA's bit n (RFC
			     9740) */
	__u16 tcp_flags;  /* 12 bits, OR of all packets */
	__u8 ttl_min;
	__u8 ttl_max;
	__u8 fragment_flags; /* IANA fragmentFlags, OR of all packets */
	/* of the first packet: */
	__u8 icmp_type; /* IGMP's too */
	__u8 icmp_code;
	__u8 mpls_depth;
	__u32 fragment_id; /* IPv4 identification, of IPv6 that of a fragment */
	__u32 flow_label;  /* IPv6, 20 bits */
	__u16 tcp_window;
	__u16 tcp_mss; /* option of a SYN, else 0; so is the next */
	__u8 tcp_window_scale;
	__u8 mpls_1[3]; /* top label: label, EXP, S (IANA mplsTopLabelStackSection) */
	__u8 mpls_2[3];
	__u8 mpls_3[3];
#ifdef KEY_ETHER
	__u8 padding[6];
#else
	FLOW_LINK
#endif
};

/* A place of a table of flows (table.h): what each packet of a flow touches comes first. */
struct flow {
	__u32 claims; /* programs that wanted the free place; it is the first one's */
	__u32 hash;   /* of the key */
	struct flow_key key;
	struct flow_value value;
};

/* What a table says of itself. */
struct table_state {
	__u64 flows;	/* that have a place */
	__u64 spoiled;	/* claims that came too late: such a place may be nobody's */
	__u64 places;	/* where the search for a flow begins: enough for those that are expected */
	__u64 expected; /* where there are so many flows, no more get a place there */
};

enum flow_tunnel {
	TUNNEL_NONE = 0,
	TUNNEL_IP = 1, /* IP in IP, 6in4 and the like */
	TUNNEL_GRE = 2,
	TUNNEL_NVGRE = 3, /* Ethernet in GRE */
	TUNNEL_VXLAN = 4,
	TUNNEL_GENEVE = 5,
};

/* What a flow is; each level has all that the ones before it have. */
enum key_level {
	KEY_LEVEL_IP = 0,    /* addresses */
	KEY_LEVEL_PROTO = 1, /* and protocol */
	KEY_LEVEL_FULL = 2,  /* and ports, ToS, tunnel */
	KEY_LEVEL_VLAN = 3,  /* and VLANs */
	KEY_LEVEL_ETHER = 4, /* and MAC addresses, EtherType; what is not IP is metered too */
};

enum flow_direction {
	DIRECTION_INGRESS = 0,
	DIRECTION_EGRESS = 1,
};

struct statistic {
	__u64 packets;
	__u64 octets; /* layer 2 */
};

/* Where a packet went: exactly one of METERED to NOT_SELECTED. */
enum statistic_slot {
	STATISTIC_METERED = 0,
	STATISTIC_NOT_IP = 1,
	STATISTIC_MALFORMED = 2,
	STATISTIC_OWN_EXPORT = 3,
	STATISTIC_MAP_FULL = 4,
	STATISTIC_LOST = 5,
	STATISTIC_FILTERED = 6,
	STATISTIC_NOT_SELECTED = 7,
	/* no such place: segments and repeated headers of super-packets, contained in the others */
	STATISTIC_GSO_ADDED = 8,
	STATISTIC_SLOTS = 9, /* in the map: twice as many, ingress and then egress */
};

struct own_export {
	__u8 address[16];
	__u16 port;
	__u8 any_address;
	__u8 pad;
};

/* Which datagram a fragment is of, and what its first fragment says. */
struct fragment_key {
	__u8 src[16];
	__u8 dst[16];
	__u32 id;
	__u8 protocol;
	__u8 pad[3];
};

struct fragment {
	__u16 src_port;
	__u16 dst_port;
	__u32 segment;
	__u8 protocol;
	__u8 pad[3];
};

/* What packet mode (PACKETS) hands over. */
struct packet_sample {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u32 ifindex;
	__u32 frame_length; /* of the whole frame, with its tag */
	__u32 tag;    /* TPID and control information of a VLAN tag that was behind the MACs */
	__u16 length; /* of `octets` */
	__u8 direction;
	__u8 ethernet; /* 0: the packet begins with its IP header */
	__u8 octets[]; /* NUMBER_CLIP_LENGTH of them */
};

/* What stands for a map's descriptor until the loader replaces it. */
enum map_slot {
	MAP_FLOWS = 1,	     /* array of one: the table of the active generation (table.h) */
	MAP_STATISTICS = 2,  /* per-CPU array of struct statistic */
	MAP_OWN_EXPORTS = 3, /* array of NUMBER_OWN_EXPORTS struct own_export */
	MAP_FRAGMENTS = 4,   /* LRU hash: fragment_key -> fragment */
	MAP_SAMPLING = 5,    /* per-CPU array of one: packets since the last that was selected */
	MAP_PACKETS = 6,     /* ring buffer of packet_sample */
};

/*
 * What stands for a number until the loader replaces it. The verifier knows the number and removes
 * what it makes unreachable, so that it costs as little as a constant of the compiler.
 */
enum number_slot {
	NUMBER_KEY_LEVEL = 1, /* enum key_level; KEY_LEVEL_ETHER with KEY_ETHER and only then */
	NUMBER_OWN_EXPORTS = 2,
	NUMBER_SAMPLING_INTERVAL = 3, /* 1: every packet */
	NUMBER_SAMPLING_RANDOM = 4,   /* 0: each n-th packet; 1: by chance */
	NUMBER_CLIP_LENGTH = 5,	      /* a multiple of 8 */
	NUMBER_XDP_FRAGS = 6,	      /* 1: a frame may continue behind data_end (Linux 5.18) */
	NUMBER_WORKERS = 7,
	NUMBER_TUNNELS = 8, /* in each other, that are looked into */
	NUMBER_MAX_FLOWS = 9,
	NUMBER_PLACES = 10,	      /* of a table, where the search for a flow goes on */
	NUMBER_CATCH_ALL_PLACES = 11, /* and for a catch-all flow */
	NUMBER_TABLE_BITS = 12,	      /* entries of bits */
	NUMBER_TIMED = 13,	      /* packets of a CPU in a jiffy that are timed one by one */
	NUMBER_HASH = 14, /* random numbers of the hash: one, and one for each 32 bits of key */
};

#endif
