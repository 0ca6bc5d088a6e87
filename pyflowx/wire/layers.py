"""Columns of dissected headers, the cursors that walk over them, and the layers below IP.

Link layers: Ethernet (802.3 with SNAP too), 802.1Q/ad, MPLS, PPPoE (RFC 2516), PPP (RFC 1661, 1662).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from pyflowx.batch import I64, U8, U16, Array
from pyflowx.wire.records import gather

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

MAX_LINK_LAYERS = 16  # Ethernet, tags and labels of one level


class Has(enum.IntFlag):
    """Which columns of a row hold something; one bit each (SOURCE and DESTINATION: of the row's IP version)."""

    DESTINATION_MAC = enum.auto()
    SOURCE_MAC = enum.auto()
    ETHERNET_TYPE = enum.auto()
    VLAN = enum.auto()
    INNER_VLAN = enum.auto()
    IPV4 = enum.auto()
    IPV6 = enum.auto()
    TOS = enum.auto()
    FLOW_LABEL = enum.auto()
    LENGTH = enum.auto()
    FRAGMENT_ID = enum.auto()
    FRAGMENT_OFFSET = enum.auto()
    TTL = enum.auto()
    PROTOCOL = enum.auto()
    SOURCE = enum.auto()
    DESTINATION = enum.auto()
    SOURCE_PORT = enum.auto()
    DESTINATION_PORT = enum.auto()
    TCP_FLAGS = enum.auto()
    ICMP_TYPE = enum.auto()
    ICMP_CODE = enum.auto()
    IGMP_TYPE = enum.auto()


BITS = len(Has)


@dataclass(slots=True)
class Headers:
    """n dissected headers. ``valid`` holds :class:`Has` bits; ``source_ipv6`` and ``destination_ipv6`` are
    ``(n, 16)`` where a row is IPv6, else ``(0, 16)``. ``fragment_offset`` is in units of 8 octets,
    ``length`` in octets with the IP header, ``tcp_flags`` has 12 bits."""

    valid: I64
    destination_mac: U64
    source_mac: U64
    ethernet_type: U16
    vlan: U16
    inner_vlan: U16
    tos: U8
    ttl: U8
    protocol: U8
    length: U64
    flow_label: U32
    fragment_id: U32
    fragment_offset: U16
    source_ipv4: U32
    destination_ipv4: U32
    source_ipv6: U8
    destination_ipv6: U8
    source_port: U16
    destination_port: U16
    tcp_flags: U16
    icmp_type: U8
    icmp_code: U8

    @classmethod
    def empty(cls, n: int) -> Headers:
        """n rows that hold nothing."""
        types = {"I64": np.int64, "U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64}
        rows = {field.name: np.zeros(n, types[str(field.type)]) for field in fields(cls)}
        rows["source_ipv6"] = rows["destination_ipv6"] = np.zeros((0, 16), np.uint8)
        return cls(**rows)

    def need_ipv6(self) -> None:
        """Makes room for IPv6 addresses."""
        if len(self.source_ipv6) != len(self.valid):
            self.source_ipv6 = np.zeros((len(self.valid), 16), np.uint8)
            self.destination_ipv6 = np.zeros((len(self.valid), 16), np.uint8)


# What stands at a cursor: an Ethertype, or one of these.
ETHERNET, PPP, IP, NOTHING = 0x10000, 0x10001, 0x10002, 0x10003
BRIDGED = 0x6558  # the Ethertype of an Ethernet frame within GRE or Geneve
IPV4, IPV6, MPLS, _MPLS_UPSTREAM, _PPPOE = 0x0800, 0x86DD, 0x8847, 0x8848, 0x8864
_VLANS = (0x8100, 0x88A8, 0x9100, 0x9200)
_PPP_KINDS = {0x0021: IPV4, 0x0057: IPV6, 0x0281: MPLS, 0x0283: MPLS}


@dataclass(slots=True)
class Cursor:
    """Where each row stands in ``buffer``, where its header ends, and what kind of layer comes next."""

    buffer: U8
    at: I64
    end: I64
    kind: I64

    def windows(self, rows: Any, width: int) -> U8:
        """(n, width) octets at the cursors of ``rows``; those behind ``end`` are garbage."""
        return gather(self.buffer, self.at[rows], width)

    def have(self, rows: Any) -> I64:
        left: I64 = self.end[rows] - self.at[rows]
        return left

    def move(self, rows: Any, octets: Any, kind: Any) -> None:
        """Steps over ``octets``; where the header ends before that, nothing comes next."""
        at = self.at[rows] + octets
        end = self.end[rows]
        self.kind[rows] = np.where(at <= end, kind, NOTHING)
        self.at[rows] = np.minimum(at, end)


def u16(window: U8, at: int) -> Array:
    column: Array = window[:, at : at + 2].view(">u2")[:, 0]
    return column


def u32(window: U8, at: int) -> Array:
    column: Array = window[:, at : at + 4].view(">u4")[:, 0]
    return column


def select(mask: npt.NDArray[np.bool_]) -> Any:
    """The rows of a mask as an index; all rows as a slice, which copies nothing."""
    return slice(None) if mask.all() else np.flatnonzero(mask)


def bits(*ends: tuple[Has, int]) -> I64:
    """Table: number of octets that are there -> bits of the fields that end within them."""
    table = np.zeros(max(end for _, end in ends) + 1, np.int64)
    for bit, end in ends:
        table[end:] |= bit
    return table


def look(table: I64, have: I64) -> I64 | np.int64:
    """One entry a row, or one for all where all have the whole header."""
    last = len(table) - 1
    if (have >= last).all():
        whole: np.int64 = table[last]
        return whole
    bits: I64 = table[np.clip(have, 0, last)]
    return bits


_ETHERNET_BITS = bits((Has.DESTINATION_MAC, 6), (Has.SOURCE_MAC, 12), (Has.ETHERNET_TYPE, 14))


def _ethernet(cursor: Cursor, rows: Any, frame: Headers | None) -> None:
    window = cursor.windows(rows, 22)
    etype = u16(window, 12).astype(np.int64)
    have = cursor.have(rows)
    octets: Any = 14
    plain = etype >= 1536  # else it is a length (IEEE 802.3); an LLC header follows, perhaps with SNAP
    if not plain.all():
        snap = ~plain & (have >= 22) & (u32(window, 14) == 0xAAAA0300) & (u16(window, 18) == 0)
        etype = np.where(snap, u16(window, 20), np.where(plain, etype, NOTHING))
        octets = np.where(snap, 22, 14)
    if frame is not None:
        frame.destination_mac[rows] = window[:, 0:8].view(">u8")[:, 0] >> 16
        frame.source_mac[rows] = window[:, 6:14].view(">u8")[:, 0] >> 16
        frame.ethernet_type[rows] = etype & 0xFFFF
        bits = look(_ETHERNET_BITS, have)
        frame.valid[rows] = bits if plain.all() else np.where(etype == NOTHING, bits & ~Has.ETHERNET_TYPE, bits)
    cursor.move(rows, octets, etype)


def _vlan(cursor: Cursor, rows: Any, frame: Headers | None) -> None:
    window = cursor.windows(rows, 4)
    etype = u16(window, 2)
    if frame is not None:
        seen = frame.valid[rows]
        there = cursor.have(rows) >= 2
        inner = (seen & Has.VLAN) != 0
        first, second = rows[there & ~inner], rows[there & inner & ((seen & Has.INNER_VLAN) == 0)]
        tag = np.zeros(len(frame.valid), np.uint16)
        tag[rows] = u16(window, 0) & 0xFFF
        frame.vlan[first], frame.inner_vlan[second] = tag[first], tag[second]
        frame.valid[first] |= Has.VLAN
        frame.valid[second] |= Has.INNER_VLAN
        whole = cursor.have(rows) >= 4
        frame.ethernet_type[rows] = np.where(whole, etype, 0)
        frame.valid[rows[whole]] |= Has.ETHERNET_TYPE
        frame.valid[rows[~whole]] &= ~Has.ETHERNET_TYPE
    cursor.move(rows, 4, etype)


def _mpls(cursor: Cursor, rows: Any, frame: Headers | None) -> None:
    bottom = cursor.windows(rows, 4)[:, 2] & 1
    cursor.move(rows, 4, np.where(bottom, IP, MPLS))


def _pppoe(cursor: Cursor, rows: Any, frame: Headers | None) -> None:
    session = u16(cursor.windows(rows, 2), 0) == 0x1100  # version 1, type 1, code 0 (RFC 2516)
    cursor.move(rows, 6, np.where(session, PPP, NOTHING))


def _ppp(cursor: Cursor, rows: Any, frame: Headers | None) -> None:
    framed = (u16(cursor.windows(rows, 2), 0) == 0xFF03) & (cursor.have(rows) >= 2)  # address and control (RFC 1662)
    cursor.move(rows, np.where(framed, 2, 0), PPP)
    window = cursor.windows(rows, 2)
    short = window[:, 0] & 1  # a compressed protocol field has one octet (RFC 1661 §6.5)
    protocol = np.where(short, window[:, 0], u16(window, 0))
    kind = np.full(len(window), NOTHING)
    for number, what in _PPP_KINDS.items():
        kind[protocol == number] = what
    cursor.move(rows, np.where(short, 1, 2), kind)


_LINKS: dict[int, Callable[[Cursor, Any, Headers | None], None]] = {
    **dict.fromkeys(_VLANS, _vlan),
    MPLS: _mpls,
    _MPLS_UPSTREAM: _mpls,
    _PPPOE: _pppoe,
    PPP: _ppp,
}
_IS_LINK = np.zeros(NOTHING + 1, bool)
_IS_LINK[list(_LINKS)] = True


def link(cursor: Cursor, frame: Headers | None) -> None:
    """Steps over all layers below IP; ``frame`` takes what the outermost frame says."""
    mask = cursor.kind == ETHERNET
    if mask.any():
        _ethernet(cursor, select(mask), frame)
    for _ in range(MAX_LINK_LAYERS):
        todo = np.flatnonzero(_IS_LINK[cursor.kind])
        if not len(todo):
            break
        kinds = cursor.kind[todo]
        for code in np.unique(kinds).tolist():
            _LINKS[code](cursor, todo[kinds == code], frame)
    either = np.flatnonzero(cursor.kind == IP)
    if len(either):
        nibble = cursor.buffer[cursor.at[either]] >> 4
        cursor.kind[either] = np.where(nibble == 4, IPV4, np.where(nibble == 6, IPV6, NOTHING))
