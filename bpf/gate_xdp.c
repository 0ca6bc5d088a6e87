// SPDX-License-Identifier: GPL-2.0-only
/*
 * The gate before a Collecting Process: looks at UDP datagrams to our sockets, counts what is wrong
 * with them, by reason and by exporter, and drops these where it enforces. All other traffic, and
 * whatever it cannot read or keep in a map, passes. With REDIRECT what is good goes to AF_XDP
 * sockets. UDP checksums are left to whoever receives.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/udp.h>
#include "xdp.h"
#include "link.h"
#include "maps.h"
#include "gate.h"

#define NANOSECONDS	   1000000000ULL
#define FRAGMENT_OR_OFFSET 0x3fff /* of IPv4: more fragments, and the offset */
#define MAX_EXTENSIONS	   4
#define SFLOW_FIXED_LEN	   24 /* of a header, without the agent's address */
#define SAMPLE_HEADER_LEN  8
#define SET_HEADER_LEN	   4

union address {
	__u64 words[2];
	__be32 quads[4];
};

/* A UDP datagram to a socket of ours. */
struct datagram {
	union address source;
	__u32 payload; /* offset in the frame */
	__u32 length;  /* of the payload */
	__u32 ip_end;  /* offset behind the packet */
	__u8 ip_version;
	__u8 plain; /* no extension headers */
};

static __always_inline int at_destination(const union address *address, __be16 port)
{
	struct gate_destination key = {.port = port};

	__builtin_memcpy(key.address, address, sizeof(key.address));
	return bpf_map_lookup_elem(MAP(GATE_DESTINATIONS), &key) != 0;
}

static __always_inline void map_ipv4(union address *address, __be32 ipv4)
{
	address->words[0] = 0;
	address->quads[2] = bpf_htonl(0xffff);
	address->quads[3] = ipv4;
}

/* Returns GATE_PASSED where the datagram is to be judged. */
static __always_inline enum gate_outcome parse_udp(struct cursor *cursor, struct datagram *datagram,
						   const union address *destination)
{
	struct udphdr *udp = take(cursor, sizeof(*udp));
	__u32 length;

	if (!udp || !at_destination(destination, udp->dest))
		return GATE_OTHER;
	if (datagram->ip_end > cursor->length)
		return GATE_OTHER; /* cut off: the kernel drops it, and says so */
	datagram->payload = offset(cursor);
	length = bpf_ntohs(udp->len);
	if (!length && datagram->ip_version == 6)
		return GATE_OTHER; /* of a jumbogram (RFC 2675) */
	if (length < sizeof(*udp) || datagram->payload - sizeof(*udp) + length > datagram->ip_end)
		return GATE_BAD_LENGTH;
	datagram->length = length - sizeof(*udp);
	return GATE_PASSED;
}

static __always_inline enum gate_outcome parse_ipv4(struct cursor *cursor,
						    struct datagram *datagram)
{
	__u32 begin = offset(cursor), header_len;
	struct iphdr *ip = take(cursor, sizeof(*ip));
	union address destination;

	if (!ip || ip->version != 4 || ip->ihl < 5 || ip->protocol != IPPROTO_UDP)
		return GATE_OTHER;
	if (ip->frag_off & bpf_htons(FRAGMENT_OR_OFFSET))
		return GATE_FRAGMENT;
	header_len = ip->ihl * 4;
	datagram->ip_end = begin + bpf_ntohs(ip->tot_len);
	datagram->ip_version = 4;
	datagram->plain = 1;
	map_ipv4(&datagram->source, ip->saddr);
	map_ipv4(&destination, ip->daddr);
	if (seek(cursor, begin + header_len) < 0)
		return GATE_OTHER;
	return parse_udp(cursor, datagram, &destination);
}

static __always_inline enum gate_outcome parse_ipv6(struct cursor *cursor,
						    struct datagram *datagram)
{
	struct ipv6hdr *ip = take(cursor, sizeof(*ip));
	union address destination;
	__u8 next, *extension;

