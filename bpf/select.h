/* SPDX-License-Identifier: GPL-2.0-only */
/* Selection Processes (RFC 5475) before the Metering Process: first the filter, then sampling. */
#ifndef PYFLOWX_SELECT_H
#define PYFLOWX_SELECT_H

#include "link.h"
#include "maps.h"

#ifdef FILTER_CALL
/*
 * The filter: a function that the loader makes of a classic BPF program, appends to ours and puts
 * in the place of this number. `tag` is a VLAN tag that is not in the frame any more: TPID and
 * control information, 0 for none.
 */
static __u64 (*matches)(void *context, void *start, void *end, __u64 length,
			__u64 tag) = (void *)FILTER_CALL;
#endif

static __always_inline int is_sampled(void)
{
	__u64 interval = NUMBER(NUMBER_SAMPLING_INTERVAL);
	__u32 zero = 0, *seen;

	if (interval <= 1)
		return 1;
	if (NUMBER(NUMBER_SAMPLING_RANDOM))
		return (__u64)bpf_get_prandom_u32() * interval >> 32 == 0;
	seen = bpf_map_lookup_elem(MAP(MAP_SAMPLING), &zero);
	if (!seen || ++*seen < interval)
		return 0;
	*seen = 0;
	return 1;
}

/* STATISTIC_METERED if the packet is to be metered, else what counts it. */
static __always_inline enum statistic_slot select_packet(struct cursor *cursor, __u32 tag)
{
#ifdef FILTER_CALL
	__u64 length = whole_length(cursor) + (tag ? VLAN_TAG_LEN : 0);

	if (!matches(cursor->context, cursor->start, cursor->end, length, tag))
		return STATISTIC_FILTERED;
#endif
	return is_sampled() ? STATISTIC_METERED : STATISTIC_NOT_SELECTED;
}

#endif
