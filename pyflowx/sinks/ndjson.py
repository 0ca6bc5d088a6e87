"""Flows in the common schema as JSON, one line a flow; a null is left out."""

from __future__ import annotations

import json

from pyflowx.common import CommonBatch, CommonColumn
from pyflowx.sinks.labels import LabelTexts
from pyflowx.sinks.rows import Cell, RowWriter, Value, cell, json_key, json_string
from pyflowx.sinks.target import Target

_KINDS = {"time": "i", "mac": "m", "label": "l"}  # of the row writer; all other types are unsigned integers


def value(column: CommonColumn) -> Value:
    """How a common column is rendered, in any text format."""
    if column.type == "address":
        return Value("4" if column.values.ndim == 1 else "a", True, column.values, None, column.valid)
    kind = _KINDS.get(column.type, "u")
    if kind == "l":
        labels = tuple(json_value(label) for label in column.labels or ())
        return Value("l", False, column.values, labels, column.valid)
    return Value(kind, kind == "m", column.values, None, column.valid)


def json_value(label: str | int | float) -> bytes:
    return (json_string(label) if isinstance(label, str) else json.dumps(label)).encode()


class CommonNdjson:
    """A :class:`~pyflowx.sinks.Sink` of common batches."""

    def __init__(self, target: Target) -> None:
        self.rows = 0
        self.octets = 0
        self._target = target
        self._writer = RowWriter(b"{", b",", b"}\n")
        self._labels = LabelTexts(json_value)

    def write(self, batch: CommonBatch) -> None:
        cells = tuple(self._cell(name, column) for name, column in batch.columns.items())
        for rows, text in self._writer.chunks(cells, len(batch)):
            self._target.write(text)
            self.rows += rows
            self.octets += len(text)

    def _cell(self, name: str, column: CommonColumn) -> Cell:
        grows = isinstance(column.labels, list)  # a few constant labels are cheaper looked up in the row writer
        return cell(json_key(name), self._labels.value(name, column) if grows else value(column))

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        self._target.close()
