// SPDX-License-Identifier: GPL-2.0-only
/*
 * The Metering Process at XDP: frames as the driver receives them. Passes every frame on. A VLAN
 * tag that the hardware takes out of the frame (ethtool: rx-vlan-offload) is not seen here.
 */
#include "xdp.h"
#include "meter.h"

#ifdef PACKETS
static __always_inline void copy_start(struct cursor *cursor, struct packet_sample *sample)
{
	__u32 length = 0;
	__u8 *octet;

#pragma clang loop unroll(disable)
	for (; length < NUMBER(NUMBER_CLIP_LENGTH); length++) {
		octet = at(cursor, length, 1);
		if (!octet)
			break;
		sample->octets[length] = *octet;
	}
	sample->length = length;
}
#endif

int pyflowx_xdp(struct xdp_md *ctx)
{
	struct cursor cursor = XDP_CURSOR(ctx);
	enum statistic_slot slot;
	struct packet packet;

	begin(&cursor, &packet, ctx->ingress_ifindex, DIRECTION_INGRESS, 1);
	slot = select_packet(&cursor, 0);
	if (slot == STATISTIC_METERED)
		slot = parse_frame(&cursor, &packet, 0);
	/* We ask only where the IP length is not yet reached at data_end, or is not known. (A
	 * trailer behind a packet that continues there is not counted.) */
	if (slot != STATISTIC_METERED)
		cursor.length = whole_length(&cursor);
	packet.value.l2_octets = cursor.length;
	account(&cursor, &packet, slot, 0);
	return XDP_PASS;
}
