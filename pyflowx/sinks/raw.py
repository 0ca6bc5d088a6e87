"""Export messages as JSON, one line a message, with everything that the exporter sent.

A line has the fields of the header first, by the protocol's names, then who sent it and when, then its Sets in
their order::

    {"version": 10, "length": 132, ..., "protocol": "IPFIX", "exporter_address": "192.0.2.1", "exporter_port": 4739,
     "time_received": "2026-11-05T18:31:01.135000000", "sets": [
       {"id": 2, "templates": [{"template_id": 256, "fields": [{"pen": 0, "id": 8, "name": ..., "length": 4}, ...]}]},
       {"id": 256, "records": [{"sourceIPv4Address": "10.0.0.1", ...}, ...]},
       {"id": 258, "scope": ["meteringProcessId"], "records": [{"meteringProcessId": 1, ...}, ...]},
       {"id": 300, "held": true, "octets": "0001..."}]}

``scope`` names the scope fields of options records. ``held``: the Template may still come; the records
then appear in a line of their own, which repeats the header and says ``"late": true``. sFlow has samples
where the others have Sets; records of protocols without Templates have no ``id``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from pyflowx import text
from pyflowx.batch import Array, FlowBatch
from pyflowx.decoded import Decoded, Messages, OpaqueSet, Protocol, ReceivedTemplate, TemplateRecord
from pyflowx.sinks import Encoder, Piece
from pyflowx.sinks.records import Records, field_names
from pyflowx.sinks.rows import Cell, RowWriter, Value, cell, json_key

_WRITE = 1 << 20  # octets that are handed to the target at once
Item = tuple[int, int, bytes]  # row in Messages, octet offset of a Set in the message, its JSON


def _number(values: Array) -> Value:
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    return Value("a", True, native) if native.ndim == 2 else Value(native.dtype.kind, False, native)


def _head_cells(protocol: Protocol, messages: Messages) -> tuple[Cell, ...]:
    cells = [cell(json_key(name), _number(values)) for name, values in messages.header.items()]
    n = len(messages)
    code = np.broadcast_to(np.uint8(0), n)
    received = text.iso_times(messages.received_ns)
    late = Value("l", False, code, (b"true",), messages.packet < 0)
    cells += [
        cell(json_key("protocol"), Value("l", True, code, (protocol.name.encode(),))),
        cell(json_key("exporter_address"), _number(messages.exporter)),
        cell(json_key("exporter_port"), _number(messages.port)),
        cell(json_key("time_received"), Value.text(received, quoted=True)),
        cell(json_key("late"), late),
    ]
    return tuple(cells)


def _template(record: TemplateRecord) -> dict[str, Any]:
    shown: dict[str, Any] = {"template_id": record.template_id}
    if record.is_withdrawal:
        return shown | {"withdrawal": True}
    if record.scope_count:
        shown["scope_count"] = record.scope_count
    shown["fields"] = [
        {
            "pen": field.element.pen,
            "id": field.element.id,
            "name": field.element.name,
            "type": field.element.data_type.name,
            "length": field.length,
        }
        for field in record.fields
    ]
    return shown


def _templates(received: list[ReceivedTemplate]) -> Iterator[Item]:
    """The Template Records, those of one Set together."""
    sets: dict[tuple[int, int, int], list[TemplateRecord]] = {}
    for template in received:
        sets.setdefault((template.message, template.set_offset, template.set_id), []).append(template.record)
    for (message, offset, set_id), records in sets.items():
        shown = {"id": set_id, "templates": [_template(record) for record in records]}
        yield message, offset, json.dumps(shown, separators=(",", ":")).encode()


def _opaque(opaque: list[OpaqueSet]) -> Iterator[Item]:
    for item in opaque:
        held = b"true" if item.held else b"false"
        shown = b'{"id":%d,"held":%s,"octets":"%s"}' % (item.set_id, held, item.octets.hex().encode())
        yield item.message, item.set_offset, shown


def _records(flows: FlowBatch, records: Records) -> Iterator[Item]:
    """The Data Records, those of one Set together: rows of one Set stand side by side."""
    if not len(flows):
        return
    block, ends = records.block(flows)
    changed = (np.diff(flows.message) != 0) | (np.diff(flows.set_offset) != 0)
    first = np.concatenate([[0], np.flatnonzero(changed) + 1])
    stop = np.append(first[1:], len(flows))
    places = (flows.message[first], flows.set_offset[first], flows.template_id[first])
    begins = np.where(first > 0, ends[first - 1], 0)
    scope = b""
    if flows.scope_count:
        names = field_names(flows.fields)[: flows.scope_count]
        scope = b'"scope":%s,' % json.dumps(names, separators=(",", ":")).encode()
    for message, offset, set_id, begin, end in zip(
        *(column.tolist() for column in (*places, begins, ends[stop - 1])), strict=True
    ):
        id = b'"id":%d,' % set_id if set_id else b""
        yield message, offset, b'{%s%s"records":[%s]}' % (id, scope, block[begin : end - 1])


def lines(decoded: Decoded) -> Iterator[bytes]:
    """The messages of a Decoded, each a line."""
    heads = RowWriter(b"{", b",", b',"sets":[', capacity=1 << 16)
    head, head_ends = heads.block(_head_cells(decoded.protocol, decoded.messages), len(decoded.messages))
    sets: list[list[tuple[int, bytes]]] = [[] for _ in range(len(decoded.messages))]
    for message, offset, shown in _templates(decoded.templates):
        sets[message].append((offset, shown))
    for message, offset, shown in _opaque(decoded.opaque):
        sets[message].append((offset, shown))
    records = Records()
    for flows in decoded.flows:
        for message, offset, shown in _records(flows, records):
            sets[message].append((offset, shown))
    begin = 0
    for end, found in zip(head_ends.tolist(), sets, strict=True):
        found.sort(key=lambda item: item[0])
        yield head[begin:end] + b",".join([shown for _, shown in found]) + b"]}\n"
        begin = end


class RawNdjson(Encoder[Decoded]):
    """Lines of messages."""

    suffix = ".ndjson"

    def count(self, batch: Decoded) -> int:
        return len(batch.messages)

    def encode(self, batch: Decoded) -> Iterator[Piece]:
        pending: list[bytes] = []
        size = 0
        for line in lines(batch):
            pending.append(line)
            size += len(line)
            if size >= _WRITE:
                yield len(pending), b"".join(pending)
                pending, size = [], 0
        if pending:
            yield len(pending), b"".join(pending)
