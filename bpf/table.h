/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The table of flows of one generation: an array in which a flow is at the place that the hash of
 * its key says, or a few places on. The kernel's own hash would touch more lines of memory for each
 * packet: a bucket, an entry with its links, and the lock of both when the flow is new; and user
 * space would have to ask it for what this one shows.
 *
 * Nothing is ever taken out: user space empties the whole table when no program sees it any more.
 * So a place is free until a program claims it, which needs no more than an addition (Linux 5.10
 * has no other atomic instruction): who reads his own claim alone has it. Who comes later, or finds
 * a place whose key is not complete yet, goes on to the next. At worst two CPUs make two entries of
 * one new flow: user space adds them up.
 *
 * Entries of the array: places for flows, places for catch-all flows, struct table_state, a bit
 * for each place that is taken, TABLE_WORDS * 64 an entry, and for each CPU what recent.h says.
 * pyflowx/kernel/generations.py reads them.
 */
#ifndef PYFLOWX_TABLE_H
#define PYFLOWX_TABLE_H

#include "maps.h"

#define NEAR_PROBES	 8  /* places that are looked at for a flow in the part that is in use, */
#define FAR_PROBES	 24 /* and then elsewhere */
#define CATCH_ALL_PROBES 8
#define TABLE_WORDS	 16		    /* of 64 bits; a power of 2 */
#define HASH_MIX_1	 0x9e3779b97f4a7c15 /* odd, half of the bits set */
#define HASH_MIX_2	 0xd6e8feb86659fd93
#define FAR_STEP	 0x915f77f5 /* a multiplier of a congruential generator (Steele, Vigna, 2021) */
#define CATCH_ALL_BEGIN	 (NUMBER(NUMBER_PLACES) + NEAR_PROBES)
#define TABLE_STATE	 (CATCH_ALL_BEGIN + NUMBER(NUMBER_CATCH_ALL_PLACES) + CATCH_ALL_PROBES)
#define TABLE_BITS	 (TABLE_STATE + 1)
#define TABLE_RECENT	 (TABLE_BITS + NUMBER(NUMBER_TABLE_BITS))

/*
 * Multilinear hashing: sums of products with random numbers that nobody outside knows, so that
 * nobody can choose packets that all go to the same place. Keys that follow each other have sums at
 * equal distances, for unlucky numbers all close together: so the bits of the sum are mixed at
 * last.
 */
static __always_inline __u32 hash_of(const struct flow_key *key)
{
	const __u32 *words = (const __u32 *)key;
	__u64 sum = NUMBER(NUMBER_HASH);

#pragma unroll
	for (__u32 i = 0; i < sizeof(*key) / 4; i++) {
		sum += NUMBER(NUMBER_HASH + 1 + i) * words[i];
		/* one by one: there are no registers for all products */
		asm volatile("" : "+r"(sum));
	}
	sum = (sum ^ sum >> 32) * HASH_MIX_1;
	sum = (sum ^ sum >> 32) * HASH_MIX_2;
	return sum >> 32;
}

#define KEY_WORDS     (sizeof(struct flow_key) / 8)
#define COMPLETE_WORD (__builtin_offsetof(struct flow_key, complete) / 8)

/* `ours` may be on the stack: volatile, so that the compiler makes no second copy of it there. */
static __always_inline int is_same(const struct flow_key *key, const struct flow_key *ours)
{
	const __u64 *words = (const __u64 *)key;
	const volatile __u64 *others = (const volatile __u64 *)ours;
	__u64 different = 0, same = 0;

#pragma unroll
	for (__u32 i = 0; i < KEY_WORDS; i++)
		different |= words[i] ^ others[i];
	/* the verifier goes first where they are the same: then less waits for it to come back */
	asm volatile("if %1 != 0 goto +1\n%0 = 1" : "+r"(same) : "r"(different));
	return same;
}

/* From here on the others find it. */
static __always_inline void publish(struct flow *flow, const struct flow_key *key)
{
	const volatile __u64 *words = (const volatile __u64 *)key;
	volatile __u64 *to = (volatile __u64 *)&flow->key;

#pragma unroll
	for (__u32 i = 0; i < KEY_WORDS; i++)
		if (i != COMPLETE_WORD)
			to[i] = words[i];
	to[COMPLETE_WORD] = words[COMPLETE_WORD];
}

/* Whether a free place is ours now. */
static __always_inline int claim(struct flow *flow, struct table_state *state)
{
	__sync_fetch_and_add(&flow->claims, 1);
	if (*(volatile __u32 *)&flow->claims == 1)
		return 1;
	__sync_fetch_and_add(&state->spoiled, 1);
	return 0;
}

/* Of the array; what is there depends on the index. */
static __always_inline void *entry(void *flows, __u32 index)
{
	return bpf_map_lookup_elem(flows, &index);
}

/* That it is taken. */
static __always_inline void mark(void *flows, __u32 place)
{
	__u64 *bits = entry(flows, TABLE_BITS + place / (TABLE_WORDS * 64));

	if (bits)
		__sync_fetch_and_add(&bits[place / 64 & (TABLE_WORDS - 1)], 1ULL << (place & 63));
}

static __always_inline struct table_state *state_of(void *flows)
{
	return entry(flows, TABLE_STATE);
}

/*
 * Where the search for a flow begins. User space expects as many flows as there were in the last
 * generation, and has it begin in so much of the table as they need: less memory for the processor
 * to have at hand.
 */
static __always_inline __u64 near_place(__u64 hash, __u64 in_use)
{
	return hash * in_use >> 32;
}

/*
 * Where it goes on: behind the places in use; where all are, anywhere. Not in a row, but at places
 * that have nothing to do with each other: also when most are taken one of a few is free.
 */
static __always_inline __u64 far_place(__u64 hash, __u64 in_use)
{
	__u64 places = NUMBER(NUMBER_PLACES), others = places - in_use;

	return others ? in_use + (hash * others >> 32) : hash * places >> 32;
}

/* The next number of those that the far places are taken from. */
static __always_inline __u64 next_hash(__u64 hash, __u64 first)
{
	return (__u32)(hash * FAR_STEP + (first | 1));
}

static __always_inline __u64 catch_all_place(const struct flow_key *key)
{
	return CATCH_ALL_BEGIN +
	       (key->ifindex * 2 + key->direction) % NUMBER(NUMBER_CATCH_ALL_PLACES);
}

#endif
