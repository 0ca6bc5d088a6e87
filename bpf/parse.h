/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From the octets of a frame to a flow key and to what this one packet adds to its flow.
 *
 * Ethernet; up to two VLAN tags (IEEE 802.1Q); MPLS (RFC 3032); IPv4 (RFC 791) with options; IPv6
 * with extension headers (RFC 8200, RFC 4302); TCP, UDP, SCTP, DCCP, UDP-Lite ports, TCP flags,
 * ICMP.
 *
 * A packet whose IP header is whole and consistent is metered, whatever follows: what cannot be
 * read (another fragment has it, the IP length or the frame ends first) stays 0.
 */
#ifndef PYFLOWX_PARSE_H
#define PYFLOWX_PARSE_H

#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/tcp.h>
#include "flow.h"

#define MAX_VLAN_TAGS	    2
#define MAX_MPLS_LABELS	    8
#define MAX_IPV6_EXTENSIONS 8
#define VLAN_TAG_LEN	    4
#define MPLS_BOTTOM	    0x00000100 /* S bit of a label stack entry in host order */
#define IPV4_OFFSET_MASK    0x1fff
#define TCP_ENDS	    0x05 /* FIN, RST */
#define TCP_FLAGS_MASK	    0x0fff
#define SCTP_HEADER_LEN	    12
#define MAX_OFFSET	    0x3fff
#define JUMBO_HEADER_LEN    8
#define UDP_HEADER_LEN	    8

/*
 * `end` ends what can be read at `pos`. `length` is the whole frame's as far as it is known, and
 * never less than what can be read; the program's whole_length() says it for certain.
 */
struct cursor {
	void *context;
	void *start;
	void *pos;
	void *end;
	__u32 length;
};

static __always_inline __u32 whole_length(const struct cursor *cursor);

struct packet {
	struct flow_key key;
	struct flow_value value; /* of this packet alone */
	__u32 ip_offset;
	__u32 headers_len; /* offset of what TCP, UDP, SCTP carry; where segments differ */
	__u32 jumbo_len;   /* of BIG TCP's hop-by-hop header, which segments do not have */
};

static __always_inline __u32 offset(const struct cursor *cursor)
{
	__u64 offset = cursor->pos - cursor->start;

	asm volatile(""
		     : "+r"(offset)); /* a number: the compiler must not make it a pointer again */
	return offset;
}

static __always_inline void *take(struct cursor *cursor, __u32 size)
{
	void *taken = cursor->pos;

	if (taken + size > cursor->end)
		return 0;
	cursor->pos = taken + size;
	return taken;
}

/*
 * Go on at an offset that is not known before run time. This also makes the verifier forget on
 * which path it came here, so that it checks what follows once and not once for each path.
 */
static __always_inline int seek(struct cursor *cursor, __u64 to)
{
	void *pos;

	asm volatile("" : "+r"(to));
	if (to > MAX_OFFSET)
		return -1;
	pos = cursor->start + to;
	asm volatile(
		""
		: "+r"(pos)); /* the compiler must not compute it again from an unchecked `to` */
	cursor->pos = pos;
	return pos > cursor->end ? -1 : 0;
}

