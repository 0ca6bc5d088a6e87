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

#include "table.h"
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

/*
 * The clock costs as much as the look-up. Busy flows read it for one packet in 32 and in each jiffy
 * (1 to 10 ms), so that the time of their last packet is at most 31 packets and one jiffy old.
 * Exact are the first 64 packets of each generation and what ends a TCP connection.
 */
static __always_inline int needs_clock(const struct flow *flow, const struct packet *packet)
{
	return flow->value.packets < 64 || !(flow->value.packets & 31) ||
	       flow->jiffy != packet->jiffy || packet->value.tcp_flags & TCP_ENDS;
}

static __always_inline void add_counters(struct flow_value *flow, const struct flow_value *packet)
{
	__sync_fetch_and_add(&flow->packets, packet->packets);
	__sync_fetch_and_add(&flow->octets, packet->octets);
	__sync_fetch_and_add(&flow->l2_octets, packet->l2_octets);
}

/*
 * Sums are atomic. The rest is written only when it changes, without a lock: atomic OR came with
 * Linux 5.12 and minimum and maximum have none. At worst two CPUs that meet the same flow in the
 * same nanoseconds lose a bit or an extreme, never a count.
 */
static __always_inline void add(struct flow *to, const struct packet *from)
{
	const struct flow_value *packet = &from->value;
	struct flow_value *flow = &to->value;

	if (needs_clock(to, from)) {
		flow->last_ns = bpf_ktime_get_ns();
		to->jiffy = from->jiffy;
	}
	add_counters(flow, packet);
	if (packet->tcp_flags & ~flow->tcp_flags)
		flow->tcp_flags |= packet->tcp_flags;
	if (packet->fragment_flags & ~flow->fragment_flags)
		flow->fragment_flags |= packet->fragment_flags;
	if (packet->extensions & ~flow->extensions)
		flow->extensions |= packet->extensions;
	if (packet->length_min < flow->length_min)
		flow->length_min = packet->length_min;
	if (packet->length_max > flow->length_max)
		flow->length_max = packet->length_max;
	if (packet->ttl_min < flow->ttl_min)
		flow->ttl_min = packet->ttl_min;
	if (packet->ttl_max > flow->ttl_max)
		flow->ttl_max = packet->ttl_max;
}

/* The first packet of a flow, at the place that was claimed for it. */
static __always_inline void begin_flow(struct flow *flow, struct packet *packet)
{
	__u32 counters = __builtin_offsetof(struct flow_value, first_ns);

	packet->value.first_ns = packet->value.last_ns = bpf_ktime_get_ns();
	__builtin_memcpy((void *)&flow->value + counters, (void *)&packet->value + counters,
			 sizeof(flow->value) - counters);
	flow->jiffy = packet->jiffy;
	add_counters(&flow->value, &packet->value);
	publish(flow, &packet->key);
}

/* No room: the catch-all flow of the interface and direction keeps totals right. */
static __always_inline enum statistic_slot add_to_catch_all(const struct cursor *cursor,
							    void *flows, struct packet *packet)
{
	__u32 ifindex = packet->key.ifindex, direction = packet->key.direction;
	struct flow *flow;
	int is_new = 0;

	__builtin_memset(&packet->key, 0, sizeof(packet->key));
	packet->key.ifindex = ifindex;
	packet->key.direction = direction;
	packet->key.complete = 1;
	flow = find_catch_all(cursor, flows, &packet->key, &is_new);
	if (!flow)
		return STATISTIC_LOST;
	if (is_new) {
		clear_first(cursor, packet);
		begin_flow(flow, packet);
	} else {
		add(flow, packet);
	}
	return STATISTIC_MAP_FULL;
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

static __always_inline enum statistic_slot add_to_flow(struct cursor *cursor, struct packet *packet)
{
	__u32 zero = 0;
	void *flows = bpf_map_lookup_elem(MAP(MAP_FLOWS), &zero);
	struct flow *flow;
	int is_new = 0;

	if (!flows)
		return STATISTIC_LOST;
	packet->jiffy = bpf_jiffies64();
	cursor->pos = cursor->start; /* where parsing ended makes no difference to the verifier */
	reduce(packet);
	packet->key.complete = 1;
	flow = find_flow(cursor, flows, &packet->key, &is_new);
	if (!flow)
		return add_to_catch_all(cursor, flows, packet);
	if (is_new) {
		describe_first(cursor, packet);
		begin_flow(flow, packet);
	} else {
		add(flow, packet);
	}
	return STATISTIC_METERED;
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
	if (slot == STATISTIC_METERED)
		slot = add_to_flow(cursor, packet);
#endif
	count(slot, direction, packet->value.packets, packet->value.l2_octets);
}

#endif
