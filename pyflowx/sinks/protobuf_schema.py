"""The protobuf messages of flows: numbers and types of their fields, and the ``.proto`` text made from them."""

from __future__ import annotations

from typing import NamedTuple

from pyflowx.common import TABLE
from pyflowx.fill import FLOW_TYPES

ENRICHMENT = 38  # map<string, string>: behind the common columns

_TYPES = {"u64": "uint64", "time": "int64", "address": "bytes", "mac": "uint64", "label": "FlowType"}


class ProtoField(NamedTuple):
    """A field: the column that fills it, its name, number and type."""

    column: str
    name: str
    number: int
    type: str
    optional: bool = False


class ProtoSchema(NamedTuple):
    """A message. ``flow_types``: the value of its enum for each of :data:`~pyflowx.fill.FLOW_TYPES`."""

    package: str
    message: str
    fields: tuple[ProtoField, ...]
    enum: tuple[tuple[str, int], ...]
    flow_types: tuple[int, ...]
    enrichment: int | None = None


def _ours() -> ProtoSchema:
    fields = (
        ProtoField(column.name, column.name, number, _TYPES.get(column.type, "uint32"), column.nullable)
        for number, column in enumerate(TABLE, 1)
    )
    values = range(1, len(FLOW_TYPES) + 1)
    enum = (("FLOW_TYPE_UNSPECIFIED", 0), *zip(FLOW_TYPES, values, strict=True))
    return ProtoSchema("pyflowx", "Flow", tuple(fields), enum, tuple(values), ENRICHMENT)


# What GoFlow2 (version 2) calls our columns and the numbers that its fields have.
_GOFLOW2 = {
    "flow_type": 1,
    "sampling_rate": 3,
    "sequence_num": 4,
    "src_addr": 6,
    "dst_addr": 7,
    "bytes": 9,
    "packets": 10,
    "sampler_address": 11,
    "next_hop": 12,
    "src_as": 14,
    "dst_as": 15,
    "src_net": 16,
    "dst_net": 17,
    "in_if": 18,
    "out_if": 19,
    "proto": 20,
    "src_port": 21,
    "dst_port": 22,
    "ip_tos": 23,
    "ip_ttl": 25,
    "tcp_flags": 26,
    "src_mac": 27,
    "dst_mac": 28,
    "etype": 30,
    "icmp_type": 31,
    "icmp_code": 32,
    "src_vlan": 33,
    "dst_vlan": 34,
    "fragment_id": 35,
    "fragment_offset": 36,
    "ipv6_flow_label": 37,
    "observation_domain_id": 70,
    "bgp_next_hop": 100,
    "time_received_ns": 110,
    "time_flow_start_ns": 111,
    "time_flow_end_ns": 112,
}
_GOFLOW2_ENUM = (("FLOWUNKNOWN", 0), ("SFLOW_5", 1), ("NETFLOW_V5", 2), ("NETFLOW_V9", 3), ("IPFIX", 4))


def _goflow2() -> ProtoSchema:
    types = _TYPES | {"time": "uint64"}
    fields = (
        ProtoField(
            column.name,
            "type" if column.name == "flow_type" else column.name,
            _GOFLOW2[column.name],
            "uint64" if column.name == "sampling_rate" else types.get(column.type, "uint32"),
        )
        for column in TABLE
        if column.name in _GOFLOW2
    )
    values = dict(_GOFLOW2_ENUM) | {"SFLOW_V5": 1}
    flow_types = tuple(values.get(name, 0) for name in FLOW_TYPES)
    return ProtoSchema("flowpb", "FlowMessage", tuple(fields), _GOFLOW2_ENUM, flow_types)


SCHEMAS = {"pyflowx": _ours(), "goflow2": _goflow2()}

_NOTES = {
    "int64": "ns since 1970",
    "bytes": "4 octets (IPv4) or 16 (IPv6)",
}


def proto_text(name: str) -> str:
    """The ``.proto`` file of a schema."""
    schema = SCHEMAS[name]
    lines = [
        "// SPDX-License-Identifier: BSD-3-Clause",
        "// Written by `pyflowx schema`. In a file each message has its length as a varint before it.",
        'syntax = "proto3";',
        "",
        f"package {schema.package};",
        "",
        f"message {schema.message} {{",
        "  enum FlowType {",
        *(f"    {value} = {number};" for value, number in schema.enum),
        "  }",
        "",
    ]
    for field in schema.fields:
        note = f"  // {_NOTES[field.type]}" if field.type in _NOTES else ""
        lines.append(f"  {'optional ' * field.optional}{field.type} {field.name} = {field.number};{note}")
    if schema.enrichment is not None:
        lines.append(f"  map<string, string> enrichment = {schema.enrichment};  // columns that were added, by name")
    return "\n".join([*lines, "}", ""])
