/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From a parsed packet to its flow's counters, or to a sample: what the programs of all hooks
 * share.
 *
 * The table of flows is replaced each tick by an empty one; the kernel lets no program see the old
 * one once the replacement has returned, so no increment is lost.
 */
#ifndef PYFLOWX_METER_H
#define PYFLOWX_METER_H

#include "recent.h"
#include "select.h"
#include "first.h"
#include "fragment.h"

static __always_inline int is_end(const struct own_export *own, const __u8 *octets, __u16 port)
{
	const __u64 *address = (const __u64 *)octets, *ours = (const __u64 *)own;

	return own->port == port &&
	       (own->any_address || (address[0] == ours[0] && address[1] == ours[1]));
}

/* To a collector; of TCP also what comes back. */
static __always_inline int is_own_export(const struct packet *packet)
{
	const struct flow_key *key = &packet->key;

	if (packet->protocol != IPPROTO_UDP && packet->protocol != IPPROTO_TCP)
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < NUMBER(NUMBER_OWN_EXPORTS); i++) {
		__u32 index = i;
		struct own_export *own = bpf_map_lookup_elem(MAP(MAP_OWN_EXPORTS), &index);

		if (!own)
			break;
		if (is_end(own, key->dst, key->dst_port))
			return 1;
		if (packet->protocol == IPPROTO_TCP && is_end(own, key->src, key->src_port))
			return 1;
	}
	return 0;
}

/* Of the parser's key only what the level has makes a difference. */
static __always_inline void reduce(struct packet *packet)
{
	struct flow_key *key = &packet->key;
	__u64 level = NUMBER(NUMBER_KEY_LEVEL);

	if (level >= KEY_LEVEL_PROTO)
		key->protocol = packet->protocol;
	if (level < KEY_LEVEL_FULL) {
		key->src_port = key->dst_port = 0;
		key->segment = 0;
		key->tos = 0;
		key->tunnel = 0;
	}
	if (level < KEY_LEVEL_VLAN)
		key->vlan = key->inner_vlan = 0;
}

/* Whether the packet is in a flow now; it is counted as soon as that has a place. */
static __always_inline int add_to_flow(struct cursor *cursor, struct packet *packet)
{
	__u32 zero = 0, first = TABLE_RECENT + bpf_get_smp_processor_id() * (1 + RECENT);
	void *flows = bpf_map_lookup_elem(MAP(MAP_FLOWS), &zero);
	struct waiting *head;
	struct flow *recent;

	if (!flows)
		return 0;
	head = entry(flows, first++);
	if (!head)
		return 0;
	cursor->pos = cursor->start; /* where parsing ended makes no difference to the verifier */
	reduce(packet);
	packet->key.complete = 1;
	/* the last one; where none waits that is `head`, which has no flow's key */
	recent = entry(flows, first + head->claims - 1);
	if (!recent)
		return 0;
	if (is_same(&recent->key, &packet->key)) {
		add_packet(head, recent, packet);
		return 1;
	}
	describe_first(cursor, packet);
	cursor->pos = cursor->start;
	recent = entry(flows, first + head->claims);
	if (!recent)
		return 0;
	begin_recent(head, recent, packet);
	if (++head->claims >= RECENT)
		settle(flows, head, first, unknown_zero(cursor));
	return 1;
}

#ifdef PACKETS
static __always_inline void copy_start(struct cursor *cursor, struct packet_sample *sample);

static __always_inline enum statistic_slot hand_over(struct cursor *cursor, struct packet *packet,
						     __u32 tag)
{
	__u64 size = sizeof(struct packet_sample) + NUMBER(NUMBER_CLIP_LENGTH);
	struct packet_sample *sample = bpf_ringbuf_reserve(MAP(MAP_PACKETS), size, 0);

	if (!sample)
		return STATISTIC_LOST;
	sample->time_ns = bpf_ktime_get_ns();
	sample->ifindex = packet->key.ifindex;
	sample->direction = packet->key.direction;
	sample->frame_length = whole_length(cursor) + (tag ? VLAN_TAG_LEN : 0);
	sample->ethernet = packet->ethernet;
	sample->tag = tag;
	copy_start(cursor, sample);
	bpf_ringbuf_submit(sample, BPF_RB_NO_WAKEUP); /* user space looks once a tick */
	return STATISTIC_METERED;
}
#endif

/* Adds the packet, whose parsing ended in `slot`, to its flow and to the statistics. */
static __always_inline void account(struct cursor *cursor, struct packet *packet,
				    enum statistic_slot slot, __u32 tag)
{
	__u32 direction = packet->key.direction;

	if (slot == STATISTIC_METERED && packet->fragment)
		follow_fragments(packet);
	if (slot == STATISTIC_METERED && is_own_export(packet))
		slot = STATISTIC_OWN_EXPORT;
#ifdef PACKETS
	if (slot == STATISTIC_METERED || slot == STATISTIC_NOT_IP || slot == STATISTIC_MALFORMED)
		slot = hand_over(cursor, packet, tag);
#else
	if (slot == STATISTIC_METERED) {
		if (add_to_flow(cursor, packet))
			return;
		slot = STATISTIC_LOST;
	}
#endif
	count(slot, direction, packet->value.packets, packet->value.l2_octets);
}

#endif
