/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From a parsed packet to its flow's counters, or to a sample: what the programs of all hooks
 * share.
 *
 * The hash of flows is replaced each tick by an empty one; the kernel lets no program see the old
 * one once the replacement has returned, so no increment is lost.
 */
#ifndef PYFLOWX_METER_H
#define PYFLOWX_METER_H

#include "maps.h"
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
static __always_inline int needs_clock(const struct flow_value *flow,
				       const struct flow_value *packet)
{
	return flow->packets < 64 || !(flow->packets & 31) || flow->jiffy != packet->jiffy ||
	       packet->tcp_flags & TCP_ENDS;
}

/*
 * Sums are atomic. The rest is written only when it changes, without a lock: atomic OR came with
 * Linux 5.12 and minimum and maximum have none. At worst two CPUs that meet the same flow in the
 * same nanoseconds lose a bit or an extreme, never a count.
 */
static __always_inline void add(struct flow_value *flow, const struct flow_value *packet)
{
	if (needs_clock(flow, packet)) {
		flow->last_ns = bpf_ktime_get_ns();
		flow->jiffy = packet->jiffy;
	}
	__sync_fetch_and_add(&flow->packets, packet->packets);
	__sync_fetch_and_add(&flow->octets, packet->octets);
	__sync_fetch_and_add(&flow->l2_octets, packet->l2_octets);
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

/* No room: the interface's catch-all flow, which user space put there beforehand, keeps totals
 * right. */
static __always_inline enum statistic_slot add_to_catch_all(void *flows, struct packet *packet)
{
	__u32 ifindex = packet->key.ifindex, direction = packet->key.direction;
	struct flow_value *flow;

	__builtin_memset(&packet->key, 0, sizeof(packet->key));
	packet->key.ifindex = ifindex;
	packet->key.direction = direction;
	flow = bpf_map_lookup_elem(flows, &packet->key);
	if (!flow)
		return STATISTIC_LOST;
	add(flow, &packet->value);
	if (!flow->first_ns)
		flow->first_ns = flow->last_ns;
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
	struct flow_value *flow;

	if (!flows)
		return STATISTIC_LOST;
	packet->value.jiffy = bpf_jiffies64();
	reduce(packet);
	flow = bpf_map_lookup_elem(flows, &packet->key);
	if (!flow) {
		packet->value.first_ns = packet->value.last_ns = bpf_ktime_get_ns();
		describe_first(cursor, packet);
		if (!bpf_map_update_elem(flows, &packet->key, &packet->value, BPF_NOEXIST))
			return STATISTIC_METERED;
		/* another CPU was first, or the map is full */
		flow = bpf_map_lookup_elem(flows, &packet->key);
		if (!flow)
			return add_to_catch_all(flows, packet);
	}
	add(flow, &packet->value);
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
