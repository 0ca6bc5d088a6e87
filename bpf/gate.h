/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The contract between the gate's program and user space. pyflowx/kernel/gate_layout.py has the
 * same as NumPy dtypes; a test compares the two. Addresses are 16 octets in network order, IPv4 as
 * IPv4-mapped (::ffff:a.b.c.d).
 */
#ifndef PYFLOWX_GATE_H
#define PYFLOWX_GATE_H

#include <linux/types.h>

/* Where each frame went: index of the statistics. The datagrams of the reasons are dropped where
 * the gate enforces, else passed. */
enum gate_outcome {
	GATE_OTHER = 0,	     /* not UDP to our sockets, or not readable: passed */
	GATE_FRAGMENT = 1,   /* of a UDP datagram, whosever it is: passed */
	GATE_PASSED = 2,     /* to the socket */
	GATE_REDIRECTED = 3, /* to an AF_XDP socket */
	/* reasons */
	GATE_NOT_ALLOWED = 4, /* its source is in no prefix that is allowed */
	GATE_BAD_VERSION = 5, /* begins like no protocol that is accepted */
	GATE_TRUNCATED = 6,   /* ends inside its export header */
	GATE_BAD_LENGTH = 7,  /* a length or count says more than there is, or contradicts itself */
	GATE_RATE_LIMITED = 8, /* more than the exporter may send */
	GATE_OUTCOMES = 9,
	/* no such place: datagrams of exporters for which no state could be kept, contained in the
	 * others */
	GATE_STATELESS = 9,
	GATE_SLOTS = 10,
};

#define GATE_REASONS (GATE_OUTCOMES - GATE_NOT_ALLOWED)

struct gate_config {
	__u32 rate;	    /* datagrams a second an exporter may send, and at once; 0: any */
	__u32 frame_length; /* the longest that fits into a frame of the AF_XDP sockets */
	__u8 enforce;
	__u8 allow; /* whether only what is in the tries may send */
	__u8 netflow;
	__u8 sflow;
	__u32 pad;
};

/* What a socket of ours is bound to. */
struct gate_destination {
	__u8 address[16];
	__be16 port;
	__u16 pad;
};

struct gate_prefix4 {
	__u32 length;
	__u8 address[4];
};

struct gate_prefix6 {
	__u32 length;
	__u8 address[16];
};

/* By address. The bucket is full with rate * NANOSECONDS; a datagram takes NANOSECONDS, and each
 * nanosecond gives `rate`, so that nothing is rounded. */
struct gate_exporter {
	__u64 bucket;
	__u64 filled_ns; /* CLOCK_MONOTONIC */
	__u64 passed;	 /* and redirected */
	__u64 octets;	 /* of their UDP payload */
	__u64 limited;
};

/* By address: whose datagrams were refused, for the reasons before GATE_RATE_LIMITED. */
struct gate_refused {
	__u64 reasons[GATE_REASONS - 1];
};

#define GATE_LOCKS 1024 /* buckets are changed under one of them; a power of 2 */

/* What stands for a map's descriptor until the loader replaces it. */
enum gate_map {
	GATE_CONFIG = 1,     /* array of one gate_config */
	GATE_STATISTICS = 2, /* per-CPU array of struct statistic (flow.h), one map an interface */
	GATE_DESTINATIONS = 3, /* hash: gate_destination -> nothing that counts */
	GATE_ALLOW4 = 4,       /* trie: gate_prefix4 */
	GATE_ALLOW6 = 5,       /* trie: gate_prefix6 */
	GATE_EXPORTERS = 6,    /* LRU hash: address -> gate_exporter */
	GATE_REFUSED = 7,      /* LRU hash: address -> gate_refused */
	GATE_LOCK = 8,	       /* array of GATE_LOCKS bpf_spin_lock */
	GATE_SOCKETS = 9,      /* AF_XDP sockets by receive queue, one map an interface */
};

#endif