	if (!ip || ip->version != 6)
		return GATE_OTHER;
	datagram->ip_end = offset(cursor) + bpf_ntohs(ip->payload_len);
	__builtin_memcpy(&datagram->source, &ip->saddr, sizeof(datagram->source));
	__builtin_memcpy(&destination, &ip->daddr, sizeof(destination));
	datagram->ip_version = 6;
	next = ip->nexthdr;
	datagram->plain = next == IPPROTO_UDP;
#pragma unroll
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS)
			break;
		extension = take(cursor, 2);
		if (!extension)
			return GATE_OTHER;
		next = extension[0];
		if (seek(cursor, offset(cursor) - 2 + (extension[1] + 1) * 8) < 0)
			return GATE_OTHER;
	}
	if (next == IPPROTO_FRAGMENT) {
		extension = take(cursor, 1);
		return extension && *extension == IPPROTO_UDP ? GATE_FRAGMENT : GATE_OTHER;
	}
	return next == IPPROTO_UDP ? parse_udp(cursor, datagram, &destination) : GATE_OTHER;
}

static __always_inline enum gate_outcome parse(struct cursor *cursor, struct datagram *datagram)
{
	struct ethhdr *ethernet = take(cursor, sizeof(*ethernet));
	struct vlan_tag *tag;
	__be16 type;

	if (!ethernet)
		return GATE_OTHER;
	type = ethernet->h_proto;
#pragma unroll
	for (int i = 0; i < MAX_VLAN_TAGS; i++) {
		if (!is_vlan(type))
			break;
		tag = take(cursor, sizeof(*tag));
		if (!tag)
			return GATE_OTHER;
		type = tag->type;
	}
	if (type == bpf_htons(ETH_P_IP))
		return parse_ipv4(cursor, datagram);
	if (type == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(cursor, datagram);
	return GATE_OTHER;
}

static __always_inline int is_allowed(const struct datagram *datagram)
{
	struct gate_prefix4 key4 = {.length = 32};
	struct gate_prefix6 key6 = {.length = 128};

	if (datagram->ip_version == 4) {
		__builtin_memcpy(key4.address, &datagram->source.quads[3], sizeof(key4.address));
		return bpf_map_lookup_elem(MAP(GATE_ALLOW4), &key4) != 0;
	}
	__builtin_memcpy(key6.address, &datagram->source, sizeof(key6.address));
	return bpf_map_lookup_elem(MAP(GATE_ALLOW6), &key6) != 0;
}

/* The first Set of a v9 or IPFIX message that ends at `end`. */
static __always_inline enum gate_outcome
check_set(struct cursor *cursor, const struct datagram *datagram, __u32 header, __u32 end)
{
	__be16 *set;
	__u32 length;

	if (end < header + SET_HEADER_LEN)
		return GATE_PASSED;
	set = at(cursor, datagram->payload + header, SET_HEADER_LEN);
	if (!set)
		return GATE_OTHER;
	length = bpf_ntohs(set[1]);
	return length < SET_HEADER_LEN || length > end - header ? GATE_BAD_LENGTH : GATE_PASSED;
}

static __always_inline enum gate_outcome check_sflow(struct cursor *cursor,
						     const struct datagram *datagram)
{
	__be32 *type, *samples;
	__u32 header;

	if (datagram->length < 8)
		return GATE_TRUNCATED;
	type = at(cursor, datagram->payload + 4, 4);
	if (!type)
		return GATE_OTHER;
	switch (bpf_ntohl(*type)) {
	case 0:
		header = SFLOW_FIXED_LEN;
		break;
	case 1:
		header = SFLOW_FIXED_LEN + 4;
		break;
	case 2:
		header = SFLOW_FIXED_LEN + 16;
		break;
	default:
		return GATE_BAD_VERSION;
	}
	if (datagram->length < header)
		return GATE_TRUNCATED;
	samples = at(cursor, datagram->payload + header - 4, 4);
	if (!samples)
		return GATE_OTHER;
	return bpf_ntohl(*samples) > (datagram->length - header) / SAMPLE_HEADER_LEN
		       ? GATE_BAD_LENGTH
		       : GATE_PASSED;
}

/* Versions 1, 5 and 7: a header and `count` records. */
static __always_inline enum gate_outcome check_records(__u32 length, __u32 header, __u32 record,
						       __u32 count)
{
	if (length < header)
		return GATE_TRUNCATED;
	return header + record * count > length ? GATE_BAD_LENGTH : GATE_PASSED;
}

static __always_inline enum gate_outcome check_message(struct cursor *cursor,
						       const struct datagram *datagram,
						       const struct gate_config *config)
{
	__u32 length = datagram->length, second;
	__be32 *first;

	if (length < sizeof(*first))
		return GATE_TRUNCATED;
	first = at(cursor, datagram->payload, sizeof(*first));
	if (!first)
		return GATE_OTHER;
	second = bpf_ntohl(*first) & 0xffff;
	switch (bpf_ntohl(*first) >> 16) {
	case 0:
		if (second != 5 || !config->sflow)
			return GATE_BAD_VERSION;
		return check_sflow(cursor, datagram);
	case 1:
		return config->netflow ? check_records(length, 16, 48, second) : GATE_BAD_VERSION;
	case 5:
		return config->netflow ? check_records(length, 24, 48, second) : GATE_BAD_VERSION;
	case 7:
		return config->netflow ? check_records(length, 24, 52, second) : GATE_BAD_VERSION;
	case 9:
		if (!config->netflow)
			return GATE_BAD_VERSION;
		return length < 20 ? GATE_TRUNCATED : check_set(cursor, datagram, 20, length);
	case 10:
		if (!config->netflow)
			return GATE_BAD_VERSION;
		if (length < 16)
			return GATE_TRUNCATED;
		if (second < 16 || second > length)
			return GATE_BAD_LENGTH;
		return check_set(cursor, datagram, 16, second);
	}
	return GATE_BAD_VERSION;
}

static __always_inline void count_outcome(__u32 slot, __u32 octets)
{
	struct statistic *statistic = bpf_map_lookup_elem(MAP(GATE_STATISTICS), &slot);

	if (!statistic)
		return;
	statistic->packets++;
	statistic->octets += octets;
}

static __always_inline void count_refused(const struct datagram *datagram, enum gate_outcome reason)
{
	struct gate_refused *refused, first = {};
	union address source = datagram->source;
	__u32 index = reason - GATE_NOT_ALLOWED;

	refused = bpf_map_lookup_elem(MAP(GATE_REFUSED), &source);
	if (!refused) {
		bpf_map_update_elem(MAP(GATE_REFUSED), &source, &first, BPF_NOEXIST);
		refused = bpf_map_lookup_elem(MAP(GATE_REFUSED), &source);
	}
	if (refused && index < GATE_REASONS - 1)
		__sync_fetch_and_add(&refused->reasons[index], 1);
}

/* Whether the exporter may send one more; exact, whichever CPUs its datagrams come on. */
static __always_inline int take_from_bucket(struct gate_exporter *exporter,
					    const union address *source, __u64 rate)
{
	__u64 now = bpf_ktime_get_ns(), full = rate * NANOSECONDS, elapsed;
	__u64 mixed = source->words[0] ^ source->words[1];
	__u32 index = (mixed ^ mixed >> 16 ^ mixed >> 32 ^ mixed >> 48) & (GATE_LOCKS - 1);
	struct bpf_spin_lock *lock = bpf_map_lookup_elem(MAP(GATE_LOCK), &index);
	int may = 0;

	if (!lock)
		return 1;
	bpf_spin_lock(lock);
	if (now > exporter->filled_ns) { /* else another CPU was here meanwhile */
		elapsed = now - exporter->filled_ns;
		exporter->filled_ns = now;
		if (elapsed >= NANOSECONDS)
			exporter->bucket = full;
		else
			exporter->bucket += elapsed * rate;
		if (exporter->bucket > full)
			exporter->bucket = full;
	}
	if (exporter->bucket >= NANOSECONDS) {
		exporter->bucket -= NANOSECONDS;
		may = 1;
	}
	bpf_spin_unlock(lock);
	return may;
}

static __always_inline enum gate_outcome admit(const struct datagram *datagram,
					       const struct gate_config *config, __u32 octets)
{
	union address source = datagram->source;
	struct gate_exporter *exporter, first = {};

	exporter = bpf_map_lookup_elem(MAP(GATE_EXPORTERS), &source);
	if (!exporter) {
		first.bucket = config->rate * NANOSECONDS;
		first.filled_ns = bpf_ktime_get_ns();
		bpf_map_update_elem(MAP(GATE_EXPORTERS), &source, &first, BPF_NOEXIST);
		exporter = bpf_map_lookup_elem(MAP(GATE_EXPORTERS), &source);
	}
	if (!exporter) {
		count_outcome(GATE_STATELESS, octets);
		return GATE_PASSED;
	}
	if (config->rate && !take_from_bucket(exporter, &source, config->rate)) {
		__sync_fetch_and_add(&exporter->limited, 1);
		return GATE_RATE_LIMITED;
	}
	__sync_fetch_and_add(&exporter->passed, 1);
	__sync_fetch_and_add(&exporter->octets, datagram->length);
	return GATE_PASSED;
}

/* What is to become of a datagram that parse() let through. */
static __always_inline enum gate_outcome judge(struct cursor *cursor,
					       const struct datagram *datagram,
					       const struct gate_config *config, __u32 octets)
{
	enum gate_outcome outcome;

	if (config->allow && !is_allowed(datagram))
		outcome = GATE_NOT_ALLOWED;
	else
		outcome = check_message(cursor, datagram, config);
	return outcome == GATE_PASSED ? admit(datagram, config, octets) : outcome;
}

#ifdef REDIRECT
/* Frames that are read from AF_XDP sockets: of one buffer, and short enough for theirs. */
static __always_inline int redirect(struct xdp_md *ctx, const struct datagram *datagram,
				    const struct gate_config *config, __u32 octets)
{
	if (!datagram->plain || octets > config->frame_length ||
	    octets != ctx->data_end - ctx->data)
		return XDP_PASS;
	return bpf_redirect_map(MAP(GATE_SOCKETS), ctx->rx_queue_index, XDP_PASS);
}
#endif

int pyflowx_gate(struct xdp_md *ctx)
{
	struct cursor cursor = XDP_CURSOR(ctx);
	struct datagram datagram = {};
	struct gate_config *config;
	enum gate_outcome outcome;
	int action = XDP_PASS;
	__u32 first = 0, octets = cursor.length = whole_length(&cursor);

	config = bpf_map_lookup_elem(MAP(GATE_CONFIG), &first);
	if (!config)
		return XDP_PASS;
	outcome = parse(&cursor, &datagram);
	if (outcome == GATE_PASSED)
		outcome = judge(&cursor, &datagram, config, octets);
#ifdef REDIRECT
	if (outcome == GATE_PASSED)
		action = redirect(ctx, &datagram, config, octets);
	if (action == XDP_REDIRECT)
		outcome = GATE_REDIRECTED;
#endif
	count_outcome(outcome, octets);
	if (outcome < GATE_NOT_ALLOWED)
		return action;
	if (outcome != GATE_RATE_LIMITED)
		count_refused(&datagram, outcome);
	return config->enforce ? XDP_DROP : XDP_PASS;
}
