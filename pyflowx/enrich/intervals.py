"""Disjoint intervals that cover all addresses of a family: which one holds an address, for whole columns.

Interval i begins at ``starts[i]`` and ends before the next one; interval 0 begins at 0. Its ``values[i]`` is the
number of a record, or -1 for none. Nested prefixes become such intervals once, when a table is loaded.
"""

from __future__ import annotations

import functools
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pyflowx.batch import I32, I64, U8, Array
from pyflowx.enrich.addresses import Prefixes
from pyflowx.enrich.cells import Mask
from pyflowx.enrich.numbering import U64, ordered

U32 = npt.NDArray[np.uint32]
Values = TypeVar("Values", I32, I64)

_LEAST_BITS, _MOST_BITS = 16, 22  # of the direct table: 256 KiB to 16 MiB
_ELSEWHERE = np.int32(-2)  # this and less: not a value, which is -1 or more


class Starts(NamedTuple):
    """Places in an address space. IPv4: u32 ``high``; IPv6: u64 ``high`` and, where any is not zero, ``low``."""

    high: Array
    low: U64 | None = None

    @property
    def columns(self) -> list[Array]:
        return [self.high] if self.low is None else [self.high, self.low]

    def take(self, index: Array) -> Starts:
        return Starts(self.high[index], None if self.low is None else self.low[index])

    def differ(self) -> Mask:
        """Which places are not the one before them."""
        new = np.ones(len(self.high), np.bool_)
        new[1:] = self.high[1:] != self.high[:-1]
        if self.low is not None:
            new[1:] |= self.low[1:] != self.low[:-1]
        return new


def _last_not_above(keys: Array, wanted: Array, first: Values, last: Values) -> Values:
    """For each row the last index in first..last whose key is <= wanted, by bisection of all rows at once.

    ``keys[first]`` is known not to be above ``wanted`` and is not looked at (keys rise from ``first + 1`` on).
    """
    open_rows = np.flatnonzero(first < last)
    while len(open_rows):
        low, high = first[open_rows], last[open_rows]
        middle = (low + high + 1) >> 1
        below = keys[middle] <= wanted[open_rows]
        first[open_rows] = np.where(below, middle, low)
        last[open_rows] = np.where(below, high, middle - 1)
        open_rows = open_rows[first[open_rows] < last[open_rows]]
    return first


def _search(keys: Array, wanted: Array) -> I64:
    """For each value the place behind the last key that is not above it; keys are sorted.

    The values are asked for in their order: neighbours search the same part of a large table.
    """
    order = np.argsort(wanted)
    found = np.empty(len(wanted), np.int64)
    found[order] = np.searchsorted(keys, wanted[order], "right")
    return found


class Intervals32:
    """IPv4. A direct table over the upper bits has the value of each bucket that lies in one interval; for the other
    buckets it says where to look."""

    __slots__ = ("_direct", "_first", "_last", "_shift", "_starts", "_values")

    def __init__(self, starts: U32, values: I32) -> None:
        bits = min(max(len(starts).bit_length() + 4, _LEAST_BITS), _MOST_BITS)
        self._starts, self._values, self._shift = starts, values, np.uint32(32 - bits)
        # bounds[b + 1]: the last interval that begins before the end of bucket b (of equal indices the last is kept)
        bounds = np.zeros((1 << bits) + 1, np.int32)
        bounds[(starts >> self._shift) + np.uint32(1)] = np.arange(len(starts), dtype=np.int32)
        np.maximum.accumulate(bounds, out=bounds)
        inside = starts[starts & ((np.uint32(1) << self._shift) - np.uint32(1)) != 0] >> self._shift
        several = inside[np.append(inside[1:] != inside[:-1], True)[: len(inside)]]
        self._first, self._last = bounds[several], bounds[several + 1]
        self._direct = values.take(bounds[1:])
        self._direct[several] = _ELSEWHERE - np.arange(len(several), dtype=np.int32)

    def find(self, addresses: U32) -> I32:
        """The value at each address."""
        found: I32 = self._direct.take(addresses >> self._shift)
        rows = np.flatnonzero(found <= _ELSEWHERE)
        if len(rows):
            bucket, wanted = _ELSEWHERE - found[rows], addresses[rows]
            place = self._last.take(bucket)
            above = np.flatnonzero(self._starts.take(place) > wanted)
            if len(above):
                first, last = self._first.take(bucket[above]), place[above] - 1
                place[above] = _last_not_above(self._starts, wanted[above], first, last)
            found[rows] = self._values.take(place)
        return found


