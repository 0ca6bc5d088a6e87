"""Disjoint intervals that cover all addresses of a family: which one holds an address, for whole columns.

Interval i begins at ``starts[i]`` and ends before the next one; interval 0 begins at 0. Its ``values[i]`` is the
number of a record, or -1 for none. Nested prefixes become such intervals once, when a table is loaded.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pyflowx.batch import I32, I64, U8, Array
from pyflowx.enrich.addresses import Prefixes
from pyflowx.enrich.cells import U64, Mask, groups, search

U32 = npt.NDArray[np.uint32]
Values = TypeVar("Values", I32, I64)

_LEAST_BITS, _MOST_BITS = 16, 22  # of the direct table: 256 KiB to 16 MiB


class Starts(NamedTuple):
    """Places in an address space. IPv4: u32 ``high``; IPv6: u64 ``high`` and, where any is not zero, ``low``."""

    high: Array
    low: U64 | None

    def take(self, index: Array) -> Starts:
        return Starts(self.high[index], None if self.low is None else self.low[index])


def _last_not_above(keys: Array, wanted: Array, first: I64, last: I64) -> I64:
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


class Intervals32:
    """IPv4. A direct table over the upper bits says where to look; few rows need more than one step from there."""

    __slots__ = ("_bounds", "_shift", "_starts", "_values")

    def __init__(self, starts: U32, values: I32) -> None:
        bits = min(max(len(starts).bit_length() + 4, _LEAST_BITS), _MOST_BITS)
        self._starts, self._values, self._shift = starts, values, np.uint32(32 - bits)
        # bounds[b + 1]: the last interval that begins before the end of bucket b (of equal indices the last is kept)
        self._bounds = np.zeros((1 << bits) + 1, np.int32)
        self._bounds[(starts >> self._shift) + np.uint32(1)] = np.arange(len(starts), dtype=np.int32)
        np.maximum.accumulate(self._bounds, out=self._bounds)

    def find(self, addresses: U32) -> I32:
        """The value at each address."""
        bucket = addresses >> self._shift
        found = self._bounds[1:].take(bucket)
        above = np.flatnonzero(self._starts.take(found) > addresses)
        if len(above):
            first = self._bounds.take(bucket[above]).astype(np.int64)
            last = found[above].astype(np.int64) - 1
            found[above] = _last_not_above(self._starts, addresses[above], first, last)
        return self._values.take(found)


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
        found = search(self._high, high) - 1
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
    zero = np.zeros(1, first.high.dtype)
    high = np.concatenate([first.high, behind.high, zero])
    low = None if first.low is None or behind.low is None else np.concatenate([first.low, behind.low, zero])
    order, new = groups(high) if low is None else _groups128(high, low)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.cumsum(new, dtype=np.int32) - 1
    boundaries = Starts(high, low).take(order[new])
    begin, end = rank[:n], rank[n : 2 * n]
    end[end == 0] = len(boundaries.high)
    return merge(boundaries, _paint(begin, end, length, values, len(boundaries.high)))


def _paint(begin: I32, end: I32, length: U8, values: I32, n: int) -> I32:
    """The value at each of n boundaries: that of the longest prefix over it, which spans begin..end of them."""
    order, new = groups((begin.astype(np.uint64) << np.uint64(8)) | length)
    rows = np.maximum.reduceat(order, np.flatnonzero(new)) if len(order) else order  # of equal prefixes the last
    painted = np.full(n, -1, np.int32)
    lengths = length[rows]
    for step in np.flatnonzero(np.bincount(lengths)):  # from the widest prefixes to the narrowest
        level = rows[lengths == step]
        count = end[level] - begin[level]
        place = np.repeat(begin[level] - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))
        painted[place] = np.repeat(values[level], count)
    return painted


def _groups128(high: U64, low: U64) -> tuple[I64, Mask]:
    order = np.lexsort((low, high))
    new = np.ones(len(order), np.bool_)
    new[1:] = (high[order][1:] != high[order][:-1]) | (low[order][1:] != low[order][:-1])
    return order, new


def from_prefixes(prefixes: Prefixes, values: I32) -> tuple[Intervals32, Intervals128]:
    """The intervals of both families; an IPv4-mapped prefix of 96 bits or more is IPv4."""
    is_ipv4 = prefixes.is_ipv4
    four, six = np.flatnonzero(is_ipv4), np.flatnonzero(~is_ipv4)
    length = prefixes.length[four]
    first = prefixes.low[four].astype(np.uint32)
    behind = first + (np.uint64(1) << (128 - length).astype(np.uint64)).astype(np.uint32)
    starts, found = flatten(Starts(first, None), Starts(behind, None), length, values[four])
    ipv4 = Intervals32(starts.high, found)
    length = prefixes.length[six]
    high, low = prefixes.high[six], prefixes.low[six]
    return ipv4, Intervals128(*flatten(*_bounds128(high, low, length), length, values[six]))


def _bounds128(high: U64, low: U64, length: U8) -> tuple[Starts, Starts]:
    bits = length.astype(np.uint64)
    upper_step = np.where(bits <= 64, np.uint64(1) << ((np.uint64(64) - bits) & np.uint64(63)), np.uint64(0))
    upper_step[bits == 0] = 0  # ::/0 ends where it begins, at 0
    if (length <= 64).all():
        return Starts(high, None), Starts(high + upper_step, None)
    lower_step = np.where(bits > 64, np.uint64(1) << ((np.uint64(128) - bits) & np.uint64(63)), np.uint64(0))
    lower = low + lower_step
    carry = (lower < low).astype(np.uint64)
    return Starts(high, low), Starts(high + upper_step + carry, lower)
