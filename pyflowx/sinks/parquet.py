"""Flows in the common schema as Parquet: row groups of up to 262,144 rows, then the footer.

Addresses and MAC addresses are text, or with ``binary`` 16 and 6 octets (IPv4 as IPv4-mapped); times are timestamps
in ns, UTC. A row group is encoded as its rows come and kept in memory until it is complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pyflowx import __version__
from pyflowx.common import CommonBatch
from pyflowx.sinks import Encoder, Piece, thrift
from pyflowx.sinks.compress import compressor
from pyflowx.sinks.parquet_column import Chunk, ColumnWriter
from pyflowx.sinks.schema import Field, fields
from pyflowx.sinks.stage import Stage

MAGIC = b"PAR1"
GROUP_ROWS = 1 << 18
_PAGE_ROWS = 1 << 15
_CODECS = {"none": 0, "gzip": 2, "zstd": 6}
_ORDERED_BY_TYPE = thrift.struct({1: thrift.struct({})})  # ColumnOrder


class CommonParquet(Encoder[CommonBatch]):
    """Row groups of flows. ``compress``: zstd, gzip or none, of the pages. ``only``: these columns in place of those
    of the schema."""

    suffix = ".parquet"
    appends = False
    live = False
    prompt = False

    def __init__(
        self,
        extra: Mapping[str, str] | None = None,
        *,
        binary: bool = False,
        compress: str = "zstd",
        only: Sequence[Field] | None = None,
    ) -> None:
        self._fields = fields(extra) if only is None else tuple(only)
        method = compressor(compress)
        self._columns = [ColumnWriter(field, binary, _CODECS[compress], method) for field in self._fields]
        self._stage = Stage(self._fields, _PAGE_ROWS, large=_PAGE_ROWS // 2)
        self._rows = 0  # in the row group
        self._offset = 0  # in the file
        self._groups: list[tuple[int, thrift.Value]] = []  # rows and RowGroup of those that are written
        self._last: list[Chunk] = []  # of the row group that was given last, without their pages

    def begin(self) -> Iterator[Piece]:
        self._groups = []
        self._offset = len(MAGIC)
        self._rows = 0
        self._stage.clear()
        for column in self._columns:
            column.reset()
        yield 0, MAGIC

    def encode(self, batch: CommonBatch) -> Iterator[Piece]:
        for gathered in self._stage.add(batch):
            yield from self._add(gathered)

    def flush(self) -> Iterator[Piece]:
        for gathered in self._stage.flush():
            yield from self._add(gathered)
        yield from self._row_group()

    def _add(self, batch: CommonBatch) -> Iterator[Piece]:
        named = [(column, batch.columns.get(column.field.name)) for column in self._columns]
        if self._rows + len(batch) > GROUP_ROWS or not all(column.takes(values) for column, values in named):
            yield from self._row_group()
        for column, values in named:
            column.add(values, len(batch))
        self._rows += len(batch)

    def _row_group(self) -> Iterator[Piece]:
        if not self._rows:
            return
        rows, self._rows = self._rows, 0
        chunks = [column.finish() for column in self._columns]
        self._last = [chunk._replace(pages=[]) for chunk in chunks]
        yield rows, [page for chunk in chunks for page in chunk.pages]
        self.adopt(rows, self._last)  # it is in the file now

    def note(self) -> list[Chunk]:
        return self._last

    def adopt(self, rows: int, note: list[Chunk]) -> None:
        self._groups.append((rows, self._describe(note, rows)))
        self._offset += sum(chunk.octets for chunk in note)

    def _describe(self, chunks: list[Chunk], rows: int) -> thrift.Value:
        """RowGroup."""
        columns, offset = [], self._offset
        for chunk in chunks:
            columns.append(thrift.struct({2: thrift.i64(0), 3: chunk.metadata(offset)}))
            offset += chunk.octets
        octets = offset - self._offset
        return thrift.struct(
            {
                1: thrift.items(columns),
                2: thrift.i64(octets),
                3: thrift.i64(rows),
                5: thrift.i64(self._offset),
                6: thrift.i64(octets),
            }
        )

    def end(self) -> Iterator[Piece]:
        count = thrift.i32(len(self._fields))
        root = thrift.struct({4: thrift.binary("flows"), 5: count})
        schema = [root, *(column.physical.schema(column.field) for column in self._columns)]
        footer = thrift.struct(
            {
                1: thrift.i32(2),
                2: thrift.items(schema),
                3: thrift.i64(sum(rows for rows, _ in self._groups)),
                4: thrift.items([group for _, group in self._groups]),
                6: thrift.binary(f"pyflowx version {__version__}"),
                7: thrift.items([_ORDERED_BY_TYPE] * len(self._fields)),
            }
        )[1]
        yield 0, footer + len(footer).to_bytes(4, "little") + MAGIC
