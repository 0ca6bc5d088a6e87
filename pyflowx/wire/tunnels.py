"""Tunnels: GRE (RFC 2784, 2890, 2637), ERSPAN I-III, IP in IP, MPLS in IP and UDP, EtherIP, VXLAN (RFC 7348),
VXLAN-GPE, Geneve (RFC 8926), GTP-U (3GPP TS 29.281)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np

from pyflowx.batch import I64, U8
from pyflowx.wire.layers import BRIDGED, ETHERNET, IP, IPV4, IPV6, MPLS, NOTHING, PPP, Cursor, Has, Headers, u16

SPARE = 64  # octets from the cursor that are looked at to find a packet in a packet
_MAX_EXTENSIONS = 8  # of GTP-U

_LINK_BITS = Has.DESTINATION_MAC | Has.SOURCE_MAC | Has.ETHERNET_TYPE | Has.VLAN | Has.INNER_VLAN
_INNER_COLUMNS = tuple(
    field.name
    for field in fields(Headers)
    if field.name not in ("valid", "destination_mac", "source_mac", "vlan", "inner_vlan") and "ipv6" not in field.name
)


def _gre(window: U8) -> tuple[I64, I64]:
    """(octets, kind) of GRE headers (RFC 2784, RFC 2890, RFC 2637 §4.1)."""
    flags, kind = u16(window, 0).astype(np.int64), u16(window, 2).astype(np.int64)
    version = flags & 7
    checksum, key, sequence = (flags >> shift & 1 for shift in (15, 13, 12))
    acknowledged = (version == 1) * (flags >> 7 & 1)
    octets = 4 + 4 * (checksum + key + sequence + acknowledged)
    routed = flags >> 14 & 1
    fine = (routed == 0) & ((version == 0) | ((version == 1) & (kind == 0x880B)))
    kind = np.where(kind == 0x880B, PPP, kind)
    # ERSPAN: type I has no header of its own and no sequence number; II has 8 octets, III 12 or 20.
    erspan, newer = kind == 0x88BE, kind == 0x22EB
    index = np.arange(len(window))
    frame_type = window[index, octets + 10] >> 2 & 31
    optional = window[index, octets + 11] & 1
    octets = octets + np.where(erspan & (sequence == 1), 8, 0) + np.where(newer, 12 + 8 * optional, 0)
    kind = np.where(erspan | (newer & (frame_type == 0)) | (kind == BRIDGED), ETHERNET, kind)
    return octets, np.where(fine, np.where(newer & (frame_type == 2), IP, kind), NOTHING)


def _vxlan(window: U8) -> tuple[I64, I64]:
    return np.full(len(window), 16), np.where(window[:, 8] & 8, ETHERNET, NOTHING)


def _vxlan_gpe(window: U8) -> tuple[I64, I64]:
    kinds = np.array([NOTHING, IPV4, IPV6, ETHERNET, NOTHING, MPLS], np.int64)
    kind = np.where(window[:, 8] & 4, kinds[np.where(window[:, 11] < 6, window[:, 11], 0)], ETHERNET)
    return np.full(len(window), 16), np.where(window[:, 8] & 8, kind, NOTHING)


def _geneve(window: U8) -> tuple[I64, I64]:
    octets = 16 + 4 * (window[:, 8].astype(np.int64) & 63)
    kind = u16(window, 10).astype(np.int64)
    kind = np.where(kind == BRIDGED, ETHERNET, kind)
    return octets, np.where(window[:, 8] >> 6 == 0, kind, NOTHING)


def _gtp(window: U8) -> tuple[I64, I64]:
    """GTP-U G-PDUs, with as many extension headers as the window shows (3GPP TS 29.281 §5)."""
    n, flags = len(window), window[:, 8]
    octets = np.where(flags & 7, 20, 16)
    following = np.where(flags & 4, window[:, 19], 0)
    for _ in range(_MAX_EXTENSIONS):
        if not following.any():
            break
        size = window[np.arange(n), np.minimum(octets, window.shape[1] - 1)].astype(np.int64) * 4
        octets = octets + np.where(following, np.maximum(size, 4), 0)
        last = np.minimum(octets - 1, window.shape[1] - 1)
        following = np.where(following, window[np.arange(n), last], 0)
    good = (flags >> 4 == 3) & (window[:, 9] == 255) & (following == 0) & (octets < window.shape[1])
    return octets, np.where(good, IP, NOTHING)


def _fixed(octets: int, kind: int) -> Callable[[U8], tuple[I64, I64]]:
    return lambda window: (np.full(len(window), octets), np.full(len(window), kind))


_Tunnel = Callable[[U8], tuple[I64, I64]]
_IP_TUNNELS: dict[int, _Tunnel] = {
    4: _fixed(0, IPV4),
    41: _fixed(0, IPV6),
    47: _gre,
    97: _fixed(2, ETHERNET),
    137: _fixed(0, MPLS),
}
_UDP_TUNNELS: dict[int, _Tunnel] = {  # by destination port
    2152: _gtp,
    4789: _vxlan,
    4790: _vxlan_gpe,
    6081: _geneve,
    6635: _fixed(8, MPLS),
    8472: _vxlan,
}
_CARRIES = np.zeros(256, bool)
_CARRIES[[*_IP_TUNNELS, 17]] = True
_TUNNEL_PORT = np.zeros(65536, bool)
_TUNNEL_PORT[list(_UDP_TUNNELS)] = True


def enter(cursor: Cursor, out: Headers) -> tuple[I64, Cursor] | None:
    """The rows that carry a packet in their packet, and a cursor for just these."""
    rows = np.flatnonzero(_CARRIES[out.protocol])
    if len(rows):
        maybe = (cursor.kind[rows] == 0) & (out.fragment_offset[rows] == 0)
        to_tunnel = _TUNNEL_PORT[out.destination_port[rows]] & (out.valid[rows] & Has.DESTINATION_PORT != 0)
        rows = rows[maybe & ((out.protocol[rows] != 17) | to_tunnel)]
    if not len(rows):
        return None
    inner = Cursor(cursor.buffer, cursor.at[rows], cursor.end[rows], np.full(len(rows), NOTHING))
    window = inner.windows(slice(None), SPARE)
    protocol, port = out.protocol[rows], out.destination_port[rows]
    for number, read in _IP_TUNNELS.items():
        _step_in(inner, np.flatnonzero(protocol == number), window, read)
    for number, read in _UDP_TUNNELS.items():
        _step_in(inner, np.flatnonzero((protocol == 17) & (port == number)), window, read)
    return rows, inner


def _step_in(inner: Cursor, rows: I64, window: U8, read: _Tunnel) -> None:
    if len(rows):
        octets, kind = read(window[rows])
        inner.move(rows, octets, kind)


def replace(out: Headers, rows: I64, inner: Headers) -> None:
    """Puts the IP header and what follows it of ``inner`` in the place of the outer ones."""
    ends = Has.SOURCE | Has.DESTINATION
    found = np.flatnonzero(inner.valid & ends == ends)
    rows = rows[found]
    inner.ethernet_type[:] = np.where(inner.valid & Has.IPV6, IPV6, IPV4)
    for name in _INNER_COLUMNS:
        getattr(out, name)[rows] = getattr(inner, name)[found]
    if len(inner.source_ipv6):
        out.need_ipv6()
        out.source_ipv6[rows] = inner.source_ipv6[found]
        out.destination_ipv6[rows] = inner.destination_ipv6[found]
    out.valid[rows] = out.valid[rows] & _LINK_BITS | inner.valid[found]
