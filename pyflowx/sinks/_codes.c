// SPDX-License-Identifier: BSD-3-Clause
// Columns to dictionary codes and those to runs, the inner loops of the Parquet sink:
//   encode(values, width, table, keys, count, codes) -> (count, done)
// gives each value of `width` octets (1, 2, 4, 8, 16) the number it has among the distinct values,
// which stand in `keys` in the order of their first coming: `count` of them before and after.
// `codes` takes a uint16 for each. It stops where a new value finds no room in `keys`: `done`
// values have codes. `table` is the hash table, a power of two of uint16, at least twice as many as
// `keys` holds; all zero when count is 0, and handed in again as it is with the next values.
//   pack(codes, width, out) -> octets used
// writes uint16 codes below 2 to the power of `width` as Parquet's hybrid of runs and bit-packed
// groups of eight (parquet-format, Encodings.md, "Run Length Encoding / Bit-Packing Hybrid").
// The GIL is free while they run. Only the buffer protocol and the limited API are used.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define GROUP	    8
#define MOST_GROUPS 63 // of one bit-packed run: its length takes one octet

struct dictionary {
	uint16_t *table;
	uint8_t *keys;
	size_t mask, count, room;
};

static inline uint64_t mix(uint64_t value)
{
	value *= 0x9E3779B97F4A7C15u; // 2^64 divided by the golden ratio
	return value ^ value >> 32;
}

// One function a width: the compiler makes loads and comparisons of the memcpy and memcmp.
#define DEFINE_ENCODE(width, hash_of)                                                              \
	static size_t encode##width(struct dictionary *d, const uint8_t *values, size_t n,         \
				    uint16_t *codes)                                               \
	{                                                                                          \
		for (size_t i = 0; i < n; i++) {                                                   \
			const uint8_t *value = values + i * (width);                               \
                                                                                                   \
			if (i && !memcmp(value, value - (width), width)) {                         \
				codes[i] = codes[i - 1];                                           \
				continue;                                                          \
			}                                                                          \
			size_t at = hash_of(value) & d->mask;                                      \
			unsigned code;                                                             \
                                                                                                   \
			while ((code = d->table[at]) &&                                            \
			       memcmp(d->keys + (code - 1) * (size_t)(width), value, width))       \
				at = (at + 1) & d->mask;                                           \
			if (!code) {                                                               \
				if (d->count == d->room)                                           \
					return i;                                                  \
				memcpy(d->keys + d->count * (width), value, width);                \
				code = (unsigned)++d->count;                                       \
				d->table[at] = (uint16_t)code;                                     \
			}                                                                          \
			codes[i] = (uint16_t)(code - 1);                                           \
		}                                                                                  \
		return n;                                                                          \
	}

static inline uint64_t hash1(const uint8_t *at)
{
	return *at;
}

static inline uint64_t hash2(const uint8_t *at)
{
	uint16_t value;

	memcpy(&value, at, sizeof(value));
	return mix(value);
}

static inline uint64_t hash4(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return mix(value);
}

static inline uint64_t hash8(const uint8_t *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return mix(value);
}

static inline uint64_t hash16(const uint8_t *at)
{
	return mix(hash8(at) ^ (hash8(at + 8) << 1));
}

DEFINE_ENCODE(1, hash1)
DEFINE_ENCODE(2, hash2)
DEFINE_ENCODE(4, hash4)
DEFINE_ENCODE(8, hash8)
DEFINE_ENCODE(16, hash16)

static size_t run_encode(int width, struct dictionary *d, const uint8_t *values, size_t n,
			 uint16_t *codes)
{
	switch (width) {
	case 1:
		return encode1(d, values, n, codes);
	case 2:
		return encode2(d, values, n, codes);
	case 4:
		return encode4(d, values, n, codes);
	case 8:
		return encode8(d, values, n, codes);
	default:
		return encode16(d, values, n, codes);
	}
}

// What is wrong with the sizes, or NULL.
static const char *check(const Py_buffer *values, int width, const Py_buffer *table,
			 const Py_buffer *keys, Py_ssize_t count, const Py_buffer *codes)
{
	size_t slots = (size_t)table->len / 2, room;

	if (width != 1 && width != 2 && width != 4 && width != 8 && width != 16)
		return "width: 1, 2, 4, 8 or 16";
	room = (size_t)(keys->len / width);
	if (!slots || slots & (slots - 1) || room > UINT16_MAX || slots < 2 * room)
		return "table: a power of two of uint16, twice as many as keys";
	if (count < 0 || (size_t)count > room)
		return "count: more than keys";
	if (codes->len / 2 < values->len / width)
		return "codes: too few";
	return NULL;
}

