// SPDX-License-Identifier: BSD-3-Clause
// Columns to rows of text or octets, the inner loop of the NDJSON, CSV and protobuf sinks:
//   fill(out, first, last, begin, separator, end, nulls, length, columns, ends) -> (next, used)
// writes the rows first..last-1 into `out` until one may not fit; `next` is the first row not
// written, `used` the octets that were. A row is `begin`, its cells with `separator` between them,
// `end`; a cell is `lead`, the value's text, `trail`. A null is left out with its separator (nulls
// False, JSON) or is an empty cell (nulls True, CSV). `length` says what stands before a row: 0
// nothing, 1 its length as a varint (protobuf), 2 as four octets, little-endian (Parquet). `ends`,
// if not None, is a writable int64 buffer that takes the offset in `out` behind each row, ends[0]
// that of row `first`.
//
// A column is a tuple (kind, lead, trail, values, valid, extra):
//   kind    u unsigned, i signed (1, 2, 4, 8 octets), m MAC (u8), 4 IPv4 (u4), 6 IPv6 (n, 16),
//           a the same with IPv4-mapped shown as IPv4, l label (an unsigned code), t text,
//           c text by its code (int32 or uint32),
//           v unsigned or int64 as a varint, b IPv4 (u4) and B IPv6 (n, 16) as a length octet and
//           the octets of the address (IPv4-mapped: four)
//   valid   None (no nulls) or one octet a row, 0 where the value is null
//   extra   for l a tuple of bytes, one a code; for t a pair (starts, lengths) of int64 into
//   values;
//           for c (octets, ends, longest): text i ends at the int64 ends[i + 1], where the next one
//           begins, and behind the last there are SLACK octets; none has more than `longest`
// Text and labels are copied as they are: whoever made them has escaped them. Values may be strided
// (0 too), of the machine's byte order. The GIL is free while it runs: nobody may write to the
// columns meanwhile. Only the buffer protocol and the limited API are used.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_rows_text.h"

#define INT64_FORMATS  (sizeof(long) == 8 ? "lq" : "q")
#define UINT64_FORMATS (sizeof(long) == 8 ? "LQ" : "Q")
#define VARINT_FORMATS (sizeof(long) == 8 ? "?BHILQlq" : "?BHILQq")

enum length { NO_LENGTH, VARINT_LENGTH, FIXED_LENGTH };

struct column {
	Py_buffer values, valid;
	Py_buffer starts, lengths; // of text; for coded text: where texts end, and the texts
	const char *lead, *trail;  // with SLACK octets readable behind them: they lie in `texts`
	size_t lead_size, trail_size;
	PyObject *labels;
	const char **label;
	size_t *label_size;
	size_t labels_count;
	size_t text_max; // for labels and coded text; 0 for text, whose length is looked up row by
			 // row
	size_t last_at, last_size; // the cell written before, to copy when the value comes again
	uint64_t last_value[2];
	bool has_last;
	char kind;
};

struct table {
	struct column *column;
	Py_ssize_t count;
	const char *begin, *separator, *end;
	size_t begin_size, separator_size, end_size;
	size_t row_max; // without the text columns
	bool nulls;
	int length;	  // enum length
	size_t head_size; // octets that the length took in the row before
};

static inline uint64_t load(const struct column *c, Py_ssize_t row)
{
	const char *at = (const char *)c->values.buf + row * c->values.strides[0];
	uint8_t one;
	uint16_t two;
	uint32_t four;
	uint64_t eight;

	switch (c->values.itemsize) {
	case 1:
		memcpy(&one, at, 1);
		return c->kind == 'i' ? (uint64_t)(int8_t)one : one;
	case 2:
		memcpy(&two, at, 2);
		return c->kind == 'i' ? (uint64_t)(int16_t)two : two;
	case 4:
		memcpy(&four, at, 4);
		return c->kind == 'i' ? (uint64_t)(int32_t)four : four;
	default:
		memcpy(&eight, at, 8);
		return eight;
	}
}

