/* SPDX-License-Identifier: GPL-2.0-only */
/* A frame at XDP as a cursor. */
#ifndef PYFLOWX_XDP_H
#define PYFLOWX_XDP_H

#include "cursor.h"
#include "maps.h"

#define XDP_CURSOR(ctx)                                                                            \
	{                                                                                          \
		.context = (ctx), .start = (void *)(long)(ctx)->data,                              \
		.pos = (void *)(long)(ctx)->data, .end = (void *)(long)(ctx)->data_end,            \
		.length = (ctx)->data_end - (ctx)->data,                                           \
	}

/* Linux 5.18: a frame may continue behind data_end. Asking costs as much as parsing a frame. */
static __always_inline __u32 whole_length(const struct cursor *cursor)
{
	if (NUMBER(NUMBER_XDP_FRAGS))
		return bpf_xdp_get_buff_len(cursor->context);
	return cursor->length;
}

static __always_inline void *frame_start(const struct cursor *cursor)
{
	return (void *)(long)((volatile struct xdp_md *)cursor->context)->data;
}

#endif
