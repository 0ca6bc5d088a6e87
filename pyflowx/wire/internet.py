"""Layers from IP to the ports: IPv4 with options, IPv6 with extension headers (RFC 8200 §4), TCP, UDP,
UDP-Lite, DCCP, SCTP, ICMP, ICMPv6, IGMP."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyflowx.batch import I64
from pyflowx.wire.layers import NOTHING, Cursor, Has, Headers, bits, look, u16, u32

MAX_EXTENSIONS = 8  # IPv6 extension headers of one packet

_IPV4_BITS = bits(
    (Has.IPV4, 1), (Has.TOS, 2), (Has.LENGTH, 4), (Has.FRAGMENT_ID, 6), (Has.FRAGMENT_OFFSET, 8),
    (Has.TTL, 9), (Has.PROTOCOL, 10), (Has.SOURCE, 16), (Has.DESTINATION, 20),
)  # fmt: skip
_IPV6_BITS = bits(
    (Has.IPV6, 1), (Has.TOS, 2), (Has.FLOW_LABEL, 4), (Has.LENGTH, 6), (Has.TTL, 8), (Has.SOURCE, 24),
    (Has.DESTINATION, 40),
)  # fmt: skip


def ipv4(cursor: Cursor, rows: Any, out: Headers) -> None:
    window = cursor.windows(rows, 20)
    have = cursor.have(rows)
    words = (window[:, 0] & 15).astype(np.int64)
    good = (window[:, 0] >> 4 == 4) & (words >= 5) & (have > 0)
    out.valid[rows] |= np.where(good, look(_IPV4_BITS, have), 0)
    length = u16(window, 2)
    out.tos[rows] = window[:, 1]
    out.length[rows] = length
    out.fragment_id[rows] = u16(window, 4)
    out.fragment_offset[rows] = u16(window, 6) & 0x1FFF
    out.ttl[rows] = window[:, 8]
    out.protocol[rows] = window[:, 9]
    out.source_ipv4[rows] = u32(window, 12)
    out.destination_ipv4[rows] = u32(window, 16)
    # The datagram may end before the frame (padding); a length of 0 is a segment yet to be cut by the adapter.
    whole = good & (have >= 20)
    short = whole & (length > 0) & (length < have)
    if short.any():
        cursor.end[rows] = np.where(short, cursor.at[rows] + length, cursor.end[rows])
    cursor.move(rows, words * 4, np.where(whole, 0, NOTHING))


# --- IPv6 extension headers ---

_EXTENSIONS = np.zeros(256, bool)
_EXTENSIONS[[0, 43, 44, 51, 60, 135, 139, 140]] = True  # hop-by-hop, routing, fragment, AH, destination, mobility, ...


def ipv6(cursor: Cursor, rows: Any, out: Headers) -> None:
    window = cursor.windows(rows, 40)
    have = cursor.have(rows)
    good = (window[:, 0] >> 4 == 6) & (have > 0)
    out.valid[rows] |= np.where(good, look(_IPV6_BITS, have), 0)
    out.need_ipv6()
    first = u32(window, 0)
    payload = u16(window, 4).astype(np.int64)
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
    cursor.move(rows, 40, np.where(whole, 0, NOTHING))
    index = rows if not isinstance(rows, slice) else np.arange(len(good))
    out.valid[index[final]] |= Has.PROTOCOL
    _extensions(cursor, index[whole & ~final], out)


def _extensions(cursor: Cursor, rows: I64, out: Headers) -> None:
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
        out.fragment_offset[rows] = np.where(fragment, u16(window, 2) >> 3, out.fragment_offset[rows])
        out.fragment_id[rows] = np.where(fragment, u32(window, 4), out.fragment_id[rows])
        out.valid[offset] |= Has.FRAGMENT_OFFSET
        out.valid[identified] |= Has.FRAGMENT_ID
        out.protocol[rows] = window[:, 0]
        cursor.move(rows, size, 0)
        # Behind the header of a later fragment stands payload, whatever its Next Header says.
        later = fragment & (have >= 4) & (u16(window, 2) >> 3 > 0)
        known = have >= 1
        final = known & (~_EXTENSIONS[window[:, 0]] | later)
        out.valid[rows[final]] |= Has.PROTOCOL
        rows = rows[~final & (cursor.kind[rows] == 0)]
    cursor.kind[rows] = NOTHING


_PORTS = ((Has.SOURCE_PORT, 2), (Has.DESTINATION_PORT, 4))
_ICMP = ((Has.ICMP_TYPE, 1), (Has.ICMP_CODE, 2))
_TRANSPORTS = ((), (*_PORTS, (Has.TCP_FLAGS, 14)), _PORTS, _ICMP, ((Has.IGMP_TYPE, 1),))
_TRANSPORT_BITS = np.zeros((len(_TRANSPORTS), 15), np.int64)  # class, octets that are there (up to 14) -> bits
for _row, _ends in zip(_TRANSPORT_BITS[1:], _TRANSPORTS[1:], strict=True):
    _table = bits(*_ends)
    _row[:] = _table[np.minimum(np.arange(15), len(_table) - 1)]
_CLASS = np.zeros((2, 256), np.int64)  # is it IPv6, protocol -> class
_CLASS[:, 6] = 1
_CLASS[:, [17, 33, 132, 136]] = 2
_CLASS[0, 1] = _CLASS[1, 58] = 3
_CLASS[0, 2] = 4


def transport(cursor: Cursor, rows: Any, out: Headers) -> None:
    """Ports, flags, types of rows that stand behind their IP header; not those of later fragments."""
    window = cursor.windows(rows, 14)
    valid = out.valid[rows]
    which = _CLASS.take(out.protocol[rows] + ((valid & Has.IPV6) != 0) * np.int64(256))
    which *= out.fragment_offset[rows] == 0
    out.valid[rows] = valid | _TRANSPORT_BITS.take(which * 15 + np.minimum(cursor.have(rows), 14))
    out.source_port[rows] = u16(window, 0)
    out.destination_port[rows] = u16(window, 2)
    out.tcp_flags[rows] = u16(window, 12) & 0xFFF
    out.icmp_type[rows] = window[:, 0]
    out.icmp_code[rows] = window[:, 1]
