/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From the octets of a packet to a flow key and to what this one packet adds to its flow.
 *
 * IPv4 (RFC 791) with options; IPv6 with extension headers (RFC 8200, RFC 4302); TCP, UDP, SCTP,
 * DCCP, UDP-Lite ports, TCP flags; the SPI of ESP and AH. What only the first packet of a flow says
 * is in first.h.
 *
 * A packet whose IP header is whole and consistent is metered, whatever follows: what cannot be
 * read (another fragment has it, the IP length or the frame ends first) stays 0.
 */
#ifndef PYFLOWX_PARSE_H
#define PYFLOWX_PARSE_H

#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/tcp.h>
#include "link.h"

#define MAX_IPV6_EXTENSIONS 8
#define IPV4_OFFSET_MASK    0x1fff
#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV6_OFFSET_MASK    0xfff8
#define IPV6_MORE_FRAGMENTS 0x0001
#define FRAGMENT_FLAGS	    0xe0 /* IANA fragmentFlags: reserved, don't fragment, more fragments */
#define FRAGMENT_MORE	    0x20
#define TCP_SYN		    0x02
#define TCP_ENDS	    0x05 /* FIN, RST */
#define TCP_FLAGS_MASK	    0x0fff
#define SCTP_HEADER_LEN	    12
#define JUMBO_HEADER_LEN    8
#define UDP_HEADER_LEN	    8
#define ANY_LENGTH	    0

/* Bits of flow_value.extensions (RFC 9740, IANA) */
#define EXTENSION_DST	  (1 << 0)
#define EXTENSION_HOP	  (1 << 1)
#define EXTENSION_FIRST	  (1 << 4) /* first fragment */
#define EXTENSION_RH	  (1 << 5)
#define EXTENSION_LATER	  (1 << 6) /* other fragment */
#define EXTENSION_MOB	  (1 << 12)
#define EXTENSION_ESP	  (1 << 13)
#define EXTENSION_AH	  (1 << 14)
#define EXTENSION_HIP	  (1 << 16)
#define EXTENSION_SHIM6	  (1 << 17)
#define PROTOCOL_MOBILITY 135
#define PROTOCOL_HIP	  139
#define PROTOCOL_SHIM6	  140

/*
 * Sets the lengths; -1 if there is less than the IP header says. `length` ANY_LENGTH: all there is.
 * `room`: what the tunnel's header leaves, ANY_LENGTH for the rest of the frame.
 */
static __always_inline int set_length(struct cursor *cursor, struct packet *packet, __u32 ip_offset,
				      __u32 length, __u32 room)
{
	__u64 zero;

	if (room) {
		if (room < length)
			return -1;
		if (!length)
			length = room;
		/* from here on the packet is this one, and no more the one that carries it */
		zero = unknown_zero(cursor);
		packet->jumbo_len = zero;
		packet->fragment = FRAGMENT_NONE + zero;
		packet->value.extensions = zero;
		packet->value.fragment_flags = zero;
	} else {
		if (!length || cursor->length < ip_offset + length)
			cursor->length = whole_length(cursor);
		if (cursor->length < ip_offset + length)
			return -1;
		if (!length)
			length = cursor->length - ip_offset;
	}
	packet->ip_offset = ip_offset;
	packet->value.octets = length;
	packet->value.length_min = packet->value.length_max = length;
	return 0;
}

/* Returns -1 for a bad header, 0 where no transport header follows in this packet, else 1. */
static __always_inline int parse_ipv4(struct cursor *cursor, struct packet *packet, __u32 room)
{
	__u32 ip_offset = offset(cursor), header_len, length, fragment;
	struct iphdr *ip = take(cursor, sizeof(*ip));

	if (!ip || ip->version != 4 || ip->ihl < 5)
		return -1;
	header_len = ip->ihl * 4;
	length = bpf_ntohs(ip->tot_len);
	if (length < header_len) {
		/* BIG TCP's super-packets have no length that 16 bits could say */
		if (length || whole_length(cursor) - ip_offset <= 0xffff)
			return -1;
	}
	if (set_length(cursor, packet, ip_offset, length, room) < 0)
		return -1;
	packet->key.ip_version = 4;
	__builtin_memset(packet->key.src, 0, 10);
	__builtin_memset(packet->key.dst, 0, 10);
	packet->key.src[10] = packet->key.src[11] = 0xff;
	packet->key.dst[10] = packet->key.dst[11] = 0xff;
	__builtin_memcpy(packet->key.src + 12, &ip->saddr, 4);
	__builtin_memcpy(packet->key.dst + 12, &ip->daddr, 4);
	packet->protocol = ip->protocol;
	packet->key.tos = ip->tos;
	packet->value.ttl_min = packet->value.ttl_max = ip->ttl;
	fragment = bpf_ntohs(ip->frag_off);
	packet->value.fragment_flags = fragment >> 8 & FRAGMENT_FLAGS;
	if (fragment & (IPV4_OFFSET_MASK | IPV4_MORE_FRAGMENTS)) {
		packet->fragment = fragment & IPV4_OFFSET_MASK ? FRAGMENT_LATER : FRAGMENT_FIRST;
		packet->fragment_id = bpf_ntohs(ip->id);
		packet->fragment_protocol = ip->protocol;
		if (fragment & IPV4_OFFSET_MASK)
			return 0;
	}
	return seek(cursor, ip_offset + header_len) < 0 ? 0 : 1;
}

