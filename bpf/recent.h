/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The flows that a CPU met last wait beside the table until there are RECENT of them, and get to
 * their places together. The processor waits for the memory of all these places at once, where it
 * would else wait for each: that is most of what a packet costs as soon as the table is larger than
 * the caches. And packets of one flow that follow each other are added up before.
 *
 * Of each CPU there are an entry whose `claims` says how many wait, and RECENT for them; in theirs,
 * `claims` is the jiffy in which last_ns was written. Programs run with bottom halves off, so that
 * none comes between another and its entries. User space drains what waits with the rest; a flow
 * may then be there twice.
 */
#ifndef PYFLOWX_RECENT_H
#define PYFLOWX_RECENT_H

#include "parse.h"
#include "table.h"

#define RECENT 16
#define AFTER_COUNTERS                                                                             \
	((sizeof(struct flow_value) - __builtin_offsetof(struct flow_value, first_ns)) / 8)
#define FIRST_WORDS                                                                                \
	((sizeof(struct flow_value) - __builtin_offsetof(struct flow_value, fragment_id)) / 4)
#define SETTLE_STEPS 64 /* places that are looked at in one go: more than one flow may need */

/*
 * The clock costs as much as the look-up. Busy flows read it for one packet in 32 and in each jiffy
 * (1 to 10 ms), so that the time of their last packet is at most 31 packets and one jiffy old.
 * Exact are the first 64 packets in a row and what ends a TCP connection.
 */
static __always_inline int needs_clock(const struct flow *recent, const struct packet *packet)
{
	return recent->value.packets < 64 || !(recent->value.packets & 31) ||
	       recent->claims != packet->jiffy || packet->value.tcp_flags & TCP_ENDS;
}

/* A number of which the verifier learns nothing when this is compared. */
static __always_inline __u64 same(__u64 number, __u64 zero)
{
	number += zero;
	asm volatile("" : "+r"(number));
	return number;
}

/* All bits where `a` is less than `b`, else none: without a branch for the verifier to follow. */
static __always_inline __u64 if_less(__u64 a, __u64 b)
{
	asm volatile("%0 -= %1\n%0 s>>= 63" : "+r"(a) : "r"(b));
	return a;
}

/* Bits are added, extremes become wider. Written only where that changes something. */
static __always_inline void widen(struct flow_value *to, const struct flow_value *from)
{
	__u64 shorter = if_less(from->length_min, to->length_min);
	__u64 longer = if_less(to->length_max, from->length_max);
	__u64 lower = if_less(from->ttl_min, to->ttl_min);
	__u64 higher = if_less(to->ttl_max, from->ttl_max);

	if (!((from->tcp_flags & ~to->tcp_flags) | (from->fragment_flags & ~to->fragment_flags) |
	      (from->extensions & ~to->extensions) | shorter | longer | lower | higher))
		return;
	to->tcp_flags |= from->tcp_flags;
	to->fragment_flags |= from->fragment_flags;
	to->extensions |= from->extensions;
	to->length_min ^= (to->length_min ^ from->length_min) & shorter;
	to->length_max ^= (to->length_max ^ from->length_max) & longer;
	to->ttl_min ^= (to->ttl_min ^ from->ttl_min) & lower;
	to->ttl_max ^= (to->ttl_max ^ from->ttl_max) & higher;
}

/* One more packet of the flow that this CPU met last. */
static __always_inline void add_packet(struct flow *recent, const struct packet *packet)
{
	if (needs_clock(recent, packet)) {
		recent->value.last_ns = bpf_ktime_get_ns();
		recent->claims = packet->jiffy;
	}
	recent->value.packets += packet->value.packets;
	recent->value.octets += packet->value.octets;
	recent->value.l2_octets += packet->value.l2_octets;
	widen(&recent->value, &packet->value);
}

static __always_inline void begin_recent(struct flow *recent, struct packet *packet)
{
	packet->value.first_ns = packet->value.last_ns = bpf_ktime_get_ns();
	recent->hash = hash_of(&packet->key);
	recent->claims = packet->jiffy;
	recent->key = packet->key;
	recent->value = packet->value;
}

static __always_inline void add_counters(struct flow_value *to, const struct flow_value *from)
{
	__sync_fetch_and_add(&to->packets, from->packets);
	__sync_fetch_and_add(&to->octets, from->octets);
	__sync_fetch_and_add(&to->l2_octets, from->l2_octets);
}

/* Those that wait do not come to their places in the order in which they came here. */
static __always_inline void set_first(struct flow_value *to, const struct flow_value *from)
{
	const __u32 *words = &from->fragment_id;
	__u32 *to_words = &to->fragment_id;

	to->first_ns = from->first_ns;
	to->icmp_type = from->icmp_type;
	to->icmp_code = from->icmp_code;
	to->mpls_depth = from->mpls_depth;
#pragma unroll
	for (__u32 i = 0; i < FIRST_WORDS; i++)
		to_words[i] = words[i];
}

/*
 * Sums are atomic. The rest goes without a lock: atomic OR came with Linux 5.12 and minimum and
 * maximum have none. At worst two CPUs that meet the same flow in the same nanoseconds lose a bit
 * or an extreme, never a count.
 */
static __always_inline void add(struct flow_value *to, const struct flow_value *from)
{
	add_counters(to, from);
	if (from->first_ns < to->first_ns)
		set_first(to, from);
	to->last_ns ^= (to->last_ns ^ from->last_ns) & if_less(to->last_ns, from->last_ns);
	widen(to, from);
}

