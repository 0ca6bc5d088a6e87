"""Sampled packet headers to columns: sFlow's sampled_header, IPFIX's packet sections (elements 313 and 315).

All headers of a batch are dissected in lockstep: each row has a cursor and an end, each step reads one
layer of all rows that have it, through a window of the buffer (one gather a layer, then strided views).
A header may end anywhere: :class:`Has` says for each row which columns hold something; what the others
hold means nothing.

Layers: Ethernet (802.3 with SNAP too), 802.1Q/ad, MPLS, PPPoE, PPP, IPv4 with options, IPv6 with
extension headers (RFC 8200 §4), TCP, UDP, UDP-Lite, DCCP, SCTP, ICMP, ICMPv6, IGMP. Tunnels, to four levels: GRE
(RFC 2784, 2890, 2637), ERSPAN I-III, IP in IP, MPLS in IP and UDP, EtherIP, VXLAN (RFC 7348), VXLAN-GPE,
Geneve (RFC 8926), GTP-U (3GPP TS 29.281). With ``tunnels`` the columns from the IP header on are those
of the innermost IP header whose addresses are complete; MAC addresses and VLANs are always the frame's.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from pyflowx.batch import I64, U8, U16, Array, Octets

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

MAX_TUNNELS = 4
MAX_LINK_LAYERS = 16  # Ethernet, tags and labels of one level
MAX_EXTENSIONS = 8  # IPv6 extension headers of one packet
SPARE = 64  # octets behind the last header that a window may touch


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
_LINK_BITS = Has.DESTINATION_MAC | Has.SOURCE_MAC | Has.ETHERNET_TYPE | Has.VLAN | Has.INNER_VLAN


class HeaderProtocol(enum.IntEnum):
    """What a header begins with, by the numbers of sFlow's header_protocol; IP: either version."""

    IP = -1
    ETHERNET = 1
    PPP = 7
    IPV4 = 11
    IPV6 = 12
    MPLS = 13
    POS = 14


# What stands at a cursor: an Ethertype, or one of these.
_ETHERNET, _PPP, _IP, _NOTHING = 0x10000, 0x10001, 0x10002, 0x10003
_BRIDGED = 0x6558  # the Ethertype of an Ethernet frame within GRE or Geneve
_IPV4, _IPV6, _MPLS, _MPLS_UPSTREAM, _PPPOE = 0x0800, 0x86DD, 0x8847, 0x8848, 0x8864
_VLANS = (0x8100, 0x88A8, 0x9100, 0x9200)
_KINDS = {
    HeaderProtocol.IP: _IP,
    HeaderProtocol.ETHERNET: _ETHERNET,
    HeaderProtocol.PPP: _PPP,
    HeaderProtocol.IPV4: _IPV4,
    HeaderProtocol.IPV6: _IPV6,
    HeaderProtocol.MPLS: _MPLS,
    HeaderProtocol.POS: _PPP,
}
_PPP_KINDS = {0x0021: _IPV4, 0x0057: _IPV6, 0x0281: _MPLS, 0x0283: _MPLS}


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


_INNER_COLUMNS = tuple(
    field.name
    for field in fields(Headers)
    if field.name not in ("valid", "destination_mac", "source_mac", "vlan", "inner_vlan") and "ipv6" not in field.name
)


@dataclass(slots=True)
class _Cursor:
    """Where each row stands in ``buffer``, where its header ends, and what kind of layer comes next."""

    buffer: U8
    at: I64
    end: I64
    kind: I64

    def windows(self, rows: Any, width: int) -> U8:
        """(n, width) octets at the cursors of ``rows``; those behind ``end`` are garbage."""
        size = len(self.buffer) - width + 1
        view: Array = np.ndarray((size,), f"V{width}", self.buffer, 0, (1,))
        cells: U8 = view[self.at[rows]].view(np.uint8).reshape(-1, width)
        return cells

    def have(self, rows: Any) -> I64:
        left: I64 = self.end[rows] - self.at[rows]
        return left

    def move(self, rows: Any, octets: Any, kind: Any) -> None:
        """Steps over ``octets``; where the header ends before that, nothing comes next."""
        at = self.at[rows] + octets
        end = self.end[rows]
        self.kind[rows] = np.where(at <= end, kind, _NOTHING)
        self.at[rows] = np.minimum(at, end)


