"""NetFlow v1, v5 and v7 (Cisco, "NetFlow Export Datagram Format"): constant layouts, IPv4 only.

A datagram is a header and ``count`` records of one size, so the records of all datagrams are joined
into one array and each field is one strided view of it. Columns carry the names of the Information Elements
of the same meaning; what IANA has no element for (v7's flags) carries an id no Template can have. Bytes
that the formats call padding are not kept.

Header fields in ``Messages.header``: version, count, sys_uptime (ms), unix_secs, unix_nsecs, and for v5
flow_sequence, engine_type, engine_id, sampling_mode (the two upper bits of the sampling field),
sampling_interval (the 14 lower ones), for v7 flow_sequence and reserved. ``observation_domain_id`` is
``engine_type << 8 | engine_id``, 0 in v1 and v7. flowStartSysUpTime and flowEndSysUpTime stay in the
exporter's milliseconds; ``boot_ns`` says when these were 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pyflowx.batch import I32, I64, U8, Array, Datagrams, FlowBatch, Octets, PacketBatch
from pyflowx.decoded import Decoded, Messages, OpaqueSet, Problems, Protocol, Reason
from pyflowx.elements import CISCO_PEN, DATA_TYPES, FieldSpecifier, InformationElement, default_registry
from pyflowx.errors import EncodeError
from pyflowx.wire.encoding import Templates

_NO_TEMPLATE = 1 << 16  # added to an id that must never meet one of a Template

V7_FLAGS_1 = InformationElement(CISCO_PEN, _NO_TEMPLATE | 1, "netflow7InvalidFields1", DATA_TYPES["unsigned8"], "flags")
V7_FLAGS_2 = InformationElement(
    CISCO_PEN, _NO_TEMPLATE | 2, "netflow7InvalidFields2", DATA_TYPES["unsigned16"], "flags"
)


class Format(NamedTuple):
    """One version: dtypes of header and record, and the record's fields with their octet offsets."""

    protocol: Protocol
    header: np.dtype[np.void]
    record_length: int
    fields: tuple[FieldSpecifier, ...]
    offsets: tuple[int, ...]

    @property
    def is_sequenced(self) -> bool:
        return "flow_sequence" in (self.header.names or ())


_Rows = list[tuple[int, str | InformationElement, int]]  # octet offset, element, octets

_ADDRESSES: _Rows = [(0, "sourceIPv4Address", 4), (4, "destinationIPv4Address", 4), (8, "ipNextHopIPv4Address", 4)]
_COUNTERS: _Rows = [
    (12, "ingressInterface", 2),
    (14, "egressInterface", 2),
    (16, "packetDeltaCount", 4),
    (20, "octetDeltaCount", 4),
    (24, "flowStartSysUpTime", 4),
    (28, "flowEndSysUpTime", 4),
    (32, "sourceTransportPort", 2),
    (34, "destinationTransportPort", 2),
]
_ROUTING: _Rows = [
    (37, "tcpControlBits", 1),
    (38, "protocolIdentifier", 1),
    (39, "ipClassOfService", 1),
    (40, "bgpSourceAsNumber", 2),
    (42, "bgpDestinationAsNumber", 2),
    (44, "sourceIPv4PrefixLength", 1),
    (45, "destinationIPv4PrefixLength", 1),
]
_V1_TAIL: _Rows = [(38, "protocolIdentifier", 1), (39, "ipClassOfService", 1), (40, "tcpControlBits", 1)]
_V7_TAIL: _Rows = [
    (36, V7_FLAGS_1, 1),
    *_ROUTING,
    (46, V7_FLAGS_2, 2),
    (48, "ipv4RouterSc", 4),
]

_TIMES = [("version", ">u2"), ("count", ">u2"), ("sys_uptime", ">u4"), ("unix_secs", ">u4"), ("unix_nsecs", ">u4")]
_V5_HEADER = [("flow_sequence", ">u4"), ("engine_type", "u1"), ("engine_id", "u1"), ("sampling", ">u2")]
_V7_HEADER = [("flow_sequence", ">u4"), ("reserved", ">u4")]


def _format(
    protocol: Protocol,
    header: list[tuple[str, str]],
    length: int,
    layout: _Rows,
) -> Format:
    registry = default_registry()
    fields = [
        registry.field(element, width) if isinstance(element, str) else FieldSpecifier(element, width)
        for _, element, width in layout
    ]
    return Format(protocol, np.dtype(header), length, tuple(fields), tuple(row[0] for row in layout))


_LAYOUTS = {
    1: (Protocol.NETFLOW_V1, _TIMES, 48, [*_ADDRESSES, *_COUNTERS, *_V1_TAIL]),
    5: (Protocol.NETFLOW_V5, [*_TIMES, *_V5_HEADER], 48, [*_ADDRESSES, *_COUNTERS, *_ROUTING]),
    7: (Protocol.NETFLOW_V7, [*_TIMES, *_V7_HEADER], 52, [*_ADDRESSES, *_COUNTERS, *_V7_TAIL]),
}
VERSIONS = tuple(_LAYOUTS)


