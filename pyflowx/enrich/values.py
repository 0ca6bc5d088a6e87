"""What a table gives: codes into a list of distinct values, so that nobody renders a value twice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pyflowx.batch import I32, I64, Octets
from pyflowx.enrich.cells import CellNumbers
from pyflowx.enrich.numbering import Numbers
from pyflowx.errors import ConfigError

Value = str | int | float

INTEGER, FLOAT, TEXT = "integer", "float", "text"

# No leading zero ("007" is a text), no exponent that overflows; checked over all distinct cells at once.
_INTEGERS = re.compile(rb"(?: *-?(?:0|[1-9][0-9]{0,18}) *\n)*")
_FLOATS = re.compile(rb"(?: *-?(?:0|[1-9][0-9]{0,99})(?:\.[0-9]{1,99})?(?:[eE](?:-[0-9]{1,3}|\+?[0-9]{1,2}))? *\n)*")
_LEAST, _GREATEST = -(1 << 63), (1 << 63) - 1


@dataclass(slots=True)
class Dictionary:
    """The distinct values of a column, all of one kind: ``integer`` (64 bits, signed), ``float`` or ``text``.

    It only ever grows, so that whoever keeps what it rendered needs to look at new values alone.
    """

    kind: str
    values: list[Value] = field(default_factory=list)


class Coded(NamedTuple):
    """A result column: row i is ``dictionary.values[codes[i]]``, null where the code is -1."""

    codes: I32
    dictionary: Dictionary


class CellEncoder:
    """The cells of a column, block after block, as codes."""

    def __init__(self) -> None:
        self._numbers = CellNumbers()
        self._rows: list[I32] = []

    def add(self, cells: Octets) -> None:
        self._rows.append(self._numbers.add(cells))

    def finish(self, column: str, kind: str | None) -> Coded:
        """All rows. An empty cell is null.

        ``kind`` is what the values have to be; None: the first of integer, float, text that takes them
        all. :class:`ConfigError` where a value is not of the kind.
        """
        cells = self._numbers.cells()
        found = kind or infer(cells)
        dictionary = Dictionary(found, convert([cell for cell in cells if cell], column, found))
        says = np.array([bool(cell) for cell in cells], np.bool_)
        codes = np.where(says, np.cumsum(says, dtype=np.int32) - 1, -1).astype(np.int32)
        return Coded(codes[np.concatenate([np.zeros(0, np.int32), *self._rows])], dictionary)


def infer(cells: Sequence[bytes]) -> str:
    """The kind of a column with these distinct cells; text where none says anything."""
    said = [cell for cell in cells if cell]
    return next(kind for kind in (INTEGER, FLOAT, TEXT) if _fits(said, kind)) if said else TEXT


def _fits(cells: Sequence[bytes], kind: str) -> bool:
    if kind == TEXT or not cells:
        return True
    lines = b"\n".join(cells) + b"\n"
    pattern = _INTEGERS if kind == INTEGER else _FLOATS
    if lines.count(b"\n") != len(cells) or pattern.fullmatch(lines) is None:
        return False
    return kind == FLOAT or all(_LEAST <= int(cell) <= _GREATEST for cell in cells if len(cell) > 18)


def convert(cells: list[bytes], column: str, kind: str) -> list[Value]:
    """Cells that are not empty as values of a kind."""
    if not _fits(cells, kind):
        odd = next(cell for cell in cells if not _fits([cell], kind)).decode("utf-8", "replace")
        raise ConfigError(f"column {column!r} holds {odd!r}; expected {kind} as in the table before")
    if kind == TEXT:
        return [cell.replace(b'""', b'"').decode("utf-8", "replace") for cell in cells]
    return list(map(int if kind == INTEGER else float, cells))


class Records:
    """Rows of a table as distinct records: what an index points to. A record is one code for each field."""

    def __init__(self, fields: Sequence[Coded]) -> None:
        """From the columns of a table; ``numbers`` then tells the record of each row."""
        self.numbers, rows = _distinct([column.codes for column in fields])
        none = np.full(1, -1, np.int32)
        self._codes = [np.concatenate([column.codes[rows], none]) for column in fields]
        self.dictionaries = [column.dictionary for column in fields]

    @property
    def count(self) -> int:
        """Of distinct records."""
        return len(self._codes[0]) - 1

    def codes(self, records: I32) -> list[I32]:
        """For each field the codes of some records; record -1 has none (it stands behind the last)."""
        return [codes.take(records) for codes in self._codes]


def _distinct(columns: Sequence[I32]) -> tuple[I32, I64]:
    """``(numbers, rows)``: rows with equal codes have equal numbers; ``rows[i]`` is a row with number i."""
    keys, spread = np.zeros(len(columns[0]), np.int64), 1
    for codes in columns:
        size = int(codes.max(initial=-1)) + 2
        if spread * size > _GREATEST:  # too many to tell apart in 64 bits: number those that there are
            numbers, rows = Numbers().add(keys.astype(np.uint64))
            keys, spread = numbers.astype(np.int64), len(rows)
        keys = keys * size + (codes + 1)
        spread *= size
    return Numbers().add(keys.astype(np.uint64))
