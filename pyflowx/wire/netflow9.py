"""NetFlow version 9 (RFC 3954), both ways.

Header fields in Messages: version, count, sys_uptime (ms), unix_secs, sequence_number (of export packets),
source_id. The count is not checked: exporters disagree on what it counts, and nothing depends on it.

Scope types 1 to 5 appear as the elements of :data:`pyflowx.wire.sets.SCOPE_ELEMENTS`; times in columns stay as the wire
has them (sysUptime for elements 21 and 22: add ``boot_ns``).
"""

from __future__ import annotations

import struct

import numpy as np

from pyflowx.batch import I32, I64, U8, PacketBatch
from pyflowx.decoded import Decoded, Messages, Problems, TemplateRecord
from pyflowx.elements import CISCO_PEN, IANA_PEN, FieldSpecifier
from pyflowx.errors import EncodeError
from pyflowx.wire.decoding import decode_sets, native, read_heads
from pyflowx.wire.encoding import TemplateEncoder
from pyflowx.wire.sets import SCOPE_ELEMENTS, Dialect, read_v9_template
from pyflowx.wire.template import TemplateStore

HEADER = np.dtype(
    [
        ("version", ">u2"),
        ("count", ">u2"),
        ("sys_uptime", ">u4"),
        ("unix_secs", ">u4"),
        ("sequence_number", ">u4"),
        ("source_id", ">u4"),
    ]
)
NETFLOW_V9 = Dialect(9, HEADER.itemsize, 0, 1, False, read_v9_template)
_NS = 1_000_000_000
_MS = 1_000_000


def decode(packets: PacketBatch, rows: I32, state: TemplateStore, now_ns: int, problems: Problems) -> Decoded:
    """Decode the datagrams in ``rows``, one export packet each."""
    rows, heads = read_heads(packets, rows, HEADER, problems)
    header = native(heads)
    export_ns = header["unix_secs"].astype(np.int64) * _NS
    messages = Messages(
        rows,
        packets.exporter[rows],
        packets.port[rows],
        packets.received_ns[rows],
        header,
        header["sequence_number"],
        header["source_id"],
        export_ns,
        export_ns - header["sys_uptime"].astype(np.int64) * _MS,
    )
    octets = np.minimum(packets.length[rows], packets.data.shape[1]).astype(np.int64)
    return decode_sets(NETFLOW_V9, packets, messages, octets, state, now_ns, problems)


class Encoder(TemplateEncoder):
    """Export packets of one Source ID; the sequence number counts packets.

    ``boot_ns`` is when sysUptime was 0 (a multiple of a millisecond; by default the second of the first packet):
    elements 21 and 22 count from there.
    """

    dialect = NETFLOW_V9
    alignment = 4

    def __init__(self, observation_domain_id: int = 1, max_octets: int = 1400, boot_ns: int | None = None) -> None:
        super().__init__(observation_domain_id, max_octets)
        self.boot_ns = boot_ns

    def _template_record(self, record: TemplateRecord) -> bytes:
        pairs = b"".join(
            struct.pack(">HH", _type(field, index < record.scope_count), field.length)
            for index, field in enumerate(record.fields)
        )
        if not record.scope_count:
            return struct.pack(">HH", record.template_id, len(record.fields)) + pairs
        scopes = 4 * record.scope_count
        return struct.pack(">HHH", record.template_id, scopes, len(pairs) - scopes) + pairs

    def _header(self, octets: I64, records: I64, data_records: I64, export_ns: int) -> U8:
        seconds = export_ns // _NS
        if self.boot_ns is None:
            self.boot_ns = seconds * _NS
        heads = np.zeros(len(octets), HEADER)
        heads["version"], heads["count"] = NETFLOW_V9.version, records
        heads["sys_uptime"] = (seconds * _NS - self.boot_ns) // _MS % (1 << 32)
        heads["unix_secs"] = seconds % (1 << 32)
        heads["sequence_number"] = (self.sequence_number + np.arange(len(heads))) % (1 << 32)
        heads["source_id"] = self.observation_domain_id
        self.sequence_number = (self.sequence_number + len(heads)) % (1 << 32)
        return heads.view(np.uint8).reshape(len(heads), HEADER.itemsize)


_SCOPE_TYPES = {id: type for type, id in SCOPE_ELEMENTS.items()}


def _type(field: FieldSpecifier, is_scope: bool) -> int:
    """The field type or scope type that is read back as this element."""
    element, length = field
    if not 0 <= length < 0xFFFF:
        raise EncodeError(f"{element.name}: NetFlow v9 has fixed lengths of up to 65534 octets only")
    if element.pen == IANA_PEN and is_scope and element.id in _SCOPE_TYPES:
        return _SCOPE_TYPES[element.id]
    if element.pen == IANA_PEN and 0 <= element.id <= 0xFFFF and not (is_scope and element.id in SCOPE_ELEMENTS):
        return element.id
    if element.pen == CISCO_PEN and 0 <= element.id < 0x8000 and element.name != f"{CISCO_PEN}/{element.id}":
        return element.id | 0x8000
    raise EncodeError(f"{element.name} ({element.pen}/{element.id}) has no number in NetFlow v9; use IPFIX")
