"""Distinct integers numbered as they come, and rows put in order: in linear time, all rows at once."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pyflowx.batch import I32, I64, Array

U64 = npt.NDArray[np.uint64]

_CHUNK = 1 << 15  # rows at a time: the scratch arrays stay in the cache
MULTIPLIER = np.uint64(int.from_bytes(os.urandom(8)) | 1)  # nobody outside knows which keys meet at a place
_FREE = -1


class Numbers:
    """Numbers from 0 on for keys, equal ones alike: a hash table whose rows look for their places side by side."""

    def __init__(self) -> None:
        self.count = 0
        self._keys = np.zeros(1, np.uint64)  # by number; there is room for one more
        self._slots = np.full(1, _FREE, np.int32)  # numbers, at most half of them taken

    def add(self, keys: U64) -> tuple[I32, I64]:
        """``(numbers, rows)``: the number of each key, and the rows that brought a new one, in the order of these."""
        numbers, new = np.empty(len(keys), np.int32), [np.zeros(0, np.int64)]
        for at in range(0, len(keys), _CHUNK):
            part = slice(at, at + _CHUNK)
            new += [rows + at for rows in self._add(keys[part], numbers[part])]
        return numbers, np.concatenate(new)

    def find(self, keys: U64) -> I32:
        """The number of each key, -1 for one that was not added."""
        return self._settle(keys, np.empty(len(keys), np.int32), [])

    def _add(self, keys: U64, numbers: I32) -> list[I64]:
        self._make_room(len(keys))
        new: list[I64] = []
        self._settle(keys, numbers, new, add=True)
        return new

    def _settle(self, keys: U64, numbers: I32, new: list[I64], add: bool = False) -> I32:
        rows, places = np.arange(len(keys)), self._places(keys)
        mask = len(self._slots) - 1
        while len(rows):
            found = self._slots[places]
            free = np.flatnonzero(found == _FREE)
            if add and len(free):
                won = self._take_places(places, free)
                new.append(rows[won])
                self._keys[self.count : self.count + len(won)] = keys[won]
                self.count += len(won)
                found[free] = self._slots[places[free]]
            there = self._keys[found] == keys
            if not add:
                there |= found == _FREE
            numbers[rows[there]] = found[there]
            rest = np.flatnonzero(~there)
            rows, keys, places = rows[rest], keys[rest], (places[rest] + 1) & mask
        return numbers

    def _take_places(self, places: I64, free: I64) -> I64:
        """Of rows that are at a free place the first one takes it."""
        backward = free[::-1]
        self._slots[places[backward]] = backward  # of several writes to a slot the last one stays
        won: I64 = free[self._slots[places[free]] == free]
        self._slots[places[won]] = np.arange(self.count, self.count + len(won))
        return won

    def _places(self, keys: U64) -> I64:
        shift = np.uint64(64 - (len(self._slots).bit_length() - 1))
        mixed = (keys ^ (keys >> np.uint64(32))) * MULTIPLIER
        return ((mixed >> np.uint64(1)) >> (shift - np.uint64(1))).astype(np.int64)

    def _make_room(self, more: int) -> None:
        self._keys = with_room(self._keys, self.count, more + 1)
        if 2 * (self.count + more) <= len(self._slots):
            return
        self._slots = np.full(1 << (2 * (self.count + more)).bit_length(), _FREE, np.int32)
        numbers, mask = np.arange(self.count, dtype=np.int32), len(self._slots) - 1
        places = self._places(self._keys[: self.count])
        while len(numbers):
            free = self._slots[places] == _FREE
            self._slots[places[free]] = numbers[free]
            rest = np.flatnonzero(self._slots[places] != numbers)
            numbers, places = numbers[rest], (places[rest] + 1) & mask


def with_room(array: Array, used: int, more: int) -> Array:
    """The array, or a copy at least twice as long, so that many small steps cost no more than a large one."""
    if used + more <= len(array) and array.flags.writeable:
        return array
    return np.concatenate([array[:used], np.zeros(max(used, more), array.dtype)])


def ordered(*keys: Array) -> I64:
    """A stable order of rows by columns of unsigned integers, of which the first one counts most."""
    if _in_order(keys):
        return np.arange(len(keys[0]))
    order: I64 | None = None
    for key in reversed(keys):
        for shift in range(0, 8 * key.itemsize, 16):  # NumPy sorts 16 bits in linear time, longer integers slower
            digit = (key >> key.dtype.type(shift)).astype(np.uint16)
            if digit.min() == digit.max():
                continue
            step = np.argsort(digit if order is None else digit[order], kind="stable")
            order = step if order is None else order[step]
    return np.arange(len(keys[0])) if order is None else order


def _in_order(keys: Sequence[Array]) -> bool:
    above = np.zeros(max(len(keys[0]) - 1, 0), np.bool_)
    for key in reversed(keys):
        above = (key[:-1] > key[1:]) | (above & (key[:-1] == key[1:]))
    return not above.any()
