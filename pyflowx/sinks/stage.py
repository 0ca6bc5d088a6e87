"""Gathers small batches into large ones, for formats whose cost is by batch as well as by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pyflowx.batch import Array
from pyflowx.common import CommonBatch
from pyflowx.fill import CommonColumn, wide_addresses
from pyflowx.sinks.schema import Field, dtype_of


class _Column:
    """A column of the rows that are gathered. Without values: all of them are null."""

    def __init__(self, field: Field, capacity: int) -> None:
        self._type = field.type
        self._capacity = capacity
        self._buffers: dict[int, Array] = {}  # by dimensions: addresses are numbers until the first IPv6 one comes
        self._valid = np.zeros(capacity, bool)
        self.clear()

    def clear(self) -> None:
        self._values: Array | None = None
        self._nulls = 0
        self.labels: Sequence[str | int | float] | None = None

    def takes(self, column: CommonColumn | None) -> bool:
        """Whether the codes of the column mean what those here mean."""
        return column is None or self._values is None or self.labels is column.labels

    def add(self, column: CommonColumn | None, rows: slice, at: int, n: int) -> None:
        if column is None:
            self._nulls += n
            self._valid[at : at + n] = False
            return
        values = column.values[rows]
        if self._values is None:
            self._values = self._buffer(values.ndim)
            self._valid[:at] = False
            self.labels = column.labels
        elif values.ndim > self._values.ndim:
            wide = self._buffer(2)
            wide[:at] = wide_addresses(self._values[:at])
            self._values = wide
        elif values.ndim < self._values.ndim:
            values = wide_addresses(values)
        self._values[at : at + n] = values
        if column.valid is None:
            self._valid[at : at + n] = True
        else:
            self._valid[at : at + n] = column.valid[rows]
            self._nulls += n - int(np.count_nonzero(self._valid[at : at + n]))

    def _buffer(self, dimensions: int) -> Array:
        found = self._buffers.get(dimensions)
        if found is None:
            shape = (self._capacity,) if dimensions == 1 else (self._capacity, 16)
            found = self._buffers[dimensions] = np.zeros(shape, dtype_of(self._type, dimensions))
        return found

    def column(self, n: int) -> CommonColumn | None:
        if self._values is None:
            return None
        return CommonColumn(self._type, self._values[:n], self._valid[:n] if self._nulls else None, self.labels)


class Stage:
    """Takes batches of any size, gives batches of ``large`` to ``capacity`` rows; a smaller one when flushed.

    One that is large already goes on as it is. A batch that is given is valid until the next one is asked for.
    """

    def __init__(self, fields: Sequence[Field], capacity: int, *, large: int) -> None:
        self._capacity, self._large = capacity, large
        self._columns = {field.name: _Column(field, capacity) for field in fields}
        self._rows = 0

    def __len__(self) -> int:
        """The rows that are held back."""
        return self._rows

    def add(self, batch: CommonBatch) -> Iterator[CommonBatch]:
        if self._rows and not self._takes(batch):
            yield from self.flush()
        if not self._rows and self._large <= len(batch) <= self._capacity:
            yield batch
            return
        first = 0
        while first < len(batch):
            n = min(len(batch) - first, self._capacity - self._rows)
            for name, column in self._columns.items():
                column.add(batch.columns.get(name), slice(first, first + n), self._rows, n)
            self._rows += n
            first += n
            if self._rows == self._capacity:
                yield from self.flush()

    def clear(self) -> None:
        """Forget what is held back."""
        self._rows = 0
        for column in self._columns.values():
            column.clear()

    def _takes(self, batch: CommonBatch) -> bool:
        return all(column.takes(batch.columns.get(name)) for name, column in self._columns.items())

    def flush(self) -> Iterator[CommonBatch]:
        if self._rows:
            n, self._rows = self._rows, 0
            found = {name: column.column(n) for name, column in self._columns.items()}
            for column in self._columns.values():
                column.clear()
            yield CommonBatch({name: column for name, column in found.items() if column is not None}, n)
