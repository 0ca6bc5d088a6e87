// SPDX-License-Identifier: GPL-2.0-only
/* The Metering Process at TC, ingress and egress. Leaves every packet to the next filter. */
#include <uapi/linux/pkt_cls.h>
#include "meter.h"

#define HEADER_ROOM  256    /* what we want to read of a packet */
#define GSO_BY_FRAGS 0xffff /* segments of their own sizes (SCTP) */

static __always_inline __u32 whole_length(const struct cursor *cursor)
{
	return cursor->length;
}

/*
 * A super-packet stands for gso_segs packets on the wire, each with a copy of the headers
 * (`tag_len` octets of them outside of the packet's data).
 */
static __always_inline void unfold(struct __sk_buff *skb, struct packet *packet, __u32 tag_len)
{
	__u32 headers = packet->headers_len - packet->jumbo_len; /* of each segment */
	__u32 ip_headers = headers - packet->ip_offset;
	__u32 payload = skb->len - packet->headers_len;
	__u32 size = skb->gso_size, segments = skb->gso_segs, repeated;

	if (skb->len <= packet->headers_len)
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

static __always_inline int meter(struct __sk_buff *skb, enum flow_direction direction)
{
	struct cursor cursor = {.length = skb->len};
	struct packet packet = {};
	__u32 wanted = skb->len < HEADER_ROOM ? skb->len : HEADER_ROOM;
	__u32 tag_len = skb->vlan_present ? VLAN_TAG_LEN : 0;
	enum statistic_slot slot;

	if (skb->data_end - skb->data < wanted)
		bpf_skb_pull_data(skb, wanted);
	cursor.start = cursor.pos = (void *)(long)skb->data;
	cursor.end = (void *)(long)skb->data_end;
	packet.key.ifindex = skb->ifindex;
	packet.key.direction = direction;
	packet.value.packets = 1;
	packet.value.l2_octets = skb->len + tag_len;
	if (tag_len)
		packet.key.vlan = skb->vlan_tci & 0x0fff;
	slot = parse(&cursor, &packet, tag_len ? 1 : 0);
	if (slot == STATISTIC_METERED && skb->gso_size)
		unfold(skb, &packet, tag_len);
	account(&packet, slot);
	return TC_ACT_UNSPEC;
}

int pyflowx_ingress(struct __sk_buff *skb)
{
	return meter(skb, DIRECTION_INGRESS);
}

int pyflowx_egress(struct __sk_buff *skb)
{
	return meter(skb, DIRECTION_EGRESS);
}