static inline int64_t load_offset(const Py_buffer *view, Py_ssize_t row)
{
	int64_t value;

	memcpy(&value, (const char *)view->buf + row * view->strides[0], sizeof(value));
	return value;
}

// The columns whose kind is of (n, 16) octets.
static inline bool is_wide(char kind)
{
	return kind == '6' || kind == 'a' || kind == 'B';
}

static inline char *put_value(char *to, const struct column *c, const uint64_t value[2])
{
	switch (c->kind) {
	case 'u':
		return put_unsigned(to, value[0]);
	case 'i':
		if ((int64_t)value[0] < 0) {
			*to++ = '-';
			return put_unsigned(to, 0 - value[0]);
		}
		return put_unsigned(to, value[0]);
	case 'm':
		return put_mac(to, value[0]);
	case '4':
		return put_ipv4(to, (uint32_t)value[0]);
	case '6':
	case 'a':
		return put_ipv6(to, (const uint8_t *)value, c->kind == 'a');
	case 'v':
		return put_varint(to, value[0]);
	case 'b':
		return put_octets4(to, (uint32_t)value[0]);
	case 'B':
		return put_octets16(to, (const uint8_t *)value);
	default: // a label; its code was checked
		memcpy(to, c->label[value[0]], c->label_size[value[0]]);
		return to + c->label_size[value[0]];
	}
}

static inline bool is_valid(const struct column *c, Py_ssize_t row)
{
	return !c->valid.obj || ((const char *)c->valid.buf)[row * c->valid.strides[0]];
}

// A cell of a text column, whose bounds were checked when its row was measured.
static char *put_text(char *to, const struct column *c, Py_ssize_t row)
{
	size_t size = (size_t)load_offset(&c->lengths, row);

	to = put(to, c->lead, c->lead_size);
	if (size)
		memcpy(to, (const char *)c->values.buf + load_offset(&c->starts, row), size);
	return put(to + size, c->trail, c->trail_size);
}

// A cell of coded text; NULL: a code without one, or a text outside the octets.
static char *put_coded(char *to, const struct column *c, Py_ssize_t row)
{
	uint64_t code = load(c, row);
	int64_t bounds[2];

	if (code >= c->labels_count)
		return NULL;
	memcpy(bounds, (const char *)c->starts.buf + code * sizeof(int64_t), sizeof(bounds));
	if (bounds[0] < 0 || bounds[1] < bounds[0] || bounds[1] > c->lengths.len - SLACK ||
	    (size_t)(bounds[1] - bounds[0]) > c->text_max)
		return NULL;
	to = put(to, c->lead, c->lead_size);
	to = put(to, (const char *)c->lengths.buf + bounds[0], (size_t)(bounds[1] - bounds[0]));
	return put(to, c->trail, c->trail_size);
}

// NULL: a code without a label.
static inline char *put_cell(char *to, struct column *c, Py_ssize_t row, const char *out)
{
	uint64_t value[2] = {0, 0};
	char *start = to;

	if (c->kind == 't')
		return put_text(to, c, row);
	if (c->kind == 'c')
		return put_coded(to, c, row);
	if (is_wide(c->kind))
		memcpy(value, (const char *)c->values.buf + row * c->values.strides[0], 16);
	else
		value[0] = load(c, row);
	if (c->has_last && value[0] == c->last_value[0] && value[1] == c->last_value[1]) {
		to = put(to, out + c->last_at, c->last_size);
	} else {
		if (c->kind == 'l' && value[0] >= c->labels_count)
			return NULL;
		to = put(to, c->lead, c->lead_size);
		to = put_value(to, c, value);
		to = put(to, c->trail, c->trail_size);
		c->last_value[0] = value[0];
		c->last_value[1] = value[1];
		c->last_size = (size_t)(to - start);
		c->has_last = true;
	}
	c->last_at = (size_t)(start - out);
	return to;
}

