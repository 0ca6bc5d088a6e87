"""The flow table: deltas of the kernel's maps become Flow Records (RFC 7011 §2, RFC 5470 §5.2).

The kernel keeps no timer and no long history: each tick it hands over what it counted since the last
one, one *delta* a flow. Here deltas of one Flow Key add up until a timeout cuts the flow. Everything is
columns: rows of 64-bit words in one store, found through one sorted array of ``hash | row`` entries.
That index was measured against open addressing: with sorted needles a binary search over a million
entries is faster than two random gathers a probe, insertion and removal are a merge and a filter of
8 octets a flow, and there are no tombstones and no load factor. The hash is seeded and only narrows the
search: keys are compared in full, so flows never merge by accident.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pyflowx.batch import U8, Array

U64 = npt.NDArray[np.uint64]

ROW_BITS = 26  # of an index entry; the other 38 are the upper bits of the hash
MAX_FLOWS = 1 << (ROW_BITS - 1)
CHUNK = 1 << 20  # deltas that are put in order together, at most; the index is rewritten once for each
SLICE = 1 << 12  # of these that are merged in one go: their columns stay in a processor's cache
_ROW_MASK = np.uint64((1 << ROW_BITS) - 1)
_HASH_MASK = ~_ROW_MASK

KEEP = None  # the merge rule of a field whose first value stays
Rule = np.ufunc | str | None


class EndReason(enum.IntEnum):
    """IANA flowEndReason (136)."""

    IDLE_TIMEOUT = 1
    ACTIVE_TIMEOUT = 2
    END_OF_FLOW = 3
    FORCED_END = 4
    LACK_OF_RESOURCES = 5


def opaque(structures: Array) -> Array:
    """The same column as octets without structure: NumPy copies fields one by one, and these as a whole."""
    return structures.view(f"V{structures.itemsize}")


class FlowRecords(NamedTuple):
    """n flows that ended: keys and values with the table's dtypes, and :class:`EndReason` (uint8)."""

    keys: Array
    values: Array
    reason: U8

    def __len__(self) -> int:
        return len(self.reason)

    def take(self, rows: Any) -> FlowRecords:
        """The rows of an index array, boolean mask or slice."""
        return FlowRecords(
            opaque(self.keys)[rows].view(self.keys.dtype),
            opaque(self.values)[rows].view(self.values.dtype),
            self.reason[rows],
        )


class Ending(NamedTuple):
    """How the table sees that flows have ended by themselves.

    Flows whose ``field`` has a bit of ``mask`` are shown to ``ended(keys, values, now_ns)``, all together, at each
    :meth:`FlowTable.expire`; those that it says yes to end.
    """

    field: str
    mask: int
    ended: Callable[[Array, Array, int], npt.NDArray[np.bool_]]


