// SPDX-License-Identifier: GPL-2.0-only
/* Gives each run of a test another source address, one of FLOWS, and goes on to the metering
 * program. */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/ip.h>

static __always_inline void vary(void *data, void *end)
{
	struct iphdr *ip = data + sizeof(struct ethhdr);

	if ((void *)(ip + 1) <= end)
		ip->saddr = (ip->saddr * 1664525 + 1013904223) & (FLOWS - 1); /* a full cycle */
}

int vary_xdp(struct xdp_md *ctx)
{
	vary((void *)(long)ctx->data, (void *)(long)ctx->data_end);
	bpf_tail_call_(bpf_pseudo_fd(1, 1), ctx, 0);
	return -1;
}

int vary_tc(struct __sk_buff *skb)
{
	vary((void *)(long)skb->data, (void *)(long)skb->data_end);
	bpf_tail_call_(bpf_pseudo_fd(1, 1), skb, 0);
	return 0;
}
