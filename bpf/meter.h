/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From a parsed packet to its flow's counters: what the programs of all hooks share.
 *
 * Maps are named by their slot (flow.h), so that one compilation serves any set of maps; user space
 * makes them. The hash is replaced each tick by an empty one; the kernel lets no program see the
 * old one once the replacement has returned, so no increment is lost.
 */
#ifndef PYFLOWX_METER_H
#define PYFLOWX_METER_H

#include "parse.h"

#define MAP(slot) ((void *)bpf_pseudo_fd(1 /* BPF_PSEUDO_MAP_FD */, slot))

#ifndef OWN_EXPORTS
#define OWN_EXPORTS 0
#endif

static __always_inline void count(enum statistic_slot slot, __u32 direction, __u64 packets,
				  __u64 octets)
{
	__u32 index = direction * STATISTIC_SLOTS + slot;
	struct statistic *statistic = bpf_map_lookup_elem(MAP(MAP_STATISTICS), &index);

	if (!statistic)
		return;
	statistic->packets += packets;
	statistic->octets += octets;
}

static __always_inline int is_own_export(const struct flow_key *key)
{
	if (key->protocol != IPPROTO_UDP)
		return 0;
#pragma unroll
	for (__u32 i = 0; i < OWN_EXPORTS; i++) {
		__u32 index = i;
		struct own_export *own = bpf_map_lookup_elem(MAP(MAP_OWN_EXPORTS), &index);
		const __u64 *dst = (const __u64 *)key->dst, *address = (const __u64 *)own;

		if (own && own->port == key->dst_port &&
		    (own->any_address || (dst[0] == address[0] && dst[1] == address[1])))
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
	struct flow_key key = {
		.ifindex = packet->key.ifindex,
		.direction = packet->key.direction,
	};
	struct flow_value *flow = bpf_map_lookup_elem(flows, &key);

	if (!flow)
		return STATISTIC_LOST;
	add(flow, &packet->value);
	if (!flow->first_ns)
		flow->first_ns = flow->last_ns;
	return STATISTIC_MAP_FULL;
}

static __always_inline enum statistic_slot add_to_flow(struct packet *packet)
{
	__u32 zero = 0;
	void *flows = bpf_map_lookup_elem(MAP(MAP_FLOWS), &zero);
	struct flow_value *flow;

	if (!flows)
		return STATISTIC_LOST;
	packet->value.jiffy = bpf_jiffies64();
	flow = bpf_map_lookup_elem(flows, &packet->key);
	if (!flow) {
		packet->value.first_ns = packet->value.last_ns = bpf_ktime_get_ns();
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

/* Adds the packet, whose parsing ended in `slot`, to its flow and to the statistics. */
static __always_inline void account(struct packet *packet, enum statistic_slot slot)
{
	__u32 direction = packet->key.direction;

	if (slot == STATISTIC_METERED)
		slot = is_own_export(&packet->key) ? STATISTIC_OWN_EXPORT : add_to_flow(packet);
	count(slot, direction, packet->value.packets, packet->value.l2_octets);
}

#endif
