"""Numbers that exporters tell in options data, kept by what they are about."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pyflowx.batch import I64, U8, Array

_EXPORTER = 16
_POSITION_BITS = 42
_OFFSET_BITS = 16


def positions(message: Array, set_offset: Array | int) -> I64:
    """When a record of the current call came, as a number; 0 is before all of them."""
    when: I64 = (message.astype(np.int64) + 1 << _OFFSET_BITS) + set_offset
    return when


class _Index(NamedTuple):
    """The keys of one kind, to be searched: distinct ids; ``domain * len(ids) + place of the id`` with its slot."""

    ids: Array
    keys: I64
    slots: I64


class _Exporter:
    """What one has told: (kind, domain, id) of its numbers, and the keys of its domains."""

    __slots__ = ("domains", "entries")

    def __init__(self) -> None:
        self.entries: list[tuple[int, int, int]] = []
        self.domains: list[bytes] = []


class Told:
    """The latest number by Observation Domain, kind and id; bounded; what does not fit is counted in ``refused``.

    An eighth of the room is kept free for newcomers: beyond it the exporter that was not heard of for longest is
    forgotten, so that a flood of forged addresses closes it to nobody who goes on sending.

    An Observation Domain is a small number here (:meth:`domains`), 0 one that has told nothing. What changed in
    the current call (from :meth:`begin` on) is remembered with its time, so that a look-up finds the number that held
    when its record came, however packets are split into calls.
    """

    def __init__(self, per_exporter: int = 4096, limit: int = 65_536) -> None:
        self.refused = 0
        self._per_exporter, self._limit = per_exporter, limit
        self._domains: dict[bytes, int] = {}
        self._slots: dict[int, dict[tuple[int, int], int]] = {}  # kind -> (domain, id) -> slot
        self._last_domain = 0
        self._exporters: dict[
            bytes, _Exporter
        ] = {}  # once there is little room, the one not heard of for longest first
        self._exporter_of: dict[int, bytes] = {}  # by domain
        self._values = np.zeros(1, np.int64)  # by slot; slot 0 is of what nobody has told
        self._used = 1
        self._free: list[int] = []  # slots that were used
        self._index: dict[int, _Index] = {}
        self._changes: list[tuple[int, int]] = []  # (slot and time, number from then on)
        self._changed: set[int] = set()
        self._history: tuple[I64, I64] | None = None

    def begin(self) -> None:
        """A new call: times start anew."""
        if self._changes:
            self._changes, self._history = [], None
            self._changed.clear()
        while self._count > self._limit - self._limit // 8 and len(self._exporters) > 1:
            self._forget(next(iter(self._exporters)))

    @property
    def _count(self) -> int:
        """The numbers that there are."""
        return self._used - 1 - len(self._free)

    def has(self, kind: int) -> bool:
        """Whether anything of this kind has been told."""
        return kind in self._slots

    def domains(self, exporter: U8, version: int, domain: Array | int) -> I64:
        """The Observation Domains of exporters."""
        if not self._domains:
            return np.zeros(len(exporter), np.int64)
        known = self._domains.get
        found: I64 = np.array([known(key, 0) for key in domain_keys(exporter, version, domain)], np.int64)
        if self._count > self._limit // 2:
            for number in np.unique(found[found > 0]).tolist():
                heard = self._exporter_of[number]
                self._exporters[heard] = self._exporters.pop(heard)
        return found

    def tell(self, domain: bytes, kind: int, id: int, value: int, position: int) -> None:
        """From ``position`` on ``value`` holds; 0: nothing does. Calls come in the order of positions."""
        number = self._domains.get(domain, 0)
        slot = self._slots.get(kind, {}).get((number, id), 0) if number else 0
        if not slot:
            slot = self._add(domain, kind, id) if value else 0
            if not slot:
                return
        before = int(self._values[slot])
        if before == value:
            return
        if slot not in self._changed:
            self._changed.add(slot)
            self._changes.append((slot << _POSITION_BITS, before))
        self._changes.append((slot << _POSITION_BITS | position, value))
        self._values[slot] = value
        self._history = None

    def _add(self, domain: bytes, kind: int, id: int) -> int:
        exporter = self._exporters.get(domain[:_EXPORTER])
        if (exporter is not None and len(exporter.entries) >= self._per_exporter) or self._count >= self._limit:
            self.refused += 1
            return 0
        if exporter is None:
            exporter = self._exporters[domain[:_EXPORTER]] = _Exporter()
        number = self._domains.get(domain, 0)
        if not number:
            number = self._domains[domain] = self._last_domain = self._last_domain + 1
            self._exporter_of[number] = domain[:_EXPORTER]
            exporter.domains.append(domain)
        slot = self._free.pop() if self._free else self._new_slot()
        exporter.entries.append((kind, number, id))
        self._slots.setdefault(kind, {})[number, id] = slot
        self._index.pop(kind, None)
        return slot

    def _new_slot(self) -> int:
        if self._used == len(self._values):
            self._values = np.concatenate([self._values, np.zeros_like(self._values)])
        self._used += 1
        return self._used - 1

    def _forget(self, exporter: bytes) -> None:
        """Between two calls: the slots have no history then."""
        gone = self._exporters.pop(exporter)
        for kind, number, id in gone.entries:
            slots = self._slots[kind]
            slot = slots.pop((number, id))
            self._values[slot] = 0
            self._free.append(slot)
            self._index.pop(kind, None)
            if not slots:
                del self._slots[kind]
        for domain in gone.domains:
            del self._exporter_of[self._domains.pop(domain)]

    def look(self, kind: int, domains: I64, ids: Array, position: I64) -> I64:
        """The number for each (domain, id) at its position; 0 where none has been told."""
        if kind not in self._slots:
            return np.zeros(len(domains), np.int64)
        index = self._index.get(kind) or self._make_index(kind)
        ids = ids.astype(np.uint64)
        place = np.minimum(np.searchsorted(index.ids, ids), len(index.ids) - 1)
        key = domains * len(index.ids) + place
        at = np.minimum(np.searchsorted(index.keys, key), len(index.keys) - 1)
        found = (index.ids[place] == ids) & (index.keys[at] == key)
        return self._at(np.where(found, index.slots[at], 0), position)

    def _make_index(self, kind: int) -> _Index:
        slots = self._slots[kind]
        ids, place = np.unique(np.array([id for _, id in slots], np.uint64), return_inverse=True)
        keys = np.array([number for number, _ in slots], np.int64) * len(ids) + place
        order = np.argsort(keys)
        index = self._index[kind] = _Index(ids, keys[order], np.array(list(slots.values()), np.int64)[order])
        return index

    def _at(self, slots: I64, position: I64) -> I64:
        values: I64 = self._values[slots]
        if not self._changes:
            return values
        if self._history is None:
            changes = np.array(sorted(self._changes, key=lambda change: change[0]), np.int64)
            self._history = changes[:, 0].copy(), changes[:, 1].copy()
        times, then = self._history
        at = np.searchsorted(times, (slots << _POSITION_BITS) + position) - 1
        known = (at >= 0) & (times[at] >> _POSITION_BITS == slots)
        return np.where(known, then[at], values)


def domain_keys(exporter: U8, version: int, domain: Array | int) -> list[bytes]:
    """The keys of Observation Domains: 16 octets of exporter, version, Observation Domain ID."""
    keys = np.zeros(len(exporter), [("exporter", "V16"), ("version", ">u2"), ("domain", ">u4")])
    if len(keys):
        keys["exporter"] = np.ascontiguousarray(exporter).view("V16")[:, 0]
        keys["version"], keys["domain"] = version, domain
    rows: list[bytes] = keys.view("V22").tolist()
    return rows