class Intervals128:
    """IPv6: a search for the upper 64 bits; the lower ones count where an interval begins inside a /64."""

    __slots__ = ("_group", "_high", "_low", "_values")

    def __init__(self, starts: Starts, values: I32) -> None:
        self._high, self._low, self._values = starts.high, starts.low, values
        self._group: I64 | None = None  # the first interval with the same upper bits
        if self._low is not None:
            self._group = np.searchsorted(self._high, self._high)

    def find(self, high: U64, low: U64) -> I32:
        """The value at each address."""
        found = _search(self._high, high) - 1
        if self._low is not None and self._group is not None:
            above = np.flatnonzero((self._high[found] == high) & (self._low[found] > low))
            if len(above):
                last = found[above] - 1
                first = self._group[found[above]] - 1
                found[above] = _last_not_above(self._low, low[above], first, last)
        return self._values.take(found)


def merge(starts: Starts, values: Values) -> tuple[Starts, Values]:
    """Neighbours with one value become one interval."""
    keep = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=keep[1:])
    return starts.take(keep), values[keep]


def flatten(first: Starts, behind: Starts, length: U8, values: I32) -> tuple[Starts, I32]:
    """Nested prefixes as disjoint intervals: each place gets the value of the longest prefix that holds it.

    ``first`` and ``behind`` are the first address of each prefix and the one behind its last (0: the end of the
    address space). Of equal prefixes the last one counts.
    """
    n = len(values)
    rows = ordered(*first.columns)
    rows = rows[np.argsort(length[rows], kind="stable")]  # the widest first, each length in the order of addresses
    values = values[rows]
    zero = np.zeros(1, first.high.dtype)
    pairs = zip(first.columns, behind.columns, strict=True)
    places = Starts(*[np.concatenate([one[rows], other[rows], zero]) for one, other in pairs])
    del first, behind, rows
    boundaries, rank = _distinct(places)
    begin, end = rank[:n], rank[n : 2 * n]
    end[end == 0] = len(boundaries.high)
    return merge(boundaries, _paint(begin, end, np.bincount(length), values, len(boundaries.high)))


def _distinct(places: Starts) -> tuple[Starts, I32]:
    """Distinct places in their order, and which of them each one is."""
    # They come as runs that rise, two for each length: a sort that merges runs is quicker than any other
    order = np.argsort(places.high, kind="stable") if places.low is None else ordered(*places.columns)
    places = places.take(order)
    new = places.differ()
    rank = np.empty(len(order), np.int32)
    rank[order] = np.cumsum(new, dtype=np.int32) - 1
    return places.take(new), rank


def _paint(begin: I32, end: I32, counts: I64, values: I32, n: int) -> I32:
    """The value at each of n boundaries: that of the longest prefix over it, which spans begin..end of them.

    Prefixes come in the order of their lengths, so many of each, and then of their starts.
    """
    painted = np.full(n, -1, np.int32)
    stop = 0
    for size in counts[counts > 0].tolist():  # from the widest prefixes to the narrowest
        level, stop = slice(stop, stop + size), stop + size
        last = np.append(begin[level][1:] != begin[level][:-1], True)  # of equal prefixes
        starts, found = begin[level][last], values[level][last]
        count = end[level][last] - starts
        place = np.repeat(starts - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))
        painted[place] = np.repeat(found, count)
    return painted


def from_prefixes(prefixes: Prefixes, values: I32) -> tuple[Intervals32, Intervals128]:
    """The intervals of both families; an IPv4-mapped prefix of 96 bits or more is IPv4."""
    is_ipv4 = prefixes.is_ipv4
    four, found = prefixes.part(is_ipv4), values[is_ipv4]
    first = four.low.astype(np.uint32)
    behind = first + _steps()[1][four.length].astype(np.uint32)
    starts, found = flatten(Starts(first, None), Starts(behind, None), four.length, found)
    ipv4 = Intervals32(starts.high, found)
    del four, first, behind  # a million prefixes take little memory at any time
    six = prefixes.part(~is_ipv4)
    return ipv4, Intervals128(*flatten(*_bounds128(six), six.length, values[~is_ipv4]))


def _bounds128(prefixes: Prefixes) -> tuple[Starts, Starts]:
    """The first address of each prefix, and the one behind its last."""
    high, low, length = prefixes.high, prefixes.low, prefixes.length
    upper, lower = _steps()
    behind = high + upper[length]
    if (length <= 64).all():
        return Starts(high, None), Starts(behind, None)
    low_behind = low + lower[length]
    behind += low_behind < low  # carried
    return Starts(high, low), Starts(behind, low_behind)


@functools.cache
def _steps() -> tuple[U64, U64]:
    """From an address to the one behind its prefix of 0..128 bits, in both halves (modulo 2^64, as they are added)."""
    sizes = [1 << (128 - length) for length in range(129)]
    low = (1 << 64) - 1
    return np.array([size >> 64 & low for size in sizes], np.uint64), np.array(
        [size & low for size in sizes], np.uint64
    )