def _u16(window: U8, at: int) -> Array:
    column: Array = window[:, at : at + 2].view(">u2")[:, 0]
    return column


def _u32(window: U8, at: int) -> Array:
    column: Array = window[:, at : at + 4].view(">u4")[:, 0]
    return column


def _select(mask: npt.NDArray[np.bool_]) -> Any:
    """The rows of a mask as an index; all rows as a slice, which copies nothing."""
    return slice(None) if mask.all() else np.flatnonzero(mask)


def _bits(*ends: tuple[Has, int]) -> I64:
    """Table: number of octets that are there -> bits of the fields that end within them."""
    table = np.zeros(max(end for _, end in ends) + 1, np.int64)
    for bit, end in ends:
        table[end:] |= bit
    return table


def _look(table: I64, have: I64) -> I64:
    bits: I64 = table[np.clip(have, 0, len(table) - 1)]
    return bits


# --- below IP -----------------------------------------------------------------------------------

_ETHERNET_BITS = _bits((Has.DESTINATION_MAC, 6), (Has.SOURCE_MAC, 12), (Has.ETHERNET_TYPE, 14))


def _ethernet(cursor: _Cursor, rows: Any, frame: Headers | None) -> None:
    window = cursor.windows(rows, 22)
    etype = _u16(window, 12).astype(np.int64)
    have = cursor.have(rows)
    octets: Any = 14
    plain = etype >= 1536  # else it is a length (IEEE 802.3); an LLC header follows, perhaps with SNAP
    if not plain.all():
        snap = ~plain & (have >= 22) & (_u32(window, 14) == 0xAAAA0300) & (_u16(window, 18) == 0)
        etype = np.where(snap, _u16(window, 20), np.where(plain, etype, _NOTHING))
        octets = np.where(snap, 22, 14)
    if frame is not None:
        frame.destination_mac[rows] = window[:, 0:8].view(">u8")[:, 0] >> 16
        frame.source_mac[rows] = window[:, 6:14].view(">u8")[:, 0] >> 16
        frame.ethernet_type[rows] = etype & 0xFFFF
        bits = _look(_ETHERNET_BITS, have)
        frame.valid[rows] = np.where(etype == _NOTHING, bits & ~Has.ETHERNET_TYPE, bits)
    cursor.move(rows, octets, etype)


def _vlan(cursor: _Cursor, rows: Any, frame: Headers | None) -> None:
    window = cursor.windows(rows, 4)
    etype = _u16(window, 2)
    if frame is not None:
        seen = frame.valid[rows]
        there = cursor.have(rows) >= 2
        inner = (seen & Has.VLAN) != 0
        first, second = rows[there & ~inner], rows[there & inner & ((seen & Has.INNER_VLAN) == 0)]
        tag = np.zeros(len(frame.valid), np.uint16)
        tag[rows] = _u16(window, 0) & 0xFFF
        frame.vlan[first], frame.inner_vlan[second] = tag[first], tag[second]
        frame.valid[first] |= Has.VLAN
        frame.valid[second] |= Has.INNER_VLAN
        whole = cursor.have(rows) >= 4
        frame.ethernet_type[rows] = np.where(whole, etype, 0)
        frame.valid[rows[whole]] |= Has.ETHERNET_TYPE
        frame.valid[rows[~whole]] &= ~Has.ETHERNET_TYPE
    cursor.move(rows, 4, etype)


def _mpls(cursor: _Cursor, rows: Any, frame: Headers | None) -> None:
    bottom = cursor.windows(rows, 4)[:, 2] & 1
    cursor.move(rows, 4, np.where(bottom, _IP, _MPLS))


def _pppoe(cursor: _Cursor, rows: Any, frame: Headers | None) -> None:
    session = _u16(cursor.windows(rows, 2), 0) == 0x1100  # version 1, type 1, code 0 (RFC 2516)
    cursor.move(rows, 6, np.where(session, _PPP, _NOTHING))


