/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The one contract between our programs and user space: pyflowx/kernel/layout.py says the same in
 * NumPy, and a test compares the two. Padding is explicit: keys are compared octet by octet.
 */
#ifndef PYFLOWX_FLOW_H
#define PYFLOWX_FLOW_H

#include <linux/types.h>

/* Addresses in network order, IPv4 as IPv4-mapped; ports in host order, 0 where not known. */
struct flow_key {
	__u8 src[16];
	__u8 dst[16];
	__u16 src_port;
	__u16 dst_port;
	__u32 ifindex;
	__u16 vlan; /* outer VLAN identifier, 0 for none */
	__u8 protocol;
	__u8 tos;
	__u8 ip_version; /* 4 or 6; 0 in the catch-all flow of an interface and direction */
	__u8 direction;	 /* IANA flowDirection */
	__u8 pad[2];
};

struct flow_value {
	__u64 packets;
	__u64 octets;	 /* IP: headers and payload (IANA octetDeltaCount) */
	__u64 l2_octets; /* frames without FCS (IANA layer2OctetDeltaCount) */
	__u64 first_ns;	 /* CLOCK_MONOTONIC */
	__u64 last_ns;
	__u32 tcp_flags;  /* 12 bits, OR of all packets */
	__u32 length_min; /* IP length */
	__u32 length_max;
	__u8 ttl_min;
	__u8 ttl_max;
	__u8 icmp_type; /* of the first packet */
	__u8 icmp_code;
	__u64 jiffy; /* when last_ns was written; the programs' own */
};

enum flow_direction {
	DIRECTION_INGRESS = 0,
	DIRECTION_EGRESS = 1,
};

struct statistic {
	__u64 packets;
	__u64 octets; /* layer 2 */
};

/* Where a packet went: exactly one of METERED to LOST. */
enum statistic_slot {
	STATISTIC_METERED = 0,
	STATISTIC_NOT_IP = 1,
	STATISTIC_MALFORMED = 2,
	STATISTIC_OWN_EXPORT = 3,
	STATISTIC_MAP_FULL = 4,
	STATISTIC_LOST = 5,
	/* no such place: segments and repeated headers of super-packets, contained in the others */
	STATISTIC_GSO_ADDED = 6,
	STATISTIC_SLOTS = 7, /* in the map: twice as many, ingress and then egress */
};

struct own_export {
	__u8 address[16];
	__u16 port;
	__u8 any_address;
	__u8 pad;
};

/* What stands for a map's descriptor until the loader replaces it. */
enum map_slot {
	MAP_FLOWS = 1, /* array of one: the hash of the active generation, flow_key -> flow_value */
	MAP_STATISTICS = 2,  /* per-CPU array of struct statistic */
	MAP_OWN_EXPORTS = 3, /* array of OWN_EXPORTS (a compile-time number) struct own_export */
};

#endif