// Octets that the text columns of a row need; -1: more than `room`, -2: text outside its buffer.
static Py_ssize_t text_size(const struct table *t, Py_ssize_t row, size_t room)
{
	size_t sum = 0;

	for (Py_ssize_t i = 0; i < t->count; i++) {
		const struct column *c = &t->column[i];

		if (c->kind != 't' || !is_valid(c, row))
			continue;
		int64_t start = load_offset(&c->starts, row), size = load_offset(&c->lengths, row);

		if (start < 0 || size < 0 || start > c->values.len || size > c->values.len - start)
			return -2;
		if ((size_t)size > room - sum)
			return -1;
		sum += (size_t)size;
	}
	return (Py_ssize_t)sum;
}

// Puts the length of a row before it: `from` is where the row begins, `to` its end, and there is
// room for the length of the row before. Where this one's takes another number of octets, the row
// moves.
static char *put_length(char *from, char *to, struct table *t)
{
	size_t size = (size_t)(to - from), head_size;
	char head[16];

	if (t->length == FIXED_LENGTH) {
		for (int i = 0; i < 4; i++)
			from[i - 4] = (char)(size >> 8 * i);
		return to;
	}
	head_size = (size_t)(put_varint(head, size) - head);
	if (head_size != t->head_size) {
		memmove(from - t->head_size + head_size, from, size);
		for (Py_ssize_t i = 0; i < t->count; i++)
			t->column[i].has_last = false;
	}
	memcpy(from - t->head_size, head, head_size);
	to += head_size - t->head_size;
	t->head_size = head_size;
	return to;
}

static char *put_row(char *to, struct table *t, Py_ssize_t row, const char *out)
{
	bool first = true;
	char *from = to += t->head_size;

	to = put(to, t->begin, t->begin_size);
	for (Py_ssize_t i = 0; i < t->count; i++) {
		struct column *c = &t->column[i];
		bool valid = is_valid(c, row);

		if (!valid && !t->nulls)
			continue;
		if (!first)
			to = put(to, t->separator, t->separator_size);
		first = false;
		if (valid && !(to = put_cell(to, c, row, out)))
			return NULL;
	}
	to = put(to, t->end, t->end_size);
	return t->length ? put_length(from, to, t) : to;
}

// The first row not written; -1 for a label code without a label, -2 for text outside its buffer.
static Py_ssize_t put_rows(char *out, size_t room, struct table *t, Py_ssize_t first,
			   Py_ssize_t last, char *ends, size_t *used)
{
	char *to = out;
	Py_ssize_t row;

	for (row = first; row < last; row++) {
		size_t left = room - (size_t)(to - out);

		if (left < t->row_max)
			break;
		Py_ssize_t text = text_size(t, row, left - t->row_max);

		if (text == -2)
			return -2;
		if (text == -1)
			break;
		to = put_row(to, t, row, out);
		if (!to)
			return -1;
		if (ends) {
			int64_t end = to - out;

			memcpy(ends + (row - first) * (Py_ssize_t)sizeof(end), &end, sizeof(end));
		}
	}
	*used = (size_t)(to - out);
	return row;
}

// A buffer of `ndim` dimensions with at least `rows` rows, its item format one of `formats`; false
// with an exception set.
static bool take_nd(PyObject *from, Py_buffer *view, int ndim, const char *formats, Py_ssize_t rows,
		    const char *what)
{
	if (PyObject_GetBuffer(from, view, PyBUF_STRIDES | PyBUF_FORMAT) < 0) {
		view->obj = NULL;
		return false;
	}
	const char *format = view->format ? view->format : "B";

	if (!format[0] || format[1] || !strchr(formats, format[0]) || view->ndim != ndim ||
	    view->shape[0] < rows) {
		PyErr_Format(PyExc_ValueError,
			     "%s: %d dimensions of '%s' with %zd rows, not %d of '%s' with %zd",
			     what, view->ndim, format, view->ndim ? view->shape[0] : 0, ndim,
			     formats, rows);
		return false;
	}
	return true;
}

static bool take(PyObject *from, Py_buffer *view, const char *formats, Py_ssize_t rows,
		 const char *what)
{
	return take_nd(from, view, 1, formats, rows, what);
}

