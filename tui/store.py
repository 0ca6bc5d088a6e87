"""The flows of a source as columns: what snapshots bring is added up by flow, up to a bound.

A flow is its exporter, interfaces, addresses, protocol and ports. A flow's octets and packets are those of all its
records; every other column is that of the last record. The last minute is kept in steps of two seconds, so that any
choice of flows has a rate and a sparkline at once. All times are those of the snapshots, not of our clock: a
recording shows what was seen when it was made.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pyflowx.common import TABLE, CommonBatch, CommonColumn
from pyflowx.fill import wide_addresses

from .columns import Labels, columns_of_rows
from .index import I64, U64, Index, mix
from .terms import Labels as QueryLabels

Array = npt.NDArray[Any]
CAPACITY: Final = 200_000
STEPS, STEP_NS = 30, 2_000_000_000  # a minute
RATE_STEPS = 5  # of which a rate is made
KEY: Final = ("sampler_address", "in_if", "out_if", "src_addr", "dst_addr", "proto", "src_port", "dst_port")
_REVERSED: Final = ("sampler_address", "proto")
_DTYPES: Final = {"u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "time": np.int64}
_DTYPES_MORE: Final = {"mac": np.uint64, "i64": np.int64, "f64": np.float64}
TYPES: Final = {column.name: column.type for column in TABLE}
PART: Final = 16_384
_LEAST = 256
_NOTHING = np.zeros(1, np.uint64)
_OWN: Final = {
    "id": np.int64,
    "first_ns": np.int64,
    "last_ns": np.int64,
    "octets": np.uint64,
    "packets": np.uint64,
    "records": np.uint64,
    "hash": np.uint64,
    "pair": np.uint64,
}


def dtype_of(type: str) -> Any:
    return _DTYPES.get(type) or _DTYPES_MORE.get(type) or np.uint32


class FlowStore:
    """``n`` flows. ``totals``: all that passed, ``told``: what the flows that snapshots had add up to.

    ``evicted``: flows that had to go. ``time_ns``: of the last snapshot.
    """

    def __init__(self, capacity: int = CAPACITY, seed: int | None = None) -> None:
        self.capacity = capacity
        self.n = 0
        self.types: dict[str, str] = dict(TYPES)  # those of enrichment are added when they come
        self.totals = {"flows": 0, "octets": 0, "packets": 0}
        self.told = {"flows": 0, "octets": 0, "packets": 0}
        self.evicted = 0
        self.time_ns = 0
        self.has_ipv6 = False
        self.seed = np.uint64(secrets.randbits(63) if seed is None else seed)  # no peer can choose flows that collide
        self._room = 0
        self._next_id = 1
        self._own: dict[str, Array] = {name: np.zeros(0, dtype) for name, dtype in _OWN.items()}
        self._columns: dict[str, Array] = {}
        self._valid: dict[str, Array] = {}
        self._labels: dict[str, Labels] = {}
        self._octets = np.zeros((STEPS, 0), np.float32)
        self._packets = np.zeros((STEPS, 0), np.float32)
        self._step = 0
        self._started_step = 0
        self._index = Index(np.zeros(0, np.uint64))
        self._reserve(_LEAST)

    # -- what is there -----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.n

    def column(self, name: str) -> Any:
        """n values: integers, ``(n, 16)`` addresses, or :class:`Labels`; zeros where no record had one."""
        if name not in self._columns:
            type = self.types[name]
            if type == "label":
                return Labels.empty(self.n)
            return np.zeros(
                (self.n, 16) if type == "address" else self.n, np.uint8 if type == "address" else dtype_of(type)
            )
        values = self._columns[name][: self.n]
        labels = self._labels.get(name)
        return labels.with_codes(values) if labels is not None else values

    def valid(self, name: str) -> Array:
        """Which flows have a value."""
        if name not in self._columns:
            return np.zeros(self.n, bool)
        found = self._valid.get(name)
        return np.ones(self.n, bool) if found is None else found[: self.n]

    def names(self) -> list[str]:
        """The columns that some record had, in the order of the schema."""
        return [name for name in self.types if name in self._columns]

    def own(self, name: str) -> Array:
        """id, first_ns, last_ns, octets, packets, records, pair: what is known of each flow beside its columns."""
        return self._own[name][: self.n]

    def rates(self, of: str = "octets", rows: Array | None = None) -> Array:
        """Octets or packets a second, over the last ten seconds or as long as there has been a feed."""
        steps = min(RATE_STEPS, self._step - self._started_step + 1)
        history = self._octets if of == "octets" else self._packets
        total = history[self._step % STEPS][: self.n].copy()
        for back in range(1, steps):
            total += history[(self._step - back) % STEPS][: self.n]
        begun = max(1.0, (self.time_ns - (self._step - steps + 1) * STEP_NS) / 1e9)
        total /= np.float32(begun)
        found: Array = total if rows is None else total[rows]
        return found

    def history(self, rows: Array) -> Array:
        """``(rows, 30)``: octets of each two seconds of the last minute, the oldest first."""
        order = [(self._step - back) % STEPS for back in range(STEPS - 1, -1, -1)]
        return np.stack([self._octets[step][rows] for step in order], axis=1)

    def history_of(self, groups: Array, count: int, rows: Array | None = None, weights: Array | None = None) -> Array:
        """``(count, 30)``: the same of groups of flows, ``groups`` being the group of each of ``rows`` (or of all)."""
        found = np.zeros((count, STEPS), np.float64)
        for place in range(STEPS):
            each = self._octets[(self._step - STEPS + 1 + place) % STEPS][: self.n]
            if rows is not None:
                each = each[rows]
            found[:, place] = np.bincount(groups, each if weights is None else each * weights, count)[:count]
        return found

    def batch(self, rows: Array) -> CommonBatch:
        """Flows in the common schema, with the octets and packets of all their records."""
        columns: dict[str, CommonColumn] = {}
        for name in self.names():
            values, valid = self._columns[name][rows], self._valid.get(name)
            if name in ("bytes", "packets"):
                values = self.own("octets" if name == "bytes" else name)[rows]
            chosen = None if valid is None else valid[rows]
            labels = self._labels.get(name)
            if self.types[name] in ("i64", "f64"):
                distinct, values = np.unique(values, return_inverse=True)
                columns[name] = CommonColumn(
                    self.types[name], values.astype(np.uint32), chosen, tuple(distinct.tolist())
                )
            else:
                texts = None if labels is None else tuple(labels.texts)
                columns[name] = CommonColumn(self.types[name], values, chosen, texts)
        return CommonBatch(columns, len(rows))

    def query_columns(self) -> QueryColumns:
        """The columns as a filter takes them."""
        return QueryColumns(self)

    def extra(self) -> dict[str, str]:
        """Names and types of the columns that enrichment added."""
        return {name: type for name, type in self.types.items() if name not in TYPES}

    def freeze(self) -> FlowStore:
        """A copy that stands still."""
        other = FlowStore.__new__(FlowStore)
        other.__dict__.update(self.__dict__)
        other._own = {name: values[: self.n].copy() for name, values in self._own.items()}
        other._columns = {name: values[: self.n].copy() for name, values in self._columns.items()}
        other._valid = {name: values[: self.n].copy() for name, values in self._valid.items()}
        other._octets, other._packets = self._octets[:, : self.n].copy(), self._packets[:, : self.n].copy()
        other.totals, other.told = dict(self.totals), dict(self.told)
        return other

    # -- what comes --------------------------------------------------------------------------------------------------

    def add(self, section: Mapping[str, Any], time_ns: int) -> None:
        """The section ``flows`` of a snapshot: ``rows`` (JSON objects), or ``batches`` (CommonBatch) from a collector
        in this process, and the counts of all that passed."""
        for _ in self.add_parts(section, time_ns):
            pass

    def add_parts(self, section: Mapping[str, Any], time_ns: int) -> Iterator[int]:
        """The same, :data:`PART` flows at a time; how many they were."""
        self._advance(time_ns)
        for name in self.totals:
            self.totals[name] += int(section.get(name, 0))
        batches: Iterable[CommonBatch] = section.get("batches") or ()
        if section.get("rows"):
            batches = [columns_of_rows(section["rows"], self.types)]
        for batch in batches:
            for first in range(0, len(batch), PART):
                part = batch if len(batch) <= PART else part_of(batch, first, min(first + PART, len(batch)))
                self._add_batch(part)
                yield len(part)

    def _advance(self, time_ns: int) -> None:
        self.time_ns = max(time_ns, self.time_ns)
        step = self.time_ns // STEP_NS
        if not self._step:
            self._started_step = self._step = step
        for new in range(max(self._step + 1, step - STEPS + 1), step + 1):
            self._octets[new % STEPS] = 0
            self._packets[new % STEPS] = 0
        self._step = max(step, self._step)

    def _add_batch(self, batch: CommonBatch) -> None:
        columns = batch.columns
        wide = {n: wide_addresses(c.values) for n, c in columns.items() if c.type == "address"}
        values = {n: wide.get(n, c.values) for n, c in columns.items()}
        for name, column in columns.items():
            self.types.setdefault(name, column.type)
        hashes = self._hash(values, columns, len(batch))
        rows = self._index.find(hashes)
        new = np.flatnonzero(rows < 0)
        if len(new):
            _, first, places = np.unique(hashes[new], return_index=True, return_inverse=True)
            kept = new[np.sort(first)]
            if len(kept) > self.capacity:  # more in one batch than there is room for: the last ones
                kept = kept[-self.capacity :]
            self._own["last_ns"][rows[rows >= 0]] = self.time_ns  # they are of use and must not make room
            self._make_room(len(kept))
            self._insert(hashes[kept], values, columns, kept)
            rows = self._index.find(hashes)
        known = rows >= 0
        if not known.all():
            self._update({n: v[known] for n, v in values.items()}, columns, rows[known], known)
        else:
            self._update(values, columns, rows, slice(None))

    def _hash(self, values: Mapping[str, Array], columns: Mapping[str, CommonColumn], n: int) -> U64:
        hashes = np.full(n, self.seed, np.uint64)
        for name in KEY:
            for part in _parts(name, values):
                valid = columns[name].valid if name in columns else None
                hashes = mix(hashes, part if valid is None else np.where(valid, part, 0))
        return hashes

    def _insert(self, hashes: U64, values: Mapping[str, Array], columns: Mapping[str, CommonColumn], kept: I64) -> None:
        first, last = self.n, self.n + len(kept)
        self._index.add(hashes, np.concatenate([self.own("hash"), hashes]))
        self.n = last
        for array in self._arrays():
            array[first:last] = 0
        self._octets[:, first:last] = self._packets[:, first:last] = 0
        self._own["hash"][first:last] = hashes
        self._own["id"][first:last] = np.arange(self._next_id, self._next_id + len(kept))
        self._own["first_ns"][first:last] = self.time_ns
        self._own["pair"][first:last] = self._pairs({n: v[kept] for n, v in values.items()}, len(kept))
        self._next_id += len(kept)
        for name in KEY:
            if name in columns:
                self._write(name, columns[name], values[name][kept], np.arange(first, last), kept)

    def _pairs(self, values: Mapping[str, Array], n: int) -> U64:
        """A hash that a flow and the flow back share."""
        ends = []
        for side in ("src", "dst"):
            hashes = np.full(n, self.seed, np.uint64)
            for name in (f"{side}_addr", f"{side}_port"):
                for part in _parts(name, values):
                    hashes = mix(hashes, part)
            ends.append(hashes)
        both: U64 = ends[0] + ends[1]
        for name in _REVERSED:
            for part in _parts(name, values):
                both = mix(both, part)
        return both

    def _update(self, values: Mapping[str, Array], columns: Mapping[str, CommonColumn], rows: I64, chosen: Any) -> None:
        for name, column in columns.items():
            if name not in KEY:  # those have not changed
                self._write(name, column, values[name], rows, chosen)
        self._own["last_ns"][rows] = self.time_ns
        np.add.at(self._own["records"], rows, np.uint64(1))
        step = self._step % STEPS
        for name, own, history in (("bytes", "octets", self._octets), ("packets", "packets", self._packets)):
            if name in values:
                counts = values[name].astype(np.uint64, copy=False)
                np.add.at(self._own[own], rows, counts)
                np.add.at(history[step], rows, counts.astype(np.float32))
                self.told[own] += int(counts.sum())
        self.told["flows"] += len(rows)

    def _write(self, name: str, column: CommonColumn, values: Array, rows: I64, chosen: Any) -> None:
        valid = None if column.valid is None else column.valid[chosen]
        type = self.types[name]
        if type != column.type:  # a table of enrichment that was loaded anew with other cells: keep what there was
            return
        if column.labels is not None:
            values = self._codes(name, type, values, column.labels)
        if type == "address" and not self.has_ipv6 and name in ("src_addr", "dst_addr"):
            self.has_ipv6 = bool(values[:, :10].any() or not values[:, 10:12].all())
        target = self._columns.get(name)
        if target is None:
            target = self._columns[name] = self._new(type)
            self._valid[name] = np.zeros(self._room, bool)
        target[rows] = values if valid is None else np.where(valid[:, None] if values.ndim == 2 else valid, values, 0)
        self._valid[name][rows] = True if valid is None else valid

    def _codes(self, name: str, type: str, values: Array, labels: Sequence[Any]) -> Array:
        if type != "label":
            numbers = np.array(labels if len(labels) else [0], dtype_of(type))
            return numbers[np.minimum(values, len(numbers) - 1)]
        return self._labels.setdefault(name, Labels.empty(0)).codes_of(values, labels)

    # -- room ----------------------------------------------------------------------------------------------------------

    def _arrays(self) -> Iterator[Array]:
        for arrays in (self._own, self._columns, self._valid):
            yield from arrays.values()

    def _new(self, type: str) -> Array:
        if type == "address":
            return np.zeros((self._room, 16), np.uint8)
        return np.zeros(self._room, dtype_of(type))

    def _reserve(self, room: int) -> None:
        self._own = {name: _longer(values, room) for name, values in self._own.items()}
        self._columns = {name: _longer(values, room) for name, values in self._columns.items()}
        self._valid = {name: _longer(values, room) for name, values in self._valid.items()}
        more = np.zeros((STEPS, room - self._room), np.float32)
        self._octets, self._packets = (np.concatenate([each, more], axis=1) for each in (self._octets, self._packets))
        self._room = room

    def _make_room(self, count: int) -> None:
        """For so many flows more; those that were seen longest ago go, an eighth at a time."""
        if self.n + count > self.capacity:
            keep = max(0, min(self.n, self.capacity - count, self.capacity * 7 // 8))
            last = self.own("last_ns")
            rows = np.sort(np.argsort(last, kind="stable")[self.n - keep :])
            self.evicted += self.n - keep
            self._keep(rows)
        while self.n + count > self._room:
            self._reserve(min(2 * self._room, max(self.capacity, _LEAST)))

    def _keep(self, rows: I64) -> None:
        for array in self._arrays():
            array[: len(rows)] = array[rows]
        for history in (self._octets, self._packets):
            history[:, : len(rows)] = history[:, rows]
        self.n = len(rows)
        self._index = Index(self.own("hash").copy())


def part_of(batch: CommonBatch, first: int, last: int) -> CommonBatch:
    """Some rows; no column is copied."""
    columns = {
        name: column._replace(
            values=column.values[first:last], valid=None if column.valid is None else column.valid[first:last]
        )
        for name, column in batch.columns.items()
    }
    return CommonBatch(columns, last - first)


class QueryColumns(Mapping[str, Any]):
    """Columns as :class:`pyflowx_tui.query.Query` takes them, made when they are asked for: null is masked.

    ``bytes`` and ``packets`` are those of all records of a flow.
    """

    def __init__(self, store: FlowStore) -> None:
        self._store = store

    def __len__(self) -> int:
        return len(self._store.types)

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.types)

    def __getitem__(self, name: str) -> Any:
        store = self._store
        if name not in store.types:
            raise KeyError(name)
        if name in ("bytes", "packets"):
            return store.own("octets" if name == "bytes" else name)
        values, valid = store.column(name), store.valid(name)
        if isinstance(values, Labels):
            return QueryLabels(values.codes.astype(np.int64) - 1, values.texts[1:])
        return values if valid.all() or values.ndim == 2 else np.ma.MaskedArray(values, ~valid)


def _longer(values: Array, room: int) -> Array:
    more = np.zeros((room - len(values), *values.shape[1:]), values.dtype)
    return np.concatenate([values, more])


def _parts(name: str, values: Mapping[str, Array]) -> tuple[Array, ...]:
    """A column of the key as columns of integers; zeros where there is none, as where it is null."""
    if name not in values:
        return (_NOTHING,) * (2 if TYPES[name] == "address" else 1)
    column = values[name]
    if column.ndim == 1:
        return (column,)
    halves = np.ascontiguousarray(column).view(np.uint64)
    return halves[:, 0], halves[:, 1]