def _ppp(cursor: _Cursor, rows: Any, frame: Headers | None) -> None:
    framed = (_u16(cursor.windows(rows, 2), 0) == 0xFF03) & (cursor.have(rows) >= 2)  # address and control (RFC 1662)
    cursor.move(rows, np.where(framed, 2, 0), _PPP)
    window = cursor.windows(rows, 2)
    short = window[:, 0] & 1  # a compressed protocol field has one octet (RFC 1661 §6.5)
    protocol = np.where(short, window[:, 0], _u16(window, 0))
    kind = np.full(len(window), _NOTHING)
    for number, what in _PPP_KINDS.items():
        kind[protocol == number] = what
    cursor.move(rows, np.where(short, 1, 2), kind)


_LINKS: dict[int, Callable[[_Cursor, Any, Headers | None], None]] = {
    **dict.fromkeys(_VLANS, _vlan),
    _MPLS: _mpls,
    _MPLS_UPSTREAM: _mpls,
    _PPPOE: _pppoe,
    _PPP: _ppp,
}
_IS_LINK = np.zeros(_NOTHING + 1, bool)
_IS_LINK[list(_LINKS)] = True


def _link(cursor: _Cursor, frame: Headers | None) -> None:
    """Steps over all layers below IP; ``frame`` takes what the outermost frame says."""
    mask = cursor.kind == _ETHERNET
    if mask.any():
        _ethernet(cursor, _select(mask), frame)
    for _ in range(MAX_LINK_LAYERS):
        todo = np.flatnonzero(_IS_LINK[cursor.kind])
        if not len(todo):
            break
        kinds = cursor.kind[todo]
        for code in np.unique(kinds).tolist():
            _LINKS[code](cursor, todo[kinds == code], frame)
    either = np.flatnonzero(cursor.kind == _IP)
    if len(either):
        nibble = cursor.buffer[cursor.at[either]] >> 4
        cursor.kind[either] = np.where(nibble == 4, _IPV4, np.where(nibble == 6, _IPV6, _NOTHING))


# --- IP -----------------------------------------------------------------------------------------

_IPV4_BITS = _bits(
    (Has.IPV4, 1), (Has.TOS, 2), (Has.LENGTH, 4), (Has.FRAGMENT_ID, 6), (Has.FRAGMENT_OFFSET, 8),
    (Has.TTL, 9), (Has.PROTOCOL, 10), (Has.SOURCE, 16), (Has.DESTINATION, 20),
)  # fmt: skip
_IPV6_BITS = _bits(
    (Has.IPV6, 1), (Has.TOS, 2), (Has.FLOW_LABEL, 4), (Has.LENGTH, 6), (Has.TTL, 8), (Has.SOURCE, 24),
    (Has.DESTINATION, 40),
)  # fmt: skip


def _ipv4(cursor: _Cursor, rows: Any, out: Headers) -> None:
    window = cursor.windows(rows, 20)
    have = cursor.have(rows)
    words = (window[:, 0] & 15).astype(np.int64)
    good = (window[:, 0] >> 4 == 4) & (words >= 5) & (have > 0)
    out.valid[rows] |= np.where(good, _look(_IPV4_BITS, have), 0)
    length = _u16(window, 2)
    out.tos[rows] = window[:, 1]
    out.length[rows] = length
    out.fragment_id[rows] = _u16(window, 4)
    out.fragment_offset[rows] = _u16(window, 6) & 0x1FFF
    out.ttl[rows] = window[:, 8]
    out.protocol[rows] = window[:, 9]
    out.source_ipv4[rows] = _u32(window, 12)
    out.destination_ipv4[rows] = _u32(window, 16)
    # The datagram may end before the frame (padding); a length of 0 is a segment yet to be cut by the adapter.
    whole = good & (have >= 20)
    short = whole & (length > 0) & (length < have)
    cursor.end[rows] = np.where(short, cursor.at[rows] + length, cursor.end[rows])
    cursor.move(rows, words * 4, np.where(whole, 0, _NOTHING))


# --- IPv6 extension headers ---

_EXTENSIONS = np.zeros(256, bool)
_EXTENSIONS[[0, 43, 44, 51, 60, 135, 139, 140]] = True  # hop-by-hop, routing, fragment, AH, destination, mobility, ...


