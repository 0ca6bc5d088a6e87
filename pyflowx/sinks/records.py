"""Records of a FlowBatch as JSON objects with the names of their elements: the inner part of raw output.

Values follow RFC 7373. Numbers stay numbers; octets without a better reading are hex; an element that
a record has several times is an array; two elements of a record with one name are told apart as
``<pen>/<id>``. Structured data (RFC 6313) is nested::

    {"semantic": "allOf", "<name>": [...]}                         basicList
    {"semantic": "ordered", "template_id": 300, "records": [...]}  subTemplateList
    {"semantic": "allOf", "lists": [...]}                          subTemplateMultiList
"""

from __future__ import annotations

import json
from collections import Counter

import numpy as np

from pyflowx import text
from pyflowx.batch import I64, Array, Column, FlowBatch, Octets
from pyflowx.elements import DataType, FieldSpecifier
from pyflowx.sinks.rows import Cell, RowWriter, Value, cell, json_key, json_string
from pyflowx.wire.structured import SEMANTICS, BasicList, MultiList, RecordList, UnreadList

Block = tuple[bytes, I64]  # the JSON of all rows, a comma behind each, and where each ends
_PIECE = 1 << 16  # octets; pieces are joined, so a small buffer does
_KINDS = {"ipv4Address": "4", "ipv6Address": "6", "macAddress": "m"}


def field_names(fields: tuple[FieldSpecifier, ...]) -> list[str]:
    """The key of each field in a record: its element's name, its identity where another element has that name."""
    identities = {(field.element.pen, field.element.id, field.element.name) for field in fields}
    uses = Counter(name for _, _, name in identities)
    return [
        field.element.name if uses[field.element.name] == 1 else f"{field.element.pen}/{field.element.id}"
        for field in fields
    ]


def value(data_type: DataType, column: Column, nested: Records) -> Value:
    """A column as JSON."""
    if isinstance(column, Octets):
        if data_type.name == "string":
            return Value.text(text.strings(column, json_string))
        if data_type.name == "unsigned256":
            return Value.text(text.unsigned256(column))
        return Value.text(text.hexadecimal(column), quoted=True)
    if data_type.is_time:
        times, valid = text.times(data_type, column)
        return Value.text(times, quoted=True) if valid.all() else Value.text(_quoted_where(valid, times))
    if data_type.is_list:
        return Value.text(Octets.of([nested.structured(item) for item in column.tolist()]))
    if column.dtype.kind == "f":
        finite = np.isfinite(column)
        return Value.text(_quoted_where(~finite, text.numbers(column)))
    if data_type.name == "boolean":
        return Value.text(text.booleans(column))
    kind = _KINDS.get(data_type.name)
    return Value(kind or column.dtype.kind, kind is not None, column)


def _quoted_where(mask: Array, column: Octets) -> Octets:
    if not mask.any():
        return column
    pairs = zip(mask.tolist(), column.tolist(), strict=True)
    return Octets.of([b'"' + row + b'"' if quote else row for quote, row in pairs])


class Records:
    """Renders records; keeps what lists of one batch share, so one instance serves one decode call."""

    def __init__(self) -> None:
        self._objects = RowWriter(b"{", b",", b"},", capacity=_PIECE)
        self._values = RowWriter(b"", b",", b",", capacity=_PIECE)
        self._blocks: dict[tuple[int, str], Block] = {}
        self._kept: list[FlowBatch] = []  # ids in _blocks stay theirs as long as they live

    def block(self, flows: FlowBatch) -> Block:
        """Each record as a JSON object."""
        return self._objects.block(self._cells(flows), len(flows))

    def _cells(self, flows: FlowBatch) -> tuple[Cell, ...]:
        groups: dict[str, list[Value]] = {}
        for name, field, column in zip(field_names(flows.fields), flows.fields, flows.columns, strict=True):
            groups.setdefault(name, []).append(value(field.element.data_type, column, self))
        cells: list[Cell] = []
        for name, values in groups.items():
            key = json_key(name)
            if len(values) == 1:
                cells.append(cell(key, values[0]))
                continue
            cells += [
                cell(b"" if i else key + b"[", item, b"]" if i == len(values) - 1 else b"")
                for i, item in enumerate(values)
            ]
        return tuple(cells)

    def structured(self, item: object) -> bytes:
        """One item of a column of lists."""
        if isinstance(item, BasicList):
            values = self._slice(item.batch, "values", item.start, item.stop)
            return _semantic(item.semantic) + json_key(item.field.element.name) + b"[" + values + b"]}"
        if isinstance(item, RecordList):
            head = b'%s"template_id":%d,' % (_semantic(item.semantic), item.template_id)
            if item.batch is None:
                return head + b'"octets":"' + item.octets.hex().encode() + b'"}'
            return head + b'"records":[' + self._slice(item.batch, "records", item.start, item.stop) + b"]}"
        if isinstance(item, MultiList):
            lists = b",".join(self.structured(part) for part in item.lists)
            return _semantic(item.semantic) + b'"lists":[' + lists + b"]}"
        assert isinstance(item, UnreadList)
        return b'{"octets":"' + item.octets.hex().encode() + b'"}'

    def _slice(self, batch: FlowBatch, form: str, start: int, stop: int) -> bytes:
        """Some rows of a batch that many lists share."""
        if start == stop:
            return b""
        found = self._blocks.get((id(batch), form))
        if found is None:
            found = self.block(batch) if form == "records" else self._value_block(batch)
            self._blocks[id(batch), form] = found
            self._kept.append(batch)
        block, ends = found
        return block[ends[start - 1] if start else 0 : ends[stop - 1] - 1]

    def _value_block(self, batch: FlowBatch) -> Block:
        item = value(batch.fields[0].element.data_type, batch.columns[0], self)
        return self._values.block((cell(b"", item),), len(batch))


def _semantic(code: int) -> bytes:
    return b'{"semantic":%s,' % json.dumps(SEMANTICS.get(code, code)).encode()
