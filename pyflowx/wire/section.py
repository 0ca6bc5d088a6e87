"""Dissected headers as Information Elements, and rows grouped by what they hold.

A FlowBatch has no nulls, so rows with different fields go to different batches. What a row holds is a
mask; rows with the same mask form a group. An exporter chooses what its packets hold, so the number of
groups has a bound: in the rarest ones only a coarse part of the mask is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from pyflowx.batch import I64, Column, FlowBatch, Octets
from pyflowx.elements import IANA_PEN, FieldSpecifier, default_registry
from pyflowx.wire.headers import Has, HeaderProtocol, Headers, dissect

MAX_GROUPS = 64

# bit, column of Headers, element in IPv4 (and where there is no IP header), element in IPv6
_FIELDS = (
    (Has.SOURCE_MAC, "source_mac", "sourceMacAddress", "sourceMacAddress"),
    (Has.DESTINATION_MAC, "destination_mac", "destinationMacAddress", "destinationMacAddress"),
    (Has.ETHERNET_TYPE, "ethernet_type", "ethernetType", "ethernetType"),
    (Has.VLAN, "vlan", "dot1qVlanId", "dot1qVlanId"),
    (Has.INNER_VLAN, "inner_vlan", "dot1qCustomerVlanId", "dot1qCustomerVlanId"),
    (Has.SOURCE, "source", "sourceIPv4Address", "sourceIPv6Address"),
    (Has.DESTINATION, "destination", "destinationIPv4Address", "destinationIPv6Address"),
    (Has.PROTOCOL, "protocol", "protocolIdentifier", "protocolIdentifier"),
    (Has.TOS, "tos", "ipClassOfService", "ipClassOfService"),
    (Has.TTL, "ttl", "ipTTL", "ipTTL"),
    (Has.LENGTH, "length", "ipTotalLength", "ipTotalLength"),
    (Has.FLOW_LABEL, "flow_label", "flowLabelIPv6", "flowLabelIPv6"),
    (Has.FRAGMENT_ID, "fragment_id", "fragmentIdentification", "fragmentIdentification"),
    (Has.FRAGMENT_OFFSET, "fragment_offset", "fragmentOffset", "fragmentOffset"),
    (Has.SOURCE_PORT, "source_port", "sourceTransportPort", "sourceTransportPort"),
    (Has.DESTINATION_PORT, "destination_port", "destinationTransportPort", "destinationTransportPort"),
    (Has.TCP_FLAGS, "tcp_flags", "tcpControlBits", "tcpControlBits"),
    (Has.ICMP_TYPE, "icmp_type", "icmpTypeIPv4", "icmpTypeIPv6"),
    (Has.ICMP_CODE, "icmp_code", "icmpCodeIPv4", "icmpCodeIPv6"),
    (Has.IGMP_TYPE, "icmp_type", "igmpType", "igmpType"),
)
_ADDRESSES = {"source": ("source_ipv4", "source_ipv6"), "destination": ("destination_ipv4", "destination_ipv6")}
# What the rarest groups keep of a header: its flow key.
COARSE = int(Has.IPV4 | Has.IPV6 | Has.SOURCE | Has.DESTINATION | Has.PROTOCOL | Has.SOURCE_PORT | Has.DESTINATION_PORT)
# Elements with a section of a packet (PSAMP, RFC 5477 §8.5; Cisco's layer2packetSectionData), and what it begins with.
SECTIONS = {
    315: HeaderProtocol.ETHERNET,
    104: HeaderProtocol.ETHERNET,
    313: HeaderProtocol.IP,
    316: HeaderProtocol.MPLS,
    317: HeaderProtocol.IP,
}
_KEYS = (8, 12, 27, 28)  # addresses: who sends these needs no section
_ETHERNET_FRAME = 1  # a dataLinkFrameType
_CLOSED = -2  # no HeaderProtocol


class HeaderField(NamedTuple):
    """A field of a group and the column of Headers that fills it."""

    specifier: FieldSpecifier
    column: str


@functools.lru_cache(maxsize=1024)
def header_fields(mask: int) -> tuple[HeaderField, ...]:
    """The fields of a row whose ``Headers.valid`` is ``mask``."""
    ipv6 = bool(mask & Has.IPV6)
    return tuple(
        HeaderField(default_registry().field(six if ipv6 else four), _ADDRESSES.get(column, (column, column))[ipv6])
        for bit, column, four, six in _FIELDS
        if mask & bit
    )


def header_columns(headers: Headers, mask: int, rows: Any) -> list[Column]:
    """The columns of :func:`header_fields` for ``rows``."""
    return [getattr(headers, field.column)[rows] for field in header_fields(mask)]


def groups(mask: I64, coarse: int) -> Iterator[tuple[int, Any]]:
    """(mask, rows in ascending order) for each distinct mask; at most MAX_GROUPS and the subsets of ``coarse``."""
    if not len(mask):
        return
    if (mask == mask[0]).all():
        yield int(mask[0]), slice(None)
        return
    order = np.argsort(mask, kind="stable")
    ordered = mask[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=~ordered[0]))
    if len(starts) > MAX_GROUPS:
        counts = np.diff(starts, append=len(mask))
        rare = np.ones(len(starts), bool)
        rare[np.argsort(-counts, kind="stable")[:MAX_GROUPS]] = False
        rows = order[np.repeat(rare, counts)]
        mask = mask.copy()
        mask[rows] &= coarse
        order = np.argsort(mask, kind="stable")
        ordered = mask[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=~ordered[0]))
    for rows in np.split(order, starts[1:]):
        yield int(mask[rows[0]]), rows


def with_sections(flows: list[FlowBatch], tunnels: bool = True) -> list[FlowBatch]:
    """Flow Records that carry a packet section (:data:`SECTIONS`) instead of a flow key with the fields that the
    section holds; all others as they are. What does not begin where its layer does (sectionOffset 409,
    layer2packetSectionOffset 102), and frames that are no Ethernet (dataLinkFrameType 408), are left closed."""
    found: list[FlowBatch] = []
    for batch in flows:
        has_key = any(batch.find(IANA_PEN, id) is not None for id in _KEYS)
        sections = ((batch.find(IANA_PEN, id), id) for id in SECTIONS)
        section, id = next(((column, id) for column, id in sections if isinstance(column, Octets)), (None, 0))
        if batch.scope_count or has_key or section is None:
            found.append(batch)
        else:
            found += dissected(batch, section, _protocols(batch, id), tunnels)
    return found


def _protocols(batch: FlowBatch, id: int) -> I64:
    """What the sections of a batch begin with."""
    protocol = np.full(len(batch), SECTIONS[id], np.int64)
    offset, type = batch.find(IANA_PEN, 102 if id == 104 else 409), batch.find(IANA_PEN, 408)
    if isinstance(offset, np.ndarray):
        protocol[offset != 0] = _CLOSED
    if isinstance(type, np.ndarray) and SECTIONS[id] == HeaderProtocol.ETHERNET:
        protocol[(type != 0) & (type != _ETHERNET_FRAME)] = _CLOSED
    return protocol


def dissected(flows: FlowBatch, section: Octets, protocol: int | I64, tunnels: bool = True) -> list[FlowBatch]:
    """``flows`` with what their packet sections say: the same rows in one batch a set of fields, each in
    order of arrival. ``section`` is a column of ``flows``, ``protocol`` what it begins with; the dissected fields stand
    behind those of ``flows``."""
    headers = dissect(section, protocol, tunnels)
    batches = []
    for mask, rows in groups(headers.valid, COARSE):
        batch = flows.take(rows)
        batch.fields += tuple(field.specifier for field in header_fields(mask))
        batch.columns += header_columns(headers, mask, rows)
        batches.append(batch)
    return batches
