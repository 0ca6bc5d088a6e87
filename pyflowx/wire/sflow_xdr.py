"""XDR (RFC 4506) as sFlow uses it, read for many records at once.

All positions are octet offsets in one buffer with :data:`SPARE` octets behind the last datagram, so that
a read may touch what lies behind its record; whether it was there is told afterwards.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyflowx.batch import I64, U8, Array, Column, Octets, take
from pyflowx.elements import FieldSpecifier, default_registry
from pyflowx.wire.layers import select
from pyflowx.wire.records import FEW, gather
from pyflowx.wire.sflow_structures import KINDS, Field, Structure

SPARE = 256  # more than the longest run of fixed fields
_LOW, _HIGH = np.uint64(0xFFFFFFFF), np.uint64(32)  # of a head's two words
_PATH_SET = 1  # as_path_segment_type


class Entries(NamedTuple):
    """What a walk found, in order: ``owner``, the two words of the head, where the body begins, its octets (cut at
    the end of the owner), and whether all of it is there. Of each owner: where it stopped, what it still missed."""

    owner: I64
    word: I64
    units: I64
    at: I64
    octets: I64
    whole: npt.NDArray[np.bool_]
    stop: I64
    missing: I64


def walk(octets: U8, start: I64, end: I64, count: I64, unit: int = 1) -> Entries:
    """Heads of two words (a format, a length in ``unit`` octets) and their bodies, at most ``count`` in each span
    ``start:end``; the spans stand in the order of the buffer. Lockstep over all; the last few are walked alone."""
    most = np.minimum(count, np.maximum(end - start, 0) >> 3)  # an entry has 8 octets at least
    after = np.cumsum(most)
    first = after - most
    place = np.full(int(after[-1]) if len(after) else 0, -1)
    heads = np.zeros(len(place), np.uint64)
    view: Array = np.ndarray((max(len(octets) - 7, 0),), np.uint64, octets, 0, (1,))
    cursor = start.copy()
    rows: Any = select(most > 0)
    step = 0
    while len(cursor[rows]) > FEW:
        at, limit, slot = cursor[rows], end[rows], first[rows] + step
        head = view[at].byteswap()
        place[slot], heads[slot] = at, head
        size = (head & _LOW).view(np.int64) * unit
        cursor[rows] = np.minimum(at + 8 + (size + 3 & ~3), limit)
        step += 1
        active = (most[rows] > step) & (cursor[rows] + 8 <= limit)
        if not active.all():
            rows = (np.arange(len(start)) if isinstance(rows, slice) else rows)[active]
    for lone in np.arange(len(start))[rows].tolist():
        cursor[lone] = _alone(octets, int(cursor[lone]), int(end[lone]), unit, place[first[lone] + step : after[lone]])
        slots = np.arange(first[lone] + step, after[lone])[place[first[lone] + step : after[lone]] >= 0]
        heads[slots] = view[place[slots]].byteswap()
    return _entries(place, heads, end, most, count, cursor, unit)


def _alone(octets: U8, cursor: int, end: int, unit: int, place: I64) -> int:
    """Fills in where the entries of one owner are; returns where they stop."""
    view = octets.data
    for slot in range(len(place)):
        if cursor + 8 > end:
            break
        place[slot] = cursor
        size = int.from_bytes(view[cursor + 4 : cursor + 8], "big") * unit
        cursor = min(cursor + 8 + (size + 3 & ~3), end)
    return cursor


def _entries(place: I64, heads: Array, end: I64, most: I64, count: I64, stop: I64, unit: int) -> Entries:
    owner = np.repeat(np.arange(len(end)), most)
    found = most
    there = place >= 0
    if not there.all():
        owner, place, heads = owner[there], place[there], heads[there]
        found = np.bincount(owner, minlength=len(end))
    at = place + 8
    room, units = end[owner] - at, (heads & _LOW).view(np.int64)
    size = units * unit if unit > 1 else units
    word = (heads >> _HIGH).view(np.int64)
    return Entries(owner, word, units, at, np.minimum(size, room), size <= room, stop, np.maximum(count - found, 0))


class Address(NamedTuple):
    """A column of unions: 0 nothing, 1 IPv4, 2 IPv6."""

    kind: I64
    four: Array
    six: Array


class Path(NamedTuple):
    """A column of AS paths: as text; the first and last AS where there is one."""

    text: Octets
    first: Array
    last: Array


class Read(NamedTuple):
    """A structure of n records: a column a field; which records hold all of it; where it ends."""

    columns: list[Column | Address | Path]
    good: npt.NDArray[np.bool_]
    stop: I64


def read(octets: U8, structure: Structure, start: I64, end: I64) -> Read:
    """The fields of ``structure`` in the records ``start:end``."""
    columns: list[Column | Address | Path] = [np.zeros(0)] * len(structure.fields)
    cursor, good = start.copy(), np.ones(len(start), bool)
    for run in structure.runs:
        cells = gather(octets, cursor, run.octets)
        for place, at in run.fixed:
            columns[place] = _fixed(structure.fields[place], octets, cells, cursor, at)
        cursor = cursor + run.octets
        good &= cursor <= end
        if run.variable >= 0:
            cursor = np.where(good, cursor, start)
            columns[run.variable], cursor, fits = _variable(structure.fields[run.variable], octets, cursor, end)
            good &= fits
            cursor = np.where(good, np.minimum(cursor, end), start)
    return Read(columns, good, cursor)


def _fixed(field: Field, octets: U8, cells: U8, cursor: I64, at: int) -> Column:
    length = KINDS[field.kind].length
    data_type = field.four.element.data_type
    if field.kind in ("o4", "o16"):
        return Octets(octets, cursor + at, np.full(len(cursor), length))
    return data_type.to_column(cells[:, at : at + length])


def _variable(
    field: Field, octets: U8, cursor: I64, end: I64
) -> tuple[Column | Address | Path, I64, npt.NDArray[np.bool_]]:
    """(column, where it ends, whether it is all there)."""
    if field.kind == "address":
        return _address(octets, cursor, end)
    count = gather(octets, cursor, 4).view(">u4")[:, 0].astype(np.int64)
    at = cursor + 4
    if field.kind == "path":
        return _path(octets, at, end, np.where(at <= end, count, 0))
    size = count if field.kind in ("string", "opaque") else count * 4
    fits = at + size <= end
    size = np.where(fits, size, 0)
    stop = at + (size + 3 & ~3)
    if field.kind == "communities":
        return _communities(octets, at, size // 4), stop, fits
    return Octets(octets, at, size), stop, fits


def _address(octets: U8, cursor: I64, end: I64) -> tuple[Address, I64, npt.NDArray[np.bool_]]:
    cells = gather(octets, cursor, 20)
    kind = cells[:, :4].view(">u4")[:, 0].astype(np.int64)
    size = np.array([4, 8, 20])[np.minimum(kind, 2)]
    column = Address(kind, cells[:, 4:8].view(">u4")[:, 0].astype(np.uint32), np.ascontiguousarray(cells[:, 4:20]))
    return column, cursor + size, (kind <= 2) & (cursor + size <= end)


def _numbers(octets: U8, at: I64, count: I64) -> tuple[Array, I64]:
    """The unsigned ints of many arrays, one after another, and which array each is of."""
    owner = np.repeat(np.arange(len(at)), count)
    first = np.cumsum(count) - count
    places = at[owner] + 4 * (np.arange(len(owner)) - first[owner])
    return gather(octets, places, 4).view(">u4")[:, 0].astype(np.int64), owner


def _texts(tokens: list[bytes], which: I64, count: I64) -> Octets:
    """Rows of tokens (each ends with a space) as text: row i has the next ``count[i]`` of ``tokens[which]``."""
    packed = Octets.of(tokens).take(which).packed()
    ends = np.concatenate([[0], np.cumsum(packed.lengths)])
    last = np.cumsum(count)
    starts = ends[last - count]
    return Octets(packed.buffer, starts, np.maximum(ends[last] - starts - 1, 0))


def _communities(octets: U8, at: I64, count: I64) -> Octets:
    numbers, _ = _numbers(octets, at, count)
    distinct, which = np.unique(numbers, return_inverse=True)
    return _texts([b"%d:%d " % divmod(number, 65536) for number in distinct.tolist()], which, count)


def _path(octets: U8, at: I64, end: I64, segments: I64) -> tuple[Path, I64, npt.NDArray[np.bool_]]:
    n = len(at)
    found = walk(octets, at, end, segments, unit=4)
    fits = (at <= end) & (found.missing == 0)
    np.logical_and.at(fits, found.owner, found.whole)
    count = np.where(fits[found.owner], found.units, 0)
    numbers, segment = _numbers(octets, found.at, count)
    is_set = found.word[segment] == _PATH_SET
    opens = is_set & (np.diff(segment, prepend=-1) != 0)
    closes = is_set & (np.diff(segment, append=-1) != 0)
    distinct, which = np.unique(numbers << 2 | opens << 1 | closes, return_inverse=True)
    tokens = [b"%s%d%s " % (b"{" * (t >> 1 & 1), t >> 2, b"}" * (t & 1)) for t in distinct.tolist()]
    owner = found.owner[segment]
    each = np.bincount(owner, minlength=n)
    last = np.cumsum(each)
    ends = np.concatenate([numbers, [0]]).astype(np.uint32)
    first = ends[np.minimum(last - each, len(numbers))]
    return Path(_texts(tokens, which, each), first, ends[np.maximum(last - 1, 0)]), found.stop, fits


Pair = tuple[FieldSpecifier, FieldSpecifier]  # the field for records of IPv4 packets, of IPv6 packets


class Variant(NamedTuple):
    """Records of a structure that hold the same fields: which, the fields, the columns, whether an address in
    them is IPv6."""

    rows: Any
    fields: tuple[Pair, ...]
    columns: list[Column]
    has_ipv6: bool


def variants(
    structure: Structure, columns: list[Column | Address | Path], good: npt.NDArray[np.bool_]
) -> list[Variant]:
    """The ``good`` records apart by the addresses and paths that they have; in a FlowBatch nothing is null."""
    flat = [column for column in columns if isinstance(column, (np.ndarray, Octets))]
    if len(flat) == len(columns):
        rows = slice(None) if good.all() else np.flatnonzero(good)
        pairs = tuple((field.four, field.six) for field in structure.fields)
        return [Variant(rows, pairs, [take(column, rows) for column in flat], False)] if good.any() else []
    code = np.zeros(len(good), np.int64)
    for column in columns:
        if isinstance(column, Address):
            code = code * 3 + column.kind
        elif isinstance(column, Path):
            code = code * 2 + (column.text.lengths > 0)
    found = []
    for value in np.unique(code[good]).tolist():
        index = np.flatnonzero(good & (code == value))
        fields: list[Pair] = []
        picked: list[Column] = []
        has_ipv6 = False
        for field, column in zip(structure.fields, columns, strict=True):
            pair = (field.four, field.six)
            if isinstance(column, Address):
                kind = int(column.kind[index[0]])
                has_ipv6 |= kind == 2
                if kind:
                    fields.append((pair[kind - 1],) * 2)
                    picked.append((column.four if kind == 1 else column.six)[index])
            elif isinstance(column, Path):
                fields.append(pair)
                picked.append(column.text.take(index))
                if column.text.lengths[index[0]]:
                    fields += [(derived, derived) for derived in path_fields()]
                    picked += [column.last[index], column.first[index]]
            else:
                fields.append(pair)
                picked.append(take(column, index))
        found.append(Variant(index, tuple(fields), picked, has_ipv6))
    return found


def path_fields() -> tuple[FieldSpecifier, FieldSpecifier]:
    """What an AS path says of the destination: its AS, and the next one on the way."""
    field = default_registry().field
    return field("bgpDestinationAsNumber"), field("bgpNextAdjacentAsNumber")
