"""Cells: octet strings at offsets of one buffer, handled a column at a time.

What has to become a Python object (a text, a number) does so once for each distinct value.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyflowx.batch import I32, I64, U8, Array, Octets
from pyflowx.enrich.numbering import MULTIPLIER, U64, Numbers, with_room

Mask = npt.NDArray[np.bool_]

MARGIN = 32  # octets around the text in a buffer of cells: 8 octets can be read at any place of a cell and before it
_MASKS = np.array([(1 << 8 * octets) - 1 for octets in range(9)], np.uint64)
_LONG = np.uint64(1 << 63)  # of keys that are hashes


def padded(text: bytes) -> U8:
    """A buffer for cells: ``text`` from offset :data:`MARGIN` on, zeros around it."""
    return np.frombuffer(b"".join([bytes(MARGIN), text, bytes(MARGIN)]), np.uint8)


def words(buffer: U8, bits: int) -> Array:
    """The ``bits`` (32, 64) from each octet on as little-endian integers: a view, unaligned."""
    return np.ndarray((len(buffer) - bits // 8 + 1,), f"<u{bits // 8}", buffer.data, 0, (1,))


def texts(cells: Octets) -> list[str]:
    """Cells of CSV as Python texts: doubled quotes undone, octets that are not UTF-8 replaced visibly."""
    return [cell.replace(b'""', b'"').decode("utf-8", "replace") for cell in cells.packed().tolist()]


class CellNumbers:
    """Distinct cells numbered as they come, block after block; buffers have a margin (:func:`padded`).

    A short cell is an integer, a longer one is found by a hash and then compared, so that the result is exact.
    """

    def __init__(self) -> None:
        self._numbers = Numbers()
        self._known: list[bytes] = []  # in the order of their numbers, and all of them in a buffer:
        self._buffer, self._starts, self._lengths = padded(b""), np.zeros(1, np.int64), np.zeros(1, np.int64)
        self._odd: dict[bytes, int] = {}  # whose hash is that of another cell: somebody made this file on purpose

    def add(self, cells: Octets) -> I32:
        """Numbers that :meth:`cells` tells the meaning of; those of the odd ones are negative until then."""
        before = self._numbers.count
        numbers, new = self._numbers.add(_keys(cells))
        if len(new):
            self._store(cells.take(new).packed(), before)
        long = cells.lengths > 7
        if long.any():
            different = _differ(cells, Octets(self._buffer, self._starts[numbers], self._lengths[numbers])) & long
            for row in np.flatnonzero(different).tolist():
                cell = cells.take(slice(row, row + 1)).packed().tolist()[0]
                numbers[row] = -1 - self._odd.setdefault(cell, len(self._odd))
        return numbers

    def cells(self) -> list[bytes]:
        """The distinct cells: the one with number i stands at place i, be i negative or not."""
        return self._known + list(self._odd)[::-1]

    def _store(self, new: Octets, count: int) -> None:
        self._known += new.tolist()
        behind = int(self._starts[count - 1] + self._lengths[count - 1]) if count else MARGIN
        self._buffer = with_room(self._buffer, behind, len(new.buffer) + MARGIN)
        self._buffer[behind : behind + len(new.buffer)] = new.buffer
        for name, more in (("_starts", new.starts + behind), ("_lengths", new.lengths)):
            column = with_room(getattr(self, name), count, len(more))
            column[count : count + len(more)] = more
            setattr(self, name, column)


def _keys(cells: Octets) -> U64:
    """Up to 7 octets as they are, with their number in the upper octet; of more a hash."""
    lengths = cells.lengths
    longest = int(lengths.max(initial=0))
    first = words(cells.buffer, 64)[cells.starts] & _MASKS[np.minimum(lengths, 8)]
    short: U64 = first | (lengths.astype(np.uint64) << np.uint64(56))
    if longest < 8:
        return short
    return np.where(lengths < 8, short, _hash(cells, first, longest) | _LONG)


def _hash(cells: Octets, first: U64, longest: int) -> U64:
    state = _mixed(cells.lengths.astype(np.uint64), first)
    following = words(cells.buffer, 64)
    for at in range(8, longest - 8, 8):
        rows = _longer(cells.lengths, at + 8)
        state[rows] = _mixed(state[rows], following[cells.starts[rows] + at])
    ends = cells.starts + cells.lengths  # the last 8 octets; shorter cells have no need of them
    return _mixed(state, following[np.maximum(ends - 8, 0)])


def _longer(lengths: I64, than: int) -> I64 | slice:
    """Rows to look at; all of them need no copy."""
    rows = np.flatnonzero(lengths > than)
    return slice(None) if len(rows) == len(lengths) else rows


def _mixed(state: U64, word: U64) -> U64:
    state = (state ^ word) * MULTIPLIER
    state ^= state >> np.uint64(32)
    return state


def _differ(one: Octets, other: Octets) -> Mask:
    """Which rows of 8 octets or more are not the same octets."""
    differ: Mask = one.lengths != other.lengths
    mine, others = words(one.buffer, 64), words(other.buffer, 64)
    lengths = np.where(differ, 0, one.lengths)
    for at in range(0, int(lengths.max(initial=0)) - 8, 8):
        rows = _longer(lengths, at + 8)
        differ[rows] |= mine[one.starts[rows] + at] != others[other.starts[rows] + at]
    rows = _longer(lengths, 7)
    tail = lengths[rows] - 8
    differ[rows] |= mine[one.starts[rows] + tail] != others[other.starts[rows] + tail]
    return differ
