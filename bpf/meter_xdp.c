// SPDX-License-Identifier: GPL-2.0-only
/*
 * The Metering Process at XDP: frames as the driver receives them. Passes every frame on. A VLAN
 * tag that the hardware takes out of the frame (ethtool: rx-vlan-offload) is not seen here.
 */
#include "meter.h"

/*
 * Linux 5.18: a frame may continue behind data_end. Asking costs as much as parsing, so that we ask
 * only where the IP length is not yet reached there, or is not known. (A trailer behind a packet
 * that continues there is not counted.)
 */
static __always_inline __u32 whole_length(const struct cursor *cursor)
{
#ifdef XDP_FRAGS
	return bpf_xdp_get_buff_len(cursor->context);
#else
	return cursor->length;
#endif
}

int pyflowx_xdp(struct xdp_md *ctx)
{
	struct cursor cursor = {
		.context = ctx,
		.start = (void *)(long)ctx->data,
		.pos = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.length = ctx->data_end - ctx->data,
	};
	struct packet packet = {};
	enum statistic_slot slot;

	packet.key.ifindex = ctx->ingress_ifindex;
	packet.key.direction = DIRECTION_INGRESS;
	packet.value.packets = 1;
	slot = parse(&cursor, &packet, 0);
	if (slot != STATISTIC_METERED)
		cursor.length = whole_length(&cursor);
	packet.value.l2_octets = cursor.length;
	account(&packet, slot);
	return XDP_PASS;
}
