"""The column chunks of a Parquet file: pages of a column, encoded and compressed as the rows come.

A value is written once into the dictionary of its chunk and then as a code for as long as there are few of them
(:data:`_KEYS`); a chunk with more goes on with plain values. Definition levels are one bit: null or not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pyflowx.batch import Array
from pyflowx.fill import CommonColumn, wide_addresses
from pyflowx.sinks import thrift
from pyflowx.sinks._codes import encode, pack
from pyflowx.sinks.arrow import BINARY_WIDTHS, fixed_octets
from pyflowx.sinks.cells import TextCells
from pyflowx.sinks.labels import LabelNumbers
from pyflowx.sinks.protobuf import label_text
from pyflowx.sinks.rows import FIXED_LENGTH, RowWriter
from pyflowx.sinks.schema import Field, contiguous

_KEYS = 1 << 14  # distinct values in a dictionary
_PLAIN, _RLE, _RLE_DICTIONARY = 0, 3, 8  # encodings
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_INT32, _INT64, _DOUBLE, _BYTE_ARRAY, _FIXED = 1, 2, 5, 6, 7  # physical types
_UNSIGNED = {"u8": (8, 11), "u16": (16, 12), "u32": (32, 13), "u64": (64, 14)}  # bits, converted type
_NOTHING: thrift.Value = thrift.struct({})

Compress = Callable[[bytes], bytes]


class Physical(NamedTuple):
    """How a column stands in the file. ``logical``: the LogicalType and ConvertedType of its schema."""

    type: int
    length: int | None
    logical: thrift.Value | None
    converted: int | None

    @classmethod
    def of(cls, field: Field, binary: bool) -> Physical:
        if field.type in _UNSIGNED:
            bits, converted = _UNSIGNED[field.type]
            logical = thrift.struct({1: thrift.i8(bits), 2: thrift.boolean(False)})
            return cls(_INT64 if bits == 64 else _INT32, None, thrift.struct({10: logical}), converted)
        if field.type == "time":
            unit = thrift.struct({3: _NOTHING})  # NANOS
            stamp = thrift.struct({1: thrift.boolean(True), 2: unit})
            return cls(_INT64, None, thrift.struct({8: stamp}), None)
        if field.type == "i64":
            return cls(_INT64, None, None, None)
        if field.type == "f64":
            return cls(_DOUBLE, None, None, None)
        if binary and field.type in BINARY_WIDTHS:
            return cls(_FIXED, BINARY_WIDTHS[field.type], None, None)
        return cls(_BYTE_ARRAY, None, thrift.struct({1: _NOTHING}), 0)  # STRING, UTF8

    def schema(self, field: Field) -> thrift.Value:
        """SchemaElement."""
        return thrift.struct(
            {
                1: thrift.i32(self.type),
                2: None if self.length is None else thrift.i32(self.length),
                3: thrift.i32(int(field.nullable)),
                4: thrift.binary(field.name),
                6: None if self.converted is None else thrift.i32(self.converted),
                10: self.logical,
            }
        )


class _Dictionary:
    """The distinct values of a chunk, as octets of their column."""

    def __init__(self) -> None:
        self._table = np.zeros(2 * _KEYS, np.uint16)
        self._keys = np.zeros(_KEYS * 16, np.uint8)
        self._codes = np.zeros(0, np.uint16)
        self.clear()

    def clear(self) -> None:
        self._table[:] = 0
        self.count = 0
        self.dtype = np.dtype(np.uint8)
        self.shape: tuple[int, ...] = ()

    @property
    def _width(self) -> int:
        return self.dtype.itemsize * (self.shape[0] if self.shape else 1)

    def add(self, values: Array) -> Array | None:
        """The codes of values; None where they do not all find room (the dictionary stays usable for what it has)."""
        if not self.count:
            self.dtype, self.shape = values.dtype, values.shape[1:]
        if len(values) > len(self._codes):
            self._codes = np.zeros(len(values), np.uint16)
        keys = self._keys[: _KEYS * self._width]
        found = encode(values, self._width, self._table, keys, self.count, self._codes)
        count, done = found
        if done < len(values):
            return None
        self.count = count
        return self._codes[: len(values)]

    def values(self) -> Array:
        keys = self._keys[: self.count * self._width].view(self.dtype)
        return keys.reshape(self.count, *self.shape)

    def widen(self) -> None:
        """Addresses of 4 octets become those of 16; codes stay as they are."""
        wide = wide_addresses(self.values().copy())
        self.clear()
        self.add(wide)


class Chunk(NamedTuple):
    """A column of a row group: its pages, ``octets`` of which ``dictionary_octets`` are the dictionary's; what the
    footer says of it but for its place."""

    pages: list[bytes]
    octets: int
    dictionary_octets: int
    described: dict[int, thrift.Value]
    statistics: thrift.Value

    def metadata(self, offset: int) -> thrift.Value:
        """ColumnMetaData, from the offset of the first page."""
        places = {
            7: thrift.i64(self.octets),
            9: thrift.i64(offset + self.dictionary_octets),
            11: thrift.i64(offset) if self.dictionary_octets else None,
            12: self.statistics,
        }
        return thrift.struct({**self.described, **places})


class ColumnWriter:
    """A column of a file. ``compress``: of pages, with the number that Parquet gives the method."""

    def __init__(self, field: Field, binary: bool, codec: int, compress: Compress | None) -> None:
        self.field = field
        self.physical = Physical.of(field, binary)
        self._codec, self._compress = codec, compress
        self._cells, self._numbers = TextCells(label_text, quoted=False), LabelNumbers()
        self._texts = RowWriter(b"", b"", b"", length=FIXED_LENGTH)
        self._dictionary = _Dictionary()
        self._bits = np.zeros(0, np.uint8)
        self._is_wide = False  # addresses: an IPv6 one has come
        self.reset()

    def reset(self) -> None:
        """Another file begins."""
        self._gave_up = False
        self._clear()

    def _clear(self) -> None:
        self._pages: list[bytes] = []
        self._dictionary.clear()
        self._uses_dictionary = not self._gave_up
        self._encodings: set[int] = {_RLE}
        self._rows = self._nulls = self._pending_nulls = self._size = 0
        self._least: int | None = None
        self._greatest: int | None = None
        self._labels: Any = None

    def takes(self, column: CommonColumn | None) -> bool:
        """Whether the codes of the column mean what those of this chunk mean."""
        return column is None or self._labels is None or self._labels is column.labels

    # -- pages -----------------------------------------------------------------------------------------------------

    def add(self, column: CommonColumn | None, n: int) -> None:
        """The next rows; no column: all null."""
        self._rows += n
        if column is None:
            self._nulls += n
            self._pending_nulls += n
            return
        self._flush_nulls()
        valid = column.valid
        if valid is not None:
            column = column._replace(values=column.values[valid], valid=None)
        column = column._replace(values=self._shaped(column))
        self._labels = column.labels
        self._nulls += n - len(column.values)
        levels = self._levels(n if valid is None else valid)
        codes = self._codes(column.values) if self._uses_dictionary and len(column.values) else None
        if codes is None:
            self._note(column)
            self._page(_DATA_PAGE, n, _PLAIN, levels + self._plain(column))
            return
        width = (self._dictionary.count - 1).bit_length()
        self._page(_DATA_PAGE, n, _RLE_DICTIONARY, b"".join((levels, bytes([width]), self._packed(codes, width))))

    def _shaped(self, column: CommonColumn) -> Array:
        """Contiguous; addresses all of one width."""
        values = contiguous(column)
        if self.field.type == "address":
            if values.ndim == 2 and not self._is_wide:
                self._is_wide = True
                if self._dictionary.count:
                    self._dictionary.widen()
            return wide_addresses(values) if self._is_wide else values
        return values

    def _codes(self, values: Array) -> Array | None:
        first = not self._dictionary.count
        codes = self._dictionary.add(values)
        if codes is None or (first and self._dictionary.count > len(values) // 2 > 64):
            self._gave_up, self._uses_dictionary = True, False  # nearly every value is a new one
            if first:
                self._dictionary.clear()
            return None
        return codes

    def _note(self, column: CommonColumn) -> None:
        """Least and greatest value, for readers that look for some rows."""
        if (self.field.type in _UNSIGNED or self.field.type == "time") and len(column.values):
            least, greatest = int(column.values.min()), int(column.values.max())
            self._least = least if self._least is None else min(least, self._least)
            self._greatest = greatest if self._greatest is None else max(greatest, self._greatest)

    def _levels(self, valid: Array | int) -> bytes:
        """Definition levels: one for each row, or so many ones."""
        if not self.field.nullable:
            return b""
        if isinstance(valid, int):
            run = thrift.varint(valid << 1) + b"\1"
        else:
            run = self._packed(valid.astype(np.uint16), 1)
        return len(run).to_bytes(4, "little") + run

    def _packed(self, codes: Array, width: int) -> bytes:
        room = (len(codes) + 7) // 8 * (width + 1) + 16
        if room > len(self._bits):
            self._bits = np.zeros(room, np.uint8)
        return self._bits[: pack(codes, width, self._bits)].tobytes()

    def _plain(self, column: CommonColumn) -> bytes:
        if self.physical.type == _INT32:
            return column.values.astype("<u4").tobytes()
        if self.physical.type == _FIXED:
            return fixed_octets(column).tobytes()
        if self.physical.type == _BYTE_ARRAY:
            shown = self._cells.cell(self.field.name, column)
            return self._texts.block((shown,), len(column.values))[0]
        if column.labels is None:
            return contiguous(column).tobytes()
        return self._numbers.values(self.field.name, column).tobytes()

    def _flush_nulls(self) -> None:
        n, self._pending_nulls = self._pending_nulls, 0
        if n:
            run = thrift.varint(n << 1) + b"\0"
            self._page(_DATA_PAGE, n, _PLAIN, len(run).to_bytes(4, "little") + run)

    def _page(self, kind: int, n: int, encoding: int, data: bytes) -> None:
        packed = data if self._compress is None else self._compress(data)
        head = {1: thrift.i32(n), 2: thrift.i32(encoding)}
        if kind == _DATA_PAGE:
            head |= {3: thrift.i32(_RLE), 4: thrift.i32(_RLE)}
        header = thrift.struct(
            {
                1: thrift.i32(kind),
                2: thrift.i32(len(data)),
                3: thrift.i32(len(packed)),
                5 if kind == _DATA_PAGE else 7: thrift.struct(head),
            }
        )[1]
        self._encodings.add(encoding)
        self._size += len(header) + len(data)
        self._pages += (header, packed)

    # -- the chunk -------------------------------------------------------------------------------------------------

    def finish(self) -> Chunk:
        """What was added since the last one."""
        self._flush_nulls()
        data_pages, self._pages = self._pages, []
        if self._dictionary.count:
            keys = CommonColumn(self.field.type, self._dictionary.values(), None, self._labels)
            self._note(keys)  # once for all rows that have codes
            self._page(_DICTIONARY_PAGE, self._dictionary.count, _PLAIN, self._plain(keys))
        first_octets = sum(map(len, self._pages))
        pages = self._pages + data_pages
        described = {
            1: thrift.i32(self.physical.type),
            2: thrift.items(thrift.i32(encoding) for encoding in sorted(self._encodings)),
            3: thrift.items([thrift.binary(self.field.name)]),
            4: thrift.i32(self._codec),
            5: thrift.i64(self._rows),
            6: thrift.i64(self._size),
        }
        chunk = Chunk(pages, sum(map(len, pages)), first_octets, described, self._statistics())
        self._clear()
        return chunk

    def _statistics(self) -> thrift.Value:
        found: dict[int, thrift.Value | None] = {3: thrift.i64(self._nulls)}
        if self._least is not None and self._greatest is not None:
            width, signed = (4 if self.physical.type == _INT32 else 8), self.field.type == "time"
            found[5] = thrift.binary(self._greatest.to_bytes(width, "little", signed=signed))
            found[6] = thrift.binary(self._least.to_bytes(width, "little", signed=signed))
        return thrift.struct(found)