static PyObject *encode(PyObject *module, PyObject *args)
{
	Py_buffer values, table, keys, codes;
	struct dictionary d;
	PyObject *result = NULL;
	const char *wrong;
	Py_ssize_t count;
	size_t done;
	int width;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*iw*w*nw*", &values, &width, &table, &keys, &count, &codes))
		return NULL;
	wrong = check(&values, width, &table, &keys, count, &codes);
	if (wrong) {
		PyErr_SetString(PyExc_ValueError, wrong);
		goto done;
	}
	d.table = table.buf;
	d.keys = keys.buf;
	d.mask = (size_t)table.len / 2 - 1;
	d.count = (size_t)count;
	d.room = (size_t)(keys.len / width);
	Py_BEGIN_ALLOW_THREADS;
	done = run_encode(width, &d, values.buf, (size_t)(values.len / width), codes.buf);
	Py_END_ALLOW_THREADS;
	result = Py_BuildValue("nn", (Py_ssize_t)d.count, (Py_ssize_t)done);
done:
	PyBuffer_Release(&values);
	PyBuffer_Release(&table);
	PyBuffer_Release(&keys);
	PyBuffer_Release(&codes);
	return result;
}

static uint8_t *put_run(uint8_t *to, size_t count, unsigned value, int width)
{
	for (count <<= 1; count >= 0x80; count >>= 7)
		*to++ = (uint8_t)(count | 0x80);
	*to++ = (uint8_t)count;
	if (width > 0)
		*to++ = (uint8_t)value;
	if (width > 8)
		*to++ = (uint8_t)(value >> 8);
	return to;
}

// Eight codes; those behind the last one are zero.
static uint8_t *put_group(uint8_t *to, const uint16_t *codes, size_t n, int width)
{
	uint64_t bits = 0;
	int have = 0;

	for (size_t i = 0; i < GROUP; i++) {
		bits |= (uint64_t)(i < n ? codes[i] : 0) << have;
		for (have += width; have >= 8; have -= 8) {
			*to++ = (uint8_t)bits;
			bits >>= 8;
		}
	}
	return to;
}

static size_t run_pack(const uint16_t *codes, size_t n, int width, uint8_t *out)
{
	uint8_t *to = out, *head = NULL; // head: the length of the bit-packed run that is open
	unsigned groups = 0;

	if (width == 0)
		return n ? (size_t)(put_run(out, n, 0, 0) - out) : 0;
	for (size_t i = 0; i < n;) {
		size_t same = 1;

		while (i + same < n && codes[i + same] == codes[i])
			same++;
		if (same >= GROUP) {
			to = put_run(to, same, codes[i], width);
			head = NULL;
			i += same;
			continue;
		}
		if (!head || groups == MOST_GROUPS) {
			head = to++;
			groups = 0;
		}
		to = put_group(to, codes + i, n - i < GROUP ? n - i : GROUP, width);
		*head = (uint8_t)(++groups << 1 | 1);
		i += GROUP;
	}
	return (size_t)(to - out);
}

static PyObject *pack(PyObject *module, PyObject *args)
{
	Py_buffer codes, out;
	PyObject *result = NULL;
	size_t used, n, groups;
	int width;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*iw*", &codes, &width, &out))
		return NULL;
	n = (size_t)codes.len / 2;
	groups = (n + GROUP - 1) / GROUP;
	// A group takes `width` octets and a length of its own at most; a run of eight or more
	// less, but for its length.
	if (width < 0 || width > 16 || (size_t)out.len < groups * ((size_t)width + 1) + 16) {
		PyErr_SetString(PyExc_ValueError, "width: 0 to 16; out: too small");
	} else {
		Py_BEGIN_ALLOW_THREADS;
		used = run_pack(codes.buf, n, width, out.buf);
		Py_END_ALLOW_THREADS;
		result = PyLong_FromSize_t(used);
	}
	PyBuffer_Release(&codes);
	PyBuffer_Release(&out);
	return result;
}

static PyMethodDef methods[] = {
	{"encode", encode, METH_VARARGS, "Values to codes; _codes.c says how."},
	{"pack", pack, METH_VARARGS, "Codes to runs and bit-packed groups; _codes.c says how."},
	{NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "_codes",
	.m_doc = "Columns to dictionary codes, codes to runs.",
	.m_methods = methods,
	.m_slots = slots,
};

PyMODINIT_FUNC PyInit__codes(void)
{
	return PyModuleDef_Init(&definition);
}
