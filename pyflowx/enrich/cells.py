"""Cells: octet strings at offsets of one buffer, handled a column at a time.

What has to become a Python object (a text, a number) does so once for each distinct value.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyflowx.batch import I32, I64, U8, Array, Octets

U64 = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

MARGIN = 32  # octets around the text in a buffer of cells: 8 octets can be read at any place of a cell and before it
_MASKS = np.array([(1 << 8 * octets) - 1 for octets in range(9)], np.uint64)
_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)


def padded(text: bytes) -> U8:
    """A buffer for cells: ``text`` from offset :data:`MARGIN` on, zeros around it."""
    return np.frombuffer(bytes(MARGIN) + text + bytes(MARGIN), np.uint8)


def words(buffer: U8, bits: int) -> Array:
    """The ``bits`` (32, 64) from each octet on as little-endian integers: a view, unaligned."""
    return np.ndarray((len(buffer) - bits // 8 + 1,), f"<u{bits // 8}", buffer.data, 0, (1,))


def texts(cells: Octets) -> list[str]:
    """Cells of CSV as Python texts: doubled quotes undone, octets that are not UTF-8 replaced visibly."""
    return [cell.replace(b'""', b'"').decode("utf-8", "replace") for cell in cells.packed().tolist()]


def encode(cells: Octets) -> tuple[I32, Octets]:
    """``(codes, distinct)``: row i of ``cells`` holds the same octets as row ``codes[i]`` of ``distinct``.

    Rows are sorted by a hash of their octets; that equal hashes mean equal octets is then checked, so the
    result is exact. The buffer has a margin (:func:`padded`).
    """
    if cells.lengths.max(initial=0) < 8:  # with its length a short cell is an integer: no hash is needed
        return _coded(cells, _word(cells, 0) | (cells.lengths.astype(np.uint64) << np.uint64(56)))
    for multiplier in _MULTIPLIERS:
        codes, distinct = _coded(cells, _hash(cells, np.uint64(multiplier)))
        if _same(cells, distinct.take(codes)):
            return codes, distinct
    index: dict[bytes, int] = {}  # three collisions of 64 bits: somebody made this file on purpose
    rows = cells.packed().tolist()
    codes = np.array([index.setdefault(row, len(index)) for row in rows], np.int32)
    return codes, Octets.of(list(index))


def _coded(cells: Octets, keys: U64) -> tuple[I32, Octets]:
    """Rows with equal keys get one code."""
    numbers, rows = numbered(keys)
    return numbers, cells.take(rows)


def numbered(keys: Array) -> tuple[I32, I64]:
    """``(numbers, rows)``: keys numbered in their order from 0, equal ones alike; ``rows[i]`` has number i."""
    order, first = groups(keys)
    numbers = np.empty(len(keys), np.int32)
    numbers[order] = np.cumsum(first, dtype=np.int32) - 1
    return numbers, order[first]


def groups(keys: Array) -> tuple[I64, Mask]:
    """``(order, first)``: an order that sorts keys, and where in it a new value begins."""
    order = np.argsort(keys)
    ordered = keys[order]
    first = np.ones(len(keys), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return order, first


def search(keys: Array, wanted: Array) -> I64:
    """For each value the place behind the last key that is not above it; keys are sorted.

    The values are asked for in their order: neighbours search the same part of a large table.
    """
    order = np.argsort(wanted)
    found = np.empty(len(wanted), np.int64)
    found[order] = np.searchsorted(keys, wanted[order], "right")
    return found


def _word(cells: Octets, at: int) -> U64:
    """Octets at..at+8 of each cell as an integer, zero behind its end."""
    word: U64 = words(cells.buffer, 64)[cells.starts + at]
    word &= _MASKS[np.clip(cells.lengths - at, 0, 8)]
    return word


def _hash(cells: Octets, multiplier: np.uint64) -> U64:
    state: U64 = cells.lengths.astype(np.uint64) * multiplier
    for at in range(0, int(cells.lengths.max(initial=0)), 8):
        rows = np.flatnonzero(cells.lengths > at)
        mixed = (state[rows] ^ _word(cells.take(rows), at)) * multiplier
        state[rows] = mixed ^ (mixed >> np.uint64(32))
    return state


def _same(one: Octets, other: Octets) -> bool:
    """Do the rows hold the same octets? (Where hashes are equal, lengths need not be.)"""
    if not np.array_equal(one.lengths, other.lengths):
        return False
    for at in range(0, int(one.lengths.max(initial=0)), 8):
        rows = np.flatnonzero(one.lengths > at)
        if not np.array_equal(_word(one.take(rows), at), _word(other.take(rows), at)):
            return False
    return True