def _ipv6(cursor: _Cursor, rows: Any, out: Headers) -> None:
    window = cursor.windows(rows, 40)
    have = cursor.have(rows)
    good = (window[:, 0] >> 4 == 6) & (have > 0)
    out.valid[rows] |= np.where(good, _look(_IPV6_BITS, have), 0)
    out.need_ipv6()
    first = _u32(window, 0)
    payload = _u16(window, 4).astype(np.int64)
    out.tos[rows] = first >> 20 & 0xFF
    out.flow_label[rows] = first & 0xFFFFF
    out.length[rows] = payload + 40
    out.ttl[rows] = window[:, 7]
    out.protocol[rows] = window[:, 6]
    out.source_ipv6[rows] = window[:, 8:24]
    out.destination_ipv6[rows] = window[:, 24:40]
    whole = good & (have >= 40)
    short = whole & (payload > 0) & (payload + 40 < have)  # 0: a jumbogram (RFC 2675)
    cursor.end[rows] = np.where(short, cursor.at[rows] + 40 + payload, cursor.end[rows])
    # The protocol is the last Next Header of the chain; 7 octets are enough where there is no chain.
    known = good & (have >= 7)
    final = known & ~_EXTENSIONS[window[:, 6]]
    cursor.move(rows, 40, np.where(whole, 0, _NOTHING))
    index = rows if not isinstance(rows, slice) else np.arange(len(good))
    out.valid[index[final]] |= Has.PROTOCOL
    _extensions(cursor, index[whole & ~final], out)


def _extensions(cursor: _Cursor, rows: I64, out: Headers) -> None:
    """Follows the chain of extension headers (RFC 8200 §4) of rows that stand at one."""
    for _ in range(MAX_EXTENSIONS):
        if not len(rows):
            break
        number = out.protocol[rows]
        window = cursor.windows(rows, 8)
        have = cursor.have(rows)
        fragment = number == 44
        size = np.where(number == 51, (window[:, 1].astype(np.int64) + 2) * 4, (window[:, 1].astype(np.int64) + 1) * 8)
        size[fragment] = 8
        offset, identified = rows[fragment & (have >= 4)], rows[fragment & (have >= 8)]
        out.fragment_offset[rows] = np.where(fragment, _u16(window, 2) >> 3, out.fragment_offset[rows])
        out.fragment_id[rows] = np.where(fragment, _u32(window, 4), out.fragment_id[rows])
        out.valid[offset] |= Has.FRAGMENT_OFFSET
        out.valid[identified] |= Has.FRAGMENT_ID
        out.protocol[rows] = window[:, 0]
        cursor.move(rows, size, 0)
        # Behind the header of a later fragment stands payload, whatever its Next Header says.
        later = fragment & (have >= 4) & (_u16(window, 2) >> 3 > 0)
        known = have >= 1
        final = known & (~_EXTENSIONS[window[:, 0]] | later)
        out.valid[rows[final]] |= Has.PROTOCOL
        rows = rows[~final & (cursor.kind[rows] == 0)]
    cursor.kind[rows] = _NOTHING


# --- above IP -----------------------------------------------------------------------------------

_PORTS = ((Has.SOURCE_PORT, 2), (Has.DESTINATION_PORT, 4))
_ICMP = ((Has.ICMP_TYPE, 1), (Has.ICMP_CODE, 2))
_TRANSPORTS = ((), (*_PORTS, (Has.TCP_FLAGS, 14)), _PORTS, _ICMP, ((Has.IGMP_TYPE, 1),))
_TRANSPORT_BITS = np.zeros((len(_TRANSPORTS), 15), np.int64)  # class, octets that are there -> bits
for _row, _ends in zip(_TRANSPORT_BITS[1:], _TRANSPORTS[1:], strict=True):
    _table = _bits(*_ends)
    _row[:] = _table[np.minimum(np.arange(15), len(_table) - 1)]
_CLASS = np.zeros((2, 256), np.int64)  # IPv6?, protocol -> class
_CLASS[:, 6] = 1
_CLASS[:, [17, 33, 132, 136]] = 2
_CLASS[0, 1] = _CLASS[1, 58] = 3
_CLASS[0, 2] = 4


def _transport(cursor: _Cursor, rows: Any, out: Headers) -> None:
    """Ports, flags, types of rows that stand behind their IP header; not those of later fragments."""
    window = cursor.windows(rows, 14)
    valid = out.valid[rows]
    which = _CLASS[((valid & Has.IPV6) != 0).astype(np.int64), out.protocol[rows]]
    which *= out.fragment_offset[rows] == 0
    out.valid[rows] |= _TRANSPORT_BITS[which, np.minimum(cursor.have(rows), 14)]
    out.source_port[rows] = _u16(window, 0)
    out.destination_port[rows] = _u16(window, 2)
    out.tcp_flags[rows] = _u16(window, 12) & 0xFFF
    out.icmp_type[rows] = window[:, 0]
    out.icmp_code[rows] = window[:, 1]


