"""Rows by a 64-bit hash: an open-addressing table that is asked and filled a column at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_FREE = -1
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: neighbours are spread (Knuth 6.4)
_SHIFT = np.uint64(32)


def mix(hashes: U64, values: npt.NDArray[np.integer]) -> U64:
    """A column more in the hash."""
    mixed = (hashes ^ values.astype(np.uint64)) * _MIX
    mixed ^= mixed >> _SHIFT
    mixed *= _MIX
    mixed ^= mixed >> _SHIFT
    return mixed


class Index:
    """``hashes``: of the rows there are, one place a row; they must be distinct."""

    def __init__(self, hashes: U64) -> None:
        bits = max(9, int(2 * len(hashes) + 1).bit_length())
        self._mask = np.uint64((1 << bits) - 1)
        self._rows = np.full(1 << bits, _FREE, np.int32)
        self._keys = np.zeros(1 << bits, np.uint64)
        self._used = 0
        self._put(hashes, np.arange(len(hashes), dtype=np.int32))

    def add(self, hashes: U64, all_hashes: U64) -> None:
        """Rows more, which follow those there are; ``all_hashes``: of all rows, for when the table has to grow."""
        if 2 * (self._used + len(hashes)) > len(self._rows):
            self.__init__(all_hashes)  # type: ignore[misc]
            return
        self._put(hashes, np.arange(self._used, self._used + len(hashes), dtype=np.int32))

    def _put(self, hashes: U64, rows: npt.NDArray[np.int32]) -> None:
        self._used += len(rows)
        at = hashes & self._mask
        while len(rows):
            free = self._rows[at] == _FREE
            self._rows[at[free]] = rows[free]  # of several that want one place the last gets it
            self._keys[at[free]] = hashes[free]
            left = self._rows[at] != rows
            at, rows, hashes = (at[left] + np.uint64(1)) & self._mask, rows[left], hashes[left]

    def find(self, hashes: U64) -> I64:
        """The row of each hash, -1 where there is none."""
        found = np.full(len(hashes), _FREE, np.int64)
        at = hashes & self._mask
        asked = np.arange(len(hashes))
        while len(asked):
            rows = self._rows[at]
            same = (self._keys[at] == hashes[asked]) & (rows != _FREE)
            found[asked[same]] = rows[same]
            left = ~same & (rows != _FREE)
            asked, at = asked[left], (at[left] + np.uint64(1)) & self._mask
        return found