static __always_inline __u32 extension_bit(__u8 next)
{
	switch (next) {
	case IPPROTO_HOPOPTS:
		return EXTENSION_HOP;
	case IPPROTO_ROUTING:
		return EXTENSION_RH;
	case IPPROTO_DSTOPTS:
		return EXTENSION_DST;
	case IPPROTO_AH:
		return EXTENSION_AH;
	case PROTOCOL_MOBILITY:
		return EXTENSION_MOB;
	case PROTOCOL_HIP:
		return EXTENSION_HIP;
	case PROTOCOL_SHIM6:
		return EXTENSION_SHIM6;
	case IPPROTO_FRAGMENT:
		return EXTENSION_FIRST;
	}
	return 0;
}

/* The protocol is the Next Header of the last extension header (IANA protocolIdentifier). */
static __always_inline int parse_extensions(struct cursor *cursor, struct packet *packet)
{
	struct {
		__u8 next, length;
		__be16 offset;
		__be32 id;
	} * extension;
	__u32 more, bit, fragment, zero = unknown_zero(cursor);
	__u8 type;

#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_IPV6_EXTENSIONS; i++) {
		type = packet->protocol;
		bit = extension_bit(type + zero) + zero;
		if (!bit)
			return 1;
		if (remaining(cursor, packet) < sizeof(*extension))
			return 0;
		extension = take(cursor, sizeof(*extension));
		if (!extension)
			return 0;
		/* units of 8 octets behind the first 8; AH counts 4, less 2 (RFC 4302 2.2) */
		more = type == IPPROTO_AH ? (extension->length + 2) * 4 - 8 : extension->length * 8;
		if (type == IPPROTO_FRAGMENT) {
			more = 0;
			fragment = bpf_ntohs(extension->offset);
			packet->fragment_protocol = extension->next;
			packet->fragment_id = bpf_ntohl(extension->id);
			packet->fragment = FRAGMENT_FIRST + zero;
			packet->value.fragment_flags =
				(fragment & IPV6_MORE_FRAGMENTS) * FRAGMENT_MORE;
			if (fragment & IPV6_OFFSET_MASK) {
				packet->protocol = extension->next;
				packet->fragment = FRAGMENT_LATER + zero;
				packet->value.extensions |= EXTENSION_LATER + zero;
				return 0;
			}
		}
		if (more > remaining(cursor, packet))
			return 0;
		packet->value.extensions |= bit;
		packet->protocol = extension->next;
		if (seek(cursor, offset(cursor) + more) < 0)
			return 0;
	}
	return !extension_bit(packet->protocol);
}

static __always_inline int parse_ipv6(struct cursor *cursor, struct packet *packet, __u32 room)
{
	__u32 ip_offset = offset(cursor), length;
	struct ipv6hdr *ip = take(cursor, sizeof(*ip));
	int jumbo;

	if (!ip || ip->version != 6)
		return -1;
	length = bpf_ntohs(ip->payload_len);
	jumbo = !length && ip->nexthdr == IPPROTO_HOPOPTS; /* RFC 2675: all of the frame */
	if (!jumbo)
		length += sizeof(*ip);
	if (set_length(cursor, packet, ip_offset, length, room) < 0)
		return -1;
	if (jumbo)
		packet->jumbo_len = JUMBO_HEADER_LEN;
	packet->key.ip_version = 6;
	__builtin_memcpy(packet->key.src, &ip->saddr, 16);
	__builtin_memcpy(packet->key.dst, &ip->daddr, 16);
	packet->protocol = ip->nexthdr;
	packet->key.tos = ip->priority << 4 | ip->flow_lbl[0] >> 4;
	packet->value.ttl_min = packet->value.ttl_max = ip->hop_limit;
	return parse_extensions(cursor, packet);
}

static __always_inline void parse_ports(struct cursor *cursor, struct packet *packet)
{
	__be16 *ports = cursor->pos;

	if (remaining(cursor, packet) < 4 || cursor->pos + 4 > cursor->end)
		return;
	packet->key.src_port = bpf_ntohs(ports[0]);
	packet->key.dst_port = bpf_ntohs(ports[1]);
}

