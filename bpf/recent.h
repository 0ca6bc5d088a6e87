/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The flows that a CPU met last wait beside the table until there are RECENT of them, and get to
 * their places together. The processor waits for the memory of all these places at once, where it
 * would else wait for each: that is most of what a packet costs as soon as the table is larger than
 * the caches. And packets of one flow that follow each other are added up before.
 *
 * Of each CPU there are an entry for struct waiting, and RECENT for flows. Programs run with bottom
 * halves off, so that none comes between another and its entries. User space drains what waits with
 * the rest: a flow may then be there twice, and the statistics lack its packets, which are counted
 * when it has a place.
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
#define PROBES	     (NEAR_PROBES + FAR_PROBES + CATCH_ALL_PROBES)
#define SETTLE_STEPS (PROBES + 24) /* places that are looked at in one go */

/* What a CPU has beside its flows, in an entry of its own. */
struct waiting {
	__u32 claims;		 /* flows that wait */
	__u32 jiffy;		 /* of the last packet */
	struct flow_key no_flow; /* 0, so that it is not taken for a flow that waits */
	__u64 packets;		 /* in this jiffy */
	__u64 time_ns;		 /* of the last packet */
};

/*
 * Reading the clock would be a fifth of what a packet costs. So a CPU reads it for the first
 * NUMBER_TIMED packets of each jiffy (1 to 10 ms), then for one in 16, and for what begins or ends
 * a TCP connection. Other packets have the time of the last reading, and a nanosecond more for each
 * of them: at most 15 packets and one jiffy old, and always in the order in which they came.
 */
static __always_inline __u64 time_of(struct waiting *head, const struct packet *packet)
{
	__u32 jiffy = bpf_jiffies64();

	if (head->jiffy != jiffy) {
		head->jiffy = jiffy;
		head->packets = 0;
	}
	head->packets++;
	if (head->packets <= NUMBER(NUMBER_TIMED) || !(head->packets & 15) ||
	    packet->value.tcp_flags & (TCP_SYN | TCP_ENDS))
		head->time_ns = bpf_ktime_get_ns();
	else
		head->time_ns++;
	return head->time_ns;
}

/* A number of which the verifier learns nothing when this is compared. */
static __always_inline __u64 unseen(__u64 number, __u64 zero)
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
static __always_inline void add_packet(struct waiting *head, struct flow *recent,
				       const struct packet *packet)
{
	recent->value.last_ns = time_of(head, packet);
	recent->value.packets += packet->value.packets;
	recent->value.octets += packet->value.octets;
	recent->value.l2_octets += packet->value.l2_octets;
	widen(&recent->value, &packet->value);
}

static __always_inline void begin_recent(struct waiting *head, struct flow *recent,
					 struct packet *packet)
{
	packet->value.first_ns = packet->value.last_ns = time_of(head, packet);
	recent->hash = hash_of(&packet->key);
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

/* No room: the catch-all flow of the interface and direction keeps totals right. */
static __always_inline void make_catch_all(struct flow *recent)
{
	__u32 ifindex = recent->key.ifindex, direction = recent->key.direction;

	__builtin_memset(&recent->key, 0, sizeof(recent->key));
	recent->key.ifindex = ifindex;
	recent->key.direction = direction;
	recent->key.complete = 1;
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
 * The search for one flow's place. `zero` is one of which the verifier does not know it: the
 * numbers that it is added to are the same to the verifier on all ways to a step, so that it looks
 * at each step once.
 */
struct search {
	__u64 zero;
	__u64 in_use; /* places */
	__u64 part;
	__u64 place;
	__u64 left; /* places of this part that may still be looked at */
	__u64 most; /* flows in the table, up to which a new one may have a free place */
	__u64 hash;
	__u32 slot; /* enum statistic_slot, if it is found here */
};

static __always_inline void begin_search(struct search *search, const struct table_state *state,
					 const struct flow *recent)
{
	search->part = PART_NEAR + search->zero;
	search->hash = recent->hash;
	search->place = near_place(search->hash, search->in_use) + search->zero;
	search->left = NEAR_PROBES + search->zero;
	search->most = state->expected;
	search->slot = STATISTIC_METERED;
}

static __always_inline void next_far_place(struct search *search, const struct flow *recent)
{
	search->hash = next_hash(search->hash, recent->hash);
	search->place = far_place(search->hash, search->in_use) + search->zero;
}

/* Whether the flow has a place now: it was there, or the place was free. */
static __always_inline int take_place(void *flows, struct table_state *state,
				      const struct search *search, struct flow *flow,
				      const struct flow *recent)
{
	if (is_same(&flow->key, &recent->key)) {
		add(&flow->value, &recent->value);
		return 1;
	}
	if (flow->claims || state->flows >= search->most || !claim(flow, state))
		return 0;
	__sync_fetch_and_add(&state->flows, 1);
	mark(flows, search->place);
	begin_flow(flow, recent);
	return 1;
}

/* The next place to look at. Nothing is behind one that is free but not for this flow. */
static __always_inline int next_place(struct search *search, const struct flow *flow,
				      struct flow *recent)
{
	__u64 zero = search->zero;

	if (flow->claims && unseen(search->left, zero) > 1) {
		search->left += zero - 1;
		if (unseen(search->part, zero) == PART_FAR)
			next_far_place(search, recent);
		else
			search->place += zero + 1;
		return 1;
	}
	if (unseen(search->part, zero) == PART_NEAR) {
		search->part = PART_FAR + zero;
		search->left = FAR_PROBES + zero;
		search->most = NUMBER(NUMBER_MAX_FLOWS) + zero;
		next_far_place(search, recent);
		return 1;
	}
	if (unseen(search->part, zero) == PART_FAR) {
		make_catch_all(recent);
		search->part = PART_CATCH_ALL + zero;
		search->place = catch_all_place(&recent->key) + zero;
		search->left = CATCH_ALL_PROBES + zero;
		search->most = ~0ULL + zero;
		search->slot = STATISTIC_MAP_FULL;
		return 1;
	}
	search->slot = STATISTIC_LOST;
	return 0;
}

/*
 * Brings what waits to its places, the last one first, each to the end of its search; what is left
 * when too few steps are left for another one goes on waiting.
 */
static __always_inline void settle(void *flows, struct waiting *head, __u32 first, __u64 zero)
{
	struct flow *recent = entry(flows, first + head->claims - 1), *flow;
	struct table_state *state = state_of(flows);
	struct search search = {.zero = zero};
	__u64 waiting = head->claims + zero;

	if (!state || !waiting || !recent)
		return;
	search.in_use = state->places;
	fetch(flows, first, search.in_use);
	begin_search(&search, state, recent);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < SETTLE_STEPS; i++) {
		flow = entry(flows, search.place);
		if (!flow)
			break;
		if (!take_place(flows, state, &search, flow, recent) &&
		    next_place(&search, flow, recent))
			continue;
		count(search.slot, recent->key.direction, recent->value.packets,
		      recent->value.l2_octets);
		waiting += zero - 1;
		recent = entry(flows, first + waiting - 1);
		if (!waiting || !recent || i >= SETTLE_STEPS - PROBES)
			break;
		begin_search(&search, state, recent);
	}
	head->claims = waiting;
}

#endif
