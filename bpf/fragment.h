/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Later fragments find the flow of the first one, which alone has the ports (RFC 791, RFC
 * 8200 4.5): a bounded map remembers the first fragments seen last. What arrives before its first
 * fragment is of a flow without ports.
 */
#ifndef PYFLOWX_FRAGMENT_H
#define PYFLOWX_FRAGMENT_H

#include "maps.h"
#include "parse.h"

static __always_inline void follow_fragments(struct packet *packet)
{
	struct fragment_key key = {.id = packet->fragment_id,
				   .protocol = packet->fragment_protocol};
	struct fragment first = {}, *known;

	__builtin_memcpy(key.src, packet->key.src, 16);
	__builtin_memcpy(key.dst, packet->key.dst, 16);
	if (packet->fragment == FRAGMENT_FIRST) {
		first.src_port = packet->key.src_port;
		first.dst_port = packet->key.dst_port;
		first.segment = packet->key.segment;
		first.protocol = packet->protocol;
		bpf_map_update_elem(MAP(MAP_FRAGMENTS), &key, &first, BPF_ANY);
		return;
	}
	known = bpf_map_lookup_elem(MAP(MAP_FRAGMENTS), &key);
	if (!known)
		return;
	packet->key.src_port = known->src_port;
	packet->key.dst_port = known->dst_port;
	packet->key.segment = known->segment;
	packet->protocol = known->protocol;
}

#endif
