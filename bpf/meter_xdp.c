// SPDX-License-Identifier: GPL-2.0-only
/* The Metering Process at XDP: frames as the driver receives them. Passes every frame on. */
#include "meter.h"

int pyflowx_xdp(struct xdp_md *ctx)
{
	struct cursor cursor = {
		.start = (void *)(long)ctx->data,
		.pos = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
	};
	struct packet packet = {};

#ifdef XDP_FRAGS /* Linux 5.18: a frame may continue behind data_end */
	cursor.length = bpf_xdp_get_buff_len(ctx);
#else
	cursor.length = ctx->data_end - ctx->data;
#endif
	packet.key.ifindex = ctx->ingress_ifindex;
	packet.key.direction = DIRECTION_INGRESS;
	packet.value.packets = 1;
	packet.value.l2_octets = cursor.length;
	account(&packet, parse(&cursor, &packet, 0));
	return XDP_PASS;
}