static bool take_labels(struct column *c, PyObject *labels)
{
	Py_ssize_t count = PyTuple_Check(labels) ? PyTuple_Size(labels) : -1;

	if (count < 0) {
		PyErr_SetString(PyExc_TypeError, "labels: a tuple of bytes");
		return false;
	}
	c->label = PyMem_Calloc((size_t)count + 1, sizeof(*c->label));
	c->label_size = PyMem_Calloc((size_t)count + 1, sizeof(*c->label_size));
	if (!c->label || !c->label_size) {
		PyErr_NoMemory();
		return false;
	}
	Py_INCREF(labels);
	c->labels = labels;
	c->labels_count = (size_t)count;
	for (Py_ssize_t i = 0; i < count; i++) {
		char *text;
		Py_ssize_t size;

		if (PyBytes_AsStringAndSize(PyTuple_GetItem(labels, i), &text, &size) < 0)
			return false;
		c->label[i] = text;
		c->label_size[i] = (size_t)size;
		if ((size_t)size > c->text_max)
			c->text_max = (size_t)size;
	}
	return true;
}

static bool take_coded(struct column *c, PyObject *extra)
{
	Py_ssize_t longest;

	if (!PyTuple_Check(extra) || PyTuple_Size(extra) != 3) {
		PyErr_SetString(PyExc_TypeError, "coded text: (octets, ends, longest)");
		return false;
	}
	longest = PyLong_AsSsize_t(PyTuple_GetItem(extra, 2));
	if (longest < 0) {
		if (!PyErr_Occurred())
			PyErr_SetString(PyExc_ValueError, "longest: negative");
		return false;
	}
	if (!take(PyTuple_GetItem(extra, 0), &c->lengths, "B", 0, "octets") ||
	    !take(PyTuple_GetItem(extra, 1), &c->starts, INT64_FORMATS, 1, "ends"))
		return false;
	if (c->lengths.len < SLACK || longest > c->lengths.len || c->lengths.strides[0] != 1 ||
	    (c->starts.shape[0] > 1 && c->starts.strides[0] != sizeof(int64_t))) {
		PyErr_SetString(PyExc_ValueError, "coded text: not one run of octets, or of ends");
		return false;
	}
	c->labels_count = (size_t)c->starts.shape[0] - 1;
	c->text_max = (size_t)longest;
	return true;
}

static bool take_values(struct column *c, PyObject *values, PyObject *extra, Py_ssize_t rows)
{
	PyObject *starts, *lengths;

	switch (c->kind) {
	case 'u':
		return take(values, &c->values, "?BHILQ", rows, "unsigned");
	case 'i':
		return take(values, &c->values, "bhilq", rows, "signed");
	case 'm':
		return take(values, &c->values, UINT64_FORMATS, rows, "MAC");
	case '4':
	case 'b':
		return take(values, &c->values, "I", rows, "IPv4");
	case 'v':
		return take(values, &c->values, VARINT_FORMATS, rows, "varint");
	case '6':
	case 'a':
	case 'B':
		if (!take_nd(values, &c->values, 2, "B", rows, "IPv6"))
			return false;
		if (c->values.shape[1] == 16 && c->values.strides[1] == 1)
			return true;
		PyErr_SetString(PyExc_ValueError, "IPv6: not a matrix of 16 octets a row");
		return false;
	case 'l':
		return take(values, &c->values, "BHI", rows, "labels") && take_labels(c, extra);
	case 't':
		if (!PyTuple_Check(extra) || PyTuple_Size(extra) != 2) {
			PyErr_SetString(PyExc_TypeError, "text: a pair (starts, lengths)");
			return false;
		}
		starts = PyTuple_GetItem(extra, 0);
		lengths = PyTuple_GetItem(extra, 1);
		if (!take(values, &c->values, "B", 0, "text") ||
		    !take(starts, &c->starts, INT64_FORMATS, rows, "starts") ||
		    !take(lengths, &c->lengths, INT64_FORMATS, rows, "lengths"))
			return false;
		if (!c->values.len || c->values.strides[0] == 1)
			return true;
		PyErr_SetString(PyExc_ValueError, "text: not one run of octets");
		return false;
	case 'c':
		return take(values, &c->values, "iI", rows, "codes") && take_coded(c, extra);
	default:
		PyErr_Format(PyExc_ValueError, "no kind '%c'", c->kind);
		return false;
	}
}

