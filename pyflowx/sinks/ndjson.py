"""Flows in the common schema as JSON, one line a flow; a null is left out."""

from __future__ import annotations

from pyflowx.common import CommonBatch, CommonColumn
from pyflowx.sinks.rows import Cell, RowWriter, Value, cell, json_key, json_string
from pyflowx.sinks.target import Target

_KINDS = {"time": "i", "mac": "m", "label": "l"}  # of the row writer; all other types are unsigned integers


def value(column: CommonColumn) -> Value:
    """How a common column is rendered, in any text format."""
    if column.type == "address":
        return Value("4" if column.values.ndim == 1 else "a", True, column.values, None, column.valid)
    kind = _KINDS.get(column.type, "u")
    if kind == "l":
        labels = tuple(json_string(label).encode() for label in column.labels)
        return Value("l", False, column.values, labels, column.valid)
    return Value(kind, kind == "m", column.values, None, column.valid)


def _cell(name: str, column: CommonColumn) -> Cell:
    return cell(json_key(name), value(column))


class CommonNdjson:
    """A :class:`~pyflowx.sinks.Sink` of common batches."""

    def __init__(self, target: Target) -> None:
        self.rows = 0
        self.octets = 0
        self._target = target
        self._writer = RowWriter(b"{", b",", b"}\n")

    def write(self, batch: CommonBatch) -> None:
        cells = tuple(_cell(name, column) for name, column in batch.columns.items())
        for rows, text in self._writer.chunks(cells, len(batch)):
            self._target.write(text)
            self.rows += rows
            self.octets += len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._target.close()
