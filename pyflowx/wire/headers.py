"""Sampled packet headers to columns: sFlow's sampled_header, IPFIX's packet sections (elements 313 and 315).

All headers of a batch are dissected in lockstep: each row has a cursor and an end, each step reads one
layer of all rows that have it, through a window of the buffer (one gather a layer, then strided views).
A header may end anywhere: :class:`Has` says for each row which columns hold something; what the others
hold means nothing.

Layers: :mod:`~pyflowx.wire.layers`, :mod:`~pyflowx.wire.internet`, :mod:`~pyflowx.wire.tunnels`. Where tunnels are
entered, the columns from the IP header on are those of the innermost IP header whose addresses are
complete; MAC addresses and VLANs are always the frame's.
"""

from __future__ import annotations

import enum

import numpy as np

from pyflowx.batch import I64, U8, Octets
from pyflowx.wire.internet import ipv4, ipv6, transport
from pyflowx.wire.layers import ETHERNET, IP, IPV4, IPV6, MPLS, NOTHING, PPP, Cursor, Has, Headers, link, select
from pyflowx.wire.tunnels import SPARE, enter, replace

__all__ = ["MAX_TUNNELS", "Has", "HeaderProtocol", "Headers", "dissect"]

MAX_TUNNELS = 4


class HeaderProtocol(enum.IntEnum):
    """What a header begins with, by the numbers of sFlow's header_protocol; IP: either version."""

    IP = -1
    ETHERNET = 1
    PPP = 7
    IPV4 = 11
    IPV6 = 12
    MPLS = 13
    POS = 14


_KINDS: dict[int, int] = {
    HeaderProtocol.IP: IP,
    HeaderProtocol.ETHERNET: ETHERNET,
    HeaderProtocol.PPP: PPP,
    HeaderProtocol.IPV4: IPV4,
    HeaderProtocol.IPV6: IPV6,
    HeaderProtocol.MPLS: MPLS,
    HeaderProtocol.POS: PPP,
}


def _level(cursor: Cursor, out: Headers, frame: Headers | None) -> None:
    """One level: from the link layer to the ports."""
    link(cursor, frame)
    for kind, read in ((IPV4, ipv4), (IPV6, ipv6)):
        mask = cursor.kind == kind
        if mask.any():
            read(cursor, select(mask), out)
    mask = cursor.kind == 0
    if mask.any():
        transport(cursor, select(mask), out)


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
    if isinstance(protocol, np.ndarray) and (protocol == protocol[0]).all():
        protocol = int(protocol[0])
    if isinstance(protocol, np.ndarray):
        kind = np.full(n, NOTHING, np.int64)
        for number, what in _KINDS.items():
            kind[protocol == number] = what
    else:
        kind = np.full(n, _KINDS.get(protocol, NOTHING), np.int64)
    ends = section.starts + section.lengths
    cursor = Cursor(_padded(section), section.starts.copy(), ends, kind)
    _level(cursor, out, out)
    outer, rows, current = cursor, np.arange(n), out
    for _ in range(MAX_TUNNELS if tunnels else 0):
        entered = enter(outer, current)
        if entered is None:
            break
        within, outer = entered
        rows, current = rows[within], Headers.empty(len(within))
        _level(outer, current, None)
        replace(out, rows, current)
    return out