// Keeps a copy with SLACK octets behind it, for put().
static bool keep(PyObject *from, char **texts, const char **text, size_t *size)
{
	char *octets;
	Py_ssize_t count;

	if (PyBytes_AsStringAndSize(from, &octets, &count) < 0)
		return false;
	memcpy(*texts, octets, (size_t)count);
	*text = *texts;
	*size = (size_t)count;
	*texts += count + SLACK;
	return true;
}

// Octets of all leads and trails with their slack; 0 with an exception set where one is not bytes.
static size_t texts_size(PyObject *columns, PyObject *const fixed[3])
{
	size_t sum = 1;

	for (int i = 0; i < 3; i++) {
		if (!PyBytes_Check(fixed[i]))
			goto bad;
		sum += (size_t)PyBytes_Size(fixed[i]) + SLACK;
	}
	for (Py_ssize_t i = 0; i < PyTuple_Size(columns); i++) {
		PyObject *spec = PyTuple_GetItem(columns, i);

		if (!PyTuple_Check(spec) || PyTuple_Size(spec) != 6 ||
		    !PyBytes_Check(PyTuple_GetItem(spec, 1)) ||
		    !PyBytes_Check(PyTuple_GetItem(spec, 2)))
			goto bad;
		sum += (size_t)PyBytes_Size(PyTuple_GetItem(spec, 1)) +
		       (size_t)PyBytes_Size(PyTuple_GetItem(spec, 2)) + 2 * SLACK;
	}
	return sum;
bad:
	PyErr_SetString(PyExc_TypeError, "a column has six parts; lead and trail are bytes");
	return 0;
}

static bool take_column(struct column *c, PyObject *spec, char **texts, Py_ssize_t rows)
{
	PyObject *kind = PyTuple_GetItem(spec, 0), *valid = PyTuple_GetItem(spec, 4);
	Py_ssize_t size = 0;
	const char *name = PyUnicode_Check(kind) ? PyUnicode_AsUTF8AndSize(kind, &size) : NULL;

	if (!name || size != 1) {
		PyErr_SetString(PyExc_TypeError, "kind: one letter");
		return false;
	}
	c->kind = name[0];
	return keep(PyTuple_GetItem(spec, 1), texts, &c->lead, &c->lead_size) &&
	       keep(PyTuple_GetItem(spec, 2), texts, &c->trail, &c->trail_size) &&
	       (Py_IsNone(valid) || take(valid, &c->valid, "?B", rows, "valid")) &&
	       take_values(c, PyTuple_GetItem(spec, 3), PyTuple_GetItem(spec, 5), rows);
}

static void release(struct table *t)
{
	for (Py_ssize_t i = 0; i < t->count; i++) {
		struct column *c = &t->column[i];
		Py_buffer *views[] = {&c->values, &c->valid, &c->starts, &c->lengths};

		for (int j = 0; j < 4; j++)
			if (views[j]->obj)
				PyBuffer_Release(views[j]);
		Py_XDECREF(c->labels);
		PyMem_Free(c->label);
		PyMem_Free(c->label_size);
	}
	PyMem_Free(t->column);
}

