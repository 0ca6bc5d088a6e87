"""Exact match on one to four key columns: integers and addresses to the numbers of records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyflowx.batch import I32, Array, Octets
from pyflowx.enrich.addresses import halves, parse_prefixes
from pyflowx.enrich.cells import CellNumbers
from pyflowx.enrich.csvtext import Block
from pyflowx.enrich.numbering import U64, Numbers

ADDRESS, INTEGER = "address", "integer"

_MAPPED = np.uint64(0xFFFF << 32)
_FIRST_SEED = 0x9E3779B97F4A7C15


def key_words(values: Array, kind: str) -> list[U64]:
    """A key column as one (integer) or two (address) u64 words a row."""
    if kind != ADDRESS:
        return [values.astype(np.uint64)]
    if values.ndim == 1:
        return [np.zeros(len(values), np.uint64), values.astype(np.uint64) | _MAPPED]
    return list(halves(values))


def parse_key(block: Block, place: int, kind: str) -> list[U64]:
    """The cells of a key column as :func:`key_words`; ConfigError names the line of one that is no such key."""
    cells = block.columns[place]
    if kind == ADDRESS:
        parsed = parse_prefixes(cells)
        wrong = np.flatnonzero(~parsed.ok | (parsed.length != 128))
        words = [parsed.high, parsed.low]
    else:
        known = CellNumbers()
        rows = known.add(cells)
        numbers = [_number(cell) for cell in known.cells()]
        wrong = np.flatnonzero(np.array([number is None for number in numbers], np.bool_)[rows])
        words = [np.array([number or 0 for number in numbers], np.uint64)[rows]]
    if len(wrong):
        text = _text(cells, int(wrong[0]))
        expected = "an address such as 192.0.2.1" if kind == ADDRESS else "an integer from 0 to 2^64-1"
        raise block.error(int(wrong[0]), f"{text!r} is no key; expected {expected}")
    return words


def no_keys(kinds: Sequence[str]) -> list[U64]:
    """No rows of key columns."""
    return [word for kind in kinds for word in key_words(np.zeros(0, np.uint64), kind)]


def _number(cell: bytes) -> int | None:
    digits = cell.strip()
    number = int(digits) if digits.isdigit() and len(digits) <= 20 else -1
    return number if 0 <= number < 1 << 64 else None


def _text(cells: Octets, row: int) -> str:
    return cells.take(slice(row, row + 1)).packed().tolist()[0].decode("utf-8", "replace")


class ExactIndex:
    """Keys numbered by a 64-bit hash; the words of the one candidate are compared, so a match is exact."""

    def __init__(self, kinds: Sequence[str], words: Sequence[U64], records: I32) -> None:
        """``words``: the key columns as :func:`key_words`. Of equal keys the last one counts."""
        self._kinds = tuple(kinds)
        self._seed = _FIRST_SEED
        while True:
            self._numbers = Numbers()
            numbers, rows = self._numbers.add(_hash(words, self._seed))
            self._words = [word[rows] for word in words]
            if all(np.array_equal(known[numbers], word) for known, word in zip(self._words, words, strict=True)):
                break
            self._seed = (self._seed * 5 + 2) & 0xFFFFFFFFFFFFFFFF  # odd again
        self._records = np.full(len(rows), -1, np.int32)
        self._records[numbers] = records  # of several writes to a place the last one stays

    def find(self, columns: Sequence[Array]) -> I32:
        """Record numbers, -1 for none, for rows of key columns (addresses: uint32, or ``(n, 16)`` uint8)."""
        if not len(self._records):
            return np.full(len(columns[0]), -1, np.int32)
        words = [word for column, kind in zip(columns, self._kinds, strict=True) for word in key_words(column, kind)]
        numbers = self._numbers.find(_hash(words, self._seed))
        same = numbers >= 0
        for mine, wanted in zip(self._words, words, strict=True):
            same &= mine[numbers] == wanted
        return np.where(same, self._records[numbers], np.int32(-1))


def _hash(words: Sequence[U64], seed: int) -> U64:
    state: U64 = np.full(len(words[0]), seed, np.uint64)
    for word in words:
        state = (state ^ word) * np.uint64(seed)
        state ^= state >> np.uint64(29)
    return state
