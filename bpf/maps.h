/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Maps and numbers are named by their slot (flow.h), so that one compilation serves any set of
 * maps; user space makes them and puts their descriptors in.
 */
#ifndef PYFLOWX_MAPS_H
#define PYFLOWX_MAPS_H

#include <uapi/linux/bpf.h>
#include "flow.h"

#define MAP(slot)    ((void *)bpf_pseudo_fd(1 /* BPF_PSEUDO_MAP_FD */, slot))
#define NUMBER(slot) bpf_pseudo_fd(15 /* our own: the kernel has no such kind */, slot)

static __always_inline void count(enum statistic_slot slot, __u32 direction, __u64 packets,
				  __u64 octets)
{
	__u32 index = direction * STATISTIC_SLOTS + slot;
	struct statistic *statistic = bpf_map_lookup_elem(MAP(MAP_STATISTICS), &index);

	if (!statistic)
		return;
	statistic->packets += packets;
	statistic->octets += octets;
}

#endif
