"""Flows in the common schema as CSV (RFC 4180, lines end with LF): a header row, a null is an empty cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pyflowx.common import CommonBatch
from pyflowx.fill import CommonColumn
from pyflowx.sinks import Encoder, Piece
from pyflowx.sinks.cells import TextCells, null
from pyflowx.sinks.rows import Cell, RowWriter, cell
from pyflowx.sinks.schema import Field, fields


def csv_value(label: str | int | float) -> bytes:
    """A cell: quoted where it has to be."""
    text = str(label)
    if any(c in text for c in ',"\r\n'):
        text = '"' + text.replace('"', '""') + '"'
    return text.encode()


class CommonCsv(Encoder[CommonBatch]):
    """Rows of flows; every row has every column. ``only``: these columns in place of those of the schema."""

    suffix = ".csv"

    def __init__(self, extra: Mapping[str, str] | None = None, *, only: Sequence[Field] | None = None) -> None:
        self._fields = fields(extra) if only is None else tuple(only)
        self._writer = RowWriter(b"", b",", b"\n", nulls=True)
        self._cells = TextCells(csv_value, quoted=False)

    @property
    def header(self) -> bytes:
        return b",".join(csv_value(field.name) for field in self._fields) + b"\n"

    def begin(self) -> Iterator[Piece]:
        yield 0, self.header

    def encode(self, batch: CommonBatch) -> Iterator[Piece]:
        cells = tuple(self._cell(field.name, batch.columns.get(field.name), len(batch)) for field in self._fields)
        return self._writer.chunks(cells, len(batch))

    def _cell(self, name: str, column: CommonColumn | None, n: int) -> Cell:
        return cell(b"", null(n)) if column is None else self._cells.cell(name, column)
