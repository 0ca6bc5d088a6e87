"""Flows in the common schema as an Arrow IPC stream: the columns as they are in memory, a record batch at a time.

The metadata are FlatBuffers (:mod:`pyflowx.sinks.flatbuffer`); those of a record batch have the same layout for every
batch of a schema, so that they are made once and then filled in. Columns that are null throughout share one run of
zeros. Addresses and MAC addresses are text, or with ``binary`` 16 and 6 octets (IPv4 as IPv4-mapped).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pyflowx.batch import I64, Array
from pyflowx.common import CommonBatch
from pyflowx.fill import CommonColumn, wide_addresses
from pyflowx.sinks import Encoder, Piece
from pyflowx.sinks.cells import TextCells
from pyflowx.sinks.flatbuffer import Scalar, Structs, Table, build
from pyflowx.sinks.labels import LabelNumbers
from pyflowx.sinks.protobuf import label_text
from pyflowx.sinks.rows import RowWriter
from pyflowx.sinks.schema import Field, contiguous, fields
from pyflowx.sinks.stage import Stage

_ROWS = 1 << 15  # of a record batch that was gathered, at most
_LARGE = 1 << 12  # rows of a batch that is not gathered
_VERSION = Scalar("h", 4)  # V5
_SCHEMA, _RECORD_BATCH = Scalar("B", 1), Scalar("B", 3)
_INT, _FLOAT, _UTF8, _TIMESTAMP, _FIXED_BINARY = (Scalar("B", code) for code in (2, 3, 5, 10, 15))
_DOUBLE, _NANOSECOND = Scalar("h", 2), Scalar("h", 3)
_INTEGERS = {"u8": (8, 0), "u16": (16, 0), "u32": (32, 0), "u64": (64, 0), "i64": (64, 1)}
_END = struct.pack("<Ii", 0xFFFFFFFF, 0)
BINARY_WIDTHS = {"address": 16, "mac": 6}


def _type(field: Field, binary: bool) -> tuple[Scalar, Table]:
    if field.type in _INTEGERS:
        bits, signed = _INTEGERS[field.type]
        return _INT, Table((Scalar("i", bits), Scalar("B", signed)))
    if field.type == "f64":
        return _FLOAT, Table((_DOUBLE,))
    if field.type == "time":
        return _TIMESTAMP, Table((_NANOSECOND, "UTC"))
    if binary and field.type in BINARY_WIDTHS:
        return _FIXED_BINARY, Table((Scalar("i", BINARY_WIDTHS[field.type]),))
    return _UTF8, Table(())


def _message(kind: Scalar, header: Table) -> tuple[bytearray, list[int]]:
    octets, places = build(Table((_VERSION, kind, header, Scalar("q", 0))))
    return octets, places


def _framed(metadata: bytes | bytearray) -> bytes:
    return struct.pack("<Ii", 0xFFFFFFFF, len(metadata)) + metadata


def fixed_octets(column: CommonColumn) -> Array:
    """Addresses as ``(n, 16)``, MAC addresses as ``(n, 6)``."""
    if column.type == "address":
        return wide_addresses(column.values)
    octets: Array = column.values.astype(">u8").view(np.uint8)
    found: Array = octets.reshape(-1, 8)[:, 2:]
    return found


class _Texts:
    """Columns as text: each has a buffer of its own, so that all of a batch can be written at once."""

    def __init__(self) -> None:
        self._cells = TextCells(label_text, quoted=False)
        self._writers: dict[str, RowWriter] = {}

    def render(self, name: str, column: CommonColumn) -> tuple[Array, bytes | memoryview]:
        """Where the texts begin, and where the last one ends (int32); the texts."""
        n = len(column.values)
        if column.valid is None and (column.values == column.values[0]).all():
            one, _ = self._text(name, column._replace(values=column.values[:1]), 1)
            return np.arange(n + 1, dtype=np.int32) * np.int32(len(one)), bytes(one) * n
        text, ends = self._text(name, column, n)
        offsets = np.zeros(n + 1, np.int32)
        offsets[1:] = ends
        return offsets, text

    def _text(self, name: str, column: CommonColumn, n: int) -> tuple[memoryview, I64]:
        writer = self._writers.get(name)
        if writer is None:
            writer = self._writers[name] = RowWriter(b"", b"", b"", nulls=True)
        return writer.whole((self._cells.cell(name, column),), n)


class _Body:
    """The buffers of a record batch one behind the other, each at a multiple of 8 octets, after some zeros."""

    def __init__(self, buffers: Array, zeros: int) -> None:
        zeros += -zeros % 8
        self.parts: list[Any] = [bytes(zeros)]
        self.size = zeros
        self.buffers = buffers  # (n, 2): offset, octets

    def add(self, number: int, data: Any, size: int) -> None:
        self.buffers[number] = self.size, size
        self.parts.append(data)
        padding = -size % 8
        if padding:
            self.parts.append(bytes(padding))
        self.size += size + padding


class CommonArrow(Encoder[CommonBatch]):
    """Record batches of flows. Small batches are held back until they are flushed."""

    suffix = ".arrows"
    appends = False
    prompt = False

    def __init__(self, extra: Mapping[str, str] | None = None, *, binary: bool = False) -> None:
        self._fields = fields(extra)
        self._binary = binary
        self._types = [_type(field, binary) for field in self._fields]
        self._texts, self._numbers = _Texts(), LabelNumbers()
        self._stage = Stage(self._fields, _ROWS, large=_LARGE)
        self._widths = [self._width(field) for field in self._fields]  # octets of a value, 0 for text
        self._first = np.cumsum([0, *(2 if width else 3 for width in self._widths)]).tolist()  # buffer of each column
        # Octets of the buffers of a column that is null throughout: so many a row, and so many more
        self._each, self._more = np.zeros((2, self._first[-1]), np.int64)
        for first, width in zip(self._first, self._widths, strict=False):
            self._each[first + 1], self._more[first + 1] = width or 4, 0 if width else 4
        header = Table((Scalar("q", 0), Structs(len(self._fields), 16), Structs(self._first[-1], 16)))
        self._metadata, places = _message(_RECORD_BATCH, header)
        self._rows_at, self._nodes_at, self._buffers_at, self._size_at = places

    def _width(self, field: Field) -> int:
        if field.type in _INTEGERS:
            return _INTEGERS[field.type][0] // 8
        if field.type in ("f64", "time"):
            return 8
        return BINARY_WIDTHS.get(field.type, 0) if self._binary else 0

    def begin(self) -> Iterator[Piece]:
        self._stage.clear()
        described = [
            Table((field.name, Scalar("B", field.nullable), kind, type, None, ()))
            for field, (kind, type) in zip(self._fields, self._types, strict=True)
        ]
        metadata, _ = _message(_SCHEMA, Table((Scalar("h", 0), described)))
        yield 0, _framed(metadata)

    def encode(self, batch: CommonBatch) -> Iterator[Piece]:
        for gathered in self._stage.add(batch):
            yield self._record_batch(gathered)

    def flush(self) -> Iterator[Piece]:
        for gathered in self._stage.flush():
            yield self._record_batch(gathered)

    def end(self) -> Iterator[Piece]:
        yield 0, _END

    def _record_batch(self, batch: CommonBatch) -> Piece:
        n = len(batch)
        nodes = np.full((len(self._fields), 2), n, np.int64)  # rows, nulls
        buffers = np.zeros((self._first[-1], 2), np.int64)
        buffers[:, 1] = self._each * n + self._more
        buffers[self._first[:-1], 1] = (n + 7) // 8
        columns = [batch.columns.get(field.name) for field in self._fields]
        null = [first + 1 for first, column in zip(self._first, columns, strict=False) if column is None]
        body = _Body(buffers, int(buffers[null, 1].max(initial=0)))
        for number, column in enumerate(columns):
            if column is not None:
                nodes[number, 1] = self._add(body, number, column)
        metadata = self._metadata
        struct.pack_into("<q", metadata, self._rows_at, n)
        metadata[self._nodes_at : self._nodes_at + nodes.nbytes] = nodes.tobytes()
        metadata[self._buffers_at : self._buffers_at + buffers.nbytes] = buffers.tobytes()
        struct.pack_into("<q", metadata, self._size_at, body.size)
        return n, [_framed(metadata), *body.parts]

    def _add(self, body: _Body, number: int, column: CommonColumn) -> int:
        """The buffers of a column; how many nulls it has."""
        first, nulls = self._first[number], 0
        if column.valid is None:
            body.buffers[first] = 0
        else:
            bits = np.packbits(column.valid, bitorder="little")
            body.add(first, bits, len(bits))
            nulls = len(column.values) - int(np.count_nonzero(column.valid))
        if not self._widths[number]:
            offsets, text = self._texts.render(self._fields[number].name, column)
            body.add(first + 1, offsets, offsets.nbytes)
            body.add(first + 2, text, len(text))
            return nulls
        if column.type in BINARY_WIDTHS:
            values = np.ascontiguousarray(fixed_octets(column))
        elif column.labels is None:
            values = contiguous(column)
        else:
            values = self._numbers.values(self._fields[number].name, column)
        body.add(first + 1, values, values.nbytes)
        return nulls
