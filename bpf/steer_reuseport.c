// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which of the collector's workers, who share a port, gets a datagram (SK_REUSEPORT): always the
 * same one for an exporter's address and Observation Domain, so that Templates, sampling and
 * sequence numbers stay there.
 *
 * pyflowx/kernel/steering.py computes the same in classic BPF and in Python: what is changed here
 * has to be changed there. A datagram that says no Observation Domain goes by its address alone.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include "maps.h"

#define MAP_SOCKETS  0
#define UDP_HEADER   8
#define SFLOW_HEADER 28
#define MULTIPLIER_1 0x85ebca6b
#define MULTIPLIER_2 0xc2b2ae35

static __always_inline __u32 word(struct sk_reuseport_md *ctx, __u32 at)
{
	__be32 value = 0;

	if (bpf_skb_load_bytes(ctx, UDP_HEADER + at, &value, sizeof(value)))
		return 0;
	return bpf_ntohl(value);
}

/* NetFlow v9's Source ID, IPFIX's Observation Domain, NetFlow v5's engine, sFlow's agent and
 * sub-agent. */
static __always_inline __u32 domain(struct sk_reuseport_md *ctx)
{
	__u32 first = word(ctx, 0);

	if (first >> 16 == 9)
		return word(ctx, 16);
	if (first >> 16 == 10)
		return word(ctx, 12);
	if (first >> 16 == 5)
		return word(ctx, 20) >> 16;
	if (first != 5 || ctx->len < UDP_HEADER + SFLOW_HEADER)
		return 0;
	if (word(ctx, 4) == 2)
		return word(ctx, 20) ^ word(ctx, 24);
	return word(ctx, 8) ^ word(ctx, 12);
}

static __always_inline __u32 address(struct sk_reuseport_md *ctx)
{
	__be32 words[4] = {};
	__u32 hash = 0;
	int i;

	if (ctx->eth_protocol == bpf_htons(ETH_P_IP)) {
		bpf_skb_load_bytes_relative(ctx, 12, words, 4, BPF_HDR_START_NET);
		return bpf_ntohl(words[0]);
	}
	bpf_skb_load_bytes_relative(ctx, 8, words, sizeof(words), BPF_HDR_START_NET);
#pragma unroll
	for (i = 0; i < 4; i++)
		hash = hash * MULTIPLIER_1 + bpf_ntohl(words[i]);
	return hash;
}

int pyflowx_steer(struct sk_reuseport_md *ctx)
{
	__u32 hash = address(ctx) * MULTIPLIER_1 + domain(ctx);

	hash = (hash ^ hash >> 16) * MULTIPLIER_1;
	hash = (hash ^ hash >> 13) * MULTIPLIER_2;
	hash = (hash ^ hash >> 16) % (__u32)NUMBER(NUMBER_WORKERS);
	/* Refused where that socket is closed: the kernel then chooses one itself. */
	bpf_sk_select_reuseport(ctx, MAP(MAP_SOCKETS), &hash, 0);
	return SK_PASS;
}
