"""Columns of codes into labels, as text: every label is rendered once, however many rows and batches have it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np

from pyflowx.batch import I64, U8, Array
from pyflowx.fill import CommonColumn, Joint
from pyflowx.sinks.rows import SLACK, Value

Label = TypeVar("Label")
Column = TypeVar("Column", CommonColumn, CommonColumn | None)
_NEW, _NOTHING = -2, -1  # codes of records: not met yet; without a text
_MOST_RECORDS = 1 << 18  # of a table whose fields are rendered together: each record has a text of its own then


class _Rendered(Generic[Label]):
    """Labels one behind the other as text; what their list has gained since is rendered when asked for."""

    def __init__(self, labels: Sequence[Label], render: Callable[[Label], bytes]) -> None:
        self.labels, self._render = labels, render
        self._count = self._used = self._longest = 0
        self._buffer: U8 = np.zeros(SLACK, np.uint8)
        self._ends: I64 = np.zeros(1, np.int64)  # 0, then where each text ends

    def texts(self) -> tuple[U8, I64, int]:
        """As the row writer takes them."""
        new = [self._render(label) for label in self.labels[self._count :]]
        if new:
            octets = np.frombuffer(b"".join(new), np.uint8)
            self._buffer = _with_room(self._buffer, self._used, len(octets) + SLACK)
            self._buffer[self._used : self._used + len(octets)] = octets
            self._ends = _with_room(self._ends, self._count + 1, len(new))
            ends = self._ends[self._count + 1 : self._count + 1 + len(new)]
            lengths = [len(text) for text in new]
            np.cumsum(lengths, out=ends)
            ends += self._used
            self._count, self._used = self._count + len(new), self._used + len(octets)
            self._longest = max(self._longest, *lengths)
        return self._buffer, self._ends[: self._count + 1], self._longest


def _with_room(array: Array, used: int, more: int) -> Array:
    """The array, or a copy at least twice as long, so that many small steps cost no more than a large one."""
    if used + more <= len(array):
        return array
    return np.concatenate([array[:used], np.zeros(max(used, more), array.dtype)])


class LabelTexts:
    """The rendered labels of the columns of one output, by the names of the columns."""

    def __init__(self, render: Callable[[str | int | float], bytes]) -> None:
        self._render = render
        self._known: dict[str, _Rendered[str | int | float]] = {}

    def value(self, name: str, column: CommonColumn, lead: bytes = b"") -> Value:
        """How the row writer is to render a column of codes. ``lead``: what stands before each label, always the same
        for a name."""
        assert column.labels is not None
        known = self._known.get(name)
        if known is None or known.labels is not column.labels:  # another table: the old texts are of no more use
            render = self._render
            known = self._known[name] = _Rendered(column.labels, lambda label: lead + render(label))
        return Value("c", False, column.values, known.texts(), column.valid)


class _Converted:
    """Labels that are numbers; what their list has gained since is converted when asked for."""

    def __init__(self, labels: Sequence[str | int | float], dtype: str) -> None:
        self.labels = labels
        self._count = 0
        self._array: Array = np.zeros(1, dtype)

    def array(self) -> Array:
        new = self.labels[self._count :]
        if new:
            self._array = _with_room(self._array, self._count, len(new))
            self._array[self._count : self._count + len(new)] = new
            self._count += len(new)
        return self._array[: max(self._count, 1)]


class LabelNumbers:
    """The values of columns whose labels are numbers, by the names of the columns."""

    def __init__(self) -> None:
        self._known: dict[str, _Converted] = {}

    def values(self, name: str, column: CommonColumn) -> Array:
        """int64 or float64; anything where a row is null."""
        assert column.labels is not None
        known = self._known.get(name)
        if known is None or known.labels is not column.labels:
            known = self._known[name] = _Converted(column.labels, "i8" if column.type == "i64" else "f8")
        found: Array = known.array().take(column.values, mode="clip")
        return found


def together(named: Iterable[tuple[str, Column]]) -> Iterator[list[tuple[str, Column]]]:
    """The columns in their order; those side by side that :class:`JointTexts` can take in one list."""
    run: list[tuple[str, Column]] = []
    for name, column in named:
        joint = _joint(column)
        if run and (joint is None or _joint(run[-1][1]) is not joint):
            yield run
            run = []
        run.append((name, column))
    if run:
        yield run


def _joint(column: CommonColumn | None) -> Joint | None:
    if column is None or column.joint is None or column.joint.size > _MOST_RECORDS:
        return None
    return column.joint if len(column.joint.records) == len(column.values) else None


class _Records:
    """The records of a table that were met, each with the text of all its fields."""

    def __init__(self, joint: Joint) -> None:
        self.table = joint.table
        self.codes = np.full(joint.size + 1, _NEW, np.int32)  # the last is of record -1
        self._texts: list[bytes] = []
        self.rendered = _Rendered(self._texts, bytes)

    def add(self, record: int, text: bytes | None) -> None:
        self.codes[record] = _NOTHING if text is None else len(self._texts)
        if text is not None:
            self._texts.append(text)


class JointTexts:
    """Columns that a look-up gave together as one text, which each record of the table has once.

    ``render``: the cell of a label by the name of its column. With ``nulls`` a null is an empty cell, else left out.
    """

    def __init__(self, render: Callable[[str, str | int | float], bytes], separator: bytes, *, nulls: bool) -> None:
        self._render, self._separator, self._nulls = render, separator, nulls
        self._known: dict[str, _Records] = {}

    def value(self, named: Sequence[tuple[str, CommonColumn]]) -> Value:
        """How the row writer is to render the columns of a run of :func:`together`."""
        name, joint = named[0][0], named[0][1].joint
        assert joint is not None
        known = self._known.get(name)
        if known is None or known.table is not joint.table:
            known = self._known[name] = _Records(joint)
        codes = known.codes.take(joint.records)
        new = np.flatnonzero(codes == _NEW)
        if len(new):
            records, first = np.unique(joint.records[new], return_index=True)
            for record, row in zip(records.tolist(), new[first].tolist(), strict=True):
                known.add(record, self._text(named, row))
            codes = known.codes.take(joint.records)
        valid = codes >= 0
        return Value("c", False, codes, known.rendered.texts(), None if valid.all() else valid)

    def _text(self, named: Sequence[tuple[str, CommonColumn]], row: int) -> bytes | None:
        cells = []
        for name, column in named:
            assert column.labels is not None
            if column.valid is None or column.valid[row]:
                cells.append(self._render(name, column.labels[column.values[row]]))
            elif self._nulls:
                cells.append(b"")
        return self._separator.join(cells) if cells else None
