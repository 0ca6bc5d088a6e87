/* SPDX-License-Identifier: GPL-2.0-only */
/* A bounded place in a frame, and what one packet is to its flow. */
#ifndef PYFLOWX_CURSOR_H
#define PYFLOWX_CURSOR_H

#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include "flow.h"

#define MAX_OFFSET 0x3fff

/*
 * `end` ends what can be read at `pos`. `length` is the whole frame's as far as it is known, and
 * never less than what can be read; the program's whole_length() says it for certain.
 */
struct cursor {
	void *context;
	void *start;
	void *pos;
	void *end;
	__u32 length;
};

static __always_inline __u32 whole_length(const struct cursor *cursor);

/* `start` anew, of which the verifier does not know how much has been read already. */
static __always_inline void *frame_start(const struct cursor *cursor);

enum fragment_part {
	FRAGMENT_NONE, /* a whole packet */
	FRAGMENT_FIRST,
	FRAGMENT_LATER,
};

/* Where the parser sets nothing there is 0, but for the members of `value` from `icmp_type` on. */
struct packet {
	struct flow_key key;
	struct flow_value value; /* of this packet alone; first.h writes what begins at icmp_type */
	__u32 ip_offset;
	__u32 transport_offset; /* 0 where no transport header follows in this packet */
	__u32 headers_len;	/* offset of what TCP, UDP, SCTP carry; where segments differ */
	__u32 jumbo_len;	/* of BIG TCP's hop-by-hop header, which segments do not have */
	__u32 mpls_offset;	/* of the label stack, and of what follows it; 0 for none */
	__u32 mpls_end;
	__u32 fragment_id; /* of an IPv6 packet; of an IPv4 packet only where it is a fragment */
	__u16 ethertype;   /* behind VLAN tags */
	__u8 ethernet;	   /* whether the device has Ethernet headers */
	__u8 protocol;
	__u8 fragment;		/* enum fragment_part */
	__u8 fragment_protocol; /* what the header says that all fragments have */
};

/*
 * A zero of which the verifier does not know that it is one. What is added to it is no longer bound
 * to the path on which it came, so that the verifier checks what follows once.
 */
static __always_inline __u64 unknown_zero(const struct cursor *cursor)
{
	__u64 one, other;

	asm volatile("%0 = %1\n%0 -= %2" : "=&r"(one) : "r"(cursor->pos), "r"(cursor->start));
	asm volatile("%0 = %1\n%0 -= %2" : "=&r"(other) : "r"(cursor->pos), "r"(cursor->start));
	return one - other;
}

/*
 * Zeros, a multiple of 8, that are like any other value to the verifier: so that what only some
 * paths write does not keep paths apart.
 */
static __always_inline void clear(void *from, __u32 size, __u64 zero)
{
#pragma unroll
	for (__u32 i = 0; i < size; i += sizeof(zero))
		__builtin_memcpy(from + i, &zero, sizeof(zero));
}

static __always_inline void begin(const struct cursor *cursor, struct packet *packet, __u32 ifindex,
				  enum flow_direction direction, int ethernet)
{
	__u64 zero = unknown_zero(cursor);

	clear(&packet->key, sizeof(packet->key), zero);
	packet->key.ifindex = ifindex;
	packet->key.direction = direction;
	packet->value.packets = 1;
	packet->value.octets = zero;
	packet->value.length_min = packet->value.length_max = zero;
	packet->value.extensions = zero;
	packet->value.tcp_flags = zero;
	packet->value.ttl_min = packet->value.ttl_max = zero;
	packet->value.fragment_flags = zero;
	clear(&packet->ip_offset, sizeof(*packet) - __builtin_offsetof(struct packet, ip_offset),
	      zero);
	packet->ethernet = ethernet;
	/* keep it in one piece: else the compiler has copies of its members on the stack */
	asm volatile("" : : "r"(packet) : "memory");
}

static __always_inline __u32 offset(const struct cursor *cursor)
{
	__u64 offset = cursor->pos - cursor->start;

	asm volatile(""
		     : "+r"(offset)); /* a number: the compiler must not make it a pointer again */
	return offset;
}

static __always_inline void *take(struct cursor *cursor, __u32 size)
{
	void *taken = cursor->pos;

	if (taken + size > cursor->end)
		return 0;
	cursor->pos = taken + size;
	return taken;
}

/*
 * Go on at an offset that is not known before run time. This also makes the verifier forget on
 * which path it came here, so that it checks what follows once and not once for each path.
 */
static __always_inline int seek(struct cursor *cursor, __u64 to)
{
	void *pos;

	asm volatile("" : "+r"(to));
	if (to > MAX_OFFSET)
		return -1;
	pos = cursor->start + to;
	asm volatile(
		""
		: "+r"(pos)); /* the compiler must not compute it again from an unchecked `to` */
	cursor->pos = pos;
	return pos > cursor->end ? -1 : 0;
}

/* What begins at an offset, if `size` octets can be read there, else 0. */
static __always_inline void *at(struct cursor *cursor, __u32 to, __u32 size)
{
	if (seek(cursor, to) < 0 || cursor->pos + size > cursor->end)
		return 0;
	return cursor->pos;
}

/* The octets behind an offset that the IP length allows. */
static __always_inline __u32 remaining_at(const struct packet *packet, __u32 to)
{
	__u32 used = to - packet->ip_offset;

	return packet->value.octets > used ? packet->value.octets - used : 0;
}

/* The octets behind the headers read so far that the IP length allows. */
static __always_inline __u32 remaining(struct cursor *cursor, struct packet *packet)
{
	return remaining_at(packet, offset(cursor));
}

#endif