// Fills `t` from the arguments; what it took so far is released by the caller in any case.
static bool take_table(struct table *t, PyObject *columns, PyObject *const fixed[3], char *texts,
		       Py_ssize_t rows)
{
	if (!keep(fixed[0], &texts, &t->begin, &t->begin_size) ||
	    !keep(fixed[1], &texts, &t->separator, &t->separator_size) ||
	    !keep(fixed[2], &texts, &t->end, &t->end_size))
		return false;
	t->row_max = t->begin_size + t->end_size + VARINT_MAX + SLACK;
	for (Py_ssize_t i = 0; i < t->count; i++) {
		struct column *c = &t->column[i];

		if (!take_column(c, PyTuple_GetItem(columns, i), &texts, rows))
			return false;
		t->row_max += t->separator_size + c->lead_size + c->trail_size;
		t->row_max += c->kind == 'l' || c->kind == 'c' ? c->text_max
			      : c->kind == 't'		       ? 0
							       : CELL_MAX;
	}
	return true;
}

static PyObject *fill_table(struct table *t, Py_buffer *out, Py_buffer *ends, Py_ssize_t first,
			    Py_ssize_t last)
{
	size_t used = 0;
	Py_ssize_t next;

	if (ends->obj && ends->len / (Py_ssize_t)sizeof(int64_t) < last - first)
		return PyErr_Format(PyExc_ValueError, "ends: too short");
	Py_BEGIN_ALLOW_THREADS;
	next = put_rows(out->buf, (size_t)out->len, t, first, last, ends->obj ? ends->buf : NULL,
			&used);
	Py_END_ALLOW_THREADS;
	if (next < 0)
		return PyErr_Format(PyExc_ValueError, next == -1 ? "a code without a label"
								 : "text outside its buffer");
	return Py_BuildValue("nn", next, (Py_ssize_t)used);
}

static PyObject *fill(PyObject *module, PyObject *args)
{
	PyObject *out_object, *columns, *ends_object, *fixed[3], *result = NULL;
	Py_buffer out = {.obj = NULL}, ends = {.obj = NULL};
	struct table t = {0};
	Py_ssize_t first, last;
	char *texts = NULL;
	size_t size;
	int nulls, length;

	(void)module;
	if (!PyArg_ParseTuple(args, "OnnOOOpiOO", &out_object, &first, &last, &fixed[0], &fixed[1],
			      &fixed[2], &nulls, &length, &columns, &ends_object))
		return NULL;
	if (!PyTuple_Check(columns) || first < 0 || last < first || length < NO_LENGTH ||
	    length > FIXED_LENGTH) {
		PyErr_SetString(PyExc_ValueError,
				"columns: a tuple; rows: 0 <= first <= last; length: 0, 1, 2");
		return NULL;
	}
	if (!(size = texts_size(columns, fixed)))
		return NULL;
	t.nulls = nulls;
	t.length = length;
	t.head_size = length == FIXED_LENGTH ? 4 : length == VARINT_LENGTH ? 2 : 0;
	t.column = PyMem_Calloc((size_t)PyTuple_Size(columns) + 1, sizeof(*t.column));
	texts = PyMem_Calloc(size, 1);
	if (!t.column || !texts) {
		PyErr_NoMemory();
		goto done;
	}
	t.count = PyTuple_Size(columns);
	if (PyObject_GetBuffer(out_object, &out, PyBUF_WRITABLE) < 0)
		goto done;
	if (!Py_IsNone(ends_object) && PyObject_GetBuffer(ends_object, &ends, PyBUF_WRITABLE) < 0)
		goto done;
	if (take_table(&t, columns, fixed, texts, last))
		result = fill_table(&t, &out, &ends, first, last);
done:
	if (out.obj)
		PyBuffer_Release(&out);
	if (ends.obj)
		PyBuffer_Release(&ends);
	release(&t);
	PyMem_Free(texts);
	return result;
}

static PyMethodDef methods[] = {
	{"fill", fill, METH_VARARGS,
	 "Writes rows of columns into a buffer; _rows.c says what a column is."},
	{NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
	PyModuleDef_HEAD_INIT, .m_name = "_rows", .m_doc = "Columns to rows of text or octets.",
	.m_methods = methods,  .m_slots = slots,
};

PyMODINIT_FUNC PyInit__rows(void)
{
	make_tables();
	return PyModuleDef_Init(&definition);
}
