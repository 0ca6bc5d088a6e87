"""Common columns as cells of a text format: the formats differ in how they write a label and in what is quoted."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from pyflowx.fill import CommonColumn
from pyflowx.sinks.labels import JointTexts, LabelTexts, together
from pyflowx.sinks.rows import Cell, Value, cell

_KINDS = {"time": "i", "mac": "m"}  # of the row writer; all other types are unsigned integers
_NO, _ZERO = np.False_, np.uint8(0)


class TextCells:
    """The cells of one output. ``render``: a label as it stands in a cell; ``quoted``: addresses are; ``lead``: what
    stands before each cell of a column."""

    def __init__(
        self,
        render: Callable[[str | int | float], bytes],
        *,
        quoted: bool,
        lead: Callable[[str], bytes] = lambda name: b"",
        nulls: bool = False,
    ) -> None:
        self._render, self._quoted, self._lead = render, quoted, lead
        self._labels = LabelTexts(render)
        self._joint = JointTexts(lambda name, label: lead(name) + render(label), b",", nulls=nulls)

    def row(self, named: Iterable[tuple[str, CommonColumn | None]], n: int) -> tuple[Cell, ...]:
        """The columns of rows with commas between them; without a column all n rows are null."""
        cells = []
        for run in together(named):
            present = [(name, column) for name, column in run if column is not None]
            if len(present) > 1:
                cells.append(cell(b"", self._joint.value(present)))
            else:
                cells += [self.cell(*item) for item in present] or [cell(b"", null(n))]
        return tuple(cells)

    def cell(self, name: str, column: CommonColumn) -> Cell:
        """A column of a row."""
        lead = self._lead(name)
        if isinstance(column.labels, list):
            return cell(b"", self._labels.value(name, column, lead))
        return cell(lead, self.value(name, column))

    def value(self, name: str, column: CommonColumn) -> Value:
        """How the row writer is to render a column."""
        if column.labels is not None:
            if isinstance(column.labels, list):
                return self._labels.value(name, column)
            labels = tuple(map(self._render, column.labels))  # a few, cheaper looked up in the row writer
            return Value("l", False, column.values, labels, column.valid)
        address = "4" if column.values.ndim == 1 else "a"
        kind = address if column.type == "address" else _KINDS.get(column.type, "u")
        return Value(kind, self._quoted and kind in "4am", column.values, None, column.valid)


def null(n: int) -> Value:
    """A column that is null in all n rows."""
    return Value("u", False, np.broadcast_to(_ZERO, n), None, np.broadcast_to(_NO, n))
