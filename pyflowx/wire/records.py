"""Data Records of one field list: octets to columns (RFC 7011 §3.4.3, §6.2, §7).

A *layout* is what a Template comes to for decoding; Templates with the same fields share one, whoever
sent them. A *span* is a run of octets that holds whole Data Records one after another: the content
of a Data Set, or of a list inside a record (RFC 6313).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pyflowx.batch import I64, U8, Array, Column, Octets
from pyflowx.elements import FieldSpecifier

FEW = 16
"""Below this many active spans a plain loop is faster than a lockstep step, whose cost hardly depends on
the number of spans. It keeps a lone long message (thousands of tiny Sets or records) cheap."""


class Part(NamedTuple):
    """A field of fixed length: its column, its octet offset in the run."""

    column: int
    offset: int
    field: FieldSpecifier


class Run(NamedTuple):
    """Fields of fixed length that stand together: before, between or behind the variable-length ones."""

    length: int
    parts: tuple[Part, ...]


class Layout:
    """How to read the records of a field list.

    ``runs`` has one entry more than ``variable``, the indices of the variable-length fields; ``record_length``
    is the shortest possible record in octets; ``users`` is the count of Templates that use the layout.
    """

    __slots__ = ("fields", "is_type_information", "lists", "record_length", "runs", "scope_count", "users", "variable")

    def __init__(self, fields: tuple[FieldSpecifier, ...], scope_count: int = 0) -> None:
        self.fields, self.scope_count, self.users = fields, scope_count, 0
        runs: list[Run] = []
        parts: list[Part] = []
        variable: list[int] = []
        offset = 0
        for index, field in enumerate(fields):
            if field.is_variable:
                runs.append(Run(offset, tuple(parts)))
                variable.append(index)
                parts, offset = [], 0
            else:
                parts.append(Part(index, offset, field))
                offset += field.length
        self.runs = (*runs, Run(offset, tuple(parts)))
        self.variable = tuple(variable)
        self.record_length = sum(run.length for run in self.runs) + len(variable)
        self.lists = tuple(i for i, field in enumerate(fields) if field.element.data_type.is_list)
        ids = {field.element.id for field in fields if field.element.pen == 0}
        self.is_type_information = scope_count > 0 and 303 in ids and bool(ids & {339, 341})  # RFC 5610 §3.9

    @property
    def is_fixed(self) -> bool:
        return not self.variable


class Records(NamedTuple):
    """The records of n spans, in order: a column a field, ``owner`` the span of each record.

    ``torn`` and ``torn_at``: spans whose last record ends past them, and where in the buffer it begins.
    """

    columns: list[Column]
    owner: I64
    torn: I64
    torn_at: I64


class _Places(NamedTuple):
    """Where records lie: ``rows`` has a line each for owner, start, and begin and length of each variable field."""

    rows: I64
    torn: I64
    torn_at: I64


def windows(octets: U8, width: int) -> Array:
    """All runs of ``width`` octets as void items, overlapping: indexing it copies each run with one memcpy."""
    return np.ndarray((len(octets) - width + 1,), f"V{width}", octets, strides=(1,))


def gather(octets: U8, starts: I64, width: int) -> U8:
    """The ``width`` octets at each start as an ``(n, width)`` matrix, copied."""
    if not width or not len(starts):
        return np.zeros((len(starts), width), np.uint8)
    return windows(octets, width)[starts].view(np.uint8).reshape(len(starts), width)


def read_records(layout: Layout, octets: U8, starts: I64, ends: I64) -> Records:
    """The whole records of the spans ``octets[starts[i]:ends[i]]``; what is left is padding.

    Octets columns refer to ``octets``; nothing else does.
    """
    if layout.is_fixed:
        return _fixed(layout, octets, starts, ends)
    places = _locate(layout, octets, starts, ends)
    rows = places.rows
    columns: list[Column] = [_NOTHING] * len(layout.fields)
    base = rows[1]
    for at, run in enumerate(layout.runs):
        if run.parts:
            _fill(columns, run, octets, base, gather(octets, base, run.length))
        if at < len(layout.variable):
            begin, length = rows[2 + 2 * at], rows[3 + 2 * at]
            columns[layout.variable[at]] = Octets(octets, begin, length)
            base = begin + length
    return Records(columns, rows[0], places.torn, places.torn_at)


_NOTHING = Octets(np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64))
_NONE = np.zeros(0, np.int64)


def _fixed(layout: Layout, octets: U8, starts: I64, ends: I64) -> Records:
    width = layout.record_length
    counts = (ends - starts) // width
    owner = np.repeat(np.arange(len(starts)), counts)
    total = len(owner)
    after = np.cumsum(counts)
    step = np.arange(total) * width
    if total and (starts == starts[0] + (after - counts) * width).all():  # records side by side: no copy
        base = starts[0] + step
        cells = octets[starts[0] : starts[0] + total * width].reshape(total, width)
    else:
        base = np.repeat(starts - (after - counts) * width, counts) + step
        cells = gather(octets, base, width)
    columns: list[Column] = [_NOTHING] * len(layout.fields)
    _fill(columns, layout.runs[0], octets, base, cells)
    return Records(columns, owner, _NONE, _NONE)


def _fill(columns: list[Column], run: Run, octets: U8, base: I64, cells: U8) -> None:
    """The columns of a run; ``cells`` is ``(n, run.length)``, ``base`` where each row stands in ``octets``."""
    for index, offset, field in run.parts:
        if field.has_column:
            columns[index] = field.element.data_type.to_column(cells[:, offset : offset + field.length])
        elif field.length:
            columns[index] = Octets(octets, base + offset, np.full(len(base), field.length))
        else:
            columns[index] = Octets(octets, *np.broadcast_to(np.int64(0), (2, len(base))))  # costs what it holds


def _locate(layout: Layout, octets: U8, starts: I64, ends: I64) -> _Places:
    """Find the records: one record of every active span a step, a plain loop for the last few spans."""
    steps: list[I64] = []
    torn: list[tuple[I64, I64]] = []
    owner = np.arange(len(starts))
    cursor = starts
    while True:
        active = ends - cursor >= layout.record_length
        if not active.all():
            owner, cursor, ends = owner[active], cursor[active], ends[active]
        if len(owner) <= FEW:
            break
        rows, after = _step(layout, octets, owner, cursor)
        whole = after <= ends
        if not whole.all():
            torn.append((owner[~whole], cursor[~whole]))
            rows, owner, after, ends = rows[:, whole], owner[whole], after[whole], ends[whole]
        steps.append(rows)
        cursor = after
    found, bad = _locate_few(layout, octets, zip(owner.tolist(), cursor.tolist(), ends.tolist(), strict=True))
    if found or not steps:
        steps.append(np.array(found, np.int64).reshape(-1, 2 + 2 * len(layout.variable)).T)
    if bad:
        torn.append((np.array([row[0] for row in bad]), np.array([row[1] for row in bad])))
    rows = np.concatenate(steps, axis=1) if len(steps) > 1 else steps[0]
    if len(steps) > 1:  # step by step becomes span by span
        key = rows[0].astype(np.uint16) if len(starts) <= 1 << 16 else rows[0]  # NumPy sorts 16 bits by radix
        rows = rows[:, np.argsort(key, kind="stable")]
    return _Places(rows, *(np.concatenate([row[i] for row in torn]) if torn else _NONE for i in (0, 1)))


def _step(layout: Layout, octets: U8, owner: I64, cursor: I64) -> tuple[I64, I64]:
    """The next record of each span, not yet checked against its end; reads past the buffer are clipped."""
    rows = np.empty((2 + 2 * len(layout.variable), len(owner)), np.int64)
    rows[0], rows[1] = owner, cursor
    at = cursor
    for number, run in enumerate(layout.runs[:-1]):
        at = at + run.length
        length = octets.take(at, mode="clip").astype(np.int64)
        at = at + 1
        long = length == 255  # RFC 7011 §7: the length follows in two octets
        if long.any():
            high = octets.take(at, mode="clip").astype(np.int64)
            wide = high << 8 | octets.take(at + 1, mode="clip")
            length = np.where(long, wide, length)
            at = at + 2 * long
        rows[2 + 2 * number], rows[3 + 2 * number] = at, length
        at = at + length
    return rows, at + layout.runs[-1].length


def _locate_few(
    layout: Layout, octets: U8, spans: zip[tuple[int, int, int]]
) -> tuple[list[list[int]], list[list[int]]]:
    """The same, span after span and record after record."""
    data = octets.data
    gaps = [run.length for run in layout.runs[:-1]]
    tail, least = layout.runs[-1].length, layout.record_length
    found: list[list[int]] = []
    torn: list[list[int]] = []
    for owner, cursor, end in spans:
        while end - cursor >= least:
            row = [owner, cursor]
            at = cursor
            for gap in gaps:
                at += gap
                length = data[at] if at < end else 0
                at += 1
                if length == 255:
                    length = data[at] << 8 | data[at + 1] if at + 1 < end else 0
                    at += 2
                row += (at, length)
                at += length
            cursor = at + tail
            if cursor > end:
                torn.append(row)
                break
            found.append(row)
    return found, torn