# --- tunnels ------------------------------------------------------------------------------------


def _gre(window: U8) -> tuple[I64, I64]:
    """(octets, kind) of GRE headers (RFC 2784, RFC 2890, RFC 2637 §4.1)."""
    flags, kind = _u16(window, 0).astype(np.int64), _u16(window, 2).astype(np.int64)
    version = flags & 7
    checksum, key, sequence = (flags >> shift & 1 for shift in (15, 13, 12))
    acknowledged = (version == 1) * (flags >> 7 & 1)
    octets = 4 + 4 * (checksum + key + sequence + acknowledged)
    routed = flags >> 14 & 1
    fine = (routed == 0) & ((version == 0) | ((version == 1) & (kind == 0x880B)))
    kind = np.where(kind == 0x880B, _PPP, kind)
    # ERSPAN: type I has no header of its own and no sequence number; II has 8 octets, III 12 or 20.
    erspan, newer = kind == 0x88BE, kind == 0x22EB
    index = np.arange(len(window))
    frame_type = window[index, octets + 10] >> 2 & 31
    optional = window[index, octets + 11] & 1
    octets = octets + np.where(erspan & (sequence == 1), 8, 0) + np.where(newer, 12 + 8 * optional, 0)
    kind = np.where(erspan | (newer & (frame_type == 0)) | (kind == _BRIDGED), _ETHERNET, kind)
    return octets, np.where(fine, np.where(newer & (frame_type == 2), _IP, kind), _NOTHING)


def _vxlan(window: U8) -> tuple[I64, I64]:
    return np.full(len(window), 16), np.where(window[:, 8] & 8, _ETHERNET, _NOTHING)


def _vxlan_gpe(window: U8) -> tuple[I64, I64]:
    kinds = np.array([_NOTHING, _IPV4, _IPV6, _ETHERNET, _NOTHING, _MPLS], np.int64)
    kind = np.where(window[:, 8] & 4, kinds[np.where(window[:, 11] < 6, window[:, 11], 0)], _ETHERNET)
    return np.full(len(window), 16), np.where(window[:, 8] & 8, kind, _NOTHING)


def _geneve(window: U8) -> tuple[I64, I64]:
    octets = 16 + 4 * (window[:, 8].astype(np.int64) & 63)
    kind = _u16(window, 10).astype(np.int64)
    kind = np.where(kind == _BRIDGED, _ETHERNET, kind)
    return octets, np.where(window[:, 8] >> 6 == 0, kind, _NOTHING)


def _gtp(window: U8) -> tuple[I64, I64]:
    """GTP-U G-PDUs, with as many extension headers as the window shows (3GPP TS 29.281 §5)."""
    n, flags = len(window), window[:, 8]
    octets = np.where(flags & 7, 20, 16)
    following = np.where(flags & 4, window[:, 19], 0)
    for _ in range(MAX_EXTENSIONS):
        if not following.any():
            break
        size = window[np.arange(n), np.minimum(octets, window.shape[1] - 1)].astype(np.int64) * 4
        octets = octets + np.where(following, np.maximum(size, 4), 0)
        last = np.minimum(octets - 1, window.shape[1] - 1)
        following = np.where(following, window[np.arange(n), last], 0)
    good = (flags >> 4 == 3) & (window[:, 9] == 255) & (following == 0) & (octets < window.shape[1])
    return octets, np.where(good, _IP, _NOTHING)


def _fixed(octets: int, kind: int) -> Callable[[U8], tuple[I64, I64]]:
    return lambda window: (np.full(len(window), octets), np.full(len(window), kind))


