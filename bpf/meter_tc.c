// SPDX-License-Identifier: GPL-2.0-only
/*
 * The Metering Process at TC, ingress and egress, of devices with Ethernet headers and without.
 * Leaves every packet to the next filter.
 */
#include <uapi/linux/pkt_cls.h>
#include "meter.h"

#define HEADER_ROOM  256    /* what we want to read of a packet */
#define GSO_BY_FRAGS 0xffff /* segments of their own sizes (SCTP) */

static __always_inline __u32 whole_length(const struct cursor *cursor)
{
	return cursor->length;
}

static __always_inline void *frame_start(const struct cursor *cursor)
{
	return (void *)(long)((volatile struct __sk_buff *)cursor->context)->data;
}

#ifdef PACKETS
static __always_inline void copy_start(struct cursor *cursor, struct packet_sample *sample)
{
	__u64 length = cursor->length, clip = NUMBER(NUMBER_CLIP_LENGTH);

	if (length > clip)
		length = clip;
	sample->length = length;
	/* the helper wants to be sure that this is not 0 */
	asm volatile("if %0 s> 0 goto +1\n%0 = 1" : "+r"(length));
	bpf_skb_load_bytes(cursor->context, 0, sample->octets, length);
}
#endif

/* The offset of what TCP or UDP of a packet in a packet carries; 0 where there is none. */
static __always_inline __u32 inner_headers_len(struct cursor *cursor, struct packet *packet)
{
	struct tunnel tunnel;
	int type = parse_tunnel(cursor, packet, &tunnel);
	__u32 ip_offset = offset(cursor), place;
	struct ipv6hdr *ipv6;
	struct iphdr *ipv4;
	__u8 protocol, *octets;

	if (type == bpf_htons(ETH_P_IP)) {
		ipv4 = at(cursor, ip_offset, sizeof(*ipv4));
		if (!ipv4)
			return 0;
		protocol = ipv4->protocol;
		place = ip_offset + ipv4->ihl * 4;
	} else if (type == bpf_htons(ETH_P_IPV6)) {
		ipv6 = at(cursor, ip_offset, sizeof(*ipv6));
		if (!ipv6)
			return 0;
		protocol = ipv6->nexthdr;
		place = ip_offset + sizeof(*ipv6);
#pragma clang loop unroll(disable)
		for (int i = 0; i < MAX_IPV6_EXTENSIONS && extension_bit(protocol); i++) {
			octets = at(cursor, place, 8);
			if (!octets)
				return 0;
			protocol = octets[0];
			place += octets[1] * 8 + 8;
		}
	} else {
		return 0;
	}
	if (protocol == IPPROTO_UDP)
		return place + UDP_HEADER_LEN;
	octets = at(cursor, place, TCP_HEADER_LEN);
	return protocol == IPPROTO_TCP && octets ? place + (octets[12] >> 4) * 4 : 0;
}

/*
 * A super-packet stands for gso_segs packets on the wire, each with a copy of the headers
 * (`tag_len` octets of them outside of the packet's data).
 */
static __always_inline void unfold(struct __sk_buff *skb, struct cursor *cursor,
				   struct packet *packet, __u32 tag_len)
{
	__u32 headers_len = packet->headers_len, headers, ip_headers, payload;
	__u32 size = skb->gso_size, segments = skb->gso_segs, repeated;
	__u32 inner = inner_headers_len(cursor, packet);

	if (inner)
		headers_len = inner;
	headers = headers_len - packet->jumbo_len; /* of each segment */
	ip_headers = headers - packet->ip_offset;
	payload = skb->len - headers_len;
	if (skb->len <= headers_len)
		return;
	if (!segments) /* from a virtual machine: nobody has counted yet */
		segments = (payload + size - 1) / size;
	if (segments < 2)
		return;
	if (size == GSO_BY_FRAGS) /* only the mean is known */
		size = payload / segments;
	repeated = (segments - 1) * (headers + tag_len) - packet->jumbo_len;
	packet->value.packets = segments;
	packet->value.l2_octets += repeated;
	packet->value.octets += (segments - 1) * ip_headers - packet->jumbo_len;
	packet->value.length_max = ip_headers + size;
	packet->value.length_min = ip_headers + payload - (segments - 1) * size;
	if (packet->value.length_min > packet->value.length_max)
		packet->value.length_min = packet->value.length_max;
	count(STATISTIC_GSO_ADDED, packet->key.direction, segments - 1, repeated);
}

static __always_inline int meter(struct __sk_buff *skb, enum flow_direction direction, int ethernet)
{
	struct cursor cursor = {.context = skb};
	__u32 wanted = skb->len < HEADER_ROOM ? skb->len : HEADER_ROOM, tag = 0;
	enum statistic_slot slot;
	struct packet packet;

	if (ethernet && skb->vlan_present)
		tag = bpf_ntohs(skb->vlan_proto) << 16 | skb->vlan_tci;
	if (skb->data_end - skb->data < wanted)
		bpf_skb_pull_data(skb, wanted);
	/* read again, so that the verifier does not look at long and short packets one by one */
	cursor.length = ((volatile struct __sk_buff *)skb)->len;
	cursor.start = cursor.pos = (void *)(long)skb->data;
	cursor.end = (void *)(long)skb->data_end;
	begin(&cursor, &packet, skb->ifindex, direction, ethernet);
	packet.value.l2_octets = skb->len + (tag ? VLAN_TAG_LEN : 0);
	packet.key.vlan = tag & 0x0fff;
	slot = select_packet(&cursor, tag);
	if (slot == STATISTIC_METERED) {
		slot = ethernet ? parse_frame(&cursor, &packet, tag ? 1 : 0)
				: parse_packet(&cursor, &packet, skb->protocol);
		if (slot == STATISTIC_METERED && skb->gso_size)
			unfold(skb, &cursor, &packet, tag ? VLAN_TAG_LEN : 0);
	}
	account(&cursor, &packet, slot, tag);
	return TC_ACT_UNSPEC;
}

int pyflowx_ingress(struct __sk_buff *skb)
{
	return meter(skb, DIRECTION_INGRESS, 1);
}

int pyflowx_egress(struct __sk_buff *skb)
{
	return meter(skb, DIRECTION_EGRESS, 1);
}

int pyflowx_ingress_ip(struct __sk_buff *skb)
{
	return meter(skb, DIRECTION_INGRESS, 0);
}

int pyflowx_egress_ip(struct __sk_buff *skb)
{
	return meter(skb, DIRECTION_EGRESS, 0);
}
