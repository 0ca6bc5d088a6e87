/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What only the first packet of a flow says: the members of its value from `icmp_type` on. Read
 * when the flow is new, so that busy flows do not pay for it.
 */
#ifndef PYFLOWX_FIRST_H
#define PYFLOWX_FIRST_H

#include "parse.h"

#define FLOW_LABEL_MASK	 0x000fffff
#define TCP_HEADER_LEN	 20
#define TCP_OPTIONS_MAX	 40
#define TCP_OPTION_END	 0
#define TCP_OPTION_NOP	 1
#define TCP_OPTION_MSS	 2
#define TCP_OPTION_SCALE 3

/* Where the octets that TCP, ICMP ... really have end: with the IP length, or with the frame. */
static __always_inline __u8 *transport_octets(struct cursor *cursor, struct packet *packet,
					      __u32 from, __u32 size)
{
	__u32 begin = packet->transport_offset + from;

	if (remaining_at(packet, begin) < size)
		return 0;
	return at(cursor, begin, size);
}

static __always_inline void describe_options(struct cursor *cursor, struct packet *packet,
					     __u32 options_len)
{
	__u32 place = TCP_HEADER_LEN, end = TCP_HEADER_LEN + options_len;
	__u32 zero = unknown_zero(cursor);
	__u8 *option;

#pragma clang loop unroll(disable)
	for (int i = 0; i < TCP_OPTIONS_MAX; i++, place += zero) {
		if (place >= end)
			return;
		option = transport_octets(cursor, packet, place, 1);
		if (!option || *option == TCP_OPTION_END)
			return;
		if (*option == TCP_OPTION_NOP) {
			place++;
			continue;
		}
		option = transport_octets(cursor, packet, place, 2);
		if (!option || option[1] < 2 || place + option[1] > end)
			return;
		if (option[0] == TCP_OPTION_MSS && option[1] == 4) {
			option = transport_octets(cursor, packet, place, 4);
			if (!option)
				return;
			packet->value.tcp_mss = option[2] << 8 | option[3];
		} else if (option[0] == TCP_OPTION_SCALE && option[1] == 3) {
			option = transport_octets(cursor, packet, place, 3);
			if (!option)
				return;
			packet->value.tcp_window_scale = option[2];
		}
		place += option[1];
	}
}

static __always_inline void describe_transport(struct cursor *cursor, struct packet *packet)
{
	__u8 *octets;

	switch (packet->protocol) {
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		octets = transport_octets(cursor, packet, 0, 2);
		if (!octets)
			return;
		packet->value.icmp_type = octets[0];
		packet->value.icmp_code = octets[1];
		return;
	case IPPROTO_IGMP:
		octets = transport_octets(cursor, packet, 0, 1);
		if (octets)
			packet->value.icmp_type = octets[0];
		return;
	case IPPROTO_TCP:
		octets = transport_octets(cursor, packet, 0, 16);
		if (!octets)
			return;
		packet->value.tcp_window = octets[14] << 8 | octets[15];
		if (octets[13] & TCP_SYN && octets[12] >> 4 > TCP_HEADER_LEN / 4)
			describe_options(cursor, packet, (octets[12] >> 4) * 4 - TCP_HEADER_LEN);
	}
}

static __always_inline void describe_labels(struct cursor *cursor, struct packet *packet)
{
	__u32 depth = (packet->mpls_end - packet->mpls_offset) / MPLS_LABEL_LEN;
	__u8 *label;

	packet->value.mpls_depth = depth;
	if (depth < 1)
		return;
	label = at(cursor, packet->mpls_offset, MPLS_LABEL_LEN);
	if (label)
		__builtin_memcpy(packet->value.mpls_1, label, 3);
	if (depth < 2)
		return;
	label = at(cursor, packet->mpls_offset + MPLS_LABEL_LEN, MPLS_LABEL_LEN);
	if (label)
		__builtin_memcpy(packet->value.mpls_2, label, 3);
	if (depth < 3)
		return;
	label = at(cursor, packet->mpls_offset + 2 * MPLS_LABEL_LEN, MPLS_LABEL_LEN);
	if (label)
		__builtin_memcpy(packet->value.mpls_3, label, 3);
}

static __always_inline void clear_first(const struct cursor *cursor, struct packet *packet)
{
	__u32 begin = __builtin_offsetof(struct flow_value, flow_label);
	__u64 zero = unknown_zero(cursor);

	packet->value.icmp_type = packet->value.icmp_code = packet->value.mpls_depth = zero;
	packet->value.fragment_id = zero;
	clear(&packet->value.flow_label, sizeof(packet->value) - begin, zero);
}

static __always_inline void describe_first(struct cursor *cursor, struct packet *packet)
{
	struct ipv6hdr *ipv6;
	struct iphdr *ipv4;

	clear_first(cursor, packet);
	if (packet->transport_offset) /* before all that makes paths more */
		describe_transport(cursor, packet);
#ifndef KEY_ETHER
	if (describe_link(cursor, packet) < 0)
		return;
#endif
	if (packet->mpls_offset)
		describe_labels(cursor, packet);
	if (packet->key.ip_version == 4) {
		ipv4 = at(cursor, packet->ip_offset, sizeof(*ipv4));
		if (ipv4)
			packet->value.fragment_id = bpf_ntohs(ipv4->id);
	} else if (packet->key.ip_version == 6) {
		packet->value.fragment_id = packet->fragment_id;
		ipv6 = at(cursor, packet->ip_offset, sizeof(*ipv6));
		if (ipv6)
			packet->value.flow_label = bpf_ntohl(*(__be32 *)ipv6) & FLOW_LABEL_MASK;
	}
}

#endif
