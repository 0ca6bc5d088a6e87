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
from pyflowx.sinks.protobuf import label_text
from pyflowx.sinks.rows import RowWriter, cell
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


def numbers(column: CommonColumn) -> Array:
    """Codes into integers or floats as these."""
    if column.labels is None:
        return contiguous(column)
    known: Array = np.array(column.labels or [0], "i8" if column.type == "i64" else "f8")
    found: Array = known[np.clip(column.values, 0, len(known) - 1)]
    return found


class _Texts:
    """Columns as text: each has a buffer of its own, so that all of a batch can be written at once."""

    def __init__(self) -> None:
        self._cells = TextCells(label_text, quoted=False)
        self._writers: dict[str, RowWriter] = {}

    def render(self, name: str, column: CommonColumn) -> tuple[memoryview, I64]:
        writer = self._writers.get(name)
        if writer is None:
            writer = self._writers[name] = RowWriter(b"", b"", b"", nulls=True)
        return writer.whole((cell(b"", self._cells.value(name, column)),), len(column.values))


class _Body:
    """The buffers of a record batch one behind the other, each at a multiple of 8 octets."""

    def __init__(self, zeros: int) -> None:
        zeros += -zeros % 8
        self.parts: list[Any] = [bytes(zeros)]
        self.size = zeros
        self.nodes: list[int] = []  # pairs (rows, nulls)
        self.buffers: list[int] = []  # pairs (offset, octets)

    def add(self, data: Any) -> None:
        size = memoryview(data).nbytes
        self.buffers += (self.size, size)
        if size:
            padding = -size % 8
            self.parts.append(data)
            if padding:
                self.parts.append(bytes(padding))
            self.size += size + padding

    def add_zeros(self, size: int) -> None:
        self.buffers += (0, size)

    def add_valid(self, valid: Array | None, n: int) -> None:
        if valid is None:
            self.nodes += (n, 0)
            self.buffers += (0, 0)
            return
        self.nodes += (n, n - int(np.count_nonzero(valid)))
        self.add(np.packbits(valid, bitorder="little"))


class CommonArrow(Encoder[CommonBatch]):
    """Record batches of flows. Small batches are held back until they are flushed."""

    suffix = ".arrows"
    appends = False

    def __init__(self, extra: Mapping[str, str] | None = None, *, binary: bool = False) -> None:
        self._fields = fields(extra)
        self._binary = binary
        self._types = [_type(field, binary) for field in self._fields]
        self._widths = [self._width(field) for field in self._fields]  # octets of a value, 0 for text
        self._texts = _Texts()
        self._stage = Stage(self._fields, _ROWS, large=_LARGE)
        buffers = sum(2 if width else 3 for width in self._widths)
        header = Table((Scalar("q", 0), Structs(len(self._fields), 16), Structs(buffers, 16)))
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
        absent = [
            width for field, width in zip(self._fields, self._widths, strict=True) if field.name not in batch.columns
        ]
        body = _Body(max((width * n or 4 * n + 4 for width in absent), default=0))
        for field, width in zip(self._fields, self._widths, strict=True):
            self._add(body, field, width, batch.columns.get(field.name), n)
        metadata = self._metadata
        struct.pack_into("<q", metadata, self._rows_at, n)
        struct.pack_into(f"<{len(body.nodes)}q", metadata, self._nodes_at, *body.nodes)
        struct.pack_into(f"<{len(body.buffers)}q", metadata, self._buffers_at, *body.buffers)
        struct.pack_into("<q", metadata, self._size_at, body.size)
        return n, [_framed(metadata), *body.parts]

    def _add(self, body: _Body, field: Field, width: int, column: CommonColumn | None, n: int) -> None:
        if column is None:
            body.nodes += (n, n)
            body.add_zeros((n + 7) // 8)
            body.add_zeros(width * n if width else 4 * n + 4)
            if not width:
                body.add_zeros(0)
            return
        body.add_valid(column.valid, n)
        if not width:
            text, ends = self._texts.render(field.name, column)
            offsets = np.zeros(n + 1, np.int32)
            offsets[1:] = ends
            body.add(offsets)
            body.add(text)
        elif field.type in BINARY_WIDTHS:
            body.add(np.ascontiguousarray(fixed_octets(column)))
        else:
            body.add(numbers(column))
