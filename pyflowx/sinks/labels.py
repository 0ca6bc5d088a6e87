"""Columns of codes into labels, as text: every label is rendered once, however many rows and batches have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

from pyflowx.batch import I64, U8, Array
from pyflowx.fill import CommonColumn
from pyflowx.sinks.rows import SLACK, Value

Label = TypeVar("Label")


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