class FlowTable:
    """Flows that are alive, at most ``max_flows`` of them.

    ``key_dtype`` and ``value_dtype`` are structured, each a multiple of 8 octets, padding zeroed in keys.
    ``merges`` gives each field of the values its rule: a ufunc (``np.add``, ``np.minimum``, ``np.maximum``,
    ``np.bitwise_or``), :data:`KEEP`, or the name of a counter: then the first value stays whose counter was not 0.
    Fields without a rule (padding) keep their first value too. First is, of the deltas that come together, the one
    with the least ``first_ns``. The values have ``first_ns`` and ``last_ns``, on the same clock as the ``now_ns`` of
    :meth:`expire`. A flow that ``active_ns`` cuts leaves the table; what it counts next begins a new record.
    ``ending``: how flows are known to have ended by themselves.
    """

    def __init__(
        self,
        key_dtype: npt.DTypeLike,
        value_dtype: npt.DTypeLike,
        merges: Mapping[str, Rule],
        *,
        active_ns: int,
        idle_ns: int,
        max_flows: int,
        ending: Ending | None = None,
        seed: int | None = None,
    ) -> None:
        self._key, self._value = np.dtype(key_dtype), np.dtype(value_dtype)
        if self._key.itemsize % 8 or self._value.itemsize % 8:
            raise ValueError("keys and values are padded to 8 octets")
        if not 0 < max_flows <= MAX_FLOWS:
            raise ValueError(f"max_flows is 1 to {MAX_FLOWS}")
        self._merges = {name: rule for name, rule in merges.items() if isinstance(rule, np.ufunc)}
        self._firsts = {name: rule for name, rule in merges.items() if isinstance(rule, str)}
        self._ending = ending
        self._active_ns, self._idle_ns, self._max_flows = active_ns, idle_ns, max_flows
        self._row = np.dtype([("key", self._key), ("value", self._value)])
        self._words = self._key.itemsize // 8
        # Multilinear hashing over 32-bit words: its upper half is strongly universal for random multipliers.
        generator = np.random.default_rng(seed)
        self._multipliers = generator.integers(0, 1 << 64, 2 * self._words + 1, np.uint64)
        # Room for a full table and one more chunk of deltas; pages that no flow ever used cost nothing.
        capacity = 2 * max_flows
        self._store = np.empty((capacity, self._row.itemsize // 8), np.uint64)
        self._alive = np.zeros(capacity, bool)
        self._closing = np.zeros(capacity, bool)  # flows that may have ended by themselves
        self._free = np.arange(capacity - 1, -1, -1, dtype=np.int32)  # a stack, low rows first
        self._free_count = capacity
        self._used = 0  # rows from here on were never used
        self._index = np.zeros(0, np.uint64)  # sorted; upper bits of the hash, row

    def __len__(self) -> int:
        return len(self._index)

    def update(self, keys: Array, values: Array) -> FlowRecords:
        """Add deltas (n keys, n values; a key may come twice). Returns what had to leave for lack of room:
        the flows that are longest without a packet. Keys and values are not copied first where each value stands
        right behind its key in memory."""
        ended = []
        size = min(self._max_flows, CHUNK)
        for start in range(0, len(keys), size):
            chunk = slice(start, start + size)
            self._add(self._joined(keys[chunk], values[chunk]))
            if len(self) > self._max_flows:
                ended.append(self._evict(len(self) - self._max_flows))
        return self._records(ended)

    def expire(self, now_ns: int) -> FlowRecords:
        """The flows that have ended by themselves, or whose idle or active timeout has passed at ``now_ns``;
        where several apply, the first of these is the reason."""
        value = self._view(self._store[: self._used])["value"]
        idle = value["last_ns"] <= now_ns - self._idle_ns
        closed = np.zeros(self._used, bool)
        closed[self._closed(now_ns)] = True
        over = closed | idle | (value["first_ns"] <= now_ns - self._active_ns)
        ended = np.flatnonzero(over & self._alive[: self._used])
        reason = np.where(idle[ended], EndReason.IDLE_TIMEOUT, EndReason.ACTIVE_TIMEOUT)
        reason[closed[ended]] = EndReason.END_OF_FLOW
        return self._records([self._remove(ended, reason)])

    def _closed(self, now_ns: int) -> Array:
        """The rows of flows that have ended by themselves."""
        rows = np.flatnonzero(self._closing[: self._used])
        if self._ending is None or not len(rows):
            return rows
        content = self._view(np.take(self._store, rows, axis=0))
        return rows[self._ending.ended(content["key"], content["value"], now_ns)]

    def flush(self) -> FlowRecords:
        """All flows, ended by force."""
        rows = np.flatnonzero(self._alive[: self._used])
        return self._records([self._remove(rows, np.full(len(rows), EndReason.FORCED_END))])

    def _view(self, words: U64) -> Array:
        """Rows of words as one structured array."""
        return words.view(self._row)[:, 0]

    def _opaque(self, words: U64) -> Array:
        """Rows of words as one column without structure: NumPy scatters that twice as fast."""
        return words.view(f"V{self._row.itemsize}")[:, 0]

    def _joined(self, keys: Array, values: Array) -> Array:
        """Deltas as one column without structure, like that of :meth:`_opaque`."""
        begin, end = (array.__array_interface__["data"][0] for array in (keys, values))
        octets, strides = self._row.itemsize, keys.strides
        keys, values = opaque(keys), opaque(values)
        if end - begin != keys.itemsize or values.strides != strides or strides[0] < octets:
            rows = np.empty(len(keys), [("key", keys.dtype), ("value", values.dtype)])
            rows["key"], rows["value"] = keys, values
            keys = rows["key"]
        words = keys[:, None].view(np.uint64)
        return self._opaque(np.lib.stride_tricks.as_strided(words, (len(words), octets // 8)))

    def _hash(self, words: U64) -> U64:
        """The part of the hash that the index holds, of each row."""
        halves = words.view(np.uint32).astype(np.uint64)
        found: U64 = (halves @ self._multipliers[:-1] + self._multipliers[-1]) & _HASH_MASK
        return found

    def _order(self, deltas: Array) -> U64:
        """Entries like those of the index, sorted: hash and place of each delta."""
        keys = deltas[:, None].view(np.uint64)[:, : self._words]
        order = np.arange(len(keys), dtype=np.uint64)
        for start in range(0, len(keys), SLICE):
            order[start : start + SLICE] |= self._hash(keys[start : start + SLICE])
        order.sort()
        return order

    def _add(self, deltas: Array) -> None:
        order = self._order(deltas)
        found, start = [self._index], 0
        while start < len(order):
            stop = min(start + SLICE, len(order))
            stop = int(np.searchsorted(order, order[stop - 1] | _ROW_MASK, "right"))  # a key is in one slice only
            found.append(self._add_slice(deltas, order[start:stop]))
            start = stop
        if any(map(len, found[1:])):
            self._index = np.concatenate(found)
            self._index.sort(kind="stable")  # two sorted runs: one merge

    def _add_slice(self, deltas: Array, order: U64) -> U64:
        """Add the deltas in the places of an order; the index entries of flows that are new."""
        prefix, places = order & _HASH_MASK, (order & _ROW_MASK).astype(np.int64)
        words = deltas[places].view(np.uint64).reshape(len(places), -1)
        deltas, prefix = self._distinct(words, prefix, places)
        rows, current = self._find(deltas, prefix)
        known = np.flatnonzero(rows >= 0)
        entries = prefix[:0]
        if len(known) < len(rows):
            new = np.flatnonzero(rows < 0)
            entries = self._insert(np.take(deltas, new, axis=0), prefix[new])
            rows, current, deltas = rows[known], np.take(current, known, axis=0), np.take(deltas, known, axis=0)
        self._merge(current, deltas)
        self._opaque(self._store)[rows] = self._opaque(current)
        self._mark(rows, current)
        return entries

    def _distinct(self, deltas: U64, prefix: U64, position: Array) -> tuple[U64, U64]:
        """Deltas in the order of their hash and that hash, those of one key as one."""
        repeated = np.zeros(len(prefix) + 1, bool)
        repeated[1:-1] = prefix[1:] == prefix[:-1]
        if not repeated.any():
            return deltas, prefix
        places = np.flatnonzero(repeated[1:] | repeated[:-1])
        combined, starts = self._combine(deltas[places], prefix[places], position[places])
        deltas[places[starts]] = combined
        keep = np.ones(len(deltas), bool)
        keep[places] = False
        keep[places[starts]] = True
        rows = np.flatnonzero(keep)
        return np.take(deltas, rows, axis=0), prefix[rows]

    def _combine(self, deltas: U64, prefix: U64, position: Array) -> tuple[U64, Array]:
        """Merge deltas of the same key in the order of time, ``position`` where that is the same, so that what began
        first is kept. Also the places among ``deltas`` that they have: those of a ``prefix`` stay together."""
        first_ns = self._view(deltas)["value"]["first_ns"]
        order = np.lexsort((position, first_ns, *(deltas[:, word] for word in range(self._words)), prefix))
        deltas = deltas[order]
        begins = np.ones(len(deltas), bool)
        begins[1:] = (deltas[1:, : self._words] != deltas[:-1, : self._words]).any(axis=1)
        starts = np.flatnonzero(begins)
        combined = deltas[starts]
        source, target = self._view(deltas)["value"], self._view(combined)["value"]
        for name, counter in self._firsts.items():
            some = np.flatnonzero(source[counter])
            first = np.append(some, len(source))[np.searchsorted(some, starts)]
            target[name] = source[name][np.where(first < np.append(starts[1:], len(source)), first, starts)]
        for name, ufunc in self._merges.items():
            target[name] = ufunc.reduceat(source[name], starts)
        return combined, starts

    def _find(self, deltas: U64, prefix: U64) -> tuple[Array, U64]:
        """The row of each delta's flow (-1: none) and that row's content; steps over entries of equal hash."""
        rows = np.full(len(deltas), -1, np.int64)
        current = np.empty_like(deltas)
        position = np.searchsorted(self._index, prefix)
        pending = np.flatnonzero(position < len(self._index))
        while len(pending):
            entry = self._index[position[pending]]
            same = (entry & _HASH_MASK) == prefix[pending]
            if not same.all():
                pending, entry = pending[same], entry[same]
            candidate = (entry & _ROW_MASK).astype(np.int64)
            content = np.take(self._store, candidate, axis=0)
            wanted = deltas if len(pending) == len(deltas) else np.take(deltas, pending, axis=0)
            equal = np.ones(len(pending), bool)
            for word in range(self._words):
                equal &= content[:, word] == wanted[:, word]
            if wanted is deltas and equal.all():  # as it mostly is: no copy
                return candidate, content
            found = pending[equal]
            rows[found] = candidate[equal]
            self._opaque(current)[found] = self._opaque(content)[equal]
            pending = pending[~equal]
            position[pending] += 1
            pending = pending[position[pending] < len(self._index)]
        return rows, current

    def _merge(self, current: U64, deltas: U64) -> None:
        into, source = self._view(current)["value"], self._view(deltas)["value"]
        for name, counter in self._firsts.items():
            nothing = into[counter] == 0
            into[name][nothing] = source[name][nothing]
        for name, ufunc in self._merges.items():
            ufunc(into[name], source[name], out=into[name])

    def _mark(self, rows: Array, content: U64) -> None:
        """Note which flows may have ended by themselves."""
        if self._ending is not None:
            self._closing[rows] = self._view(content)["value"][self._ending.field] & self._ending.mask != 0

    def _insert(self, deltas: U64, prefix: U64) -> U64:
        """The index entries of new flows."""
        top = self._free_count
        self._free_count = top - len(deltas)
        rows = self._free[self._free_count : top][::-1]  # the order of the hash, mostly, is that of the store
        self._opaque(self._store)[rows] = self._opaque(deltas)
        self._alive[rows] = True
        self._mark(rows, deltas)
        self._used = max(self._used, int(rows.max()) + 1)
        return prefix | rows.astype(np.uint64)

    def _remove(self, rows: Array, reason: Array) -> FlowRecords:
        content = self._view(np.take(self._store, rows, axis=0))
        if len(rows):
            self._alive[rows] = self._closing[rows] = False
            self._free[self._free_count : self._free_count + len(rows)] = rows
            self._free_count += len(rows)
            self._index = self._index[self._alive[(self._index & _ROW_MASK).astype(np.int64)]]
        return FlowRecords(content["key"], content["value"], reason.astype(np.uint8))

    def _evict(self, count: int) -> FlowRecords:
        rows = (self._index & _ROW_MASK).astype(np.int64)
        last = self._view(self._store)["value"]["last_ns"][rows]
        oldest = rows[np.argpartition(last, count - 1)[:count]]
        return self._remove(oldest, np.full(count, EndReason.LACK_OF_RESOURCES))

    def _records(self, parts: list[FlowRecords]) -> FlowRecords:
        if len(parts) == 1:
            return parts[0]
        empty = FlowRecords(np.zeros(0, self._key), np.zeros(0, self._value), np.zeros(0, np.uint8))
        keys, values, reason = zip(empty, *parts, strict=True)
        return FlowRecords(np.concatenate(keys), np.concatenate(values), np.concatenate(reason))