/* At the place that was claimed for it. */
static __always_inline void begin_flow(struct flow *flow, const struct flow *recent)
{
	const __u64 *from = &recent->value.first_ns;
	__u64 *to = &flow->value.first_ns;

#pragma unroll
	for (__u32 i = 0; i < AFTER_COUNTERS; i++)
		to[i] = from[i];
	add_counters(&flow->value, &recent->value);
	flow->hash = recent->hash;
	publish(flow, &recent->key);
}

/* It was counted where it did not get in the end. */
static __always_inline void recount(const struct flow *recent, enum statistic_slot from,
				    enum statistic_slot to)
{
	__u64 packets = recent->value.packets, octets = recent->value.l2_octets;

	count(from, recent->key.direction, -packets, -octets);
	count(to, recent->key.direction, packets, octets);
}

/* No room: the catch-all flow of the interface and direction keeps totals right. */
static __always_inline void make_catch_all(struct flow *recent)
{
	__u32 ifindex = recent->key.ifindex, direction = recent->key.direction;

	recount(recent, STATISTIC_METERED, STATISTIC_MAP_FULL);
	__builtin_memset(&recent->key, 0, sizeof(recent->key));
	recent->key.ifindex = ifindex;
	recent->key.direction = direction;
	recent->key.complete = 1;
}

static __always_inline struct flow *entry(void *flows, __u32 index)
{
	return bpf_map_lookup_elem(flows, &index);
}

/* Lines of memory that an update reads. */
static __always_inline void touch(const struct flow *flow)
{
	(void)*(volatile __u32 *)&flow->claims;
	(void)*(volatile __u32 *)&flow->key.segment;
	(void)*(volatile __u16 *)&flow->value.tcp_flags;
}

/* So that all of this memory is on its way before the first of it is needed. */
static __always_inline void fetch(void *flows, __u32 first, __u64 in_use)
{
	struct flow *recent, *flow;
	__u64 place;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < RECENT; i++) {
		recent = entry(flows, first + i);
		if (!recent)
			return;
		flow = entry(flows, near_place(recent->hash, in_use));
		if (!flow)
			return;
		touch(flow);
	}
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < RECENT; i++) {
		recent = entry(flows, first + i);
		if (!recent)
			return;
		place = near_place(recent->hash, in_use);
		flow = entry(flows, place);
		if (!flow)
			return;
		if (flow->hash == recent->hash || !flow->claims)
			continue;
		flow = entry(flows, place + 1);
		if (!flow)
			return;
		touch(flow);
	}
}

/* Where a flow is searched for, one after the other. */
enum part {
	PART_NEAR, /* from its first place on, as long as no more are there than were expected */
	PART_FAR,
	PART_CATCH_ALL,
};

/*
 * Brings what waits to its places, the last one first; what is left when the steps are used up goes
 * on waiting. `zero` is one of which the verifier does not know it: the numbers that it is added to
 * are the same to the verifier on all ways to a step, so that it looks at each step once.
 */
static __always_inline void settle(void *flows, struct flow *head, __u32 first, __u64 zero)
{
	__u64 waiting = head->claims + zero, in_use, part, place, left, most, hash;
	struct flow *recent = entry(flows, first + waiting - 1), *flow;
	struct table_state *state = state_of(flows);

	if (!state || !waiting || !recent)
		return;
	in_use = state->places;
	fetch(flows, first, in_use);
	part = PART_NEAR + zero;
	hash = recent->hash;
	place = near_place(hash, in_use) + zero;
	left = NEAR_PROBES + zero;
	most = state->expected;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < SETTLE_STEPS; i++) {
		flow = entry(flows, place);
		if (!flow)
			break;
		if (is_same(&flow->key, &recent->key)) {
			add(&flow->value, &recent->value);
		} else if (!flow->claims && state->flows < most && claim(flow, state)) {
			__sync_fetch_and_add(&state->flows, 1);
			mark(flows, place);
			begin_flow(flow, recent);
		} else if (flow->claims && same(left, zero) > 1) {
			left += zero - 1;
			place += zero + 1;
			hash = next_hash(hash, recent->hash);
			if (same(part, zero) == PART_FAR)
				place = far_place(hash, in_use) + zero;
			continue;
		} else if (same(part, zero) == PART_NEAR) {
			part = PART_FAR + zero;
			hash = next_hash(hash, recent->hash);
			place = far_place(hash, in_use) + zero;
			left = FAR_PROBES + zero;
			most = NUMBER(NUMBER_MAX_FLOWS) + zero;
			continue;
		} else if (same(part, zero) == PART_FAR) {
			if (i >= SETTLE_STEPS - CATCH_ALL_PROBES)
				break; /* a catch-all flow must not go on waiting */
			make_catch_all(recent);
			part = PART_CATCH_ALL + zero;
			place = catch_all_place(&recent->key) + zero;
			left = CATCH_ALL_PROBES + zero;
			most = ~0ULL + zero;
			continue;
		} else {
			recount(recent, STATISTIC_MAP_FULL, STATISTIC_LOST);
		}
		waiting += zero - 1;
		recent = entry(flows, first + waiting - 1);
		if (!waiting || !recent)
			break;
		part = PART_NEAR + zero;
		hash = recent->hash;
		place = near_place(hash, in_use) + zero;
		left = NEAR_PROBES + zero;
		most = state->expected;
	}
	head->claims = waiting;
}

#endif
