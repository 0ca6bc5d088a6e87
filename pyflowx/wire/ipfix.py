"""IPFIX (RFC 7011), both ways.

Header fields in Messages: version, length, export_time (seconds), sequence_number (of the first Data Record,
modulo 2^32), observation_domain_id.
"""

from __future__ import annotations

import struct

import numpy as np

from pyflowx.batch import I32, I64, U8, Datagrams, PacketBatch
from pyflowx.decoded import Decoded, Messages, OpaqueSet, Problems, Reason, TemplateRecord
from pyflowx.elements import VARIABLE_LENGTH
from pyflowx.errors import EncodeError
from pyflowx.wire.decoding import decode_sets, native, read_heads
from pyflowx.wire.encoding import TemplateEncoder
from pyflowx.wire.sets import Dialect, read_ipfix_template
from pyflowx.wire.template import TemplateStore

HEADER = np.dtype(
    [
        ("version", ">u2"),
        ("length", ">u2"),
        ("export_time", ">u4"),
        ("sequence_number", ">u4"),
        ("observation_domain_id", ">u4"),
    ]
)
IPFIX = Dialect(10, HEADER.itemsize, 2, 3, True, read_ipfix_template)
_NS = 1_000_000_000


def decode(packets: PacketBatch, rows: I32, state: TemplateStore, now_ns: int, problems: Problems) -> Decoded:
    """Decode the datagrams in ``rows``, one Message each (RFC 7011 §10.3.3). Octets behind it are kept as such."""
    rows, heads = read_heads(packets, rows, HEADER, problems)
    header = native(heads)
    received = np.minimum(packets.length[rows], packets.data.shape[1]).astype(np.int64)
    said = header["length"].astype(np.int64)
    longer = np.zeros(0, np.int64)
    if not np.array_equal(said, received):
        problems.add(rows[said < HEADER.itemsize], 2, Reason.BAD_MESSAGE_LENGTH)
        past, trailing = said > received, (said < received) & (said >= HEADER.itemsize)
        problems.add(rows[past], received[past], Reason.MESSAGE_PAST_DATAGRAM)
        problems.add(rows[trailing], said[trailing], Reason.TRAILING_OCTETS)
        longer = np.flatnonzero(trailing)
    messages = Messages(
        rows,
        packets.exporter[rows],
        packets.port[rows],
        packets.received_ns[rows],
        header,
        header["sequence_number"],
        header["observation_domain_id"],
        header["export_time"].astype(np.int64) * _NS,
        np.zeros(len(rows), np.int64),
    )
    decoded = decode_sets(IPFIX, packets, messages, np.minimum(said, received), state, now_ns, problems)
    late = len(decoded.messages) - len(messages)
    for message in longer.tolist():
        octets = packets.data[rows[message], said[message] : received[message]].tobytes()
        decoded.opaque.append(OpaqueSet(late + message, int(said[message]), 0, octets, held=False))
    return decoded


class Encoder(TemplateEncoder):
    """Messages of one Observation Domain; the sequence number counts Data Records (RFC 7011 §3.1)."""

    dialect = IPFIX

    def withdraw(self, export_ns: int, template_id: int | None = None) -> Datagrams:
        """Withdraw a Template, or all (RFC 7011 §8.1; over UDP collectors may ignore it). Its ID is not used again."""
        gone = list(self._layouts) if template_id is None else [template_id]
        kinds = {id: 3 if self._layouts[id].scope_count else 2 for id in gone if id in self._layouts}
        if template_id is not None and not kinds:
            raise EncodeError(f"there is no Template {template_id} to withdraw")
        for id in kinds:
            layout = self._layouts.pop(id)
            self._unsent.discard(id)
            del self._ids[layout.fields, layout.scope_count]
        records = [(kind, kind) for kind in sorted(set(kinds.values()))] if template_id is None else list(kinds.items())
        sets = [self._set(kind, struct.pack(">HH", id, 0)) for id, kind in records]
        return self._messages(sets, export_ns)

    def _template_record(self, record: TemplateRecord) -> bytes:
        octets = struct.pack(">HH", record.template_id, len(record.fields))
        if record.scope_count:
            octets += struct.pack(">H", record.scope_count)
        for element, length in record.fields:
            if not (0 <= element.id < 0x8000 and 0 <= element.pen < 1 << 32 and 0 <= length <= VARIABLE_LENGTH):
                raise EncodeError(f"{element.name}: ids go to 32767, lengths to {VARIABLE_LENGTH}")
            if element.pen:
                octets += struct.pack(">HHI", element.id | 0x8000, length, element.pen)
            else:
                octets += struct.pack(">HH", element.id, length)
        return octets

    def _header(self, octets: I64, records: I64, data_records: I64, export_ns: int) -> U8:
        heads = np.zeros(len(octets), HEADER)
        heads["version"], heads["length"] = IPFIX.version, octets
        heads["export_time"] = export_ns // _NS % (1 << 32)
        before = np.cumsum(data_records) - data_records
        heads["sequence_number"] = (self.sequence_number + before) % (1 << 32)
        heads["observation_domain_id"] = self.observation_domain_id
        self.sequence_number = (self.sequence_number + int(data_records.sum())) % (1 << 32)
        return heads.view(np.uint8).reshape(len(heads), HEADER.itemsize)
