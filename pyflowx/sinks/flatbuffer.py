"""Writes FlatBuffers: just what the metadata of Arrow needs.

A table is a :class:`Table` of slots in the order of its schema, a slot a scalar (a :mod:`struct` letter and a
value), something to refer to (a table, a vector, a string) or None where it has its default.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple


class Scalar(NamedTuple):
    """``format``: a letter of :mod:`struct`."""

    format: str
    value: int


class Structs(NamedTuple):
    """A vector of structs of 8-octet integers, filled in later (see :func:`build`)."""

    length: int
    octets_each: int


class Table(NamedTuple):
    slots: tuple[Scalar | Table | Structs | Sequence[Table] | str | None, ...]


Reference = Table | Structs | Sequence[Table] | str


class _Builder:
    def __init__(self) -> None:
        self.out = bytearray(4)
        self.places: list[int] = []

    def _align(self, size: int, ahead: int = 0) -> int:
        """The next place that, so many octets further on, is a multiple of ``size``."""
        self.out += bytes(-(len(self.out) + ahead) % size)
        return len(self.out)

    def refer(self, at: int, to: Reference) -> None:
        place = self._write(to)
        struct.pack_into("<I", self.out, at, place - at)

    def _write(self, item: Reference) -> int:
        if isinstance(item, Table):
            return self._table(item)
        if isinstance(item, str):
            octets = item.encode()
            place = self._align(4)
            self.out += struct.pack("<I", len(octets)) + octets + b"\0"
            return place
        if isinstance(item, Structs):
            place = self._align(8, 4)
            self.out += struct.pack("<I", item.length)
            self.places.append(len(self.out))
            self.out += bytes(item.length * item.octets_each)
            return place
        place = self._align(4)
        self.out += struct.pack("<I", len(item)) + bytes(4 * len(item))
        for number, table in enumerate(item):
            self.refer(place + 4 + 4 * number, table)
        return place

    def _table(self, table: Table) -> int:
        """A vtable (its length, the table's, the place of each slot), then the table, every slot with room for 8."""
        slots = table.slots
        vtable = self._align(2, 4 + 2 * len(slots))
        self.out += bytes(4 + 2 * len(slots))
        place = self._align(8)
        self.out += struct.pack("<ii", place - vtable, 0) + bytes(8 * len(slots))
        struct.pack_into("<HH", self.out, vtable, 4 + 2 * len(slots), len(self.out) - place)
        for number, slot in enumerate(slots):
            at = 8 + 8 * number
            if slot is None:
                continue
            struct.pack_into("<H", self.out, vtable + 4 + 2 * number, at)
            if isinstance(slot, Scalar):
                struct.pack_into("<" + slot.format, self.out, place + at, slot.value)
                if slot.format == "q":
                    self.places.append(place + at)
            else:
                self.refer(place + at, slot)
        return place


def build(root: Table) -> tuple[bytearray, list[int]]:
    """The octets, and where the 8-octet scalars and the vectors of structs stand, in the order of the slots."""
    builder = _Builder()
    builder.refer(0, root)
    builder.out += bytes(-len(builder.out) % 8)
    return builder.out, builder.places
