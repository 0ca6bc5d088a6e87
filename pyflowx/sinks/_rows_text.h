// SPDX-License-Identifier: BSD-3-Clause
// Values as text or octets for the row writer: each put_ function writes at `to` and returns the
// end of what it wrote. They write in blocks: up to SLACK octets behind that end must be ours too.

#ifndef PYFLOWX_ROWS_TEXT_H
#define PYFLOWX_ROWS_TEXT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define SLACK	   64
#define CELL_MAX   40 // longest text of one value: an IPv6 address takes 39
#define VARINT_MAX 10

static char decimal[256][4];	  // "7.", "42.", "255.": digits, then a dot
static uint8_t decimal_size[256]; // of the digits alone
static const char pairs[] =
	"00010203040506070809101112131415161718192021222324252627282930313233343536373839"
	"40414243444546474849505152535455565758596061626364656667686970717273747576777879"
	"8081828384858687888990919293949596979899";
static const char hex[] = "0123456789abcdef";

static void make_tables(void)
{
	for (int i = 0; i < 256; i++) {
		char *p = decimal[i];

		if (i >= 100)
			*p++ = (char)('0' + i / 100);
		if (i >= 10)
			*p++ = (char)('0' + i / 10 % 10);
		*p++ = (char)('0' + i % 10);
		decimal_size[i] = (uint8_t)(p - decimal[i]);
		*p = '.';
	}
}

// Copies in blocks of 32: up to 31 octets more than `size` are read and written.
static inline char *put(char *to, const char *from, size_t size)
{
	char block[32];

	for (size_t done = 0; done < size; done += sizeof(block)) {
		memcpy(block, from + done, sizeof(block));
		memcpy(to + done, block, sizeof(block));
	}
	return to + size;
}

static inline unsigned digits(uint64_t value)
{
	unsigned count = 1;

	for (; value >= 10000; value /= 10000)
		count += 4;
	return count + (value >= 10) + (value >= 100) + (value >= 1000);
}

static inline char *put_unsigned(char *to, uint64_t value)
{
	if (value < 256) {
		memcpy(to, decimal[value], 4);
		return to + decimal_size[value];
	}
	char *end = to + digits(value), *p = end;

	for (; value >= 100; value /= 100)
		memcpy(p -= 2, pairs + value % 100 * 2, 2);
	if (value >= 10)
		memcpy(p - 2, pairs + value * 2, 2);
	else
		p[-1] = (char)('0' + value);
	return end;
}

static inline char *put_ipv4(char *to, uint32_t value)
{
	for (int shift = 24; shift >= 0; shift -= 8) {
		unsigned octet = value >> shift & 255;

		memcpy(to, decimal[octet], 4);
		to += decimal_size[octet] + 1;
	}
	return to - 1; // without the last dot
}

static char *put_group(char *to, unsigned group)
{
	if (group >= 0x1000)
		*to++ = hex[group >> 12];
	if (group >= 0x100)
		*to++ = hex[group >> 8 & 15];
	if (group >= 0x10)
		*to++ = hex[group >> 4 & 15];
	*to++ = hex[group & 15];
	return to;
}

// RFC 4291 §2.5.5.2
static inline bool is_mapped(const uint8_t *octets)
{
	static const uint8_t mapped[12] = {[10] = 255, [11] = 255};

	return !memcmp(octets, mapped, sizeof(mapped));
}

// RFC 5952: the first of the longest runs of two or more zero groups is "::"; §5 for IPv4-mapped
// addresses.
static char *put_ipv6(char *to, const uint8_t *octets, bool mapped_as_ipv4)
{
	unsigned group[8];
	int best = -1, best_size = 1;

	if (is_mapped(octets)) {
		if (!mapped_as_ipv4)
			to = put(to, "::ffff:                         ", 7);
		return put_ipv4(to, (uint32_t)octets[12] << 24 | (uint32_t)octets[13] << 16 |
					    (uint32_t)octets[14] << 8 | octets[15]);
	}
	for (int i = 0; i < 8; i++)
		group[i] = (unsigned)octets[2 * i] << 8 | octets[2 * i + 1];
	for (int i = 0; i < 8; i++) {
		int size = 0;

		while (i + size < 8 && !group[i + size])
			size++;
		if (size > best_size) {
			best = i;
			best_size = size;
		}
		if (size)
			i += size - 1;
	}
	for (int i = 0; i < 8; i++) {
		if (i == best) {
			*to++ = ':';
			*to++ = ':';
			i += best_size - 1;
			continue;
		}
		if (i && i != best + best_size)
			*to++ = ':';
		to = put_group(to, group[i]);
	}
	return to;
}

static inline char *put_mac(char *to, uint64_t value)
{
	for (int shift = 40; shift >= 0; shift -= 8) {
		*to++ = hex[value >> (shift + 4) & 15];
		*to++ = hex[value >> shift & 15];
		*to++ = ':';
	}
	return to - 1;
}

// Seven bits an octet, the lowest first (protobuf).
static inline char *put_varint(char *to, uint64_t value)
{
	for (; value >= 0x80; value >>= 7)
		*to++ = (char)(value | 0x80);
	*to++ = (char)value;
	return to;
}

static inline char *put_octets4(char *to, uint32_t value)
{
	*to++ = 4;
	for (int shift = 24; shift >= 0; shift -= 8)
		*to++ = (char)(value >> shift);
	return to;
}

// An IPv4-mapped address is its four octets.
static inline char *put_octets16(char *to, const uint8_t *octets)
{
	char skip = is_mapped(octets) ? 12 : 0;

	*to++ = (char)(16 - skip);
	memcpy(to, octets + skip, (size_t)(16 - skip));
	return to + (16 - skip);
}

#endif