class _Formats(dict[int, Format]):
    """Made when first asked for: an import must not read the registry of elements."""

    def __missing__(self, version: int) -> Format:
        self[version] = _format(*_LAYOUTS[version])
        return self[version]


FORMATS = _Formats()  # by version


def decode(packets: PacketBatch, rows: I32, state: object, now_ns: int, problems: Problems) -> Decoded:
    """The datagrams ``rows`` of ``packets``, all of one of the versions 1, 5 and 7 (the first says which).

    ``state`` and ``now_ns`` are not used. One FlowBatch with the fields of the version; set_offset is
    where the records of the datagram begin. A ``count`` that disagrees with the length is BAD_COUNT: the
    records that are there (at most ``count``) are decoded, other octets become an OpaqueSet.
    """
    version = int(packets.data[rows[0], 1]) if len(rows) and packets.data.shape[1] > 1 else 5
    form = FORMATS[version if version in VERSIONS else 5]
    size = form.header.itemsize
    length = packets.length[rows].astype(np.int64)
    short = length < size
    problems.add(rows[short], length[short], Reason.TRUNCATED_HEADER)
    if short.any():
        rows, length = rows[~short], length[~short]
    if not len(rows):
        empty = np.zeros(0, form.header)
        return Decoded(form.protocol, _messages(form, packets, rows, empty))
    header = np.ascontiguousarray(packets.data[rows, :size]).view(form.header)[:, 0]
    whole = (length - size) // form.record_length
    count = np.minimum(header["count"], whole)
    end = size + count * form.record_length
    bad = (count != header["count"]) | (end != length)
    problems.add(rows[bad], end[bad], Reason.BAD_COUNT)
    decoded = Decoded(form.protocol, _messages(form, packets, rows, header))
    for message in np.flatnonzero(end < length).tolist():
        octets = packets.data[rows[message], end[message] : length[message]].tobytes()
        decoded.opaque.append(OpaqueSet(message, int(end[message]), 0, octets, held=False))
    if count.any():
        decoded.flows.append(_flows(form, packets, rows, count))
    return decoded


def _messages(form: Format, packets: PacketBatch, rows: I32, header: Array) -> Messages:
    fields = {name: header[name].astype(header[name].dtype.newbyteorder("=")) for name in form.header.names or ()}
    domain = np.zeros(len(rows), np.uint32)
    if "engine_id" in fields:
        sampling = fields.pop("sampling")
        fields["sampling_mode"] = sampling >> 14
        fields["sampling_interval"] = sampling & 0x3FFF
        domain = fields["engine_type"].astype(np.uint32) << 8 | fields["engine_id"]
    export_ns = fields["unix_secs"].astype(np.int64) * 1_000_000_000 + fields["unix_nsecs"]
    return Messages(
        packet=rows.astype(np.int32),
        exporter=packets.exporter[rows],
        port=packets.port[rows],
        received_ns=packets.received_ns[rows],
        header=fields,
        sequence_number=fields["flow_sequence"] if form.is_sequenced else np.zeros(len(rows), np.uint32),
        observation_domain_id=domain,
        export_ns=export_ns,
        boot_ns=export_ns - fields["sys_uptime"].astype(np.int64) * 1_000_000,
    )


def _flows(form: Format, packets: PacketBatch, rows: I32, count: I64) -> FlowBatch:
    size, width, most = form.header.itemsize, form.record_length, int(count.max())
    area = packets.data[:, size : size + most * width]
    if len(rows) != len(packets):
        area = area[rows]
    records = area.view(f"V{width}")  # (n, most): the last axis is contiguous
    records = records.reshape(-1) if (count == most).all() else records[np.arange(most) < count[:, None]]
    cells = np.ascontiguousarray(records).view(np.uint8).reshape(-1, width)
    columns = [
        field.element.data_type.to_column(cells[:, at : at + field.length])
        for field, at in zip(form.fields, form.offsets, strict=True)
    ]
    message = np.repeat(np.arange(len(rows), dtype=np.int32), count)
    n = len(message)
    return FlowBatch(form.fields, list(columns), message, np.full(n, size, np.int32), np.zeros(n, np.uint16))


