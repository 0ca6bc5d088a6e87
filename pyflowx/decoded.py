"""What a decoder gives back, the same for every protocol: messages, flows, Templates and problems."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pyflowx.batch import I32, I64, U8, U16, Array, FlowBatch
from pyflowx.elements import FieldSpecifier


class Protocol(enum.IntEnum):
    """The export protocols; the value of a NetFlow one is the version in its header."""

    NETFLOW_V1 = 1
    NETFLOW_V5 = 5
    NETFLOW_V7 = 7
    NETFLOW_V9 = 9
    IPFIX = 10
    SFLOW_V5 = 0x50005  # its header says 5 in 32 bits


class Reason(enum.IntEnum):
    """Why octets of a datagram were not decoded. Each is counted per exporter; the name is the label."""

    EMPTY_DATAGRAM = 0
    UNKNOWN_VERSION = 1
    TRUNCATED_HEADER = 2  # the datagram ends inside the message header
    BAD_MESSAGE_LENGTH = 3  # IPFIX length below 16
    MESSAGE_PAST_DATAGRAM = 4  # the message says more octets than the datagram has; the rest is decoded
    TRAILING_OCTETS = 5  # octets behind the message or behind its last Set
    BAD_SET_LENGTH = 6  # below 4 (RFC 7011 §3.3.2)
    SET_PAST_MESSAGE = 7
    RESERVED_SET_ID = 8  # 0, 1 in IPFIX, 4..255
    BAD_TEMPLATE_ID = 9  # below 256
    TRUNCATED_TEMPLATE = 10
    BAD_TEMPLATE = 11  # no fields, zero length in all, record too long, scope count of 0 or beyond the fields
    TEMPLATE_LIMIT = 12  # a cap on Templates per exporter or in all was reached
    UNKNOWN_WITHDRAWAL = 13  # a Template Withdrawal for a Template that is not there
    TRUNCATED_RECORD = 14  # a record ends past its Set
    HELD_DATA = 15  # Data Set before its Template: kept
    HELD_DATA_DROPPED = 16  # ... and given up: too old or over the cap
    BAD_COUNT = 17  # the header's record count disagrees (v5, v9, sFlow)
    BAD_SAMPLE = 18  # an sFlow sample or record whose length does not fit
    BAD_STRUCTURED_DATA = 19  # RFC 6313 content that does not parse
    UNKNOWN_SAMPLE = 20  # an sFlow sample format without a decoder, skipped by its length
    OTHER_PROTOCOL = 21  # one that we know, and not what its port takes


HARMLESS = frozenset({Reason.HELD_DATA, Reason.TRAILING_OCTETS, Reason.UNKNOWN_WITHDRAWAL})
"""After which everything that came was read nevertheless."""


class Problems:
    """A growing table of (packet, offset, reason): row of the PacketBatch, octet offset in the datagram."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[tuple[I32, I32, U8]] = []

    def add(self, packet: int | Array, offset: int | Array, reason: Reason) -> None:
        """One row, or one for each entry of the arrays."""
        packets = np.atleast_1d(np.asarray(packet, np.int32))
        offsets = np.broadcast_to(np.asarray(offset, np.int32), packets.shape)
        if len(packets):
            self._parts.append((packets, offsets, np.full(packets.shape, reason, np.uint8)))

    def extend(self, other: Problems) -> None:
        self._parts.extend(other._parts)

    def __len__(self) -> int:
        return sum(len(part[0]) for part in self._parts)

    @property
    def packet(self) -> I32:
        return np.concatenate([part[0] for part in self._parts]) if self._parts else np.zeros(0, np.int32)

    @property
    def offset(self) -> I32:
        return np.concatenate([part[1] for part in self._parts]) if self._parts else np.zeros(0, np.int32)

    @property
    def reason(self) -> U8:
        return np.concatenate([part[2] for part in self._parts]) if self._parts else np.zeros(0, np.uint8)

    def tolist(self) -> list[tuple[int, int, Reason]]:
        rows = zip(self.packet.tolist(), self.offset.tolist(), self.reason.tolist(), strict=True)
        return [(packet, offset, Reason(reason)) for packet, offset, reason in rows]


@dataclass(slots=True)
class Messages:
    """The Messages (datagrams) of one protocol in a decode call, one row each, in order of arrival.

    ``packet``: row in the PacketBatch, -1 for a Message of an earlier call whose held Data Sets are only
    decoded now (its header is repeated here). ``exporter``, ``port``, ``received_ns``: as in
    PacketBatch. ``header``: the fields of the protocol's header, in its order and by its names in
    snake_case; each protocol's file lists them. What consumers share, for every protocol, whatever the header calls it:
    ``sequence_number`` (u32), ``observation_domain_id`` (u32; v9 Source ID, v5 engine, sFlow sub-agent),
    ``export_ns`` (int64, the exporter's clock; received_ns where the protocol has none) and
    ``boot_ns`` (int64, when the exporter's sysUptime was 0; 0 where the protocol has none).
    """

    packet: I32
    exporter: U8
    port: U16
    received_ns: I64
    header: dict[str, Array]
    sequence_number: Array
    observation_domain_id: Array
    export_ns: I64
    boot_ns: I64

    def __len__(self) -> int:
        return len(self.packet)


class TemplateRecord(NamedTuple):
    """A Template Record or Options Template Record (RFC 7011 §3.4); ``scope_count`` > 0 makes it the latter.

    No fields: a Template Withdrawal (RFC 7011 §8.1).
    """

    template_id: int
    fields: tuple[FieldSpecifier, ...]
    scope_count: int = 0

    @property
    def is_withdrawal(self) -> bool:
        return not self.fields


class ReceivedTemplate(NamedTuple):
    """Where a Template Record stood: row in Messages, octet offset of its Set, Set ID."""

    message: int
    set_offset: int
    set_id: int
    record: TemplateRecord


class OpaqueSet(NamedTuple):
    """A Set (sFlow: sample) that was not decoded, kept so that raw output loses nothing.

    ``held``: its Template may still come, the records then appear in a later Decoded.
    """

    message: int
    set_offset: int
    set_id: int
    octets: bytes
    held: bool


@dataclass(slots=True)
class Decoded:
    """The result of decoding the packets of one protocol out of a batch. Never refers to the batch's memory."""

    protocol: Protocol
    messages: Messages
    flows: list[FlowBatch] = field(default_factory=list)  # data and options records; rows in order of arrival
    templates: list[ReceivedTemplate] = field(default_factory=list)
    opaque: list[OpaqueSet] = field(default_factory=list)