static __always_inline int is_vlan(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

/*
 * Ethernet, VLAN tags and MPLS. Returns the EtherType of what follows in network order, -1 where
 * that is cut off. `tags` is the number of tags that the driver or the stack took out of the frame.
 */
static __always_inline int parse_link(struct cursor *cursor, struct packet *packet, __u32 tags)
{
	struct ethhdr *ethernet = take(cursor, sizeof(*ethernet));
	struct {
		__be16 control, type;
	} * tag;
	__be32 *label;
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
		type = tag->type;
	}
	if (type != bpf_htons(ETH_P_MPLS_UC) && type != bpf_htons(ETH_P_MPLS_MC))
		return type;
#pragma unroll
	for (int i = 0; i < MAX_MPLS_LABELS; i++) {
		label = take(cursor, sizeof(*label));
		if (!label)
			return -1;
		if (!(bpf_ntohl(*label) & MPLS_BOTTOM))
			continue;
		if (cursor->pos + 1 > cursor->end)
			return -1;
		/* MPLS does not say what it carries: the first nibble does (RFC 4928) */
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

/* Sets the lengths; -1 if the frame is shorter than the IP header says. `length` 0: all of the
 * frame. */
static __always_inline int set_length(struct cursor *cursor, struct packet *packet, __u32 length)
{
	if (!length || cursor->length < packet->ip_offset + length)
		cursor->length = whole_length(cursor);
	if (cursor->length < packet->ip_offset + length)
		return -1;
	if (!length)
		length = cursor->length - packet->ip_offset;
	packet->value.octets = length;
	packet->value.length_min = packet->value.length_max = length;
	return 0;
}

/* The octets behind the headers read so far that the IP length allows. */
static __always_inline __u32 remaining(struct cursor *cursor, struct packet *packet)
{
	__u32 used = offset(cursor) - packet->ip_offset;

	return packet->value.octets > used ? packet->value.octets - used : 0;
}

/* Returns -1 for a bad header, 0 where no transport header follows in this packet, else 1. */
static __always_inline int parse_ipv4(struct cursor *cursor, struct packet *packet)
{
	struct iphdr *ip = take(cursor, sizeof(*ip));
	__u32 header_len, length;

	if (!ip || ip->version != 4 || ip->ihl < 5)
		return -1;
	header_len = ip->ihl * 4;
	length = bpf_ntohs(ip->tot_len);
	if (length < header_len) {
		/* BIG TCP's super-packets have no length that 16 bits could say */
		if (length || whole_length(cursor) - packet->ip_offset <= 0xffff)
			return -1;
	}
	if (set_length(cursor, packet, length) < 0)
		return -1;
	packet->key.ip_version = 4;
	packet->key.src[10] = packet->key.src[11] = 0xff;
	packet->key.dst[10] = packet->key.dst[11] = 0xff;
	__builtin_memcpy(packet->key.src + 12, &ip->saddr, 4);
	__builtin_memcpy(packet->key.dst + 12, &ip->daddr, 4);
	packet->key.protocol = ip->protocol;
	packet->key.tos = ip->tos;
	packet->value.ttl_min = packet->value.ttl_max = ip->ttl;
	if (bpf_ntohs(ip->frag_off) & IPV4_OFFSET_MASK)
		return 0;
	return seek(cursor, packet->ip_offset + header_len) < 0 ? 0 : 1;
}

static __always_inline int is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_FRAGMENT ||
	       next == IPPROTO_DSTOPTS || next == IPPROTO_AH || next == 135 /* Mobility */ ||
	       next == 139 /* HIP */ || next == 140 /* Shim6 */;
}

/* The protocol is the Next Header of the last extension header (IANA protocolIdentifier). */
static __always_inline int parse_extensions(struct cursor *cursor, struct packet *packet)
{
	struct {
		__u8 next, length;
		__be16 offset;
		__be32 rest;
	} * extension;
	__u32 more;
	__u8 type;

#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_IPV6_EXTENSIONS; i++) {
		type = packet->key.protocol;
		if (!is_extension(type))
			return 1;
		if (remaining(cursor, packet) < sizeof(*extension))
			return 0;
		extension = take(cursor, sizeof(*extension));
		if (!extension)
			return 0;
		if (type == IPPROTO_FRAGMENT) {
			packet->key.protocol = extension->next;
			if (bpf_ntohs(extension->offset) >> 3)
				return 0;
			continue;
		}
		/* units of 8 octets behind the first 8; AH counts 4, less 2 (RFC 4302 2.2) */
		more = type == IPPROTO_AH ? (extension->length + 2) * 4 - 8 : extension->length * 8;
		if (more > remaining(cursor, packet))
			return 0;
		packet->key.protocol = extension->next;
		if (seek(cursor, offset(cursor) + more) < 0)
			return 0;
	}
	return !is_extension(packet->key.protocol);
}

static __always_inline int parse_ipv6(struct cursor *cursor, struct packet *packet)
{
	struct ipv6hdr *ip = take(cursor, sizeof(*ip));
	__u32 length;

	if (!ip || ip->version != 6)
		return -1;
	length = bpf_ntohs(ip->payload_len);
	if (length || ip->nexthdr != IPPROTO_HOPOPTS)
		length += sizeof(*ip);
	else /* a jumbogram (RFC 2675): all of the frame */
		packet->jumbo_len = JUMBO_HEADER_LEN;
	if (set_length(cursor, packet, length) < 0)
		return -1;
	packet->key.ip_version = 6;
	__builtin_memcpy(packet->key.src, &ip->saddr, 16);
	__builtin_memcpy(packet->key.dst, &ip->daddr, 16);
	packet->key.protocol = ip->nexthdr;
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

static __always_inline void parse_icmp(struct cursor *cursor, struct packet *packet)
{
	__u8 *icmp = cursor->pos;

	if (remaining(cursor, packet) < 2 || cursor->pos + 2 > cursor->end)
		return;
	packet->value.icmp_type = icmp[0];
	packet->value.icmp_code = icmp[1];
}

static __always_inline void parse_transport(struct cursor *cursor, struct packet *packet)
{
	switch (packet->key.protocol) {
	case IPPROTO_TCP:
		parse_tcp(cursor, packet);
		break;
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
		parse_ports(cursor, packet);
		packet->headers_len = offset(cursor) + UDP_HEADER_LEN;
		break;
	case IPPROTO_SCTP:
		parse_ports(cursor, packet);
		packet->headers_len = offset(cursor) + SCTP_HEADER_LEN;
		break;
	case IPPROTO_DCCP:
		parse_ports(cursor, packet);
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		parse_icmp(cursor, packet);
		break;
	}
}

/* Fills a zeroed packet; returns STATISTIC_METERED or why it is no flow's. */
static __always_inline enum statistic_slot parse(struct cursor *cursor, struct packet *packet,
						 __u32 tags)
{
	int type = parse_link(cursor, packet, tags), transport;

	if (type < 0)
		return STATISTIC_MALFORMED;
	packet->ip_offset = offset(cursor);
	if (seek(cursor, packet->ip_offset) < 0)
		return STATISTIC_MALFORMED;
	if (type == bpf_htons(ETH_P_IP))
		transport = parse_ipv4(cursor, packet);
	else if (type == bpf_htons(ETH_P_IPV6))
		transport = parse_ipv6(cursor, packet);
	else
		return STATISTIC_NOT_IP;
	if (transport < 0)
		return STATISTIC_MALFORMED;
	packet->headers_len = offset(cursor);
	if (transport)
		parse_transport(cursor, packet);
	return STATISTIC_METERED;
}

#endif