class Encoder:
    """Flows to datagrams of version 1, 5 or 7; ``decode(encode(flows)) == flows`` for the version's fields.

    ``observation_domain_id``: engine type and id in its two low octets (v5 only). ``boot_ns``: when
    sysUptime was 0. ``sampling``: the mode in two bits and the interval in 14 (v5 only). A datagram holds
    at most 30 records in v5 and what fits in ``max_octets``.
    """

    def __init__(
        self, observation_domain_id: int = 1, max_octets: int = 1400, version: int = 5, boot_ns: int = 0
    ) -> None:
        if version not in VERSIONS:
            raise EncodeError(f"no NetFlow version {version} here; use {', '.join(map(str, VERSIONS))}")
        if version == 5 and not 0 <= observation_domain_id <= 0xFFFF:
            raise EncodeError(f"a v5 engine has 16 bits, not {observation_domain_id}; use 0 to 65535")
        self.form = FORMATS[version]
        self.observation_domain_id = observation_domain_id
        self.boot_ns = boot_ns
        self.sampling = 0
        self.with_templates = 0  # as other encoders have it
        self.sequence_number = 0
        fits = (max_octets - self.form.header.itemsize) // self.form.record_length
        self.max_records = min(fits, 30) if version == 5 else min(fits, 0xFFFF)
        if self.max_records < 1:
            raise EncodeError(f"max_octets {max_octets} holds no record")

    def register(self, fields: tuple[FieldSpecifier, ...], scope_count: int = 0) -> int:
        """Checks that the version can carry ``fields`` (each at most once, in any order); always 0."""
        known = {field.element[:2] for field in self.form.fields}
        names = [field.element.name for field in fields]
        for field in fields:
            if field.element[:2] not in known:
                raise EncodeError(f"{self.form.protocol.name} cannot carry {field.element.name}")
        if scope_count or len(set(names)) != len(names):
            raise EncodeError(f"{self.form.protocol.name} carries neither options nor an element twice")
        return 0

    def template_messages(self, export_ns: int) -> Datagrams:
        """None: the layout is constant."""
        return Datagrams(np.zeros((0, self.form.header.itemsize), np.uint8), np.zeros(0, np.int32))

    def encode(self, flows: FlowBatch, export_ns: int, records_per_message: int | None = None) -> Datagrams:
        """One row a flow; fields that ``flows`` does not have are 0. EncodeError for values that do not fit."""
        per = self.max_records if records_per_message is None else records_per_message
        if not 1 <= per <= self.max_records:
            raise EncodeError(f"{per} records do not fit in a datagram; use 1 to {self.max_records}")
        return self._datagrams(self._records(flows), export_ns, per)

    def encode_all(self, batches: Sequence[FlowBatch], export_ns: int, templates: Templates = "none") -> Datagrams:
        """The rows of several batches, in order; there are no Templates. Errors as in :meth:`encode`."""
        records = [self._records(flows) for flows in batches]
        empty = np.zeros((0, self.form.record_length), np.uint8)
        return self._datagrams(np.concatenate([empty, *records]), export_ns, self.max_records)

    def _records(self, flows: FlowBatch) -> U8:
        """``(n, record_length)`` octets."""
        self.register(flows.fields, flows.scope_count)
        records = np.zeros((len(flows), self.form.record_length), np.uint8)
        for field, at in zip(self.form.fields, self.form.offsets, strict=True):
            column = flows.find(field.element.pen, field.element.id)
            if column is not None and not isinstance(column, Octets):
                records[:, at : at + field.length] = field.element.data_type.to_wire(column, field.length)
        return records

    def _datagrams(self, records: U8, export_ns: int, per: int) -> Datagrams:
        size, width, n = self.form.header.itemsize, self.form.record_length, len(records)
        messages = -(-n // per)
        data = np.zeros((messages, size + per * width), np.uint8)
        whole = n // per
        data[:whole, size:] = records[: whole * per].reshape(whole, per * width)
        count = np.full(messages, per, np.int64)
        if whole < messages:
            count[-1] = n - whole * per
            data[-1, size : size + int(count[-1]) * width] = records[whole * per :].reshape(-1)
        data[:, :size] = self._headers(count, export_ns)
        return Datagrams(data, (size + count * width).astype(np.int32))

    def _headers(self, count: I64, export_ns: int) -> Array:
        header = np.zeros(len(count), self.form.header)
        header["version"] = self.form.protocol
        header["count"] = count
        header["sys_uptime"] = (export_ns - self.boot_ns) // 1_000_000 & 0xFFFFFFFF
        header["unix_secs"] = export_ns // 1_000_000_000 & 0xFFFFFFFF
        header["unix_nsecs"] = export_ns % 1_000_000_000
        if self.form.is_sequenced:
            header["flow_sequence"] = (self.sequence_number + np.cumsum(count) - count) & 0xFFFFFFFF
            self.sequence_number = (self.sequence_number + int(count.sum())) & 0xFFFFFFFF
        if self.form.protocol is Protocol.NETFLOW_V5:
            header["engine_type"], header["engine_id"] = divmod(self.observation_domain_id, 256)
            header["sampling"] = self.sampling
        return header.view(np.uint8).reshape(len(count), self.form.header.itemsize)
