/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Packets in packets: IP in IP (RFC 2003, 2473), 6in4 (RFC 4213), GRE (RFC 2784, 2890) and NVGRE
 * (RFC 7637), VXLAN (RFC 7348), Geneve (RFC 8926). Included by parse.h.
 */
#ifndef PYFLOWX_TUNNEL_H
#define PYFLOWX_TUNNEL_H

#include "maps.h"

#define VXLAN_PORT	    4789
#define VXLAN_PORT_LINUX    8472
#define GENEVE_PORT	    6081
#define VXLAN_HAS_NETWORK   0x08
#define GRE_CHECKSUM	    0x8000
#define GRE_KEY		    0x2000
#define GRE_SEQUENCE	    0x1000
#define GRE_ROUTING_VERSION 0x4007
#define GENEVE_VERSION	    0xc0
#define ETHERNET_INSIDE	    bpf_htons(ETH_P_TEB)

struct tunnel {
	__u32 segment;
	__u8 kind; /* enum flow_tunnel */
};

static __always_inline int parse_gre(struct cursor *cursor, struct tunnel *tunnel)
{
	struct {
		__be16 flags, type;
	} *gre = take(cursor, sizeof(*gre));
	__be32 *key;
	__u32 flags;

	if (!gre)
		return -1;
	flags = bpf_ntohs(gre->flags);
	if (flags & GRE_ROUTING_VERSION)
		return -1;
	tunnel->kind = gre->type == ETHERNET_INSIDE ? TUNNEL_NVGRE : TUNNEL_GRE;
	if (flags & GRE_CHECKSUM && !take(cursor, 4))
		return -1;
	if (flags & GRE_KEY) {
		key = take(cursor, sizeof(*key));
		if (!key)
			return -1;
		tunnel->segment = bpf_ntohl(*key);
	}
	if (flags & GRE_SEQUENCE && !take(cursor, 4))
		return -1;
	return gre->type;
}

/* VXLAN and Geneve: the network identifier is in the same place. */
static __always_inline int parse_overlay(struct cursor *cursor, struct tunnel *tunnel, __u16 port)
{
	struct {
		__be64 udp;
		__u8 first, second;
		__be16 type;
		__be32 network;
	} __attribute__((packed)) *header = take(cursor, 16);
	__u32 options;

	if (!header)
		return -1;
	tunnel->segment = bpf_ntohl(header->network) >> 8;
	if (port != GENEVE_PORT) {
		tunnel->kind = TUNNEL_VXLAN;
		return header->first & VXLAN_HAS_NETWORK ? ETHERNET_INSIDE : -1;
	}
	tunnel->kind = TUNNEL_GENEVE;
	options = (header->first & 0x3f) * 4;
	if (header->first & GENEVE_VERSION || seek(cursor, offset(cursor) + options) < 0)
		return -1;
	return header->type;
}

static __always_inline int parse_inner_ethernet(struct cursor *cursor)
{
	struct ethhdr *ethernet = take(cursor, sizeof(*ethernet));
	struct vlan_tag *tag;
	__be16 type;

	if (!ethernet)
		return -1;
	type = ethernet->h_proto;
#pragma unroll
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		if (!is_vlan(type))
			break;
		tag = take(cursor, sizeof(*tag));
		if (!tag)
			return -1;
		type = tag->type;
	}
	return type;
}

/*
 * From the transport header to the packet in it: puts the cursor there and returns its EtherType in
 * network order; -1 where there is none.
 */
static __always_inline int parse_tunnel(struct cursor *cursor, struct packet *packet,
					struct tunnel *tunnel)
{
	__u16 port = packet->key.dst_port;
	int type;

	if (!packet->transport_offset || seek(cursor, packet->transport_offset) < 0)
		return -1;
	tunnel->segment = 0;
	tunnel->kind = TUNNEL_IP;
	switch (packet->protocol) {
	case IPPROTO_IPIP:
		return bpf_htons(ETH_P_IP);
	case IPPROTO_IPV6:
		return bpf_htons(ETH_P_IPV6);
	case IPPROTO_GRE:
		type = parse_gre(cursor, tunnel);
		break;
	case IPPROTO_UDP:
		if (port != VXLAN_PORT && port != VXLAN_PORT_LINUX && port != GENEVE_PORT)
			return -1;
		type = parse_overlay(cursor, tunnel, port);
		break;
	default:
		return -1;
	}
	if (type == ETHERNET_INSIDE)
		type = parse_inner_ethernet(cursor);
	return type;
}

#ifdef TUNNELS
/*
 * The innermost packet takes the place of the outer ones in the key, if it is whole. Lengths become
 * its own, those of layer 2 stay the frame's.
 */
static __always_inline void parse_tunnels(struct cursor *cursor, struct packet *packet)
{
	struct tunnel tunnel;
	int type, transport;
	__u32 room;

#pragma clang loop unroll(disable)
	for (int i = 0; i < NUMBER(NUMBER_TUNNELS); i++) {
		forget_path(cursor, packet);
		type = parse_tunnel(cursor, packet, &tunnel);
		if (type < 0 || seek(cursor, offset(cursor)) < 0)
			return;
		room = remaining(cursor, packet);
		if (!room)
			return;
		if (type == bpf_htons(ETH_P_IP))
			transport = parse_ipv4(cursor, packet, room);
		else if (type == bpf_htons(ETH_P_IPV6))
			transport = parse_ipv6(cursor, packet, room);
		else
			return;
		if (transport < 0)
			return;
		packet->key.src_port = packet->key.dst_port = 0;
		packet->key.tunnel = tunnel.kind;
		packet->key.segment = tunnel.segment;
		packet->transport_offset = 0;
		packet->headers_len = offset(cursor);
		if (!transport)
			return;
		parse_transport(cursor, packet);
	}
}
#endif

#endif
