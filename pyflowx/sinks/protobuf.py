"""Flows in the common schema as protobuf messages, each with its length as a varint before it.

A null is a field that is not there. Addresses are 4 octets (IPv4, also where it was IPv4-mapped) or 16, MAC
addresses and times numbers. Columns that were added are entries of a map, as text.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from pyflowx.batch import Octets
from pyflowx.common import CommonBatch
from pyflowx.fill import CommonColumn
from pyflowx.sinks import Encoder, Piece
from pyflowx.sinks.cells import TextCells
from pyflowx.sinks.labels import JointTexts, LabelTexts, together
from pyflowx.sinks.protobuf_schema import ProtoField, ProtoSchema
from pyflowx.sinks.rows import VARINT_LENGTH, Cell, RowWriter, Value, cell

_VARINT, _LENGTH_DELIMITED = 0, 2  # wire types


def varint(value: int) -> bytes:
    octets = bytearray()
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def _delimited(octets: bytes) -> bytes:
    return varint(len(octets)) + octets


def _tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def label_text(label: str | int | float) -> bytes:
    return str(label).encode()


class CommonProtobuf(Encoder[CommonBatch]):
    """Messages of flows."""

    suffix = ".pb"
    appends = False  # nothing in a file says where the last message that is whole ends

    def __init__(self, schema: ProtoSchema) -> None:
        self._schema = schema
        self._fields = {field.column: field for field in schema.fields}
        self._flow_types = tuple(varint(value) for value in schema.flow_types)
        self._writer = RowWriter(b"", b"", b"", length=VARINT_LENGTH)
        self._text = TextCells(label_text, quoted=False)
        self._entries: dict[str, LabelTexts] = {}
        self._joint = JointTexts(self._label, b"", nulls=False)

    def encode(self, batch: CommonBatch) -> Iterator[Piece]:
        cells = []
        for run in together(batch.columns.items()):
            if len(run) > 1:
                cells += [] if self._schema.enrichment is None else [cell(b"", self._joint.value(run))]
                continue
            name, column = run[0]
            field = self._fields.get(name)
            if field is not None:
                cells.append(self._cell(field, column))
            elif self._schema.enrichment is not None:
                cells.append(self._entry(self._schema.enrichment, name, column, len(batch)))
        return self._writer.chunks(tuple(cells), len(batch))

    def _label(self, name: str, label: str | int | float) -> bytes:
        assert self._schema.enrichment is not None
        tag, head = _heads(self._schema.enrichment, name)
        return tag + _label_entry(head, label)

    def _cell(self, field: ProtoField, column: CommonColumn) -> Cell:
        if field.type == "FlowType":
            value = Value("l", False, column.values, self._flow_types, column.valid)
        elif field.type == "bytes":
            value = Value("b" if column.values.ndim == 1 else "B", False, column.values, None, column.valid)
        else:
            value = Value("v", False, column.values, None, column.valid)
        return cell(_tag(field.number, _LENGTH_DELIMITED if field.type == "bytes" else _VARINT), value)

    def _entry(self, number: int, name: str, column: CommonColumn, n: int) -> Cell:
        """A map entry: a message with the name as its field 1 and the text of the value as its field 2."""
        tag, head = _heads(number, name)
        if column.labels is not None:
            texts = self._entries.setdefault(name, LabelTexts(functools.partial(_label_entry, head)))
            return cell(b"", texts.value(name, column, tag))
        values = self._text.value(name, column)._replace(valid=None)
        inner = _rows(RowWriter(b"", b"", b"", length=VARINT_LENGTH), values, n)
        entries = _rows(RowWriter(head, b"", b"", length=VARINT_LENGTH), Value.text(inner), n)
        return cell(tag, Value.text(entries)._replace(valid=column.valid))


@functools.lru_cache(maxsize=1024)  # names come from options
def _heads(number: int, name: str) -> tuple[bytes, bytes]:
    """Of a map entry: what stands before its length, and behind it before the length of the value."""
    head = _tag(1, _LENGTH_DELIMITED) + _delimited(name.encode()) + _tag(2, _LENGTH_DELIMITED)
    return _tag(number, _LENGTH_DELIMITED), head


def _label_entry(head: bytes, label: str | int | float) -> bytes:
    return _delimited(head + _delimited(label_text(label)))


def _rows(writer: RowWriter, value: Value, n: int) -> Octets:
    block, ends = writer.block((cell(b"", value),), n)
    starts = np.concatenate([np.zeros(min(n, 1), np.int64), ends[:-1]])
    return Octets(np.frombuffer(block, np.uint8), starts, ends - starts)