_Tunnel = Callable[[U8], tuple[I64, I64]]
_IP_TUNNELS: dict[int, _Tunnel] = {
    4: _fixed(0, _IPV4),
    41: _fixed(0, _IPV6),
    47: _gre,
    97: _fixed(2, _ETHERNET),
    137: _fixed(0, _MPLS),
}
_UDP_TUNNELS: dict[int, _Tunnel] = {  # by destination port
    2152: _gtp,
    4789: _vxlan,
    4790: _vxlan_gpe,
    6081: _geneve,
    6635: _fixed(8, _MPLS),
    8472: _vxlan,
}
_CARRIES = np.zeros(256, bool)
_CARRIES[[*_IP_TUNNELS, 17]] = True
_TUNNEL_PORT = np.zeros(65536, bool)
_TUNNEL_PORT[list(_UDP_TUNNELS)] = True


def _enter(cursor: _Cursor, out: Headers) -> tuple[I64, _Cursor] | None:
    """The rows that carry a packet in their packet, and a cursor for just these."""
    maybe = _CARRIES[out.protocol] & (cursor.kind == 0) & (out.fragment_offset == 0)
    maybe &= (out.protocol != 17) | (_TUNNEL_PORT[out.destination_port] & (out.valid & Has.DESTINATION_PORT != 0))
    rows = np.flatnonzero(maybe)
    if not len(rows):
        return None
    inner = _Cursor(cursor.buffer, cursor.at[rows], cursor.end[rows], np.full(len(rows), _NOTHING))
    window = inner.windows(slice(None), SPARE)
    protocol, port = out.protocol[rows], out.destination_port[rows]
    for number, read in _IP_TUNNELS.items():
        _step_in(inner, np.flatnonzero(protocol == number), window, read)
    for number, read in _UDP_TUNNELS.items():
        _step_in(inner, np.flatnonzero((protocol == 17) & (port == number)), window, read)
    return rows, inner


def _step_in(inner: _Cursor, rows: I64, window: U8, read: _Tunnel) -> None:
    if len(rows):
        octets, kind = read(window[rows])
        inner.move(rows, octets, kind)


def _replace(out: Headers, rows: I64, inner: Headers) -> None:
    """Puts the IP header and what follows it of ``inner`` in the place of the outer ones."""
    ends = Has.SOURCE | Has.DESTINATION
    found = np.flatnonzero(inner.valid & ends == ends)
    rows = rows[found]
    inner.ethernet_type[:] = np.where(inner.valid & Has.IPV6, _IPV6, _IPV4)
    for name in _INNER_COLUMNS:
        getattr(out, name)[rows] = getattr(inner, name)[found]
    if len(inner.source_ipv6):
        out.need_ipv6()
        out.source_ipv6[rows] = inner.source_ipv6[found]
        out.destination_ipv6[rows] = inner.destination_ipv6[found]
    out.valid[rows] = out.valid[rows] & _LINK_BITS | inner.valid[found]


def _level(cursor: _Cursor, out: Headers, frame: Headers | None) -> None:
    """One level: from the link layer to the ports."""
    _link(cursor, frame)
    for kind, read in ((_IPV4, _ipv4), (_IPV6, _ipv6)):
        mask = cursor.kind == kind
        if mask.any():
            read(cursor, _select(mask), out)
    mask = cursor.kind == 0
    if mask.any():
        _transport(cursor, _select(mask), out)


def _padded(section: Octets) -> U8:
    buffer = np.ascontiguousarray(section.buffer)
    last = int((section.starts + section.lengths).max()) + SPARE
    return buffer if last <= len(buffer) else np.concatenate([buffer, np.zeros(last - len(buffer), np.uint8)])


def dissect(section: Octets, protocol: int | I64, tunnels: bool = True) -> Headers:
    """The headers in ``section``, one a row, which begin with ``protocol`` (:class:`HeaderProtocol`; unknown
    numbers give rows that hold nothing). ``tunnels``: take the innermost IP header, else the outermost."""
    n = len(section)
    out = Headers.empty(n)
    if not n:
        return out
    kind = np.full(n, _NOTHING, np.int64)
    for number, what in _KINDS.items():
        kind[np.broadcast_to(protocol == number, n)] = what
    ends = section.starts + section.lengths
    cursor = _Cursor(_padded(section), section.starts.copy(), ends, kind)
    _level(cursor, out, out)
    outer, rows, current = cursor, np.arange(n), out
    for _ in range(MAX_TUNNELS if tunnels else 0):
        entered = _enter(outer, current)
        if entered is None:
            break
        within, outer = entered
        rows, current = rows[within], Headers.empty(len(within))
        _level(outer, current, None)
        _replace(out, rows, current)
    return out
