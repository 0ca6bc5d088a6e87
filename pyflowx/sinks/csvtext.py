"""Flows in the common schema as CSV (RFC 4180, lines end with LF): a header row, a null is an empty cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pyflowx.common import CommonBatch
from pyflowx.sinks import Encoder, Piece
from pyflowx.sinks.cells import TextCells
from pyflowx.sinks.rows import RowWriter
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
        self._cells = TextCells(csv_value, quoted=False, nulls=True)

    @property
    def header(self) -> bytes:
        return b",".join(csv_value(field.name) for field in self._fields) + b"\n"

    def begin(self) -> Iterator[Piece]:
        yield 0, self.header

    def encode(self, batch: CommonBatch) -> Iterator[Piece]:
        named = ((field.name, batch.columns.get(field.name)) for field in self._fields)
        return self._writer.chunks(self._cells.row(named, len(batch)), len(batch))
