"""Columns to rows of text or octets, with the compiled row writer (``_rows.c``), and what JSON makes of a column."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from pyflowx.batch import I64, Array, Octets
from pyflowx.sinks._rows import fill

NO_LENGTH, VARINT_LENGTH, FIXED_LENGTH = range(3)  # before a row
SLACK = 64  # octets that the row writer may read behind the last text (SLACK in _rows_text.h)
_CAPACITY = 1 << 20  # octets of text at a time: enough to make a system call cheap, few enough for the cache


class Value(NamedTuple):
    """How the row writer is to render a column: see ``_rows.c`` for ``kind`` and ``extra``."""

    kind: str
    quoted: bool
    values: Array
    extra: Any = None
    valid: Array | None = None

    @classmethod
    def text(cls, column: Octets, quoted: bool = False) -> Value:
        """Text that is escaped already, or needs no escaping."""
        return cls("t", quoted, column.buffer, (column.starts, column.lengths))


Cell = tuple[str, bytes, bytes, Array, Array | None, Any]


def json_string(text: str) -> str:
    """A JSON string literal; what would act on a terminal is escaped, all else stays readable."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


@functools.lru_cache(maxsize=65536)  # names come from Templates
def json_key(name: str) -> bytes:
    return json_string(name).encode() + b":"


def cell(lead: bytes, value: Value, trail: bytes = b"") -> Cell:
    """A column of a row: its values with ``lead`` and ``trail`` around them."""
    quote = b'"' if value.quoted else b""
    return value.kind, lead + quote, quote + trail, value.values, value.valid, value.extra


class RowWriter:
    """Renders rows between ``begin`` and ``end`` with ``separator`` between cells.

    ``nulls`` and ``length`` are as ``_rows.c`` says.
    ``capacity`` is the size in octets of a piece of text; a longer row makes it grow.
    """

    def __init__(
        self,
        begin: bytes,
        separator: bytes,
        end: bytes,
        *,
        nulls: bool = False,
        length: int = NO_LENGTH,
        capacity: int = _CAPACITY,
    ) -> None:
        self._frame = begin, separator, end, nulls, length
        self._out = bytearray(capacity)

    def chunks(self, cells: tuple[Cell, ...], n: int, ends: I64 | None = None) -> Iterator[tuple[int, memoryview]]:
        """n rows as (rows, text) pieces, each valid until the next; ``ends`` takes the end of each row in its piece."""
        first = 0
        while first < n:
            places = None if ends is None else ends[first:]
            following, used = fill(self._out, first, n, *self._frame, cells, places)
            if following == first:  # a row longer than the buffer
                self._out = bytearray(2 * len(self._out))
                continue
            yield following - first, memoryview(self._out)[:used]
            first = following

    def block(self, cells: tuple[Cell, ...], n: int) -> tuple[bytes, I64]:
        """n rows as one text, and the ends of the rows in it."""
        ends = np.zeros(n, np.int64)
        pieces, first, octets = [], 0, 0
        for rows, text in self.chunks(cells, n, ends):
            pieces.append(bytes(text))
            ends[first : first + rows] += octets
            first, octets = first + rows, octets + len(text)
        return b"".join(pieces), ends

    def whole(self, cells: tuple[Cell, ...], n: int) -> tuple[memoryview, I64]:
        """The same without a copy: the text is valid until the next call."""
        ends = np.zeros(n, np.int64)
        following = used = 0
        while following < n:
            following, used = fill(self._out, 0, n, *self._frame, cells, ends)
            if following < n:
                self._out = bytearray(2 * len(self._out))
        return memoryview(self._out)[:used], ends
