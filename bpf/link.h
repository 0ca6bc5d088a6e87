/* SPDX-License-Identifier: GPL-2.0-only */
/* Ethernet; up to two VLAN tags (IEEE 802.1Q); PPPoE (RFC 2516); MPLS (RFC 3032). */
#ifndef PYFLOWX_LINK_H
#define PYFLOWX_LINK_H

#include "cursor.h"

#define MAX_VLAN_TAGS	2
#define MAX_MPLS_LABELS 8
#define MPLS_LABEL_LEN	4
#define VLAN_TAG_LEN	4
#define MPLS_BOTTOM	0x00000100 /* S bit of a label stack entry in host order */
#define PPPOE_SESSION	0x1100	   /* version 1, type 1, code 0 */
#define PPP_IPV4	0x0021
#define PPP_IPV6	0x0057

struct pppoe_header {
	__be16 kind, session, length, protocol;
};

struct vlan_tag {
	__be16 control, type;
};

static __always_inline int is_vlan(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

/* The frame's own members, wherever they are. */
#ifdef KEY_ETHER
#define LINK(packet) (&(packet)->key)
#else
#define LINK(packet) (&(packet)->value)
#endif

/* -1 where there is less than a header, so that nothing goes on without its members. */
static __always_inline int describe_link(struct cursor *cursor, struct packet *packet)
{
	struct ethhdr *ethernet = cursor->start;

	if (!packet->ethernet)
		return 0;
	if ((void *)(ethernet + 1) > cursor->end)
		return -1;
	__builtin_memcpy(LINK(packet)->dst_mac, ethernet->h_dest, ETH_ALEN);
	__builtin_memcpy(LINK(packet)->src_mac, ethernet->h_source, ETH_ALEN);
	LINK(packet)->ethertype = packet->ethertype;
	return 0;
}

/* MPLS does not say what it carries: the first nibble does (RFC 4928). Returns as parse_link(). */
static __always_inline int parse_mpls(struct cursor *cursor, struct packet *packet, __be16 type)
{
	__be32 *label;

	packet->mpls_offset = packet->mpls_end = offset(cursor);
#pragma unroll
	for (int i = 0; i < MAX_MPLS_LABELS; i++) {
		label = take(cursor, sizeof(*label));
		if (!label)
			return -1;
		packet->mpls_end = offset(cursor);
		if (!(bpf_ntohl(*label) & MPLS_BOTTOM))
			continue;
		if (cursor->pos + 1 > cursor->end)
			return -1;
		switch (*(__u8 *)cursor->pos >> 4) {
		case 4:
			return bpf_htons(ETH_P_IP);
		case 6:
			return bpf_htons(ETH_P_IPV6);
		}
		break;
	}
	return type;
}

static __always_inline int parse_pppoe(struct cursor *cursor, __be16 type)
{
	struct pppoe_header *header = take(cursor, sizeof(*header));

	if (!header)
		return -1;
	if (header->kind != bpf_htons(PPPOE_SESSION))
		return type;
	switch (bpf_ntohs(header->protocol)) {
	case PPP_IPV4:
		return bpf_htons(ETH_P_IP);
	case PPP_IPV6:
		return bpf_htons(ETH_P_IPV6);
	}
	return type;
}

/*
 * Returns the EtherType of what follows in network order, -1 where that is cut off. `tags` is the
 * number of tags that the driver or the stack took out of the frame.
 */
static __always_inline int parse_link(struct cursor *cursor, struct packet *packet, __u32 tags)
{
	struct ethhdr *ethernet = take(cursor, sizeof(*ethernet));
	struct vlan_tag *tag;
	__be16 type;

	if (!ethernet)
		return -1;
	type = ethernet->h_proto;
#pragma unroll
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		if (!is_vlan(type) || i + tags >= MAX_VLAN_TAGS)
			break;
		tag = take(cursor, sizeof(*tag));
		if (!tag)
			return -1;
		if (i + tags == 0)
			packet->key.vlan = bpf_ntohs(tag->control) & 0x0fff;
		else
			packet->key.inner_vlan = bpf_ntohs(tag->control) & 0x0fff;
		type = tag->type;
	}
	packet->ethertype = bpf_ntohs(type);
	switch (packet->ethertype) {
	case ETH_P_IP:
	case ETH_P_IPV6:
		return type;
	case ETH_P_MPLS_UC:
	case ETH_P_MPLS_MC:
		return parse_mpls(cursor, packet, type);
	case ETH_P_PPP_SES:
		return parse_pppoe(cursor, type);
	}
	return type;
}

#endif