static __always_inline void parse_tcp(struct cursor *cursor, struct packet *packet)
{
	__u8 *tcp = cursor->pos;

	parse_ports(cursor, packet);
	if (remaining(cursor, packet) < 14 || cursor->pos + 14 > cursor->end)
		return;
	packet->value.tcp_flags = (tcp[12] << 8 | tcp[13]) & TCP_FLAGS_MASK;
	packet->headers_len = offset(cursor) + (tcp[12] >> 4) * 4;
}

/* The SPI tells security associations apart as ports do connections (RFC 4303, RFC 4302). */
static __always_inline void parse_ipsec(struct cursor *cursor, struct packet *packet, __u32 at)
{
	__be32 *spi = cursor->pos + at;

	if (remaining(cursor, packet) < at + 4 || cursor->pos + at + 4 > cursor->end)
		return;
	packet->key.segment = bpf_ntohl(*spi);
}

static __always_inline void parse_transport(struct cursor *cursor, struct packet *packet)
{
	packet->headers_len = packet->transport_offset = offset(cursor);
	switch (packet->protocol) {
	case IPPROTO_TCP:
		parse_tcp(cursor, packet);
		break;
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
		parse_ports(cursor, packet);
		packet->headers_len += UDP_HEADER_LEN;
		break;
	case IPPROTO_SCTP:
		parse_ports(cursor, packet);
		packet->headers_len += SCTP_HEADER_LEN;
		break;
	case IPPROTO_DCCP:
		parse_ports(cursor, packet);
		break;
	case IPPROTO_ESP:
		parse_ipsec(cursor, packet, 0);
		packet->value.extensions |= packet->key.ip_version == 6 ? EXTENSION_ESP : 0;
		break;
	case IPPROTO_AH:
		parse_ipsec(cursor, packet, 4);
		break;
	}
}

/* What follows does not depend on the path that led here: so that the verifier sees it once. */
static __always_inline void forget_path(struct cursor *cursor, struct packet *packet)
{
	__u32 zero = unknown_zero(cursor);

	packet->fragment += zero;
	packet->protocol += zero;
	packet->transport_offset += zero;
	packet->jumbo_len += zero;
	packet->value.tcp_flags += zero;
	packet->value.extensions += zero;
	packet->value.fragment_flags += zero;
	packet->key.ip_version += zero;
}

#include "tunnel.h"

/* From the IP header on. Returns STATISTIC_METERED or why the packet is no flow's. */
static __always_inline enum statistic_slot parse_ip(struct cursor *cursor, struct packet *packet,
						    int type)
{
	int transport;

	if (type == bpf_htons(ETH_P_IP))
		transport = parse_ipv4(cursor, packet, ANY_LENGTH);
	else
		transport = parse_ipv6(cursor, packet, ANY_LENGTH);
	if (transport < 0)
		return STATISTIC_MALFORMED;
	packet->headers_len = offset(cursor);
	if (transport) {
		parse_transport(cursor, packet);
#ifdef TUNNELS
		parse_tunnels(cursor, packet);
#endif
	}
	forget_path(cursor, packet);
	return STATISTIC_METERED;
}

/* Fills a packet after begin(); returns STATISTIC_METERED or why it is no flow's. */
static __always_inline enum statistic_slot parse_frame(struct cursor *cursor, struct packet *packet,
						       __u32 tags)
{
	int type = parse_link(cursor, packet, tags);
	__u32 zero = unknown_zero(cursor), to;

	packet->mpls_offset += zero;
	packet->mpls_end += zero;
	to = offset(cursor);
	cursor->start = frame_start(cursor);
	if (type < 0 || seek(cursor, to) < 0)
		return STATISTIC_MALFORMED;
#ifdef KEY_ETHER
	if (describe_link(cursor, packet) < 0)
		return STATISTIC_MALFORMED;
#endif
	if (type != bpf_htons(ETH_P_IP) && type != bpf_htons(ETH_P_IPV6))
#ifdef KEY_ETHER
		return STATISTIC_METERED;
#else
		return STATISTIC_NOT_IP;
#endif
	return parse_ip(cursor, packet, type);
}

/* The same for a device without Ethernet header, whose packets have their type beside them. */
static __always_inline enum statistic_slot parse_packet(struct cursor *cursor,
							struct packet *packet, __be16 type)
{
	if (type != bpf_htons(ETH_P_IP) && type != bpf_htons(ETH_P_IPV6))
		return STATISTIC_NOT_IP;
	return parse_ip(cursor, packet, type);
}

#endif
