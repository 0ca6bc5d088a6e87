"""Columns of codes into labels, as text: every label is rendered once, however many rows and batches have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

from pyflowx.batch import I64, U8, Array, Octets
from pyflowx.fill import CommonColumn
from pyflowx.sinks.rows import Value

Label = TypeVar("Label")


class _Rendered(Generic[Label]):
    """Labels one behind the other as text; what their list has gained since is rendered when asked for."""

    def __init__(self, labels: Sequence[Label], render: Callable[[Label], bytes]) -> None:
        self.labels, self._render = labels, render
        self._count = self._used = 0
        self._buffer: U8 = np.zeros(0, np.uint8)
        self._ends: I64 = np.zeros(1, np.int64)  # 0, then where each text ends

    def texts(self) -> Octets:
        new = [self._render(label) for label in self.labels[self._count :]]
        if new:
            octets = np.frombuffer(b"".join(new), np.uint8)
            self._buffer = _with_room(self._buffer, self._used, len(octets))
            self._buffer[self._used : self._used + len(octets)] = octets
            self._ends = _with_room(self._ends, self._count + 1, len(new))
            ends = self._ends[self._count + 1 : self._count + 1 + len(new)]
            np.cumsum([len(text) for text in new], out=ends)
            ends += self._used
            self._count, self._used = self._count + len(new), self._used + len(octets)
        starts = self._ends[: self._count]
        return Octets(self._buffer[: self._used], starts, self._ends[1 : self._count + 1] - starts)


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

    def value(self, name: str, column: CommonColumn) -> Value:
        """How the row writer is to render a column of codes."""
        assert column.labels is not None
        known = self._known.get(name)
        if known is None or known.labels is not column.labels:  # another table: the old texts are of no more use
            known = self._known[name] = _Rendered(column.labels, self._render)
        texts = known.texts()
        if not len(texts):  # no row has a label
            nothing: I64 = np.zeros(len(column.values), np.int64)
            return Value("t", False, texts.buffer, (nothing, nothing), column.valid)
        # clip: a code that is not valid may be anything
        places = texts.starts.take(column.values, mode="clip"), texts.lengths.take(column.values, mode="clip")
        return Value("t", False, texts.buffer, places, column.valid)
