"""What was metered, against the counters of the interface, of TCP, and the oracle."""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter

from pyflowx.kernel import Statistic

ETHERNET = 14
UNCOUNTED = ("not_ip", "malformed", "own_export")
TCP_INFO_SEGS_OUT, TCP_INFO_BYTES_SENT = 136, 200  # offsets in struct tcp_info
KEY = ("version", "src", "dst", "protocol", "tos", "vlan", "inner_vlan", "src_port", "dst_port", "segment")


def total(drains, name, direction):
    return sum(int(values[name][keys["direction"] == direction].sum()) for keys, values in drains)


def assert_equal(meter, drains, before, after, native=False):
    """Flows and what was counted for another reason are what the interface counted, in both directions.

    Native XDP makes veth count received octets without the Ethernet header.
    """
    for direction, (side, counted) in enumerate((("ingress", "rx"), ("egress", "tx"))):
        statistics = meter.statistics(side)
        packets = total(drains, "packets", direction) + sum(statistics[reason][0] for reason in UNCOUNTED)
        octets = total(drains, "l2_octets", direction) + sum(statistics[reason][1] for reason in UNCOUNTED)
        in_flows = [sum(statistics[reason][i] for reason in ("metered", "map_full")) for i in (0, 1)]
        assert in_flows == [total(drains, name, direction) for name in ("packets", "l2_octets")]
        assert statistics["lost"] == (0, 0)
        packets -= statistics["gso_added"][0]
        octets -= statistics["gso_added"][1]
        header = ETHERNET * packets if native and side == "ingress" else 0
        counters = [b - a for a, b in zip(before[counted], after[counted], strict=True)]
        assert [packets, octets - header] == counters, side


def merged(oracle, frames):
    """What the oracle says of many frames: (key fields) -> [packets, octets, flags], and the reasons of the others."""
    flows, reasons = {}, Counter()
    for frame in frames:
        expected = oracle(frame)
        if isinstance(expected, Statistic):
            reasons[expected.name.lower()] += 1
            continue
        flow = flows.setdefault(tuple(getattr(expected, field) for field in KEY), [0, 0, 0])
        flow[0] += 1
        flow[1] += expected.octets
        flow[2] |= expected.tcp_flags
    return flows, reasons


def as_merged(address, drains):
    found = {}
    for keys, values in drains:
        for key, value in zip(keys, values, strict=True):
            src, dst = (address(key["ip_version"], key[side].tobytes()) for side in ("src", "dst"))
            name = (int(key["ip_version"]), src, dst, *(int(key[field]) for field in KEY[3:]))
            flow = found.setdefault(name, [0, 0, 0])  # it may be there twice
            flow[0] += int(value["packets"])
            flow[1] += int(value["octets"])
            flow[2] |= int(value["tcp_flags"])
    return found


def rows(drain, mask):
    return drain[0][mask], drain[1][mask]


def tcp_info(connection, offset, layout):
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return struct.unpack_from(layout, info, offset)[0]


def settle(meter, *connections):
    """Wait until no acknowledgement is on its way any more: until the segments sent stay the same."""
    drains, before = [meter.drain()], None
    quiet = threading.Event()
    while before != (before := [tcp_info(each, TCP_INFO_SEGS_OUT, "=I") for each in connections]):
        quiet.wait(0.3)  # longer than TCP delays an acknowledgement
        drains.append(meter.drain())
    return drains
